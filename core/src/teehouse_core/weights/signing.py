# SPDX-License-Identifier: Apache-2.0
"""The signed manifest (spec/08 §5): one document, so that manifest and signature cannot part."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from teehouse_core.errors import RefusedError
from teehouse_core.weights.errors import WeightsError
from teehouse_core.weights.manifest import MAX_MANIFEST, VERSION, Manifest
from teehouse_core.wire.canonical import b64u, encode, parse
from teehouse_core.wire.fields import Fields
from teehouse_core.wire.labels import L

__all__ = ["MANIFEST_NAME", "MAX_SIGNED", "PK_SIZE", "parse_signed", "sign_manifest", "verify_manifest"]

MANIFEST_NAME: Final = "weights.json"
MAX_SIGNED: Final = MAX_MANIFEST * 4 // 3 + 1024  # bytes
PK_SIZE: Final = 32  # bytes, Ed25519
_SIG_SIZE: Final = 64  # bytes
_LABEL: Final = "weights manifest"


def sign_manifest(manifest: Manifest, key: Ed25519PrivateKey) -> bytes:
    """The content of `weights.json`."""
    return encode(
        {
            "v": VERSION,
            "manifest": b64u(manifest.raw),
            "pk": b64u(key.public_key().public_bytes_raw()),
            "sig": b64u(key.sign(L(_LABEL) + manifest.raw)),
        }
    )


def parse_signed(data: bytes) -> tuple[Manifest, bytes]:
    """The manifest and the key that signed it, which anybody may have made: see `verify_manifest`.

    Raises WeightsError `manifest-signature` when the signature is not that key's, MalformedError otherwise.
    """
    top = Fields(parse(data, limit=MAX_SIGNED), "weights")
    top.one_of("v", VERSION)
    raw, pk, sig = top.octets("manifest"), top.octets("pk", PK_SIZE), top.octets("sig", _SIG_SIZE)
    top.done()
    try:
        Ed25519PublicKey.from_public_bytes(pk).verify(sig, L(_LABEL) + raw)
    except (InvalidSignature, ValueError):
        raise WeightsError("the manifest's signature is wrong", code="manifest-signature") from None
    return Manifest.parse(raw), pk


def verify_manifest(data: bytes, publishers: Collection[bytes]) -> Manifest:
    """The manifest, if one of `publishers` (Ed25519 public keys, 32 bytes) signed it.

    Raises RefusedError `publisher-unknown` for a stranger's signature, MalformedError otherwise.
    """
    manifest, pk = parse_signed(data)
    if pk not in publishers:
        raise RefusedError(
            f"these weights were signed by {b64u(pk)}, who is no publisher you named",
            code="publisher-unknown",
            hint="name the publisher's key if you trust it",
        )
    return manifest
