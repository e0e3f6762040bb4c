# SPDX-License-Identifier: Apache-2.0
"""Sealing and opening records: AES-256-GCM, nonce = n XOR counter, the five prefix bytes as AAD (PROTOCOL §3.4)."""

from __future__ import annotations

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from teehouse_core.errors import LocalError, MalformedError
from teehouse_core.wire.records import MAX_PLAINTEXT, TAG, Record, record_prefix

__all__ = ["RecordOpener", "RecordSealer"]

MAX_RECORDS = 1 << 32  # a counter that would wrap would repeat a nonce


class _Counter:
    __slots__ = ("_aead", "_base", "_next")

    def __init__(self, key: bytes, nonce: bytes) -> None:
        self._aead = AESGCM(key)  # made once: a new object per record costs as much as the cipher
        self._base = int.from_bytes(nonce, "big")
        self._next = 0

    def _nonce(self) -> bytes:
        if self._next >= MAX_RECORDS:
            raise LocalError("no record number is left", code="counter-exhausted")
        nonce = (self._base ^ self._next).to_bytes(12, "big")
        self._next += 1
        return nonce


class RecordSealer(_Counter):
    """Seals records in order under one key; after the final one it seals nothing more."""

    __slots__ = ("_ended",)

    def __init__(self, key: bytes, nonce: bytes) -> None:
        super().__init__(key, nonce)
        self._ended = False

    def seal(self, plaintext: bytes | memoryview, *, final: bool = False) -> bytes:
        """Prefix and ciphertext of the next record; plaintext has 1…65536 bytes. Raises LocalError."""
        if self._ended:
            raise LocalError("the final record was sealed already", code="already-final")
        if not 1 <= len(plaintext) <= MAX_PLAINTEXT:
            raise LocalError("a record holds 1 to 65536 bytes", code="record-length")
        self._ended = final
        aad = record_prefix(final, len(plaintext) + TAG)
        return aad + self._aead.encrypt(self._nonce(), plaintext, aad)


class RecordOpener(_Counter):
    """Opens records in order under one key."""

    __slots__ = ()

    def open(self, record: Record) -> bytes:
        """Plaintext of the next record. Raises MalformedError when it was changed, moved, repeated or left out."""
        try:
            return self._aead.decrypt(self._nonce(), record.ciphertext, record.aad)
        except InvalidTag:
            raise MalformedError("record does not authenticate", code="record-tag") from None
