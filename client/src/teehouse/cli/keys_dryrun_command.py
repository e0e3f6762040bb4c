# SPDX-License-Identifier: Apache-2.0
"""`teehouse keys dry-run`: which of today's nodes would receive a key, and why not; nothing is released or logged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.table import Table
from rich.text import Text

from teehouse.cli import exits
from teehouse.cli.check_titles import title_of
from teehouse.cli.keys_session import Admins, Context, KeysPolicy, Service, Tenant, choose
from teehouse.cli.offline import read_report, stamp
from teehouse.cli.options import Dir, Gateway, Json, load_settings
from teehouse.cli.output import Output, safe
from teehouse.cli.release_file import read_release
from teehouse_core.errors import LocalError, MalformedError

__all__ = ["dry_run"]

MAX_BUNDLES: Final = 64  # that the service takes in one call


def dry_run(
    ring: Annotated[str, typer.Argument(metavar="RING")],
    key: Annotated[str, typer.Argument(metavar="KEY")],
    endpoint: Annotated[
        str | None, typer.Option("--endpoint", "-e", metavar="EP", help="Ask the nodes of this endpoint for evidence.")
    ] = None,
    gateway: Gateway = None,
    bundle: Annotated[
        list[Path] | None,
        typer.Option("--bundle", metavar="FILE", help="A saved bundle of a node; may be given again."),
    ] = None,
    release: Annotated[
        Path | None,
        typer.Option("--release", metavar="FILE", help="Try this release policy.", show_default="the key's"),
    ] = None,
    service: Service = None,
    tenant: Tenant = None,
    admins: Admins = None,
    policy: KeysPolicy = None,
    directory: Dir = None,
    as_json: Json = False,
) -> int:
    """Which of today's nodes would receive a key, and why not. Nothing is released, and no log entry is made.

    Nodes: those of --endpoint, asked now through the gateway; or --bundle, as `teehouse verify --save` writes it; or
    else each node that asked for a key of yours since the service started, as of when it asked. Exit codes: 0 every
    node would receive it, 10 some would not, 30 malformed, 3 unreachable, 2 usage.
    """
    if endpoint is None and gateway is not None:
        raise LocalError("--gateway is for --endpoint", code="usage", hint="--endpoint ep-…")
    out = Output(as_json=as_json)
    where = choose(service, tenant, admins, policy)
    owner, signer = where.need_tenant(), where.signers()[0]
    text = read_release(release) if release is not None else b""
    bundles = [read_report(path) for path in bundle or []]
    with where.open() as opened:
        opened.accepted()  # before any node is asked on its behalf
        if endpoint is not None:
            bundles += _of_endpoint(endpoint, gateway, directory)
        if len(bundles) > MAX_BUNDLES:
            raise LocalError(f"at most {MAX_BUNDLES} bundles at a time", code="usage")
        asked = _question(opened.read_request(owner, signer.key).to_json(), ring, key, text, bundles)
        if text:  # the service would not look at the names
            Context(opened, owner, opened.read(owner, signer.key)).key(ring, key)
        answer = opened.post("/v1/dry-run", asked)
    results = _results(answer)
    if not results:
        hint = "--endpoint asks a gateway's nodes, --bundle takes saved evidence"
        raise LocalError("no node has asked this service for a key of yours yet", code="no-evidence", hint=hint)
    refused = sum(result.get("would_receive") is not True for result in results)
    if as_json:
        out.json({"version": 1, "ring": ring, "key": key, **answer})
    else:
        _show(out, answer, results, refused)
    return exits.REFUSED if refused else exits.OK


def _of_endpoint(endpoint: str, gateway: str | None, directory: Path | None) -> list[bytes]:
    """Fresh evidence of as many nodes as a gateway gives at once. What it is worth is the service's to say."""
    from teehouse.session.sync import Session
    from teehouse_core.wire.header import MAX_CANDIDATES

    settings = load_settings(
        base_url=gateway, directory=directory, candidates=MAX_CANDIDATES, policy="strict", collateral_state=False
    )
    with Session(settings) as session:
        nodes = [node.bundle for node in session.verify(endpoint, fresh=True) if node.pool is None]
    if not nodes:
        raise LocalError("the endpoint has no node with evidence of its own now", code="no-evidence")
    return nodes


def _question(read: Mapping[str, Any], ring: str, key: str, text: bytes, bundles: Sequence[bytes]) -> dict[str, Any]:
    from teehouse_core.wire.canonical import b64u

    named = {"policy": b64u(text)} if text else {"ring": ring, "key": key}
    given = {"bundles": [b64u(raw) for raw in bundles]} if bundles else {}
    return {"read": dict(read), **named, **given}


def _results(answer: Mapping[str, Any]) -> list[dict[str, Any]]:
    results = answer.get("results")
    if not isinstance(results, list) or not all(isinstance(one, dict) for one in results):
        raise MalformedError("the key service's answer is not understood", code="key-service-answer")
    return results


def _show(out: Output, answer: Mapping[str, Any], results: Sequence[Mapping[str, Any]], refused: int) -> None:
    digest = str(answer.get("policy_sha256", ""))[:16]
    out.show(Text.assemble(("policy ", "dim"), safe(str(answer.get("policy", ""))), (f"  {safe(digest)}…", "dim")))
    table = Table(box=None, pad_edge=False, header_style="dim")
    for column in ("node", "tier", "would receive it", "why not"):
        table.add_column(column, overflow="fold")
    for result in results:
        node = Text.assemble(safe(str(result.get("node", "?"))), (f"\n{safe(str(result.get('endpoint', '')))}", "dim"))
        yes = result.get("would_receive") is True
        mark = Text("✓ yes", style="good") if yes else Text("✗ no", style="bad")
        tier = safe(str(result.get("tier", "")))
        table.add_row(node, Text(tier, style="warn" if tier == "simulated" else ""), mark, _why(result))
    out.show(table)
    if answer.get("evidence") == "last-seen":
        oldest = min(int(result.get("at", 0)) for result in results)
        out.say(Text(f"judged as of when each node last asked, since {stamp(oldest)}", style="dim"))
    out.show(Text(f"{len(results) - refused} of {len(results)} nodes would receive it"))


def _why(result: Mapping[str, Any]) -> Text:
    lines = Text()
    for check in result.get("failed_checks", []):
        if lines:
            lines.append("\n")
        identity, hint = safe(str(check.get("id", ""))), safe(str(check.get("hint") or ""))
        lines.append(title_of(identity)).append(f" [{identity}]", style="dim")
        if hint:
            lines.append(f"\n{hint}", style="hint")
    return lines
