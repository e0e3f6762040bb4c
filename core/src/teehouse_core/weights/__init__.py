# SPDX-License-Identifier: Apache-2.0
"""Encrypted model weights (spec/08-weights.md): the plan of parts, the chunks, the signed manifest. Opens no file."""

from __future__ import annotations

from teehouse_core.weights.chunks import PartCipher, key_commit
from teehouse_core.weights.errors import WeightsError
from teehouse_core.weights.manifest import FileEntry, KeyRef, Manifest, build_manifest
from teehouse_core.weights.plan import Cut, Part, PartHeader, check_listing, parts_of_file
from teehouse_core.weights.signing import parse_signed, sign_manifest, verify_manifest

__all__ = [
    "Cut",
    "FileEntry",
    "KeyRef",
    "Manifest",
    "Part",
    "PartCipher",
    "PartHeader",
    "WeightsError",
    "build_manifest",
    "check_listing",
    "key_commit",
    "parse_signed",
    "parts_of_file",
    "sign_manifest",
    "verify_manifest",
]
