# SPDX-License-Identifier: Apache-2.0
"""The parts of the compat door by themselves: the attestation agent's dialect, rules, challenges, tokens."""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import hashlib
import json
import time
import warnings
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from compat_support import KEYS, Peer, accounts_file, policies, rules, sample, sample_policy
from hypothesis import given
from hypothesis import strategies as st
from joserfc import jwt
from joserfc.jwk import RSAKey

from teehouse_core.appraise.policy import Policy
from teehouse_core.errors import LocalError
from teehouse_core.evidence.snp import Tcb, parse_report
from teehouse_enclave.keys.compat.accounts import Account, Accounts
from teehouse_enclave.keys.compat.appraisal import CocoVerdict, appraise_coco, appraise_report
from teehouse_enclave.keys.compat.challenge import LIFE, ChallengeDesk, report_data
from teehouse_enclave.keys.compat.coco import CocoEvidence, parse_evidence
from teehouse_enclave.keys.compat.errors import CompatError
from teehouse_enclave.keys.compat.exchange import PERIOD, ExchangeKeys
from teehouse_enclave.keys.compat.rules import Rule, Rules
from teehouse_enclave.keys.compat.tokens import ISSUER, TokenSigner
from teehouse_enclave.keys.errors import StorageError
from teehouse_enclave.keys.policy import COCO, ReleasePolicy
from teehouse_enclave.platform.simulated import SimulatedPlatform

VECTORS = Path(__file__).resolve().parents[3] / "shared" / "vectors"
NONCE = "5e" * 32
KNOWN = {policy.id: policy.sha256 for policy in policies()}


def manifest(kind: str) -> list[dict[str, Any]]:
    if not (VECTORS / "manifest.json").exists():
        pytest.skip("missing shared vectors: no ../shared/vectors beside the repository")
    found: list[dict[str, Any]] = json.loads((VECTORS / "manifest.json").read_text("utf-8"))[kind]
    return found


def code_of(raw: bytes) -> str:
    with pytest.raises(CompatError) as caught:
        parse_evidence(raw)
    return caught.value.code


# ── evidence: shapes ─────────────────────────────────────────────────────────────────────────────────────────────────


def tcb_json(tcb: Tcb) -> dict[str, Any]:
    return {"fmc": tcb.fmc, "bootloader": tcb.bootloader, "tee": tcb.tee, "snp": tcb.snp, "microcode": tcb.microcode}


def sev_json(raw: bytes, spell: Any) -> dict[str, Any]:
    """A report as the `sev` crate writes it; `spell` writes byte arrays."""
    report = parse_report(raw)
    word = lambda at, size: int.from_bytes(raw[at : at + size], "little")  # noqa: E731
    version = lambda at: {"build": raw[at], "minor": raw[at + 1], "major": raw[at + 2]}  # noqa: E731
    old = spell is list
    document: dict[str, Any] = {
        "version": report.version,
        "guest_svn": report.guest_svn,
        "policy": report.policy.raw,
        "family_id": spell(raw[0x10:0x20]),
        "image_id": spell(raw[0x20:0x30]),
        "vmpl": report.vmpl,
        "sig_algo": word(0x34, 4),
        "current_tcb": tcb_json(report.current_tcb),
        "plat_info": report.platform_info.raw,
        "_author_key_en" if old else "key_info": word(0x48, 4),
        "report_data": spell(report.report_data),
        "measurement": spell(report.measurement),
        "host_data": spell(report.host_data),
        "id_key_digest": spell(report.id_key_digest),
        "author_key_digest": spell(report.author_key_digest),
        "report_id": spell(raw[0x140:0x160]),
        "report_id_ma": spell(raw[0x160:0x180]),
        "reported_tcb": tcb_json(report.reported_tcb),
        "chip_id": spell(report.chip_id),
        "committed_tcb": tcb_json(report.committed_tcb),
        "launch_tcb": tcb_json(report.launch_tcb),
        "signature": {"r": spell(raw[0x2A0:0x2E8]), "s": spell(raw[0x2E8:0x330])},
    }
    if report.version >= 3:
        document |= {"cpuid_fam_id": raw[0x188], "cpuid_mod_id": raw[0x189], "cpuid_step": raw[0x18A]}
    if report.version >= 5:
        document |= {"launch_mit_vector": word(0x1F8, 8), "current_mit_vector": word(0x200, 8)}
    if old:
        for name, at in (("current", 0x1E8), ("committed", 0x1EC)):
            document |= {f"{name}_{part}": value for part, value in version(at).items()}
    else:
        document |= {"current": version(0x1E8), "committed": version(0x1EC)}
    return document


def snp_evidence(raw: bytes, spell: Any, leaf: bytes | None = None) -> bytes:
    chain = None if leaf is None else [{"cert_type": "VCEK", "data": list(leaf)}]
    return json.dumps({"attestation_report": sev_json(raw, spell), "cert_chain": chain}).encode()


def reserved_are_zero(raw: bytes) -> bool:
    """What JSON of the `sev` crate does not carry, so that only such reports come back whole."""
    gaps = [(0x4C, 0x50), (0x18B, 0x1A0), (0x1EB, 0x1EC), (0x1EF, 0x1F0), (0x208, 0x2A0), (0x330, 0x4A0)]
    return not any(any(raw[low:high]) for low, high in gaps)


@pytest.mark.parametrize("spell", [list, bytes.hex], ids=["numbers", "hex"])
def test_genuine_reports_come_back_from_the_agents_json(spell: Any) -> None:
    seen = 0
    for row in manifest("snp"):
        raw = (VECTORS / row["file"]).read_bytes()
        if reserved_are_zero(raw):
            assert parse_evidence(snp_evidence(raw, spell)).report == raw, row["file"]
            seen += 1
    assert seen > 5


@pytest.mark.parametrize("spell", [list, bytes.hex], ids=["numbers", "hex"])
def test_a_genuine_report_is_appraised_in_this_dialect(spell: Any) -> None:
    standard = Policy.preset("standard")
    wide = dataclasses.replace(
        standard,
        required_references=(),
        snp=dataclasses.replace(
            standard.snp,
            products=("Milan", "Genoa", "Turin"),
            report_version_minimum=2,
            alias_check_required=False,
            revocation=("good", "unknown"),
            vmpl=(0, 1),
        ),
    )
    tiers = set()
    for row in manifest("snp"):
        if not row["leaf_cert"] or row["debug"]:
            continue
        raw = (VECTORS / row["file"]).read_bytes()
        evidence = parse_evidence(snp_evidence(raw, spell, (VECTORS / row["leaf_cert"]).read_bytes()))
        now = int(datetime.fromisoformat(f"{row['leaf_valid'][0]}T00:00:00+00:00").timestamp()) + 86_400
        verdict = appraise_report(evidence, wide, bytes.fromhex(row["report_data"]), now, {})
        tiers.add(verdict.tier)
        other = appraise_report(evidence, wide, bytes(63) + b"\1", now, {})
        assert not other.accepted
        assert "artifact.report-data" in other.failed
        if verdict.accepted:
            assert verdict.tier == "hardware"
            assert not verdict.simulated
            break
    else:
        pytest.fail(f"no genuine report was accepted; tiers {tiers}")


def test_genuine_quotes_are_accepted_with_their_collateral_and_refused_without() -> None:
    policy = dataclasses.replace(Policy.preset("standard"), required_references=())
    accepted = 0
    for row in manifest("tdx"):
        good = [one for one in row.get("verify", []) if one["result"] == "UpToDate"]
        if not good or not row["tech"].startswith("tdx-"):
            continue
        raw, data = (VECTORS / row["file"]).read_bytes(), bytes.fromhex(row["report_data"])
        evidence = parse_evidence(json.dumps({"cc_eventlog": None, "quote": base64.b64encode(raw).decode()}).encode())
        now = int(datetime.fromisoformat(good[0]["at"]).timestamp())
        files = {"some.json": (VECTORS / good[0]["collateral"]).read_bytes()}
        bare = appraise_report(evidence, policy, data, now, {})
        assert not bare.accepted
        assert "tdx.collateral.dates" in bare.failed
        verdict = appraise_report(evidence, policy, data, now, files)
        if verdict.accepted:  # some have attributes that the policy refuses
            accepted += 1
            assert verdict.tier == "hardware"
            assert not verdict.simulated
            assert appraise_report(evidence, policy, bytes(63) + b"\1", now, files).failed == ("artifact.report-data",)
        if accepted == 3:
            return
    pytest.fail(f"only {accepted} genuine quotes were accepted")


@pytest.mark.parametrize(
    ("raw", "code"),
    [
        (b"", "evidence-malformed"),
        (b"[]", "evidence-malformed"),
        (b"{", "evidence-malformed"),
        (b'{"svn":"1","svn":"1"}', "evidence-malformed"),
        (b'{"svn":1.5}', "evidence-malformed"),
        (b'{"svn":NaN}', "evidence-malformed"),
        (b"\xff", "evidence-malformed"),
        (b'{"a":' * 2000 + b"1" + b"}" * 2000, "evidence-malformed"),
        (b" " * (1024 * 1024 + 1), "evidence-malformed"),
        (b'{"quote":"!"}', "evidence-malformed"),
        (b'{"quote":7}', "evidence-malformed"),
        (b'{"attestation_report":[]}', "evidence-malformed"),
        (b'{"attestation_report":{"version":-2}}', "evidence-malformed"),
        (b'{"svn":"1","report_data":"x"}', "evidence-malformed"),
        (b"{}", "evidence-unsupported"),
        (b'{"token":"x"}', "evidence-unsupported"),
    ],
)
def test_evidence_of_another_form_is_refused_by_name(raw: bytes, code: str) -> None:
    assert code_of(raw) == code


@given(st.binary(max_size=200))
def test_any_bytes_as_evidence_give_our_error_or_none(raw: bytes) -> None:
    for data in (raw, b'{"quote":"' + base64.b64encode(raw) + b'"}'):
        try:
            evidence = parse_evidence(data)
        except CompatError:
            continue
        verdict = appraise_coco(evidence, policies()[3], NONCE, 1_800_000_000, {})
        assert not verdict.accepted


WORDS = "attestation_report,version,signature,r,current_tcb,quote,svn,report_data,cert_chain,data,policy"
MEMBERS = WORDS.split(",")
LEAVES = st.none() | st.booleans() | st.integers(-5, 2**64) | st.text(max_size=5)
DOCUMENTS = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(MEMBERS), inner, max_size=6),
    max_leaves=20,
)


@given(DOCUMENTS)
def test_any_json_as_evidence_gives_our_error_or_none(value: Any) -> None:
    with contextlib.suppress(CompatError):
        parse_evidence(json.dumps(value).encode())


# ── evidence: appraisal ──────────────────────────────────────────────────────────────────────────────────────────────


def judged(raw: bytes, policy: ReleasePolicy, nonce: str = NONCE) -> CocoVerdict:
    return appraise_coco(parse_evidence(raw), policy, nonce, int(time.time()), {})


def test_sample_evidence_is_simulated_and_only_for_a_policy_that_says_so() -> None:
    verdict = judged(sample(NONCE), sample_policy())
    assert verdict.accepted
    assert verdict.simulated
    assert verdict.claims["simulated"] is True
    newer = judged(sample(NONCE, measure_register="AA", cc_eventlog=None), sample_policy())
    assert newer.accepted
    hardware = next(policy for policy in policies() if policy.id == "hardware")
    assert judged(sample(NONCE), hardware).failed == ("coco.tee", "coco.sample", "coco.references")


@pytest.mark.parametrize(
    ("policy", "failed"),
    [
        (sample_policy(unbound_key=False), ("coco.exporter-key",)),
        (sample_policy(coco_tees=("tdx",)), ("coco.tee",)),
        (next(p for p in policies() if p.id == "own-dialect"), ("coco.dialect", "coco.tee", "coco.exporter-key")),
    ],
    ids=["unbound", "tee", "dialect"],
)
def test_each_thing_a_policy_must_say(policy: ReleasePolicy, failed: tuple[str, ...]) -> None:
    verdict = judged(sample(NONCE), policy)
    assert not verdict.accepted
    assert verdict.failed == failed


@pytest.mark.parametrize("nonce", ["", "0" * 64, NONCE.upper(), NONCE[:-1]])
def test_sample_evidence_for_another_nonce_is_refused(nonce: str) -> None:
    assert judged(sample(nonce), sample_policy()).failed == ("coco.nonce",)


def test_a_quote_is_bound_to_the_nonce_that_the_agent_was_asked_with() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        platform = SimulatedPlatform()
    made = platform.collect(NONCE.encode())  # 64 characters, as the official client passes them on
    raw = json.dumps({"quote": base64.b64encode(made.report).decode(), "collateral": made.collateral}).encode()
    policy = sample_policy(coco_tees=("tdx",))
    verdict = judged(raw, policy)
    assert verdict.accepted
    assert verdict.tier == "simulated"
    assert verdict.simulated
    assert judged(raw, policy, "0" * 64).failed == ("artifact.report-data",)
    demanding = dataclasses.replace(Policy.preset("evaluate"), required_references=("image_sha256",))
    strict = ReleasePolicy.build(id="x", appraisal=demanding, dialect=COCO, coco_tees=("tdx",), unbound_key=True)
    assert judged(raw, strict).failed == ("coco.references",)


def test_evidence_is_never_accepted_for_what_this_dialect_cannot_show() -> None:
    empty = CocoEvidence("sample", b"", b"", (), {}, "")
    assert appraise_report(empty, Policy.preset("evaluate"), bytes(64), 0, {}).failed[0] == "coco.tee"
    strict = Policy.preset("strict")
    made = parse_evidence(json.dumps({"quote": base64.b64encode(bytes(700)).decode()}).encode())
    found = appraise_report(made, strict, bytes(64), 1_800_000_000, {})
    assert not found.accepted
    assert found.failed[0].startswith("coco.format.")
    assert {"coco.references", "coco.devices"} <= set(found.failed)


# ── rules ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def decided(text: str, accepted: set[str], tee: str = "sample") -> bool:
    def verdict(rule: Rule) -> tuple[bool, tuple[str, ...], str]:
        good = rule.policy_id in accepted
        return good, () if good else ("some.check",), "simulated" if good else ""

    parsed = Rules.parse(text, KNOWN)
    assert Rules.stored(parsed.to_bytes()) == parsed
    decision = parsed.decide(tee, verdict)
    assert bool(decision.failed) != decision.granted
    return decision.granted


A, B = "sample-ok", "sample-too"
OPTIONAL, INVERSE = {"optional": True}, {"inverse": True}


@pytest.mark.parametrize(
    ("lists", "accepted", "granted"),
    [
        ([], {A}, False),
        ([[A]], {A}, True),
        ([[A]], set(), False),
        ([[A], [B]], {B}, True),
        ([[A, B]], {A}, False),
        ([[A, B]], {A, B}, True),
        ([[A, (B, OPTIONAL)]], {A}, True),
        ([[A, (B, OPTIONAL)]], {B}, False),
        ([[A, (B, INVERSE)]], {A}, True),
        ([[A, (B, INVERSE)]], {A, B}, False),
        ([[A, (B, {"inversion": True, "inverse": True})]], {A, B}, False),
        ([[(A, {"tee": "sample"})]], {A}, True),
        ([[(A, {"tee": "TDX"})]], {A}, False),
        ([[(A, {"tee": "none", "platform": "*"})]], {A}, True),
    ],
)
def test_outer_or_inner_and_inverse_optional(lists: list[list[Any]], accepted: set[str], granted: bool) -> None:
    assert decided(rules(*lists), accepted) is granted


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("", "bad-rules"),
        ("{}", "bad-rules"),
        ("[1]", "bad-rules"),
        ("[[]]", "bad-rules"),
        ("[[1]]", "bad-rules"),
        (rules([(A, {"extra": 1})]), "bad-rules"),
        (rules([(A, {"type": "ZTI"})]), "bad-rules"),
        (rules([(A, {"version": "v2"})]), "bad-rules"),
        (rules([(A, {"platform": "x86"})]), "bad-rules"),
        (rules([(A, {"tee": "sgx"})]), "bad-rules"),
        (rules([(A, {"optional": 1})]), "bad-rules"),
        (rules([(A, {"inverse": True, "inversion": False})]), "bad-rules"),
        (rules([(A, OPTIONAL)]), "bad-rules"),
        (rules([(A, INVERSE)]), "bad-rules"),
        (rules([A], [(B, INVERSE)]), "bad-rules"),
        (rules(*[[A]] * 17), "bad-rules"),
        (rules(["nobody"]), "unknown-policy"),
        (rules(["../x"]), "unknown-policy"),
    ],
)
def test_rules_that_are_refused(text: str, code: str) -> None:
    with pytest.raises(CompatError) as caught:
        Rules.parse(text, KNOWN)
    assert caught.value.code == code


def test_rules_are_a_text() -> None:
    for other in (None, [["x"]], 7, "\ud800"):
        with pytest.raises(CompatError):
            Rules.parse(other, KNOWN)


def test_the_largest_rules_fit_where_they_are_kept() -> None:
    identity = "p" * 64
    text = rules(*[[(identity, {"tee": "sample", "optional": False})]] * 16)
    parsed = Rules.parse(text, {identity: "f" * 64})
    assert len(parsed.to_bytes()) <= 4096
    for damaged in (b"", b"{}", parsed.to_bytes()[:-1], parsed.to_bytes().replace(b"rules/1", b"rules/2")):
        with pytest.raises(StorageError):
            Rules.stored(damaged)


@given(st.text(max_size=60))
def test_any_text_as_rules_gives_our_error_or_rules(text: str) -> None:
    with contextlib.suppress(CompatError):
        assert Rules.parse(text, KNOWN).lists == ()


# ── challenges, exchange keys, tokens, accounts ──────────────────────────────────────────────────────────────────────


def test_a_challenge_of_another_service_is_unknown() -> None:
    one, other = ChallengeDesk(), ChallengeDesk()
    made = one.make("a", bytes(8), 100)
    assert one.take("a", made, 100 + LIFE - 1) == (made["NonceDown"], bytes(8))
    for desk, account in ((other, "a"), (one, "b")):
        with pytest.raises(CompatError) as caught:
            desk.take(account, made, 100)
        assert caught.value.code == "challenge-unknown"


def test_a_full_memory_of_used_challenges_refuses_and_heals(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("teehouse_enclave.keys.compat.challenge.MAX_USED", 2)
    desk = ChallengeDesk()
    made = [desk.make("a", bytes(8), 0) for _ in range(3)]
    desk.take("a", made[0], 1)
    desk.take("a", made[1], 1)
    with pytest.raises(CompatError) as caught:
        desk.take("a", made[2], 1)
    assert caught.value.code == "over-limit"
    with pytest.raises(CompatError) as caught:
        desk.take("a", made[0], 1)
    assert caught.value.code == "challenge-used"
    desk.take("a", desk.make("a", bytes(8), LIFE + 1), LIFE + 1)


def test_report_data_is_as_the_official_client_computes_it() -> None:
    inner = hashlib.sha256(b"\1" * 32 + b"\2" * 32 + b"PEM" + b"1790000000").hexdigest()
    expected = hashlib.sha512(inner.encode()).digest()
    assert report_data(b"\1" * 32, b"\2" * 32, b"PEM", 1790000000) == expected


def test_exchange_keys_turn_and_the_one_before_still_opens() -> None:
    keys = ExchangeKeys(0.0)
    first = keys.current(0.0)
    peer = Peer()
    wrapped = peer.wrap(first.dh_param, b"secret")
    assert keys.unwrap(peer.dh_param, wrapped, PERIOD + 1) == b"secret"
    second = keys.current(PERIOD + 1)
    assert second.id != first.id
    assert keys.by_id(first.id, PERIOD + 1) is first
    assert peer.unwrap(second.dh_param, second.wrap(peer.dh_param, b"other")) == b"other"
    with pytest.raises(CompatError):
        keys.unwrap(peer.dh_param, wrapped, 3 * PERIOD)
    assert keys.by_id(first.id, 3 * PERIOD) is None


def test_a_token_verifies_with_the_key_in_it_and_says_simulated() -> None:
    signer = TokenSigner()
    text = signer.result(
        report_data=bytes(64), policies=["p"], claims={"tee": "tdx", "simulated": True}, evidence_sha256="e", now=100
    )
    token = jwt.decode(text, RSAKey.import_key(signer.jwk), algorithms=["RS384"])
    assert token.header["alg"] == "RS384"
    assert token.claims["iss"] == ISSUER
    assert token.claims["tdx"]["report_data"] == "00" * 64
    assert token.claims["jwk"] == signer.jwk
    assert "d" not in token.claims["jwk"]
    assert token.claims["simulated"] is True


def test_accounts_are_read_strictly(tmp_path: Path) -> None:
    given_members = accounts_file(tmp_path)
    data = Path(given_members["accounts"]).read_bytes()
    accounts = Accounts.parse(data)
    assert len(accounts) == len(KEYS)
    first = next(iter(KEYS))
    found = accounts.by_access_key(KEYS[first][0])
    assert found is not None
    assert found.id == first
    assert KEYS[first][1] not in repr(found)
    assert accounts.by_id("nobody") is None
    pair = ("AKLTsomebody", "s" * 20)
    for wrong in (
        [Account("a"), Account("a")],
        [Account("a", *pair), Account("b", *pair)],
        [Account("a", "AKLTx", "short")],
        [Account("")],
        [Account("a b")],
    ):
        with pytest.raises(LocalError):
            Accounts(wrong)
    for broken in (b"", b"[]", data[:-1], data.replace(b"accounts/1", b"accounts/2"), data.replace(b"true", b"1")):
        with pytest.raises(LocalError):
            Accounts.parse(broken)
