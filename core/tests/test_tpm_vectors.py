# SPDX-License-Identifier: Apache-2.0
"""Genuine TPM quotes and Azure vTPM evidence: the verdict of their manifest row, and refused once anything changes."""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import hashlib
import json
import struct
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tpm_vectors import VECTORS, as_json, collateral, flashbots, gce, policy, txtar, vector

from teehouse_core.appraise.artifacts.base import ArtifactVerdict
from teehouse_core.appraise.artifacts.dispatch import artifact_policy
from teehouse_core.appraise.artifacts.tpm import verify_artifact
from teehouse_core.appraise.policy import Policy
from teehouse_core.errors import MalformedError, TeehouseError
from teehouse_core.evidence import hcl, tpm
from teehouse_core.evidence.akcert import parse_ak_chain
from teehouse_core.evidence.eventlog import parse_event_log, replay
from teehouse_core.evidence.tpm_document import parse_document

FIXTURE = b"attestation-test-fixture"
WITH_AK = "flashbots_azure-tdx-with-ak-intermediates-1780922561.yaml"
PADDED = "flashbots_azure-tdx-1764662251380464271.yaml"


def verify(
    raw: bytes,
    nonce: bytes | None,
    now: int,
    *,
    chain: bytes | None = None,
    files: Mapping[str, bytes] | None = None,
    under: Policy | None = None,
) -> ArtifactVerdict:
    beside = {**collateral(), **(files or {})}
    return verify_artifact(
        raw, chain=chain, collateral=beside, nonce=nonce, report_data=None, policy=under or policy(), now=now
    )


def document(name: str) -> bytes:
    return as_json(flashbots(name)) if name.endswith(".yaml") else vector(f"tpm/azure/{name}")


def intermediate() -> bytes:
    return vector("tpm/roots/openpcc_azure_tpm_intermediate_03.pem")


# name, nonce (None: the one it carries, which the manifest gives only in part), time, platform, refusing checks
SEPT = ["tdx.tcb.advisories", "tdx.td.attributes"]
AZURE: list[tuple[str, bytes | None, int, str, list[str]]] = [
    ("trustee_az-snp-vtpm_evidence-v0.json", b"challenge", 1_740_000_000, "az-snp-vtpm", []),
    ("trustee_az-snp-vtpm_evidence-v1.json", b"challenge", 1_740_000_000, "az-snp-vtpm", []),
    ("trustee_az-snp-vtpm_evidence-v2.json", None, 1_755_000_000, "az-snp-vtpm", []),
    ("trustee_az-snp-vtpm_evidence-genoa.json", None, 1_755_000_000, "az-snp-vtpm", []),
    ("lunal_az_snp_live-evidence.json", FIXTURE, 1_770_000_000, "az-snp-vtpm", []),
    ("lunal_az_tdx_live-evidence.json", FIXTURE, 1_770_000_000, "az-tdx-vtpm", []),
    (WITH_AK, bytes(32), 1_780_922_561, "az-tdx-vtpm", []),
    (PADDED, bytes(32), 1_771_414_156, "az-tdx-vtpm", []),
    # Genuine, but a TD without SEPT_VE_DISABLE on a machine with open advisories: refused, and by those names alone.
    ("trustee_az-tdx-vtpm_evidence-v0.json", b"challenge", 1_750_000_000, "az-tdx-vtpm", SEPT),
    ("trustee_az-tdx-vtpm_evidence-v1.json", b"challenge", 1_750_000_000, "az-tdx-vtpm", SEPT),
]


@pytest.mark.parametrize(("name", "nonce", "now", "platform", "refusing"), AZURE)
def test_azure_evidence_gets_its_verdict(
    name: str, nonce: bytes | None, now: int, platform: str, refusing: Any
) -> None:
    raw = document(name)
    nonce = nonce or tpm.parse_quote(parse_document(raw).quote).extra_data
    chain = intermediate() if name == PADDED else None
    found = verify(raw, nonce, now, chain=chain)
    assert [check.id for check in found.refusing] == refusing
    assert found.claims["platform"] == platform
    states = {check.id: check.state for check in found.checks}
    for check_id in ("hcl.format", "hcl.runtime-data", "tpm.quote.signature", "tpm.quote.pcr-digest", "tpm.ak.trust"):
        assert states[check_id] == "passed", check_id
    assert found.tier == "hardware"
    assert found.result == ("refused" if refusing else "accepted")


def test_a_certificate_padded_with_zeros_is_read_and_noted() -> None:
    found = verify(document(PADDED), bytes(32), 1_771_414_156, chain=intermediate())
    chain = next(check for check in found.checks if check.id == "tpm.ak.chain")
    assert chain.state == "passed"
    assert "3087 zero bytes" in chain.claimed
    alone = verify(document(PADDED), bytes(32), 1_771_414_156)
    assert alone.result == "accepted"  # the HCL report vouches for the key; the short chain is said, not believed
    assert next(check for check in alone.checks if check.id == "tpm.ak.chain").state == "not-applicable"


def test_milan_is_refused_by_the_presets_by_name() -> None:
    raw = document("trustee_az-snp-vtpm_evidence-v1.json")
    default = dataclasses.replace(Policy.preset("standard"), platforms=("az-snp-vtpm",), required_references=())
    found = [c.id for c in verify(raw, b"challenge", 1_740_000_000, under=default).refusing]
    assert {"snp.product.allowed", "tpm.reference.pcrs"} <= set(found)


def test_the_presets_do_not_know_the_type() -> None:
    raw = document("trustee_az-snp-vtpm_evidence-genoa.json")
    found = verify(raw, None, 1_755_000_000, under=Policy.preset("evaluate"))
    assert "policy.platform" in [c.id for c in found.refusing]


def _changed(raw: bytes, change: Any) -> bytes:
    value = json.loads(raw)
    inner = value.get("evidence", value)
    change(inner)
    return json.dumps(value).encode("ascii")


def _flip(blob: Any, at: int) -> Any:
    """One bit of a blob in any of the forms in which documents keep one."""
    if isinstance(blob, list):
        return [*blob[:at], blob[at] ^ 1, *blob[at + 1 :]]
    if not blob.strip("0123456789abcdef"):
        data = bytearray.fromhex(blob)
        data[at] ^= 1
        return data.hex()
    data = bytearray(base64.urlsafe_b64decode(blob + "=" * (-len(blob) % 4)))
    data[at] ^= 1
    return base64.urlsafe_b64encode(bytes(data)).decode("ascii")


def _set(member: str, value: Any) -> Any:
    def change(inner: dict[str, Any]) -> None:
        holder = inner.get("tpm_attestation", inner)
        quote = holder.get("tpm_quote", holder.get("quote"))
        target = quote if member in ("message", "signature", "pcrs") else inner
        name = next(n for n in (member, f"{member}_base64", "report", "tdx_quote_base64") if n in target)
        target[name] = value(target[name])

    return change


def azure_negatives(raw: bytes, other: bytes) -> dict[str, tuple[bytes, str]]:
    """What is changed, and a check that must refuse it."""
    swapped = json.loads(other)
    swapped = swapped.get("evidence", swapped)
    other_hcl = next(swapped[n] for n in ("hcl_report", "hcl_report_base64", "report") if n in swapped)
    return {
        "extraData": (_changed(raw, _set("message", lambda v: _flip(v, 45))), "tpm.quote.signature"),
        "clock": (_changed(raw, _set("message", lambda v: _flip(v, 70))), "tpm.quote.signature"),
        "signature": (_changed(raw, _set("signature", lambda v: _flip(v, 40))), "tpm.quote.signature"),
        "registers": (_changed(raw, _set("pcrs", lambda v: [v[1], v[0], *v[2:]])), "tpm.quote.pcr-digest"),
        "hcl header": (_changed(raw, _set("hcl_report", lambda v: _flip(v, 0))), "hcl.format"),
        "chip report": (_changed(raw, _set("hcl_report", lambda v: _flip(v, 32 + 0x90))), ""),
        "runtime data": (_changed(raw, _set("hcl_report", lambda v: _flip(v, 32 + 1184 + 20 + 200))), ""),
        "another's hcl": (_changed(raw, _set("hcl_report", lambda _: other_hcl)), "tpm.quote.signature"),
        "truncated quote": (_changed(raw, _set("message", lambda v: v[:-2])), "tpm.quote.format"),
        "longer quote": (_changed(raw, _set("message", lambda v: v + ([0] if isinstance(v, list) else "00"))), "tpm"),
    }


@pytest.mark.parametrize(
    ("name", "other"), [(AZURE[3][0], AZURE[1][0]), (AZURE[4][0], AZURE[2][0]), (AZURE[0][0], AZURE[4][0])]
)
def test_derived_negatives_of_azure_snp_are_refused(name: str, other: str) -> None:
    raw = document(name)
    row = next(row for row in AZURE if row[0] == name)
    nonce = row[1] or tpm.parse_quote(parse_document(raw).quote).extra_data
    _all_refused(raw, document(other), nonce, row[2])


@pytest.mark.parametrize(("name", "other"), [(AZURE[5][0], WITH_AK), (WITH_AK, AZURE[5][0])])
def test_derived_negatives_of_azure_tdx_are_refused(name: str, other: str) -> None:
    row = next(row for row in AZURE if row[0] == name)
    raw = document(name)
    _all_refused(raw, document(other), row[1] or b"", row[2], tdx=True)


def _all_refused(raw: bytes, other: bytes, nonce: bytes, now: int, *, tdx: bool = False) -> None:
    assert verify(raw, nonce, now).result == "accepted"
    for what, (wrong, check_id) in azure_negatives(raw, other).items():
        if tdx and what == "chip report":
            continue  # of a TD the quote counts, not the TD report beside it, which only this machine could check
        try:
            found = verify(wrong, nonce, now)
        except MalformedError:
            assert what in ("truncated quote", "longer quote"), what
            continue
        assert found.result == "refused", what
        if "tpm.quote.signature" in {check.id for check in found.refusing}:
            assert found.tier == "none", what
        assert check_id in "".join(check.id for check in found.refusing), what
    assert verify(raw, b"\1" * 32, now).result == "refused"
    assert verify(raw, None, now).result == "refused"
    assert verify(raw, nonce, 4_000_000_000).result == "refused"
    assert verify(raw, nonce, 1_000_000_000).result == "refused"
    with pytest.raises(MalformedError):
        verify(raw.rstrip()[:-1], nonce, now)
    with pytest.raises(MalformedError):
        verify(raw + b"{", nonce, now)


def generic() -> tuple[bytes, bytes, str]:
    """Trustee's plain TPM evidence: document, nonce, and the key that a policy must name."""
    raw = vector("tpm/generic/trustee_tpm_evidence.json")
    found = parse_document(raw)
    return raw, tpm.parse_quote(found.quote).extra_data, tpm.spki_sha256(tpm.load_spki(found.ak_public or b""))


def test_a_plain_tpm_is_vtpm_once_the_policy_names_its_key() -> None:
    raw, nonce, pin = generic()
    assert [c.id for c in verify(raw, nonce, 1_780_000_000).refusing] == ["tpm.ak.trust"]
    found = verify(raw, nonce, 1_780_000_000, under=policy(attestation_keys=(pin,)))
    assert (found.result, found.tier) == ("accepted", "vtpm")


def test_derived_negatives_of_a_plain_tpm_are_refused() -> None:
    raw, nonce, pin = generic()
    under = policy(attestation_keys=(pin,))
    value = json.loads(raw)
    quote = value["tpm_quote"]
    message, signature = base64.b64decode(quote["message"]), base64.b64decode(quote["signature"])

    def build(**changes: Any) -> bytes:
        return as_json({**value, "tpm_quote": {**quote, **changes}})

    def b64(data: bytes) -> str:
        return base64.b64encode(data).decode("ascii")

    wrong = {
        "signed": build(message=b64(message[:20] + bytes([message[20] ^ 1]) + message[21:])),
        "signature": build(signature=b64(signature[:-1] + bytes([signature[-1] ^ 1]))),
        "scheme": build(signature=b64(b"\x00\x16" + signature[2:])),
        "hash": build(signature=b64(signature[:2] + b"\x00\x0c" + signature[4:])),
        "registers": build(pcrs=["11" * 32, *quote["pcrs"][1:]]),
        "one register too few": build(pcrs=quote["pcrs"][:-1]),
        "foreign key": as_json({**value, "ak_public": _keylime_key()}),
        "truncated": build(message=b64(message[:-1])),
        "trailing": build(message=b64(message + b"\0")),
        "signature trailing": build(signature=b64(signature + b"\0")),
    }
    for what, data in wrong.items():
        try:
            found = verify(data, nonce, 1_780_000_000, under=under)
        except MalformedError:
            assert what in ("truncated", "trailing")
            continue
        assert found.result == "refused", what
    assert verify(raw, bytes(32), 1_780_000_000, under=under).result == "refused"
    elsewhere = policy(attestation_keys=(pin,), references=("0=" + "1" * 64,))
    assert [c.id for c in verify(raw, nonce, 1, under=elsewhere).refusing] == ["tpm.reference.pcrs"]


def _keylime_key() -> str:
    pem = vector("tpm/generic/keylime_akpub.pem").decode("ascii")
    return "".join(pem.split("\n")[1:-2])


def test_keylimes_quote_is_refused_for_what_it_does_not_cover() -> None:
    raw, signature = vector("tpm/generic/keylime_quote.out"), vector("tpm/generic/keylime_quotesig.out")
    key = vector("tpm/generic/keylime_akpub.pem")
    files = {"ak.pem": key, "quote.sig": signature, "pcrs.json": _keylime_pcrs().encode("ascii")}
    nonce = tpm.parse_quote(raw).extra_data
    pin = tpm.spki_sha256(tpm.load_spki(key))
    found = verify(raw, nonce, 1_780_000_000, files=files, under=policy(attestation_keys=(pin,)))
    assert [c.id for c in found.refusing] == ["tpm.quote.selection"]
    some = policy(attestation_keys=(pin,), pcrs=(15, 16))
    assert verify(raw, nonce, 1_780_000_000, files=files, under=some).result == "accepted"


def _keylime_pcrs() -> str:
    """tpm2-tools' own file: TPML_PCR_SELECTION as a C struct, then lists of digests."""
    raw = vector("tpm/generic/keylime_quotepcr.out")
    selected = tpm.parse_quote(vector("tpm/generic/keylime_quote.out")).selections[0].pcrs
    at = 4 + 16 * 8 + 4
    count = struct.unpack_from("<I", raw, at)[0]
    at += 4
    values = {}
    for index in selected[:count]:
        size = struct.unpack_from("<H", raw, at)[0]
        values[index] = raw[at + 2 : at + 2 + size]
        at += 2 + 64
    return tpm.encode_pcrs({"sha256": values})


@pytest.mark.parametrize("name", ["gce-cos-85-no-nonce.pb", "gce-cos-85-nonce9009.pb"])
def test_gce_quotes_verify_with_their_public_area_and_log(name: str) -> None:
    found = gce(f"tpm/gce/{name}")
    raw, signature, _, pcrs = found["quotes"][1]
    pin = tpm.spki_sha256(tpm.parse_public(found["ak"]).key)
    value = {
        "quote": {
            "message": raw.hex(),
            "signature": signature.hex(),
            "pcrs": {"sha256": {str(k): v.hex() for k, v in pcrs.items()}},
        },
        "ak": found["ak"].hex(),
        "event_log": found["event_log"].hex(),
    }
    nonce = tpm.parse_quote(raw).extra_data
    under = policy(attestation_keys=(pin,), log_required=True, secure_boot_required=True)
    result = verify(
        as_json(value),
        nonce or None,
        1_780_000_000,
        under=under if nonce else dataclasses.replace(under, freshness_required=False),
    )
    assert [c.id for c in result.refusing] == []
    assert result.tier == "vtpm"
    assert result.claims["secure_boot"] is True
    sha1 = {
        **value,
        "quote": {**value["quote"], "message": found["quotes"][0][0].hex(), "signature": found["quotes"][0][1].hex()},
    }
    assert verify(as_json(sha1), nonce or None, 1_780_000_000, under=under).result == "refused"


def test_the_measured_boot_of_swtpm_under_qemu_replays() -> None:
    base = "tpm/qemu-swtpm/"
    raw, log, key = vector(base + "q.msg"), vector(base + "log"), vector(base + "ak.pub")
    quote = tpm.parse_quote(raw)
    pcrs = {i: replay(parse_event_log(log), "sha256").get(i, bytes(32)) for i in quote.selections[0].pcrs}
    application = vector(base + "m").decode("ascii").strip()
    pcrs[14] = hashlib.sha256(pcrs[14] + bytes.fromhex(application)).digest()
    files = {
        "ak.pub": key,
        "q.sig": vector(base + "q.sig"),
        "boot.log": log,
        "pcrs.json": tpm.encode_pcrs({"sha256": pcrs}).encode("ascii"),
    }
    under = policy(attestation_keys=(tpm.spki_sha256(tpm.load_spki(key)),))
    found = verify(raw, b"\xcd" * 32, 1_780_000_000, files=files, under=under)
    states = {c.id: c.state for c in found.checks}
    assert states["tpm.quote.signature"] == states["tpm.quote.pcr-digest"] == "passed"
    # The application's own extension of register 14 stands in no firmware log, and is seen.
    assert [c.id for c in found.refusing] == ["tpm.log.replay"]
    assert "register 14" in found.refusing[0].hint
    without = verify(
        raw, b"\xcd" * 32, 1_780_000_000, files={k: v for k, v in files.items() if k != "boot.log"}, under=under
    )
    assert (without.result, without.tier) == ("accepted", "vtpm")


def test_every_ak_certificate_of_the_archives_parses_and_leads_to_its_root() -> None:
    azure = txtar("tpm/openpcc/azure_ak_certificates.txt")
    assert sorted(parse_ak_chain(der).padding for der in azure.values()) == [0, 3087]
    for der in txtar("tpm/openpcc/gce_ak_certificates.txt").values():
        assert parse_ak_chain(der).padding == 0
    with pytest.raises(MalformedError):
        parse_ak_chain(next(iter(azure.values())) + b"\1")


def test_the_archives_hcl_reports_parse() -> None:
    for name, kind in (("azure_sevsnp_report", "sev-snp"), ("azure_tdx_report", "tdx")):
        blob = next(iter(txtar(f"tpm/openpcc/{name}.txt").values()))
        report = hcl.parse_hcl(blob)
        assert report.kind == kind
    for kind in ("snp", "tdx"):
        raw = vector(f"tpm/azure/trustee_az-{kind}-vtpm_hcl-report.bin")
        at = 0
        for field in hcl.fields(raw):
            assert field.start == at
            at = field.end
        assert at == len(raw)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=400), st.integers(0, 2000))
def test_any_bytes_give_only_our_errors(data: bytes, at: int) -> None:
    from forge_tpm import ecc_key, public, quote, sign

    raw = quote(bytes(32), bytes(32))
    parsers = (tpm.parse_quote, tpm.fields, tpm.parse_signature, tpm.parse_public, tpm.parse_pcrs, tpm.load_spki)
    seeds = (raw, sign(ecc_key(), raw), public(ecc_key()), b"HCLA" + bytes(2000), b'{"sha256":{"0":"00"}}')
    for seed in (b"", *seeds):
        mixed = seed[: at % (len(seed) + 1)] + data + seed[at % (len(seed) + 1) + len(data) :]
        for parse in (*parsers, hcl.parse_hcl, parse_ak_chain, parse_document):
            with contextlib.suppress(TeehouseError):
                parse(mixed)


NAMES = ("tpm_quote", "quote", "message", "signature", "pcrs", "report", "ak_chain", "sha256", "0")
LEAVES = st.integers() | st.text(max_size=8)


def _tree(children: Any) -> Any:
    return st.lists(children, max_size=4) | st.dictionaries(st.sampled_from(NAMES), children)


@settings(max_examples=60, deadline=None)
@given(st.recursive(LEAVES, _tree, max_leaves=9))
def test_any_document_gives_only_our_errors(value: Any) -> None:
    raw = json.dumps(value).encode("ascii")
    with contextlib.suppress(TeehouseError):
        verify_artifact(raw, chain=None, collateral=None, nonce=None, report_data=None, policy=policy(), now=1)


def test_the_manifest_rows_are_all_here() -> None:
    if not VECTORS.exists():
        pytest.skip("missing shared vectors: no ../shared/vectors beside the repository")
    evidence = [p.name for p in (VECTORS / "tpm" / "azure").glob("*evidence*.json")]
    assert set(evidence) <= {row[0] for row in AZURE}


def test_a_single_quote_is_not_refused_for_register_values_that_no_policy_lists() -> None:
    standard = Policy.preset("standard")
    assert standard.tpm.references_required
    alone = artifact_policy(standard, fresh=True)
    assert not alone.tpm.references_required
    assert dataclasses.replace(alone.tpm, references_required=True) == standard.tpm
    listed = dataclasses.replace(standard, tpm=dataclasses.replace(standard.tpm, references=("4=" + "00" * 32,)))
    assert artifact_policy(listed, fresh=True).tpm.references == listed.tpm.references
