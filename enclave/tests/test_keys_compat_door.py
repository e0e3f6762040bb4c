# SPDX-License-Identifier: Apache-2.0
"""The doors of existing clients, from the signed request to the entry in the log."""

from __future__ import annotations

import asyncio
import base64
import functools
import json
import secrets
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from compat_support import ACCOUNT, KEYS, OTHER, SIGNED_ONLY, Compat, Peer, rules, running, sample
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

pytestmark = pytest.mark.anyio


@pytest.fixture
async def compat(tmp_path: Path) -> AsyncIterator[Compat]:
    async with running(tmp_path) as found:
        yield found


@functools.cache
def rsa_key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, 4096)


def pem(form: PrivateFormat) -> bytes:
    return rsa_key().private_bytes(Encoding.PEM, form, NoEncryption())


async def test_a_ring_a_key_a_policy_and_an_export(compat: Compat) -> None:
    ring = await compat.ring()
    key = await compat.key(ring)
    assert (await compat.allow(key)).status == 200
    reply, opened = await compat.export(ring, key)
    assert reply.result["Version"] == 1
    assert len(opened) == 32
    again, same = await compat.export(ring, key)
    assert again.status == 200
    assert same == opened
    ops = [(entry.op, entry.decision) for entry in compat.entries()]
    assert ops == [
        ("tenant.create", "done"),
        ("ring.create", "done"),
        ("key.create", "done"),
        ("key.policy", "done"),
        ("key.release", "granted"),
        ("key.release", "granted"),
    ]
    assert all("weak" in entry.reason for entry in compat.entries())
    granted = compat.entries()[-1]
    assert granted.tier == "simulated"
    assert granted.evidence_sha256
    assert granted.policy_sha256 == compat.entries()[3].policy_sha256


@pytest.mark.parametrize(
    ("algo", "clear"),
    [
        ("SYMMETRIC_256", bytes(range(32))),
        ("SYMMETRIC_128", bytes(range(16))),
        ("RSA_4096", PrivateFormat.PKCS8),
        ("RSA_4096", PrivateFormat.TraditionalOpenSSL),
        ("SYMMETRIC_256", PrivateFormat.PKCS8),
    ],
)
async def test_what_is_imported_comes_back_as_it_was(compat: Compat, algo: str, clear: bytes | PrivateFormat) -> None:
    given = clear if isinstance(clear, bytes) else await asyncio.to_thread(pem, clear)
    ring = await compat.ring()
    key = await compat.key(ring, algo, "external")
    before = await compat.signed("GetTksKeyinfo", {"RingID": ring, "KeyID": key})
    assert before.result["Status"] == "empty"
    assert (await compat.imported(ring, key, given)).status == 200
    assert (await compat.allow(key)).status == 200
    reply, opened = await compat.export(ring, key)
    assert reply.status == 200
    assert opened == given


async def test_an_rsa_key_made_inside_is_exported_as_pem(compat: Compat) -> None:
    ring = await compat.ring()
    key = await compat.key(ring, "RSA_4096")
    await compat.allow(key)
    _, opened = await compat.export(ring, key)
    assert opened.startswith(b"-----BEGIN PRIVATE KEY-----")


async def test_nothing_set_means_nobody(compat: Compat) -> None:
    ring = await compat.ring()
    key = await compat.key(ring)
    reply, _ = await compat.export(ring, key)
    assert (reply.status, reply.code) == (403, "policy-denied")
    refused = compat.entries()[-1]
    assert (refused.op, refused.decision) == ("key.release", "refused")
    assert refused.failed_checks == ("rules.none-set",)


@pytest.mark.parametrize(
    ("policy", "failed"),
    [
        ("bound-only", "bound-only: coco.exporter-key"),
        ("hardware", "hardware: coco.tee"),
        ("own-dialect", "own-dialect: coco.dialect"),
    ],
)
async def test_a_policy_that_does_not_fit_refuses_by_name(compat: Compat, policy: str, failed: str) -> None:
    ring = await compat.ring()
    key = await compat.key(ring)
    await compat.allow(key, rules([policy]))
    reply, _ = await compat.export(ring, key)
    assert (reply.status, reply.code) == (403, "policy-denied")
    assert failed in compat.entries()[-1].failed_checks
    assert failed in reply.document["ResponseMetadata"]["Error"]["Message"]


async def test_evidence_for_another_challenge_or_none_is_refused(compat: Compat) -> None:
    ring = await compat.ring()
    key = await compat.key(ring)
    await compat.allow(key)
    stale, _ = await compat.export(ring, key, evidence=sample("0" * 64))
    assert (stale.status, stale.code) == (403, "policy-denied")
    assert compat.entries()[-1].failed_checks == ("sample-ok: coco.nonce",)
    none, _ = await compat.export(ring, key, evidence=None)
    assert none.code == "policy-denied"
    assert compat.entries()[-1].failed_checks == ("coco.evidence",)


async def test_a_challenge_is_good_once_for_one_account_for_five_minutes(compat: Compat) -> None:
    ring = await compat.ring()
    key = await compat.key(ring)
    await compat.allow(key)
    attest = {"NonceUp": "00" * 32, "BiAuth": True}
    one = (await compat.signed("AttestTksSecurity", attest)).result["Challenge"]
    first, _ = await compat.export(ring, key, challenge=one)
    assert first.status == 200
    second, _ = await compat.export(ring, key, challenge=one)
    assert (second.status, second.code) == (400, "challenge-used")
    foreign = (await compat.signed("AttestTksSecurity", attest, account=OTHER)).result["Challenge"]
    third, _ = await compat.export(ring, key, challenge=foreign)
    assert (third.status, third.code) == (400, "challenge-unknown")
    late = (await compat.signed("AttestTksSecurity", attest)).result["Challenge"]
    longer, _ = await compat.export(ring, key, challenge={**late, "ExpirationTime": late["ExpirationTime"] + 1})
    assert longer.code == "challenge-unknown"
    compat.clock[0] += 301
    fourth, _ = await compat.export(ring, key, challenge=late)
    assert (fourth.status, fourth.code) == (400, "challenge-expired")
    for wrong in ({}, "x", {**late, "More": 1}, {**late, "NonceDown": "zz"}, {**late, "ExpirationTime": "1"}):
        bad, _ = await compat.export(ring, key, body={"ClientChall": wrong})
        assert (bad.status, bad.code) == (400, "challenge-malformed")


async def test_another_account_sees_nothing(compat: Compat) -> None:
    ring = await compat.ring()
    key = await compat.key(ring)
    await compat.allow(key)
    await compat.ring(OTHER)
    unknown = await compat.signed("GetTksKeyinfo", {"RingID": "no-such", "KeyID": key}, account=OTHER)
    foreign = await compat.signed("GetTksKeyinfo", {"RingID": ring, "KeyID": key}, account=OTHER)
    assert (foreign.status, foreign.code) == (unknown.status, unknown.code) == (404, "unknown-ring")
    assert (await compat.signed("ListTksKey", {}, account=OTHER)).result["Total"] == 0
    policy = await compat.signed(
        "SetTksPolicy", {"ID": key, "Range": "key", "Rules": rules(["sample-ok"])}, account=OTHER
    )
    assert (policy.status, policy.code) == (404, "unknown-key")
    reply, _ = await compat.export(ring, key, account=OTHER)
    assert (reply.status, reply.code) == (404, "unknown-ring")
    made = await compat.signed("CreateTksKey", {"RingID": ring, "Algo": "SYMMETRIC_256"}, account=OTHER)
    assert made.code == "unknown-ring"


async def test_the_account_is_that_of_the_access_key(compat: Compat) -> None:
    claimed = await compat.signed("ListTksRing", {}, account=ACCOUNT, claims=OTHER)
    assert (claimed.status, claimed.code) == (403, "account-mismatch")
    wrong = await compat.signed("ListTksRing", {}, pair=(KEYS[ACCOUNT][0], KEYS[OTHER][1]))
    unknown = await compat.signed("ListTksRing", {}, pair=("AKLTnobody", "x" * 20))
    assert (wrong.status, wrong.code) == (unknown.status, unknown.code) == (401, "signature-mismatch")
    assert wrong.document["ResponseMetadata"]["Error"] == unknown.document["ResponseMetadata"]["Error"]
    late = await compat.signed("ListTksRing", {}, at=compat.now() - 1000)
    assert (late.status, late.code) == (401, "signature-time")
    body = await compat.signed("ListTksRing", {}, sent=b'{"PageSize": 1}')
    assert (body.status, body.code) == (400, "signature-body")
    unsigned = await compat.http.post("http://tks.test:8443/?Action=ListTksRing&Version=2024-12-24", json={})
    assert unsigned.status_code == 401


async def test_retries_of_one_call_make_one_thing(compat: Compat, tmp_path: Path) -> None:
    once = secrets.token_hex(16)
    body = {"RingName": "r", "Description": ""}
    answers = await asyncio.gather(*(compat.signed("CreateTksRing", body, once=once) for _ in range(5)))
    rings = {answer.result["RingID"] for answer in answers}
    assert len(rings) == 1
    assert (await compat.signed("CreateTksRing", {**body, "RingName": "s"}, once=once)).result["RingID"] not in rings
    assert (await compat.signed("ListTksRing", {})).result["Total"] == 2


async def test_retries_also_across_a_restart(tmp_path: Path) -> None:
    once = secrets.token_hex(16)
    async with running(tmp_path) as first:
        ring = (await first.signed("CreateTksRing", {"RingName": "r"}, once=once)).result["RingID"]
        key = await first.key(ring, once=once)
        await first.allow(key)
        _, opened = await first.export(ring, key)
    async with running(tmp_path) as second:
        assert (await second.signed("CreateTksRing", {"RingName": "r"}, once=once)).result["RingID"] == ring
        assert await second.key(ring, once=once) == key
        _, again = await second.export(ring, key)
    assert again == opened


async def test_while_the_ledger_is_away_nothing_is_given_out(compat: Compat) -> None:
    ring = await compat.ring()
    key = await compat.key(ring)
    await compat.allow(key)
    compat.service.limits = type(compat.service.limits)(commit_timeout=0.3)
    compat.ledger.down = True
    reply, _ = await compat.export(ring, key)
    assert reply.status == 503
    made = await compat.signed("CreateTksRing", {"RingName": "x"})
    assert made.status == 503
    compat.ledger.down = False


async def test_the_clients_own_bug_sets_the_policy(compat: Compat) -> None:
    """`set_key_policy` through the gateway sends SetTksPolicy's body under ImportTksKey."""
    ring = await compat.ring()
    key = await compat.key(ring)
    body = {"ID": key, "Range": "key", "Rules": rules(["sample-ok"])}
    assert (await compat.signed("ImportTksKey", body)).result["KeyID"] == key
    reply, _ = await compat.export(ring, key)
    assert reply.status == 200


async def test_an_import_is_sealed_to_the_current_or_previous_exchange_key(compat: Compat) -> None:
    ring = await compat.ring()
    attested = (await compat.signed("AttestTksSecurity", {"NonceUp": "ab" * 32, "BiAuth": False})).result
    assert "Challenge" not in attested
    for passed, status in ((3700, 200), (3700, 422)):
        compat.clock[0] += passed
        key = await compat.key(ring, "SYMMETRIC_256", "external")
        local = Peer()
        wrapped = local.wrap(attested["DHParam"], secrets.token_bytes(32))
        body = {"RingID": ring, "KeyID": key, "Key": wrapped, "DHParam": local.dh_param}
        await compat.signed("AttestTksSecurity", {"NonceUp": "ab" * 32})
        assert (await compat.signed("ImportTksKey", body)).status == status


async def test_bad_imports_are_refused_by_name(compat: Compat) -> None:
    ring = await compat.ring()
    internal = await compat.key(ring)
    assert (await compat.imported(ring, internal, bytes(range(32)))).code == "wrong-state"
    key = await compat.key(ring, "SYMMETRIC_256", "external")
    assert (await compat.imported(ring, key, bytes(range(31)))).code == "wrong-algorithm"
    assert (await compat.imported(ring, key, bytes(32))).code == "weak-key"
    assert (await compat.imported(ring, key, secrets.token_bytes(17_000))).status == 413
    exported, _ = await compat.export(ring, key)
    assert (exported.status, exported.code) == (409, "key-empty")
    for dh in (Peer(ec.SECP256R1()).dh_param, "AAAA", "!", base64.b64encode(b"x" * 1200).decode()):
        body = {"RingID": ring, "KeyID": key, "Key": base64.b64encode(bytes(64)).decode(), "DHParam": dh}
        assert (await compat.signed("ImportTksKey", body)).code == "dh-param"
    body = {"RingID": ring, "KeyID": key, "Key": base64.b64encode(bytes(64)).decode(), "DHParam": Peer().dh_param}
    assert (await compat.signed("ImportTksKey", body)).code == "import-sealed"


@pytest.mark.parametrize(
    ("action", "body", "code"),
    [
        ("CreateTksRing", {}, "missing-parameter"),
        ("CreateTksRing", {"RingName": "x" * 257}, "too-large"),
        ("CreateTksRing", {"RingName": 7}, "malformed"),
        ("CreateTksRing", {"RingName": "a\x00b"}, "malformed"),
        ("CreateTksRing", {"RingName": "\ud800"}, "malformed"),
        ("CreateTksRing", b"[]", "malformed"),
        ("CreateTksRing", b"{", "malformed"),
        ("CreateTksRing", b'{"RingName":"a","RingName":"b"}', "malformed"),
        ("CreateTksKey", {"RingID": "x", "Algo": "SYMMETRIC_256"}, "unknown-ring"),
        ("CreateTksKey", {"RingID": "x", "Algo": "DES"}, "wrong-algorithm"),
        ("ListTksKey", {"PageSize": 0}, "malformed"),
        ("ListTksKey", {"PageNumber": -1}, "malformed"),
        ("ListTksKey", {"RingID": "x"}, "unknown-ring"),
        ("AttestTksSecurity", {"NonceUp": "xy"}, "nonce"),
        ("AttestTksSecurity", {"NonceUp": "ab" * 32, "BiAuth": 1}, "malformed"),
        ("VerifyRasEvidence", {"Evidence": "e30", "PolicyId": "sample-ok"}, "evidence-unsupported"),
        ("DeleteEverything", {}, "unknown-action"),
    ],
)
async def test_bad_requests_are_refused_by_name(compat: Compat, action: str, body: object, code: str) -> None:
    reply = await compat.signed(action, body)
    assert reply.code == code
    assert 400 <= reply.status < 500


async def test_another_version_of_the_gateway_is_unknown(compat: Compat) -> None:
    reply = await compat.signed("ListTksRing", {}, query="Action=ListTksRing&Version=2020-01-01")
    assert (reply.status, reply.code) == (404, "unknown-action")


async def test_lists_have_pages_and_page_zero_is_the_first(compat: Compat) -> None:
    ring = await compat.ring()
    keys = [await compat.key(ring) for _ in range(5)]
    pages = [
        (await compat.signed("ListTksKey", {"PageSize": 2, "PageNumber": page, "RingID": ring})).result
        for page in (0, 1, 2, 3, 4)
    ]
    assert [len(page["KeyList"]) for page in pages] == [2, 2, 2, 1, 0]
    assert pages[0]["KeyList"] == pages[1]["KeyList"]
    assert {row["KeyID"] for page in pages for row in page["KeyList"]} == set(keys)
    assert all(page["Total"] == 5 for page in pages)
    assert all(row["Weak"] for row in pages[0]["KeyList"])
    listed = (await compat.signed("ListTksRing", {"ShowInvisible": False})).result
    assert listed["RingList"][0]["RingName"] == "环"
    assert listed["RingList"][0]["Weak"] is True
    assert (await compat.signed("ListTksKey", {"Status": "empty"})).result["Total"] == 0


async def test_the_plain_door_is_off_unless_turned_on(tmp_path: Path) -> None:
    async with running(tmp_path, direct_rest=False) as compat:
        reply = await compat.plain("/api/tks/v1/ring/list", {})
        assert (reply.status, reply.code) == (403, "direct-rest-off")


async def test_the_plain_door_serves_only_accounts_that_allow_it(compat: Compat) -> None:
    made = await compat.plain("/api/tks/v1/ring/create", {"RingName": "r", "Description": ""})
    assert made.result["RingID"]
    assert compat.entries()[-1].reason.endswith("weak")
    for account in (SIGNED_ONLY, "2100000009"):
        refused = await compat.plain("/api/tks/v1/ring/list", {}, account=account)
        assert (refused.status, refused.code) == (403, "direct-rest-off")
    two = await compat.plain("/api/tks/v1/ring/list", {}, **{"X-Top-Account-Id": OTHER})
    assert (two.status, two.code) == (403, "account-mismatch")
    for stamp in ("", "soon", str(compat.now() - 1000), str(compat.now() + 1000)):
        late = await compat.plain("/api/tks/v1/ring/list", {}, Timestamp=stamp)
        assert (late.status, late.code) == (400, "timestamp")
    nowhere = await compat.plain("/api/tks/v1/ring/burn", {})
    assert (nowhere.status, nowhere.code) == (404, "unknown-action")
    got = await compat.http.get(
        "http://tks.test:8443/api/tks/v1/ring/list", headers={"AppID": ACCOUNT, "Timestamp": str(compat.now())}
    )
    assert got.status_code == 405


async def test_our_own_evidence_gives_an_attestation_result(compat: Compat) -> None:
    import hashlib

    attested = (await compat.signed("AttestTksSecurity", {"NonceUp": "12" * 32, "BiAuth": True})).result
    challenge = attested["Challenge"]
    inner = hashlib.sha256(
        bytes.fromhex("12" * 32)
        + bytes.fromhex(challenge["NonceDown"])
        + base64.b64decode(attested["DHParam"])
        + str(challenge["ExpirationTime"]).encode()
    ).hexdigest()
    data = hashlib.sha512(inner.encode()).digest()
    raw = base64.urlsafe_b64encode(data).rstrip(b"=").decode()
    body = {"Evidence": attested["Report"].rstrip("="), "PolicyId": "sample-ok", "ReportData": {"Raw": raw}}
    token = (await compat.signed("VerifyRasEvidence", body)).result["AttestationResult"]
    claims = json.loads(base64.urlsafe_b64decode(token.split(".")[1] + "=="))
    assert claims["tdx"]["report_data"] == data.hex()
    assert claims["policies_matched"] == ["sample-ok"]
    assert claims["simulated"] is True
    assert claims["jwk"]["alg"] == "RS384"
    other = base64.urlsafe_b64encode(bytes(64)).rstrip(b"=").decode()
    refused = await compat.signed("VerifyRasEvidence", {**body, "ReportData": {"Raw": other}})
    assert (refused.status, refused.code) == (403, "policy-denied")
    assert "artifact.report-data" in refused.document["ResponseMetadata"]["Error"]["Message"]
    hard = await compat.signed("VerifyRasEvidence", {**body, "PolicyId": "hardware"})
    assert hard.code == "policy-denied"
    nobody = await compat.signed("VerifyRasEvidence", {**body, "PolicyId": "none"})
    assert (nobody.status, nobody.code) == (404, "unknown-policy")


async def test_no_key_bytes_are_written_anywhere(compat: Compat, tmp_path: Path) -> None:
    clear = secrets.token_bytes(32)
    ring = await compat.ring()
    key = await compat.key(ring, "SYMMETRIC_256", "external")
    await compat.imported(ring, key, clear)
    await compat.allow(key)
    _, opened = await compat.export(ring, key)
    assert opened == clear
    needles = (clear, base64.b64encode(clear), clear.hex().encode())
    for path in tmp_path.rglob("*"):
        if path.is_file():
            data = path.read_bytes()
            assert not any(needle in data for needle in needles), path


async def test_two_hundred_exports_at_once_agree_with_the_log(compat: Compat) -> None:
    ring = await compat.ring()
    good, bad = await compat.key(ring), await compat.key(ring)
    await compat.allow(good)
    answers = await asyncio.gather(*(compat.export(ring, good if n % 2 else bad) for n in range(200)))
    assert [reply.status for reply, _ in answers] == [403, 200] * 100
    assert len({opened for reply, opened in answers if reply.status == 200}) == 1
    decisions = [(entry.key, entry.decision) for entry in compat.entries() if entry.op == "key.release"]
    assert sorted(decisions) == sorted([(good, "granted")] * 100 + [(bad, "refused")] * 100)


async def test_bodies_are_bounded(compat: Compat) -> None:
    reply = await compat.signed("CreateTksRing", b"x" * (2 * 1024 * 1024 + 1))
    assert (reply.status, reply.code) == (413, "too-large")
