# SPDX-License-Identifier: Apache-2.0
"""Collateral older than what the client saw before: the file that remembers, the command, and what a session asks."""

from __future__ import annotations

import json
import threading
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from forge_tdx import NOW, ForgedQuote, crl, pki
from test_cli_evidence import row, run, verify

from teehouse.session.flow import Reply, verify_flow
from teehouse.verify import remembered as module
from teehouse.verify.remembered import MAX_SERIES, Remembered, default_file
from teehouse_core.appraise.artifacts.dispatch import artifact_policy
from teehouse_core.appraise.artifacts.tdx import verify_artifact
from teehouse_core.appraise.newest import GRACE, Newest, Seen, older, raise_to
from teehouse_core.appraise.policy import Policy
from teehouse_core.errors import LocalError

CHECK = "policy.collateral-newest"
EVALUATE = artifact_policy(Policy.preset("evaluate"), fresh=False)


def verdict(newest: Newest, tier: str = "hardware") -> Any:
    return SimpleNamespace(newest=newest, tier=tier)


def appraise(forged: ForgedQuote, newest: Newest | None) -> Any:
    return verify_artifact(
        forged.quote(),
        chain=None,
        collateral=forged.files(),
        nonce=None,
        report_data=None,
        policy=EVALUATE,
        now=NOW,
        newest=newest,
    )


def state_of(found: Any) -> str:
    return next((c.state for c in found.checks if c.id == CHECK), "not made")


def test_numbers_only_rise_and_lists_of_one_number_go_by_their_time() -> None:
    a, b, c = Seen(1, 100), Seen(1, 200), Seen(2, 50)
    assert older("crl:x", a, b)
    assert older("crl:x", b, c)
    assert not older("crl:x", b, a)
    assert not older("tcb-info:TDX:00", a, b)  # the same recovery, issued again
    assert older("tcb-info:TDX:00", b, c)
    assert raise_to({"crl:x": b}, {"crl:x": a, "crl:y": a}) == {"crl:x": b, "crl:y": a}


def test_what_an_appraisal_saw_refuses_older_evidence_later() -> None:
    first = appraise(ForgedQuote(), None)
    assert state_of(first) == "not made"
    kinds = sorted(series.partition(":")[0] for series in first.newest)
    assert kinds == ["crl", "crl", "qe-identity", "tcb-info"]
    assert state_of(appraise(ForgedQuote(), {})) == "not-applicable"
    assert state_of(appraise(ForgedQuote(), first.newest)) == "passed"
    for series in first.newest:
        seen = first.newest[series]
        newer = {series: replace(seen, number=seen.number + 1, issued=NOW - GRACE - 1)}
        refused = appraise(ForgedQuote(), newer)
        assert (refused.result, [c.id for c in refused.refusing]) == ("refused", [CHECK])
        assert "fetch anew" in refused.refusing[0].hint
        assert appraise(ForgedQuote(), {series: replace(newer[series], issued=NOW - GRACE)}).result == "accepted"


def test_an_older_list_of_the_same_number_is_older() -> None:
    late = appraise(ForgedQuote(), None).newest
    early = ForgedQuote(collateral={"pck_crl": crl("pck", issued=NOW - 20 * 86400).hex()})
    seen = {series: replace(one, issued=NOW - 8 * 86400) for series, one in late.items() if series.startswith("crl:")}
    assert [c.id for c in appraise(early, seen).refusing] == [CHECK]


def test_a_list_that_nobody_signed_teaches_nothing() -> None:
    forged = ForgedQuote(collateral={"tcb_info_signature": "11" * 64})
    assert not any(series.startswith("tcb-info") for series in appraise(forged, None).newest)
    revoked = ForgedQuote(collateral={"root_ca_crl": crl("root", revoke=pki().ca).hex()})
    assert not any(series.startswith("crl") for series in appraise(revoked, None).newest)


def test_the_file_keeps_what_vendors_signed_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "seen.json"
    first = Remembered(path)
    assert first.known() == {}
    first.learn([verdict({"crl:a": Seen(5, 10)}), verdict({"crl:b": Seen(7, 10)}, "simulated")])
    first.learn([verdict({"crl:a": Seen(4, 11)}, "none"), verdict({"crl:a": Seen(4, 11)})])
    assert Remembered(path).known() == {"crl:a": Seen(5, 10)}
    second = Remembered(path)
    second.learn([verdict({"crl:a": Seen(6, 12), "crl:c": Seen(1, 1)})])
    assert first.known() == {"crl:a": Seen(6, 12), "crl:c": Seen(1, 1)}  # of another process meanwhile
    assert json.loads(path.read_text())["v"] == "collateral-seen/1"
    assert [p.name for p in path.parent.iterdir()] == ["seen.json"]


def test_the_file_is_bounded(tmp_path: Path) -> None:
    kept = Remembered(tmp_path / "seen.json")
    kept.learn([verdict({f"crl:{n}": Seen(1, n) for n in range(MAX_SERIES + 50)})])
    known = Remembered(tmp_path / "seen.json").known()
    assert len(known) == MAX_SERIES
    assert min(one.issued for one in known.values()) == 50


@pytest.mark.parametrize(
    "text",
    [
        "",
        "no json",
        "[]",
        '{"v":"collateral-seen/2","seen":{}}',
        '{"v":"collateral-seen/1","seen":[]}',
        '{"v":"collateral-seen/1","seen":{"crl:a":[1]}}',
        '{"v":"collateral-seen/1","seen":{"crl:a":[-1,0]}}',
        '{"v":"collateral-seen/1","seen":{"crl:a":[1,true]}}',
        '{"v":"collateral-seen/1","seen":{"crl:a":[1,1e99]}}',
        '{"v":"collateral-seen/1","seen":' + "[" * 5000,
        " " * (module.MAX_FILE + 1),
    ],
)
def test_a_damaged_file_is_an_error_not_a_new_beginning(text: str, tmp_path: Path) -> None:
    path = tmp_path / "seen.json"
    path.write_text(text)
    for act in (Remembered(path).known, lambda: Remembered(path).learn([verdict({"crl:a": Seen(1, 1)})])):
        with pytest.raises(LocalError) as caught:
            act()
        assert caught.value.code == "state-file"
        assert "--no-state" in (caught.value.hint or "")
    assert path.read_text() == text


def test_where_nothing_can_be_written_this_process_still_remembers(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    kept = Remembered(tmp_path / "file" / "seen.json")
    with pytest.raises(LocalError):
        kept.known()  # a folder that is a file: not a state of its own
    alone = Remembered(None)
    alone.learn([verdict({"crl:a": Seen(3, 1)})])
    assert alone.known() == {"crl:a": Seen(3, 1)}


def test_an_unwritable_folder_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "replace", lambda *_: (_ for _ in ()).throw(OSError(30, "read-only")))
    kept = Remembered(tmp_path / "seen.json")
    kept.learn([verdict({"crl:a": Seen(3, 1)})])
    assert not kept.written
    assert kept.known() == {"crl:a": Seen(3, 1)}
    monkeypatch.undo()
    kept.learn([])
    assert kept.written
    assert list(tmp_path.iterdir()) == [tmp_path / "seen.json"]


def test_many_at_once(tmp_path: Path) -> None:
    kept = Remembered(tmp_path / "seen.json")
    threads = [
        threading.Thread(target=lambda n=n: kept.learn([verdict({f"crl:{n % 5}": Seen(n, n)})])) for n in range(25)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert Remembered(tmp_path / "seen.json").known() == {f"crl:{n}": Seen(20 + n, 20 + n) for n in range(5)}


def test_a_session_asks_and_tells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Newest | None] = []

    def appraise_set(*_args: object, newest: Newest | None, **_options: object) -> list[Any]:
        asked.append(newest)
        return [SimpleNamespace(verdict=verdict({"crl:a": Seen(9, 9)}))]

    monkeypatch.setattr("teehouse.session.flow.appraise_set", appraise_set)
    kept = Remembered(tmp_path / "seen.json")
    for given in (kept, kept, None):
        flow = verify_flow(
            "http://127.0.0.1",
            "ep-20260101000000-tests",
            EVALUATE,
            count=1,
            clock=lambda: NOW,
            random=bytes,
            remembered=given,
        )
        next(flow)
        body = b'{"v":"evidence-set/1","endpoint":"ep-20260101000000-tests","bundles":["AA=="]}'
        with pytest.raises(StopIteration):
            flow.send(Reply(200, "application/json", body))
    assert asked == [{}, {"crl:a": Seen(9, 9)}, None]
    assert default_file().name == "collateral-seen.json"


def test_the_command_remembers_only_where_it_is_told(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file, collateral, at = row("UpToDate")
    state = tmp_path / "seen.json"
    code, out, _ = verify(capsys, file, collateral, at, "--json", "--state", state)
    assert code == 0
    assert CHECK in {check["id"] for check in json.loads(out)["checks"]}
    seen = json.loads(state.read_text())
    assert len(seen["seen"]) >= 3
    for pair in seen["seen"].values():
        pair[0] += 1
        pair[1] -= 30 * 86400
    state.write_text(json.dumps(seen))
    code, out, _ = verify(capsys, file, collateral, at, "--json", "--state", state)
    assert code == 10
    assert [c["id"] for c in json.loads(out)["checks"] if c["required"] and c["state"] == "failed"] == [CHECK]
    for more in ((), ("--no-state",)):
        code, out, _ = verify(capsys, file, collateral, at, "--json", *more)
        assert code == 0
        assert CHECK not in {check["id"] for check in json.loads(out)["checks"]}
    assert verify(capsys, file, collateral, at, "--state", state, "--no-state")[0] == 2
    state.write_text("{}")
    code, _, err = verify(capsys, file, collateral, at, "--state", state)
    assert (code, "--no-state" in err) == (2, True)
    assert run(capsys, "verify", "--help")[0] == 0
