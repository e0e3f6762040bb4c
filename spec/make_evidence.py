# SPDX-License-Identifier: Apache-2.0
"""Every vector of evidence, and the checks that none of them can show, with the reason."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import make_evidence_azure
import make_evidence_eventlog
import make_evidence_node
import make_evidence_nvidia
import make_evidence_pool
import make_evidence_snp
import make_evidence_tdx
import make_evidence_tpm
from evidence_kit import Evidence

UNREACHABLE: Final = {
    "binding.kids": "a keyset whose key ids are wrong or repeated does not parse, so its bundle is malformed; "
    "the vectors node-bundle-with-a-key-id… and node-bundle-with-one-key-twice show that",
    "release.statement": "never required: a statement is named as not supported, and nothing rests on it; "
    "the vector node-release-statement shows that",
}
"""Check id → why no vector can show it as the check that refuses."""


def vectors() -> Iterator[Evidence]:
    for maker in (
        make_evidence_tdx,
        make_evidence_snp,
        make_evidence_nvidia,
        make_evidence_tpm,
        make_evidence_azure,
        make_evidence_eventlog,
        make_evidence_node,
        make_evidence_pool,
    ):
        yield from maker.vectors()
