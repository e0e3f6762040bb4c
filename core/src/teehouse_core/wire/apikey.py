# SPDX-License-Identifier: Apache-2.0
"""API keys of the platform: "sk-th-" ‖ 16 hex digits (public account id) ‖ "-" ‖ 43 base64url characters."""

from __future__ import annotations

import re

from teehouse_core.errors import LocalError
from teehouse_core.wire.canonical import b64u

__all__ = ["account_of", "make_api_key"]

_FORM = re.compile(r"sk-th-([0-9a-f]{16})-[A-Za-z0-9_-]{43}")


def account_of(api_key: str) -> str:
    """The public account id inside `api_key`. Raises LocalError when the key has another form."""
    match = _FORM.fullmatch(api_key)
    if match is None:
        raise LocalError(
            "this is not a Teehouse API key",
            code="api-key-form",
            hint="keys look like sk-th-<16 hex digits>-<43 characters>; was it cut when copied?",
        )
    return match.group(1)


def make_api_key(random: bytes) -> str:
    """An API key from 40 fresh random bytes."""
    if len(random) != 40:
        raise LocalError("an API key is made of 40 random bytes", code="wrong-length")
    return f"sk-th-{random[:8].hex()}-{b64u(random[8:])}"
