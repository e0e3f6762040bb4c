# SPDX-License-Identifier: Apache-2.0
"""Coverage-guided fuzzing of everything in `teehouse_core` that reads bytes of strangers."""

from __future__ import annotations

import sys
from pathlib import Path

_FORGES = str(Path(__file__).resolve().parents[2] / "core" / "tests")
if _FORGES not in sys.path:  # the forges are test code and belong to no package
    sys.path.append(_FORGES)
