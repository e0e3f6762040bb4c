# SPDX-License-Identifier: Apache-2.0
"""`teehouse verify`: fetch an endpoint's evidence over a fresh challenge, or read a saved bundle; appraise; explain."""

from __future__ import annotations

import binascii
import time
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from rich.rule import Rule
from rich.text import Text

from teehouse.cli import exits
from teehouse.cli.options import Dir, Gateway, Json, PolicyOption, load_settings
from teehouse.cli.output import Output, safe
from teehouse.cli.verdicts import legend, print_verdict

if TYPE_CHECKING:  # the appraiser is loaded when it is needed: `--help` shall be quick
    from teehouse.settings import Settings
    from teehouse_core.appraise.verdict import Verdict
from teehouse_core.errors import LocalError

__all__ = ["verify"]

_ORDER: Final = ("none", "simulated", "vtpm", "hardware")  # lowest first


def verify(
    endpoint: Annotated[
        str | None, typer.Argument(metavar="ENDPOINT", help="The endpoint (ep-…).", show_default="from settings")
    ] = None,
    file: Annotated[
        Path | None, typer.Option("--file", "-f", metavar="BUNDLE", help="Appraise a saved bundle; no network at all.")
    ] = None,
    save: Annotated[
        Path | None,
        typer.Option("--save", metavar="FILE", help="Store the bundle; further nodes' bundles go beside it."),
    ] = None,
    policy: PolicyOption = None,
    gateway: Gateway = None,
    nonce: Annotated[
        str | None, typer.Option("--nonce", metavar="HEX", help="With --file: the 32 bytes it was asked with.")
    ] = None,
    at: Annotated[
        str | None,
        typer.Option("--at", metavar="RFC3339", help="With --file: the time to appraise at.", show_default="now"),
    ] = None,
    state: Annotated[
        bool,
        typer.Option(
            "--state/--no-state",
            help="Remember the newest collateral; older one then refuses (not with --file).",
        ),
    ] = True,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Each check with what was claimed, expected, and the clause.")
    ] = False,
    directory: Dir = None,
    as_json: Json = False,
) -> int:
    """Check what an endpoint's nodes prove about themselves, here, under your policy.

    Exit codes: 0 every node accepted, 10 refused, 20 platform not supported, 30 malformed, 3 unreachable, 2 usage.
    A saved bundle proves no age: it can be read, never sealed to.
    """
    out = Output(as_json=as_json)
    if file is not None:
        if endpoint is not None and not as_json:
            out.say(Text("the saved bundle must be of that endpoint", style="dim"))
        settings = load_settings(policy=policy, directory=directory)
        verdicts = [_saved(file, settings, endpoint, nonce, at)]
    else:
        if nonce is not None or at is not None:
            raise LocalError("--nonce and --at are for --file", code="usage", hint="fresh evidence is appraised now")
        kept = None if state else False
        settings = load_settings(base_url=gateway, policy=policy, directory=directory, collateral_state=kept)
        verdicts = _fetched(settings, endpoint or settings.need_endpoint(), save, out)
    if as_json:
        out.json(as_document(verdicts))
    else:
        _show(out, verdicts, settings, verbose=verbose)
    return _code(verdicts)


def _fetched(settings: Settings, endpoint: str, save: Path | None, out: Output) -> list[Verdict]:
    from teehouse.session.sync import Session

    with Session(settings) as session:
        nodes = session.verify(endpoint, fresh=True)
    if save is not None:
        for number, node in enumerate(nodes):
            path = save if number == 0 else save.with_name(f"{save.stem}.{number}{save.suffix}")
            try:
                path.write_bytes(node.bundle)
            except OSError as error:
                raise LocalError(f"cannot write {path}: {error.strerror}", code="file-unwritable") from None
            out.say(Text(f"saved {path}", style="dim"))
    return [node.verdict for node in nodes]


def _saved(file: Path, settings: Settings, endpoint: str | None, nonce: str | None, at: str | None) -> Verdict:
    from teehouse_core.appraise.appraise import appraise
    from teehouse_core.evidence.bundle import MAX_BUNDLE

    try:
        with file.open("rb") as opened:
            data = opened.read(MAX_BUNDLE + 1)
    except OSError as error:
        raise LocalError(f"cannot read {file}: {error.strerror}", code="file-unreadable") from None
    asked = _nonce(nonce)
    # Without the nonce a bundle's age is unknown: that is said below, and it yields no sealing key.
    policy = settings.policy if asked is not None else settings.policy.for_stored_report()
    return appraise(data, policy, _time(at), endpoint=endpoint, nonce=asked)


def _nonce(text: str | None) -> bytes | None:
    if text is None:
        return None
    try:
        return bytes.fromhex(text)
    except (ValueError, binascii.Error):
        raise LocalError("--nonce is not hex", code="usage", hint="64 hex digits") from None


def _time(text: str | None) -> int:
    if text is None:
        return int(time.time())
    try:
        moment = datetime.fromisoformat(text)
        if moment.tzinfo is not None:
            return int(moment.timestamp())
    except ValueError:
        pass
    raise LocalError("--at is no RFC 3339 time", code="usage", hint="as 2026-11-23T06:30:00Z") from None


def _code(verdicts: Sequence[Verdict]) -> int:
    if all(verdict.result == "accepted" for verdict in verdicts):
        return exits.OK
    if all(not verdict.supported for verdict in verdicts if verdict.result != "accepted"):
        return exits.UNSUPPORTED
    return exits.REFUSED


def as_document(verdicts: Sequence[Verdict]) -> dict[str, Any]:
    """`{"result","tier","checks","claims",…}` of the decisive node (first refused, else first), and all `nodes`."""
    decisive = next((verdict for verdict in verdicts if verdict.result != "accepted"), verdicts[0])
    tier = min((verdict.tier for verdict in verdicts), key=_ORDER.index)
    return {**decisive.to_json(), "tier": tier, "nodes": [verdict.to_json() for verdict in verdicts]}


def _show(out: Output, verdicts: Sequence[Verdict], settings: Settings, *, verbose: bool) -> None:
    console = out.data
    for number, verdict in enumerate(verdicts):
        if len(verdicts) > 1:
            console.print(Rule(f"node {number + 1} of {len(verdicts)}", style="dim", align="left"))
        print_verdict(console, verdict, verbose=verbose, like=verdicts[0] if number else None)
        console.print()
    out.say(legend())
    if any(v.tier == "simulated" for v in verdicts):
        if settings.policy.simulated_allowed:
            text = "SIMULATED evidence was accepted because the policy allows it; no hardware protects anything"
        else:
            text = "this is a SIMULATED platform; only a policy that says so accepts it"
        out.say(Text(text, style="warn"))
    if any(v.evidence_time is None for v in verdicts):
        out.say(Text("the age of this evidence is unknown: it can be read, not sealed to", style="warn"))
    out.say(Text(f"policy {safe(settings.policy_from)}, sha256 {settings.policy.digest[:16]}…", style="dim"))
