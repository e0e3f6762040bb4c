# SPDX-License-Identifier: Apache-2.0
"""SNP reports, AMD certificates, collateral and policy fields: layouts, limits, any bytes at all."""

from __future__ import annotations

import contextlib
import hashlib
import json
import warnings
from dataclasses import replace
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.serialization import load_der_public_key
from forge_snp import CHIP, NOW, TCB, TEST_ROOTS, Forge, ca, certificate, extension, integer, name, rsa_key, spki, tlv
from hypothesis import given, settings
from hypothesis import strategies as st

from teehouse_core.appraise.amdchain import find_chain, revocation
from teehouse_core.appraise.artifacts.snp import find_collateral, verify_artifact
from teehouse_core.appraise.policy import Policy
from teehouse_core.appraise.policy_snp import SnpPolicy, TcbMinimum
from teehouse_core.appraise.roots_amd import AMD_ROOTS, amd_roots_for
from teehouse_core.errors import LocalError, MalformedError, TeehouseError
from teehouse_core.evidence.amd_collateral import AmdCollateral, certificates_of
from teehouse_core.evidence.amdcert import PSS_SHA384, parse_certificate, parse_leaf
from teehouse_core.evidence.snp import REPORT_SIZE, Tcb, fields, kds_path, parse_report, product_of

FINGERPRINTS = {  # SHA-256 of the DER, as `roots_amd` documents them
    "Milan": "69d063b45344d26a2e94e1f4210de49ef555308287d4c174445c95639a540bcd",
    "Genoa": "4c6598d19c18719c5dfd4a7d335f674e5bfe1d8f800cea2cf270c10d103db2f1",
    "Turin": "1f084161a44bb6d93778a904877d4819cafa5d05ef4193b2ded9dd9c73dd3f6a",
}
FORMS = [*(Forge(version=v) for v in (2, 3, 4, 5)), Forge(product="Turin", kind="VLEK")]
REPORT, LEAF = Forge().report(), Forge().vcek()
LIST = Forge().list() or b""


def test_layout_of_genoa_and_turin() -> None:
    genoa, turin = parse_report(Forge().report()), parse_report(Forge(product="Turin").report())
    assert genoa.reported_tcb.parts == {n: v for n, v in TCB.items() if n != "fmc"}
    assert turin.reported_tcb.parts == TCB
    assert (genoa.product, turin.product) == ("Genoa", "Turin")
    assert genoa.reported_tcb.raw == bytes((10, 2, 0, 0, 0, 0, 23, 84))
    assert turin.reported_tcb.raw == bytes((1, 10, 2, 23, 0, 0, 0, 84))
    assert str(turin.reported_tcb) == "fmc=1 bootloader=10 tee=2 snp=23 microcode=84"
    assert turin.launch_tcb.below(replace(turin.launch_tcb, snp=24)) == ("snp",)
    assert (genoa.current_version, genoa.committed_version) == ((1, 55, 40), (1, 55, 40))
    assert genoa.chip_id == CHIP
    assert genoa.signed == genoa.raw[:672]
    assert genoa.reserved_set == ()


def test_versions_differ_in_what_they_say() -> None:
    old = parse_report(Forge(version=2, product="Milan").report())
    assert (old.cpuid, old.product, old.launch_mitigations, kds_path(old)) == (None, None, None, None)
    middle = parse_report(Forge(version=4).report())
    assert (middle.cpuid, middle.current_mitigations) == ((0x19, 0x11, 1), None)
    assert parse_report(REPORT).current_mitigations == 0x0B


@pytest.mark.parametrize(
    ("family", "model", "product"),
    [
        (0x19, 0x01, "Milan"),
        (0x19, 0x11, "Genoa"),
        (0x19, 0xA0, "Genoa"),
        (0x1A, 0x02, "Turin"),
        (0x1A, 0x11, "Turin"),
        (0x19, 0x21, None),
        (0x1A, 0x50, None),
        (0x17, 0x31, None),
    ],
)
def test_products(family: int, model: int, product: str | None) -> None:
    assert product_of(family, model) == product


@pytest.mark.parametrize(
    "forge", [Forge(version=v) for v in (2, 3, 4, 5)] + [Forge(product="Turin", kind="VLEK")], ids=repr
)
def test_fields_cover_every_byte_once(forge: Forge) -> None:
    raw = forge.report()
    seen = bytearray(REPORT_SIZE)
    for item in fields(raw):
        assert 0 <= item.start < item.end <= REPORT_SIZE
        whole = not any(
            o.start <= item.start and item.end <= o.end and o.path in item.path for o in fields(raw) if o != item
        )
        if whole:
            for at in range(item.start, item.end):
                seen[at] += 1
    assert set(seen) == {1}
    found = {item.path: item for item in fields(raw)}
    assert found["measurement"].value == "11" * 48
    assert raw[found["measurement"].start : found["measurement"].end] == b"\x11" * 48
    assert found["policy.smt"].value == "1"
    assert found["policy.abi"].value == "0.31"
    assert found["key_info.signing_key"].value == forge.kind
    assert found["reported_tcb.microcode"].value == "84"
    assert ("cpuid.family" in found) == (forge.version >= 3)
    assert ("launch_mitigation_vector" in found) == (forge.version >= 5)


@pytest.mark.parametrize(
    "data", [b"", bytes(1183), bytes(1185), bytes(1184), b"\x01" + bytes(1183), b"\x06" + bytes(1183)]
)
def test_other_lengths_and_versions_are_no_reports(data: bytes) -> None:
    with pytest.raises(MalformedError):
        parse_report(data)
    with pytest.raises(MalformedError):
        fields(data)


def test_a_tcb_has_eight_bytes() -> None:
    with pytest.raises(MalformedError):
        Tcb.parse(bytes(7), fmc_first=False)


def test_shipped_roots_are_what_they_say() -> None:
    assert set(AMD_ROOTS) == set(FINGERPRINTS)
    for product, root in AMD_ROOTS.items():
        ark = parse_certificate(root.ark)
        assert hashlib.sha256(root.ark).hexdigest() == FINGERPRINTS[product]
        assert ark.common_name == f"ARK-{product}"
        for data, common_name in (
            (root.ark, f"ARK-{product}"),
            (root.ask, f"SEV-{product}"),
            (root.asvk, f"SEV-VLEK-{product}"),
        ):
            child = parse_certificate(data)
            assert (child.common_name, child.issuer) == (common_name, ark.subject)
            key = load_der_public_key(ark.public_key)
            assert isinstance(key, rsa.RSAPublicKey)
            assert key.key_size == 4096
            pss = padding.PSS(mgf=padding.MGF1(hashes.SHA384()), salt_length=48)
            key.verify(child.signature, child.tbs, pss, hashes.SHA384())
    assert amd_roots_for("sev-snp") is AMD_ROOTS
    assert amd_roots_for("simulated") == amd_roots_for("tdx") == {}


def test_our_reader_agrees_with_the_general_one() -> None:
    for root in AMD_ROOTS.values():
        for data in (root.ark, root.ask, root.asvk):
            ours, theirs = parse_certificate(data), x509.load_der_x509_certificate(data)
            assert ours.serial == theirs.serial_number
            assert ours.tbs == theirs.tbs_certificate_bytes
            assert ours.signature == theirs.signature
            assert ours.not_before == int(theirs.not_valid_before_utc.timestamp())
            assert ours.not_after == int(theirs.not_valid_after_utc.timestamp())
            assert ours.issuer == theirs.issuer.public_bytes()
            assert ours.subject == theirs.subject.public_bytes()
            assert set(ours.extensions) == {e.oid.dotted_string for e in theirs.extensions}


def test_serial_number_zero_warns_nobody() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        parsed = parse_certificate(LEAF)
        claims = parse_leaf(parsed)
    assert parsed.serial == 0
    assert (claims.kind, claims.product, claims.hwid, claims.csp_id) == ("VCEK", "Genoa", CHIP, None)
    assert dict(claims.tcb) == {n: v for n, v in TCB.items() if n != "fmc"}
    vlek = parse_leaf(parse_certificate(Forge(kind="VLEK", leaf_product="Milan-B1").vcek()))
    assert (vlek.kind, vlek.product, vlek.csp_id) == ("VLEK", "Milan", "CN=test.example")


def _made(**changes: Any) -> bytes:
    base: dict[str, Any] = {
        "issuer": "SEV-Genoa",
        "subject": "SEV-VCEK",
        "key": spki(rsa_key("ASK")),
        "signer": "ASK",
        "extensions": Forge().extensions(),
    }
    return certificate(**{**base, **changes})


def _swap(old: bytes, new: bytes, data: bytes = LEAF) -> bytes:
    """Replace bytes of the TBS at equal length, so that only that is wrong."""
    assert len(old) == len(new)
    assert old in data
    return data.replace(old, new, 1)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x30\x00",
        LEAF + b"\0",
        LEAF[:-1],
        bytes(8193),
        tlv(0x30, LEAF),
        _made(extensions=()),
        _made(extensions=(extension(b"\x55\x1d\x13", b"a"), extension(b"\x55\x1d\x13", b"b"))),
        _made(extensions=(tlv(0x30, tlv(0x06, b"\x55\x1d\x13")),)),
        _made(extensions=(tlv(0x30, tlv(0x06, b"\x55\x1d\x13"), tlv(0x01, b"\0"), tlv(0x04, b"")),)),
        _made(extensions=tuple(extension(b"\x55\x1d" + bytes([n]), b"") for n in range(1, 40))),
        _made(subject="x" * 65),
        _made(subject="\u00fc"),
        _made(subject="a\nb"),
        _swap(b"\xa0\x03\x02\x01\x02", b"\xa0\x03\x02\x01\x01"),
        _swap(b"\x02\x01\x00\x30", b"\x02\x01\x80\x30"),
        _swap(name("SEV-VCEK"), name("SEV-VCEK").replace(b"\x55\x04\x03", b"\x55\x04\x0a")),
        _swap(b"Z", b"+", LEAF),
        _swap(b"\x17\x0d25", b"\x17\x0d2x"),
        _swap(b"\x17\x0d2509", b"\x17\x0d2513"),
        _swap(b"\x17\x0d25", b"\x16\x0d25"),
        _made(serial=1 << 161),
    ],
    ids=range(22),
)
def test_what_is_no_certificate(data: bytes) -> None:
    with pytest.raises(MalformedError):
        parse_leaf(parse_certificate(data))


def test_dates_beyond_2049_and_names() -> None:
    late = parse_certificate(_made(not_after=4_000_000_000))
    assert late.not_after == 4_000_000_000
    assert late.signature_algorithm in PSS_SHA384


@pytest.mark.parametrize(
    ("at", "content"),
    [
        (1, b""),
        (1, tlv(0x16, b"")),
        (1, tlv(0x16, b"\xff")),
        (1, tlv(0x16, b"genoa")),
        (1, tlv(0x16, b"Genoa-X")),
        (1, tlv(0x0C, b"Genoa")),
        (2, b"\x02\x01\xff"),
        (2, b"\x02\x02\x00\x05"),
        (2, b"\x02\x01\x05\x05\x00"),
        (2, b"\x02\x02\x01\x00"),
        (6, b"\x02\x01\x01"),
    ],
)
def test_what_is_no_amd_extension(at: int, content: bytes) -> None:
    made = list(Forge().extensions())
    arc = bytes.fromhex("2b060104019c78")
    oid = {1: b"\x01\x02", 2: b"\x01\x03\x01", 6: b"\x01\x03\x05"}[at]
    made[at] = extension(arc + oid, content)
    with pytest.raises(MalformedError):
        parse_leaf(parse_certificate(Forge(leaf_extensions=tuple(made)).vcek()))


def test_collateral_round_trip() -> None:
    for collateral in (
        Forge().collateral(),
        AmdCollateral(LEAF),
        AmdCollateral(LEAF, (TEST_ROOTS["Genoa"].ask,), LIST),
    ):
        assert AmdCollateral.parse(json.loads(json.dumps(collateral.to_dict()))) == collateral
    pem = AmdCollateral(LEAF, (LEAF,) * 5).to_dict()["chain"]
    with pytest.raises(MalformedError):
        certificates_of(pem.encode())
    with pytest.raises(MalformedError):
        certificates_of(b"-----BEGIN CERTIFICATE-----\nAAAAA\n-----END CERTIFICATE-----\n")


def test_policy_fields_round_trip() -> None:
    text = f"""
    [snp]
    products = ["Milan", "Turin"]
    report_version_minimum = 2
    alias_check_required = false
    tcb_minimum = [{{product = "Turin", fmc = 1, snp = 2}}, {{product = "Milan", microcode = 219}}]
    revocation = ["good", "unknown"]
    provisional_firmware_allowed = true
    migration_allowed = true
    smt_allowed = false
    vmpl = [0, 2]
    abi_minimum = "1.55"
    guest_svn_minimum = 7
    id_key_digests = ["{"ab" * 48}"]
    author_key_digests = ["{"ab" * 48}"]
    csp_ids = ["CN=cc-us-east-2.amazonaws.com"]
    masked_chip_id_allowed = true
    launch_mitigations = "0x0000000000000001"
    current_mitigations = "0x8000000000000003"
    [references]
    measurement = ["{"ab" * 48}"]
    host_data = ["{"cd" * 32}"]
    """
    policy = Policy.load(text, "toml")
    assert policy.snp.tcb_minimum == (TcbMinimum("Turin", fmc=1, snp=2), TcbMinimum("Milan", microcode=219))
    assert (policy.snp.abi, policy.snp.current_mitigations) == ((1, 55), (1 << 63) + 3)
    again = Policy.load(json.dumps(policy.to_json()), "json")
    assert again == policy
    assert again.digest == policy.digest != Policy.preset("standard").digest


@pytest.mark.parametrize(
    "line",
    [
        'products = ["Rome"]',
        "report_version_minimum = 1",
        "alias_check_required = 1",
        'tcb_minimum = ["Genoa"]',
        "tcb_minimum = [{snp = 1}]",
        'tcb_minimum = [{product = "Genoa", snp = 256}]',
        'tcb_minimum = [{product = "Genoa", ucode = 1}]',
        'tcb_minimum = [{product = "Genoa"}, {product = "Genoa"}]',
        'tcb_minimum = [{product = "Genoa", cpuid = "A10F11"}, {product = "Genoa", cpuid = "A10F11"}]',
        'tcb_minimum = [{product = "Genoa", cpuid = "B00F21"}]',
        'tcb_minimum = [{product = "Genoa", cpuid = "a10f11"}]',
        'tcb_minimum = [{product = "Genoa", cpuid = ""}]',
        'tcb_minimum = [{product = "Genoa", cpuid = 1}]',
        "tcb_minimum = 1",
        'revocation = ["revoked"]',
        "vmpl = [4]",
        "vmpl = [0, 0]",
        "vmpl = 0",
        'abi_minimum = "1"',
        'abi_minimum = "1.256"',
        "abi_minimum = 1.5",
        'id_key_digests = ["ab"]',
        'csp_ids = [""]',
        "launch_mitigations = 1",
        "debug_allowed = true",
    ],
)
def test_policy_mistakes_are_named(line: str) -> None:
    with pytest.raises(LocalError) as caught:
        Policy.load(f"[snp]\n{line}\n", "toml")
    assert caught.value.code in ("policy-value", "policy-field")
    assert caught.value.hint


def test_a_table_that_is_none() -> None:
    with pytest.raises(LocalError):
        Policy.load("snp = 1", "toml")
    assert not any(SnpPolicy(tcb_minimum=()).minimum("Genoa", "A10F11").parts.values())
    assert SnpPolicy().minimum("Milan", "A00F11") == TcbMinimum("Milan")


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=1300) | st.binary(min_size=1184, max_size=1184))
def test_any_bytes_as_report(data: bytes) -> None:
    for parse in (parse_report, fields):
        with contextlib.suppress(TeehouseError):
            parse(data)


@settings(max_examples=200, deadline=None)
@given(st.integers(2, 5), st.binary(min_size=1180, max_size=1180))
def test_any_report_appraises(version: int, rest: bytes) -> None:
    verdict = verify_artifact(
        version.to_bytes(4, "little") + rest,
        chain=LEAF,
        collateral={"list": LIST},
        nonce=None,
        report_data=None,
        policy=Policy.preset("evaluate"),
        now=NOW,
        roots=TEST_ROOTS,
    )
    assert verdict.result == "refused"
    assert "snp.report.signature" in {c.id for c in verdict.refusing}


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=400), st.integers(0, len(LEAF) - 1), st.binary(max_size=4), st.integers(0, 4))
def test_any_bytes_as_certificate(junk: bytes, at: int, put: bytes, skip: int) -> None:
    changed = LEAF[:at] + put + LEAF[at + skip :]
    for data in (junk, changed):
        with contextlib.suppress(TeehouseError):
            parse_leaf(parse_certificate(data))
        with contextlib.suppress(TeehouseError):
            find_chain(data, (), TEST_ROOTS)
        with contextlib.suppress(TeehouseError):
            find_chain(LEAF, (data,), TEST_ROOTS)


@settings(max_examples=200, deadline=None)
@given(st.integers(0, len(LIST) - 1), st.binary(max_size=4), st.integers(0, 4), st.binary(max_size=300))
def test_any_bytes_as_list(at: int, put: bytes, skip: int, junk: bytes) -> None:
    chain = find_chain(LEAF, (), TEST_ROOTS)
    for data in (LIST[:at] + put + LIST[at + skip :], junk):
        if data == LIST:
            continue
        with contextlib.suppress(TeehouseError):
            assert revocation(chain, data, NOW).state != "good"


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(st.text(max_size=8), st.binary(max_size=300), max_size=4), st.none() | st.binary(max_size=300))
def test_any_files_as_collateral(files: dict[str, bytes], chain: bytes | None) -> None:
    find_collateral(parse_report(REPORT), chain, files, NOW, TEST_ROOTS)


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(st.sampled_from(["vcek", "chain", "crl", "x"]), st.text(max_size=60) | st.integers()))
def test_any_mapping_as_collateral(value: dict[str, Any]) -> None:
    with contextlib.suppress(MalformedError):
        AmdCollateral.parse(value)


def test_other_signers_do_not_reach_the_root() -> None:
    assert ca("Genoa", "ASK") == TEST_ROOTS["Genoa"].ask
    assert integer(0) == b"\x02\x01\x00"
