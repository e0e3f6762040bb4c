# SPDX-License-Identifier: Apache-2.0
"""TPM 2.0 structures of a quote: TPMS_ATTEST, TPMT_SIGNATURE, TPMT_PUBLIC and PCR selections.

Source: TPM 2.0 Library, Part 2 "Structures" (sections named beside each reader), all big-endian. Every byte belongs to
a field; only what a quote over PCRs can carry parses. Nothing here is verified or believed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_der_public_key,
    load_pem_public_key,
)

from teehouse_core.errors import MalformedError
from teehouse_core.evidence.cursor import Cursor
from teehouse_core.evidence.eventlog import BANKS, bank_hash
from teehouse_core.evidence.fields import Field
from teehouse_core.evidence.jsontext import load_object

__all__ = [
    "MAX_QUOTE",
    "WORKLOAD_PCR",
    "PcrSelection",
    "TpmPublic",
    "TpmQuote",
    "TpmSignature",
    "encode_pcrs",
    "fields",
    "load_spki",
    "parse_pcrs",
    "parse_public",
    "parse_quote",
    "parse_signature",
    "pcr_digest",
    "rsa_key",
    "spki_sha256",
    "workload_register",
]

MAX_QUOTE: Final = 1024  # bytes of TPMS_ATTEST; a quote over one bank has 145
MAX_SIGNATURE: Final = 1024  # bytes of TPMT_SIGNATURE; RSA-4096 has 518
MAX_PUBLIC: Final = 2048  # bytes of TPMT_PUBLIC
MAX_PCRS_TEXT: Final = 64 * 1024  # bytes of a PCR list as JSON
MAX_SELECTIONS: Final = 8  # banks in one selection; TPM 2.0 parts have at most 5
PCRS: Final = 24  # registers of a PC Client TPM
WORKLOAD_PCR: Final = 15
"""Where a node's workload log goes: starts at zero, only grows until reset, and neither firmware, shim nor GRUB use it.
(PCR 16 and 23 can be reset by the guest, so what they hold says nothing.)"""

MAGIC: Final = 0xFF544347  # TPM_GENERATED_VALUE, Part 2 §6.2
ST_ATTEST_QUOTE: Final = 0x8018  # Part 2 §6.9

ALG_RSA: Final = 0x0001
ALG_NULL: Final = 0x0010
ALG_RSASSA: Final = 0x0014
ALG_RSAPSS: Final = 0x0016
ALG_ECDSA: Final = 0x0018
ALG_ECC: Final = 0x0023
_SCHEMES: Final = {ALG_RSASSA: "rsassa", ALG_RSAPSS: "rsapss", ALG_ECDSA: "ecdsa"}
_CURVES: Final[dict[int, tuple[type[ec.EllipticCurve], int]]] = {
    0x0003: (ec.SECP256R1, 32),
    0x0004: (ec.SECP384R1, 48),
    0x0005: (ec.SECP521R1, 66),
}

FIXED_TPM: Final = 1 << 1  # TPMA_OBJECT, Part 2 §8.3
FIXED_PARENT: Final = 1 << 4
SENSITIVE_DATA_ORIGIN: Final = 1 << 5
RESTRICTED: Final = 1 << 16
DECRYPT: Final = 1 << 17
SIGN: Final = 1 << 18

PublicKey = rsa.RSAPublicKey | ec.EllipticCurvePublicKey


@dataclass(frozen=True, slots=True)
class PcrSelection:
    """One bank and its selected registers, ascending."""

    bank: str
    pcrs: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class TpmQuote:
    """TPMS_ATTEST of type quote, Part 2 §10.12.8. `raw` is what the AK signed; `clock` is in milliseconds."""

    raw: bytes = field(repr=False)
    qualified_signer: bytes
    extra_data: bytes
    clock: int
    reset_count: int
    restart_count: int
    safe: bool
    firmware_version: int
    selections: tuple[PcrSelection, ...]
    pcr_digest: bytes


@dataclass(frozen=True, slots=True)
class TpmSignature:
    """`scheme` is `rsassa`, `rsapss` or `ecdsa`; RSA has `value`, ECDSA `r` and `s`."""

    scheme: str
    hash: str
    value: bytes = b""
    r: bytes = b""
    s: bytes = b""


@dataclass(frozen=True, slots=True)
class TpmPublic:
    """TPMT_PUBLIC of a signing key, Part 2 §12.2.4. `name` is its TPM name: algorithm ‖ hash."""

    attributes: int
    name: bytes
    auth_policy: bytes
    key: PublicKey


def parse_quote(raw: bytes) -> TpmQuote:
    """Read one TPMS_ATTEST; every byte counts. Raises `MalformedError` (`tpm-quote-…`)."""
    return _quote(raw, None)


def fields(raw: bytes) -> list[Field]:
    """Every field of a TPMS_ATTEST by byte range. Raises as `parse_quote` does."""
    found: list[Field] = []
    _quote(raw, found)
    return found


def parse_signature(raw: bytes) -> TpmSignature:
    """Read one TPMT_SIGNATURE, Part 2 §11.3.4. Raises `MalformedError` (`tpm-signature-…`)."""
    r = Cursor(_bounded(raw, MAX_SIGNATURE, "tpm-signature"), "tpm-signature", "big")
    scheme, bank = _SCHEMES.get(r.uint(2, "scheme")), BANKS.get(r.uint(2, "hash"))
    if scheme is None or bank is None:
        raise MalformedError("the signature's scheme or hash is unknown", code="tpm-signature-scheme")
    if scheme == "ecdsa":
        found = TpmSignature(scheme, bank, r=r.sized(2, "r", 66), s=r.sized(2, "s", 66))
    else:
        found = TpmSignature(scheme, bank, value=r.sized(2, "value", 512))
    r.finish()
    return found


def parse_public(raw: bytes) -> TpmPublic:
    """Read one TPMT_PUBLIC of an RSA or ECC key. Raises `MalformedError` (`tpm-public-…`)."""
    r = Cursor(_bounded(raw, MAX_PUBLIC, "tpm-public"), "tpm-public", "big")
    kind, name_alg = r.uint(2, "type"), r.uint(2, "nameAlg")
    attributes = r.uint(4, "objectAttributes")
    policy = r.sized(2, "authPolicy", 64)
    bank = BANKS.get(name_alg)
    hashed = bank_hash(bank) if bank else None
    if hashed is None or kind not in (ALG_RSA, ALG_ECC):
        raise MalformedError("not an RSA or ECC key with a known name algorithm", code="tpm-public-type")
    if r.uint(2, "symmetric") != ALG_NULL:
        r.take(4, "symmetric.details")  # key bits and mode, of a decryption key
    scheme = r.uint(2, "scheme")
    if scheme != ALG_NULL:
        r.take(2, "scheme.hash")
    key = _rsa_key(r) if kind == ALG_RSA else _ecc_key(r)
    r.finish()
    return TpmPublic(attributes, name_alg.to_bytes(2, "big") + hashed(raw), policy, key)


def parse_pcrs(raw: bytes) -> dict[str, dict[int, bytes]]:
    """Read a PCR list, `{"sha256": {"0": "<hex>", …}}`. Raises `MalformedError`."""
    found: dict[str, dict[int, bytes]] = {}
    for bank, values in load_object(raw, limit=MAX_PCRS_TEXT, what="PCR list").items():
        if bank not in BANKS.values() or not isinstance(values, dict):
            raise MalformedError("the PCR list names an unknown bank", code="tpm-pcrs")
        found[bank] = dict(_pcr(bank, index, value) for index, value in values.items())
    return found


def encode_pcrs(pcrs: Mapping[str, Mapping[int, bytes]]) -> str:
    """The text that `parse_pcrs` reads."""
    banks = (
        f'"{bank}":{{' + ",".join(f'"{index}":"{value.hex()}"' for index, value in sorted(values.items())) + "}"
        for bank, values in sorted(pcrs.items())
    )
    return "{" + ",".join(banks) + "}"


def pcr_digest(
    selections: tuple[PcrSelection, ...], pcrs: Mapping[str, Mapping[int, bytes]], bank: str
) -> bytes | None:
    """The digest a quote must hold: `bank` hash over the selected values in order; None when a value is missing."""
    hashed = bank_hash(bank)
    values = [pcrs.get(one.bank, {}).get(index) for one in selections for index in one.pcrs]
    if hashed is None or any(value is None for value in values):
        return None
    return hashed(b"".join(value for value in values if value is not None))


def workload_register(digests: Iterable[bytes]) -> bytes:
    """What SHA-256 PCR 15 holds after TPM2_PCR_Event over each 48-byte log digest, from zeros (Part 3 §22.4)."""
    register = bytes(32)
    for digest in digests:
        register = hashlib.sha256(register + hashlib.sha256(digest).digest()).digest()
    return register


def spki_sha256(key: PublicKey) -> str:
    """Hex SHA-256 of the key's SubjectPublicKeyInfo: how policies name an attestation key."""
    return hashlib.sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).hexdigest()


def load_spki(raw: bytes) -> PublicKey:
    """A public key in PEM or DER. Raises `MalformedError` (`tpm-public-key`) for anything but RSA and EC."""
    try:
        key = load_pem_public_key(raw) if raw.startswith(b"-----") else load_der_public_key(raw)
    except (ValueError, UnsupportedAlgorithm):
        raise MalformedError("not a public key", code="tpm-public-key") from None
    if not isinstance(key, rsa.RSAPublicKey | ec.EllipticCurvePublicKey):
        raise MalformedError("neither an RSA nor an EC key", code="tpm-public-key")
    return key


def _quote(raw: bytes, found: list[Field] | None) -> TpmQuote:
    r = Cursor(_bounded(raw, MAX_QUOTE, "tpm-quote"), "tpm-quote", "big", fields=found)
    if r.uint(4, "magic") != MAGIC:
        raise MalformedError("not made by a TPM: another magic number", code="tpm-quote-magic")
    if r.uint(2, "type") != ST_ATTEST_QUOTE:
        raise MalformedError("an attestation of another type than quote", code="tpm-quote-type")
    signer, extra = r.sized(2, "qualifiedSigner", 66), r.sized(2, "extraData", 64)
    clock, resets, restarts = (
        r.uint(8, "clockInfo.clock"),
        r.uint(4, "clockInfo.resetCount"),
        r.uint(4, "clockInfo.restartCount"),
    )
    safe = r.uint(1, "clockInfo.safe", 1) == 1
    firmware = r.uint(8, "firmwareVersion")
    selections = tuple(_selection(r, number) for number in range(r.uint(4, "pcrSelect.count", MAX_SELECTIONS)))
    if len({one.bank for one in selections}) != len(selections):
        raise MalformedError("a bank is selected twice", code="tpm-quote-selection")
    digest = r.sized(2, "pcrDigest", 64)
    r.finish()
    return TpmQuote(raw, signer, extra, clock, resets, restarts, safe, firmware, selections, digest)


def _selection(r: Cursor, number: int) -> PcrSelection:
    """TPMS_PCR_SELECTION, Part 2 §10.6.2."""
    path = f"pcrSelect[{number}]"
    bank = BANKS.get(r.uint(2, f"{path}.hash"))
    bits = r.take(r.uint(1, f"{path}.sizeofSelect", 4), f"{path}.pcrs")
    if bank is None:
        raise MalformedError("an unknown bank is selected", code="tpm-quote-selection")
    pcrs = tuple(i for i in range(8 * len(bits)) if bits[i // 8] >> i % 8 & 1)
    if any(index >= PCRS for index in pcrs):
        raise MalformedError(f"registers above {PCRS - 1} are selected", code="tpm-quote-selection")
    return PcrSelection(bank, pcrs)


def _rsa_key(r: Cursor) -> rsa.RSAPublicKey:
    bits, exponent = r.uint(2, "keyBits"), r.uint(4, "exponent") or 65537  # 0 means 2^16 + 1, Part 2 §12.2.3.5
    modulus = r.sized(2, "unique", 512)
    if len(modulus) * 8 != bits or bits < 2048:
        raise MalformedError("the RSA key has another size than it says, or under 2048 bits", code="tpm-public-key")
    return rsa_key(modulus, exponent)


def rsa_key(modulus: bytes, exponent: int) -> rsa.RSAPublicKey:
    """An RSA key from its numbers. Raises `MalformedError` (`tpm-public-key`)."""
    try:
        return rsa.RSAPublicNumbers(exponent, int.from_bytes(modulus, "big")).public_key()
    except (ValueError, UnsupportedAlgorithm):
        raise MalformedError("the RSA key's numbers are impossible", code="tpm-public-key") from None


def _ecc_key(r: Cursor) -> ec.EllipticCurvePublicKey:
    curve, size = _CURVES.get(r.uint(2, "curveID"), (None, 0))
    if r.uint(2, "kdf") != ALG_NULL:
        r.take(2, "kdf.hash")
    x, y = r.sized(2, "unique.x", 66), r.sized(2, "unique.y", 66)
    if curve is None or len(x) > size or len(y) > size:
        raise MalformedError("the ECC key is of an unknown curve or too long", code="tpm-public-key")
    try:
        return ec.EllipticCurvePublicNumbers(int.from_bytes(x, "big"), int.from_bytes(y, "big"), curve()).public_key()
    except (ValueError, UnsupportedAlgorithm):
        raise MalformedError("the ECC key is no point of its curve", code="tpm-public-key") from None


def _pcr(bank: str, index: str, value: Any) -> tuple[int, bytes]:
    hashed = bank_hash(bank)
    size = len(hashed(b"")) if hashed is not None else 0
    plain = index.isascii() and index.isdigit() and len(index) <= 2 and str(int(index)) == index
    if not plain or int(index) >= PCRS or not isinstance(value, str) or len(value) != 2 * size:
        raise MalformedError("the PCR list has a wrong index or length", code="tpm-pcrs")
    if value.strip("0123456789abcdef"):
        raise MalformedError("a PCR value is not lower-case hex", code="tpm-pcrs")
    return int(index), bytes.fromhex(value)


def _bounded(raw: bytes, limit: int, what: str) -> bytes:
    if len(raw) > limit:
        raise MalformedError(f"{what} is larger than {limit} bytes", code=f"{what}-too-large")
    return raw
