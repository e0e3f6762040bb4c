# SPDX-License-Identifier: Apache-2.0
"""`teehouse audit` against ledgers that are honest, and against every lie one can tell, over real HTTP."""

from __future__ import annotations

import csv
import json
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from audit_support import NOW, ORIGIN, TOKEN, LyingLedger, cosigned, entry, pins, write_pins

from teehouse.audit import leaves as leaf_files
from teehouse.audit.memory import Memory
from teehouse.cli import exits
from teehouse.cli.main import main
from teehouse_core.errors import LocalError
from teehouse_core.log.merkle import leaf_hash


class Auditor:
    """One user: pins, state, and the command line."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder, self._capsys = folder, capsys
        self.state = folder / "state"
        self._pins = write_pins(folder / "pins.json")
        monkeypatch.setenv("TEEHOUSE_AUDIT_TOKEN", TOKEN)

    def run(
        self, *arguments: str | Path, url: str | None = None, state: bool = True, quorum: int = 2
    ) -> tuple[int, Any]:
        """Exit code and the last JSON document of stdout."""
        write_pins(self._pins, quorum)
        more = ["--pins", self._pins, *(["--state", self.state] if state else []), *(["--url", url] if url else [])]
        code = main([str(part) for part in ("audit", *arguments, *more, "--json")])
        said = self._capsys.readouterr().out.strip()
        try:
            return code, json.loads(said)
        except ValueError:
            return code, [json.loads(line) for line in said.splitlines()]

    def export(self, ledger: LyingLedger, name: str = "export", *more: str, **options: Any) -> tuple[int, Any]:
        with ledger.serving() as url:
            return self.run("export", self.folder / name, *more, url=url, **options)

    def verify(self, name: str = "export") -> tuple[int, Any]:
        return self.run("verify", self.folder / name)

    def watch(self, ledger: LyingLedger, *more: str) -> tuple[int, Any]:
        with ledger.serving() as url:
            return self.run("watch", "--once", *more, url=url)


@pytest.fixture
def auditor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Auditor:
    return Auditor(tmp_path, monkeypatch, capsys)


def honest(size: int = 600) -> LyingLedger:
    return LyingLedger([entry(n) for n in range(size)])


def error_of(said: Any) -> dict[str, Any]:
    if isinstance(said, list):
        found: dict[str, Any] = next(item for item in said if item.get("event") == "alarm")
        return found
    if said.get("event") == "alarm":
        return dict(said)
    return dict(said["error"])


# ── an honest ledger ─────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("form", ["jsonl", "csv"])
@pytest.mark.parametrize("size", [1, 255, 256, 1301])
def test_an_export_proves_itself_offline(auditor: Auditor, form: str, size: int) -> None:
    code, said = auditor.export(honest(size), "export", "--format", form)
    assert (code, said["entries"]) == (exits.OK, size)
    assert {path.name for path in (auditor.folder / "export").iterdir()} == {
        "about.json", "checkpoint", "leaf-hashes", f"entries.{form}"
    }  # fmt: skip
    shutil.rmtree(auditor.state)
    code, said = auditor.verify()
    assert code == exits.OK
    assert said["complete"] is True
    assert (said["entries"], said["names"], said["seen_before"]) == (size, size, None)
    assert said["checkpoint"]["operators"] == ["ada", "bob"]
    assert auditor.verify()[1]["seen_before"] == size


def test_names_may_be_forgotten(auditor: Auditor) -> None:
    ledger = honest(10)
    ledger.entries = [(leaf, None if n % 2 else opening) for n, (leaf, opening) in enumerate(ledger.entries)]
    assert auditor.export(ledger)[0] == exits.OK
    assert auditor.verify()[1]["names"] == 5


def test_a_spreadsheet_runs_nothing(auditor: Auditor) -> None:
    assert auditor.export(honest(3), "export", "--format", "csv")[0] == exits.OK
    with (auditor.folder / "export" / "entries.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["key"] for row in rows] == ["'=key-0", "'=key-1", "'=key-2"]
    assert json.loads(rows[0]["opening"])["names"] == ["Ada 0", "李雷"]


def test_a_selection_is_made_here_and_says_so(auditor: Auditor) -> None:
    code, said = auditor.export(honest(100), "export", "--op", "release", "--decision", "refused")
    assert (code, said["entries"]) == (exits.OK, 13)
    code, said = auditor.verify()
    assert (code, said["entries"], said["complete"]) == (exits.OK, 13, False)
    about = json.loads((auditor.folder / "export" / "about.json").read_text())
    assert about["filter"] == {"op": "release", "decision": "refused"}


def test_list_and_show(auditor: Auditor) -> None:
    with honest(600).serving() as url:
        code, said = auditor.run("list", "-n", "3", url=url)
        assert code == exits.OK
        assert [item["index"] for item in said["entries"]] == [597, 598, 599]
        code, said = auditor.run("list", "-n", "2", "--key", "=key-1", "--op", "key.create", url=url)
        assert [item["index"] for item in said["entries"]] == [585, 597]
        proof = auditor.folder / "one.tlog-proof"
        code, said = auditor.run("show", "300", "--save-proof", proof, url=url)
        assert (code, said["entry"]["names"]) == (exits.OK, ["Ada 300", "李雷"])
        assert auditor.run("show", "600", url=url)[0] == exits.USAGE
    code, said = auditor.run("verify", proof)
    assert (code, said["index"], said["entry"]["key"]) == (exits.OK, 300, "=key-0")
    text = proof.read_bytes()
    proof.write_bytes(text.replace(b"index 300", b"index 301"))
    assert auditor.run("verify", proof)[0] == exits.REFUSED


def test_watch_goes_on_where_it_was(auditor: Auditor) -> None:
    code, said = auditor.watch(honest(300))
    assert code == exits.OK
    assert [item["event"] for item in said].count("entry") == 300
    code, said = auditor.watch(honest(300))
    assert [item["event"] for item in [said]] == ["checkpoint"]
    code, said = auditor.watch(honest(700))
    assert (code, said[0]["index"], said[-1]["size"]) == (exits.OK, 300, 700)
    assert auditor.export(honest(700))[0] == exits.OK
    assert auditor.watch(honest(701))[1][0]["index"] == 700


def test_watch_catches_up_after_list_saw_more(auditor: Auditor) -> None:
    assert auditor.watch(honest(300))[0] == exits.OK
    with honest(500).serving() as url:
        assert auditor.run("list", url=url)[0] == exits.OK
    assert auditor.watch(honest(700))[0] == exits.OK
    with Memory.opened(auditor.state, ORIGIN) as memory:
        assert memory.known() == 700


def test_people_read_it_too(auditor: Auditor, capsys: pytest.CaptureFixture[str]) -> None:
    with honest(30).serving() as url:
        common = ["--pins", str(auditor.folder / "pins.json"), "--state", str(auditor.state)]
        assert main(["audit", "list", "--url", url, *common]) == 0
        shown = capsys.readouterr()
        assert "evidence" not in shown.out
        assert "refused" in shown.out
        assert "2 of 2 witness operators (ada, bob)" in shown.err
        assert main(["audit", "show", "3", "--url", url, *common]) == 0
        assert main(["audit", "export", str(auditor.folder / "e"), "--url", url, *common]) == 0
        assert main(["audit", "watch", "--once", "--url", url, *common]) == 0
    assert main(["audit", "verify", str(auditor.folder / "e"), *common]) == 0
    assert "proven" in capsys.readouterr().out
    write_pins(auditor.folder / "pins.json", 0)
    assert main(["audit", "verify", str(auditor.folder / "e"), *common]) == 0
    assert "NO WITNESS" in capsys.readouterr().err


# ── lies about entries ───────────────────────────────────────────────────────────────────────────────────────────


def rewritten(ledger: LyingLedger, n: int) -> LyingLedger:
    """Entry n says another thing; the checkpoint, which the ledger cannot make, stays."""
    entries = [*ledger.entries]
    entries[n] = entry(n, decision="done")
    return replace(ledger, entries=entries, note=cosigned(ledger.leaves))


def edit_rows(change: Callable[[list[dict[str, Any]]], Any]) -> Callable[[list[dict[str, Any]]], list[dict[str, Any]]]:
    def edited(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        change(rows)
        return rows

    return edited


def swap(rows: list[dict[str, Any]]) -> None:
    """Two entries change places and indexes."""
    rows[41], rows[42] = rows[42] | {"index": 41}, rows[41] | {"index": 42}


LIES: dict[str, tuple[Callable[[LyingLedger], LyingLedger], str, int]] = {
    "rewrites": (lambda x: replace(rewritten(x, 41), tiles_of=x.leaves), "log-rewritten", 41),
    "hides": (lambda x: replace(x, rows=edit_rows(lambda rows: rows.pop(41))), "log-hidden", 41),
    "hides and closes the gap": (
        lambda x: replace(
            x,
            rows=lambda rows: [*rows[:41], *({**row, "index": row["index"] - 1} for row in rows[42:])],
        ),
        "log-hidden",
        599,
    ),
    "reorders": (lambda x: replace(x, rows=edit_rows(swap)), "log-rewritten", 41),
    "reorders the page": (lambda x: replace(x, rows=edit_rows(lambda rows: rows.reverse())), "log-hidden", 0),
    "truncates": (lambda x: replace(x, entries=x.entries[:400], note=cosigned(x.leaves)), "log-hidden", 400),
    "inserts": (
        lambda x: replace(x, entries=[*x.entries[:41], entry(9999), *x.entries[41:-1]], note=cosigned(x.leaves),
                          tiles_of=x.leaves),
        "log-rewritten",
        41,
    ),
    "shows other names": (
        lambda x: replace(x, rows=edit_rows(lambda rows: rows[41].update(opening=entry(7)[1]))),
        "log-opening",
        41,
    ),
}  # fmt: skip


@pytest.mark.parametrize("lie", LIES)
@pytest.mark.parametrize("seen", [False, True])
def test_a_ledger_that_lies_about_entries_is_caught(auditor: Auditor, lie: str, seen: bool) -> None:
    """Whether or not this user looked before: the first entry where hashes part is named, by export and by watch."""
    tell, expected, index = LIES[lie]
    ledger = honest(600)
    if seen:
        assert auditor.watch(honest(300))[0] == exits.OK
    if lie == "hides and closes the gap":
        code, said = auditor.export(tell(ledger))
        assert (code, error_of(said)["code"]) == (exits.REFUSED, expected)
        return
    code, said = auditor.export(tell(ledger))
    assert (code, error_of(said)["code"], error_of(said)["index"]) == (exits.REFUSED, expected, index), said
    if not seen:  # who has seen them does not ask for them again
        code, said = auditor.watch(tell(ledger))
        assert (code, error_of(said)["code"], error_of(said)["index"]) == (exits.REFUSED, expected, index), said
    with tell(ledger).serving() as url:
        code, said = auditor.run("list", "-n", "600", url=url)
    assert code == exits.REFUSED, said
    assert auditor.watch(honest(600))[0] == exits.OK  # nothing of the lie was kept


def test_a_ledger_that_makes_a_whole_other_tree_is_caught(auditor: Auditor) -> None:
    """Entries and tiles agree with each other and not with the signature; what was seen before names the entry."""
    code, said = auditor.export(rewritten(honest(), 41))
    assert (code, error_of(said)["code"]) == (exits.REFUSED, "log-rewritten")
    assert "nothing that was seen before" in error_of(said)["message"]
    assert auditor.watch(honest(300))[0] == exits.OK
    code, said = auditor.export(rewritten(honest(), 41), "again")
    assert (code, error_of(said)["code"], error_of(said)["index"]) == (exits.REFUSED, "log-rewritten", 41)
    with rewritten(honest(), 41).serving() as url:
        code, said = auditor.run("list", url=url)
    assert (code, error_of(said)["code"], error_of(said)["index"]) == (exits.REFUSED, "log-rewritten", 41)
    code, said = auditor.watch(rewritten(honest(), 500))
    assert (code, error_of(said)["code"], error_of(said)["index"]) == (exits.REFUSED, "log-rewritten", 300)


# ── two histories, both signed ───────────────────────────────────────────────────────────────────────────────────


def forked(size: int, n: int) -> LyingLedger:
    """The log itself, its key stolen and its witnesses asleep, signed another history from entry n on."""
    return LyingLedger([entry(k, reason="other") if k >= n else entry(k) for k in range(size)])


@pytest.mark.parametrize(("size", "n"), [(600, 41), (600, 599), (800, 0), (800, 300)])
def test_a_fork_is_caught_and_named(auditor: Auditor, size: int, n: int) -> None:
    assert auditor.export(honest(600))[0] == exits.OK
    code, said = auditor.watch(forked(size, n))
    assert (code, error_of(said)["code"], error_of(said)["index"]) == (exits.REFUSED, "log-fork", n), said
    code, said = auditor.export(forked(size, n), "fork")
    assert (code, error_of(said)["code"], error_of(said)["index"]) == (exits.REFUSED, "log-fork", n), said
    code, said = auditor.verify("fork")
    assert (code, error_of(said)["code"], error_of(said)["index"]) == (exits.REFUSED, "log-fork", n), said
    with forked(size, n).serving() as url:
        code, said = auditor.run("list", url=url)
    assert (code, error_of(said)["code"], error_of(said)["index"]) == (exits.REFUSED, "log-fork", n), said
    evidence = sorted(path.name for path in next(auditor.state.iterdir()).glob("conflict-*"))
    assert len(evidence) == 1
    assert auditor.watch(honest(601))[0] == exits.OK


@pytest.mark.parametrize("size", [0, 1, 599])
def test_a_rollback_is_caught(auditor: Auditor, size: int) -> None:
    assert auditor.export(honest(600))[0] == exits.OK
    old = replace(honest(600), note=cosigned(honest(size).leaves))
    for code, said in (auditor.watch(old), auditor.export(old, "old"), auditor.watch(honest(size))):
        assert (code, error_of(said)["code"]) == (exits.REFUSED, "log-rollback"), said
        assert error_of(said)["index"] == size
    gone = replace(honest(600), silent=frozenset({"checkpoint"}))
    code, said = auditor.watch(gone)
    assert (code, error_of(said)["code"]) == (exits.REFUSED, "log-rollback")


def test_a_rollback_to_another_history_names_the_entry(auditor: Auditor) -> None:
    assert auditor.export(honest(600))[0] == exits.OK
    shutil.copytree(auditor.state, auditor.folder / "kept")
    shutil.rmtree(auditor.state)
    assert auditor.export(forked(500, 41), "fork")[0] == exits.OK  # to somebody who saw nothing before
    shutil.rmtree(auditor.state)
    shutil.copytree(auditor.folder / "kept", auditor.state)
    code, said = auditor.verify("fork")
    assert (code, error_of(said)["code"], error_of(said)["index"]) == (exits.REFUSED, "log-rollback", 41)


def test_an_old_checkpoint_is_stale_for_who_asks(auditor: Auditor) -> None:
    now = int(time.time())
    for at, code in ((now - 3600, exits.REFUSED), (now + 3600, exits.REFUSED), (now - 5, exits.OK)):
        ledger = honest(5)
        ledger.note = cosigned(ledger.leaves, at=at)
        assert auditor.watch(ledger, "--max-age", "60")[0] == code
    write_pins(auditor.folder / "pins.json", 0)
    ledger.note = cosigned(ledger.leaves, by=[])
    with ledger.serving() as url:
        code, said = auditor.run("watch", "--once", "--max-age", "60", url=url, quorum=0)
    assert (code, error_of(said)["code"]) == (exits.REFUSED, "log-stale")  # no witness: no age


# ── signatures ───────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("note", "expected"),
    [
        (lambda x: cosigned(x, key="thief"), "log-unsigned"),
        (lambda x: cosigned(x, by=["w1.example"]), "log-quorum"),
        (lambda x: cosigned(x, by=["w1.example", "w9.example"]), "log-quorum"),
        (lambda x: cosigned(x, origin="tks.example/tenant/other"), "log-origin"),
        (lambda x: cosigned(x).replace(b"\n600\n", b"\n599\n"), "log-signature"),
    ],
)
def test_who_must_sign_must_sign(auditor: Auditor, note: Callable[[list[bytes]], bytes], expected: str) -> None:
    ledger = honest()
    ledger.note = note(ledger.leaves)
    for code, said in (auditor.watch(ledger), auditor.export(ledger)):
        assert (code, error_of(said)["code"]) == (exits.REFUSED, expected)
    assert not (auditor.folder / "export").exists()


def test_another_tenants_entry_is_refused(auditor: Auditor) -> None:
    ledger = LyingLedger([entry(0), entry(1, tenant="other")])
    code, said = auditor.export(ledger)
    assert (code, error_of(said)["code"], error_of(said)["index"]) == (exits.REFUSED, "log-foreign-entry", 1)


def test_a_repeated_id_is_refused(auditor: Auditor) -> None:
    ledger = LyingLedger([entry(0), entry(1), entry(2, id="ab" * 16), entry(3, id="ab" * 16)])
    code, said = auditor.export(ledger)
    assert (code, error_of(said)["code"]) == (exits.REFUSED, "log-repeated-id")


# ── exports that were touched ────────────────────────────────────────────────────────────────────────────────────


def edited(path: Path, change: Callable[[list[str]], Any]) -> None:
    lines = path.read_text().splitlines(keepends=True)
    change(lines)
    path.write_text("".join(lines))


def other_decision(lines: list[str], n: int) -> None:
    assert "granted" in lines[n]
    lines[n] = lines[n].replace("granted", "refused")


TOUCHES: dict[str, tuple[Callable[[list[str]], Any], str, int]] = {
    "rewrites": (lambda lines: other_decision(lines, 41), "log-rewritten", 41),
    "drops": (lambda lines: lines.pop(41), "log-hidden", 41),
    "drops the last": (lambda lines: lines.pop(), "log-hidden", 599),
    "repeats": (lambda lines: lines.insert(41, lines[41]), "log-hidden", 41),
    "swaps": (lambda lines: lines.__setitem__(slice(41, 43), [lines[42], lines[41]]), "log-hidden", 41),
    "adds": (lambda lines: lines.append(lines[0].replace('"index":0', '"index":600')), "log-hidden", 600),
    "renames": (lambda lines: lines.__setitem__(41, lines[41].replace("Ada 41", "Eve 41")), "log-opening", 41),
}


@pytest.mark.parametrize("touch", TOUCHES)
def test_a_touched_export_is_refused(auditor: Auditor, touch: str) -> None:
    change, expected, index = TOUCHES[touch]
    assert auditor.export(honest())[0] == exits.OK
    edited(auditor.folder / "export" / "entries.jsonl", change)
    code, said = auditor.verify()
    assert (code, error_of(said)["code"], error_of(said)["index"]) == (exits.REFUSED, expected, index), said
    assert said["result"] == "refused"


def test_touched_entries_and_hashes_are_refused(auditor: Auditor) -> None:
    assert auditor.export(honest())[0] == exits.OK
    folder = auditor.folder / "export"
    edited(folder / "entries.jsonl", lambda lines: other_decision(lines, 41))
    leaf = json.loads((folder / "entries.jsonl").read_text().splitlines()[41])["leaf"].encode()
    hashes = bytearray((folder / "leaf-hashes").read_bytes())
    hashes[41 * 32 : 42 * 32] = leaf_hash(leaf)
    (folder / "leaf-hashes").write_bytes(hashes)
    code, said = auditor.verify()
    assert (code, error_of(said)["code"], error_of(said)["index"]) == (exits.REFUSED, "log-rewritten", 41)
    shutil.rmtree(auditor.state)
    code, said = auditor.verify()
    assert (code, error_of(said)["code"]) == (exits.REFUSED, "log-rewritten")


def test_a_touched_cell_is_refused(auditor: Auditor) -> None:
    assert auditor.export(honest(), "export", "--format", "csv")[0] == exits.OK
    edited(auditor.folder / "export" / "entries.csv",
           lambda lines: lines.__setitem__(42, lines[42].replace(",granted,", ",refused,", 1)))  # fmt: skip
    code, said = auditor.verify()
    assert (code, error_of(said)["code"], error_of(said)["index"]) == (exits.REFUSED, "log-rewritten", 41)


@pytest.mark.parametrize(
    ("name", "data", "code"),
    [
        ("about.json", b"{", exits.MALFORMED),
        ("about.json", b'{"v":"audit-export/2"}', exits.UNSUPPORTED),
        ("about.json", b'{"v":"audit-export/1","format":"xml","filter":{}}', exits.MALFORMED),
        ("checkpoint", b"nothing\n", exits.MALFORMED),
        ("leaf-hashes", b"x" * 33, exits.MALFORMED),
        ("entries.jsonl", b"[]\n", exits.MALFORMED),
        ("entries.jsonl", b"x" * 600_000, exits.MALFORMED),
        ("entries.jsonl", b'{"index":0,"leaf":1,"opening":null}\n', exits.MALFORMED),
    ],
)
def test_exit_codes_of_what_is_no_export(auditor: Auditor, name: str, data: bytes, code: int) -> None:
    assert auditor.export(honest(5))[0] == exits.OK
    (auditor.folder / "export" / name).write_bytes(data)
    assert auditor.verify()[0] == code
    assert auditor.run("verify", auditor.folder / "nowhere")[0] == exits.USAGE


# ── the rest ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_answers_that_are_nonsense(auditor: Auditor) -> None:
    for noun, data in (
        ("checkpoint", b"nonsense"),
        ("entries", b"[]"),
        ("entries", b'{"entries":[{"index":"0","leaf":""}]}'),
        ("entries", b'{"entries":[{"index":0,"leaf":"=="}]}'),
    ):
        assert auditor.watch(replace(honest(5), raw={noun: data}))[0] == exits.MALFORMED
    with replace(honest(300), raw={"tile": b"short"}).serving() as url:
        assert auditor.run("list", url=url)[0] == exits.REFUSED


def test_wrong_use_says_what_to_do(
    auditor: Auditor, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with honest(5).serving() as url:
        monkeypatch.setenv("TEEHOUSE_AUDIT_TOKEN", "th-la-wrong")
        code, said = auditor.run("list", url=url)
        assert (code, said["error"]["code"]) == (exits.USAGE, "audit-token")
        monkeypatch.setenv("TEEHOUSE_AUDIT_TOKEN", TOKEN)
        code, said = auditor.run("list", url=url.replace("tenant-demo", "tenant-other"))
        assert (code, said["error"]["code"]) == (exits.USAGE, "audit-pins")
        (auditor.folder / "there").mkdir()
        assert auditor.run("export", auditor.folder / "there", url=url)[1]["error"]["code"] == "file-exists"
        assert auditor.run("export", auditor.folder / "x", "--format", "xml", url=url)[0] == exits.USAGE
    for bad in ("http://teehouse.example/ledger/v1/tenant-demo", "https://x/y", "tenant-demo"):
        code, said = auditor.run("list", url=bad)
        assert (code, said["error"]["code"]) == (exits.USAGE, "audit-url")
    code, said = auditor.run("watch", "--once", url="http://127.0.0.1:9/ledger/v1/tenant-demo")
    assert (code, error_of(said)["code"]) == (exits.UNREACHABLE, "unreachable")
    (auditor.folder / "bad.json").write_text('{"v":"audit-pins/1","log_keys":[]}')
    assert main(["audit", "verify", str(auditor.folder), "--pins", str(auditor.folder / "bad.json")]) == exits.USAGE
    capsys.readouterr()


def test_memory_that_was_spoilt_is_not_taken_for_none(auditor: Auditor) -> None:
    assert auditor.export(honest(5))[0] == exits.OK
    folder = next(auditor.state.iterdir())
    (folder / "leaf-hashes").write_bytes(bytes(5 * 32))
    code, said = auditor.watch(honest(6))
    assert (code, error_of(said)["code"]) == (exits.USAGE, "audit-state")
    (folder / "leaf-hashes").unlink()
    assert auditor.watch(honest(6))[0] == exits.OK
    (folder / "checkpoint").write_bytes(b"")
    code, said = auditor.watch(honest(6))
    assert (code, error_of(said)["code"]) == (exits.USAGE, "audit-state")


def test_pins_are_one_log_of_a_name() -> None:
    assert pins().origin_of("tenant-demo") == ORIGIN
    with pytest.raises(LocalError):
        pins().origin_of("public")
    two = replace(pins(), log_keys=(*pins().log_keys, *pins(origin="other.example/tenant/demo").log_keys))
    with pytest.raises(LocalError):
        two.origin_of("tenant-demo")


def test_where_two_files_of_hashes_part(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    hashes = [bytes([n % 256, n // 256]) + bytes(30) for n in range(10_000)]
    one.write_bytes(b"".join(hashes))
    other.write_bytes(b"".join([*hashes[:9_000], bytes(32), *hashes[9_001:]]))
    assert leaf_files.first_difference(one, other, 10_000) == 9_000
    assert leaf_files.first_difference(one, other, 9_000) is None
    assert leaf_files.first_difference(one, tmp_path / "none", 5) == 0
    assert NOW > 0
