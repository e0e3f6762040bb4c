# SPDX-License-Identifier: Apache-2.0
"""Pictures in a request: `data:` URIs only, of known formats, of bounded size, before any decoder sees them.

An `http` address is refused: fetching it would be egress, and would tell a stranger that the prompt exists. The
decoders behind this are C code that allocates what a header claims, so the claimed size is read here first. What is
not checked: that the picture decodes; the engine says so.
"""

from __future__ import annotations

import base64
import binascii
import struct
from dataclasses import dataclass

from teehouse_enclave.engine.base import EngineError

__all__ = ["MAX_IMAGES", "MAX_IMAGE_BYTES", "Image", "parse_data_uri"]

MAX_IMAGE_BYTES = 10 << 20  # bytes, decoded; vision models scale down to a tenth of that anyway
MAX_IMAGES = 16  # per request; each costs an encoder pass
MAX_PIXELS = 40_000_000  # per picture; 120 MB once decoded to RGB, so that a small file cannot fill the TEE's memory
_PREFIX = "data:image/"


@dataclass(frozen=True, slots=True)
class Image:
    """A picture that passed: its format, its size in bytes and in pixels."""

    kind: str
    size: int
    width: int
    height: int


def parse_data_uri(uri: object, param: str) -> Image:
    """Check a `data:image/…;base64,` URI. Raises EngineError 400 (413 if too large)."""
    if not isinstance(uri, str):
        raise EngineError(400, "invalid_type", "an image must have a URL that is a string", param=param)
    if not uri.startswith(_PREFIX):
        raise EngineError(
            400,
            "image_url_unsupported",
            "images must come inside the request, as data:image/png;base64,… : this node fetches nothing",
            param=param,
        )
    head, comma, text = uri.partition(",")
    if not comma or not head.endswith(";base64"):
        raise _invalid("the data URI of an image must be base64", param)
    if len(text) > MAX_IMAGE_BYTES * 4 // 3 + 4:
        raise EngineError(413, "image_too_large", f"an image may have {MAX_IMAGE_BYTES >> 20} MiB", param=param)
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise _invalid("the data URI of an image is not valid base64", param) from None
    if len(data) > MAX_IMAGE_BYTES:
        raise EngineError(413, "image_too_large", f"an image may have {MAX_IMAGE_BYTES >> 20} MiB", param=param)
    kind, width, height = _measure(data, param)
    if width < 1 or height < 1:
        raise _invalid("an image has no pixels", param)
    if width * height > MAX_PIXELS:
        raise EngineError(
            413, "image_too_large", f"an image may have {MAX_PIXELS // 1_000_000} million pixels", param=param
        )
    return Image(kind, len(data), width, height)


def _measure(data: bytes, param: str) -> tuple[str, int, int]:
    """Format and pixel size, from the header alone."""
    try:
        if data.startswith(b"\x89PNG\r\n\x1a\n") and data[12:16] == b"IHDR":
            return "png", *struct.unpack_from(">II", data, 16)
        if data.startswith((b"GIF87a", b"GIF89a")):
            return "gif", *struct.unpack_from("<HH", data, 6)
        if data.startswith(b"\xff\xd8"):
            return "jpeg", *_jpeg(data)
        if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
            return "webp", *_webp(data)
    except (struct.error, IndexError):
        raise _invalid("an image is cut short", param) from None
    raise _invalid("an image must be PNG, JPEG, GIF or WebP", param)


def _jpeg(data: bytes) -> tuple[int, int]:
    """Walk the segments to the first frame header (ITU-T T.81 §B.2.2)."""
    at = 2
    while True:
        while data[at] == 0xFF and data[at + 1] == 0xFF:
            at += 1  # fill bytes, §B.1.1.2
        if data[at] != 0xFF:
            raise IndexError
        marker = data[at + 1]
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack_from(">HH", data, at + 5)
            return width, height
        (length,) = struct.unpack_from(">H", data, at + 2)
        if length < 2 or marker in (0xD9, 0xDA):
            raise IndexError
        at += 2 + length


def _webp(data: bytes) -> tuple[int, int]:
    """Size from the first chunk of a WebP container (RFC 9649 §2)."""
    kind = data[12:16]
    if kind == b"VP8X":
        return int.from_bytes(data[24:27], "little") + 1, int.from_bytes(data[27:30], "little") + 1
    if kind == b"VP8L":
        (bits,) = struct.unpack_from("<I", data, 21)
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    width, height = struct.unpack_from("<HH", data, 26)
    return width & 0x3FFF, height & 0x3FFF


def _invalid(message: str, param: str) -> EngineError:
    return EngineError(400, "invalid_image", message, param=param)
