# SPDX-License-Identifier: Apache-2.0
"""The Appraisal Policy: one typed value, from a preset or from a TOML or JSON file.

Every loosening is a named field. Unknown fields are an error, a list means "one of these" and an empty one means
"none" (only `machines` and `moderation` know `"*"`, any). The digest names the policy in every verdict.
"""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import json
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from teehouse_core.errors import LocalError
from teehouse_core.wire import canonical
from teehouse_core.wire.suites import DEFAULT_SUITE, HIGH_SUITE

__all__ = ["ANY", "PRESETS", "REFERENCE_NAMES", "DeviceDemand", "Policy", "References"]

ANY: Final = "*"
PRESETS: Final = ("strict", "standard", "evaluate")
MAX_POLICY: Final = 256 * 1024  # bytes of one policy file
MAX_ITEMS: Final = 1024  # values in one list
DAY: Final = 86400  # seconds

TD_ATTRIBUTES: Final = 0x0000_0000_1000_0000  # SEPT_VE_DISABLE and nothing else: what genuine production TDs have
# Every XFAM bit seen in genuine production quotes: x87, SSE, AVX, AVX-512, PKRU, PASID, CET, AMX.
XFAM_ALLOWED: Final = 0x0006_1AE7

_SHA256: Final = re.compile(r"[0-9a-f]{64}")
_SHA384: Final = re.compile(r"[0-9a-f]{96}")
_NAME: Final = re.compile(r"[ -~]{1,256}")
_STATUSES: Final = (  # never Revoked: no policy can allow it
    "UpToDate",
    "SWHardeningNeeded",
    "ConfigurationNeeded",
    "ConfigurationAndSWHardeningNeeded",
    "OutOfDate",
    "OutOfDateConfigurationNeeded",
)


@dataclass(frozen=True, slots=True)
class References:
    """Reference Values. An empty list compares nothing; `Policy.required_references` says which may not be empty."""

    mrtd: tuple[str, ...] = ()  # hex SHA-384, as are rtmr0…3
    rtmr0: tuple[str, ...] = ()
    rtmr1: tuple[str, ...] = ()
    rtmr2: tuple[str, ...] = ()
    rtmr3: tuple[str, ...] = ()
    image_sha256: tuple[str, ...] = ()  # hex, as are the two below
    config_sha256: tuple[str, ...] = ()
    weights_sha256: tuple[str, ...] = ()
    release: tuple[str, ...] = ()


REFERENCE_NAMES: Final = tuple(f.name for f in dataclasses.fields(References))


@dataclass(frozen=True, slots=True)
class DeviceDemand:
    """At least `count` accepted devices of `kind` (`nvidia-gpu`, `nvidia-nvswitch`)."""

    kind: str
    count: int


@dataclass(frozen=True, slots=True)
class Policy:
    """What evidence must satisfy. The defaults are those of `standard`; ages are seconds."""

    name: str = "standard"
    platforms: tuple[str, ...] = ("tdx",)
    simulated_allowed: bool = False
    tcb_statuses: tuple[str, ...] = ("UpToDate",)
    advisories_allowed: tuple[str, ...] = ()
    min_tcb_evaluation: int = 0
    td_attributes: int = TD_ATTRIBUTES
    xfam_allowed: int = XFAM_ALLOWED
    references: References = field(default_factory=References)
    required_references: tuple[str, ...] = ("mrtd", "rtmr1", "rtmr2", "image_sha256", "weights_sha256")
    roles: tuple[str, ...] = ("node",)
    doors: tuple[str, ...] = ("aicc-v0.1", "aicc-jsc")
    egress: tuple[str, ...] = ("none",)
    content_logging: tuple[str, ...] = ("none",)
    moderation: tuple[str, ...] = (ANY,)
    devices: tuple[DeviceDemand, ...] = ()
    suites: tuple[str, ...] = (DEFAULT_SUITE, HIGH_SUITE)
    machines: tuple[str, ...] = (ANY,)  # hex SHA-256 of the PPID
    max_evidence_age: int = 3600
    max_collateral_age: int = 30 * DAY
    freshness_required: bool = True

    @classmethod
    def preset(cls, name: Literal["strict", "standard", "evaluate"] | str) -> Policy:
        """The preset of that name. Raises `LocalError` (`policy-preset`) for any other."""
        if name == "standard":
            return cls()
        if name == "evaluate":
            return cls(name="evaluate", platforms=("tdx", "simulated"), simulated_allowed=True, required_references=())
        if name == "strict":
            return cls(
                name="strict",
                required_references=(*(n for n in REFERENCE_NAMES if n != "rtmr3"),),
                doors=(),
                devices=(DeviceDemand("nvidia-gpu", 1),),
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
            "references": {n: list(getattr(self.references, n)) for n in REFERENCE_NAMES},
            "required_references": list(self.required_references),
            "roles": list(self.roles),
            "doors": list(self.doors),
            "egress": list(self.egress),
            "content_logging": list(self.content_logging),
            "moderation": list(self.moderation),
            "devices": [{"kind": d.kind, "count": d.count} for d in self.devices],
            "suites": list(self.suites),
            "machines": list(self.machines),
            "max_evidence_age": self.max_evidence_age,
            "max_collateral_age": self.max_collateral_age,
            "freshness_required": self.freshness_required,
        }

    @property
    def digest(self) -> str:
        """Hex SHA-256 of the canonical JSON of `to_json()`: the policy's name that cannot be reused."""
        return hashlib.sha256(canonical.encode(self.to_json())).hexdigest()


def _from_mapping(value: dict[str, Any]) -> Policy:
    left = dict(value)
    base = left.pop("base", "standard")
    if not isinstance(base, str):
        raise _bad("base", "the name of a preset")
    policy = Policy.preset(base)
    changes: dict[str, Any] = {}
    for name, item in left.items():
        reader = _READERS.get(name)
        if reader is None:
            near = difflib.get_close_matches(name, [*_READERS, "base"], 1)
            hint = f"did you mean {near[0]!r}?" if near else f"fields are: {', '.join(_READERS)}"
            raise LocalError(f"policy has no field {name!r}", code="policy-field", hint=hint)
        changes[name] = reader(name, item, policy)
    policy = dataclasses.replace(policy, **changes)
    if "simulated" in policy.platforms and not policy.simulated_allowed:
        raise LocalError(
            "platforms lists simulated without simulated_allowed", code="policy-value", hint="set both, or neither"
        )
    return policy


_Reader = Callable[[str, Any, Policy], Any]


def _bad(name: str, want: str) -> LocalError:
    return LocalError(f"policy field {name} has a wrong value", code="policy-value", hint=f"{name} is {want}")


def _no_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(dict(pairs)) != len(pairs):
        raise LocalError("a policy field stands twice", code="policy-format")
    return dict(pairs)


def _texts(name: str, item: Any, want: str, good: Callable[[str], object]) -> tuple[str, ...]:
    ok = isinstance(item, list) and len(item) <= MAX_ITEMS and all(isinstance(i, str) and good(i) for i in item)
    if not ok or len(set(item)) != len(item):
        raise _bad(name, f"a list of {want}, each once")
    return tuple(item)


def _words(*known: str) -> _Reader:
    want = " or ".join(known) if known else "short printable texts"
    return lambda name, item, _: _texts(name, item, want, known.__contains__ if known else _NAME.fullmatch)


def _machines(name: str, item: Any, _: Policy) -> tuple[str, ...]:
    return _texts(name, item, 'lower-case hex SHA-256 of PPIDs, or "*"', lambda i: i == ANY or _SHA256.fullmatch(i))


def _name(name: str, item: Any, _: Policy) -> str:
    if not isinstance(item, str) or not _NAME.fullmatch(item):
        raise _bad(name, "a short printable text")
    return item


def _flag(name: str, item: Any, _: Policy) -> bool:
    if not isinstance(item, bool):
        raise _bad(name, "true or false")
    return item


def _count(low: int, high: int) -> _Reader:
    def read(name: str, item: Any, _: Policy) -> int:
        if type(item) is not int or not low <= item <= high:
            raise _bad(name, f"a whole number from {low} to {high}")
        return item

    return read


def _bits(name: str, item: Any, _: Policy) -> int:
    if not isinstance(item, str) or not re.fullmatch(r"0x[0-9a-f]{16}", item):
        raise _bad(name, 'a text of 64 bits in hex, as "0x0000000010000000"')
    return int(item, 16)


def _references(name: str, item: Any, policy: Policy) -> References:
    if not isinstance(item, Mapping):
        raise _bad(name, "a table")
    changes: dict[str, Any] = {}
    for key, values in item.items():
        if key not in REFERENCE_NAMES:
            near = difflib.get_close_matches(str(key), REFERENCE_NAMES, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"reference values are: {', '.join(REFERENCE_NAMES)}"
            raise LocalError(f"no reference value {key!r}", code="policy-field", hint=hint)
        form = _SHA256 if key.endswith("_sha256") else _NAME if key == "release" else _SHA384
        want = {_SHA256: "lower-case hex SHA-256", _SHA384: "lower-case hex SHA-384"}.get(form, "release names")
        changes[key] = _texts(f"references.{key}", values, want, form.fullmatch)
    return dataclasses.replace(policy.references, **changes)


def _devices(name: str, item: Any, _: Policy) -> tuple[DeviceDemand, ...]:
    kinds = ("nvidia-gpu", "nvidia-nvswitch")
    if not isinstance(item, list) or len(item) > len(kinds):
        raise _bad(name, "a list of {kind, count}")
    demands = []
    for demand in item:
        ok = isinstance(demand, Mapping) and set(demand) == {"kind", "count"} and demand["kind"] in kinds
        if not ok or type(demand["count"]) is not int or not 1 <= demand["count"] <= 64:
            raise _bad(name, f"a list of {{kind, count}}; kinds are {', '.join(kinds)}, count 1 to 64")
        demands.append(DeviceDemand(demand["kind"], demand["count"]))
    if len({d.kind for d in demands}) != len(demands):
        raise _bad(name, "a list with each kind once")
    return tuple(demands)


_READERS: Final[dict[str, _Reader]] = {
    "name": _name,
    "platforms": _words(),
    "simulated_allowed": _flag,
    "tcb_statuses": _words(*_STATUSES),
    "advisories_allowed": _words(),
    "min_tcb_evaluation": _count(0, 10_000),
    "td_attributes": _bits,
    "xfam_allowed": _bits,
    "references": _references,
    "required_references": _words(*REFERENCE_NAMES),
    "roles": _words("node", "group", "member", "pool", "key-service"),
    "doors": _words(),
    "egress": _words(),
    "content_logging": _words(),
    "moderation": _words(),
    "devices": _devices,
    "suites": _words(DEFAULT_SUITE, HIGH_SUITE),
    "machines": _machines,
    "max_evidence_age": _count(1, DAY),
    "max_collateral_age": _count(1, 3 * 365 * DAY),
    "freshness_required": _flag,
}
