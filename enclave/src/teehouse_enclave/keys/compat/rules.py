# SPDX-License-Identifier: Apache-2.0
"""The key policies of existing clients: `Rules`, a JSON text of lists of lists (B §2.6).

One inner list is enough (or), and in it every rule must hold (and). An `inverse` rule holds when its policy refuses; an
`optional` one never denies. Nothing set means nobody, although the clients' own documents say everybody.
Neither an optional nor an inverse rule can grant: evidence that is garbage would satisfy them. So an inner list counts
only with at least one plain rule in it, and that rule must hold.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from teehouse_core.errors import MalformedError
from teehouse_core.evidence.jsontext import load_array
from teehouse_core.wire.canonical import encode, parse
from teehouse_core.wire.fields import HEX64, Fields
from teehouse_enclave.keys.compat.errors import CompatError
from teehouse_enclave.keys.errors import StorageError

__all__ = ["Decision", "Rule", "Rules"]

RULES: Final = "compat-rules/1"
MAX_TEXT: Final = 16 * 1024  # bytes of the text a client sends
MAX_RULES: Final = 16  # in all lists together; a person must be able to read what a key's policy is
MAX_STORED: Final = 8 * 1024  # bytes
_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_KNOWN: Final = {"version", "type", "tee", "platform", "policyID", "optional", "inverse", "inversion"}
_ANY: Final = ("", "*", "none")  # how clients spell "whatever it is"
_TEES: Final = ("tdx", "snp", "sample")


@dataclass(frozen=True, slots=True)
class Rule:
    """`policy_sha256` pins what the id meant when the rule was set. `tee` "" means any."""

    policy_id: str
    policy_sha256: str
    optional: bool
    inverse: bool
    tee: str

    @property
    def grants(self) -> bool:
        """Whether it may be the reason why a key is given out."""
        return not self.optional and not self.inverse


@dataclass(frozen=True, slots=True)
class Decision:
    """What the rules say about one request. `failed` are check ids, each as `policy id: check`; `tier` the best met."""

    granted: bool
    failed: tuple[str, ...]
    tier: str
    policies: tuple[str, ...]


Verdicts = Callable[[Rule], tuple[bool, tuple[str, ...], str]]
"""Whether a rule's policy accepts the evidence, the checks that refuse, and the tier reached."""


@dataclass(frozen=True, slots=True)
class Rules:
    """Outer or, inner and."""

    lists: tuple[tuple[Rule, ...], ...]

    @classmethod
    def parse(cls, text: Any, policies: Mapping[str, str]) -> Rules:
        """Read what a client set. `policies` maps the ids that are known here to their digests.

        Raises `CompatError` (`bad-rules`, `unknown-policy`).
        """
        if not isinstance(text, str):
            raise CompatError("bad-rules", "Rules is not a JSON text")
        try:
            outer = load_array(text.encode("utf-8", "surrogatepass"), limit=MAX_TEXT, what="Rules")
        except (MalformedError, UnicodeEncodeError) as error:
            code = error.code if isinstance(error, MalformedError) else "not-utf-8"
            raise CompatError("bad-rules", f"Rules do not parse: {code}") from None
        lists = tuple(tuple(_rule(item, policies) for item in _list(inner)) for inner in outer)
        if sum(map(len, lists)) > MAX_RULES or len(lists) > MAX_RULES:
            raise CompatError("bad-rules", f"at most {MAX_RULES} rules")
        for inner in lists:
            if not any(rule.grants for rule in inner):
                hint = "add one rule that is neither optional nor inverse"
                raise CompatError("bad-rules", "a list without a rule that could grant", hint=hint)
        return cls(lists)

    def to_bytes(self) -> bytes:
        """Canonical JSON: what is stored, and what `sha256` is over."""
        return encode(
            {
                "v": RULES,
                "lists": [
                    [
                        {
                            "policy_id": rule.policy_id,
                            "policy_sha256": rule.policy_sha256,
                            "optional": rule.optional,
                            "inverse": rule.inverse,
                            "tee": rule.tee,
                        }
                        for rule in inner
                    ]
                    for inner in self.lists
                ],
            }
        )

    @classmethod
    def stored(cls, data: bytes) -> Rules:
        """Read what `to_bytes` wrote. Raises `StorageError` (`storage-corrupt`)."""
        try:
            top = Fields(parse(data, limit=MAX_STORED), "rules")
            top.one_of("v", RULES)
            lists = []
            for inner in top.items("lists", 0, MAX_RULES):
                items = [Fields(item, "rule") for item in inner]
                rules = tuple(
                    Rule(
                        item.text("policy_id", _ID),
                        item.text("policy_sha256", HEX64),
                        item.boolean("optional"),
                        item.boolean("inverse"),
                        item.one_of("tee", "", *_TEES),
                    )
                    for item in items
                )
                for item in items:
                    item.done()
                lists.append(rules)
            top.done()
        except (MalformedError, TypeError):
            raise StorageError("storage-corrupt", "stored rules do not read") from None
        return cls(tuple(lists))

    @property
    def sha256(self) -> str:
        """Hex SHA-256 of `to_bytes()`: `policy_sha256` in the log."""
        return hashlib.sha256(self.to_bytes()).hexdigest()

    def decide(self, tee: str, verdicts: Verdicts) -> Decision:
        """Evaluate against one piece of evidence of kind `tee`; each policy is asked once. No list: denied."""
        asked: dict[tuple[str, str], tuple[bool, tuple[str, ...], str]] = {}
        failed: list[str] = []
        named = tuple(dict.fromkeys(rule.policy_sha256 for inner in self.lists for rule in inner))
        for inner in self.lists:
            wrong: list[str] = []
            tier = ""
            for rule in inner:
                place = (rule.policy_id, rule.policy_sha256)
                accepted, checks, reached = asked.get(place) or asked.setdefault(place, verdicts(rule))
                if rule.tee and rule.tee != tee:
                    accepted, checks = False, ("rules.tee",)
                if rule.grants and accepted:
                    tier = tier or reached
                if not rule.optional and accepted == rule.inverse:
                    ids = ("rules.inverse",) if rule.inverse else checks or ("rules.refused",)
                    wrong += [f"{rule.policy_id}: {check}" for check in ids]
            if not wrong and any(rule.grants for rule in inner):
                return Decision(True, (), tier, named)
            failed += wrong
        if not self.lists:
            failed.append("rules.none-set")
        return Decision(False, tuple(dict.fromkeys(failed))[:64], "", named)


def _list(inner: Any) -> list[Any]:
    if not isinstance(inner, list) or not inner:
        raise CompatError("bad-rules", "Rules are no list of lists of rules")
    return inner


def _rule(item: Any, policies: Mapping[str, str]) -> Rule:
    if not isinstance(item, dict) or not set(item) <= _KNOWN:
        raise CompatError("bad-rules", "a rule has unknown members", hint=f"known are {', '.join(sorted(_KNOWN))}")
    if item.get("type") != "RAPolicy":
        raise CompatError("bad-rules", "a rule is of an unknown type", hint='the type "RAPolicy" is known here')
    if item.get("version", "v1") != "v1" or item.get("platform", "*") not in _ANY:
        raise CompatError("bad-rules", "a rule names a version or a platform that is not known here")
    flags = {name: item.get(name, False) for name in ("optional", "inverse", "inversion")}
    tee, identity = item.get("tee", ""), item.get("policyID")
    if not all(type(flag) is bool for flag in flags.values()) or not isinstance(tee, str):
        raise CompatError("bad-rules", "a rule has a member of the wrong type")
    tee = "" if tee.lower() in _ANY else tee.lower()
    if tee and tee not in _TEES:
        raise CompatError("bad-rules", "a rule names an unknown tee", hint=f"one of {', '.join(_TEES)} or none")
    if not isinstance(identity, str) or not _ID.fullmatch(identity) or identity not in policies:
        raise CompatError("unknown-policy", "a rule names a policy that is not known here")
    if "inverse" in item and "inversion" in item and flags["inverse"] != flags["inversion"]:
        raise CompatError("bad-rules", "inverse and inversion contradict each other")
    return Rule(identity, policies[identity], flags["optional"], flags["inverse"] or flags["inversion"], tee)
