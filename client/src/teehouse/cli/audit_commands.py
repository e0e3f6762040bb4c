# SPDX-License-Identifier: Apache-2.0
"""`teehouse audit list|show|export|verify|watch`: the logs of a key service, proven on this machine.

Exit codes: 0 proven, 10 refused (the log, or who stores it, lied), 20 an export of another version, 30 malformed,
3 unreachable, 2 usage.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from teehouse.cli import exits
from teehouse.cli.offline import moment, stamp
from teehouse.cli.options import Dir, Json
from teehouse.cli.output import Output, hint, safe, say_error
from teehouse_core.errors import LocalError, OperatorError, TeehouseError

if TYPE_CHECKING:
    from teehouse.audit.export import Selection
    from teehouse.audit.ledger import Ledger
    from teehouse.audit.pins import Head, Pins
    from teehouse.audit.read import Proven
    from teehouse.audit.watch import Look
    from teehouse_core.log.entry import AuditEntry, PublicEntry

__all__ = ["export", "list_", "show", "verify", "watch"]

TOKEN: Final = "TEEHOUSE_AUDIT_TOKEN"  # noqa: S105  the name of a variable
_PAGE: Final = 200  # entries looked through at a time, newest first

Url = Annotated[
    str | None,
    typer.Option(
        "--url", metavar="URL", envvar="TEEHOUSE_AUDIT_URL", help="The log, …/ledger/v1/<log>.", show_default="local"
    ),
]
TokenFile = Annotated[
    Path | None,
    typer.Option("--token-file", metavar="FILE", help=f"File with the audit token (or {TOKEN})."),
]
PinsFile = Annotated[
    Path | None,
    typer.Option(
        "--pins",
        metavar="FILE",
        envvar="TEEHOUSE_AUDIT_PINS",
        help="Pinned log keys and witnesses, as JSON.",
        show_default="local, or audit-pins.json beside the config file",
    ),
]
State = Annotated[
    Path | None,
    typer.Option("--state", metavar="DIR", help="Where the last checkpoints seen are kept.", show_default="yours"),
]
Op = Annotated[str | None, typer.Option("--op", metavar="OP", help="Only this operation, such as key.create.")]
Ring = Annotated[str | None, typer.Option("--ring", metavar="RING", help="Only this ring.")]
Key = Annotated[str | None, typer.Option("--key", metavar="KEY", help="Only this key.")]
Decision = Annotated[str | None, typer.Option("--decision", metavar="WORD", help="done, granted or refused.")]
Since = Annotated[str | None, typer.Option("--since", metavar="RFC3339", help="From this time on.")]
Until = Annotated[str | None, typer.Option("--until", metavar="RFC3339", help="Before this time.")]


@dataclass(frozen=True, slots=True)
class _Where:
    """Which log, whom to believe, and where memory is."""

    url: str
    token: str | None
    pins: Pins
    origin: str
    state: Path

    def ledger(self) -> Ledger:
        from teehouse.audit.ledger import Ledger

        return Ledger(self.url, self.token)


def _local(directory: Path | None) -> dict[str, Any]:
    from teehouse.local.state import find_running

    running = find_running(directory)
    return dict(running.state) if running is not None and running.state is not None else {}


def _pins(path: Path | None, directory: Path | None) -> Pins:
    from teehouse.audit.pins import Pins
    from teehouse.settings import config_file

    if path is None:
        said = _local(directory).get("audit_pins")
        path = Path(said) if said else config_file().with_name("audit-pins.json")
        if not path.exists():
            raise LocalError(
                "no log keys and witnesses are pinned",
                code="audit-pins",
                hint='name a file with --pins: {"v":"audit-pins/1","log_keys":[…],"quorum":2,"witnesses":[…]}',
            )
    return Pins.load(path)


def _state(path: Path | None) -> Path:
    from teehouse.audit.memory import default_state

    return path if path is not None else default_state()


def _where(
    url: str | None, token_file: Path | None, pins: Path | None, state: Path | None, directory: Path | None
) -> _Where:
    from teehouse.audit.ledger import Ledger

    token = os.environ.get(TOKEN) or None
    if token_file is not None:
        try:
            token = token_file.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError):
            raise LocalError(f"cannot read {token_file}", code="file-unreadable") from None
    if url is None:
        local = _local(directory)
        url = local.get("tenant_audit_url")  # this user's own tenant; `audit_url` is that of an existing client
        token = token or local.get("tenant_audit_token")
        if not url:
            raise LocalError(
                "no log is named",
                code="audit-url",
                hint="--url https://…/ledger/v1/tenant-<id> or TEEHOUSE_AUDIT_URL; `teehouse up` starts one",
            )
    known = _pins(pins, directory)
    with Ledger(url, token) as ledger:
        origin = known.origin_of(ledger.log)
    return _Where(url, token, known, origin, _state(state))


def _selection(
    op: str | None, ring: str | None, key: str | None, decision: str | None, since: str | None, until: str | None
) -> Selection:
    from teehouse.audit.export import Selection

    named = {"op": op, "ring": ring, "key": key, "decision": decision}
    return Selection(
        {name: value for name, value in named.items() if value},
        moment(since) if since else 0,
        moment(until) if until else None,
    )


@contextmanager
def _bar(out: Output, what: str) -> Iterator[Callable[[int, int], None]]:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=out.talk, transient=True, disable=not out.interactive) as progress:
        task = progress.add_task(what, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)


# ── list and show ────────────────────────────────────────────────────────────────────────────────────────────────


def list_(
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=100_000, help="At most so many, newest.")] = 50,
    op: Op = None,
    ring: Ring = None,
    key: Key = None,
    decision: Decision = None,
    since: Since = None,
    until: Until = None,
    url: Url = None,
    token_file: TokenFile = None,
    pins: PinsFile = None,
    state: State = None,
    directory: Dir = None,
    as_json: Json = False,
) -> int:
    """The newest entries, each proven to stand in the signed tree; chosen here, so none can be hidden by a filter."""
    from teehouse.audit.memory import Memory
    from teehouse.audit.read import Reader

    out = Output(as_json=as_json)
    where = _where(url, token_file, pins, state, directory)
    selection = _selection(op, ring, key, decision, since, until)
    found: list[Proven] = []
    with where.ledger() as ledger, Memory.opened(where.state, where.origin) as memory, _bar(out, "reading") as bar:
        reader = Reader(ledger, where.pins, memory, where.origin)
        end = size = reader.head.size
        while end > 0 and len(found) < limit:
            start = max(0, end - _PAGE)
            page = [item for item in reader.entries(start, end) if selection.takes(item.entry)]
            found[:0] = page
            end = start
            bar(size - end, size)
    found = found[-limit:]
    if as_json:
        out.json({"checkpoint": reader.head.to_json(), "entries": [item.to_json() for item in found]})
        return exits.OK
    table = Table(box=None, pad_edge=False, header_style="title")
    for name in ("entry", "time", "op", "ring / key", "decision", "by"):
        table.add_column(name, overflow="fold")
    for item in found:
        table.add_row(*_cells(item.row.index, item.entry, item.row.opening))
    out.show(table)
    _say_head(out, reader.head)
    return exits.OK


def show(
    index: Annotated[int, typer.Argument(metavar="ENTRY", min=0, help="The entry's number.")],
    save: Annotated[
        Path | None, typer.Option("--save-proof", metavar="FILE", help="Write a proof that stands alone (.tlog-proof).")
    ] = None,
    url: Url = None,
    token_file: TokenFile = None,
    pins: PinsFile = None,
    state: State = None,
    directory: Dir = None,
    as_json: Json = False,
) -> int:
    """One entry with all its members and its inclusion proof."""
    from teehouse.audit.memory import Memory
    from teehouse.audit.read import Reader, proof_file
    from teehouse.cli.offline import write_bytes

    out = Output(as_json=as_json)
    where = _where(url, token_file, pins, state, directory)
    with where.ledger() as ledger, Memory.opened(where.state, where.origin) as memory:
        reader = Reader(ledger, where.pins, memory, where.origin)
        if index >= reader.head.size:
            raise LocalError(f"the log has {reader.head.size} entries", code="no-such-entry", hint="they begin at 0")
        proven = next(iter(reader.entries(index, index + 1)))
    if save is not None:
        write_bytes(save, proof_file(reader.head, proven))
    if as_json:
        document = {**proven.to_json(), "proof": [item.hex() for item in proven.hashes]}
        out.json({"checkpoint": reader.head.to_json(), "entry": document})
        return exits.OK
    grid = Table.grid(padding=(0, 2))
    for name, value in proven.to_json().items():
        text = ", ".join(value) if isinstance(value, list) else stamp(value) if name == "time" else str(value)
        if text:
            grid.add_row(Text(name, style="key"), safe(text))
    grid.add_row(Text("proof", style="key"), f"{len(proven.hashes)} hashes, verified")
    out.show(grid)
    _say_head(out, reader.head)
    return exits.OK


def _cells(index: int, entry: AuditEntry | PublicEntry, opening: Any) -> list[Text]:
    from teehouse_core.log.entry import AuditEntry

    if isinstance(entry, AuditEntry):
        what = " / ".join(part for part in (entry.ring, entry.key, entry.version) if part)
        style = "bad" if entry.decision == "refused" else "good"
        decision = Text(entry.decision, style=style)
        if entry.reason:
            decision.append(f" ({safe(entry.reason)})", style="dim")
        names = ", ".join(opening["names"]) if opening is not None else ("withheld" if entry.actor else "")
        return [
            Text(str(index)),
            Text(stamp(entry.time)),
            Text(safe(entry.op)),
            Text(safe(what)),
            decision,
            Text(safe(names)),
        ]
    what = " / ".join(part for part in (entry.endpoint, entry.node, entry.name) if part)
    return [Text(str(index)), Text(stamp(entry.time)), Text(entry.kind), Text(safe(what)), Text(""), Text("")]


def _say_head(out: Output, head: Head) -> None:
    out.say(Text.assemble(("✓ ", "good"), f"{head.size} entries, signed by ", (safe(head.checkpoint.origin), "key")))
    _say_quorum(out, head)


def _say_quorum(out: Output, head: Head) -> None:
    quorum = head.quorum
    if quorum.quorum == 0:
        out.say(Text("NO WITNESS: these pins ask for none, so a second history would not show", style="warn"))
        return
    time_ = stamp(quorum.completed_at) if quorum.completed_at is not None else "unknown"
    names = ", ".join(safe(name) for name in quorum.operators)
    out.say(Text.assemble(("✓ ", "good"), f"{quorum.count} of {quorum.quorum} witness operators ({names}), {time_}"))


# ── export and verify ────────────────────────────────────────────────────────────────────────────────────────────


def export(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A new folder.")],
    form: Annotated[str, typer.Option("--format", metavar="FORM", help="jsonl or csv.")] = "jsonl",
    op: Op = None,
    ring: Ring = None,
    key: Key = None,
    decision: Decision = None,
    since: Since = None,
    until: Until = None,
    url: Url = None,
    token_file: TokenFile = None,
    pins: PinsFile = None,
    state: State = None,
    directory: Dir = None,
    as_json: Json = False,
) -> int:
    """The whole log with checkpoint and proofs in one folder, verified while it comes; filters are applied here."""
    from teehouse.audit.export import export as write_export
    from teehouse.audit.files import FORMATS
    from teehouse.audit.memory import Memory
    from teehouse.audit.read import head_of

    out = Output(as_json=as_json)
    if form not in FORMATS:
        raise LocalError(f"no format {form!r}", code="usage", hint="jsonl or csv")
    where = _where(url, token_file, pins, state, directory)
    selection = _selection(op, ring, key, decision, since, until)
    with where.ledger() as ledger, Memory.opened(where.state, where.origin) as memory, _bar(out, "exporting") as bar:
        head = head_of(ledger, where.pins, memory, where.origin)
        written = write_export(
            ledger, head, memory, folder, form=form, selection=selection, now=int(time.time()), progress=bar
        )
    if as_json:
        out.json({"folder": str(folder), "entries": written, "checkpoint": head.to_json()})
        return exits.OK
    out.say(Text.assemble(("✓ ", "good"), f"{written} of {head.size} entries in {folder}, all {head.size} verified"))
    _say_quorum(out, head)
    out.say(hint(f"teehouse audit verify {folder}   checks it again without a network"))
    return exits.OK


def verify(
    path: Annotated[Path, typer.Argument(metavar="EXPORT", help="A folder of `audit export`, or a .tlog-proof.")],
    origin: Annotated[
        str | None, typer.Option("--origin", metavar="ORIGIN", help="The log it must be of.", show_default="any pinned")
    ] = None,
    pins: PinsFile = None,
    state: State = None,
    directory: Dir = None,
    as_json: Json = False,
) -> int:
    """Prove an export without a network: every entry, the tree, its signatures, and that it goes on from the last one.

    Exit codes: 0 proven, 10 refused (naming the first entry where hashes part), 20 another version, 30 malformed.
    """
    from teehouse.audit.errors import ExportVersion, LogRefused
    from teehouse.audit.verify import verify_export, verify_proof

    out = Output(as_json=as_json)
    known = _pins(pins, directory)
    try:
        if path.is_file():
            head, index, entry = verify_proof(path, known, origin=origin)
            document = {"result": "accepted", "checkpoint": head.to_json(), "index": index, "entry": entry.to_json()}
            words = f"entry {index} stands in the log of {safe(head.checkpoint.origin)}"
        else:
            with _bar(out, "verifying") as bar:
                report = verify_export(path, known, _state(state), origin=origin, progress=bar)
            head, document = report.head, report.to_json()
            seen = "first time seen" if report.before is None else f"goes on from the {report.before} seen before"
            part = f"{report.entries} entries" if report.complete else f"{report.entries} of {head.size} entries"
            words = f"{part} of {safe(head.checkpoint.origin)}; {seen}"
    except LogRefused as error:
        return _refused(out, error)
    except ExportVersion as error:
        _tell(out, error)
        return exits.UNSUPPORTED
    if as_json:
        out.json(document)
        return exits.OK
    out.show(Text.assemble(("✓ proven  ", "good"), words))
    _say_quorum(out, head)
    return exits.OK


def _refused(out: Output, error: TeehouseError) -> int:
    _tell(out, error)
    return exits.REFUSED


def _tell(out: Output, error: TeehouseError) -> None:
    if out.as_json:
        out.json({"result": "refused", "error": _error(error)})
    say_error(out.talk, error)


def _error(error: TeehouseError) -> dict[str, Any]:
    return {
        "code": error.code,
        "message": error.message,
        "hint": error.hint,
        "index": getattr(error, "index", None),
    }


# ── watch ────────────────────────────────────────────────────────────────────────────────────────────────────────


def watch(
    interval: Annotated[
        float, typer.Option("--interval", metavar="SECONDS", min=0.1, help="Between two looks.")
    ] = 30.0,
    once: Annotated[bool, typer.Option("--once", help="Look once and end.")] = False,
    keep_going: Annotated[bool, typer.Option("--keep-going", help="Go on after an alarm.")] = False,
    max_age: Annotated[
        int | None,
        typer.Option("--max-age", metavar="SECONDS", min=1, help="Alarm when witnesses saw nothing for so long."),
    ] = None,
    url: Url = None,
    token_file: TokenFile = None,
    pins: PinsFile = None,
    state: State = None,
    directory: Dir = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON object a line on stdout; talk goes to stderr.")
    ] = False,
) -> int:
    """Look again and again: check and show what is new; alarm and end with 10 on a fork, a rollback, a hidden entry.

    The newest checkpoint is kept, also across restarts. Ctrl-C ends.
    """
    from teehouse.audit.errors import LogRefused
    from teehouse.audit.memory import Memory
    from teehouse.audit.watch import Watcher

    out = Output(as_json=as_json)
    where = _where(url, token_file, pins, state, directory)
    alarms = 0
    with where.ledger() as ledger:
        watcher = Watcher(ledger, where.pins, where.origin, max_age=max_age)
        while True:
            try:
                with Memory.opened(where.state, where.origin) as memory:
                    look = watcher.look(memory, int(time.time()))
                _show_look(out, look)
            except LogRefused as error:
                alarms += 1
                _event(out, {"event": "alarm", **_error(error)})
                out.say(Text(" ALARM ", style="bold white on red"))
                say_error(out.talk, error)
                if not keep_going:
                    return exits.REFUSED
            except OperatorError as error:
                if once:
                    raise
                _event(out, {"event": "unreachable", **_error(error)})
                say_error(out.talk, error)
            if once:
                return exits.REFUSED if alarms else exits.OK
            time.sleep(interval)


def _show_look(out: Output, look: Look) -> None:
    if not out.as_json and look.count > len(look.new):
        out.say(Text(f"… {look.count - len(look.new)} entries before these, verified", style="dim"))
    for row, entry in look.new:
        _event(out, {"event": "entry", "index": row.index, **entry.to_json()})
        out.show(Text("  ").join(_cells(row.index, entry, row.opening)))
    _event(out, {"event": "checkpoint", **look.head.to_json()})
    if look.count or not look.before:
        _say_head(out, look.head)


def _event(out: Output, value: dict[str, Any]) -> None:
    if out.as_json:
        sys.stdout.write(json.dumps(value, separators=(",", ":")) + "\n")
        sys.stdout.flush()
