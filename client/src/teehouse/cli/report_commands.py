# SPDX-License-Identifier: Apache-2.0
"""`teehouse report parse|verify|compare`: what an auditor does with one report, offline (EVIDENCE §3 and §4)."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.text import Text

from teehouse.cli import exits
from teehouse.cli.offline import (
    At,
    PolicyFile,
    moment,
    policy_of,
    read_bytes,
    read_json,
    read_report,
    stamp,
    unhex,
    write_bytes,
)
from teehouse.cli.options import Json
from teehouse.cli.output import Output, safe
from teehouse.cli.verdicts import legend, print_verdict
from teehouse_core.appraise.policy import Policy
from teehouse_core.appraise.verdict import Verdict
from teehouse_core.errors import LocalError, MalformedError
from teehouse_core.evidence.parsed import differing_paths, parse_report

__all__ = ["compare", "dump", "parse", "verify"]

MAX_KEY = 64 * 1024  # bytes of a PEM key

Raw = Annotated[Path, typer.Argument(metavar="RAW", help="The raw report: base64, or the bundle's JSON.")]


def parse(
    raw: Raw,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="Write there instead of stdout.")
    ] = None,
    as_json: Json = False,
) -> int:
    """Show every field of a report, byte by byte, as JSON. Equal reports give equal files.

    Nothing is verified. Exit codes: 0 parsed, 30 malformed, 2 usage.
    """
    text = dump(parse_report(read_report(raw)))
    if output is not None:
        write_bytes(output, text.encode("utf-8"))
        Output(as_json=as_json).say(Text(f"wrote {output}", style="dim"))
    else:
        typer.echo(text, nl=False)
    return exits.OK


def verify(
    raw: Raw,
    policy: PolicyFile = "strict",
    at: At = None,
    nonce: Annotated[
        str | None, typer.Option("--nonce", metavar="HEX", help="The 32 bytes the evidence was asked with.")
    ] = None,
    endpoint: Annotated[
        str | None, typer.Option("--endpoint", "-e", metavar="EP", help="The endpoint it must be of.")
    ] = None,
    html: Annotated[
        Path | None, typer.Option("--html", metavar="FILE", help="Also write a page that reads and prints by itself.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="Also write the verdict as JSON.")
    ] = None,
    ear: Annotated[
        Path | None, typer.Option("--ear", metavar="FILE", help="Also write an EAR: signed with --sign-key, else JSON.")
    ] = None,
    sign_key: Annotated[
        Path | None, typer.Option("--sign-key", metavar="PEM", help="A P-256 key that signs the EAR (ES256).")
    ] = None,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Each check with what was claimed, expected, and the clause.")
    ] = False,
    as_json: Json = False,
) -> int:
    """Appraise a stored report: no network, no account, no settings.

    Without --nonce its age is unknown: it can be read, never sealed to.
    Exit codes: 0 accepted, 10 refused, 20 platform not supported, 30 malformed, 2 usage.
    """
    from teehouse_core.appraise.appraise import appraise

    if sign_key is not None and ear is None:
        raise LocalError("--sign-key is for --ear", code="usage", hint="name the file that gets the signed result")
    out = Output(as_json=as_json)
    asked, now, named = unhex(nonce, "--nonce"), moment(at), policy_of(policy)
    used = named if asked is not None else named.for_stored_report()
    data = read_report(raw)
    verdict = appraise(data, used, now, endpoint=endpoint, nonce=asked)
    document = verdict.to_json()
    if output is not None:
        write_bytes(output, dump(document).encode("utf-8"))
    if html is not None:
        from teehouse.cli.html_report import page

        subject = f"node {verdict.claims['node']} of {verdict.claims['endpoint']} ({raw.name})"
        text = page(document, subject=subject, policy=used, at=now, parsed=parse_report(data))
        write_bytes(html, text.encode("utf-8"))
    if ear is not None:
        write_bytes(ear, _ear(verdict, sign_key))
    if as_json:
        out.json(document)
    else:
        print_verdict(out.data, verdict, verbose=verbose)
        out.say(legend())
        _tell(out, verdict, used, now)
    if verdict.result == "accepted":
        return exits.OK
    return exits.REFUSED if verdict.supported else exits.UNSUPPORTED


def _ear(verdict: Verdict, sign_key: Path | None) -> bytes:
    from teehouse_core.appraise.ear import ear_of, sign_ear

    claims = ear_of(verdict)
    if sign_key is None:
        return dump(claims).encode("utf-8")
    return sign_ear(claims, read_bytes(sign_key, MAX_KEY)).encode("ascii") + b"\n"


def _tell(out: Output, verdict: Verdict, policy: Policy, now: int) -> None:
    if verdict.tier == "simulated":
        out.say(Text("SIMULATED evidence: no hardware protects anything", style="warn"))
    if verdict.evidence_time is None:
        out.say(Text("the age of this evidence is unknown: it can be read, not sealed to", style="warn"))
    told = f"appraised at {stamp(now)} under {safe(policy.name)}, sha256 {policy.digest[:16]}…"
    out.say(Text(told, style="dim"))


def compare(
    local: Annotated[Path, typer.Argument(metavar="LOCAL", help="The file made here.")],
    downloaded: Annotated[Path, typer.Argument(metavar="DOWNLOADED", help="The file to hold against it.")],
    as_json: Json = False,
) -> int:
    """Hold two parsed views, or two verdicts, against each other.

    Exit codes: 0 equal, 10 they differ (each path is named), 30 malformed, 2 usage.
    """
    out = Output(as_json=as_json)
    mine, theirs = read_json(local), read_json(downloaded)
    kinds = [_kind(mine), _kind(theirs)]
    if None in kinds or kinds[0] != kinds[1]:
        hint = "compare two results of `report parse`, or two of `report verify --json`"
        raise MalformedError("these are not two parsed views or two verdicts", code="not-comparable", hint=hint)
    paths = differing_paths(mine, theirs)
    if as_json:
        rows = [{"path": path, "local": a, "downloaded": b} for path, a, b in paths]
        out.json({"result": "differs" if paths else "equal", "kind": kinds[0], "differences": rows})
    elif not paths:
        digest = hashlib.sha256(json.dumps(mine, sort_keys=True).encode("utf-8")).hexdigest()
        out.show(Text.assemble(("✓ equal", "good"), f"  {kinds[0]}", (f"  content sha256 {digest[:16]}…", "dim")))
    else:
        out.show(Text.assemble(("✗ they differ", "bad"), f"  in {len(paths)} places of the {kinds[0]}"))
        for path, a, b in paths[:50]:
            out.show(
                Text.assemble(
                    ("  " + safe(path or "/"), "key"), f"\n    local       {safe(a)}\n    downloaded  {safe(b)}"
                )
            )
        if len(paths) > 50:
            out.show(Text(f"  and {len(paths) - 50} more; --json lists them", style="dim"))
        if kinds[0] == "verdict" and any(path in ("/at", "/policy") for path, _, _ in paths):
            out.say(Text("hint: recompute with --at and --policy of the downloaded verdict", style="hint"))
    return exits.REFUSED if paths else exits.OK


def _kind(value: Any) -> str | None:
    if value.get("v") == "parsed/1":
        return "parsed view"
    return "verdict" if {"result", "tier", "checks", "claims"} <= set(value) else None


def dump(value: Any) -> str:
    """JSON as the commands print it: indented, UTF-8, one newline at the end."""
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"
