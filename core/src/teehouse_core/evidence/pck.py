# SPDX-License-Identifier: Apache-2.0
"""Read the SGX extension of a PCK certificate: which machine, at which patch level.

Source: Intel SGX PCK Certificate and CRL Profile Specification, section 1.3.5. The extension is
`SEQUENCE OF SEQUENCE { OID, value }` under 1.2.840.113741.1.13.1. Believe it only after the chain check passed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from teehouse_core.errors import MalformedError
from teehouse_core.evidence import der

__all__ = ["SGX_EXTENSION_OID", "SgxExtension", "parse_sgx_extension"]

SGX_EXTENSION_OID: Final = "1.2.840.113741.1.13.1"
TCB_COMPONENTS: Final = 16
MAX_EXTENSION: Final = 4096  # bytes; genuine ones are 554 or less


@dataclass(frozen=True, slots=True)
class SgxExtension:
    """`ppid` 16 bytes (names the machine), `fmspc` 6, `pce_id` 2, `cpu_svn` 16, `components` 16 small numbers.

    Certificates of the Platform CA also have `platform_instance_id` (16 bytes, the machine as assembled, of several
    packages) and `configuration`: `dynamic_platform`, `cached_keys`, `smt_enabled`, each where it is said.
    """

    ppid: bytes
    components: tuple[int, ...]
    pce_svn: int
    cpu_svn: bytes
    pce_id: bytes
    fmspc: bytes
    platform_instance_id: bytes | None = None
    configuration: tuple[tuple[str, bool], ...] = ()


def parse_sgx_extension(data: bytes) -> SgxExtension:
    """Parse the DER content of the extension. Raises `MalformedError` (`der`, `sgx-extension`)."""
    if len(data) > MAX_EXTENSION:
        raise MalformedError("SGX extension is too large", code="sgx-extension")
    outer = der.children(data)
    if len(outer) != 1 or outer[0][0] != der.SEQUENCE:
        raise MalformedError("SGX extension is not one sequence", code="sgx-extension")
    fields = _fields(outer[0][1], SGX_EXTENSION_OID)
    tcb = _fields(_value(fields, 2, der.SEQUENCE), f"{SGX_EXTENSION_OID}.2")
    components = tuple(_number(_value(tcb, n, der.INTEGER)) for n in range(1, TCB_COMPONENTS + 1))
    return SgxExtension(
        ppid=_sized(_value(fields, 1, der.OCTET_STRING), 16),
        components=components,
        pce_svn=_number(_value(tcb, 17, der.INTEGER)),
        cpu_svn=_sized(_value(tcb, 18, der.OCTET_STRING), 16),
        pce_id=_sized(_value(fields, 3, der.OCTET_STRING), 2),
        fmspc=_sized(_value(fields, 4, der.OCTET_STRING), 6),
        platform_instance_id=_sized(_value(fields, 6, der.OCTET_STRING), 16) if 6 in fields else None,
        configuration=_configuration(_value(fields, 7, der.SEQUENCE)) if 7 in fields else (),
    )


def _configuration(content: bytes) -> tuple[tuple[str, bool], ...]:
    members = _fields(content, f"{SGX_EXTENSION_OID}.7")
    found = []
    for number, name in enumerate(("dynamic_platform", "cached_keys", "smt_enabled"), start=1):
        if number in members:
            flag = _sized(_value(members, number, der.BOOLEAN), 1)
            found.append((name, flag != b"\0"))
    return tuple(found)


def _fields(content: bytes, prefix: str) -> dict[int, tuple[int, bytes]]:
    found: dict[int, tuple[int, bytes]] = {}
    for tag, item in der.children(content):
        pair = der.children(item) if tag == der.SEQUENCE else ()
        if len(pair) != 2 or pair[0][0] != der.OID:
            raise MalformedError("SGX extension member is not (OID, value)", code="sgx-extension")
        head, _, last = der.oid_text(pair[0][1]).rpartition(".")
        if head != prefix or int(last) in found:
            raise MalformedError("unknown or repeated SGX extension member", code="sgx-extension")
        found[int(last)] = pair[1]
    return found


def _value(fields: dict[int, tuple[int, bytes]], number: int, tag: int) -> bytes:
    kind, content = fields.get(number, (None, b""))
    if kind != tag:
        raise MalformedError(f"SGX extension member {number} is missing or of another type", code="sgx-extension")
    return content


def _sized(content: bytes, size: int) -> bytes:
    if len(content) != size:
        raise MalformedError(f"SGX extension member has {len(content)} bytes, not {size}", code="sgx-extension")
    return content


def _number(content: bytes) -> int:
    if not 1 <= len(content) <= 3 or content[0] & 0x80:
        raise MalformedError("SGX extension number is out of range", code="sgx-extension")
    return int.from_bytes(content, "big")
