# SPDX-License-Identifier: Apache-2.0
"""From the name of a kind of artifact to the module that appraises it; imported when asked for.

A technology whose optional package is not installed answers "unsupported" with a hint, never an accepted verdict.
"""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Mapping
from typing import Any, Final

from teehouse_core.appraise.artifacts.base import ArtifactVerdict
from teehouse_core.appraise.newest import Newest
from teehouse_core.appraise.policy import Policy
from teehouse_core.errors import LocalError

__all__ = ["ARTIFACTS", "artifact_policy", "verify"]

MAX_NAME: Final = 256  # characters of a policy's name

ARTIFACTS: Final[Mapping[str, str]] = {
    "tdx-quote": "tdx",
    "snp-report": "snp",
    "nvidia-gpu": "nvidia",
    "nvidia-nvswitch": "nvidia",
    "tpm-quote": "tpm",
    "az-vtpm": "tpm",
    "event-log": "eventlog",
    "rim": "rim",
}
"""Kind of artifact to module beside this one; the words of `teehouse evidence verify --type`."""

_TAKES_KIND: Final = frozenset({"nvidia"})  # modules that appraise two kinds and want to be told which
_TAKES_NEWEST: Final = frozenset({"tdx", "snp"})
_MISSING: Final = frozenset({"lxml-missing"})  # codes of "an optional package is not installed"


def artifact_policy(policy: Policy, *, fresh: bool) -> Policy:
    """`policy` for one artifact by itself; the name says so in every verdict.

    Reference Values and register values that the policy lists are compared; that it lists none is no failure here,
    since one artifact speaks for no workload. Freshness is demanded only when there is something to show it with
    (`fresh`).
    """
    return dataclasses.replace(
        policy,
        name=f"{policy.name} (one artifact)"[:MAX_NAME],
        required_references=(),
        tpm=dataclasses.replace(policy.tpm, references_required=False),
        freshness_required=policy.freshness_required and fresh,
    )


def verify(
    kind: str,
    raw: bytes,
    *,
    chain: bytes | None = None,
    collateral: Mapping[str, bytes] | None = None,
    nonce: bytes | None = None,
    report_data: bytes | None = None,
    policy: Policy,
    now: int,
    newest: Newest | None = None,
) -> ArtifactVerdict:
    """Appraise one artifact of `kind` (a key of `ARTIFACTS`) at `now`, under `policy` as it is.

    `newest`: what the caller knows of collateral seen before; only kinds whose collateral is numbered compare with it.

    Raises `MalformedError` when `raw` is no such artifact, `LocalError` for an unknown kind or wrong arguments.
    """
    module = ARTIFACTS.get(kind)
    if module is None:
        raise LocalError(f"no artifact type {kind!r}", code="kind-unknown", hint=f"types are {', '.join(ARTIFACTS)}")
    try:
        found = importlib.import_module(f"teehouse_core.appraise.artifacts.{module}")
    except ImportError:
        return _unsupported(kind, policy, "this installation has no verifier for it", "install all of teehouse-core")
    options: dict[str, Any] = {"kind": kind} if module in _TAKES_KIND else {}
    if newest is not None and module in _TAKES_NEWEST:
        options["newest"] = newest
    try:
        verdict: ArtifactVerdict = found.verify_artifact(
            raw,
            chain=chain,
            collateral=collateral,
            nonce=nonce,
            report_data=report_data,
            policy=policy,
            now=now,
            **options,
        )
    except LocalError as error:
        if error.code in _MISSING:
            return _unsupported(kind, policy, error.message, error.hint or "")
        raise
    return verdict


def _unsupported(kind: str, policy: Policy, reason: str, hint: str) -> ArtifactVerdict:
    claims = {"artifact": kind, "policy": policy.name, "reason": reason, "hint": hint}
    return ArtifactVerdict("unsupported", "none", (), claims)
