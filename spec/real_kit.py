# SPDX-License-Identifier: Apache-2.0
"""What `real_evidence` says about one artifact, and the lines of a policy that refuse what is genuine."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import evidence_kit

from teehouse_core.appraise.policy import Policy
from teehouse_core.appraise.verdict import Check
from teehouse_core.errors import TeehouseError

VECTORS = evidence_kit.ROOT.parent / "shared" / "vectors"

FIELD_OF = {
    "policy.platform": "platforms",
    "policy.machine": "machines",
    "tdx.collateral.age": "max_collateral_age",
    "tdx.tcb.status": "tcb_statuses",
    "tdx.tcb.advisories": "advisories_allowed",
    "tdx.td.attributes": "td_attributes",
    "tdx.td.xfam": "xfam_allowed",
    "snp.product.allowed": "snp.products",
    "snp.report.version": "snp.report_version_minimum",
    "snp.platform.alias-check": "snp.alias_check_required",
    "snp.chain.revocation": "snp.revocation",
    "snp.leaf.csp-id": "snp.csp_ids",
    "snp.guest.vmpl": "snp.vmpl",
    "snp.guest.migration": "snp.migration_allowed",
    "tpm.ak.trust": "tpm.attestation_keys",
    "tpm.quote.selection": "tpm.pcrs",
    "tpm.reference.pcrs": "tpm.references",
    "gpu.rim.present": "gpu.rim_required",
    "gpu.certificate.revocation": "gpu.revocation_required",
    "gpu.mode.allowed": "gpu.modes",
}
"""Check id → the policy field that decides it."""


@dataclass(frozen=True)
class Row:
    """One line of the table. `why` is the policy line that refuses what is genuine, or empty."""

    artifact: str
    instant: str
    expected: str
    got: str
    ok: bool
    why: str = ""


class Seen:
    """How often each check passed and failed on genuine evidence."""

    def __init__(self) -> None:
        self.states: Counter[tuple[str, str]] = Counter()
        self.verdicts = 0

    def note(self, checks: Iterable[Check]) -> None:
        self.verdicts += 1
        for check in checks:
            if check.state in ("passed", "failed"):
                self.states[check.id, check.state] += 1

    def to_json(self) -> dict[str, dict[str, int]]:
        out: dict[str, dict[str, int]] = {}
        for (check_id, state), count in sorted(self.states.items()):
            out.setdefault(check_id, {})[state] = count
        return out


SEEN = Seen()


def read(path: str) -> bytes:
    return (VECTORS / path).read_bytes()


def manifest() -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = json.loads(read("manifest.json"))
    return found


def seconds(text: str) -> int:
    moment = datetime.fromisoformat(text)
    return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp())


def day(instant: int) -> str:
    return datetime.fromtimestamp(instant, tz=UTC).strftime("%Y-%m-%d")


def short(path: str) -> str:
    return path.removeprefix("tdx/quotes/").removeprefix("snp/reports/").removeprefix("nvidia/")


def refusing(verdict: Any) -> set[str]:
    return {check.id for check in verdict.refusing}


def policy_lines(verdict: Any, policy: Policy) -> str:
    """The fields of `policy` that refuse, as a policy file would say them; checks that no field decides by name."""
    lines = []
    for check in verdict.refusing:
        name = FIELD_OF.get(check.id)
        if name is None:
            lines.append(f"{check.id} (no policy allows it)")
            continue
        value: Any = policy.to_json()
        for part in name.split("."):
            value = value[part]
        lines.append(f"{name} = {json.dumps(value)}")
    return "; ".join(dict.fromkeys(lines))


def told(verdict: Any) -> str:
    """The result with what refuses."""
    ids = " ".join(check.id for check in verdict.refusing)
    return f"{verdict.result} {ids}".strip()


def quietly(call: Any) -> str:
    """What a call says, or the name of our error; any other exception goes on."""
    try:
        return str(call())
    except TeehouseError as error:
        return f"malformed {error.code}"
