# SPDX-License-Identifier: Apache-2.0
"""AMD collateral as stapled into a bundle: the leaf certificate, its chain, the root's revocation list.

Chosen by whoever sent it; nothing here is believed before `appraise.amdchain` checked its signatures.
"""

from __future__ import annotations

import binascii
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from teehouse_core.errors import MalformedError
from teehouse_core.evidence.jsontext import b64_text, unb64_text

__all__ = ["AmdCollateral", "certificates_of"]

MAX_CERTIFICATE: Final = 8192  # bytes of one DER certificate
MAX_CHAIN: Final = 32 * 1024  # characters of PEM; two certificates are under 5 KiB
MAX_CRL: Final = 1024 * 1024  # bytes; AMD's are under 1 KiB today
MAX_CERTIFICATES: Final = 4  # leaf, intermediate, root; one to spare

_PEM: Final = re.compile(
    rb"-----BEGIN CERTIFICATE-----\r?\n([A-Za-z0-9+/=\r\n]{1,12288})-----END CERTIFICATE-----\r?\n?"
)


@dataclass(frozen=True, slots=True)
class AmdCollateral:
    """All DER. `vcek`: the VCEK or VLEK. `chain`: intermediate, then root; empty means those we ship."""

    vcek: bytes = field(repr=False)
    chain: tuple[bytes, ...] = field(default=(), repr=False)
    crl: bytes | None = field(default=None, repr=False)

    @classmethod
    def parse(cls, value: Mapping[str, Any]) -> AmdCollateral:
        """Read `{"vcek": b64 DER, "chain": PEM, "crl": b64 DER}`, the last two optional.

        Raises `MalformedError` (`collateral`, `base64`, `too-large`).
        """
        if not {"vcek"} <= set(value) <= {"vcek", "chain", "crl"}:
            raise MalformedError("AMD collateral has missing or unknown members", code="collateral")
        if not all(isinstance(item, str) for item in value.values()):
            raise MalformedError("AMD collateral is not texts", code="collateral")
        chain = value.get("chain", "")
        if len(chain) > MAX_CHAIN or not chain.isascii():
            raise MalformedError("AMD chain is not a short PEM text", code="collateral")
        return cls(
            vcek=unb64_text(value["vcek"], limit=MAX_CERTIFICATE, what="vcek"),
            chain=certificates_of(chain.encode("ascii")) if chain else (),
            crl=unb64_text(value["crl"], limit=MAX_CRL, what="crl") if "crl" in value else None,
        )

    def to_dict(self) -> dict[str, str]:
        """The JSON shape; the inverse of `parse`."""
        found = {"vcek": b64_text(self.vcek)}
        if self.chain:
            found["chain"] = "".join(_pem(der) for der in self.chain)
        if self.crl is not None:
            found["crl"] = b64_text(self.crl)
        return found


def certificates_of(data: bytes) -> tuple[bytes, ...]:
    """The DER certificates in `data`: one as DER, or up to four as PEM with nothing between them.

    Raises `MalformedError` (`collateral`). The certificates themselves are not parsed.
    """
    if data[:1] == b"\x30":
        return (data,)
    text = data.strip() + b"\n"
    found: list[bytes] = []
    at = 0
    while at < len(text) and len(found) < MAX_CERTIFICATES:
        match = _PEM.match(text, at)
        if match is None:
            break
        try:
            found.append(binascii.a2b_base64(match[1].replace(b"\r", b"").replace(b"\n", b""), strict_mode=True))
        except ValueError:
            raise MalformedError("a PEM certificate is not base64", code="collateral") from None
        at = match.end()
    if not found or at < len(text):
        raise MalformedError("AMD certificates are neither DER nor PEM", code="collateral")
    return tuple(found)


def _pem(der: bytes) -> str:
    text = b64_text(der)
    lines = "\n".join(text[i : i + 64] for i in range(0, len(text), 64))
    return f"-----BEGIN CERTIFICATE-----\n{lines}\n-----END CERTIFICATE-----\n"
