# SPDX-License-Identifier: Apache-2.0
"""A command on its way round: a file that m of n admins sign, each on their own machine, before one of them sends it.

What is signed is the command alone. A draft changes hands in any way that the admins like; who changes a byte of the
command makes every signature worthless, and who takes the file away stops it, no more.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from teehouse_core.errors import LocalError, MalformedError
from teehouse_core.seal.commands import sign_command
from teehouse_core.wire.commands import CommandRequest, CommandSignature, parse_command_request

__all__ = ["DRAFT", "Draft"]

DRAFT: Final = "tks-draft/1"
MAX_DRAFT: Final = 256 * 1024  # bytes


@dataclass(frozen=True, slots=True)
class Draft:
    """One command, its payload, and the signatures so far."""

    request: CommandRequest
    service: str = field(default="")  # address of the key service, for who sends it; nobody is bound by it

    def sign(self, key: Ed25519PrivateKey) -> Draft:
        """With this admin's signature; the same as before when it has that already."""
        signature = sign_command(self.request.command.raw, key)
        others = tuple(one for one in self.request.signatures if one.kid != signature.kid)
        signatures: tuple[CommandSignature, ...] = (*others, signature)
        return replace(self, request=replace(self.request, signatures=signatures))

    def save(self, path: Path) -> None:
        """Write the file. Raises `LocalError` (`file-unwritable`)."""
        document = {"v": DRAFT, "service": self.service, **self.request.to_json()}
        part = path.with_name(path.name + ".new")
        try:
            part.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
            part.replace(path)
        except OSError as error:
            part.unlink(missing_ok=True)
            raise LocalError(f"cannot write {path}: {error.strerror}", code="file-unwritable") from None

    @classmethod
    def load(cls, path: Path) -> Draft:
        """Read the file. Raises `LocalError` (`file-unreadable`), `MalformedError` (`draft`)."""
        try:
            with path.open("rb") as file:
                data = file.read(MAX_DRAFT + 1)
        except OSError as error:
            raise LocalError(f"cannot read {path}: {error.strerror}", code="file-unreadable") from None
        try:
            value: Any = json.loads(data) if len(data) <= MAX_DRAFT else None
        except (ValueError, RecursionError):
            value = None
        if not isinstance(value, dict) or value.pop("v", None) != DRAFT:
            raise MalformedError(f"{path.name} is no draft of a command", code="draft")
        service = value.pop("service", "")
        if not isinstance(service, str):
            raise MalformedError(f"{path.name} is no draft of a command", code="draft")
        return cls(parse_command_request(value), service)
