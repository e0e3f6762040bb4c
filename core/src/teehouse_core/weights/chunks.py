# SPDX-License-Identifier: Apache-2.0
"""The cipher of one part (spec/08 §4): AES-256-GCM over chunks, under a key that only this part has.

The key binds the encryption's id, the file's number, name and size, the part's number, how files are cut, and a salt
that is drawn anew whenever a part is begun again. The nonce is the chunk's number and what follows it, so a chunk opens
in its one place and in no other. Chunks are independent: threads may seal and open them in any order.
"""

from __future__ import annotations

import hmac
import struct

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from teehouse_core.errors import LocalError
from teehouse_core.seal.suite import kdf
from teehouse_core.weights.errors import WeightsError
from teehouse_core.weights.plan import SALT_SIZE, TAG_SIZE, Part, PartHeader

__all__ = ["DATA_KEY_SIZE", "PartCipher", "check_key", "key_commit"]

DATA_KEY_SIZE = 32  # bytes
_NONCE = struct.Struct(">7xIB")


def key_commit(data_key: bytes, ident: bytes) -> bytes:
    """KDF(data key, id, "weights key", 32): tells a wrong data key from damaged parts, and nothing about the key."""
    if len(data_key) != DATA_KEY_SIZE:
        raise LocalError("a data key has 32 bytes", code="data-key-length")
    return kdf(data_key, ident, "weights key", 32)


def check_key(data_key: bytes, ident: bytes, commit: bytes) -> None:
    """Refuse a data key that is not the manifest's. Raises WeightsError `wrong-data-key`."""
    if not hmac.compare_digest(key_commit(data_key, ident), commit):
        raise WeightsError(
            "this is not the data key of these weights", code="wrong-data-key", hint="the manifest names the right one"
        )


class PartCipher:
    """Seals and opens the chunks of one part. May be used by several threads at once."""

    def __init__(self, data_key: bytes, part: Part, salt: bytes) -> None:
        if len(data_key) != DATA_KEY_SIZE or len(salt) != SALT_SIZE:
            raise LocalError("a data key has 32 bytes, and so has a salt", code="data-key-length")
        self.part = part
        self.header = PartHeader(part.cut.id, part.file, part.number, salt).encode()
        cut = part.cut
        context = self.header + struct.pack(">IIQ", cut.chunk_size, cut.part_chunks, part.file_size)
        self._aead = AESGCM(kdf(data_key, context + part.name.encode("ascii"), "weights part", 32))

    @classmethod
    def open(cls, data_key: bytes, part: Part, header: bytes) -> PartCipher:
        """The cipher for an object that begins with `header`. Raises WeightsError when it is another part's."""
        return cls(data_key, part, PartHeader.parse(header, part).salt)

    def sealed_length(self, first: int, count: int) -> int:
        """Bytes of `count` sealed chunks from chunk `first` on."""
        return self.plain_length(first, count) + count * TAG_SIZE

    def plain_length(self, first: int, count: int) -> int:
        """Plaintext bytes of `count` chunks from chunk `first` on."""
        size = self.part.cut.chunk_size
        return min(self.part.size, (first + count) * size) - min(self.part.size, first * size)

    def seal_into(self, first: int, count: int, plain: memoryview, out: memoryview) -> None:
        """Seal `count` chunks from `first` on; both buffers have exactly their length."""
        read = write = 0
        for chunk in range(first, first + count):
            size = self.part.chunk_size(chunk)
            self._aead.encrypt_into(
                _NONCE.pack(chunk, self.part.flag(chunk)),
                plain[read : read + size],
                None,
                out[write : write + size + TAG_SIZE],
            )
            read += size
            write += size + TAG_SIZE

    def open_into(self, first: int, count: int, sealed: memoryview, out: memoryview) -> None:
        """Open `count` chunks from `first` on; both buffers have exactly their length.

        Raises WeightsError `chunk-refused`; what then stands in `out` is not to be used.
        """
        read = write = 0
        for chunk in range(first, first + count):
            size = self.part.chunk_size(chunk)
            try:
                self._aead.decrypt_into(
                    _NONCE.pack(chunk, self.part.flag(chunk)),
                    sealed[read : read + size + TAG_SIZE],
                    None,
                    out[write : write + size],
                )
            except InvalidTag:
                number = self.part.first_chunk + chunk
                raise WeightsError(
                    f"chunk {number} of {self.part.name} does not authenticate (in {self.part.object})",
                    code="chunk-refused",
                    hint="it was changed, moved or damaged; fetch this part again",
                    file=self.part.name,
                    part=self.part.object,
                    chunk=number,
                ) from None
            read += size + TAG_SIZE
            write += size
