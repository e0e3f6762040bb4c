# SPDX-License-Identifier: Apache-2.0
"""The ledger over HTTP: what is appended once stays, tiles are those of the tree, and foreign logs look unknown."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from ledger_support import LOG, Ledger, entry, frontier_of, leaf, note_of
from postgres_support import on_both_databases
from sqlalchemy import event, text

from teehouse_cloud.ledger import entries as entries_module
from teehouse_cloud.ledger.forms import MAX_ENTRIES
from teehouse_core.log.merkle import (
    consistency_proof,
    inclusion_proof,
    leaf_hash,
    root_of,
    verify_consistency,
    verify_inclusion,
)
from teehouse_core.log.tiles import TilePath, entries_path, parse_bundle, tile_path, tile_source
from teehouse_core.wire.canonical import b64u, unb64u

pytestmark = [pytest.mark.anyio, on_both_databases]


@pytest.fixture
async def ledger(world: Any) -> Ledger:
    made = Ledger(world)
    await made.tokens()
    await world.start()
    return made


async def test_appended_entries_come_back_and_repeats_change_nothing(ledger: Ledger) -> None:
    leaves = [leaf(i) for i in range(7)]
    opening = {"salt": "c2FsdA", "names": ["Äva \u0000 \u20ac"]}
    given = [entry(data, opening=opening if i == 3 else None) for i, data in enumerate(leaves)]
    assert await ledger.append(0, given[:5]) == (200, {"size": 5})
    assert await ledger.append(0, given[:5]) == (200, {"size": 5})
    assert await ledger.append(2, given[2:]) == (200, {"size": 7})  # half of it is there already
    assert await ledger.append(7, []) == (200, {"size": 7})
    page = json.loads(await ledger.get("/entries"))
    assert (page["next"], page["size"]) == (None, 7)
    assert [(row["index"], unb64u(row["leaf"])) for row in page["entries"]] == list(enumerate(leaves))
    assert [row["opening"] for row in page["entries"]] == [None, None, None, opening, None, None, None]
    assert all("private" not in row for row in page["entries"])
    records = json.loads(await ledger.get("/records?after=5", token=ledger.writer))
    assert records["records"][0] == {"index": 5, "leaf": b64u(leaves[5]), "opening": None, "private": b64u(b"sealed")}
    assert json.loads(await ledger.get("")) == {"log": LOG, "size": 7, "checkpoint_size": 0}
    _, _, body = await ledger.call("GET", "", token=ledger.writer)
    assert json.loads(body)["size"] == 7


async def test_gaps_and_other_leaves_are_refused_whole(ledger: Ledger) -> None:
    leaves = [leaf(i) for i in range(4)]
    await ledger.fill(leaves)
    status, answer = await ledger.append(5, [entry(leaf(5))])
    assert (status, answer["code"], answer["size"]) == (409, "gap", 4)
    forged = [entry(leaves[2]), entry(leaf(3, decision="granted")), entry(leaf(4))]
    status, answer = await ledger.append(2, forged)
    assert (status, answer["code"], answer["size"], answer["index"]) == (409, "leaf-conflict", 4, 3)
    assert json.loads(await ledger.get("/entries"))["size"] == 4
    # a log that does not exist yet begins at 0, and a refused call does not make it
    status, answer = await ledger.append(3, [entry(leaf(3))], log="tenant-new")
    assert (status, answer["code"], answer["size"]) == (409, "gap", 0)
    status, _, _ = await ledger.call("GET", "", token=ledger.writer, log="tenant-new")
    assert status == 404


async def test_many_writers_at_one_position_leave_one_story(ledger: Ledger) -> None:
    async def attempt(who: int) -> tuple[int, Any]:
        return await ledger.append(0, [entry(leaf(i, who=who)) for i in range(20)])

    answers = await asyncio.gather(*(attempt(who) for who in range(12)))
    assert sorted(status for status, _ in answers) == [200] + [409] * 11
    winner = [status for status, _ in answers].index(200)
    page = json.loads(await ledger.get("/entries"))
    assert {json.loads(unb64u(row["leaf"]))["who"] for row in page["entries"]} == {winner}
    same = await asyncio.gather(*(attempt(winner) for _ in range(6)))
    assert same == [(200, {"size": 20})] * 6


@pytest.mark.parametrize("steps", [(1,) * 3 + (250, 3, 255, 1, 300), (70_000,)])
async def test_tiles_are_those_of_the_tree(ledger: Ledger, steps: tuple[int, ...]) -> None:
    """Proofs made from the served tiles alone hold against roots that were computed without them."""
    leaves = [leaf(i) for i in range(sum(steps))]
    sizes, at = [], 0
    for step in steps:
        await ledger.fill(leaves[at : at + step], first=at)
        at += step
        sizes.append(at)
    size, root = at, frontier_of(leaves).root()
    got: dict[TilePath, bytes] = {}
    wanted: list[TilePath] = []

    def read(path: TilePath) -> bytes:
        if path not in got:
            wanted.append(path)
            raise LookupError
        return got[path]

    async def with_tiles(make: Any) -> Any:
        while True:
            try:
                return make()
            except LookupError:
                path = wanted.pop()
                got[path] = await ledger.get("/" + tile_path(path.level, path.index, path.width))

    source = tile_source(read, size)
    assert await with_tiles(lambda: root_of(source, size)) == root
    for index in {0, 1, size // 2, size - 1}:
        proof = await with_tiles(lambda index=index: inclusion_proof(source, index, size))
        verify_inclusion(index, size, leaf_hash(leaves[index]), proof, root)
    for old in {*sizes, 1, size // 3 or 1}:
        proof = await with_tiles(lambda old=old: consistency_proof(source, old, size))
        verify_consistency(old, size, frontier_of(leaves[:old]).root(), root, proof)
    last = (size - 1) // 256
    assert parse_bundle(await ledger.get("/" + entries_path(last, size - last * 256))) == leaves[last * 256 :]
    # a full tile is written once; narrower ones of older checkpoints go on being served out of it
    full = await ledger.get("/" + tile_path(0, 0))
    assert len(full) == 8192
    assert await ledger.get("/" + tile_path(0, 0, 3)) == full[:96]
    assert parse_bundle(await ledger.get("/" + entries_path(0, 255))) == leaves[:255]


async def test_tiles_that_are_not_there(ledger: Ledger) -> None:
    await ledger.fill([leaf(i) for i in range(300)])
    for path, code in {
        "/tile/0/001": "tile-unknown",
        "/tile/0/001.p/45": "tile-unknown",
        "/tile/1/000": "tile-unknown",
        "/tile/1/000.p/2": "tile-unknown",
        "/tile/2/000.p/1": "tile-unknown",
        "/tile/63/000.p/1": "tile-unknown",
        "/tile/0/x999/x999/999": "tile-unknown",
        "/tile/entries/001.p/45": "tile-unknown",
        "/tile/64/000": "malformed",
        "/tile/0/1": "malformed",
        "/tile/00/000": "malformed",
        "/tile/0/x000/000": "malformed",
        "/tile/0/000.p/256": "malformed",
        "/tile/0/000.p/0": "malformed",
        "/tile/0/000/": "malformed",
    }.items():
        status, _, body = await ledger.call("GET", path, token=ledger.audit)
        assert (status, json.loads(body)["code"]) == (404 if code == "tile-unknown" else 400, code), path
    status, headers, body = await ledger.call("GET", "/tile/1/000.p/1", token=ledger.audit)
    assert (status, len(body)) == (200, 32)
    assert headers["Cache-Control"].startswith("private, max-age=31536000, immutable")
    assert headers["Content-Type"] == "application/octet-stream"


async def test_pages(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    leaves = [leaf(i, op="release" if i % 10 == 0 else "key.create") for i in range(95)]
    await ledger.fill(leaves)
    seen, after, pages = [], 0, 0
    while after is not None:
        page = json.loads(await ledger.get(f"/entries?after={after}&limit=20"))
        seen += [row["index"] for row in page["entries"]]
        after, pages = page["next"], pages + 1
    assert (seen, pages) == (list(range(95)), 5)
    page = json.loads(await ledger.get("/entries?op=release&after=11&limit=3"))
    assert ([row["index"] for row in page["entries"]], page["next"]) == ([20, 30, 40], 41)
    page = json.loads(await ledger.get("/entries?op=release&key=k0"))
    assert [row["index"] for row in page["entries"]] == [0, 30, 60, 90]
    assert json.loads(await ledger.get("/entries?op=nothing"))["entries"] == []
    assert json.loads(await ledger.get("/entries?after=95")) == {"entries": [], "next": None, "size": 95}
    # a page also ends when it grows too heavy, but never before its first row
    monkeypatch.setattr(entries_module, "PAGE_BYTES", len(leaves[0]) * 3 + 50)
    page = json.loads(await ledger.get("/entries?after=50"))
    assert ([row["index"] for row in page["entries"]], page["next"]) == ([50, 51, 52], 53)
    monkeypatch.setattr(entries_module, "PAGE_BYTES", 1)
    page = json.loads(await ledger.get("/entries?after=94"))
    assert ([row["index"] for row in page["entries"]], page["next"]) == ([94], None)


@pytest.mark.parametrize(
    "query", ["after=-1", "after=x", "limit=0", "limit=1001", "after=1&after=2", "colour=1", "op=%00", "after=9" * 200]
)
async def test_wrong_queries(ledger: Ledger, query: str) -> None:
    await ledger.fill([leaf(0)])
    status, _, body = await ledger.call("GET", f"/entries?{query}", token=ledger.audit)
    assert (status, json.loads(body)["code"]) == (400, "malformed")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{}",
        b"[" * 100_000,
        b'{"first":0,"entries":[],"more":1}',
        b'{"first":-1,"entries":[]}',
        b'{"first":0.0,"entries":[]}',
        b'{"first":true,"entries":[]}',
        b'{"first":9007199254740991,"entries":[]}',
        b'{"first":0,"entries":[{}]}',
        b'{"first":0,"entries":[{"leaf":"","opening":null,"private":""}]}',
        b'{"first":0,"entries":[{"leaf":"AA==","opening":null,"private":""}]}',
        b'{"first":0,"entries":[{"leaf":"AA","opening":"x","private":""}]}',
        b'{"first":0,"entries":[{"leaf":"AA","opening":{"a":NaN},"private":""}]}',
        b'{"first":0,"entries":[{"leaf":1,"opening":null,"private":""}]}',
        json.dumps({"first": 0, "entries": [entry(b"x" * 65536)]}).encode(),
        json.dumps({"first": 0, "entries": [entry(b"x", private=b"x" * (1024 * 1024 + 1))]}).encode(),
        json.dumps({"first": 0, "entries": [entry(b"x", opening={"a": "x" * 20_000})]}).encode(),
        json.dumps({"first": 0, "entries": [entry(b"x")] * (MAX_ENTRIES + 1)}).encode(),
    ],
)
async def test_wrong_appends(ledger: Ledger, body: bytes) -> None:
    status, _, answer = await ledger.call("POST", "/entries", token=ledger.writer, data=body)
    assert (status, json.loads(answer)["code"]) == (400, "malformed")


async def test_bodies_are_bounded(ledger: Ledger) -> None:
    async def endless() -> Any:
        for _ in range(20):
            yield b" " * (1024 * 1024)

    for data in (b" " * (16 * 1024 * 1024 + 1), endless()):
        status, _, answer = await ledger.call("POST", "/entries", token=ledger.writer, data=data)
        assert (status, json.loads(answer)["code"]) == (413, "too-large")


async def test_the_largest_entry(ledger: Ledger) -> None:
    big = entry(b"x" * 65535, opening={"a": "ä" * 2000}, private=b"p" * (1024 * 1024))
    assert await ledger.append(0, [big]) == (200, {"size": 1})
    assert parse_bundle(await ledger.get("/tile/entries/000.p/1")) == [b"x" * 65535]
    record = json.loads(await ledger.get("/records", token=ledger.writer))["records"][0]
    assert record == {"index": 0, **big}


async def test_checkpoints(ledger: Ledger) -> None:
    leaves = [leaf(i) for i in range(5)]

    async def put(note: bytes) -> tuple[int, Any]:
        status, _, body = await ledger.call("PUT", "/checkpoint", token=ledger.writer, data=note)
        return status, json.loads(body)

    assert (await put(note_of(leaves[:3])))[0] == 404
    await ledger.fill(leaves)
    status, _, body = await ledger.call("GET", "/checkpoint", token=ledger.audit)
    assert (status, json.loads(body)["code"]) == (404, "checkpoint-unknown")
    assert await put(note_of(leaves[:3])) == (200, {"size": 3})
    more = note_of(leaves[:3], signer=b"another line")  # the same head with other signatures
    assert await put(more) == (200, {"size": 3})
    status, headers, body = await ledger.call("GET", "/checkpoint", token=ledger.audit)
    assert (status, body) == (200, more)
    assert headers["Content-Type"] == "text/plain; charset=utf-8"
    assert headers["Cache-Control"] == "private, max-age=5, no-transform"
    assert await put(note_of(leaves)) == (200, {"size": 5})
    for note, code in (
        (note_of([*leaves, leaf(5)]), "checkpoint-ahead"),
        (note_of(leaves[:3]), "checkpoint-behind"),
        (note_of([leaf(9), *leaves[1:]]), "checkpoint-fork"),
        (note_of(leaves, origin="tks.example/tenant/other"), "checkpoint-origin"),
    ):
        status, answer = await put(note)
        assert (status, answer["code"], answer["size"]) == (409, code, 5)
    assert (await put(b"not a note"))[0] == 400
    assert (await put(b"x" * 70_000))[0] == 413
    assert json.loads(await ledger.get(""))["checkpoint_size"] == 5


async def test_snapshots(ledger: Ledger) -> None:
    async def call(method: str, name: str, **more: Any) -> tuple[int, bytes]:
        status, _, body = await ledger.call(method, f"/snapshots/{name}", token=ledger.writer, **more)
        return status, body

    assert (await call("GET", "state"))[0] == 404
    assert (await call("PUT", "state", data=b"one"))[0] == 200  # before any entry
    assert (await call("PUT", "state", data=b"two"))[0] == 200
    assert await call("GET", "state") == (200, b"two")
    assert (await call("GET", "other"))[0] == 404
    assert (await call("PUT", "a%2Fb", data=b"x"))[0] == 404
    assert (await call("DELETE", "state"))[0] == 200
    assert (await call("DELETE", "state"))[0] == 200
    assert (await call("GET", "state"))[0] == 404
    big = bytes(range(256)) * 40_000
    assert (await call("PUT", "big", data=big))[0] == 200
    assert await call("GET", "big") == (200, big)


async def test_who_may_do_what(ledger: Ledger, world: Any) -> None:
    await ledger.fill([leaf(0)])
    other = Ledger(world, "tenant-other")
    await other.tokens()
    await other.fill([leaf(0)])
    reads = ["", "/entries", "/checkpoint", "/tile/0/000.p/1", "/tile/entries/000.p/1"]
    writes = [("GET", "/records"), ("GET", "/snapshots/x"), ("PUT", "/checkpoint"), ("POST", "/entries")]
    writes += [("PUT", "/snapshots/x"), ("DELETE", "/snapshots/x")]
    for path in reads:
        assert (await ledger.call("GET", path))[0] == 401
        assert (await ledger.call("GET", path, token=world.operator_token))[0] == 401
        assert (await ledger.call("GET", path, token=world.api_key))[0] == 401
        foreign = await ledger.call("GET", path, token=other.audit)
        unknown = await ledger.call("GET", path, token=other.audit, log="tenant-nobody")
        assert (foreign[0], foreign[2]) == (unknown[0], unknown[2]) == (404, foreign[2])
        if path != "/checkpoint":
            assert (await ledger.call("GET", path, token=ledger.audit))[0] == 200
            assert (await ledger.call("GET", path, token=ledger.writer))[0] == 200
    for method, path in writes:
        assert (await ledger.call(method, path))[0] == 401
        status, _, body = await ledger.call(method, path, token=ledger.audit)
        assert (status, json.loads(body)["code"]) == (403, "ledger-token-kind")
        assert (await ledger.call(method, path, token=other.audit))[0] == 404
    assert (await ledger.call("DELETE", "/entries", token=ledger.writer))[0] == 405
    for path in ("/nothing", "/entries/1", "/tile", "/snapshots", "/snapshots/a/b"):
        assert (await ledger.call("GET", path, token=ledger.writer))[0] == 404
    assert (await ledger.call("GET", "", token=ledger.writer, log="a" * 64))[0] == 404
    async with world.http.get(f"{world.url}/ledger/v1", headers={"Authorization": f"Bearer {ledger.writer}"}) as got:
        assert [row["log"] for row in (await got.json())["logs"]] == [LOG, "tenant-other"]
    async with world.http.get(f"{world.url}/ledger/v1", headers={"Authorization": f"Bearer {ledger.audit}"}) as got:
        assert got.status == 404


async def test_the_public_log_is_open_to_readers(ledger: Ledger) -> None:
    leaves = [leaf(i, kind="keyset") for i in range(3)]
    assert (await ledger.append(0, [entry(data) for data in leaves], log="public"))[0] == 200
    assert (await ledger.call("PUT", "/checkpoint", token=ledger.writer, log="public", data=note_of(leaves)))[0] == 200
    for path in ("", "/entries", "/checkpoint", "/tile/0/000.p/3", "/tile/entries/000.p/3"):
        status, headers, _ = await ledger.call("GET", path, log="public")
        assert status == 200
        assert "private" not in headers["Cache-Control"]
        assert (await ledger.call("GET", path, token=ledger.audit, log="public"))[0] == 200
    assert (await ledger.call("GET", "/records", log="public"))[0] == 401
    assert (await ledger.call("GET", "/entries", token="th-la-wrong", log="public"))[0] == 401


async def test_limits_on_strangers(world: Any) -> None:
    ledger = Ledger(world)
    await ledger.tokens()
    await world.start(ledger_rpm=3, auth_failure_rpm=2)
    assert (await ledger.append(0, [entry(leaf(0))], log="public"))[0] == 200
    seen = [(await ledger.call("GET", "/entries", log="public"))[0] for _ in range(4)]
    assert seen == [200, 200, 200, 429]
    seen = [(await ledger.call("GET", "/entries", token=f"th-la-{i}"))[0] for i in range(3)]
    assert seen == [401, 401, 429]
    assert (await ledger.call("GET", "", token=ledger.writer, log="public"))[0] == 200  # known by now


async def test_tokens_of_the_operator_api(ledger: Ledger, world: Any) -> None:
    async def call(method: str, path: str, **more: Any) -> tuple[int, Any]:
        async with world.operator(method, f"/ledger{path}", **more) as response:
            body = await response.read()
            return response.status, json.loads(body) if body else None

    status, made = await call("POST", "/tokens", json={"log": LOG, "label": "auditor"})
    assert (status, made["kind"], made["log"]) == (201, "audit", LOG)
    assert made["token"].startswith("th-la-")
    status, writer = await call("POST", "/tokens", json={"kind": "writer", "log": LOG})
    assert writer["token"].startswith("th-lw-")
    for wish in ({"log": "*"}, {"log": "x"}, {"kind": "king", "log": LOG}, {"kind": "writer", "log": LOG, "x": 1}, {}):
        assert (await call("POST", "/tokens", json=wish))[0] in (400, 422)
    opened = [entry(leaf(0), opening={"names": ["Alice"]}), entry(leaf(1), opening={"names": ["Bob"]})]
    ledger.writer = writer["token"]
    assert (await ledger.append(0, opened))[0] == 200
    assert (await ledger.append(0, opened, log="tenant-other"))[0] == 404
    status, logs = await call("GET", "/logs")
    assert [(row["name"], row["size"]) for row in logs["logs"]] == [(LOG, 2)]
    status, listed = await call("GET", "/tokens")
    assert made["token"] not in json.dumps(listed)
    assert made["id"] in [row["id"] for row in listed["tokens"]]
    assert (await ledger.call("GET", "/entries", token=made["token"]))[0] == 200
    assert (await call("DELETE", f"/tokens/{made['id']}"))[0] == 200
    assert (await ledger.call("GET", "/entries", token=made["token"]))[0] == 401  # at once
    assert (await call("DELETE", "/tokens/999"))[0] == 404
    before = await ledger.get("/tile/0/000.p/2")
    assert (await call("DELETE", f"/logs/{LOG}/openings/0"))[0] == 204
    assert (await call("DELETE", f"/logs/{LOG}/openings/2"))[0] == 404
    page = json.loads(await ledger.get("/entries"))
    assert [row["opening"] for row in page["entries"]] == [None, {"names": ["Bob"]}]
    assert await ledger.get("/tile/0/000.p/2") == before
    assert (await ledger.append(0, opened))[0] == 200  # a repeat does not bring the names back
    assert json.loads(await ledger.get("/entries"))["entries"][0]["opening"] is None


async def test_secrets_are_stored_and_logged_nowhere(
    ledger: Ledger, world: Any, backend: str, request: pytest.FixtureRequest
) -> None:
    await ledger.fill([leaf(0)])
    await ledger.get("/entries")
    await world.stop()
    kept = world.directory
    if backend == "postgresql":
        server = request.getfixturevalue("postgres")
        server.sql("CHECKPOINT")
        kept = server.folder
    contents = [path.read_bytes() for path in kept.rglob("*") if path.is_file()]
    assert any(leaf(0) in data for data in contents)
    for token in (ledger.writer, ledger.audit):
        assert not any(token[6:].encode() in data for data in contents)
        assert token not in world.log.getvalue()


async def test_a_full_disk_is_said_and_changes_nothing(ledger: Ledger, world: Any, backend: str) -> None:
    """SQLite is given no page more; PostgreSQL, which has no such switch, is told to raise the error itself."""
    leaves = [leaf(i) for i in range(50)]
    await ledger.fill(leaves[:10])
    engine = world.gateway.database.engine
    if backend == "sqlite":
        used = await _scalar(engine, "PRAGMA page_count")
        await engine.dispose()  # the limit holds for a connection: all that come have it
        lift = _on_connect(engine, f"PRAGMA max_page_count={used + 2}")
    else:
        await _run(
            engine,
            "CREATE FUNCTION no_room() RETURNS trigger LANGUAGE plpgsql AS"
            " $$ BEGIN RAISE EXCEPTION 'no room' USING ERRCODE = '53100'; END $$",
        )
        await _run(engine, "CREATE TRIGGER no_room BEFORE INSERT ON ledger_entries EXECUTE FUNCTION no_room()")
    big = [entry(data, private=bytes(20_000)) for data in leaves[10:]]
    status, answer = await ledger.append(10, big)
    assert (status, answer["code"]) == (507, "storage-full")
    assert json.loads(await ledger.get(""))["size"] == 10
    if backend == "sqlite":
        lift()
        await engine.dispose()
    else:
        await _run(engine, "DROP TRIGGER no_room ON ledger_entries")
    assert await ledger.append(10, big) == (200, {"size": 50})


async def _scalar(engine: Any, statement: str) -> Any:
    async with engine.connect() as connection:
        return (await connection.execute(text(statement))).scalar()


async def _run(engine: Any, statement: str) -> None:
    async with engine.begin() as connection:
        await connection.execute(text(statement))


def _on_connect(engine: Any, statement: str) -> Any:
    def hook(connection: Any, _record: Any) -> None:
        cursor = connection.cursor()
        cursor.execute(statement)
        cursor.close()

    event.listen(engine.sync_engine, "connect", hook)
    return lambda: event.remove(engine.sync_engine, "connect", hook)


async def test_metrics_name_no_log(ledger: Ledger, world: Any) -> None:
    await ledger.fill([leaf(i) for i in range(4)])
    await ledger.append(0, [entry(leaf(0))])
    await ledger.get("/entries")
    assert await world.metric("teehouse_ledger_appended_total") == 4
    assert await world.metric("teehouse_ledger_requests_total", noun="entries", method="POST", code="200") == 2
    async with world.http.get(f"{world.url}/metrics") as response:
        assert "acme" not in await response.text()


async def test_the_database_going_away(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    from teehouse_cloud.errors import DatabaseError
    from teehouse_cloud.ledger import door

    async def broken(*_args: Any, **_more: Any) -> Any:
        raise DatabaseError("gone", code="db-unreachable")

    monkeypatch.setattr(door, "append", broken)
    status, answer = await ledger.append(0, [entry(leaf(0))])
    assert (status, answer["code"]) == (503, "db-unreachable")
