# SPDX-License-Identifier: Apache-2.0
"""What existing clients are told when something is refused, and in which envelope.

Always a status of 400 or more: the official client hands a 200 with an `Error` to its caller as a result. `Code` is
a word in the gateway's own style, `Reason` ours (kebab-case, stable), `Message` says both and the hint.
"""

from __future__ import annotations

import json
from typing import Any, Final

from teehouse_core.errors import TeehouseError
from teehouse_enclave.keys.errors import KeysError, StorageError

__all__ = ["CODES", "CompatError", "as_compat", "error_body", "result_body"]

CODES: Final[dict[str, tuple[int, str]]] = {
    # The request
    "malformed": (400, "InvalidParameter"),
    "missing-parameter": (400, "MissingParameter"),
    "too-large": (413, "InvalidParameter.TooLarge"),
    "unknown-action": (404, "InvalidActionOrVersion"),
    "method": (405, "InvalidMethod"),
    "timestamp": (400, "InvalidTimestamp"),
    "over-limit": (429, "Throttling"),
    # Who
    "signature": (401, "SignatureDoesNotMatch"),
    "sts-unsupported": (401, "InvalidSecurityToken"),
    "direct-rest-off": (403, "AccessDenied.DirectRestOff"),
    "account-mismatch": (403, "AccessDenied.AccountMismatch"),
    # Key agreement
    "dh-param": (400, "InvalidParameter.DHParam"),
    "import-sealed": (422, "InvalidParameter.Key"),
    "nonce": (400, "InvalidParameter.NonceUp"),
    "challenge-malformed": (400, "InvalidParameter.ClientChall"),
    "challenge-unknown": (400, "InvalidParameter.ClientChall.Unknown"),
    "challenge-used": (400, "InvalidParameter.ClientChall.Used"),
    "challenge-expired": (400, "InvalidParameter.ClientChall.Expired"),
    # Evidence and policy
    "evidence-malformed": (400, "InvalidParameter.RAEvidence"),
    "evidence-unsupported": (400, "InvalidParameter.RAEvidence.Unsupported"),
    "bad-rules": (400, "InvalidParameter.Rules"),
    "unknown-policy": (404, "NotFound.Policy"),
    "policy-denied": (403, "AccessDenied.Policy"),
    "platform-unsupported": (501, "NotSupported"),
    # Objects beyond those of `keys.errors`
    "key-empty": (409, "InvalidState.KeyEmpty"),
    "unavailable": (503, "ServiceUnavailable"),
    "internal": (500, "InternalError"),
}
_KEYS_WORDS: Final = {
    400: "InvalidParameter",
    403: "AccessDenied",
    404: "NotFound",
    409: "Conflict",
    503: "ServiceUnavailable",
}


class CompatError(TeehouseError):
    """A refusal by this door; `status` and `word` follow from its code."""

    default_code = "malformed"

    def __init__(self, code: str, message: str = "", *, hint: str | None = None, status: int | None = None) -> None:
        super().__init__(message, code=code, hint=hint)
        self.status, self.word = CODES[code]
        if status is not None:
            self.status = status


def as_compat(error: TeehouseError) -> tuple[int, str, str, str]:
    """(status, word, code, text) of any error of ours; what this door does not know is 500 `internal`."""
    if isinstance(error, CompatError):
        status, word = error.status, error.word
    elif isinstance(error, (KeysError, StorageError)):
        status = error.status
        word = _KEYS_WORDS.get(status, "InvalidParameter") + "." + error.code.title().replace("-", "")
    else:
        status, word = CODES["internal"]
        return status, word, "internal", "internal error"
    text = error.message if error.hint is None else f"{error.message}; hint: {error.hint}"
    return status, word, error.code, text


def error_body(metadata: dict[str, Any], word: str, code: str, text: str) -> bytes:
    """The envelope of a refusal."""
    error = {"Code": word, "Message": f"{text} [{code}]", "Reason": code}
    return _dump({"ResponseMetadata": {**metadata, "Error": error}})


def result_body(metadata: dict[str, Any], result: dict[str, Any]) -> bytes:
    """The envelope of an answer. An empty `Result` is a network error to the official client, so none is sent."""
    return _dump({"ResponseMetadata": metadata, "Result": result or {"Status": "ok"}})


def _dump(document: dict[str, Any]) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode("ascii")
