# SPDX-License-Identifier: Apache-2.0
"""What can go wrong on the way besides the errors that `teehouse_core.errors` already names."""

from __future__ import annotations

from typing import ClassVar

from teehouse_core.errors import PeerError

__all__ = ["Unreachable"]


class Unreachable(PeerError):  # noqa: N818  a state of the network, not a fault of ours
    """The gateway could not be reached, or was silent before its first byte (`code` `timeout`)."""

    default_code: ClassVar[str] = "unreachable"
