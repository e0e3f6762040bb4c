# SPDX-License-Identifier: Apache-2.0
"""Typed refusals of the key service: a closed list of codes, each with one HTTP status (spec/07-keys.md §8).

`KeysError` is what a caller did wrong or may not do; `StorageError` is what the disk or the ledger did. No message
holds key bytes, and whoever may not see an object gets the code of one that does not exist.
"""

from __future__ import annotations

from typing import Final

from teehouse_core.errors import OperatorError, TeehouseError

__all__ = ["CODES", "KeysError", "StorageError"]

CODES: Final[dict[str, int]] = {
    # The request itself
    "malformed": 400,
    "bad-args": 400,
    "bad-policy": 400,
    "expired": 400,
    "expires-too-late": 400,
    "tenant-id": 400,
    # Who
    "not-enough-signatures": 403,
    "unsigned-not-allowed": 403,
    # What; foreign objects look the same
    "unknown-tenant": 404,
    "unknown-ring": 404,
    "unknown-key": 404,
    "unknown-version": 404,
    "unknown-pool": 404,
    # State
    "tenant-exists": 409,
    "ring-exists": 409,
    "key-exists": 409,
    "pool-exists": 409,
    "replayed": 409,
    "wrong-seq": 409,
    "wrong-state": 409,
    "too-many": 409,
    # Keys
    "import-too-large": 413,
    "unknown-keyset": 422,
    "import-sealed": 422,
    "import-mismatch": 422,
    "wrong-algorithm": 422,
    "weak-key": 422,
    "usage-forbids": 422,
    "not-exportable": 422,
    # Release and publishing
    "challenge-unknown": 400,
    "challenge-expired": 400,
    "challenge-used": 409,
    "evidence-refused": 403,
    "policy-denies": 403,
    "publish-off": 403,
    "publish-signature": 403,
    # The door
    "not-found": 404,
    "method-not-allowed": 405,
    "too-slow": 408,
    "too-large": 413,
    "over-limit": 429,
    # This side
    "internal": 500,
    "unavailable": 503,
    "storage-full": 503,
    "storage": 503,
    "storage-conflict": 503,
    "storage-corrupt": 503,
}


class KeysError(TeehouseError):
    """A refusal; `status` is the HTTP status of its code. Nothing changed."""

    default_code = "malformed"

    def __init__(self, code: str, message: str = "", *, hint: str | None = None) -> None:
        super().__init__(message, code=code, hint=hint)
        self.status: int = CODES[code]


class StorageError(OperatorError):
    """The store did not do it: `storage-full`, `storage`, `storage-conflict` or `storage-corrupt`; status 503."""

    default_code = "storage"

    def __init__(self, code: str, message: str = "", *, hint: str | None = None) -> None:
        super().__init__(message, code=code, hint=hint)
        self.status: int = CODES[code]
