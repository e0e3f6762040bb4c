# SPDX-License-Identifier: Apache-2.0
"""What can be wrong with encrypted weights, and where: a refusal names the file, the part and the chunk it knows."""

from __future__ import annotations

from typing import ClassVar

from teehouse_core.errors import MalformedError

__all__ = ["WeightsError"]


class WeightsError(MalformedError):
    """Encrypted weights that are not what their publisher signed (spec/08 §6).

    `file` is the model file's name, `part` the object's name, `chunk` the number of the chunk in its file, from 0;
    each is None where it is not known or does not apply. Nothing of a refused chunk is ever handed out.
    """

    default_code: ClassVar[str] = "weights-malformed"

    def __init__(
        self,
        message: str = "",
        *,
        code: str | None = None,
        hint: str | None = None,
        file: str | None = None,
        part: str | None = None,
        chunk: int | None = None,
    ) -> None:
        super().__init__(message, code=code, hint=hint)
        self.file: str | None = file
        self.part: str | None = part
        self.chunk: int | None = chunk
