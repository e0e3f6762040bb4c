# SPDX-License-Identifier: Apache-2.0
"""The journal kept by the ledger of `teehouse-cloud`, over HTTP: its database may be SQLite or PostgreSQL.

A pod without a disk keeps its journal so. The ledger is untrusted anyway, so nothing changes but the distance; what it
answers is bounded and typed here, and believed as little as a local file. An answer that never came leaves it open
whether an append happened: appends are repeated, and a repeat is no second entry.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

import httpx2

from teehouse_core.errors import LocalError, MalformedError
from teehouse_core.log.merkle import HASH_SIZE
from teehouse_core.log.tiles import TILE_WIDTH, TilePath, tile_path, tile_source
from teehouse_core.wire.canonical import b64u, unb64u
from teehouse_enclave.keys.errors import StorageError
from teehouse_enclave.keys.journal import Batch, Record, check_batch, check_slot

__all__ = ["LedgerJournal"]

CONNECT: Final = 3.0  # seconds
PATIENCE: Final = 10.0  # seconds of silence
MAX_SMALL: Final = 64 * 1024  # bytes of an answer without entries
MAX_PAGE: Final = 32 * 1024 * 1024  # bytes of a page of records, or of a snapshot
MAX_READ: Final = 4096  # records of one page, the ledger's limit
BATCH_BYTES: Final = 6 * 1024 * 1024  # of one append, before base64; the ledger takes 16 MiB
BATCH_ENTRIES: Final = 1024
_STATE: Final = "state"  # name of a log's snapshot; slots have a prefix, so neither takes the other's place
_SLOT: Final = "slot."


class LedgerJournal:
    """Implements `Journal`. `url` is the platform's, `token` a writer's token of all logs."""

    def __init__(self, url: str, token: str, *, client: httpx2.Client | None = None) -> None:
        self._base = url.rstrip("/") + "/ledger/v1"
        self._headers = {"authorization": f"Bearer {token}", "accept-encoding": "identity"}
        self._client = client or httpx2.Client(
            follow_redirects=False, trust_env=False, timeout=httpx2.Timeout(PATIENCE, connect=CONNECT)
        )

    def logs(self) -> list[str]:
        document = _object(self._ok("GET", "", MAX_PAGE))
        try:
            return sorted(str(row["log"]) for row in document["logs"] if int(row["size"]) > 0)
        except (KeyError, TypeError, ValueError):
            raise _unreadable() from None

    def size(self, log: str) -> int:
        body = self._get(f"/{log}", MAX_SMALL)
        return 0 if body is None else _integer(_object(body), "size")

    def append(self, batches: Sequence[Batch]) -> None:
        for batch in batches:
            check_batch(batch)
        for batch in batches:
            for name, data in batch.slots.items():
                self.put_slot(batch.log, name, data)
            for part in _cut(batch.records):
                self._append(batch.log, part)

    def read(self, log: str, first: int, limit: int) -> list[Record]:
        body = self._get(f"/{log}/records", MAX_PAGE, params={"after": first, "limit": min(limit, MAX_READ)})
        if body is None:
            return []
        try:
            records = [_record(row) for row in _object(body)["records"]]
        except (KeyError, TypeError, AttributeError, MalformedError):
            raise _unreadable() from None
        if any(record.index != first + at for at, record in enumerate(records)):
            raise StorageError("storage-corrupt", "the ledger's records have a gap")
        return records

    def node(self, log: str, level: int, index: int) -> bytes:
        """Out of the tile that holds it; levels between tiles are hashed here."""

        def read(tile: TilePath) -> bytes:
            path = tile_path(tile.level, tile.index, tile.width)
            return self._get(f"/{log}/{path}", TILE_WIDTH * HASH_SIZE) or b""

        try:
            return tile_source(read, self.size(log))(level, index)
        except (LocalError, MalformedError):
            raise StorageError("storage-corrupt", "the ledger lacks a tree node") from None

    def put_snapshot(self, log: str, data: bytes) -> None:
        self._ok("PUT", f"/{log}/snapshots/{_STATE}", MAX_SMALL, content=data)

    def get_snapshot(self, log: str) -> bytes | None:
        return self._get(f"/{log}/snapshots/{_STATE}", MAX_PAGE)

    def put_slot(self, log: str, name: str, data: bytes) -> None:
        check_slot(data)
        self._ok("PUT", f"/{log}/snapshots/{_SLOT}{name}", MAX_SMALL, content=data)

    def get_slot(self, log: str, name: str) -> bytes | None:
        return self._get(f"/{log}/snapshots/{_SLOT}{name}", MAX_PAGE)

    def shred(self, log: str, names: Sequence[str]) -> None:
        for name in names:
            status, body = self._call("DELETE", f"/{log}/snapshots/{_SLOT}{name}", MAX_SMALL)
            if status not in (200, 404):
                raise _refused(status, body)

    def close(self) -> None:
        self._client.close()

    def _append(self, log: str, records: Sequence[Record]) -> None:
        entries = [
            {
                "leaf": b64u(record.leaf),
                "opening": json.loads(record.opening) if record.opening else None,
                "private": b64u(record.private),
            }
            for record in records
        ]
        content = json.dumps({"first": records[0].index, "entries": entries}, separators=(",", ":")).encode()
        status, body = self._call(
            "POST", f"/{log}/entries", MAX_SMALL, content=content, headers={"content-type": "application/json"}
        )
        if status == 409:
            raise StorageError("storage-conflict", "the ledger ends elsewhere, or holds another entry at this index")
        if status != 200:
            raise _refused(status, body)
        if _integer(_object(body), "size") < records[-1].index + 1:
            raise _unreadable()

    def _get(self, path: str, limit: int, **more: Any) -> bytes | None:
        status, body = self._call("GET", path, limit, **more)
        if status == 404:
            return None
        if status != 200:
            raise _refused(status, body)
        return body

    def _ok(self, method: str, path: str, limit: int, **more: Any) -> bytes:
        status, body = self._call(method, path, limit, **more)
        if status != 200:
            raise _refused(status, body)
        return body

    def _call(
        self, method: str, path: str, limit: int, *, headers: Mapping[str, str] | None = None, **more: Any
    ) -> tuple[int, bytes]:
        """Status and at most `limit` bytes. Raises `StorageError` (`storage`) when the ledger does not answer."""
        try:
            with self._client.stream(
                method, self._base + path, headers={**self._headers, **(headers or {})}, **more
            ) as response:
                body = bytearray()
                for part in response.iter_raw():
                    body += part
                    if len(body) > limit:
                        raise StorageError("storage", "the ledger's answer is too long")
                return response.status_code, bytes(body)
        except httpx2.HTTPError as error:
            text = f"the ledger does not answer ({type(error).__name__})"
            raise StorageError("storage", text, hint="is the platform up?") from None


def _cut(records: Sequence[Record]) -> list[list[Record]]:
    """Appends that the ledger takes, in order. Several for one batch are still safe: a beginning is no other entry."""
    cut: list[list[Record]] = []
    weight = 0
    for record in records:
        size = len(record.leaf) + len(record.opening) + len(record.private)
        if not cut or len(cut[-1]) >= BATCH_ENTRIES or weight + size > BATCH_BYTES:
            cut.append([])
            weight = 0
        cut[-1].append(record)
        weight += size
    return cut


def _record(row: Any) -> Record:
    opening = row["opening"]
    text = b"" if opening is None else json.dumps(opening, separators=(",", ":")).encode()
    return Record(_integer(row, "index"), unb64u(row["leaf"]), text, unb64u(row["private"]))


def _object(body: bytes) -> dict[str, Any]:
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        raise _unreadable() from None
    if not isinstance(document, dict):
        raise _unreadable()
    return document


def _integer(document: Any, name: str) -> int:
    value = document.get(name)
    if type(value) is not int or value < 0:
        raise _unreadable()
    return value


def _unreadable() -> StorageError:
    return StorageError("storage-corrupt", "the ledger's answer does not parse")


def _refused(status: int, body: bytes) -> StorageError:
    """507 and the ledger's own word for it are a full disk; anything else is a failure without a name."""
    try:
        code = str(json.loads(body).get("code", ""))
    except (ValueError, RecursionError, AttributeError):
        code = ""
    word = code if code.replace("-", "").isalnum() and len(code) <= 64 else ""
    kind = "storage-full" if status == 507 or word == "storage-full" else "storage"
    return StorageError(kind, f"the ledger refused with status {status} {word}".rstrip())
