# SPDX-License-Identifier: Apache-2.0
"""What the key service answers when it does not do what it was asked."""

from __future__ import annotations

from teehouse_core.errors import TeehouseError

__all__ = ["KeyServiceError"]


class KeyServiceError(TeehouseError):
    """The key service said no; nothing changed. `code` and `hint` are its own words, which only its TLS protects.

    `status` is its HTTP status. Nobody broke the protocol and no evidence was refused, so it is no other kind of error.
    """

    default_code = "key-service"

    def __init__(self, status: int, message: str, *, code: str, hint: str | None) -> None:
        super().__init__(message, code=code, hint=hint)
        self.status: int = status

    @property
    def passing(self) -> bool:
        """Whether the same thing asked a little later may be done."""
        return self.status in (408, 429)
