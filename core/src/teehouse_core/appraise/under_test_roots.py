# SPDX-License-Identifier: Apache-2.0
"""FOR TESTS AND CONFORMANCE VECTORS ONLY: appraisal under TEST roots that the caller names.

Nothing in the product calls this but the two evidence stages of `teehouse-conformance`; no policy field, file or
command of `teehouse` leads here. What is found here has the tier `simulated` at best, and no sealing key follows.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from cryptography import x509

from teehouse_core.appraise.anchors import PINNED, Anchors
from teehouse_core.appraise.appraise import appraise_under
from teehouse_core.appraise.artifacts import snp, tpm
from teehouse_core.appraise.artifacts.base import ArtifactVerdict
from teehouse_core.appraise.newest import Newest
from teehouse_core.appraise.policy import Policy
from teehouse_core.appraise.roots_amd import AmdRoot
from teehouse_core.appraise.verdict import Verdict
from teehouse_core.errors import LocalError

__all__ = ["TEST_ROOT_KINDS", "appraise_under_test_roots", "anchors_for_tests", "verify_under_test_roots"]

TEST_ROOT_KINDS: Final = ("snp-report", "tpm-quote", "az-vtpm")
"""The artifacts that need TEST roots: Intel's and NVIDIA's formats have their `simulated` root in the package."""


def anchors_for_tests(
    *,
    intel: x509.Certificate | None = None,
    amd: Mapping[str, AmdRoot] | None = None,
    vtpm: tuple[x509.Certificate, ...] | None = None,
) -> Anchors:
    """Anchors in which what is given stands in for the vendor's own, for every platform type; the rest is pinned."""
    return Anchors(
        intel=PINNED.intel if intel is None else lambda _: intel,
        amd=PINNED.amd if amd is None else lambda _: amd,
        nvidia=PINNED.nvidia,
        vtpm=PINNED.vtpm if vtpm is None else lambda _: vtpm,
    )


def appraise_under_test_roots(
    anchors: Anchors,
    bundle_bytes: bytes,
    policy: Policy,
    now: int,
    *,
    endpoint: str | None = None,
    nonce: bytes | None = None,
    newest: Newest | None = None,
) -> Verdict:
    """As `appraise`, under `anchors`; the verdict's `accept()` refuses with `test-roots`."""
    return appraise_under(anchors, bundle_bytes, policy, now, endpoint=endpoint, nonce=nonce, newest=newest)


def verify_under_test_roots(
    anchors: Anchors,
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
    """As `artifacts.dispatch.verify`, under `anchors`; for `TEST_ROOT_KINDS` only, else `LocalError` (`test-roots`)."""
    if kind == "snp-report":
        return snp.verify_artifact(
            raw,
            chain=chain,
            collateral=collateral,
            nonce=nonce,
            report_data=report_data,
            policy=policy,
            now=now,
            roots=anchors.amd("sev-snp"),
            newest=newest,
        )
    if kind in TEST_ROOT_KINDS:
        return tpm.verify_artifact(
            raw,
            chain=chain,
            collateral=collateral,
            nonce=nonce,
            report_data=report_data,
            policy=policy,
            now=now,
            anchors=anchors,
        )
    raise LocalError(f"{kind} takes no TEST roots", code="test-roots", hint=f"only {', '.join(TEST_ROOT_KINDS)} do")
