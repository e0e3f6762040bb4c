# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: E501  a case is one line, so that the table can be read
"""Forged devices in whole bundles: right in everything but one thing, and refused for exactly that."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

import forge_nvidia as forge
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.ocsp import OCSPCertStatus, OCSPResponseBuilder, OCSPResponseStatus
from forge_nvidia import DAY, GPU, NOW, SWITCH, Device, machine, pki

from teehouse_core.appraise import rimshelf
from teehouse_core.appraise.appraise import appraise
from teehouse_core.appraise.artifacts.nvidia import load_chain, verify_artifact
from teehouse_core.appraise.catalogue import CATALOGUE
from teehouse_core.appraise.policy import DeviceDemand, GpuPolicy, Policy
from teehouse_core.appraise.verdict import Verdict
from teehouse_core.errors import LocalError, MalformedError
from teehouse_core.evidence.bundle import Bundle, build_bundle, device_entry, log_entry
from teehouse_core.evidence.jsontext import unb64_text
from teehouse_core.evidence.nvidia_collateral import NvidiaCollateral
from teehouse_core.wire import binding
from teehouse_core.wire.keyset import Capabilities, HpkeKey, Keyset, Model, Software, build_keyset, key_id
from teehouse_core.wire.suites import DEFAULT_SUITE
from teehouse_enclave.platform import simulated
from teehouse_enclave.platform.base import InsecurePlatformWarning

ENDPOINT, NODE, NONCE = "ep-20260901000000-abcde", "node-1", bytes(range(32))
LOG = (
    ("release", b"0.1.0"),
    ("image_sha256", b"aa" * 32),
    ("config_sha256", b"bb" * 32),
    ("weights_sha256", b"cc" * 32),
    ("model", b"tiny"),
    ("doors", b""),
    ("egress", b"none"),
    ("content_logging", b"none"),
    ("moderation", b"none"),
)
EVALUATE = Policy.preset("evaluate")
REVOKED, UNKNOWN = OCSPCertStatus.REVOKED, OCSPCertStatus.UNKNOWN
REVOCATION, RIM_REVOCATION = "gpu.certificate.revocation", "gpu.rim.revocation"


@cache
def platform() -> simulated.SimulatedPlatform:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", InsecurePlatformWarning)
        made = simulated.SimulatedPlatform(clock=lambda: NOW, machine=b"machine-for-test")
    for event, content in LOG:
        made.extend(event, content)
    return made


@cache
def keyset() -> bytes:
    public = hashlib.sha512(b"pk").digest() * 19
    hpke = HpkeKey(key_id(DEFAULT_SUITE, public), DEFAULT_SUITE, public, NOW, NOW + 3600)
    return build_keyset(
        role="node",
        endpoint=ENDPOINT,
        node=NODE,
        hpke=[hpke],
        sign=[],
        model=Model("tiny", "cc" * 32),
        software=Software("0.1.0", "aa" * 32, "bb" * 32),
        capabilities=Capabilities("none", "none", "none", ()),
        not_before=NOW,
        not_after=NOW + 3600,
    )


CHALLENGE = binding.challenge(1, NONCE)


def device_nonce() -> bytes:
    return binding.device_nonce(Keyset.parse(keyset()).digest, CHALLENGE)


def bundle(entries: Sequence[dict[str, str]], nvidia: NvidiaCollateral) -> bytes:
    """A simulated node's bundle with these devices, bound as it should be."""
    parsed = [parts_of(entry) for entry in entries]
    data = binding.report_data(Keyset.parse(keyset()).digest, binding.devices_digest(parsed), CHALLENGE)
    evidence = platform().collect(data)
    return build_bundle(
        endpoint=ENDPOINT,
        node=NODE,
        keyset=keyset(),
        challenge_kind=1,
        challenge_value=NONCE,
        platform_type="simulated",
        report=evidence.report,
        workload_log=[log_entry(event, content) for event, content in LOG],
        collateral={**evidence.collateral, "nvidia": nvidia.to_dict()},
        devices=entries,
    )


def parts_of(entry: dict[str, str]) -> tuple[int, bytes, bytes]:
    chain = x509.load_pem_x509_certificates(entry["chain"].encode())
    der = b"".join(c.public_bytes(Encoding.DER) for c in chain)
    kind = binding.GPU if entry["type"] == GPU else binding.NVSWITCH
    return kind, unb64_text(entry["report"], limit=1 << 20, what="report"), der


@dataclass
class Case:
    """`failing` must be exactly the refusing checks; everything left alone is right."""

    name: str
    failing: set[str]
    devices: Callable[[], list[Device]] = lambda: [forge.gpu()]
    change: Callable[[bytes], bytes] = lambda signed: signed  # of each report, before it is signed
    spoil: Callable[[bytes], bytes] = lambda report: report  # of each report, after it was signed
    nonce: bytes | None = None
    declare: dict[str, str] = field(default_factory=dict)
    answers: Callable[[list[Device]], list[bytes]] = forge.answers
    rims: Callable[[list[Device]], list[bytes]] = forge.rims
    crls: Callable[[], list[bytes]] = list
    policy: Policy = EVALUATE
    now: int = NOW

    def bytes(self) -> bytes:
        """The whole bundle."""
        devices = self.devices()
        nonce = self.nonce or device_nonce()
        entries = [
            device_entry(d.kind, d.arch, self.spoil(d.report(nonce, self.change)), d.pem) | self.declare
            for d in devices
        ]
        nvidia = NvidiaCollateral(tuple(self.rims(devices)), tuple(self.answers(devices)), tuple(self.crls()))
        return bundle(entries, nvidia)

    def verdict(self) -> Verdict:
        return appraise(self.bytes(), self.policy, self.now, endpoint=ENDPOINT, nonce=NONCE)


def gpus(**changes: Any) -> Callable[[], list[Device]]:
    return lambda: [forge.gpu(**changes)]


def opaque(**changes: bytes | None) -> Callable[[], list[Device]]:
    return lambda: [forge.gpu().with_opaque(**changes)]


def gpu_policy(**changes: Any) -> Policy:
    return replace(EVALUATE, gpu=GpuPolicy(**changes))


def flipped(at: int) -> Callable[[bytes], bytes]:
    return lambda raw: raw[:at] + bytes([raw[at] ^ 1]) + raw[at:][1:]


def with_answer(about: int, **changes: Any) -> Callable[[list[Device]], list[bytes]]:
    """Right answers, but the one about certificate `about` of `certificates_to_clear` made another way."""

    def make(devices: list[Device]) -> list[bytes]:
        certificates = forge.certificates_to_clear(devices)
        return [forge.ocsp_response(c, **(changes if n == about else {})) for n, c in enumerate(certificates)]

    return make


def without_answer(*about: int) -> Callable[[list[Device]], list[bytes]]:
    return lambda devices: [a for n, a in enumerate(forge.answers(devices)) if n not in about]


def by_stranger(about: int) -> Callable[[list[Device]], list[bytes]]:
    def make(devices: list[Device]) -> list[bytes]:
        child = forge.certificates_to_clear(devices)[about]
        own = pki().issuer_of(child)
        other = pki().identity if own is not pki().identity else pki().provisioner
        return with_answer(about, signer=forge.responder(other))(devices)

    return make


def by_responder(about: int, **changes: Any) -> Callable[[list[Device]], list[bytes]]:
    def make(devices: list[Device]) -> list[bytes]:
        issuer = pki().issuer_of(forge.certificates_to_clear(devices)[about])
        return with_answer(about, signer=forge.responder(issuer, **changes))(devices)

    return make


def spoilt_answer(about: int) -> Callable[[list[Device]], list[bytes]]:
    def make(devices: list[Device]) -> list[bytes]:
        found = forge.answers(devices)
        found[about] = flipped(len(found[about]) // 3)(found[about])
        return found

    return make


def manifests(*made: Callable[[], bytes]) -> Callable[[list[Device]], list[bytes]]:
    return lambda _: [make() for make in made]


def other_root(name: str) -> forge.Signer:
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    key = forge.key(name)
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(7)
        .not_valid_before(forge.at(NOW - DAY))
        .not_valid_after(forge.at(NOW + 400 * DAY))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(x509.KeyUsage(False, False, False, False, False, True, True, False, False), critical=True)
    )
    return forge.Signer(made.sign(key, hashes.SHA384()), key)


@cache
def foreign_pki() -> forge.Pki:
    root = other_root("NVIDIA Device Identity CA")
    identity = forge.certificate("SIMULATED foreign identity", root, ca=True)
    provisioner = forge.certificate("SIMULATED foreign provisioner", identity, ca=True)
    return replace(pki(), device_root=root, identity=identity, provisioner=provisioner)


def foreign_answers(devices: list[Device]) -> list[bytes]:
    issuers = {s.certificate.subject: s for s in (foreign_pki().device_root, foreign_pki().identity)}
    issuers[foreign_pki().provisioner.certificate.subject] = foreign_pki().provisioner
    certificates = forge.certificates_to_clear(devices)
    return [forge.ocsp_response(c, issuer=issuers.get(c.issuer)) for c in certificates]


@cache
def impostor() -> forge.Signer:
    """A CA with the provisioner's name and a key of its own."""
    return forge.certificate("SIMULATED provisioner", pki().identity, ca=True, key_name="impostor")


@cache
def foreign_signer() -> tuple[forge.Signer, list[x509.Certificate]]:
    root = other_root("NVIDIA CoRIM signing Root CA")
    chip = forge.certificate("SIMULATED foreign reference CA", root, ca=True)
    third = forge.certificate("SIMULATED foreign L3", chip, ca=True)
    signer = forge.certificate("SIMULATED foreign RIM signer", third, ca=False)
    return signer, [s.certificate for s in (signer, third, chip, root)]


def short_signer(**dates: int) -> Callable[[], tuple[forge.Signer, list[x509.Certificate]]]:
    def make() -> tuple[forge.Signer, list[x509.Certificate]]:
        signer = forge.certificate("SIMULATED short-lived RIM signer", pki().rim_l3, ca=False, **dates)
        return signer, [s.certificate for s in (signer, pki().rim_l3, pki().rim_ca, pki().rim_root)]

    return make


def signed_by(make: Callable[[], tuple[forge.Signer, list[x509.Certificate]]]) -> dict[str, Any]:
    def rims(_: list[Device]) -> list[bytes]:
        signer, chain = make()
        return [forge.driver_rim(signer=signer, chain=chain), forge.vbios_rim()]

    def answers(devices: list[Device]) -> list[bytes]:
        signer, chain = make()
        own = forge.Signer(chain[1], forge.key("SIMULATED reference value L3"))
        return [*forge.answers(devices), forge.ocsp_response(signer.certificate, issuer=own)]

    return {"rims": rims, "answers": answers}


def wired(change: Callable[[list[Device]], list[Device]]) -> Callable[[], list[Device]]:
    return lambda: change(machine(2, 2))


ALL_RIMS = {
    "gpu.rim.format",
    "gpu.rim.present",
    "gpu.rim.signature",
    "gpu.rim.chain",
    RIM_REVOCATION,
    "gpu.rim.overlap",
    "gpu.rim.measurements",
}
HOLD = x509.ReasonFlags.certificate_hold
OTHER = hashlib.sha384(b"other firmware").digest()
FORMAT = {
    "gpu.report.format",
    "gpu.report.signature",
    "gpu.report.nonce",
    "gpu.certificate.fwid",
    "gpu.device.identity",
    "gpu.driver.version",
    "gpu.vbios.version",
    "gpu.mode.flags",
    "gpu.mode.allowed",
    "gpu.switch.locked",
} | (ALL_RIMS - {"gpu.rim.format"})
LOOSE = GpuPolicy(rim_required=False, revocation_required=False)

CASES = [
    Case("right GPU", set()),
    Case("right Blackwell", set(), gpus(chip="GB100", mode=1)),
    Case("right switch", set(), lambda: [forge.switch()]),
    Case("right machine", set(), wired(lambda d: d)),
    Case("report does not parse", FORMAT, spoil=lambda r: r[:-1]),
    Case("report with a byte after it", FORMAT, spoil=lambda r: r + b"\0"),
    Case("report of SPDM 1.2", FORMAT, change=lambda s: b"\x12" + s[1:]),
    Case("bit flipped in the signed part", {"gpu.report.signature"}, spoil=flipped(45 + 55 * 62 + 20)),
    Case("bit flipped in the signature", {"gpu.report.signature"}, spoil=flipped(-1 - 40)),
    Case("signed by another device", {"gpu.report.signature"}, lambda: [replace(forge.gpu(0), leaf=forge.gpu(1).leaf)]),
    Case("another nonce", {"gpu.report.nonce"}, nonce=bytes(32)),
    Case("nonce of the challenge itself", {"gpu.report.nonce"}, nonce=NONCE),
    Case("another root of the same name", {"gpu.certificate.chain", REVOCATION}, gpus(made=foreign_pki()), answers=foreign_answers),
    Case("leaf not yet valid", {"gpu.certificate.chain"}, gpus(since=NOW + 1)),
    Case("leaf over", {"gpu.certificate.chain"}, gpus(until=NOW)),
    Case("leaf is a CA", {"gpu.certificate.chain"}, gpus(ca=True)),
    Case("leaf of another device", {"gpu.certificate.chain"}, lambda: [replace(forge.gpu(0), chain=(forge.gpu(0).chain[0], *forge.gpu(1).chain[1:]))]),
    Case("other firmware than certified", {"gpu.certificate.fwid"}, opaque(n20=OTHER)),
    Case("certified for other firmware", {"gpu.certificate.fwid"}, gpus(fwid=OTHER)),
    Case("no firmware id in the leaf", {"gpu.certificate.fwid"}, gpus(extensions=())),
    Case("report without firmware id", set(), opaque(n20=None)),
    Case("no revocation answer for the device", {REVOCATION}, answers=without_answer(0)),
    Case("no revocation answers at all", {REVOCATION, RIM_REVOCATION}, answers=lambda _: []),
    Case("device revoked", {REVOCATION}, answers=with_answer(0, status=REVOKED)),
    Case("device revoked for a compromised key", {REVOCATION}, answers=with_answer(0, status=REVOKED, reason=x509.ReasonFlags.key_compromise)),
    Case("device revoked, not demanded", {REVOCATION}, answers=with_answer(0, status=REVOKED), policy=gpu_policy(revocation_required=False)),
    Case("provisioner revoked", {REVOCATION}, answers=with_answer(1, status=REVOKED)),
    Case("chip identity revoked", {REVOCATION}, answers=with_answer(2, status=REVOKED)),
    Case("device on hold", {REVOCATION}, answers=with_answer(0, status=REVOKED, reason=HOLD)),
    Case("device on hold, allowed", set(), answers=with_answer(0, status=REVOKED, reason=HOLD), policy=gpu_policy(hold_allowed=True)),
    Case("device revoked, hold allowed", {REVOCATION}, answers=with_answer(0, status=REVOKED), policy=gpu_policy(hold_allowed=True)),
    Case("responder does not know the device", {REVOCATION}, answers=with_answer(0, status=UNKNOWN)),
    Case("answer past its next update", {REVOCATION}, answers=with_answer(0, until=NOW)),
    Case("answer not yet valid", {REVOCATION}, answers=with_answer(0, since=NOW + 1)),
    Case("answer without next update", {REVOCATION}, answers=with_answer(0, until=None)),
    Case("answer too old for the policy", {REVOCATION}, answers=with_answer(0, since=NOW - 31 * DAY)),
    Case("answer spoilt", {REVOCATION}, answers=spoilt_answer(0)),
    Case("answer by another issuer's responder", {REVOCATION}, answers=by_stranger(0)),
    Case("answer by a certificate of no such use", {REVOCATION}, answers=by_responder(0, extensions=())),
    Case("answer by a responder whose time is over", {REVOCATION}, answers=by_responder(0, until=NOW)),
    Case("answer under another key of the issuer's name", {REVOCATION}, answers=lambda d: with_answer(0, issuer=impostor(), signer=impostor())(d)),
    Case("answer naming the issuer by SHA-512", {REVOCATION}, answers=with_answer(0, hash_algorithm=hashes.SHA512())),
    Case("responder that could not answer", {REVOCATION}, answers=lambda d: [OCSPResponseBuilder.build_unsuccessful(OCSPResponseStatus.TRY_LATER).public_bytes(Encoding.DER), *forge.answers(d)[1:]]),
    Case("answer signed with a short hash", {REVOCATION}, answers=with_answer(0, algorithm=hashes.SHA224())),
    Case("responder known by its name", set(), answers=with_answer(0, by_name=True)),
    Case("answer about another device", {REVOCATION}, answers=lambda d: [*forge.answers(d)[1:], forge.ocsp_response(forge.gpu(9).chain[1])]),
    Case("answer by the issuer itself", set(), answers=lambda d: with_answer(0, signer=pki().provisioner)(d)),
    Case("answer naming the issuer by SHA-384", set(), answers=with_answer(0, hash_algorithm=hashes.SHA384())),
    Case("CRL in place of an answer", set(), answers=without_answer(2), crls=lambda: [forge.crl(pki().device_root, {})]),
    Case("CRL that lists the chip identity", {REVOCATION}, crls=lambda: [forge.crl(pki().device_root, {pki().identity.certificate.serial_number: None})]),
    Case("CRL with the chip identity on hold", {REVOCATION}, crls=lambda: [forge.crl(pki().device_root, {pki().identity.certificate.serial_number: HOLD})]),
    Case("CRL past its next update", {REVOCATION}, answers=without_answer(2), crls=lambda: [forge.crl(pki().device_root, {}, until=NOW)]),
    Case("CRL of another issuer", {REVOCATION}, answers=without_answer(2), crls=lambda: [forge.crl(pki().identity, {})]),
    Case("CRL under a foreign key", {REVOCATION}, answers=without_answer(2), crls=lambda: [forge.crl(replace(pki().device_root, key=forge.key("x")), {})]),
    Case("declared as another architecture", {"gpu.device.identity"}, declare={"arch": "BLACKWELL"}),
    Case("report names another chip", {"gpu.device.identity"}, opaque(n35=b"GB100\0")),
    Case("a switch's report by a GPU", {"gpu.device.identity", "gpu.driver.version"}, opaque(n3=None), policy=replace(EVALUATE, gpu=LOOSE), rims=lambda _: []),
    Case("switch with another's identifier", {"gpu.device.identity"}, lambda: [forge.switch().with_opaque(n22=bytes(8))]),
    Case("driver not allowed", {"gpu.driver.version"}, policy=gpu_policy(drivers=("590.48.02",))),
    Case("driver allowed", set(), policy=gpu_policy(drivers=("590.48.01",), min_driver="590.48")),
    Case("driver below the minimum", {"gpu.driver.version"}, policy=gpu_policy(min_driver="590.100.00")),
    Case("driver version of another form", {"gpu.driver.version"}, opaque(n3=b"590.48.01-beta\0"), policy=replace(EVALUATE, gpu=LOOSE), rims=lambda _: []),
    Case("VBIOS not allowed", {"gpu.vbios.version"}, policy=gpu_policy(vbios=("96.00.A5.00.02",))),
    Case("no VBIOS version", {"gpu.vbios.version"}, opaque(n6=None), policy=replace(EVALUATE, gpu=LOOSE), rims=lambda _: []),
    Case("flags contradict each other", {"gpu.mode.flags"}, opaque(n21=b"\xaa")),
    Case("mode not allowed", {"gpu.mode.allowed"}, policy=gpu_policy(modes=("MPT",))),
    Case("mode not reported", {"gpu.mode.allowed"}, opaque(n21=None, n36=None)),
    Case("unknown mode", {"gpu.mode.allowed"}, opaque(n21=None, n36=b"\3\0"), policy=gpu_policy(modes=("SPT", "MPT", "PPCIE", "unreported"))),
    Case("switch not locked", {"gpu.switch.locked"}, lambda: [forge.switch().with_opaque(n25=b"\0\0")]),
    Case("switch without lock status", {"gpu.switch.locked"}, lambda: [forge.switch().with_opaque(n25=None)]),
    Case("no manifests", ALL_RIMS, rims=lambda _: []),
    Case("no manifests, not demanded", set(), rims=lambda _: [], policy=gpu_policy(rim_required=False)),
    Case("a manifest that is no XML", {"gpu.rim.format"}, rims=lambda d: [*forge.rims(d), b"<x"]),
    Case("no driver manifest", {"gpu.rim.present"}, rims=manifests(forge.vbios_rim)),
    Case("no VBIOS manifest", {"gpu.rim.present"}, rims=manifests(forge.driver_rim)),
    Case("driver manifest of another version", {"gpu.rim.present"}, rims=manifests(lambda: forge.driver_rim(version="590.48.02"), forge.vbios_rim)),
    Case("driver manifest for another chip", {"gpu.rim.present"}, rims=manifests(lambda: forge.driver_rim("GB100"), forge.vbios_rim)),
    Case("manifest changed after signing", {"gpu.rim.signature"}, rims=manifests(lambda: forge.driver_rim().replace(b"Measurement_9", b"Measurement_x"), forge.vbios_rim)),
    Case("manifest signed by another key", {"gpu.rim.signature"}, rims=manifests(lambda: forge.driver_rim(signer=replace(pki().rim_signer, key=forge.key("x"))), forge.vbios_rim)),
    Case("bad manifest, none demanded", {"gpu.rim.signature"}, rims=manifests(lambda: forge.driver_rim().replace(b"Measurement_9", b"Measurement_x")), policy=gpu_policy(rim_required=False)),
    Case("manifest under another root", {"gpu.rim.chain", RIM_REVOCATION}, **signed_by(foreign_signer)),
    Case("manifest signer not yet valid", {"gpu.rim.chain", RIM_REVOCATION}, **signed_by(short_signer(since=NOW + 1))),
    Case("manifest signer over", {"gpu.rim.chain"}, **signed_by(short_signer(until=NOW)), policy=gpu_policy(revocation_required=False)),
    Case("manifest signer revoked", {RIM_REVOCATION}, answers=with_answer(3, status=REVOKED)),
    Case("manifest L3 revoked", {RIM_REVOCATION}, answers=with_answer(4, status=REVOKED)),
    Case("no answer for the manifest signer", {RIM_REVOCATION}, answers=without_answer(3)),
    Case("both manifests speak for an index", {"gpu.rim.overlap"}, rims=manifests(forge.driver_rim, lambda: forge.rim("GH100", forge.VBIOS, (*forge.VBIOS_INDICES, 7)))),
    Case("driver measurement", {"gpu.rim.measurements"}, lambda: [replace(forge.gpu(), measurements={21: bytes(48)})]),
    Case("VBIOS measurement", {"gpu.rim.measurements"}, lambda: [replace(forge.gpu(), measurements={9: bytes(48)})]),
    Case("measurement that no manifest speaks for", set(), lambda: [replace(forge.gpu(), measurements={63: bytes(48)})]),
    Case("second alternative", set(), lambda: [replace(forge.gpu(), measurements={9: hashlib.sha384(b"another build").digest()})]),
    Case("decoder firmware differs", {"gpu.rim.measurements"}, lambda: [replace(forge.gpu(), measurements={35: bytes(48)})]),
    Case("decoder disabled", set(), lambda: [replace(forge.gpu(), measurements={35: bytes(48)}).with_opaque(n11=b"\x55")]),
    Case("switch measurement", {"gpu.rim.measurements"}, lambda: [replace(forge.switch(), measurements={30: bytes(48)})]),
    Case("index beyond the blocks", {"gpu.rim.measurements"}, lambda: [forge.switch()], rims=manifests(lambda: forge.rim("LS10", forge.SWITCH_BIOS, (0, 31), edition="SWITCH"))),
    Case("one device twice", {"devices.unique"}, lambda: [forge.gpu(0), forge.gpu(0)]),
    Case("a switch missing", {"devices.topology"}, wired(lambda d: d[:-1])),
    Case("all switches missing", {"devices.topology"}, wired(lambda d: d[:2])),
    Case("a GPU missing", {"devices.topology"}, wired(lambda d: d[1:])),
    Case("a foreign switch", {"devices.topology"}, wired(lambda d: [*d[:-1], forge.switch(7, gpus=[c.pdi for c in d[:2]])])),
    Case("a switch too many", {"devices.topology"}, wired(lambda d: [*d, forge.switch(7, gpus=[c.pdi for c in d[:2]])])),
    Case("GPUs wired to different switches", {"devices.topology"}, wired(lambda d: [forge.gpu(0, switches=[forge.switch_pdi(7)], mode=2), *d[1:]])),
    Case("a GPU outside protected PCIe", {"devices.topology"}, wired(lambda d: [forge.gpu(0), *d[1:]])),
    Case("switch wired to another GPU", {"devices.topology"}, wired(lambda d: [*d[:-1], forge.switch(1, gpus=[d[0].pdi])])),
    Case("fewer GPUs than demanded", {"policy.devices"}, policy=replace(EVALUATE, devices=(DeviceDemand(GPU, 2),))),
    Case("no GPU of that architecture", {"policy.devices"}, policy=replace(EVALUATE, devices=(DeviceDemand(GPU, 1, "BLACKWELL"),))),
    Case("no switch", {"policy.devices"}, policy=replace(EVALUATE, devices=(DeviceDemand(GPU, 1), DeviceDemand(SWITCH, 1)))),
    Case("as many as demanded", set(), wired(lambda d: d), policy=replace(EVALUATE, devices=(DeviceDemand(GPU, 2, "HOPPER"), DeviceDemand(SWITCH, 2)))),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_only_what_is_wrong_refuses(case: Case) -> None:
    verdict = case.verdict()
    assert {check.id for check in verdict.refusing} == case.failing
    assert verdict.result == ("refused" if case.failing else "accepted")


def test_every_device_check_can_be_the_only_failure() -> None:
    alone = {next(iter(case.failing)) for case in CASES if len(case.failing) == 1}
    ids = {check_id for check_id in CATALOGUE if check_id.startswith(("gpu.", "devices."))} | {"policy.devices"}
    # A report that does not parse, and a foreign manifest chain, leave later checks nothing to look at.
    assert ids - alone == {"gpu.report.format"}


def test_a_verdict_names_each_device() -> None:
    verdict = Case("x", set(), wired(lambda d: d)).verdict()
    submods = verdict.claims["submods"]
    assert {*submods} == {"cpu0", "workload", "gpu0", "gpu1", "switch0", "switch1"}
    assert submods["gpu0"]["ear.status"] == "affirming"
    assert submods["gpu0"]["driver_version"] == forge.DRIVER
    assert submods["gpu0"]["revocation"] == "good"
    assert submods["switch1"]["vbios_version"] == forge.SWITCH_BIOS
    bad = Case("x", set(), wired(lambda d: [d[0], replace(d[1], measurements={9: bytes(48)}), *d[2:]])).verdict()
    states = {n: s["ear.status"] for n, s in bad.claims["submods"].items() if n not in ("cpu0", "workload")}
    assert states == {"gpu0": "affirming", "gpu1": "contraindicated", "switch0": "affirming", "switch1": "affirming"}
    assert bad.check("gpu.rim.measurements").hint.startswith("gpu1: measurement blocks 10 ")
    assert json.loads(json.dumps(bad.to_json())) == bad.to_json()


def test_device_collateral_ends_the_acceptance() -> None:
    soon = Case("x", set(), answers=with_answer(0, until=NOW + 99)).verdict()
    assert soon.accept().not_after == NOW + 99
    leaf = Case("x", set(), gpus(until=NOW + 55)).verdict()
    assert leaf.accept().not_after == NOW + 55
    old = Case("x", set(), answers=with_answer(0, since=NOW + 77 - EVALUATE.max_collateral_age)).verdict()
    assert old.accept().not_after == NOW + 77


def test_strict_accepts_devices_as_far_as_they_go() -> None:
    strict = Policy.preset("strict")
    policy = replace(EVALUATE, devices=strict.devices, gpu=strict.gpu)
    assert Case("x", set(), policy=policy).verdict().result == "accepted"
    none = Case("x", {"policy.devices"}, list, rims=lambda _: [], answers=lambda _: [], policy=policy).verdict()
    assert {check.id for check in none.refusing} == {"policy.devices"}
    assert none.check("gpu.report.signature").state == "not-applicable"


def test_a_genuine_root_vouches_for_no_simulated_device() -> None:
    device = forge.gpu()
    report = device.report(NONCE)
    given: dict[str, Any] = {"chain": device.pem.encode(), "collateral": None, "nonce": NONCE, "report_data": None}
    verdict = verify_artifact(report, policy=replace(Policy(), gpu=LOOSE), now=NOW, **given)
    assert {c.id for c in verdict.refusing} == {"gpu.certificate.chain"}
    assert (verdict.result, verdict.tier) == ("refused", "none")
    allowed = verify_artifact(report, policy=replace(EVALUATE, gpu=LOOSE), now=NOW, **given)
    assert (allowed.result, allowed.tier) == ("accepted", "simulated")


def test_without_lxml_manifests_are_skipped_and_refuse(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rimshelf, "rim_support", lambda: False)
    verdict = Case("x", set()).verdict()
    assert {check.id for check in verdict.refusing} == ALL_RIMS
    assert "teehouse-core[nvidia]" in verdict.check("gpu.rim.format").hint
    loose = Case("x", set(), policy=gpu_policy(rim_required=False)).verdict()
    assert loose.result == "accepted"


def test_collateral_of_an_artifact_comes_as_files() -> None:
    device = forge.gpu()
    parts = NvidiaCollateral(tuple(forge.rims([device])), tuple(forge.answers([device])))
    files = {f"{n}.xml": raw for n, raw in enumerate(parts.rims)} | {
        f"{n}.der": raw for n, raw in enumerate(parts.ocsp)
    }
    files["root.crl"] = forge.crl(pki().device_root, {})
    files["notes.txt"] = b"nothing"
    given: dict[str, Any] = {"nonce": NONCE, "report_data": None, "policy": EVALUATE, "now": NOW}
    for collateral in (files, {"all.json": json.dumps({"nvidia": parts.to_dict()}).encode()}):
        verdict = verify_artifact(device.report(NONCE), chain=device.pem.encode(), collateral=collateral, **given)
        assert verdict.result == "accepted", verdict.refusing
    der = parts_of(device_entry(GPU, "HOPPER", b"", device.pem))[2]
    assert load_chain(der) == device.chain
    assert verify_artifact(device.report(NONCE), chain=der, collateral=files, **given).result == "accepted"
    with pytest.raises(LocalError):
        verify_artifact(device.report(NONCE), chain=der, collateral=files, **(given | {"nonce": b"short"}))
    with pytest.raises(LocalError):
        verify_artifact(device.report(NONCE), chain=der, collateral=files, **(given | {"report_data": bytes(64)}))
    with pytest.raises(MalformedError):
        load_chain(der + b"\0")
    with pytest.raises(MalformedError):
        load_chain(b"")


def test_a_bundle_holds_its_devices_to_its_report_data() -> None:
    document = json.loads(
        bundle([device_entry(GPU, "HOPPER", forge.gpu().report(device_nonce()), forge.gpu().pem)], NvidiaCollateral())
    )
    parsed = Bundle.parse(json.dumps(document).encode())
    assert parsed.devices[0].certificates == forge.gpu().chain
    document["devices"] = []
    verdict = appraise(json.dumps(document).encode(), EVALUATE, NOW, endpoint=ENDPOINT, nonce=NONCE)
    assert "binding.report-data" in {check.id for check in verdict.refusing}
    document["devices"] = [device_entry(GPU, "HOPPER", b"x", forge.gpu().pem * 2)]
    with pytest.raises(MalformedError):
        Bundle.parse(json.dumps(document).encode())
    document["devices"], document["collateral"]["nvidia"] = [], {"rims": ["!"]}
    with pytest.raises(MalformedError):
        Bundle.parse(json.dumps(document).encode())
