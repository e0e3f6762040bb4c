# SPDX-License-Identifier: Apache-2.0
"""Whether one Appraisal Policy is no weaker than another, field by field (spec 03 §6.1).

`a` is no weaker than `c` when whatever satisfies `a` would satisfy `c`. Each field has its own order, written down
below; a field without one, and values that have no order (two bit patterns that must match exactly), count as weaker:
what cannot be compared is refused. The comparison may refuse a policy that is in truth strong enough, never the
reverse.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from teehouse_core.appraise.policy import ANY, Policy
from teehouse_core.appraise.policy_gpu import DeviceDemand, GpuPolicy, version_key
from teehouse_core.appraise.policy_references import REFERENCE_NAMES, References
from teehouse_core.appraise.policy_snp import SnpPolicy, TcbMinimum
from teehouse_core.appraise.policy_tpm import TpmPolicy

__all__ = ["SERVICE_ROLES", "member_roles", "weaker_fields"]

SERVICE_ROLES: Final = frozenset({"pool", "key-service"})  # roles of no machine that serves: nobody gets a key as one

_Order = Callable[[Any, Any], bool]
"""Whether the first value is no weaker than the second."""


def member_roles(roles: tuple[str, ...]) -> frozenset[str]:
    """The roles that a pool's members may have: those that the client lists, and `node`, the role of one machine.

    So a client that lists `pool` alone seals to pools only.
    """
    return (frozenset(roles) | {"node"}) - SERVICE_ROLES


def weaker_fields(a: Policy, c: Policy) -> tuple[str, ...]:
    """The fields in which `a` is weaker than `c` or cannot be compared with it; empty when it is no weaker."""
    return tuple(_weaker("", a, c, _POLICY))


def _weaker(prefix: str, a: Any, c: Any, orders: Mapping[str, _Order]) -> Iterator[str]:
    for one in dataclasses.fields(a):
        name, mine, wanted = prefix + one.name, getattr(a, one.name), getattr(c, one.name)
        if one.name in _TABLES and not prefix:
            yield from _weaker(f"{one.name}.", mine, wanted, _TABLES[one.name])
        elif one.name not in orders or not orders[one.name](mine, wanted):
            yield name


def _fewer(a: tuple[Any, ...], c: tuple[Any, ...]) -> bool:
    """A list of what is allowed: nothing that the other does not allow. `"*"` allows anything."""
    return ANY in c or set(a) <= set(c)


def _more(a: tuple[Any, ...], c: tuple[Any, ...]) -> bool:
    """A list of what is demanded: everything that the other demands."""
    return set(a) >= set(c)


def _pinned(a: tuple[str, ...], c: tuple[str, ...]) -> bool:
    """A list of which an empty one asks for nothing: where the other pins values, none beyond those."""
    return not c or (bool(a) and set(a) <= set(c))


def _must(a: bool, c: bool) -> bool:
    """A demand that the other makes is made."""
    return a or not c


def _may(a: bool, c: bool) -> bool:
    """What the other does not allow is not allowed."""
    return c or not a


def _least(a: int, c: int) -> bool:
    return a >= c


def _most(a: int, c: int) -> bool:
    return a <= c


def _bits_set(a: int, c: int) -> bool:
    """Bits that must be set: at least the other's."""
    return a & c == c


def _bits_allowed(a: int, c: int) -> bool:
    """Bits that may be set: none beyond the other's."""
    return a & ~c == 0


def _same(a: object, c: object) -> bool:
    return a == c


def _any(_a: object, _c: object) -> bool:
    """Says nothing about what a node must be."""
    return True


def _roles(a: tuple[str, ...], c: tuple[str, ...]) -> bool:
    return set(a) <= member_roles(c)


def _demands(a: tuple[DeviceDemand, ...], c: tuple[DeviceDemand, ...]) -> bool:
    """Each demand of the other follows from one of ours: as many of that kind, of that architecture if it names one."""
    return all(any(m.kind == d.kind and m.count >= d.count and d.arch in ("", m.arch) for m in a) for d in c)


def _driver(a: str, c: str) -> bool:
    return not c or (bool(a) and version_key(a) >= version_key(c))


def _abi(a: str, c: str) -> bool:
    return _version(a) >= _version(c)


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split("."))


def _tcb_minimum(a: tuple[TcbMinimum, ...], c: tuple[TcbMinimum, ...]) -> bool:
    """For each kind of processor that either names, and for one that none names: refused, or no level lower."""
    mine, theirs = SnpPolicy(tcb_minimum=a), SnpPolicy(tcb_minimum=c)
    kinds = {(floor.product, floor.cpuid) for floor in (*a, *c)} | {(floor.product, "") for floor in (*a, *c)}
    for product, cpuid in kinds:
        low, wanted = mine.minimum(product, cpuid), theirs.minimum(product, cpuid)
        if low is None:
            continue
        if wanted is None or any(low.parts[part] < level for part, level in wanted.parts.items()):
            return False
    return True


def _registers(a: tuple[str, ...], c: tuple[str, ...]) -> bool:
    """`<register>=<value>`: for each register that the other pins, ours is pinned to no other value."""
    mine, wanted = _by_register(a), _by_register(c)
    return all(register in mine and mine[register] <= values for register, values in wanted.items())


def _by_register(items: tuple[str, ...]) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for item in items:
        register, _, value = item.partition("=")
        found.setdefault(register, set()).add(value)
    return found


_POLICY: Final[dict[str, _Order]] = {
    "name": _any,
    "platforms": _fewer,
    "simulated_allowed": _may,
    "tcb_statuses": _fewer,
    "advisories_allowed": _fewer,
    "min_tcb_evaluation": _least,
    "td_attributes": _same,
    "xfam_allowed": _bits_allowed,
    "required_references": _more,
    "roles": _roles,
    "doors": _fewer,
    "egress": _fewer,
    "content_logging": _fewer,
    "moderation": _fewer,
    "devices": _demands,
    "suites": _fewer,
    "machines": _fewer,
    "max_evidence_age": _most,
    "max_collateral_age": _most,
    "freshness_required": _must,
    "key_service": _any,  # these three say what a client believes of others than nodes
    "pool": _any,
    "ledger": _any,
}

_TABLES: Final[dict[str, dict[str, _Order]]] = {
    "references": dict.fromkeys(REFERENCE_NAMES, _pinned),
    "gpu": {
        "drivers": _fewer,
        "min_driver": _driver,
        "vbios": _fewer,
        "modes": _fewer,
        "rim_required": _must,
        "revocation_required": _must,
        "hold_allowed": _may,
    },
    "snp": {
        "products": _fewer,
        "report_version_minimum": _least,
        "alias_check_required": _must,
        "tcb_minimum": _tcb_minimum,
        "revocation": _fewer,
        "provisional_firmware_allowed": _may,
        "migration_allowed": _may,
        "smt_allowed": _may,
        "vmpl": _fewer,
        "abi_minimum": _abi,
        "guest_svn_minimum": _least,
        "id_key_digests": _pinned,
        "author_key_digests": _pinned,
        "csp_ids": _fewer,
        "masked_chip_id_allowed": _may,
        "launch_mitigations": _bits_set,
        "current_mitigations": _bits_set,
    },
    "tpm": {
        "pcrs": _more,
        "references": _registers,
        "references_required": _must,
        "attestation_keys": _fewer,
        "log_required": _must,
        "secure_boot_required": _must,
        "revocation_required": _must,
    },
}

ORDERED: Final = {Policy: _POLICY, References: _TABLES["references"], GpuPolicy: _TABLES["gpu"]} | {
    SnpPolicy: _TABLES["snp"],
    TpmPolicy: _TABLES["tpm"],
}
"""Which dataclass each order is of, for the test that no field is without one."""
