# SPDX-License-Identifier: Apache-2.0
"""Checks of a bundle's devices together: enough of them, none twice, one question answered, one machine's wiring.

Each device gets the whole set of `gpu.…` checks on a sheet of its own; a bundle's verdict shows each id once, with the
worst state of all devices, and every device's own states in its submod. A device that is in the bundle must be good,
whether or not the policy demands any.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

from teehouse_core.appraise.checks_nvidia import (
    GPU_CHECKS,
    DeviceEvidence,
    DeviceFacts,
    check_device,
    device_claims,
)
from teehouse_core.appraise.policy import Policy
from teehouse_core.appraise.rimshelf import Shelf
from teehouse_core.appraise.roots_nvidia import NvidiaRoots
from teehouse_core.appraise.sheet import Outcome, Sheet, failed, not_applicable, passed, skipped
from teehouse_core.appraise.verdict import Check
from teehouse_core.errors import MalformedError
from teehouse_core.evidence.bundle import Bundle
from teehouse_core.evidence.nvidia import GpuReport
from teehouse_core.evidence.nvidia_collateral import NvidiaCollateral
from teehouse_core.wire import binding

__all__ = ["DevicesFacts", "check_devices", "check_set"]

GPU, SWITCH = "nvidia-gpu", "nvidia-nvswitch"
_SHORT: Final = {GPU: "gpu", SWITCH: "switch"}


@dataclass(slots=True)
class DevicesFacts:
    """`submods` by device name, JSON-ready; `ends` Unix seconds at which some part stops being valid."""

    submods: dict[str, dict[str, Any]] = field(default_factory=dict)
    ends: list[int] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Done:
    device: DeviceEvidence
    facts: DeviceFacts
    checks: dict[str, Check]  # every one of GPU_CHECKS


def check_devices(sheet: Sheet, bundle: Bundle, policy: Policy, now: int) -> DevicesFacts:
    """Make every `gpu.…` and `devices.…` check and `policy.devices` of one bundle."""
    counts = dict.fromkeys(_SHORT, 0)
    devices = []
    for device in bundle.devices:
        name = f"{_SHORT[device.type]}{counts[device.type]}"
        counts[device.type] += 1
        devices.append(DeviceEvidence(name, device.type, device.arch, device.report, device.certificates))
    challenge = binding.challenge(bundle.challenge_kind, bundle.challenge_value)
    nonce = binding.device_nonce(bundle.keyset.digest, challenge)
    roots = sheet.anchors.nvidia(bundle.platform.type)
    return check_set(sheet, devices, bundle.collateral.nvidia, roots, nonce, policy, now)


def check_set(
    sheet: Sheet,
    devices: list[DeviceEvidence],
    collateral: NvidiaCollateral | None,
    roots: NvidiaRoots,
    nonce: bytes | None,
    policy: Policy,
    now: int,
) -> DevicesFacts:
    """The same for any set of devices, under `roots`; `nonce` is the one that every report must carry."""
    found = DevicesFacts()
    if not devices:
        for check_id in (*GPU_CHECKS, "devices.unique", "devices.topology"):
            sheet.write(check_id, not_applicable("the bundle carries no devices"))
        sheet.write("policy.devices", _demand([], policy))
        return found
    shelf = Shelf(collateral, roots, policy, now)
    done = []
    for device in devices:
        own = Sheet()
        facts = check_device(own, device, shelf, nonce, policy)
        checks = {check.id: check for check in own.finish(GPU_CHECKS, only=True)}
        done.append(_Done(device, facts, checks))
        found.ends += facts.ends
        found.submods[device.name] = {"ear.status": _status(checks), **device_claims(facts, own)}
    for check_id in GPU_CHECKS:
        _fold(sheet, check_id, done)
    sheet.run("devices.unique", lambda: _unique(done))
    sheet.run("devices.topology", lambda: _topology(done))
    sheet.write("policy.devices", _demand(done, policy))
    return found


def _fold(sheet: Sheet, check_id: str, done: list[_Done]) -> None:
    """One check of the bundle from the same check of each device: the worst state, and which device has it."""
    checks = [(d.device.name, d.checks[check_id]) for d in done]
    required = any(check.required for _, check in checks)
    for state, outcome in (("failed", failed), ("skipped", skipped)):
        bad = [(name, check) for name, check in checks if check.state == state]
        if bad:
            names = " ".join(name for name, _ in bad)
            _, first = bad[0]
            sheet.write(check_id, outcome(f"{names}: {first.hint}", first.claimed, first.expected), required)
            return
    good = [(name, check) for name, check in checks if check.state == "passed"]
    if not good:
        sheet.write(check_id, not_applicable(checks[0][1].hint), required)
        return
    claimed = {check.claimed for _, check in good}
    expected = {check.expected for _, check in good}
    sheet.write(check_id, passed(_join(good, claimed), expected.pop() if len(expected) == 1 else ""), required)


def _join(checks: list[tuple[str, Check]], claimed: set[str]) -> str:
    if len(claimed) == 1:
        return f"{len(checks)} devices: {claimed.pop()}" if len(checks) > 1 else claimed.pop()
    return ", ".join(f"{name} {check.claimed}" for name, check in checks)


def _status(checks: dict[str, Check]) -> str:
    """The EAR tier of one device."""
    if any(check.required and check.state == "failed" for check in checks.values()):
        return "contraindicated"
    if any(check.refuses for check in checks.values()):
        return "none"
    return "warning" if any(check.state in ("failed", "skipped") for check in checks.values()) else "affirming"


def _unique(done: list[_Done]) -> Outcome:
    units = [d.facts.identity.unit if d.facts.identity else "" for d in done]
    reports = [d.device.report for d in done]
    if not all(units):
        return failed("a device has no readable certificate, so it may be any")
    if len(set(units)) != len(units) or len(set(reports)) != len(reports):
        return failed("one device stands in the bundle twice", f"{len(set(units))} devices", f"{len(units)} devices")
    return passed(f"{len(units)} devices", f"{len(units)} devices")


def _topology(done: list[_Done]) -> Outcome:
    """Protected PCIe trusts the switches, so all must be there, and each side must name exactly the other.

    A GPU's own identifier is the end of its certificate's serial number; its report has none.
    """
    gpus = [d for d in done if d.device.kind == GPU]
    switches = [d for d in done if d.device.kind == SWITCH]
    reports = [d.facts.report for d in gpus]
    modes = {_mode(report) for report in reports if report is not None}
    if "PPCIE" not in modes:
        return not_applicable("no GPU runs with protected PCIe, so switches are not trusted")
    if modes != {"PPCIE"} or None in reports:
        return failed("some GPUs run with protected PCIe and some without", " ".join(sorted(modes)), "PPCIE")
    present = {d.facts.report.own_pdi for d in switches if d.facts.report is not None}
    wired = [frozenset(report.link_switches) for report in reports if report is not None]
    if len(set(wired)) != 1 or not wired[0]:
        return failed("the GPUs are wired to different switches", f"{len(set(wired))} sets of switches", "one")
    if wired[0] != present:
        hint = "the switches in the bundle are not those that the GPUs are wired to"
        return failed(hint, f"{len(present & wired[0])} of {len(wired[0])} switches", f"{len(wired[0])} switches")
    own = {d.facts.identity.pdi for d in gpus if d.facts.identity is not None}
    for d in switches:
        behind = set(d.facts.report.switch_gpus) if d.facts.report is not None else set()
        if behind != own:
            hint = f"{d.device.name} is wired to other GPUs than those in the bundle"
            return failed(hint, f"{len(behind & own)} of {len(behind)} GPUs", f"{len(own)} GPUs")
    return passed(f"{len(gpus)} GPUs, {len(switches)} switches", "each wired to all of the others")


def _mode(report: GpuReport) -> str:
    try:
        return report.mode
    except MalformedError:
        return "unknown"  # `gpu.mode.allowed` refuses it


def _demand(done: list[_Done], policy: Policy) -> Outcome:
    """Counts devices by what their certificates say; one that is not good refuses by its own checks."""
    if not policy.devices:
        return not_applicable("the policy demands no devices")
    identities = [d.facts.identity for d in done if d.facts.identity is not None]
    kinds = [(SWITCH if identity.is_switch else GPU, identity.architecture) for identity in identities]
    claimed = ", ".join(f"{sum(k == kind for k, _ in kinds)} {kind}" for kind in _SHORT)
    expected = ", ".join(map(str, policy.devices))
    for demand in policy.devices:
        if sum(kind == demand.kind and demand.arch in ("", arch) for kind, arch in kinds) < demand.count:
            return failed("the bundle has fewer devices than the policy demands", claimed, expected)
    return passed(claimed, expected)
