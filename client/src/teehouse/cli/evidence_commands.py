# SPDX-License-Identifier: Apache-2.0
"""`teehouse evidence verify|show`: one vendor artifact that Teehouse did not make, offline (EVIDENCE §4)."""

from __future__ import annotations

import binascii
from collections.abc import Mapping
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Final, cast

import typer
from rich.text import Text
from rich.tree import Tree

from teehouse.cli import exits
from teehouse.cli.offline import (
    At,
    PolicyFile,
    moment,
    policy_of,
    read_bytes,
    read_files,
    stamp,
    unhex,
    write_bytes,
)
from teehouse.cli.options import Json
from teehouse.cli.output import Output, safe, simulated_badge
from teehouse.cli.verdicts import MARKS, checks_grid, failures, legend, verbose_checks
from teehouse_core.appraise.artifacts.base import ArtifactVerdict
from teehouse_core.appraise.verdict import Verdict
from teehouse_core.errors import LocalError, MalformedError
from teehouse_core.evidence.bundle import MAX_BUNDLE

__all__ = ["ArtifactType", "show", "verify"]

MAX_CHAIN: Final = 1024 * 1024  # bytes of a chain's PEM or DER
MAX_LINES: Final = 5000  # fields that `show` prints; --json has all

File = Annotated[Path, typer.Argument(metavar="FILE", help="The artifact as the vendor's tools give it.")]


class ArtifactType(StrEnum):
    """What `--type` takes."""

    TDX_QUOTE = "tdx-quote"
    SNP_REPORT = "snp-report"
    NVIDIA_GPU = "nvidia-gpu"
    NVIDIA_NVSWITCH = "nvidia-nvswitch"
    TPM_QUOTE = "tpm-quote"
    AZ_VTPM = "az-vtpm"
    EVENT_LOG = "event-log"
    RIM = "rim"


def verify(
    file: File,
    kind: Annotated[ArtifactType, typer.Option("--type", "-t", help="What it is.")],
    collateral: Annotated[
        Path | None,
        typer.Option("--collateral", "-c", metavar="PATH", help="A pack, a folder or a file of endorsements."),
    ] = None,
    chain: Annotated[
        Path | None, typer.Option("--chain", metavar="FILE", help="Its certificates, PEM or DER, leaf first.")
    ] = None,
    nonce: Annotated[str | None, typer.Option("--nonce", metavar="HEX", help="The nonce it must answer.")] = None,
    report_data: Annotated[
        str | None, typer.Option("--report-data", metavar="HEX", help="The report data it must hold.")
    ] = None,
    policy: PolicyFile = "standard",
    at: At = None,
    state: Annotated[
        Path | None,
        typer.Option("--state", metavar="FILE", help="Remember the newest collateral in FILE; older one then refuses."),
    ] = None,
    no_state: Annotated[
        bool, typer.Option("--no-state", help="Remember nothing: the verdict depends on the arguments alone. [default]")
    ] = False,
    html: Annotated[
        Path | None, typer.Option("--html", metavar="FILE", help="Also write a page that reads and prints by itself.")
    ] = None,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Each check with what was claimed, expected, and the clause.")
    ] = False,
    as_json: Json = False,
) -> int:
    """Appraise one quote, report, log or manifest: no network, no account, no settings.

    Without --nonce or --report-data freshness is not judged; reference values count where the policy lists some.
    Exit codes: 0 accepted, 10 refused, 20 not supported, 30 malformed, 2 usage.
    """
    from teehouse.verify.remembered import Remembered
    from teehouse_core.appraise.artifacts.dispatch import artifact_policy
    from teehouse_core.appraise.artifacts.dispatch import verify as verify_artifact
    from teehouse_core.evidence.detect import detect

    out = Output(as_json=as_json)
    asked, data = unhex(nonce, "--nonce"), unhex(report_data, "--report-data")
    used = artifact_policy(policy_of(policy), fresh=asked is not None or data is not None)
    now = moment(at)
    if state is not None and no_state:
        raise LocalError("--state and --no-state exclude each other", code="usage")
    remembered = Remembered(state) if state is not None else None
    raw = _decode(read_bytes(file, MAX_BUNDLE), kind.value)
    appraise = partial(
        verify_artifact,
        kind.value,
        raw,
        chain=read_bytes(chain, MAX_CHAIN) if chain is not None else None,
        collateral=read_files(collateral) if collateral is not None else None,
        nonce=asked,
        report_data=data,
        policy=used,
        now=now,
        newest=remembered.known() if remembered is not None else None,
    )
    try:
        verdict = appraise()
    except MalformedError as error:
        if (seen := detect(raw)) in set(ArtifactType) - {kind}:
            hint = f"it looks like {seen}: give --type {seen}"
            raise MalformedError(error.message, code=error.code, hint=hint) from None
        raise
    if remembered is not None:
        remembered.learn([verdict])
        if not remembered.written:
            raise LocalError(f"cannot write {state}", code="file-unwritable")
    document = verdict.to_json()
    if html is not None:
        from teehouse.cli.html_report import page

        text = page(document, subject=f"{kind.value} {file.name}", policy=used, at=now, parsed=_parsed(raw, kind.value))
        write_bytes(html, text.encode("utf-8"))
    if as_json:
        out.json(document)
    else:
        _print(out, verdict, f"{kind.value} {file.name}", verbose=verbose)
        told = f"appraised at {stamp(now)} under {safe(used.name)}, sha256 {used.digest[:16]}…"
        out.say(Text(told, style="dim"))
    return {"accepted": exits.OK, "refused": exits.REFUSED}.get(verdict.result, exits.UNSUPPORTED)


def show(file: File, as_json: Json = False) -> int:
    """Show every field of an artifact, a report or a certificate with its byte range; what it is is found out.

    Nothing is verified. Exit codes: 0 shown, 20 not a kind known here, 30 malformed, 2 usage.
    """
    from teehouse_core.evidence.detect import detect
    from teehouse_core.evidence.parsed import parse_artifact

    out = Output(as_json=as_json)
    raw = read_bytes(file, MAX_BUNDLE)
    kind = detect(raw)
    if kind is None:
        raw = _decode(raw, "")
        kind = detect(raw)
    if kind is None:
        return _unknown(out, "this is none of the artifacts that are known here")
    try:
        document = parse_artifact(raw, kind)
    except LocalError as error:
        return _unknown(out, error.message, error.hint)
    if as_json:
        out.json(document)
    else:
        left = [MAX_LINES]
        out.data.print(_tree(document, left), soft_wrap=True, crop=False)
        if left[0] < 0:
            out.say(Text(f"{-left[0]} more fields; --json lists them all", style="dim"))
    return exits.OK


def _unknown(out: Output, message: str, hint: str | None = None) -> int:
    told = hint or "quotes, reports, logs, manifests, certificates, revocation lists, collateral and bundles are known"
    if out.as_json:
        out.json({"error": {"code": "kind-unknown", "message": message, "hint": told}})
    out.say(Text.assemble(("not supported: ", "warn"), message))
    out.say(Text.assemble(("hint: ", "hint"), told))
    return exits.UNSUPPORTED


def _decode(data: bytes, kind: str) -> bytes:
    """Vendor tools also write hex and base64; text that decodes to the wanted kind is taken as that, else as it is."""
    from teehouse_core.evidence.detect import detect

    if detect(data) is not None:
        return data
    text = b"".join(data.split())
    for decode in (binascii.unhexlify, lambda t: binascii.a2b_base64(t, strict_mode=True)):
        try:
            decoded: bytes = decode(text)
        except (ValueError, binascii.Error):
            continue
        if detect(decoded) in ({kind} if kind else set(ArtifactType) | {"hcl-report", "tdreport", "bundle"}):
            return decoded
    return data


def _parsed(raw: bytes, kind: str) -> Mapping[str, Any] | None:
    from teehouse_core.errors import TeehouseError
    from teehouse_core.evidence.detect import detect
    from teehouse_core.evidence.parsed import parse_artifact

    try:
        return parse_artifact(raw, detect(raw) or kind)
    except TeehouseError:
        return None


def _print(out: Output, verdict: ArtifactVerdict, subject: str, *, verbose: bool) -> None:
    console = out.data
    console.print(Text(subject, style="title"))
    hidden = ("policy_sha256", "artifact", "type")
    shown = {n: str(v) for n, v in verdict.claims.items() if isinstance(v, str | int) and n not in hidden}
    width = max(map(len, shown), default=0)
    for name, value in shown.items():
        console.print(Text.assemble((f"  {name:<{width}}  ", "key"), safe(value)), soft_wrap=True)
    console.print()
    like = cast("Verdict", verdict)  # the tables read nothing but `.checks`
    if verdict.checks:
        console.print(verbose_checks(like) if verbose else checks_grid(like, console.width))
        console.print()
    console.print(_summary(verdict))
    if verdict.refusing and not verbose:
        console.print(failures(verdict.refusing))
    out.say(legend())


def _summary(verdict: ArtifactVerdict) -> Text:
    counts = {state: sum(check.state == state for check in verdict.checks) for state in MARKS}
    words = {"passed": "passed", "failed": "failed", "skipped": "not made", "not-applicable": "not applicable"}
    told = ", ".join(f"{number} {words[state]}" for state, number in counts.items() if number)
    marks = {"accepted": ("✓ accepted", "good"), "refused": ("✗ refused", "bad")}
    word, style = marks.get(verdict.result, ("◌ not supported", "warn"))
    return Text.assemble((word, style), "  ", simulated_badge(verdict.tier), (f"  {told}", "dim"))


def _tree(document: Mapping[str, Any], left: list[int]) -> Tree:
    place = f" at {document['at']}" if "at" in document else ""
    head = f"{document['size']} bytes, sha256 {document['sha256'][:16]}…"
    tree = Tree(Text.assemble((safe(document["type"] + place), "title"), (f"  {head}", "dim")), guide_style="dim")
    if "problem" in document:
        tree.add(Text(f"does not parse: {document['problem']}", style="warn"))
    for field in document["fields"]:
        left[0] -= 1
        if left[0] >= 0:
            tree.add(_line(field))
    for part in document["parts"]:
        if left[0] >= 0:
            tree.add(_tree(part, left))
    return tree


def _line(field: Mapping[str, Any]) -> Text:
    where = f"{field['start']:#06x}-{field['end']:#06x} " if "start" in field else ""
    value = safe(str(field["value"])).strip()
    if "\n" in value:
        value = f"{value.splitlines()[0]} … ({len(value)} characters)"
    return Text.assemble((where, "dim"), (safe(field["path"]), "key"), "  ", value, no_wrap=True, overflow="ignore")
