# SPDX-License-Identifier: Apache-2.0
"""A cursor over signed bytes that never reads past its end and can name every field it took.

One walk serves both views of a report: the values (`parse_…`) and the byte ranges (`fields`), so they cannot differ.
"""

from __future__ import annotations

from typing import Literal

from teehouse_core.errors import MalformedError
from teehouse_core.evidence.fields import Field

__all__ = ["Cursor"]

MAX_SHOWN = 64  # bytes of one value that a field shows


class Cursor:
    """Reads `data[at:end]`. With `fields`, each piece taken is written down there under `prefix`.path.

    Raises `MalformedError` with codes `<what>-truncated`, `<what>-length` and `<what>-trailing-bytes`.
    """

    __slots__ = ("_data", "_end", "_fields", "_order", "_prefix", "_what", "at")

    def __init__(
        self,
        data: bytes,
        what: str,
        order: Literal["little", "big"],
        *,
        at: int = 0,
        end: int | None = None,
        fields: list[Field] | None = None,
        prefix: str = "",
    ) -> None:
        self._data = data
        self._what = what
        self._order: Literal["little", "big"] = order
        self.at = at
        self._end = len(data) if end is None else end
        self._fields = fields
        self._prefix = prefix

    @property
    def left(self) -> int:
        """Bytes not yet read."""
        return self._end - self.at

    def peek(self, size: int) -> bytes:
        """The next bytes, or fewer at the end, without moving."""
        return self._data[self.at : min(self.at + size, self._end)]

    def take(self, size: int, path: str, value: str | None = None) -> bytes:
        """The next `size` bytes, as field `path`; `value` replaces the hex text that the field shows."""
        start, stop = self.at, self.at + size
        if stop > self._end:
            raise MalformedError(f"{self._what} ends {stop - self._end} bytes early", code=f"{self._what}-truncated")
        piece = self._data[start:stop]
        self.at = stop
        if self._fields is not None and size:
            shown = value if value is not None else piece[:MAX_SHOWN].hex() + ("…" if size > MAX_SHOWN else "")
            self._fields.append(Field(self._prefix + path, start, stop, shown))
        return piece

    def uint(self, size: int, path: str, limit: int | None = None) -> int:
        """An unsigned number of `size` bytes, at most `limit`."""
        raw = self._data[self.at : min(self.at + size, self._end)]
        value = int.from_bytes(raw, self._order)
        self.take(size, path, f"0x{value:x}" if value > 9 else str(value))
        if limit is not None and value > limit:
            raise MalformedError(f"{self._what}: {path} is {value}, over {limit}", code=f"{self._what}-length")
        return value

    def sized(self, width: int, path: str, limit: int) -> bytes:
        """A length of `width` bytes and that many bytes (TPM2B and its like)."""
        return self.take(self.uint(width, f"{path}.size", limit), path)

    def sub(self, size: int, path: str) -> Cursor:
        """A cursor over the next `size` bytes, which this one skips; fields go under `path`."""
        if size > self.left:
            raise MalformedError(f"{self._what} ends {size - self.left} bytes early", code=f"{self._what}-truncated")
        inner = Cursor(
            self._data,
            self._what,
            self._order,
            at=self.at,
            end=self.at + size,
            fields=self._fields,
            prefix=f"{self._prefix}{path}.",
        )
        self.at += size
        return inner

    def finish(self) -> None:
        """Every byte must have been read."""
        if self.left:
            raise MalformedError(f"{self.left} bytes after the {self._what}", code=f"{self._what}-trailing-bytes")
