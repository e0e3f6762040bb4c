# SPDX-License-Identifier: Apache-2.0
"""Sealing a small secret to the values of PCRs: TPM 2.0 Library Part 3 §11.1, §12.1, §12.2, §12.7, §23.7.

The sealed object lies under the storage root key of the owner hierarchy and has no password: it opens only through a
policy session that shows the registers it was sealed under. The secret crosses to the TPM in clear (no parameter
encryption): a TPM on a bus that somebody can listen to is no place for it, a virtual TPM inside a TEE is.
"""

from __future__ import annotations

import contextlib
import secrets
import struct
from collections.abc import Iterator, Sequence
from typing import Final

from teehouse_core.errors import LocalError
from teehouse_enclave.platform.tpm2 import RH_OWNER, Reader, Tpm, TpmError, selection, sized

__all__ = ["POLICY_FAIL", "SRK_TEMPLATE", "seal", "unseal"]

_RH_NULL: Final = 0x4000_0007
_CREATE: Final = 0x153
_LOAD: Final = 0x157
_UNSEAL: Final = 0x15E
_START_AUTH_SESSION: Final = 0x176
_POLICY_PCR: Final = 0x17F
_POLICY_GET_DIGEST: Final = 0x189
_SE_POLICY: Final = 0x01
_SE_TRIAL: Final = 0x03
_SHA256: Final = 0x000B
_NULL: Final = 0x0010
_NONCE: Final = 16  # bytes of nonceCaller; the smallest that is allowed for SHA-256
MAX_SECRET: Final = 128  # bytes of one sealed object
POLICY_FAIL: Final = 0x99D  # TPM_RC_POLICY_FAIL in session 1: registers have other values than at sealing

SRK_TEMPLATE: Final = struct.pack(
    ">HHIHHHHHHHHH",
    0x0023,  # ECC
    _SHA256,
    0x0003_0472,  # fixedTPM fixedParent sensitiveDataOrigin userWithAuth noDA restricted decrypt
    0,  # no policy
    0x0006,  # AES
    128,
    0x0043,  # CFB
    _NULL,  # no scheme
    0x0003,  # P-256
    _NULL,  # no KDF
    0,
    0,
)
"""TPMT_PUBLIC of the storage root key (TCG EK profile's H-2 template for owners): the same at each start."""
_SEALED_ATTRIBUTES: Final = 0x0000_0492  # fixedTPM fixedParent adminWithPolicy noDA; no userWithAuth: policy only


def seal(tpm: Tpm, secret: bytes, pcrs: Sequence[int]) -> bytes:
    """The sealed form of at most 128 bytes under the *present* values of these SHA-256 registers.

    Form: u8 01 ‖ u8 number of registers ‖ each as u8 ‖ TPM2B_PRIVATE ‖ TPM2B_PUBLIC.
    """
    chosen = sorted(set(pcrs))
    if not chosen or not 0 < len(secret) <= MAX_SECRET:
        raise LocalError("nothing to seal, or to nothing", code="tpm-seal")
    with _session(tpm, _SE_TRIAL) as trial:
        tpm.run("PolicyPCR", _POLICY_PCR, struct.pack(">I", trial) + sized(b"") + selection(chosen))
        digest = Reader(tpm.run("PolicyGetDigest", _POLICY_GET_DIGEST, struct.pack(">I", trial))).sized()
    template = struct.pack(">HHI", 0x0008, _SHA256, _SEALED_ATTRIBUTES) + sized(digest) + struct.pack(">HH", _NULL, 0)
    sensitive = sized(sized(b"") + sized(secret))
    parameters = sensitive + sized(template) + sized(b"") + struct.pack(">I", 0)
    with _parent(tpm) as parent:
        answer = Reader(tpm.run("Create", _CREATE, struct.pack(">I", parent), parameters))
    answer.uint(4)
    private, public = answer.sized(), answer.sized()
    return bytes([1, len(chosen), *chosen]) + sized(private) + sized(public)


def unseal(tpm: Tpm, sealed: bytes) -> bytes:
    """The secret. Raises `TpmError` (`rc` `POLICY_FAIL`: other register values), `LocalError` (`tpm-seal`)."""
    reader = Reader(sealed)
    if reader.uint(1) != 1:
        raise LocalError("a sealed object of another form", code="tpm-seal")
    pcrs = [reader.uint(1) for _ in range(reader.uint(1))]
    private, public = reader.sized(), reader.sized()
    with _parent(tpm) as parent:
        loaded = Reader(tpm.run("Load", _LOAD, struct.pack(">I", parent), sized(private) + sized(public)))
        handle = loaded.uint(4)
    try:
        with _session(tpm, _SE_POLICY) as session:
            tpm.run("PolicyPCR", _POLICY_PCR, struct.pack(">I", session) + sized(b"") + selection(pcrs))
            entry = struct.pack(">IHBH", session, 0, 1, 0)  # no nonce, continueSession (so that we flush it), no HMAC
            auth = struct.pack(">I", len(entry)) + entry
            answer = Reader(tpm.run("Unseal", _UNSEAL, struct.pack(">I", handle), b"", auth=auth))
        answer.uint(4)
        return answer.sized()
    finally:
        tpm.flush(handle)


@contextlib.contextmanager
def _parent(tpm: Tpm) -> Iterator[int]:
    handle, _ = tpm.create_primary(RH_OWNER, SRK_TEMPLATE)
    try:
        yield handle
    finally:
        tpm.flush(handle)


@contextlib.contextmanager
def _session(tpm: Tpm, kind: int) -> Iterator[int]:
    """A policy session, neither salted nor bound: it carries no secret, only what was shown to it."""
    parameters = sized(secrets.token_bytes(_NONCE)) + sized(b"") + struct.pack(">BHH", kind, _NULL, _SHA256)
    answer = Reader(
        tpm.run("StartAuthSession", _START_AUTH_SESSION, struct.pack(">II", _RH_NULL, _RH_NULL) + parameters)
    )
    session = answer.uint(4)
    try:
        yield session
    finally:
        with contextlib.suppress(TpmError):  # a session that failed may be gone already
            tpm.flush(session)
