# SPDX-License-Identifier: Apache-2.0
"""One reference integrity manifest of NVIDIA, under a policy at a time: `verify_artifact`.

Whether NVIDIA signed it and vouches for the signer now. What it says is compared with a report elsewhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from cryptography import x509

from teehouse_core.appraise.artifacts.base import ArtifactVerdict, conclude
from teehouse_core.appraise.artifacts.nvidia import find_collateral, roots_for
from teehouse_core.appraise.checks_nvidia import check_rim
from teehouse_core.appraise.policy import Policy
from teehouse_core.appraise.rimshelf import Shelf
from teehouse_core.appraise.sheet import Sheet
from teehouse_core.errors import LocalError
from teehouse_core.evidence.nvidia_collateral import NvidiaCollateral
from teehouse_core.evidence.rim import Rim, parse_rim

__all__ = ["RIM_FLOOR", "verify_artifact"]

RIM_FLOOR: Final = frozenset({"gpu.rim.format", "gpu.rim.signature", "gpu.rim.chain"})


def verify_artifact(
    raw: bytes,
    *,
    chain: bytes | None,
    collateral: Mapping[str, bytes] | None,
    nonce: bytes | None,
    report_data: bytes | None,
    policy: Policy,
    now: int,
) -> ArtifactVerdict:
    """Appraise one manifest at `now` (Unix seconds); `collateral` may hold OCSP responses and CRLs for its signer.

    A manifest carries its own chain and answers no nonce, so these arguments must be None. Raises `MalformedError`
    when `raw` is no manifest, `LocalError` for wrong arguments and when lxml is missing.
    """
    if chain is not None or nonce is not None or report_data is not None:
        raise LocalError("a manifest has its own chain and no nonce", code="argument")
    rim = parse_rim(raw)
    roots, tier = roots_for(_last(rim), policy)
    answers = find_collateral(collateral or {})
    shelf = Shelf(NvidiaCollateral((raw,), answers.ocsp, answers.crl), roots, policy, now)
    sheet = Sheet()
    check_rim(sheet, shelf, policy)
    claims: dict[str, Any] = {
        "type": "rim",
        "policy": policy.name,
        "tag_id": rim.tag_id,
        "product": rim.product,
        "version": rim.version,
        "edition": rim.edition,
        "golden": {str(golden.index): [digest.hex() for digest in golden.digests] for golden in rim.golden},
        "sha256": rim.sha256,
    }
    proven = sheet.state("gpu.rim.chain") == "passed"
    return conclude(sheet, floor=RIM_FLOOR, tier=tier if proven else "none", claims=claims)


def _last(rim: Rim) -> tuple[x509.Certificate, ...] | None:
    try:
        return (x509.load_der_x509_certificate(rim.certificates[-1]),)
    except Exception:  # as in Sheet.run: certificate libraries raise more than ValueError on hostile bytes
        return None
