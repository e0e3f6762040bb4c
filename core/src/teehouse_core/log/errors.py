# SPDX-License-Identifier: Apache-2.0
"""What a log, or who speaks for it, did wrong. All are `MalformedError`: nothing of what came is believed."""

from __future__ import annotations

from teehouse_core.errors import MalformedError

__all__ = ["LogProofError", "LogQuorumError", "LogSignatureError"]


class LogProofError(MalformedError):
    """An inclusion or consistency proof does not prove what it should."""

    default_code = "proof"


class LogSignatureError(MalformedError):
    """A signature by a known key is missing (`log-unsigned`), or does not verify (`log-signature`)."""

    default_code = "log-signature"


class LogQuorumError(MalformedError):
    """Fewer independent witnesses signed than the policy asks for."""

    default_code = "log-quorum"
