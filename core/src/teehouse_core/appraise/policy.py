# SPDX-License-Identifier: Apache-2.0
"""The Appraisal Policy: one typed value, from a preset or from a TOML or JSON file.

Every loosening is a named field. Unknown fields are an error, a list means "one of these" and an empty one means
"none" (only `machines`, `moderation` and versions of GPUs know `"*"`, any). The digest names it in every verdict.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import tomllib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from teehouse_core.appraise.policy_fields import (
    Reader,
    bad,
    bits,
    count,
    flag,
    printable,
    texts,
    unknown,
    words,
)
from teehouse_core.appraise.policy_gpu import DeviceDemand, GpuPolicy, read_demands, read_gpu
from teehouse_core.appraise.policy_ledger import LedgerPolicy, read_ledger
from teehouse_core.appraise.policy_pool import PoolPolicy, read_pool
from teehouse_core.appraise.policy_references import REFERENCE_NAMES, References, read_references
from teehouse_core.appraise.policy_snp import TCB_MINIMUM_STRICT, SnpPolicy, TcbMinimum, read_snp
from teehouse_core.appraise.policy_tpm import TpmPolicy, read_tpm
from teehouse_core.errors import LocalError
from teehouse_core.wire import canonical
from teehouse_core.wire.suites import DEFAULT_SUITE, HIGH_SUITE

__all__ = [
    "ANY",
    "PRESETS",
    "REFERENCE_NAMES",
    "DeviceDemand",
    "GpuPolicy",
    "LedgerPolicy",
    "Policy",
    "PoolPolicy",
    "References",
    "SnpPolicy",
    "TcbMinimum",
]

ANY: Final = "*"
PRESETS: Final = ("strict", "standard", "evaluate")
MAX_POLICY: Final = 256 * 1024  # bytes of one policy file
DAY: Final = 86400  # seconds

TD_ATTRIBUTES: Final = 0x0000_0000_1000_0000  # SEPT_VE_DISABLE and nothing else: what genuine production TDs have
# Every XFAM bit seen in genuine production quotes: x87, SSE, AVX, AVX-512, PKRU, CET, AMX.
XFAM_ALLOWED: Final = 0x0006_1AE7

_SHA256: Final = re.compile(r"[0-9a-f]{64}")
_STATUSES: Final = (  # never Revoked: no policy can allow it
    "UpToDate",
    "SWHardeningNeeded",
    "ConfigurationNeeded",
    "ConfigurationAndSWHardeningNeeded",
    "OutOfDate",
    "OutOfDateConfigurationNeeded",
    "TDRelaunchAdvised",
    "TDRelaunchAdvisedConfigurationNeeded",
)


# The registers that the workload log replays to, which name one node's values, and what a TD's host set.
_NOT_DEMANDED: Final = frozenset({"rtmr3", "host_data", "mr_config_id", "mr_owner", "mr_owner_config"})


@dataclass(frozen=True, slots=True)
class Policy:
    """What evidence must satisfy. The defaults are those of `standard`; ages are seconds."""

    name: str = "standard"
    platforms: tuple[str, ...] = ("tdx", "sev-snp")
    simulated_allowed: bool = False
    tcb_statuses: tuple[str, ...] = ("UpToDate",)
    advisories_allowed: tuple[str, ...] = ()
    min_tcb_evaluation: int = 0
    td_attributes: int = TD_ATTRIBUTES
    xfam_allowed: int = XFAM_ALLOWED
    references: References = field(default_factory=References)
    required_references: tuple[str, ...] = ("mrtd", "rtmr1", "rtmr2", "measurement", "image_sha256", "weights_sha256")
    roles: tuple[str, ...] = ("node",)
    doors: tuple[str, ...] = ("aicc-v0.1", "aicc-jsc")
    egress: tuple[str, ...] = ("none",)
    content_logging: tuple[str, ...] = ("none",)
    moderation: tuple[str, ...] = (ANY,)
    devices: tuple[DeviceDemand, ...] = ()
    gpu: GpuPolicy = field(default_factory=GpuPolicy)
    snp: SnpPolicy = field(default_factory=SnpPolicy)
    tpm: TpmPolicy = field(default_factory=TpmPolicy)
    suites: tuple[str, ...] = (DEFAULT_SUITE, HIGH_SUITE)
    machines: tuple[str, ...] = (ANY,)  # hex SHA-256 of the PPID or CHIP_ID
    max_evidence_age: int = 3600
    max_collateral_age: int = 30 * DAY
    freshness_required: bool = True
    key_service: References = field(default_factory=References)
    pool: PoolPolicy = field(default_factory=PoolPolicy)
    ledger: LedgerPolicy = field(default_factory=LedgerPolicy)

    @classmethod
    def preset(cls, name: Literal["strict", "standard", "evaluate"] | str) -> Policy:
        """The preset of that name. Raises `LocalError` (`policy-preset`) for any other."""
        if name == "standard":
            return cls()
        if name == "evaluate":
            return cls(
                name="evaluate",
                platforms=("tdx", "sev-snp", "simulated"),
                simulated_allowed=True,
                required_references=(),
                tpm=TpmPolicy(references_required=False),
                pool=PoolPolicy(references_required=False),
                ledger=LedgerPolicy(quorum=0),
            )
        if name == "strict":
            return cls(
                name="strict",
                required_references=(
                    *(n for n in REFERENCE_NAMES if n not in ("rtmr3", "host_data") and not n.startswith("mr_")),
                ),
                doors=(),
                devices=(DeviceDemand("nvidia-gpu", 1),),
                snp=SnpPolicy(tcb_minimum=TCB_MINIMUM_STRICT),
                max_evidence_age=600,
                max_collateral_age=14 * DAY,
            )
        raise LocalError(f"no preset {name!r}", code="policy-preset", hint=f"presets are {', '.join(PRESETS)}")

    @classmethod
    def load(cls, text: str, format: Literal["toml", "json"] | str) -> Policy:  # noqa: A002  the word users type
        """Read a policy file; `base = "<preset>"` (default `standard`) supplies the fields that it leaves out.

        Raises `LocalError` with code `policy-format`, `policy-field` or `policy-value`, and a hint.
        """
        if len(text) > MAX_POLICY:
            raise LocalError(f"policy is larger than {MAX_POLICY} bytes", code="policy-format")
        try:
            if format == "toml":
                value: Any = tomllib.loads(text)
            elif format == "json":
                value = json.loads(text, object_pairs_hook=_no_repeats)
            else:
                raise LocalError(f"no policy format {format!r}", code="policy-format", hint="use toml or json")
        except (ValueError, RecursionError) as error:
            raise LocalError("policy does not parse", code="policy-format", hint=str(error)[:200]) from None
        if not isinstance(value, dict):
            raise LocalError("policy is not a table", code="policy-format")
        return _from_mapping(value)

    def for_stored_report(self) -> Policy:
        """This policy without the demand for freshness: for reading a stored report, never for sealing to it.

        A verdict under it can say "accepted", but its `accept()` still refuses when the evidence time is unknown.
        """
        return dataclasses.replace(self, name=f"{self.name} (stored report)"[:256], freshness_required=False)

    def for_key_service(self) -> Policy:
        """What the key service's own evidence must satisfy: this policy with the Reference Values of `key_service`.

        The key service has neither a model nor devices nor doors, so nothing is asked about those. Its evidence answers
        a nonce of the caller's own, so the ledger is not asked about it either.
        """
        demanded = tuple(n for n in self.required_references if n != "weights_sha256")
        return dataclasses.replace(
            self,
            name=f"{self.name} (key service)"[:256],
            roles=("key-service",),
            references=self.key_service,
            required_references=demanded if self.pool.references_required else (),
            doors=(),
            moderation=(ANY,),
            devices=(),
            ledger=LedgerPolicy(quorum=0),
        )

    def to_json(self) -> dict[str, Any]:
        """Every field, JSON-ready; `load` reads it back to an equal policy."""
        return {
            "name": self.name,
            "platforms": list(self.platforms),
            "simulated_allowed": self.simulated_allowed,
            "tcb_statuses": list(self.tcb_statuses),
            "advisories_allowed": list(self.advisories_allowed),
            "min_tcb_evaluation": self.min_tcb_evaluation,
            "td_attributes": f"0x{self.td_attributes:016x}",
            "xfam_allowed": f"0x{self.xfam_allowed:016x}",
            "references": self.references.to_json(),
            "required_references": list(self.required_references),
            "roles": list(self.roles),
            "doors": list(self.doors),
            "egress": list(self.egress),
            "content_logging": list(self.content_logging),
            "moderation": list(self.moderation),
            "devices": [demand.to_json() for demand in self.devices],
            "gpu": self.gpu.to_json(),
            "snp": self.snp.to_json(),
            "tpm": self.tpm.to_json(),
            "suites": list(self.suites),
            "machines": list(self.machines),
            "max_evidence_age": self.max_evidence_age,
            "max_collateral_age": self.max_collateral_age,
            "freshness_required": self.freshness_required,
            "key_service": self.key_service.to_json(),
            "pool": self.pool.to_json(),
            "ledger": self.ledger.to_json(),
        }

    @property
    def digest(self) -> str:
        """Hex SHA-256 of the canonical JSON of `to_json()`: the policy's name that cannot be reused."""
        return hashlib.sha256(canonical.encode(self.to_json())).hexdigest()


def _from_mapping(value: dict[str, Any]) -> Policy:
    left = dict(value)
    base = left.pop("base", "standard")
    if not isinstance(base, str):
        raise bad("base", "the name of a preset")
    policy = Policy.preset(base)
    changes: dict[str, Any] = {}
    for name, item in left.items():
        if name in _TABLES:
            changes[name] = _TABLES[name](name, item, getattr(policy, name))
        elif name in _READERS:
            changes[name] = _READERS[name](name, item)
        else:
            raise unknown(name, (*_READERS, *_TABLES, "base"), "field")
    if changes and "name" not in changes:  # a verdict must not look as if it were made under the preset itself
        changes["name"] = f"{base}, changed"
    policy = dataclasses.replace(policy, **changes)
    if "simulated" in policy.platforms and not policy.simulated_allowed:
        raise LocalError(
            "platforms lists simulated without simulated_allowed", code="policy-value", hint="set both, or neither"
        )
    return policy


def _no_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(dict(pairs)) != len(pairs):
        raise LocalError("a policy field stands twice", code="policy-format")
    return dict(pairs)


def _machines(name: str, item: Any) -> tuple[str, ...]:
    return texts(name, item, 'hex SHA-256 of PPIDs or CHIP_IDs, or "*"', lambda i: i == ANY or _SHA256.fullmatch(i))


_READERS: Final[dict[str, Reader]] = {
    "name": printable,
    "platforms": words(),
    "simulated_allowed": flag,
    "tcb_statuses": words(*_STATUSES),
    "advisories_allowed": words(),
    "min_tcb_evaluation": count(0, 10_000),
    "td_attributes": bits,
    "xfam_allowed": bits,
    "required_references": words(*REFERENCE_NAMES),
    "roles": words("node", "group", "member", "pool", "key-service"),
    "doors": words(),
    "egress": words(),
    "content_logging": words(),
    "moderation": words(),
    "devices": read_demands,
    "suites": words(DEFAULT_SUITE, HIGH_SUITE),
    "machines": _machines,
    "max_evidence_age": count(1, DAY),
    "max_collateral_age": count(1, 3 * 365 * DAY),
    "freshness_required": flag,
}

_TABLES: Final[dict[str, Callable[[str, Any, Any], Any]]] = {
    "gpu": read_gpu,
    "key_service": read_references,
    "ledger": read_ledger,
    "pool": read_pool,
    "references": read_references,
    "snp": read_snp,
    "tpm": read_tpm,
}
"""Fields that are tables: they change the base's value member by member instead of replacing it."""
