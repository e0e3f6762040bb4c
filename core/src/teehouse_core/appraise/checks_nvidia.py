# SPDX-License-Identifier: Apache-2.0
"""Checks of one NVIDIA device, GPU or switch: who signed its report, what it is, and whether its firmware is known.

Sources: DMTF DSP0274 (SPDM), TCG DICE and RIM, and what genuine Hopper, Blackwell and LS10 evidence shows. The same
checks serve a bundle's devices and a single report. Not checked here: how devices belong together (`checks_devices`),
and that a device sits in the attested machine, which no report can show.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from cryptography import x509

from teehouse_core.appraise.policy import ANY, Policy
from teehouse_core.appraise.policy_gpu import version_key
from teehouse_core.appraise.revocation import Status, worst
from teehouse_core.appraise.rimshelf import RimCase, Shelf
from teehouse_core.appraise.sheet import Outcome, Sheet, equal, failed, not_applicable, one_of, passed, skipped
from teehouse_core.appraise.x509chain import chain_end, link_problem, verify_raw_p384
from teehouse_core.errors import MalformedError
from teehouse_core.evidence.nvidia import LOCKED, GpuReport, Opaque, parse_report
from teehouse_core.evidence.nvidia_cert import DeviceIdentity, firmware_ids, parse_identity

__all__ = ["GPU_CHECKS", "GPU_FLOOR", "DeviceEvidence", "DeviceFacts", "check_device", "check_rim", "device_claims"]

_T = TypeVar("_T")

CHAIN_LINKS: Final = 4  # signatures from leaf to root: attestation key, device, provisioner, chip identity
NVDEC0_INDEX: Final = 35  # golden index of a video decoder's firmware, which is not loaded when that is disabled

GPU_FLOOR: Final = frozenset({"gpu.report.format", "gpu.report.signature", "gpu.certificate.chain"})
"""Checks without which no device is accepted, whatever the policy leaves out."""

GPU_CHECKS: Final = (
    "gpu.report.format",
    "gpu.report.signature",
    "gpu.report.nonce",
    "gpu.certificate.chain",
    "gpu.certificate.fwid",
    "gpu.certificate.revocation",
    "gpu.device.identity",
    "gpu.driver.version",
    "gpu.vbios.version",
    "gpu.mode.flags",
    "gpu.mode.allowed",
    "gpu.switch.locked",
    "gpu.rim.format",
    "gpu.rim.present",
    "gpu.rim.signature",
    "gpu.rim.chain",
    "gpu.rim.revocation",
    "gpu.rim.overlap",
    "gpu.rim.measurements",
)
"""Every check of one device, in order."""

_OF_CHAIN: Final = ("gpu.certificate.chain", "gpu.certificate.fwid", "gpu.certificate.revocation")


@dataclass(frozen=True, slots=True)
class DeviceEvidence:
    """One device as claimed. `name` as `gpu0`; `arch` empty when nobody declared one; `chain` leaf first."""

    name: str
    kind: str
    arch: str
    report: bytes = field(repr=False)
    chain: tuple[x509.Certificate, ...] | None = field(repr=False)


@dataclass(slots=True)
class DeviceFacts:
    """What the checks learned; believe a member only with its checks passed."""

    report: GpuReport | None = None
    identity: DeviceIdentity | None = None
    driver_rim: RimCase | None = None
    vbios_rim: RimCase | None = None
    revocation: str = "unknown"
    ends: list[int] = field(default_factory=list)

    @property
    def rims(self) -> list[tuple[str, RimCase]]:
        both = (("driver", self.driver_rim), ("VBIOS", self.vbios_rim))
        return [(name, case) for name, case in both if case is not None]


def check_device(
    sheet: Sheet, device: DeviceEvidence, shelf: Shelf, nonce: bytes | None, policy: Policy
) -> DeviceFacts:
    """Make every `gpu.…` check of one device; a failed one does not stop the later ones. `nonce`: the expected one."""
    facts = DeviceFacts()

    def parse() -> Outcome:
        facts.report = parse_report(device.report)
        return passed(f"{len(device.report)} bytes", "SPDM 1.1 measurements, signed")

    sheet.run("gpu.report.format", parse)
    report, chain = facts.report, device.chain
    if chain:
        try:
            facts.identity = parse_identity(chain)
        except Exception:  # as in Sheet.run; the check that needs it says so
            facts.identity = None
    identity = facts.identity
    if report is not None:
        sheet.run("gpu.report.signature", lambda: _signature(report, chain), needs=(chain,))
        sheet.write("gpu.report.nonce", _nonce(report, nonce, policy))
        if identity is not None:
            _pick_rims(facts, shelf, report, identity)

    if chain is None:
        for check_id in _OF_CHAIN:
            required = check_id != "gpu.certificate.revocation" or policy.gpu.revocation_required
            sheet.write(check_id, skipped("no certificate chain was given; supply the device's, leaf first"), required)

    def run(check_id: str, check: Callable[[GpuReport, DeviceIdentity], Outcome]) -> None:
        if report is not None and identity is not None:
            sheet.run(check_id, lambda: check(report, identity))
        else:
            sheet.run(check_id, lambda: failed(""), needs=(None,))

    if report is None:
        sheet.run("gpu.report.signature", lambda: failed(""), needs=(None,))
        sheet.run("gpu.report.nonce", lambda: failed(""), needs=(None,))
    if chain is not None:
        sheet.run("gpu.certificate.chain", lambda: _chain(facts, chain, shelf))
        sheet.run("gpu.certificate.fwid", lambda: _fwid(report, chain), needs=(report,))
        sheet.run(
            "gpu.certificate.revocation",
            lambda: _revocation(facts, chain, shelf, policy),
            required=policy.gpu.revocation_required,
            failure_refuses=True,
        )
    run("gpu.device.identity", lambda r, i: _identity(device, r, i))
    run("gpu.driver.version", lambda r, i: _driver(r, i, policy))
    run("gpu.vbios.version", lambda r, _: _vbios(r, policy))
    run("gpu.mode.flags", _flags)
    run("gpu.mode.allowed", lambda r, i: _mode(r, i, policy))
    run("gpu.switch.locked", _locked)
    _rims(sheet, facts, shelf, policy)
    return facts


def _signature(report: GpuReport, chain: tuple[x509.Certificate, ...] | None) -> Outcome:
    if chain and verify_raw_p384(chain[0].public_key(), report.signature, report.signed):
        return passed("valid", "signature by the leaf certificate's key over request and response")
    return failed("the report was changed after it was signed, or never signed by this device")


def _nonce(report: GpuReport, nonce: bytes | None, policy: Policy) -> Outcome:
    if nonce is None:
        if policy.freshness_required:
            return skipped("no nonce was given, so the age of the report is unknown and the policy demands it")
        return not_applicable("no nonce was given and the policy does not ask for freshness; the age is unknown")
    if hmac.compare_digest(report.request_nonce, nonce):
        return passed(report.request_nonce, nonce)
    return failed(
        "the report answers another question: replayed, or made for another node", report.request_nonce, nonce
    )


def _chain(facts: DeviceFacts, chain: tuple[x509.Certificate, ...], shelf: Shelf) -> Outcome:
    names, expected = _names(chain), _names((shelf.roots.device,))
    if problem := link_problem(chain, shelf.roots.device, shelf.now, links=CHAIN_LINKS):
        return failed(problem, names, expected)
    facts.ends.append(chain_end(chain))
    return passed(names, expected)


def _fwid(report: GpuReport | None, chain: tuple[x509.Certificate, ...]) -> Outcome:
    certified = firmware_ids(chain[0])
    claimed = report.opaque.get(Opaque.FWID) if report else None
    expected = " or ".join(fwid.hex() for fwid in certified)
    if claimed is None:
        return not_applicable(f"the report names no firmware; its key is certified for {expected[:96]}")
    if any(hmac.compare_digest(claimed, fwid) for fwid in certified):
        return passed(claimed, expected)
    return failed("the device runs other firmware than its key is certified for", claimed, expected)


def _revocation(facts: DeviceFacts, chain: tuple[x509.Certificate, ...], shelf: Shelf, policy: Policy) -> Outcome:
    # The leaf is made by the device at each start; nobody lists it, and the device's own certificate stands above it.
    path = (*chain[1:CHAIN_LINKS], shelf.roots.device)
    status = shelf.revocation.chain(path) if len(path) == CHAIN_LINKS else worst(())
    facts.revocation = status.state
    return _standing(facts, status, policy)


def _standing(facts: DeviceFacts, status: Status, policy: Policy) -> Outcome:
    if status.state == "unknown":
        hint = f"{status.detail}; staple OCSP responses for every certificate below the root"
        return skipped(hint, "unknown", "good")
    if status.end is not None:
        facts.ends.append(status.end)
    if status.state == "good":
        return passed("good", "good")
    if status.state == "hold" and policy.gpu.hold_allowed:
        return passed(status.detail, "good or on hold")
    return failed("a certificate is revoked or on hold", status.detail, "good")


def _identity(device: DeviceEvidence, report: GpuReport, identity: DeviceIdentity) -> Outcome:
    kind = "nvidia-nvswitch" if identity.is_switch else "nvidia-gpu"
    claimed = f"{device.kind or kind} {device.arch or identity.architecture}"  # empty: nobody declared one
    expected = f"{kind} {identity.architecture}"
    if claimed != expected:
        return failed("the certificate is of another kind of device than declared", claimed, expected)
    if identity.is_switch != (report.driver_version is None):
        return failed("the report is of another kind of device than the certificate", claimed, expected)
    if identity.is_switch and report.own_pdi != identity.pdi:
        hint = "the switch reports another identifier than its certificate"
        return failed(hint, report.own_pdi or b"", identity.pdi or b"")
    chip = report.text(Opaque.CHIP_INFO)
    if chip is not None and chip != identity.chip:
        return failed("the report names another chip than the certificate", chip, identity.chip)
    return passed(f"{claimed} {identity.serial}", expected)


def _driver(report: GpuReport, identity: DeviceIdentity, policy: Policy) -> Outcome:
    if identity.is_switch:
        return not_applicable("a switch has no driver of its own")
    version = report.driver_version or ""
    key = version_key(version)  # a version of another form is a failure whatever the policy allows
    low = policy.gpu.min_driver
    if low and key < version_key(low):
        return failed("the driver is older than the policy allows", version, f"at least {low}")
    if ANY in policy.gpu.drivers:
        return passed(version, f"at least {low}" if low else "any")
    return one_of(version, policy.gpu.drivers, "the driver version is none that the policy allows")


def _vbios(report: GpuReport, policy: Policy) -> Outcome:
    version = report.vbios_version or ""
    if not version:
        return failed("the report names no VBIOS version")
    if ANY in policy.gpu.vbios:
        return passed(version, "any")
    return one_of(version, policy.gpu.vbios, "the VBIOS version is none that the policy allows")


def _flags(report: GpuReport, identity: DeviceIdentity) -> Outcome:
    if identity.is_switch:
        return not_applicable("a switch reports no mode")
    if (ppcie := report.ppcie) is None:
        return not_applicable("the report has one statement of its mode at most")
    mode = report.mode
    expected = "PPCIE" if ppcie else "SPT or MPT"
    if (mode == "PPCIE") != ppcie:
        return failed("the report contradicts itself about protected PCIe", mode, expected)
    return passed(mode, expected)


def _mode(report: GpuReport, identity: DeviceIdentity, policy: Policy) -> Outcome:
    if identity.is_switch:
        return not_applicable("a switch reports no mode")
    return one_of(report.mode, policy.gpu.modes, "the policy does not allow this confidential-computing mode")


def _locked(report: GpuReport, identity: DeviceIdentity) -> Outcome:
    if not identity.is_switch:
        return not_applicable("not a switch")
    hint = "the switch is not locked: the host can still change it"
    return equal(report.number(Opaque.LOCK_STATUS), LOCKED, hint)


def _pick_rims(facts: DeviceFacts, shelf: Shelf, report: GpuReport, identity: DeviceIdentity) -> None:
    """For each version the manifest that holds, if one does; else the first, whose failures then show."""
    try:
        versions = (report.driver_version, report.vbios_version)
    except MalformedError:
        return  # the checks of the versions say so
    found: list[RimCase | None] = []
    for version in versions:
        cases = shelf.find(identity.chip, version) if version else []
        holding = (case for case in cases if case.good and not _mismatches(report, case))
        found.append(next(holding, cases[0] if cases else None))
    facts.driver_rim, facts.vbios_rim = found


def _mismatches(report: GpuReport, case: RimCase) -> list[int]:
    """Golden indices whose block does not hold one of their values; index i stands for block i + 1."""
    return [
        golden.index
        for golden in case.rim.golden
        if not (golden.index == NVDEC0_INDEX and report.nvdec0_disabled)
        and report.measurement(golden.index + 1) not in golden.digests
    ]


def _rims(sheet: Sheet, facts: DeviceFacts, shelf: Shelf, policy: Policy) -> None:
    required, report, rims = policy.gpu.rim_required, facts.report, facts.rims
    known = None if report is None or facts.identity is None else report

    def run(check_id: str, check: Callable[[], Outcome], *, needs: tuple[object, ...] = ()) -> None:
        sheet.run(check_id, check, required=required, needs=needs, failure_refuses=True)

    run("gpu.rim.format", lambda: _rim_format(shelf))
    run("gpu.rim.present", lambda: _rim_present(facts, shelf), needs=(known,))
    some = rims or None
    run("gpu.rim.signature", lambda: _each(rims, lambda case: case.signature_problem, "signed"), needs=(some,))
    run("gpu.rim.chain", lambda: _rim_chain(facts, shelf), needs=(some,))
    sheet.run(
        "gpu.rim.revocation",
        lambda: _standing(facts, worst(case.revocation for _, case in rims), policy),
        required=required and policy.gpu.revocation_required,
        needs=(some,),
        failure_refuses=True,
    )
    run("gpu.rim.overlap", lambda: _overlap(facts), needs=(some,))
    run("gpu.rim.measurements", lambda: _measurements(facts), needs=(some,))


def check_rim(sheet: Sheet, shelf: Shelf, policy: Policy) -> None:
    """The checks of a single manifest, alone on its shelf, without a report to compare it with."""
    facts = DeviceFacts(vbios_rim=shelf.rims[0] if shelf.rims else None)
    some = facts.rims or None
    sheet.run("gpu.rim.format", lambda: _rim_format(shelf), required=True)
    check = "gpu.rim.signature"
    sheet.run(check, lambda: _each(facts.rims, lambda c: c.signature_problem, "signed"), required=True, needs=(some,))
    sheet.run("gpu.rim.chain", lambda: _rim_chain(facts, shelf), required=True, needs=(some,))
    sheet.run(
        "gpu.rim.revocation",
        lambda: _standing(facts, worst(case.revocation for _, case in facts.rims), policy),
        required=policy.gpu.revocation_required,
        needs=(some,),
        failure_refuses=True,
    )


def _rim_format(shelf: Shelf) -> Outcome:
    if not shelf.supported:
        return skipped("lxml is not installed; install the extra teehouse-core[nvidia]")
    if shelf.problems:
        return failed(f"a stapled manifest does not parse: {shelf.problems[0]}", f"{len(shelf.problems)} unreadable")
    if not shelf.stapled:
        return skipped("no reference manifest (RIM) is stapled")
    return passed(f"{len(shelf.rims)} manifests", "each parses")


def _rim_present(facts: DeviceFacts, shelf: Shelf) -> Outcome:
    report, identity = _have(facts.report), _have(facts.identity)
    wanted = [("VBIOS", report.vbios_version, facts.vbios_rim)]
    if not identity.is_switch:
        wanted.insert(0, ("driver", report.driver_version, facts.driver_rim))
    missing = [f"{name} {version}" for name, version, case in wanted if case is None]
    expected = ", ".join(f"{name} {version}" for name, version, _ in wanted)
    if missing:
        hint = f"staple NVIDIA's manifest for {identity.chip} {' and '.join(missing)}"
        return skipped(hint, ", ".join(f"{case.rim.version}" for case in shelf.rims) or "none", expected)
    return passed(expected, expected)


def _rim_chain(facts: DeviceFacts, shelf: Shelf) -> Outcome:
    facts.ends += [case.end for _, case in facts.rims if case.end is not None]
    return _each(facts.rims, lambda case: case.chain_problem, _names((shelf.roots.rim,)))


def _each(rims: list[tuple[str, RimCase]], problem: Callable[[RimCase], str | None], expected: str) -> Outcome:
    for name, case in rims:
        if found := problem(case):
            return failed(f"manifest for {name} {case.rim.version}: {found}", case.rim.version, expected)
    return passed(", ".join(case.rim.version for _, case in rims), expected)


def _overlap(facts: DeviceFacts) -> Outcome:
    if facts.driver_rim is None or facts.vbios_rim is None:
        return not_applicable("there is one manifest only")
    both = {g.index for g in facts.driver_rim.rim.golden} & {g.index for g in facts.vbios_rim.rim.golden}
    if both:
        shared = " ".join(map(str, sorted(both)))
        return failed("driver and VBIOS manifests both speak for the same index", shared, "none")
    return passed("none", "none")


def _measurements(facts: DeviceFacts) -> Outcome:
    report, compared = _have(facts.report), 0
    for name, case in facts.rims:
        if wrong := _mismatches(report, case):
            blocks = " ".join(str(index + 1) for index in wrong)
            hint = f"measurement blocks {blocks} hold values that the {name} manifest {case.rim.version} does not list"
            return failed(hint, f"{len(wrong)} of {len(case.rim.golden)} differ", "none")
        compared += len(case.rim.golden)
    return passed(f"{compared} measurements", "each one of the manifests' values")


def _have(value: _T | None) -> _T:
    """Narrow what `needs` already guaranteed."""
    if value is None:
        raise MalformedError("missing", code="missing")
    return value


def _names(chain: tuple[x509.Certificate, ...]) -> str:
    found = []
    for certificate in chain:
        names = certificate.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
        found.append(str(names[0].value) if names else "?")
    return " < ".join(found)


def device_claims(facts: DeviceFacts, sheet: Sheet) -> dict[str, Any]:
    """JSON-ready members of one device's submod."""
    report, identity = facts.report, facts.identity
    found: dict[str, Any] = {}
    if identity is not None:
        found |= {"chip": identity.chip, "arch": identity.architecture, "device": identity.unit}
        found["serial"] = identity.serial
    if report is not None:
        readers: dict[str, Callable[[], str | None]] = {
            "driver_version": lambda: report.driver_version,
            "vbios_version": lambda: report.vbios_version,
            "mode": lambda: None if identity is not None and identity.is_switch else report.mode,
            "project": lambda: report.text(Opaque.PROJECT),
            "project_sku": lambda: report.text(Opaque.PROJECT_SKU),
        }
        for name, read in readers.items():
            try:
                value = read()
            except MalformedError:
                continue  # the check that reads it says so
            if value is not None:
                found[name] = value
        if fwid := report.opaque.get(Opaque.FWID):
            found["fwid"] = fwid.hex()
        found["nonce"] = report.request_nonce.hex()
    found["revocation"] = facts.revocation
    found["rims"] = [case.rim.version for _, case in facts.rims]
    found["checks"] = {check_id: sheet.state(check_id) for check_id in GPU_CHECKS}
    return found
