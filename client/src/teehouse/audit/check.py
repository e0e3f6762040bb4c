# SPDX-License-Identifier: Apache-2.0
"""What must hold of every entry by itself, whatever tree it stands in."""

from __future__ import annotations

from typing import Any, Final

from teehouse.audit.errors import LogRefused
from teehouse_core.errors import MalformedError
from teehouse_core.log.entry import AuditEntry, Opening, PublicEntry, parse_leaf

__all__ = ["EntryCheck", "Ids", "members"]

_TENANT: Final = "/tenant/"


class Ids:
    """Finds a repeated id at the cost of 16 bytes for each: ids go into boxes, and each box is looked through."""

    def __init__(self) -> None:
        self._boxes = [bytearray() for _ in range(4096)]

    def add(self, text: str) -> None:
        self._boxes[hash(text) % len(self._boxes)] += bytes.fromhex(text)

    def repeated(self) -> str | None:
        """One id that was added twice, None when there is none."""
        for box in self._boxes:
            seen: set[bytes] = set()
            for at in range(0, len(box), 16):
                item = bytes(box[at : at + 16])
                if item in seen:
                    return item.hex()
                seen.add(item)
        return None


class EntryCheck:
    """Entries of one log, one after the other."""

    def __init__(self, origin: str) -> None:
        self._tenant = origin.rpartition(_TENANT)[2] if _TENANT in origin else None
        self.ids = Ids()
        self.named = 0  # entries whose names were shown and are right

    def entry(self, index: int, leaf: bytes, opening: Any) -> AuditEntry | PublicEntry:
        """Parse a leaf, and hold its opening against it. Raises `LogRefused`."""
        try:
            entry = parse_leaf(leaf)
        except MalformedError as error:
            raise LogRefused(
                f"entry {index} is none that this version knows: {error.message}", code="log-entry", index=index
            ) from None
        if isinstance(entry, AuditEntry):
            if self._tenant is None or entry.tenant != self._tenant:
                raise LogRefused(f"entry {index} is of tenant {entry.tenant!r}", code="log-foreign-entry", index=index)
        elif self._tenant is not None:
            raise LogRefused(f"entry {index} belongs into a public log", code="log-foreign-entry", index=index)
        if opening is not None:
            self._opening(index, entry, opening)
        self.ids.add(entry.id)
        return entry

    def _opening(self, index: int, entry: AuditEntry | PublicEntry, opening: Any) -> None:
        try:
            shown = Opening.read(opening)
            if not isinstance(entry, AuditEntry):
                raise MalformedError("an entry of a public log names nobody")
            shown.check(entry)
        except MalformedError as error:
            raise LogRefused(
                f"the names beside entry {index} are not its own: {error.message}",
                code="log-opening",
                index=index,
                hint="Whoever stores the log changed them; the entry itself is as it was.",
            ) from None
        self.named += 1

    def done(self) -> None:
        """After the last entry. Raises `LogRefused`."""
        if (twice := self.ids.repeated()) is not None:
            raise LogRefused(
                f"two entries have the id {twice}",
                code="log-repeated-id",
                hint="The log's writer appended one twice: ask the key service's operator.",
            )


def members(entry: AuditEntry | PublicEntry) -> dict[str, Any]:
    """An entry's members in the order of its canonical JSON."""
    return dict(sorted(entry.to_json().items()))
