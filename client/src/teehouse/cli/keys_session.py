# SPDX-License-Identifier: Apache-2.0
"""What every `teehouse keys` command shares: which service, tenant and admin keys; and the way of one command.

The way: appraise the service → read the state, for the seq and the admin set → build → sign → send; or, with
`--draft`, write a file that other admins approve first.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from rich.table import Table
from rich.text import Text

from teehouse.cli import exits
from teehouse.cli.offline import policy_of, stamp
from teehouse.cli.output import Output, safe
from teehouse.keys.errors import KeyServiceError
from teehouse_core.errors import LocalError

if TYPE_CHECKING:
    from teehouse.keys.admin import Admin
    from teehouse.keys.operations import Operation
    from teehouse.keys.service import KeyService
    from teehouse_core.wire.commands import CommandRequest

__all__ = [
    "Admins",
    "Context",
    "DraftFile",
    "KeysPolicy",
    "Life",
    "Service",
    "Tenant",
    "Where",
    "carry_out",
    "choose",
    "load_admins",
    "new_draft",
    "show_outcome",
]

PASSPHRASE: Final = "TEEHOUSE_ADMIN_PASSPHRASE"  # noqa: S105  the name of a variable
DRAFT_LIFE: Final = 24 * 3600  # seconds that a draft is good for unless asked otherwise
MAX_LIFE: Final = 7 * 24 * 3600
_LISTED: Final = "`teehouse keys show` lists yours"

Service = Annotated[
    str | None,
    typer.Option("--tks", metavar="URL", envvar="TEEHOUSE_TKS_URL", help="The key service.", show_default="local"),
]
Tenant = Annotated[
    str | None,
    typer.Option("--tenant", metavar="ID", envvar="TEEHOUSE_TENANT", help="The tenant (t-…).", show_default="local"),
]
Admins = Annotated[
    list[Path] | None,
    typer.Option(
        "--admin",
        metavar="FILE",
        envvar="TEEHOUSE_ADMIN_KEY",
        help="An admin key of yours; may be given again.",
        show_default="local",
    ),
]
KeysPolicy = Annotated[
    str | None,
    typer.Option(
        "--policy",
        metavar="POLICY",
        help="What the key service's own evidence must satisfy: strict, standard, evaluate, or a file.",
        show_default="local, else strict",
    ),
]
DraftFile = Annotated[
    Path | None,
    typer.Option("--draft", metavar="FILE", help="Write the signed command there for others to approve; send nothing."),
]
Life = Annotated[
    int,
    typer.Option(
        "--life",
        metavar="SECONDS",
        min=60,
        max=MAX_LIFE,
        help="How long a draft lives; never longer than the service's keyset.",
    ),
]


@dataclass(frozen=True, slots=True)
class Where:
    """The service under a policy, the tenant, the admin keys that sign. `tenant` is empty when none was named."""

    url: str
    policy: str
    tenant: str
    admins: tuple[Path, ...]

    def open(self) -> KeyService:
        """The service, not spoken to yet."""
        from teehouse.keys.service import KeyService

        return KeyService(self.url, policy_of(self.policy))

    def need_tenant(self) -> str:
        """Raises `LocalError` (`tenant-missing`)."""
        if not self.tenant:
            raise LocalError(
                "no tenant is named", code="tenant-missing", hint="--tenant t-…, or `teehouse keys tenant create`"
            )
        return self.tenant

    def signers(self) -> list[Admin]:
        """The admins who sign here. Raises `LocalError`."""
        return load_admins(self.admins)


def choose(service: str | None, tenant: str | None, admins: list[Path] | None, policy: str | None) -> Where:
    """Options and environment first, then the platform that runs on this machine. Raises `LocalError`."""
    from teehouse.local.state import find_running

    state: dict[str, Any] = {}
    if None in (service, tenant, policy) or not admins:
        running = find_running(None)
        state = (running.state or {}) if running is not None else {}
    url = service or state.get("tks_url")
    if not url:
        raise LocalError("no key service is named", code="tks-missing", hint="--tks URL, or start one: `teehouse up`")
    local = url == state.get("tks_url")
    files = tuple(admins or ([Path(state["tks_admin_key"])] if local and state.get("tks_admin_key") else []))
    return Where(
        url=url,
        policy=policy or (state["policy"] if local and state.get("policy") else "strict"),
        tenant=tenant or (str(state.get("tks_tenant", "")) if local else ""),
        admins=files,
    )


def load_admins(paths: tuple[Path, ...]) -> list[Admin]:
    """Raises `LocalError` (`admin-missing`, and what a key file raises)."""
    from teehouse.keys.admin import load_admin

    if not paths:
        raise LocalError(
            "no admin key is named", code="admin-missing", hint="--admin FILE; `teehouse keys admin new` makes one"
        )
    return [load_admin(path.expanduser(), passphrase=os.environ.get(PASSPHRASE)) for path in paths]


@dataclass(frozen=True, slots=True)
class Context:
    """What an operation may need to be built: the appraised service, and the tenant's state as it told it."""

    service: KeyService
    tenant: str
    state: dict[str, Any] = field(repr=False)

    def ring(self, name: str) -> dict[str, Any]:
        """Raises `KeyServiceError` (`unknown-ring`), as the service would."""
        for ring in self.state.get("rings", []):
            if ring.get("id") == name:
                return dict(ring)
        raise KeyServiceError(404, f"no ring {name!r}", code="unknown-ring", hint=_LISTED)

    def key(self, ring: str, name: str) -> dict[str, Any]:
        """Raises `KeyServiceError` (`unknown-ring`, `unknown-key`), as the service would."""
        for key in self.ring(ring).get("keys", []):
            if key.get("id") == name:
                return dict(key)
        raise KeyServiceError(404, f"no key {name!r} in {ring!r}", code="unknown-key", hint=_LISTED)


def carry_out(
    where: Where,
    build: Callable[[Context], Operation],
    out: Output,
    *,
    draft: Path | None = None,
    life: int = DRAFT_LIFE,
    finish: Callable[[dict[str, Any], str], None] | None = None,
) -> int:
    """Read, build, sign, and send or write a draft. `finish` gets the result and the command's digest.

    Raises `TeehouseError`.
    """
    from teehouse.keys.service import COMMAND_LIFE
    from teehouse_core.seal.commands import sign_command
    from teehouse_core.wire.commands import Command, CommandRequest

    tenant, admins = where.need_tenant(), where.signers()
    with where.open() as service:
        state = service.read(tenant, admins[0].key)
        context = Context(service, tenant, state)
        operation = build(context)
        scope = context.ring(operation.ring) if operation.ring else state
        raw = service.command(
            tenant,
            operation.ring,
            int(scope.get("seq", 0)) + 1,
            operation.op,
            operation.args,
            life=life if draft is not None else COMMAND_LIFE,
        )
        signatures = tuple(sign_command(raw, admin.key) for admin in admins)
        request = CommandRequest(Command.parse(raw), signatures, operation.payload)
        if draft is not None:
            needed = scope.get("admins", {}).get("threshold", 1)
            return new_draft(out, draft, request, where.url, int(needed))
        answer = service.send(request)
    if finish is not None:
        finish(answer.get("result", {}), request.command.sha256)
    return show_outcome(out, answer, operation.op)


def show_outcome(out: Output, answer: dict[str, Any], op: str) -> int:
    """The result and where it stands in the log."""
    if out.as_json:
        out.json({"version": 1, **answer})
        return exits.OK
    entry = answer.get("entry", {})
    out.show(Text.assemble(("✓ ", "good"), op, ("  log entry ", "dim"), str(entry.get("index", "?"))))
    table = Table.grid(padding=(0, 2))
    table.add_column(style="key", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in answer.get("result", {}).items():
        if isinstance(value, str | int) and not isinstance(value, bool) and value != "" and len(str(value)) <= 200:
            shown = stamp(value) if name == "destroy_at" and isinstance(value, int) and value else str(value)
            table.add_row(Text(safe(str(name))), Text(safe(shown)))
    table.add_row("log", Text(safe(str(entry.get("origin", "")))))
    table.add_row("leaf", Text(safe(str(entry.get("leaf_sha256", "")))))
    out.show(table)
    return exits.OK


def new_draft(out: Output, path: Path, request: CommandRequest, url: str, needed: int) -> int:
    """Write a draft to a new file, and say how it goes on. Raises `LocalError` (`file-exists`, `file-unwritable`)."""
    from teehouse.keys.drafts import Draft

    if path.exists():  # signatures of others may be in it
        raise LocalError(f"{path} exists", code="file-exists", hint="a draft is never overwritten; choose another file")
    Draft(request, url).save(path)
    have = len(request.signatures)
    if out.as_json:
        out.json(
            {
                "version": 1,
                "draft": str(path),
                "tenant": request.command.tenant,
                "command_sha256": request.command.sha256,
                "signatures": have,
                "needed": needed,
                "expires_at": request.command.expires_at,
            }
        )
        return exits.OK
    out.show(Text.assemble(("✓ ", "good"), f"wrote {path}: {have} of {needed} signatures; nothing was sent"))
    out.show(Text.assemble(("tenant ", "dim"), request.command.tenant))
    out.show(Text(f"good until {stamp(request.command.expires_at)}", style="dim"))
    if have < needed:
        out.show(Text(f"others sign it with: teehouse keys approve {path} --admin FILE", style="hint"))
    out.show(Text(f"then one of you: teehouse keys send {path}", style="hint"))
    return exits.OK
