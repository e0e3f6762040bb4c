# SPDX-License-Identifier: Apache-2.0
"""What the key service asks of the outside: a ledger that stores, witnesses that countersign. Neither is believed.

Every answer is bounded, and used only for what it can be held to: a ledger's size against the own journal, a witness's
words against its pinned key. Failures are `OutsideError`, whose code says which step did not happen.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Final

import httpx2
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from teehouse_core.errors import MalformedError, OperatorError
from teehouse_core.log.note import MAX_NOTE, Note, Signature, VerifierKey, parse_signatures
from teehouse_core.log.quorum import Witness
from teehouse_core.log.signing import verify_detached, verify_signature
from teehouse_core.log.witness import MAX_STATEMENT, SIZE_TYPE, AddCheckpoint, NewestStatement, parse_size
from teehouse_core.wire.canonical import b64u, unb64u
from teehouse_enclave.keys.journal import Record

__all__ = ["LedgerClient", "OutsideError", "WitnessClient", "WitnessElsewhere", "outside_client"]

_CONNECT: Final = 3.0  # seconds
_TOTAL: Final = 10.0  # seconds of silence in an answer
MAX_ANSWER: Final = 4096  # bytes of an answer that says only a size
BATCH_ENTRIES: Final = 1024  # of one append
BATCH_BYTES: Final = 6 * 1024 * 1024  # of leaves, openings and private parts; base64 makes a third more


class OutsideError(OperatorError):
    """The ledger or a witness did not do its step: `ledger-…`, `witness-…`. The pipeline tries again."""

    default_code = "ledger-unreachable"


class WitnessElsewhere(Exception):  # noqa: N818  an answer, not a fault
    """A witness knows another size than was thought (409 of C2SP tlog-witness)."""

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self.size = size


def outside_client() -> httpx2.AsyncClient:
    """No redirects, no proxies from the environment, bounded patience."""
    return httpx2.AsyncClient(
        follow_redirects=False,
        trust_env=False,
        timeout=httpx2.Timeout(_TOTAL, connect=_CONNECT),
        headers={"accept-encoding": "identity"},
    )


async def _ask(
    client: httpx2.AsyncClient, what: str, method: str, url: str, limit: int, **more: Any
) -> tuple[int, str, bytes]:
    """Status, content type and at most `limit` bytes. Raises `OutsideError` `<what>-unreachable`."""
    try:
        async with client.stream(method, url, **more) as response:
            parts, got = [], 0
            async for part in response.aiter_raw():
                parts.append(part)
                got += len(part)
                if got > limit:
                    raise OutsideError(f"the {what}'s answer is too long", code=f"{what}-answer")
            return response.status_code, response.headers.get("content-type", ""), b"".join(parts)
    except httpx2.HTTPError as error:
        raise OutsideError(f"the {what} does not answer ({type(error).__name__})", code=f"{what}-unreachable") from None


class LedgerClient:
    """The ledger's HTTP surface as the writer uses it; `url` without a trailing slash, `token` of kind writer."""

    def __init__(self, client: httpx2.AsyncClient, url: str, token: str) -> None:
        self._client = client
        self._base = url.rstrip("/") + "/ledger/v1"
        self._headers = {"authorization": f"Bearer {token}"}

    async def sizes(self, log: str) -> tuple[int, int]:
        """(entries, size of the newest checkpoint) as the ledger says; (0, 0) for a log it does not know."""
        status, _, body = await self._call("GET", f"/{log}")
        if status == 404:
            return 0, 0
        document = self._document(status, body)
        return _size(document, "size"), _size(document, "checkpoint_size")

    async def append(self, log: str, records: Sequence[Record]) -> int:
        """Store consecutive records, not too many (`batches`); the log's size after.

        Raises `OutsideError`: `ledger-gap` with `.size` where the ledger ends, `ledger-conflict` when it holds another
        leaf at one of the indexes.
        """
        entries = [
            {
                "leaf": b64u(record.leaf),
                "opening": json.loads(record.opening) if record.opening else None,
                "private": b64u(record.private),
            }
            for record in records
        ]
        body = json.dumps({"first": records[0].index, "entries": entries}, separators=(",", ":")).encode()
        status, _, answer = await self._call(
            "POST", f"/{log}/entries", content=body, headers={**self._headers, "content-type": "application/json"}
        )
        if status == 409:
            size = _size(self._json(answer), "size")
            if size < records[0].index:
                raise LedgerGapError(size)
            raise OutsideError("the ledger holds another entry at this index", code="ledger-conflict")
        return _size(self._document(status, answer), "size")

    async def publish(self, log: str, note: bytes) -> None:
        """Store a cosigned checkpoint. Raises `OutsideError`."""
        status, _, body = await self._call("PUT", f"/{log}/checkpoint", content=note)
        self._document(status, body)

    async def _call(self, method: str, path: str, **more: Any) -> tuple[int, str, bytes]:
        return await _ask(
            self._client, "ledger", method, self._base + path, MAX_ANSWER, **{"headers": self._headers, **more}
        )

    def _document(self, status: int, body: bytes) -> dict[str, Any]:
        if status != 200:
            code = str(self._json(body).get("code", ""))[:64]
            raise OutsideError(f"the ledger refused with status {status} {code}".rstrip(), code="ledger-refused")
        return self._json(body)

    @staticmethod
    def _json(body: bytes) -> dict[str, Any]:
        try:
            document = json.loads(body)
        except (ValueError, RecursionError):
            document = None
        return document if isinstance(document, dict) else {}


class LedgerGapError(OutsideError):
    """The ledger ends at `size`, before what was sent."""

    def __init__(self, size: int) -> None:
        super().__init__("the ledger lacks earlier entries", code="ledger-gap")
        self.size = size


def batches(records: Sequence[Record]) -> list[list[Record]]:
    """Cut consecutive records into appends that the ledger takes."""
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


class WitnessClient:
    """One pinned witness at its URL."""

    def __init__(self, client: httpx2.AsyncClient, witness: Witness, url: str) -> None:
        self.witness = witness
        self._client = client
        self._base = url.rstrip("/")

    async def cosign(self, request: AddCheckpoint) -> Signature:
        """The witness's cosignature, verified under its pinned key.

        Raises `WitnessElsewhere` for another known size, `OutsideError` (`witness-refused`, `witness-signature`).
        """
        status, kind, body = await _ask(
            self._client, "witness", "POST", f"{self._base}/add-checkpoint", MAX_NOTE, content=request.to_bytes()
        )
        if status == 409 and kind.split(";")[0].strip() == SIZE_TYPE:
            try:
                raise WitnessElsewhere(parse_size(body))
            except MalformedError:
                raise OutsideError("the witness's answer does not parse", code="witness-answer") from None
        if status != 200:
            raise OutsideError(f"witness {self.witness.name} refused with {status}", code="witness-refused")
        vkey = self.witness.vkey
        try:
            for signature in parse_signatures(body):
                if (signature.name, signature.key_id) == (vkey.name, vkey.key_id):
                    verify_detached(request.note.text, signature, vkey)
                    return signature
        except MalformedError as error:
            raise OutsideError(f"witness {self.witness.name}: {error.message}", code="witness-signature") from None
        raise OutsideError(f"witness {self.witness.name} did not sign", code="witness-signature")

    async def newest(self, log_key: VerifierKey, nonce: bytes) -> NewestStatement:
        """What it knows of the origin that `log_key` names, over `nonce`; a size above 0 shows the log's signature.

        Raises `OutsideError`.
        """
        status, _, body = await _ask(
            self._client,
            "witness",
            "GET",
            f"{self._base}/newest",
            2 * MAX_STATEMENT,
            params={"origin": log_key.name, "nonce": b64u(nonce)},
        )
        if status != 200:
            raise OutsideError(f"witness {self.witness.name} refused with {status}", code="witness-refused")
        try:
            return self._read(body, log_key, nonce)
        except (MalformedError, InvalidSignature, ValueError, KeyError, TypeError):
            raise OutsideError(
                f"the statement of {self.witness.name} does not hold", code="witness-signature"
            ) from None

    def _read(self, body: bytes, log_key: VerifierKey, nonce: bytes) -> NewestStatement:
        document = json.loads(body)
        statement = NewestStatement.parse(unb64u(document["statement"]))
        Ed25519PublicKey.from_public_bytes(self.witness.vkey.key).verify(
            unb64u(document["sig"], 64), statement.signed()
        )
        if statement.origin != log_key.name or statement.nonce != nonce:
            raise MalformedError("a statement about something else", code="statement")
        if statement.size:
            verify_signature(Note.parse(statement.note), log_key)  # a witness cannot make up a size
        return statement


def _size(document: dict[str, Any], name: str) -> int:
    size = document.get(name)
    if type(size) is not int or size < 0:
        raise OutsideError("the ledger's answer does not parse", code="ledger-answer")
    return size
