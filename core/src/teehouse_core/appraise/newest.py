# SPDX-License-Identifier: Apache-2.0
"""No older than what this client has already seen: numbers of vendors' collateral that only rise (EVIDENCE §1).

Whoever sends evidence chooses its collateral among all that is still valid, so it can leave out a revocation or a TCB
recovery that the vendor published since. Vendors number what they issue; lists of one number, as all of Intel's have
it, are told apart by their time. A caller that keeps the newest that it saw (`Newest`) has older ones refused here.
Appraisal keeps nothing: it is told, and it tells what it saw.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from cryptography import x509

__all__ = ["GRACE", "MAX_NUMBER", "Newest", "Seen", "crl_series", "number_of", "older", "raise_to", "see"]

GRACE: Final = 7 * 86400  # seconds after the newer one was issued in which an older one still counts: nodes of a fleet
# fetch at different times, and a refusal of the slower half would teach people to switch this off
MAX_NUMBER: Final = 1 << 160  # RFC 5280 §5.2.3: a CRL number has at most 20 octets


@dataclass(frozen=True, slots=True)
class Seen:
    """A number of one series, and when the vendor issued what carries it (Unix seconds)."""

    number: int
    issued: int


Newest = Mapping[str, Seen]
"""By series: `crl:<issuer>`, `tcb-info:<TEE>:<FMSPC>`, `qe-identity:<id>`."""


def crl_series(issuer_key: bytes) -> str:
    """The series of an issuer's lists; `issuer_key` is its SubjectPublicKeyInfo, since names can be anybody's."""
    return f"crl:{hashlib.sha256(issuer_key).hexdigest()[:32]}"


def number_of(crl: x509.CertificateRevocationList) -> int | None:
    """The list's number; None when it has none."""
    try:
        number = crl.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number
    except x509.ExtensionNotFound:
        return None
    return number if 0 <= number < MAX_NUMBER else None


def older(series: str, one: Seen, other: Seen) -> bool:
    """Whether `one` was issued before `other` of the same series."""
    if series.startswith("crl:"):
        return (one.number, one.issued) < (other.number, other.issued)
    return one.number < other.number  # the same recovery is issued again each day


def see(found: dict[str, Seen], series: str, number: int | None, issued: int) -> None:
    """Note what a check found; call only where the signature over it has held."""
    if number is not None:
        found[series] = Seen(number, issued)


def raise_to(known: Newest, seen: Newest) -> dict[str, Seen]:
    """The newer one of each series."""
    found = dict(known)
    for series, one in seen.items():
        if series not in found or older(series, found[series], one):
            found[series] = one
    return found
