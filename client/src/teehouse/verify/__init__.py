# SPDX-License-Identifier: Apache-2.0
"""Verification on the user's machine: evidence sets, their appraisal, and the cache of what was accepted."""

from __future__ import annotations

from teehouse.verify.cache import VerifiedCache
from teehouse.verify.nodes import NodeVerdict, appraise_set, parse_evidence_set

__all__ = ["NodeVerdict", "VerifiedCache", "appraise_set", "parse_evidence_set"]
