# SPDX-License-Identifier: Apache-2.0
"""The simulated platform: real wire format, loud about itself, never hardware."""

from __future__ import annotations

import hashlib
import time

import dcap_qvl
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from teehouse_core.appraise.roots import intel_root_for, root_der
from teehouse_core.errors import LocalError
from teehouse_core.evidence.collateral import IntelCollateral, parse_qe_identity, parse_tcb_info
from teehouse_core.evidence.replay import EVENTS, replay
from teehouse_core.evidence.tdx import parse_quote
from teehouse_enclave.platform import simulated
from teehouse_enclave.platform.base import InsecurePlatformWarning, Platform, measure_workload
from teehouse_enclave.platform.simulated import SimulatedPlatform
from teehouse_enclave.platform.simulated_root import root_key

NOW = 1_790_000_000
DAY = 86400


class Clock:
    def __init__(self, at: int = NOW) -> None:
        self.at = at

    def __call__(self) -> float:
        return self.at


def platform(clock: Clock | None = None, machine: bytes | None = None) -> SimulatedPlatform:
    with pytest.warns(InsecurePlatformWarning, match="SIMULATED"):
        return SimulatedPlatform(clock=clock or Clock(), machine=machine)


def test_it_is_a_platform_and_says_so_loudly() -> None:
    made = platform()
    assert isinstance(made, Platform)
    assert made.type == "simulated"


@pytest.mark.parametrize("at", [NOW, NOW + 29 * DAY])
def test_quote_verifies_up_to_date_under_the_simulated_root_only(at: int) -> None:
    made = platform(machine=b"0123456789abcdef")
    evidence = made.collect(bytes(64))
    collateral = IntelCollateral.parse(evidence.collateral["intel"])
    loaded = dcap_qvl.QuoteCollateralV3.from_json(collateral.to_json())
    report = dcap_qvl.verify_with_root_ca(evidence.report, loaded, root_der("simulated"), at)
    assert (report.status, list(report.advisory_ids)) == ("UpToDate", [])
    assert bytes(report.ppid) == b"0123456789abcdef"
    with pytest.raises(ValueError):
        dcap_qvl.verify_with_root_ca(evidence.report, loaded, root_der("tdx"), at)


def test_quote_says_what_was_asked_and_measured() -> None:
    made = platform()
    measure_workload(
        made, release="1", image_sha256="a", config_sha256="b", weights_sha256="c", model="m", doors=("x", "y")
    )
    log = made.workload_log()
    assert [entry["event"] for entry in log] == list(EVENTS)
    quote = parse_quote(made.collect(bytes(range(64))).report)
    assert quote.report.report_data == bytes(range(64))
    assert quote.report.rtmr[3] == replay(bytes.fromhex(entry["digest"]) for entry in log)
    assert quote.report.td_attributes == 0x10000000
    assert quote.header.user_data.startswith(b"SIMULATED")


def test_log_copies_cannot_change_the_platform() -> None:
    made = platform()
    made.extend("release", b"1")
    made.workload_log()[0]["content"] = ""
    assert made.workload_log()[0]["content"] == "MQ=="


def test_mistakes_are_the_callers() -> None:
    made = platform()
    with pytest.raises(LocalError):
        made.collect(bytes(63))
    with pytest.raises(LocalError):
        made.extend("Not a name", b"")
    for n in range(256):
        made.extend(f"event-{n}", b"")
    with pytest.raises(LocalError):
        made.extend("one-more", b"")
    with pytest.warns(InsecurePlatformWarning), pytest.raises(LocalError):
        SimulatedPlatform(machine=b"short")


def test_failed_extension_leaves_log_and_register_in_step() -> None:
    made = platform()
    with pytest.raises(LocalError):
        made.extend("release", bytes(65 * 1024))
    assert made.workload_log() == []
    assert parse_quote(made.collect(bytes(64)).report).report.rtmr[3] == bytes(48)


def test_long_running_node_has_fresh_collateral() -> None:
    clock = Clock()
    made = platform(clock)
    first = made.collect(bytes(64)).collateral
    clock.at += 3600
    assert made.collect(bytes(64)).collateral == first
    for at in (NOW + 100 * DAY, NOW - 100):  # a year on, and after the clock was set back
        clock.at = at
        intel = IntelCollateral.parse(made.collect(bytes(64)).collateral["intel"])
        for part in (parse_tcb_info(intel.tcb_info), parse_qe_identity(intel.qe_identity)):
            assert part.issued_at < at < part.next_update


def test_two_platforms_share_no_key() -> None:
    quotes = [parse_quote(platform().collect(bytes(64)).report) for _ in range(2)]
    assert quotes[0].signature.attestation_key != quotes[1].signature.attestation_key
    assert quotes[0].signature.pem_chain != quotes[1].signature.pem_chain


def test_root_key_is_public_and_belongs_to_the_pinned_certificate() -> None:
    root = intel_root_for("simulated")
    assert root is not None
    public = root.public_key()
    assert isinstance(public, ec.EllipticCurvePublicKey)
    assert public == root_key().public_key()
    name = b"SIMULATED Teehouse root, private key is public, proves nothing"
    assert root_key().private_numbers().private_value == int.from_bytes(hashlib.sha256(name).digest(), "big")


def test_collect_is_quick() -> None:
    made = platform()
    made.collect(bytes(64))
    best = min(_timed(made) for _ in range(20))
    assert best < 0.005  # seconds; the node answers challenges from its event loop


def _timed(made: simulated.SimulatedPlatform) -> float:
    start = time.perf_counter()
    made.collect(bytes(64))
    return time.perf_counter() - start
