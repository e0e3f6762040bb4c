# SPDX-License-Identifier: Apache-2.0
"""The roots that one appraisal ends in, as one value: the vendors' pinned ones, or TEST roots for must-reject vectors.

A sheet of checks is made under one such value and asks it alone. Only `under_test_roots` makes another than `PINNED`;
no policy, no file and no command reaches that.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from cryptography import x509

from teehouse_core.appraise.roots import intel_root_for
from teehouse_core.appraise.roots_amd import AmdRoot, amd_roots_for
from teehouse_core.appraise.roots_nvidia import NvidiaRoots, nvidia_roots_for
from teehouse_core.appraise.roots_tpm import vtpm_roots_for

__all__ = ["PINNED", "Anchors"]


@dataclass(frozen=True, slots=True)
class Anchors:
    """Each member takes a platform type and gives the roots that may vouch for it there."""

    intel: Callable[[str], x509.Certificate | None]
    amd: Callable[[str], Mapping[str, AmdRoot]]
    nvidia: Callable[[str], NvidiaRoots]
    vtpm: Callable[[str], tuple[x509.Certificate, ...]]


PINNED: Final = Anchors(intel_root_for, amd_roots_for, nvidia_roots_for, vtpm_roots_for)
