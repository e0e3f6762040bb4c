# SPDX-License-Identifier: Apache-2.0
"""Ed25519 signatures of notes and witness cosignatures (C2SP signed-note, tlog-cosignature `cosignature/v1`).

The only module of `teehouse_core.log` with a cipher package: the store of a log must not import it.
"""

from __future__ import annotations

import struct

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from teehouse_core.errors import LocalError
from teehouse_core.log.errors import LogSignatureError
from teehouse_core.log.merkle import MAX_SIZE
from teehouse_core.log.note import COSIGNATURE_V1, ED25519, Note, Signature, VerifierKey
from teehouse_core.log.witness import NewestStatement

__all__ = [
    "cosign",
    "cosigner_key",
    "log_key",
    "sign_note",
    "sign_statement",
    "verify_detached",
    "verify_signature",
    "verify_statement",
]

_TIME_SIZE = 8  # bytes before the signature in a cosignature
MAX_TIME = MAX_SIZE  # Unix seconds; C2SP: not above 2^63 − 1


def log_key(name: str, public: Ed25519PublicKey) -> VerifierKey:
    """The verifier key of a log, or of anybody who signs notes plainly."""
    return VerifierKey(name, ED25519, public.public_bytes_raw())


def cosigner_key(name: str, public: Ed25519PublicKey) -> VerifierKey:
    """The verifier key of a witness."""
    return VerifierKey(name, COSIGNATURE_V1, public.public_bytes_raw())


def sign_note(text: str, name: str, key: Ed25519PrivateKey) -> Signature:
    """Sign a note's text (with its last newline)."""
    if not text.endswith("\n"):
        raise LocalError("a note's text ends with a newline", code="note-form")
    return Signature(name, log_key(name, key.public_key()).key_id, key.sign(text.encode("utf-8")))


def _cosigned(text: str, time: int) -> bytes:
    return f"cosignature/v1\ntime {time}\n{text}".encode()


def cosign(text: str, name: str, key: Ed25519PrivateKey, time: int) -> Signature:
    """A witness's statement that at `time` (Unix seconds) this checkpoint was the newest it had seen of its origin."""
    if not text.endswith("\n") or not 0 <= time <= MAX_TIME:
        raise LocalError("a checkpoint's text ends with a newline, and time is not negative", code="note-form")
    signature = struct.pack(">Q", time) + key.sign(_cosigned(text, time))
    return Signature(name, cosigner_key(name, key.public_key()).key_id, signature)


def verify_signature(note: Note, key: VerifierKey) -> int | None:
    """Verify every signature of `note` that claims to be by `key`; there must be one.

    Gives the earliest time of a cosignature, or None for a plain signature. Raises LogSignatureError: `log-unsigned`
    when there is none, `log-signature` when one does not verify.
    """
    claimed = note.by(key)
    if not claimed:
        raise LogSignatureError(f"not signed by {key.name}", code="log-unsigned")
    times = [verify_detached(note.text, item, key) for item in claimed]
    return min((time for time in times if time is not None), default=None)


def verify_detached(text: str, signature: Signature, key: VerifierKey) -> int | None:
    """Verify one signature line over `text`; time as in `verify_signature`. Raises LogSignatureError."""
    if (signature.name, signature.key_id) != (key.name, key.key_id):
        raise LogSignatureError(f"not a signature by {key.name}", code="log-unsigned")
    data, time = signature.data, None
    signed = text.encode("utf-8")
    if key.alg == COSIGNATURE_V1:
        if len(data) <= _TIME_SIZE:
            raise LogSignatureError(f"the cosignature of {key.name} is cut")
        (time,) = struct.unpack_from(">Q", data)
        if time > MAX_TIME:
            raise LogSignatureError(f"the cosignature of {key.name} has an impossible time")
        data, signed = data[_TIME_SIZE:], _cosigned(text, time)
    try:
        Ed25519PublicKey.from_public_bytes(key.key).verify(data, signed)
    except (InvalidSignature, ValueError):
        raise LogSignatureError(f"the signature of {key.name} does not verify") from None
    return time


def sign_statement(statement: NewestStatement, key: Ed25519PrivateKey) -> bytes:
    """A witness's signature of the newest checkpoint it knows; with its cosigning key, under a label of its own."""
    return key.sign(statement.signed())


def verify_statement(data: bytes, signature: bytes, key: VerifierKey, *, origin: str, nonce: bytes) -> NewestStatement:
    """A witness's statement for this origin over this nonce. Raises MalformedError or LogSignatureError."""
    statement = NewestStatement.parse(data)
    try:
        Ed25519PublicKey.from_public_bytes(key.key).verify(signature, statement.signed())
    except (InvalidSignature, ValueError):
        raise LogSignatureError(f"the statement of {key.name} does not verify") from None
    if statement.origin != origin or statement.nonce != nonce:
        raise LogSignatureError(f"the statement of {key.name} answers another question", code="statement-stale")
    return statement
