# SPDX-License-Identifier: Apache-2.0
"""Why a witness does not sign. Each refusal is an HTTP answer of C2SP tlog-witness."""

from __future__ import annotations

from teehouse_core.errors import OperatorError, RefusedError
from teehouse_core.log.witness import SIZE_TYPE, format_size

__all__ = ["OtherSize", "StateError", "WitnessRefusal"]


class WitnessRefusal(RefusedError):  # noqa: N818  an answer of the protocol
    """A checkpoint that is not cosigned; `status` is the answer's."""

    def __init__(self, status: int, code: str, message: str, hint: str | None = None) -> None:
        super().__init__(message, code=code, hint=hint)
        self.status = status


class OtherSize(WitnessRefusal):
    """The old size is not that of the newest cosigned checkpoint; the answer's body says which is."""

    content_type = SIZE_TYPE

    def __init__(self, size: int) -> None:
        super().__init__(409, "other-size", f"the newest cosigned checkpoint has size {size}")
        self.size = size
        self.body = format_size(size)


class StateError(OperatorError):
    """The state cannot be read, or not be written durably: nothing is signed. Codes `state`, `state-full`."""

    default_code = "state"
