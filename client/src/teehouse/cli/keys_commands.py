# SPDX-License-Identifier: Apache-2.0
"""`teehouse keys show|create|import|rotate|policy|disable|enable|destroy|cancel-destroy|export|pool`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.table import Table
from rich.text import Text

from teehouse.cli import exits
from teehouse.cli.keys_session import (
    DRAFT_LIFE,
    Admins,
    Context,
    DraftFile,
    KeysPolicy,
    Life,
    Service,
    Tenant,
    carry_out,
    choose,
)
from teehouse.cli.offline import read_bytes, stamp, write_bytes
from teehouse.cli.options import Json
from teehouse.cli.output import Output, safe
from teehouse.cli.release_file import MAX_POLICY_FILE, read_release
from teehouse_core.errors import LocalError, MalformedError

__all__ = [
    "cancel_destroy",
    "create",
    "destroy",
    "disable",
    "enable",
    "export",
    "import_",
    "policy_new",
    "policy_set",
    "policy_show",
    "pool_create",
    "pool_delete",
    "rotate",
    "show",
]

MAX_KEY_FILE: Final = 16 * 1024  # bytes
SUITE: Final = "mlkem768x25519-hkdfsha256-aes256gcm"

Ring = Annotated[str, typer.Argument(metavar="RING")]
Key = Annotated[str, typer.Argument(metavar="KEY")]
Algorithm = Annotated[
    str, typer.Option("--algorithm", metavar="NAME", help="mlkem768x25519, p256, rsa4096, aes256 or aes128.")
]
Release = Annotated[
    Path | None,
    typer.Option("--release", metavar="FILE", help="Who gets it: a release policy. Without one: nobody."),
]
Label = Annotated[list[str] | None, typer.Option("--label", metavar="NAME=TEXT", help="A note; may be given again.")]
Exportable = Annotated[bool, typer.Option("--exportable", help="Its admins may export it. Cannot be changed later.")]


def show(
    service: Service = None,
    tenant: Tenant = None,
    admins: Admins = None,
    policy: KeysPolicy = None,
    as_json: Json = False,
) -> int:
    """Show your tenant: rings, keys, versions, pools. Only one of its admins can."""
    out = Output(as_json=as_json)
    where = choose(service, tenant, admins, policy)
    tenant_of, signer = where.need_tenant(), where.signers()[0]
    with where.open() as opened:
        state = opened.read(tenant_of, signer.key)
    if as_json:
        out.json({"version": 1, **state})
        return exits.OK
    threshold = state.get("admins", {}).get("threshold", 0)
    people = [safe(a.get("name") or a.get("kid", "")[:8]) for a in state.get("admins", {}).get("keys", [])]
    out.show(Text.assemble(("tenant ", "dim"), safe(str(state.get("tenant", "")))))
    out.show(Text(f"{threshold} of {len(people)} admins command it: {', '.join(people)}", style="dim"))
    table = Table(box=None, pad_edge=False, header_style="dim")
    for column in ("ring", "key", "algorithm", "state", "versions", "policy"):
        table.add_column(column, overflow="fold")
    for ring in state.get("rings", []):
        name = Text.assemble(safe(ring["id"]), (f"  {safe(ring['usage'])}", "dim"))
        if not ring.get("keys"):
            table.add_row(name, Text("no keys", style="dim"), "", "", "", "")
        for key in ring.get("keys", []):
            table.add_row(name, *_key_row(key))
            name = Text("")
    out.show(table)
    for pool in state.get("pools", []):
        out.show(Text(f"pool {safe(pool['endpoint'])}: {safe(pool['ring'])}/{safe(pool['key'])}"))
    return exits.OK


def _key_row(key: dict[str, Any]) -> tuple[str, str, Text, str, str]:
    state = str(key.get("state", ""))
    if key.get("destroy_at"):
        state += f" (ends {stamp(int(key['destroy_at']))})"
    style = {"active": "good", "rotating": "good"}.get(str(key.get("state")), "warn")
    living = [str(v["number"]) for v in key.get("versions", []) if not v.get("destroyed")]
    return (
        safe(str(key["id"])),
        safe(str(key["algorithm"])),
        Text(safe(state), style=style),
        ", ".join(living),
        safe(str(key.get("policy_sha256", "")))[:16],
    )


def create(
    ring: Ring,
    key: Key,
    algorithm: Algorithm = "mlkem768x25519",
    release: Release = None,
    exportable: Exportable = False,
    label: Label = None,
    service: Service = None,
    tenant: Tenant = None,
    admins: Admins = None,
    policy: KeysPolicy = None,
    draft: DraftFile = None,
    life: Life = DRAFT_LIFE,
    as_json: Json = False,
) -> int:
    """Make a key inside the service."""
    from teehouse.keys.operations import create_key, parse_labels

    text, labels = read_release(release) if release else b"", parse_labels(label or [])
    return carry_out(
        choose(service, tenant, admins, policy),
        lambda _: create_key(ring, key, algorithm, text, exportable=exportable, labels=labels),
        Output(as_json=as_json),
        draft=draft,
        life=life,
    )


def import_(
    ring: Ring,
    key: Key,
    file: Annotated[Path, typer.Option("--file", metavar="FILE", help="The key: raw AES bytes, or PKCS#8.")],
    algorithm: Algorithm = "aes256",
    release: Release = None,
    exportable: Exportable = False,
    label: Label = None,
    service: Service = None,
    tenant: Tenant = None,
    admins: Admins = None,
    policy: KeysPolicy = None,
    draft: DraftFile = None,
    life: Life = DRAFT_LIFE,
    as_json: Json = False,
) -> int:
    """Bring a key of your own, sealed to the service that was appraised here."""
    from teehouse.keys.material import read_material
    from teehouse.keys.operations import Operation, Sealing, import_key, parse_labels

    text, labels = read_release(release) if release else b"", parse_labels(label or [])
    data, public = read_material(algorithm, read_bytes(file, MAX_KEY_FILE))

    def build(context: Context) -> Operation:
        sealing = Sealing(context.service.sealing_key(), context.tenant, data, public)
        return import_key(ring, key, algorithm, text, sealing, exportable=exportable, labels=labels)

    where = choose(service, tenant, admins, policy)
    return carry_out(where, build, Output(as_json=as_json), draft=draft, life=life)


def rotate(
    ring: Ring,
    key: Key,
    overlap: Annotated[
        int, typer.Option("--overlap", metavar="SECONDS", min=0, help="How long the old version still opens.")
    ] = 86400,
    keep_old: Annotated[
        bool, typer.Option("--keep-old", help="The old version opens as long as the key lives.")
    ] = False,
    file: Annotated[
        Path | None, typer.Option("--file", metavar="FILE", help="The next version of an imported key.")
    ] = None,
    service: Service = None,
    tenant: Tenant = None,
    admins: Admins = None,
    policy: KeysPolicy = None,
    draft: DraftFile = None,
    life: Life = DRAFT_LIFE,
    as_json: Json = False,
) -> int:
    """Make the next version of a key; the old one still opens for a while."""
    from teehouse.keys.material import read_material
    from teehouse.keys.operations import Operation, Sealing, rotate_key

    given = read_bytes(file, MAX_KEY_FILE) if file is not None else None

    def build(context: Context) -> Operation:
        algorithm = str(context.key(ring, key).get("algorithm", ""))
        sealing = None
        if given is not None:
            data, public = read_material(algorithm, given)
            sealing = Sealing(context.service.sealing_key(), context.tenant, data, public)
        return rotate_key(ring, key, overlap_seconds=overlap, keep_old=keep_old, algorithm=algorithm, sealing=sealing)

    where = choose(service, tenant, admins, policy)
    return carry_out(where, build, Output(as_json=as_json), draft=draft, life=life)


def policy_new(
    output: Annotated[Path, typer.Argument(metavar="FILE", help="Where to write it.")],
    appraisal: Annotated[
        str,
        typer.Option("--appraisal", metavar="POLICY", help="strict, standard, evaluate, or a policy file."),
    ] = "strict",
    endpoint: Annotated[
        list[str] | None,
        typer.Option("--endpoint", "-e", metavar="EP", help="Whose nodes may get it; * is any. May be given again."),
    ] = None,
    name: Annotated[str, typer.Option("--name", metavar="NAME", help="Its id.")] = "release",
    grant: Annotated[int, typer.Option("--grant", metavar="SECONDS", min=1, help="How long a grant lasts.")] = 900,
    as_json: Json = False,
) -> int:
    """Write a release policy: which evidence gets a key. Its digest stands in every grant and log entry."""
    from teehouse.cli.offline import policy_of
    from teehouse_core.appraise.release_policy import ReleasePolicy

    out = Output(as_json=as_json)
    if not name:
        raise LocalError("a release policy has a name", code="release-policy", hint="--name")
    made = ReleasePolicy(id=name, appraisal=policy_of(appraisal), endpoints=tuple(endpoint or ()), grant_seconds=grant)
    try:
        raw = made.encode()
        ReleasePolicy.parse(raw)
    except MalformedError as error:
        raise LocalError(error.message, code="release-policy", hint="--endpoint ep-… or '*', --name a word") from None
    if len(raw) > MAX_POLICY_FILE:
        raise LocalError(f"a release policy has at most {MAX_POLICY_FILE} bytes", code="release-policy")
    write_bytes(output, raw)
    if as_json:
        out.json({"version": 1, "file": str(output), "policy_sha256": made.sha256})
    else:
        out.show(Text.assemble(("✓ ", "good"), f"wrote {output}  ", (made.sha256, "dim")))
        if not endpoint:
            out.say(Text("it names no endpoint, so nobody gets a key under it: --endpoint", style="warn"))
    return exits.OK


def policy_show(
    ring: Ring,
    key: Key,
    output: Annotated[Path | None, typer.Option("--output", "-o", metavar="FILE", help="Write its text there.")] = None,
    service: Service = None,
    tenant: Tenant = None,
    admins: Admins = None,
    policy: KeysPolicy = None,
    as_json: Json = False,
) -> int:
    """Show a key's release policy, byte for byte as its digest is over."""
    from teehouse_core.wire.canonical import unb64u

    out = Output(as_json=as_json)
    where = choose(service, tenant, admins, policy)
    tenant_of, signer = where.need_tenant(), where.signers()[0]
    with where.open() as opened:
        found = Context(opened, tenant_of, opened.read(tenant_of, signer.key)).key(ring, key)
    raw = unb64u(str(found.get("policy", "")))
    if output is not None:
        write_bytes(output, raw)
    if as_json:
        out.json({"version": 1, "policy_sha256": found.get("policy_sha256"), "policy": raw.decode("ascii", "replace")})
    elif output is None:
        out.data.print(Text(safe(raw.decode("ascii", "replace"))), soft_wrap=True)
    return exits.OK


def policy_set(
    ring: Ring,
    key: Key,
    release: Annotated[Path, typer.Argument(metavar="FILE", help="A release policy, from `policy new`.")],
    service: Service = None,
    tenant: Tenant = None,
    admins: Admins = None,
    policy: KeysPolicy = None,
    draft: DraftFile = None,
    life: Life = DRAFT_LIFE,
    as_json: Json = False,
) -> int:
    """Give a key another release policy. A session key also gets a new version."""
    from teehouse.keys.operations import set_policy

    text = read_release(release)
    where = choose(service, tenant, admins, policy)
    build = lambda _: set_policy(ring, key, text)  # noqa: E731
    return carry_out(where, build, Output(as_json=as_json), draft=draft, life=life)


def _on_key(op: str, summary: str) -> Any:
    def command(
        ring: Ring,
        key: Key,
        service: Service = None,
        tenant: Tenant = None,
        admins: Admins = None,
        policy: KeysPolicy = None,
        draft: DraftFile = None,
        life: Life = DRAFT_LIFE,
        as_json: Json = False,
    ) -> int:
        from teehouse.keys.operations import on_key

        where = choose(service, tenant, admins, policy)
        out = Output(as_json=as_json)
        return carry_out(where, lambda _: on_key(op, ring, key), out, draft=draft, life=life)

    command.__doc__ = summary
    return command


disable = _on_key("key.disable", "Stop every release of a key, until it is enabled again.")
enable = _on_key("key.enable", "Allow releases of a disabled key again.")
cancel_destroy = _on_key("key.cancel-destroy", "Keep a key that was to be destroyed; it is disabled then.")


def destroy(
    ring: Ring,
    key: Key,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for the key's name.")] = False,
    service: Service = None,
    tenant: Tenant = None,
    admins: Admins = None,
    policy: KeysPolicy = None,
    draft: DraftFile = None,
    life: Life = DRAFT_LIFE,
    as_json: Json = False,
) -> int:
    """Schedule a key's end: no release from now on, its bytes are gone after 7 days of grace."""
    from teehouse.keys.operations import on_key

    if not yes:
        if as_json:
            raise LocalError("nothing was done", code="not-approved", hint="--yes does not ask")
        typed = typer.prompt(f"Whatever is sealed under {key} will stay closed. Type its name to go on", err=True)
        if typed != key:
            raise LocalError("nothing was done", code="not-approved", hint="the name did not match")
    where = choose(service, tenant, admins, policy)
    out = Output(as_json=as_json)
    return carry_out(where, lambda _: on_key("key.destroy", ring, key), out, draft=draft, life=life)


def export(
    ring: Ring,
    key: Key,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="Gets the key (0600).")],
    version: Annotated[int, typer.Option("--version", metavar="N", min=0, help="0 is the newest.")] = 0,
    service: Service = None,
    tenant: Tenant = None,
    admins: Admins = None,
    policy: KeysPolicy = None,
    as_json: Json = False,
) -> int:
    """Get an exportable key, sealed to a key made for this one answer, opened here."""
    from teehouse.keys.operations import Operation, export_key
    from teehouse_core.seal.commands import open_export
    from teehouse_core.seal.suite import generate_key
    from teehouse_core.wire.canonical import unb64u

    once = generate_key(SUITE)
    where = choose(service, tenant, admins, policy)
    output = output.expanduser()

    def build(_: Context) -> Operation:
        return export_key(ring, key, version, SUITE, once.pk)

    def finish(result: dict[str, Any], digest: str) -> None:
        sealed = result.pop("sealed", None)
        if not isinstance(sealed, str):
            raise MalformedError("the key service's answer holds no key", code="key-service-answer")
        clear = open_export(once, unb64u(sealed), digest)
        _fill_secret(output, clear)
        result["file"] = str(output)

    _reserve_secret(output)  # before the entry is made: a key that no disk takes would be logged as exported
    try:
        return carry_out(where, build, Output(as_json=as_json), finish=finish)
    except BaseException:
        output.unlink(missing_ok=True)
        raise


def pool_create(
    ring: Ring,
    key: Key,
    endpoint: Annotated[str, typer.Option("--endpoint", "-e", metavar="EP", help="The endpoint it serves.")],
    active: Annotated[int, typer.Option("--active", metavar="SECONDS", help="Length of an epoch, at most 900.")] = 900,
    overlap: Annotated[
        int, typer.Option("--overlap", metavar="SECONDS", help="How long an old epoch still opens, at most 600.")
    ] = 600,
    model: Annotated[
        str, typer.Option("--model", metavar="NAME", help="The model's name, for people.", show_default="the key's")
    ] = "",
    service: Service = None,
    tenant: Tenant = None,
    admins: Admins = None,
    policy: KeysPolicy = None,
    draft: DraftFile = None,
    life: Life = DRAFT_LIFE,
    as_json: Json = False,
) -> int:
    """Let nodes that satisfy the key's policy share it for an endpoint: any of them can read every request.

    For endpoints that scale to zero, or have more nodes than a request has candidates. No forward secrecy in an epoch.
    What the pool claims of weights, software and capabilities is what the key's release policy ensures for every node.
    """
    from teehouse.keys.operations import Operation, create_pool
    from teehouse_core.appraise.checks_pool import pool_claims
    from teehouse_core.appraise.release_policy import ReleasePolicy
    from teehouse_core.wire.canonical import unb64u

    def build(context: Context) -> Operation:
        found = context.key(ring, key)
        release = ReleasePolicy.parse(unb64u(str(found.get("policy", ""))), complete=False)
        try:
            weights, software, capabilities = pool_claims(release.appraisal, model or key)
        except MalformedError as error:
            hint = "`policy new` with an --appraisal that pins them, then `policy set`"
            raise LocalError(error.message, code="pool-claims", hint=hint) from None
        return create_pool(
            ring,
            key,
            endpoint,
            active_seconds=active,
            overlap_seconds=overlap,
            model=weights,
            software=software,
            capabilities=capabilities,
        )

    where = choose(service, tenant, admins, policy)
    return carry_out(where, build, Output(as_json=as_json), draft=draft, life=life)


def pool_delete(
    ring: Ring,
    endpoint: Annotated[str, typer.Option("--endpoint", "-e", metavar="EP", help="The endpoint it serves.")],
    service: Service = None,
    tenant: Tenant = None,
    admins: Admins = None,
    policy: KeysPolicy = None,
    draft: DraftFile = None,
    life: Life = DRAFT_LIFE,
    as_json: Json = False,
) -> int:
    """End a pool: no new epoch, no more releases for it."""
    from teehouse.keys.operations import delete_pool

    where = choose(service, tenant, admins, policy)
    return carry_out(where, lambda _: delete_pool(ring, endpoint), Output(as_json=as_json), draft=draft, life=life)


def _reserve_secret(path: Path) -> None:
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    except FileExistsError:
        raise LocalError(f"{path} exists", code="file-exists", hint="a key file is never overwritten") from None
    except OSError as error:
        raise LocalError(f"cannot write {path}: {error.strerror}", code="file-unwritable") from None


def _fill_secret(path: Path, data: bytes) -> None:
    try:
        with path.open("r+b") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise LocalError(f"cannot write {path}: {error.strerror}", code="file-unwritable") from None
