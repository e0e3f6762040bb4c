# SPDX-License-Identifier: Apache-2.0
"""The users of `teehouse keys` in tests: one tenant with its admins, and their command line."""

from __future__ import annotations

import json
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from support_cli import call
from support_keys import World


@dataclass
class Scene:
    """A world with one tenant: Ada commands it, Ben and Cleo are in the set of some ring, Dan is a stranger."""

    world: World
    folder: Path
    tenant: str = ""

    def admin(self, name: str) -> str:
        return str(self.folder / f"{name}.pem")

    @property
    def common(self) -> list[str]:
        return ["--policy", "evaluate", "--tenant", self.tenant, "--admin", self.admin("ada")]

    def ok(self, *arguments: object) -> dict[str, Any]:
        """The command's JSON; it must have been done."""
        code, out, err = call("keys", *arguments, *self.missing(arguments), "--json")
        assert code == 0, out + err
        return dict(json.loads(out))

    def say(self, *arguments: object) -> str:
        """What a person sees; it must have been done."""
        code, out, err = call("keys", *arguments, *self.missing(arguments))
        assert code == 0, out + err
        return out

    def fails(self, *arguments: object) -> tuple[int, str, str]:
        """Exit code, code and hint: the same ones in JSON and for a person."""
        code, out, err = call("keys", *arguments, *self.missing(arguments), "--json")
        error = json.loads(out)["error"]
        assert f"[{error['code']}]" in err
        assert error["message"]
        return code, error["code"], error["hint"] or ""

    def missing(self, arguments: tuple[object, ...]) -> list[str]:
        """Of the common options those that were not given."""
        pairs = zip(self.common[::2], self.common[1::2], strict=True)
        group = arguments[:2]
        takes = {
            ("admin", "new"): set(),
            ("admin", "show"): set(),
            ("policy", "new"): set(),
            ("tenant", "create"): {"--policy", "--admin"},
            ("approve", arguments[1] if len(arguments) > 1 else ""): {"--admin"},
            ("send", arguments[1] if len(arguments) > 1 else ""): {"--policy"},
        }.get((str(group[0]), group[1]) if len(group) > 1 else ("", ""), {"--policy", "--tenant", "--admin"})
        return [part for name, value in pairs if name in takes and name not in arguments for part in (name, value)]

    def ring(self, usage: str = "data") -> str:
        name = f"r{secrets.token_hex(4)}"
        self.ok("ring", "create", name, "--usage", usage)
        return name

    def key(self, ring: str, name: str) -> dict[str, Any]:
        """The key as `show` lists it."""
        rings = {one["id"]: one for one in self.ok("show")["rings"]}
        return dict(next(key for key in rings[ring]["keys"] if key["id"] == name))
