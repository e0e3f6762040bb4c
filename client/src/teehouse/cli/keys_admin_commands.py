# SPDX-License-Identifier: Apache-2.0
"""`teehouse keys admin …`, `tenant …`, `ring …`, `approve`, `send`: who commands, and how several agree."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from teehouse.cli import exits
from teehouse.cli.keys_session import (
    DRAFT_LIFE,
    PASSPHRASE,
    Admins,
    Context,
    DraftFile,
    KeysPolicy,
    Life,
    Service,
    Tenant,
    carry_out,
    choose,
    load_admins,
    new_draft,
    show_outcome,
)
from teehouse.cli.offline import stamp
from teehouse.cli.options import Json
from teehouse.cli.output import Output
from teehouse.keys.errors import KeyServiceError
from teehouse_core.errors import LocalError, MalformedError, RefusedError

if TYPE_CHECKING:
    from teehouse.keys.admin import Admin
    from teehouse_core.wire.commands import AdminSet

__all__ = ["admin_new", "admin_show", "approve", "ring_admins", "ring_create", "send", "tenant_admins", "tenant_create"]

With = Annotated[
    list[str] | None,
    typer.Option("--with", metavar="PUBLIC", help="Another admin's public key (th-admin-…); may be given again."),
]
Threshold = Annotated[int, typer.Option("--threshold", metavar="M", min=1, max=16, help="How many must sign.")]
Label = Annotated[list[str] | None, typer.Option("--label", metavar="NAME=TEXT", help="A note; may be given again.")]
KeyFile = Annotated[Path, typer.Argument(metavar="FILE", help="The admin key's file.")]
_DRAFT_HINTS = {
    "unknown-tenant": "no such tenant, or no signature in the draft holds: was it changed after it was signed?",
    "not-enough-signatures": "`teehouse keys approve` adds one; those made before the draft was changed do not count",
    "unknown-keyset": "the service has other keys by now: write the draft again",
    "wrong-seq": "another command was taken before this one: write the draft again",
}
DraftArgument = Annotated[Path, typer.Argument(metavar="FILE", help="A draft, from --draft.")]


def admin_new(
    path: KeyFile,
    name: Annotated[str, typer.Option("--name", metavar="NAME", help="Whose key it is, for logs you can read.")] = "",
    as_json: Json = False,
) -> int:
    """Make an admin key on this machine (0600). Its public half is printed; the private half never leaves the file.

    With TEEHOUSE_ADMIN_PASSPHRASE set, the file is encrypted.
    """
    from teehouse.keys.admin import admin_of, create_admin_key, format_admin

    out = Output(as_json=as_json)
    secret = os.environ.get(PASSPHRASE)
    admin = admin_of(create_admin_key(path.expanduser(), passphrase=secret, name=name), name)
    return _show_admin(out, path, format_admin(admin), admin.kid, encrypted=bool(secret))


def admin_show(path: KeyFile, as_json: Json = False) -> int:
    """Print an admin key's public half."""
    from teehouse.keys.admin import format_admin

    out = Output(as_json=as_json)
    admin = load_admins((path,))[0].public
    return _show_admin(out, path, format_admin(admin), admin.kid, encrypted=None)


def _show_admin(out: Output, path: Path, public: str, kid: str, *, encrypted: bool | None) -> int:
    if out.as_json:
        out.json({"version": 1, "file": str(path), "public": public, "kid": kid})
        return exits.OK
    out.data.print(Text(public), soft_wrap=True)
    out.say(Text(f"kid {kid}", style="dim"))
    if encrypted is False:
        out.say(Text(f"no passphrase protects {path}: set {PASSPHRASE} before making it, if one should", style="dim"))
    return exits.OK


def tenant_create(
    admins: Admins = None,
    others: With = None,
    threshold: Threshold = 1,
    label: Label = None,
    service: Service = None,
    policy: KeysPolicy = None,
    draft: DraftFile = None,
    life: Life = DRAFT_LIFE,
    as_json: Json = False,
) -> int:
    """Make a tenant that these admins command: M of them for each change. The id follows from the arguments."""
    from teehouse.keys.operations import create_tenant, parse_labels
    from teehouse.keys.service import COMMAND_LIFE
    from teehouse_core.seal.commands import sign_command
    from teehouse_core.wire.commands import Command, CommandRequest

    out = Output(as_json=as_json)
    where = choose(service, "", admins, policy)
    signers = where.signers()
    operation = create_tenant(_admin_set(signers, others, threshold), parse_labels(label or []))
    with where.open() as opened:
        raw = opened.command(
            operation.tenant, "", 1, operation.op, operation.args, life=life if draft else COMMAND_LIFE
        )
        request = CommandRequest(Command.parse(raw), tuple(sign_command(raw, one.key) for one in signers))
        if draft is not None:
            return new_draft(out, draft, request, where.url, threshold)
        answer = opened.send(request)
    return show_outcome(out, answer, operation.op)


def tenant_admins(
    others: With = None,
    threshold: Threshold = 1,
    keep: Annotated[bool, typer.Option("--keep/--drop", help="Keep the signing admins in the set.")] = True,
    service: Service = None,
    tenant: Tenant = None,
    admins: Admins = None,
    policy: KeysPolicy = None,
    draft: DraftFile = None,
    life: Life = DRAFT_LIFE,
    as_json: Json = False,
) -> int:
    """Set who commands the tenant; M of the present admins must agree."""
    return _set_admins("", others, threshold, keep, (service, tenant, admins, policy), draft, life, as_json)


def ring_admins(
    ring: Annotated[str, typer.Argument(metavar="RING")],
    others: With = None,
    threshold: Threshold = 1,
    keep: Annotated[bool, typer.Option("--keep/--drop", help="Keep the signing admins in the set.")] = True,
    service: Service = None,
    tenant: Tenant = None,
    admins: Admins = None,
    policy: KeysPolicy = None,
    draft: DraftFile = None,
    life: Life = DRAFT_LIFE,
    as_json: Json = False,
) -> int:
    """Set who commands a ring; M of its present admins must agree."""
    return _set_admins(ring, others, threshold, keep, (service, tenant, admins, policy), draft, life, as_json)


def _set_admins(
    ring: str,
    others: list[str] | None,
    threshold: int,
    keep: bool,
    given: tuple[str | None, str | None, list[Path] | None, str | None],
    draft: Path | None,
    life: int,
    as_json: bool,
) -> int:
    from teehouse.keys.operations import set_admins

    where = choose(*given)
    admins = _admin_set(where.signers() if keep else [], others, threshold)
    return carry_out(where, lambda _: set_admins(ring, admins), Output(as_json=as_json), draft=draft, life=life)


def ring_create(
    ring: Annotated[str, typer.Argument(metavar="RING", help="Its name.")],
    usage: Annotated[
        str, typer.Option("--usage", metavar="USAGE", help="session, model-encryption or data.")
    ] = "session",
    others: With = None,
    threshold: Threshold = 1,
    label: Label = None,
    service: Service = None,
    tenant: Tenant = None,
    admins: Admins = None,
    policy: KeysPolicy = None,
    draft: DraftFile = None,
    life: Life = DRAFT_LIFE,
    as_json: Json = False,
) -> int:
    """Make a ring of keys of one usage, with the admins who command it from then on."""
    from teehouse.keys.operations import Operation, create_ring, parse_labels

    where = choose(service, tenant, admins, policy)
    labels = parse_labels(label or [])

    def build(context: Context) -> Operation:
        if others is None and threshold == 1:  # as the tenant itself
            from teehouse_core.wire.commands import AdminSet
            from teehouse_core.wire.fields import Fields

            return create_ring(ring, usage, AdminSet.read(Fields(context.state["admins"], "admins")), labels)
        return create_ring(ring, usage, _admin_set(where.signers(), others, threshold), labels)

    return carry_out(where, build, Output(as_json=as_json), draft=draft, life=life)


def approve(
    path: DraftArgument,
    admins: Admins = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: Json = False,
) -> int:
    """Read what a draft would do, and add your signature to it."""
    from teehouse.keys.drafts import Draft

    out = Output(as_json=as_json)
    draft, signers = Draft.load(path), load_admins(tuple(admins or ()))
    command = draft.request.command
    if command.expires_at < time.time():
        hint = f"it was good until {stamp(command.expires_at)}: write it again"
        raise RefusedError("the draft has expired", code="expired", hint=hint)
    if not as_json:
        _show_command(out, command, draft)
    if not yes and (as_json or not typer.confirm("Sign this?", err=True)):
        raise LocalError("nothing was signed", code="not-approved", hint="--yes signs without asking")
    for admin in signers:
        draft = draft.sign(admin.key)
    draft.save(path)
    if as_json:
        said = {"draft": str(path), "command_sha256": command.sha256, "signatures": len(draft.request.signatures)}
        out.json({"version": 1, **said})
    else:
        out.show(Text.assemble(("✓ ", "good"), f"signed; {len(draft.request.signatures)} signatures in {path}"))
    return exits.OK


def send(path: DraftArgument, service: Service = None, policy: KeysPolicy = None, as_json: Json = False) -> int:
    """Send a draft to the key service, after appraising it. It says how many signatures are missing."""
    from teehouse.keys.drafts import Draft

    out = Output(as_json=as_json)
    draft = Draft.load(path)
    where = choose(service or draft.service or None, "", [], policy)
    with where.open() as opened:
        opened.accepted()
        try:
            answer = opened.send(draft.request)
        except KeyServiceError as error:
            if error.code in _DRAFT_HINTS:
                error.hint = _DRAFT_HINTS[error.code]
            raise
    return show_outcome(out, answer, draft.request.command.op)


def _show_command(out: Output, command: Any, draft: Any) -> None:
    out.show(Text.assemble(("command ", "dim"), command.op, ("  tenant ", "dim"), command.tenant))
    if command.ring:
        out.show(Text.assemble(("ring    ", "dim"), command.ring))
    out.show(Text.assemble(("digest  ", "dim"), command.sha256))
    out.show(Text.assemble(("expires ", "dim"), stamp(command.expires_at)))
    # as text: what somebody else wrote must not be read as markup, which could hide it
    out.data.print(Text(json.dumps(_readable(command.args), indent=2, ensure_ascii=True)), soft_wrap=True)
    signed = ", ".join(one.kid for one in draft.request.signatures) or "nobody"
    out.show(Text.assemble(("signed  ", "dim"), signed))


def _readable(args: Any) -> Any:
    """Arguments as a person can judge them: a release policy and labels as text, not as base64."""
    from teehouse_core.wire.canonical import unb64u

    shown = dict(args)
    try:
        if shown.get("policy"):
            shown["policy"] = json.loads(unb64u(shown["policy"]))
        if shown.get("labels"):
            shown["labels"] = {name: unb64u(text).decode() for name, text in shown["labels"].items()}
    except (MalformedError, ValueError, TypeError, AttributeError):  # as it came then; the service judges it
        return dict(args)
    return shown


def _admin_set(signers: list[Admin], others: list[str] | None, threshold: int) -> AdminSet:
    from teehouse.keys.admin import parse_admin
    from teehouse_core.wire.commands import AdminSet

    admins = {admin.pk: admin for admin in [*(one.public for one in signers), *map(parse_admin, others or [])]}
    if not threshold <= len(admins):
        raise LocalError(
            f"{threshold} of {len(admins)} admins cannot be", code="usage", hint="name more with --with, or lower M"
        )
    return AdminSet(threshold, tuple(admins.values()))
