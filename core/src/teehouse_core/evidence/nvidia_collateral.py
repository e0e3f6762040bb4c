# SPDX-License-Identifier: Apache-2.0
"""NVIDIA collateral as stapled into a bundle: manifests, OCSP responses and CRLs, chosen by whoever sent them.

Nothing here is believed before `appraise` checked its signatures. The manifests are kept as the exact bytes that were
signed; reading them is `evidence.rim`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from teehouse_core.errors import MalformedError
from teehouse_core.evidence.jsontext import b64_text, unb64_text
from teehouse_core.evidence.rim import MAX_RIM

__all__ = ["MAX_CRLS", "MAX_OCSP", "MAX_RIMS", "NvidiaCollateral"]

MAX_RIMS: Final = 16  # a driver, a VBIOS and a switch manifest serve a whole machine of one kind
MAX_OCSP: Final = 128  # one per device certificate and a few for the shared ones
MAX_CRLS: Final = 4  # the chip CAs and the root
MAX_RESPONSE: Final = 16 * 1024  # bytes of one OCSP response; genuine ones are under 2 KiB
MAX_CRL: Final = 256 * 1024  # bytes; NVIDIA lists chips and provisioners here, not devices

_LISTS: Final = {"rims": (MAX_RIMS, MAX_RIM), "ocsp": (MAX_OCSP, MAX_RESPONSE), "crl": (MAX_CRLS, MAX_CRL)}


@dataclass(frozen=True, slots=True)
class NvidiaCollateral:
    """`rims` are XML documents, `ocsp` DER responses, `crl` DER lists, each as received."""

    rims: tuple[bytes, ...] = field(default=(), repr=False)
    ocsp: tuple[bytes, ...] = field(default=(), repr=False)
    crl: tuple[bytes, ...] = field(default=(), repr=False)

    @classmethod
    def parse(cls, value: Mapping[str, Any]) -> NvidiaCollateral:
        """Read `{rims?, ocsp?, crl?}`, lists of base64. Raises `MalformedError` (`collateral` and base64 codes)."""
        if not set(value) <= set(_LISTS):
            raise MalformedError("NVIDIA collateral has unknown members", code="collateral")
        found: dict[str, tuple[bytes, ...]] = {}
        for name, items in value.items():
            count, size = _LISTS[name]
            if not isinstance(items, list) or len(items) > count or not all(isinstance(i, str) for i in items):
                raise MalformedError(f"collateral {name} is not a list of at most {count} texts", code="collateral")
            found[name] = tuple(unb64_text(item, limit=size, what=name) for item in items)
        return cls(**found)

    def to_dict(self) -> dict[str, list[str]]:
        """The JSON shape; empty lists are left out."""
        return {name: [b64_text(item) for item in getattr(self, name)] for name in _LISTS if getattr(self, name)}
