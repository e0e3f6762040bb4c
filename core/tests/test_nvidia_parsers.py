# SPDX-License-Identifier: Apache-2.0
"""The NVIDIA parsers: what they refuse by name, and that no bytes make them raise anything but our own errors."""

from __future__ import annotations

import base64
import builtins
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from itertools import pairwise
from typing import Any

import forge_nvidia as forge
import pytest
from cryptography import x509
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from teehouse_core.appraise.artifacts import nvidia as nvidia_artifact
from teehouse_core.appraise.artifacts import rim as rim_artifact
from teehouse_core.appraise.policy import GpuPolicy, Policy
from teehouse_core.appraise.policy_gpu import DeviceDemand, version_key
from teehouse_core.appraise.revocation import RevocationPack, Status, worst
from teehouse_core.errors import LocalError, MalformedError, TeehouseError
from teehouse_core.evidence import nvidia, rim
from teehouse_core.evidence.nvidia_cert import firmware_ids, parse_identity
from teehouse_core.evidence.nvidia_collateral import NvidiaCollateral

NONCE = bytes(range(32))
EVALUATE = Policy.preset("evaluate")
LOOSE = replace(EVALUATE, gpu=GpuPolicy(rim_required=False, revocation_required=False))
FEW = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
RECORD = 45  # offset of the first measurement block


@cache
def report() -> bytes:
    return forge.gpu().report(NONCE)


@cache
def manifest() -> bytes:
    return forge.driver_rim()


def put(at: int, data: bytes) -> Callable[[bytes], bytes]:
    return lambda raw: raw[:at] + data + raw[at + len(data) :]


OPAQUE = RECORD + 64 * 55 + 32  # offset of the opaque length


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda raw: b"", "gpu-truncated"),
        (lambda raw: raw[:36], "gpu-truncated"),
        (lambda raw: raw[:-1], "gpu-truncated"),
        (lambda raw: raw + b"\0", "gpu-trailing-bytes"),
        (lambda raw: raw + bytes(nvidia.MAX_REPORT), "gpu-too-large"),
        (put(0, b"\x10"), "gpu-request"),
        (put(1, b"\xe1"), "gpu-request"),
        (put(2, b"\0"), "gpu-request"),
        (put(3, b"\x01"), "gpu-request"),
        (put(36, b"\x08"), "gpu-request"),
        (put(37, b"\x12"), "gpu-response"),
        (put(38, b"\x61"), "gpu-response"),
        (put(41, b"\0"), "gpu-block"),
        (put(41, b"\xff"), "gpu-block"),
        (put(41, b"\x3f"), "gpu-block"),
        (put(42, b"\0\0\0"), "gpu-block"),
        (put(RECORD, b"\x02"), "gpu-block"),
        (put(RECORD + 1, b"\x02"), "gpu-block"),
        (put(RECORD + 2, b"\x34"), "gpu-block"),
        (put(RECORD + 5, b"\x20"), "gpu-block"),
        (put(OPAQUE, b"\xff\xff"), "gpu-opaque"),
        (put(OPAQUE, b"\x01\x00"), "gpu-opaque"),
        (put(OPAQUE + 2, b"\x0f\0"), "gpu-opaque"),  # a field number that follows again
        (put(OPAQUE + 4, b"\xff\0"), "gpu-opaque"),
    ],
)
def test_a_report_of_another_shape_is_refused_by_name(change: Callable[[bytes], bytes], code: str) -> None:
    with pytest.raises(MalformedError) as caught:
        nvidia.parse_report(change(report()))
    assert caught.value.code == code


def test_opaque_values_of_another_form() -> None:
    def parsed(**changes: bytes | None) -> nvidia.GpuReport:
        return nvidia.parse_report(forge.gpu().with_opaque(**changes).report(NONCE))

    for changes, reading in (
        ({"n3": b"\xff\xfe"}, "driver_version"),
        ({"n3": b"x" * 65}, "driver_version"),
        ({"n3": b"a\nb"}, "driver_version"),
        ({"n36": b"\3\0"}, "mode"),
        ({"n36": b""}, "mode"),
        ({"n21": b"\0"}, "ppcie"),
        ({"n21": b"\0\0\0"}, "ppcie"),
        ({"n22": b"\1" * 9}, "link_switches"),
    ):
        with pytest.raises(MalformedError):
            getattr(parsed(**changes), reading)
    plain = parsed(n6=None, n21=None, n36=None)
    assert (plain.vbios_version, plain.mode, plain.ppcie) == (None, "unreported", None)
    assert parsed(n36=None).mode == "SPT"
    assert parsed(n36=None, n21=b"\xaa").mode == "PPCIE"
    assert plain.measurement(0) is None
    assert plain.measurement(65) is None
    assert plain.own_pdi is None
    assert plain.switch_gpus == ()


def test_fields_leave_no_byte_unnamed() -> None:
    raw = forge.gpu(switches=[bytes(8)]).with_opaque(n99=b"new", n98=b"").report(NONCE)
    found = nvidia.fields(raw)
    assert (found[0].start, found[-1].end) == (0, len(raw))
    assert all(a.end == b.start for a, b in pairwise(found))
    named = {part.path: part.value for part in found}
    assert named["opaque.driver_version.value"] == forge.DRIVER
    assert named["opaque.unknown_99.value"] == b"new".hex()
    assert named["request.nonce"] == NONCE.hex()
    assert len({part.path for part in found}) == len(found)


@FEW
@given(st.binary(max_size=200))
def test_any_bytes_raise_only_our_errors(data: bytes) -> None:
    for parse in (nvidia.parse_report, nvidia.fields, rim.parse_rim, rim.fields, nvidia_artifact.load_chain):
        with pytest.raises(TeehouseError):
            parse(data)
    nvidia_artifact.find_collateral({"a": data})
    pack = RevocationPack([data], [data], forge.NOW, 100)
    assert pack.unreadable == 2


@FEW
@given(st.data())
def test_a_report_with_any_bytes_changed_is_not_accepted(data: st.DataObject) -> None:
    raw = bytearray(report())
    at = data.draw(st.integers(0, len(raw) - 1))
    raw[at] ^= data.draw(st.integers(1, 255))
    try:
        verdict = nvidia_artifact.verify_artifact(
            bytes(raw),
            chain=forge.gpu().pem.encode(),
            collateral=None,
            nonce=NONCE,
            report_data=None,
            policy=LOOSE,
            now=forge.NOW,
        )
    except TeehouseError:
        return
    assert verdict.result == "refused"


@FEW
@given(st.data())
def test_a_manifest_with_any_bytes_changed_says_the_same_or_is_refused(data: st.DataObject) -> None:
    raw = bytearray(manifest())
    at = data.draw(st.integers(0, len(raw) - 1))
    raw[at] ^= data.draw(st.integers(1, 255))
    before = rim.parse_rim(manifest())
    try:
        verdict = rim_artifact.verify_artifact(
            bytes(raw), chain=None, collateral=None, nonce=None, report_data=None, policy=LOOSE, now=forge.NOW
        )
        after = rim.parse_rim(bytes(raw))
    except TeehouseError:
        return
    if verdict.result == "accepted":
        assert (after.golden, after.version, after.product) == (before.golden, before.version, before.product)


@FEW
@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(max_size=20), lambda c: st.lists(c) | st.dictionaries(st.sampled_from(["rims", "ocsp", "crl", "x"]), c)))  # fmt: skip  # noqa: E501
def test_any_collateral_raises_only_our_errors(value: Any) -> None:
    if not isinstance(value, dict):
        return
    try:
        NvidiaCollateral.parse(value)
    except TeehouseError:
        return


@FEW
@given(st.binary(max_size=120))
def test_any_firmware_extension_raises_only_our_errors(data: bytes) -> None:
    for oid in ("2.23.133.5.4.1", "2.23.133.5.4.1.1"):
        extension = x509.UnrecognizedExtension(x509.ObjectIdentifier(oid), data)
        _, chain = forge.chain_for("GH100", bytes(8), extensions=(extension,))
        with pytest.raises(TeehouseError):
            firmware_ids(chain[0])


def test_a_firmware_extension_of_another_form_is_refused() -> None:
    spki = forge.tlv(0x30, b"")
    one = forge.tlv(2, b"\1")
    right = forge.tlv(0x30, forge.SHA384_OID, forge.tlv(4, forge.FWID))
    sha256 = forge.tlv(6, bytes.fromhex("608648016503040201"))
    dice = "2.23.133.5.4.1.1"

    def refused(*members: bytes, oid: str = "2.23.133.5.4.1", raw: bytes | None = None) -> None:
        value = forge.tlv(0x30, *members) if raw is None else raw
        extension = x509.UnrecognizedExtension(x509.ObjectIdentifier(oid), value)
        _, chain = forge.chain_for("GH100", bytes(8), extensions=(extension,))
        with pytest.raises(MalformedError):
            firmware_ids(chain[0])

    refused(spki, right)
    refused(one, spki, forge.tlv(0x30, forge.SHA384_OID, forge.tlv(4, bytes(48))))
    refused(one, spki, forge.tlv(0x30, sha256, forge.tlv(4, forge.FWID)))
    refused(one, spki, forge.tlv(0x30, forge.SHA384_OID, forge.tlv(4, bytes(32))))
    refused(one, spki, forge.tlv(0x30, forge.SHA384_OID))
    refused(one, spki, forge.tlv(4, forge.FWID))
    refused(forge.tlv(0x80, b"x"), oid=dice)
    refused(forge.tlv(0xA6, right), forge.tlv(0xA6, right), oid=dice)
    refused(raw=forge.tlv(4, right))
    refused(raw=bytes(2000))
    both = tuple(x509.UnrecognizedExtension(x509.ObjectIdentifier(oid), right) for oid in ("2.23.133.5.4.1", dice))
    with pytest.raises(MalformedError):
        firmware_ids(forge.chain_for("GH100", bytes(8), extensions=both)[1][0])


def test_artifact_arguments_and_files_of_another_form() -> None:
    given: dict[str, Any] = {"chain": None, "collateral": None, "nonce": None, "report_data": None}
    given |= {"policy": LOOSE, "now": forge.NOW}
    for wrong in ({"chain": b""}, {"nonce": NONCE}, {"report_data": bytes(64)}):
        with pytest.raises(LocalError):
            rim_artifact.verify_artifact(manifest(), **(given | wrong))
    at = manifest().rindex(b"<ds:X509Certificate>") + 20
    spoilt = manifest()[:at] + b"AAA" + manifest()[at + 3 :]
    verdict = rim_artifact.verify_artifact(spoilt, **given)
    assert (verdict.result, verdict.refusing[0].id) == ("refused", "gpu.rim.format")
    with pytest.raises(MalformedError):
        nvidia_artifact.load_chain(forge.tlv(0x30, b"x"))
    assert nvidia_artifact.find_collateral({"x.json": b"{"}) == NvidiaCollateral()
    assert nvidia_artifact.find_collateral({"x.json": b'{"nvidia": {"rims": [1]}}'}) == NvidiaCollateral()
    aged = given | {"policy": replace(LOOSE, freshness_required=False), "chain": forge.gpu().pem.encode()}
    assert nvidia_artifact.verify_artifact(report(), **aged).result == "accepted"
    odd = forge.gpu().with_opaque(n17=b"\xff", n36=b"\3\0").report(NONCE)
    told = nvidia_artifact.verify_artifact(odd, **aged).claims
    assert "project" not in told
    assert "mode" not in told
    assert told["project_sku"] == "0200"


def test_what_a_chain_says_about_its_device() -> None:
    for device, chip, architecture in (
        (forge.gpu(), "GH100", "HOPPER"),
        (forge.gpu(chip="GB100"), "GB100", "BLACKWELL"),
        (forge.switch(), "LS10", "LS10"),
    ):
        identity = parse_identity(device.chain)
        assert (identity.chip, identity.architecture, identity.pdi) == (chip, architecture, device.pdi)
        assert identity.is_switch == (chip == "LS10")
        assert firmware_ids(device.chain[0]) == (forge.FWID,)
    other = forge.certificate("XY100 A01", forge.pki().provisioner, ca=False)
    for chain in ((), (forge.gpu().chain[0],), (other.certificate, forge.gpu().chain[1])):
        with pytest.raises(MalformedError):
            parse_identity(chain)
    short = forge.certificate("GH100 A01 BROM", forge.pki().provisioner, ca=True, serial=7)
    assert parse_identity((forge.gpu().chain[0], short.certificate)).pdi is None
    with pytest.raises(MalformedError):
        firmware_ids(short.certificate)


def text_case(old: str, new: str) -> Callable[[], bytes]:
    """A manifest signed as changed: its signature holds, its form does not."""
    assert old in manifest().decode()
    return lambda: forge.driver_rim(edit=lambda text: text.replace(old, new, 1))


def info_case(old: str, new: str) -> Callable[[], bytes]:
    return lambda: forge.driver_rim(edit_info=lambda text: text.replace(old, new, 1))


def raw_case(old: bytes, new: bytes) -> Callable[[], bytes]:
    return lambda: manifest().replace(old, new, 1)


REFERENCE = '<ds:Reference URI="">'
ROW = '<Resource type="Measurement" index="7"'


@pytest.mark.parametrize(
    "make",
    [
        text_case('index="7"', 'index="6"'),
        text_case('index="7"', 'index="07"'),
        text_case('index="7"', 'index="200"'),
        text_case('index="7"', 'index="x"'),
        text_case('active="True"', 'active="true"'),
        text_case('alternatives="2"', 'alternatives="1"'),
        text_case('alternatives="2"', 'alternatives="3"'),
        text_case('alternatives="2"', 'alternatives="0"'),
        text_case('h:Hash1="', 'h:Hash2="'),
        text_case('h:Hash1="', 'Hash1="'),
        text_case('h:Hash1="', 'h:Hash1="z'),
        text_case('size="48"', 'size="32"'),
        text_case(ROW, '<Resource type="File" index="7"'),
        text_case(ROW, '<Other type="Measurement" index="7"'),
        text_case("<Payload>", "<Payload/><Payload>"),
        text_case("<Payload>", f"<Meta/><Payload>{'<Resource/>' * 5000}"),
        text_case("<Meta ", "<Meta/><Meta "),
        text_case('edition="GPU" ', ""),
        text_case(f'colloquialVersion="{forge.DRIVER}"', 'colloquialVersion=""'),
        text_case("<Payload>", '<Payload xml:base="x">'),
        text_case('tagId="SIMULATED', f'tagId="{"x" * 300}'),
        lambda: forge.rim("GH100", forge.DRIVER, ()),
        info_case(REFERENCE, '<ds:Reference URI="#part">'),
        info_case(REFERENCE, '<ds:Reference Id="x" URI="">'),
        info_case(REFERENCE, f"{REFERENCE}</ds:Reference>{REFERENCE}"),
        info_case("c14n11", "c14n11#WithComments"),
        info_case("ecdsa-sha384", "rsa-sha384"),
        info_case(forge.ENVELOPED, "http://www.w3.org/TR/1999/REC-xpath-19991116"),
        info_case(f'<ds:Transform Algorithm="{forge.ENVELOPED}"/>', ""),
        info_case("xmldsig-more#sha384", "xmldsig-more#md5"),
        info_case("<ds:DigestValue>", "<ds:DigestValue>AAAA"),
        info_case("</ds:Transforms>", "</ds:Transforms><ds:Other/>"),
        raw_case(b"<ds:SignatureValue>", b"<ds:SignatureValue>AAAA"),
        raw_case(b"<ds:SignatureValue>", b"<ds:SignatureValue>!"),
        raw_case(b"</ds:SignatureValue>", b"</ds:SignatureValue><ds:SignatureValue/>"),
        raw_case(b"<ds:X509Certificate>", b"<ds:X509Certificate/><ds:X509Certificate>"),
        raw_case(b"<ds:X509Data>", b"<ds:X509Data><ds:X509SKI/>"),
        raw_case(b"<ds:KeyInfo>", b"<ds:KeyInfo/><ds:KeyInfo>"),
        raw_case(b"<Payload>", b"<!-- x --><Payload>"),
        raw_case(b"<Payload>", b"<?x y?><Payload>"),
        raw_case(b"<Payload>", b"<![CDATA[x]]><Payload>"),
        raw_case(b"<Payload>", b"&x;<Payload>"),
        raw_case(b"<SoftwareIdentity", b"<!DOCTYPE a [<!ENTITY x SYSTEM 'file:///etc/passwd'>]><SoftwareIdentity"),
        raw_case(b"SoftwareIdentity", b"OtherIdentity"),
        lambda: manifest().decode().encode("utf-16"),
        raw_case(b"<Payload>", b'<Payload xmlns:x="relative">'),
        lambda: b"\xff" + manifest(),
        lambda: manifest() + b" " * rim.MAX_RIM,
        lambda: b"<a>" * 5000,
    ],
)
def test_a_manifest_of_another_form_is_refused(make: Callable[[], bytes]) -> None:
    data = make()
    assert data != manifest()
    with pytest.raises(MalformedError) as caught:
        rim.parse_rim(data)
    assert caught.value.code.startswith("rim-")


def test_a_signature_wrapped_around_another_document_is_refused() -> None:
    """The signed document hidden inside one that says something else, with its signature where a verifier looks."""
    signed = manifest().decode()
    start = signed.index("<ds:Signature ")
    evil = forge.driver_rim(version="999.99").decode()
    stolen = signed[start : signed.index("</ds:Signature>") + 15]
    own = evil[evil.index("<ds:Signature ") : evil.index("</ds:Signature>") + 15]
    wrapped = evil.replace(own, stolen)
    parsed = rim.parse_rim(wrapped.encode())
    assert parsed.digest != parsed.claimed_digest
    nested = evil.replace(own, stolen.replace("</ds:Signature>", f"<ds:Object>{signed}</ds:Object></ds:Signature>"))
    with pytest.raises(MalformedError):
        rim.parse_rim(nested.encode())


def test_white_space_and_the_declaration_change_nothing() -> None:
    before = rim.parse_rim(manifest())
    spaced = b'<?xml version="1.0" encoding="utf-8"?>\n' + manifest().replace(b"<Payload>", b"<Payload >")
    after = rim.parse_rim(spaced)
    assert (after.digest, after.golden) == (before.digest, before.golden)
    # Another declared encoding is not believed: read as UTF-7 this would hide markup.
    hidden = b'<?xml version="1.0" encoding="utf-7"?>' + manifest().replace(b"<Payload>", b"+ADwAIQ---<Payload>")
    assert rim.parse_rim(hidden).digest != before.digest


def test_rim_without_lxml(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith("lxml"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    rim._etree.cache_clear()
    monkeypatch.setattr(builtins, "__import__", without)
    try:
        assert not rim.rim_support()
        with pytest.raises(LocalError) as caught:
            rim.parse_rim(manifest())
        assert caught.value.code == "lxml-missing"
    finally:
        rim._etree.cache_clear()


def test_collateral_limits() -> None:
    text = base64.b64encode(b"x").decode()
    whole = NvidiaCollateral.parse({"rims": [text], "ocsp": [text], "crl": [text]})
    assert NvidiaCollateral.parse(whole.to_dict()) == whole
    assert NvidiaCollateral.parse({}) == NvidiaCollateral()
    for bad in ({"rim": []}, {"rims": text}, {"rims": [1]}, {"rims": [text] * 17}, {"ocsp": [text] * 129}):
        with pytest.raises(MalformedError):
            NvidiaCollateral.parse(bad)


def test_the_worst_status_wins() -> None:
    good, unknown = Status("good", "a", 5), Status("unknown", "b", None)
    hold, revoked = Status("hold", "c", 3), Status("revoked", "d", 9)
    assert worst([good]).state == "good"
    assert worst([good, unknown]).state == "unknown"
    assert worst([unknown, hold, good]) == Status("hold", "c", 3)
    assert worst([revoked, hold, unknown, good]) == Status("revoked", "d", 3)
    assert worst([]).state == "unknown"


def test_gpu_policy_reads_what_it_writes() -> None:
    text = """
    devices = [{kind = "nvidia-gpu", count = 8, arch = "HOPPER"}, {kind = "nvidia-nvswitch", count = 4}]
    [gpu]
    drivers = ["590.48.01"]
    min_driver = "590.48"
    vbios = ["*"]
    modes = ["PPCIE"]
    rim_required = false
    hold_allowed = true
    """
    policy = Policy.load(text, "toml")
    assert policy.devices == (DeviceDemand("nvidia-gpu", 8, "HOPPER"), DeviceDemand("nvidia-nvswitch", 4))
    assert policy.gpu == GpuPolicy(("590.48.01",), "590.48", ("*",), ("PPCIE",), False, True, True)
    assert str(policy.devices[0]) == "8 HOPPER nvidia-gpu"
    import json

    assert Policy.load(json.dumps(policy.to_json()), "json") == policy
    for bad in (
        'gpu = {drivers = ["590"]}',
        'gpu = {min_driver = "new"}',
        'gpu = {vbios = ["96"]}',
        'gpu = {modes = ["CC"]}',
        "gpu = {rim_required = 1}",
        "gpu = {driver = []}",
        "gpu = 1",
        'devices = [{kind = "nvidia-gpu", count = 1, arch = "ADA"}]',
        'devices = [{kind = "nvidia-gpu", count = 0}]',
        'devices = [{kind = "nvidia-gpu"}]',
        'devices = [{kind = "gpu", count = 1}]',
        "devices = {}",
        'devices = [{kind = "nvidia-gpu", count = 1}, {kind = "nvidia-gpu", count = 2}]',
    ):
        with pytest.raises(LocalError):
            Policy.load(bad, "toml")
    assert version_key("590.48.01") < version_key("590.100.0")
    with pytest.raises(ValueError, match="driver"):
        version_key("590.x")
