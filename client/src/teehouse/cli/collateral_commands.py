# SPDX-License-Identifier: Apache-2.0
"""`teehouse collateral fetch|import|show`: packs of endorsements, made and looked at; appraisal never fetches."""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from teehouse.cli import exits
from teehouse.cli.offline import At, moment, read_bytes, read_files, stamp, write_bytes
from teehouse.cli.options import Json
from teehouse.cli.output import Output, safe
from teehouse_core.errors import LocalError, TeehouseError
from teehouse_core.evidence.bundle import MAX_BUNDLE
from teehouse_core.evidence.pack import Pack, PackItem, build_pack, describe, is_pack, parse_pack

__all__ = ["fetch", "import_", "show"]

MAX_CHAIN = 1024 * 1024  # bytes

Target = Annotated[Path, typer.Option("--output", "-o", metavar="PACK", help="The pack to write, or to add to.")]


def fetch(
    evidence: Annotated[
        list[Path], typer.Argument(metavar="FILE…", help="Quotes and reports whose endorsements are wanted.")
    ],
    output: Target,
    chain: Annotated[
        list[Path] | None, typer.Option("--chain", metavar="FILE", help="Device chains whose revocation is asked for.")
    ] = None,
    product: Annotated[
        str | None, typer.Option("--product", metavar="NAME", help="Milan, Genoa or Turin, for SNP reports before v3.")
    ] = None,
    intel_url: Annotated[str | None, typer.Option("--intel-url", metavar="URL", help="Intel PCS, or a PCCS.")] = None,
    intel_root_crl_url: Annotated[
        str | None, typer.Option("--intel-root-crl-url", metavar="URL", help="Where Intel's root CRL is.")
    ] = None,
    amd_url: Annotated[str | None, typer.Option("--amd-url", metavar="URL", help="AMD KDS, or a cache of it.")] = None,
    rim_url: Annotated[str | None, typer.Option("--rim-url", metavar="URL", help="NVIDIA's RIM service.")] = None,
    ocsp_url: Annotated[str | None, typer.Option("--ocsp-url", metavar="URL", help="NVIDIA's OCSP responder.")] = None,
    timeout: Annotated[
        float, typer.Option("--timeout", metavar="SECONDS", min=0.1, max=600, help="Longest silence of a source.")
    ] = 20,
    as_json: Json = False,
) -> int:
    """Fetch what the given artifacts need, from the vendors or from your own mirrors, into one pack.

    For a GPU report that is its manifests and the OCSP answers for their signers; for the device's own certificates
    name its chain. What comes is stored as it came; `verify` checks it.
    Exit codes: 0 all fetched, 3 a source did not answer (what did is stored), 30 malformed, 2 usage.
    """
    import httpx2

    from teehouse.collateral.sources import Fetcher, Sources
    from teehouse.collateral.wanted import RimWant, Want, chain_statuses, rim_statuses, wants
    from teehouse_core.appraise.artifacts.nvidia import load_chain
    from teehouse_core.appraise.roots_nvidia import nvidia_roots_for

    out = Output(as_json=as_json)
    addresses = {
        "intel": intel_url,
        "intel_root_crl": intel_root_crl_url,
        "amd": amd_url,
        "rim": rim_url,
        "ocsp": ocsp_url,
    }
    sources = Sources(**{name: _url(url) for name, url in addresses.items() if url is not None})
    wanted: list[Want] = []
    for path in evidence:
        wanted += [w for w in wants(read_bytes(path, MAX_BUNDLE), product) if w not in wanted]
    roots = nvidia_roots_for("hardware")
    for path in chain or []:
        statuses = chain_statuses(load_chain(read_bytes(path, MAX_CHAIN)), (roots.device, roots.rim))
        wanted += [w for w in statuses if w not in wanted]
    pack = _existing(output)
    files, origins = dict(pack.files), dict(pack.sources)
    problems: list[TeehouseError] = []
    with httpx2.Client(follow_redirects=False) as client:
        fetcher = Fetcher(client, sources, timeout)
        for want in wanted:  # grows: a manifest wants its signers' statuses
            try:
                got = fetcher.of(want)
            except TeehouseError as error:
                problems.append(error)
                out.say(Text.assemble(("✗ ", "bad"), safe(str(error))))
                continue
            for item in got:
                files[item.name], origins[item.name] = item.data, item.source
                out.say(Text.assemble(("✓ ", "good"), item.name, (f"  {len(item.data)} bytes", "dim")))
                if isinstance(want, RimWant):
                    wanted += [w for w in rim_statuses(item.data, (roots.rim,)) if w not in wanted]
    write_bytes(output, build_pack(Pack(int(time.time()), files, origins)))
    _report(out, describe(files), int(time.time()), output, [error.message for error in problems])
    return exits.exit_code(problems[0]) if problems else exits.OK


def import_(
    paths: Annotated[list[Path], typer.Argument(metavar="PATH…", help="Files, folders or packs to put together.")],
    output: Target,
    as_json: Json = False,
) -> int:
    """Put endorsements that you already have into one pack. No network.

    Exit codes: 0 written, 30 malformed, 2 usage.
    """
    out = Output(as_json=as_json)
    pack = _existing(output)
    files, origins = dict(pack.files), dict(pack.sources)
    for path in paths:
        for name, data in read_files(path).items():
            files[name], origins[name] = data, f"file {path.name}"
    items = describe(files)
    write_bytes(output, build_pack(Pack(int(time.time()), files, origins)))
    _report(out, items, int(time.time()), output, [])
    return exits.OK


def show(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="A pack, a folder or one file.")],
    at: At = None,
    as_json: Json = False,
) -> int:
    """What a pack holds, and until when each part is good. Nothing is verified.

    Exit codes: 0 shown, 30 malformed, 2 usage.
    """
    _report(Output(as_json=as_json), describe(read_files(path)), moment(at), path, [])
    return exits.OK


def _existing(output: Path) -> Pack:
    if not output.exists():
        return Pack(0, {}, {})
    data = read_bytes(output, 2 * MAX_BUNDLE)
    if not is_pack(data):
        raise LocalError(f"{output} exists and is no pack", code="pack", hint="name another file with --output")
    return parse_pack(data)


def _url(text: str) -> str:
    if not text.startswith(("https://", "http://")):
        raise LocalError(f"not a web address: {text}", code="usage", hint="it starts with https:// or http://")
    return text.rstrip("/")


def _report(out: Output, items: Iterable[PackItem], now: int, path: Path, problems: list[str]) -> None:
    rows = list(items)
    if out.as_json:
        listed: list[dict[str, Any]] = [
            {
                "file": item.file,
                "kind": item.kind,
                "subject": item.subject,
                "begins": item.begins,
                "ends": item.ends,
                "state": item.state(now),
            }
            for item in rows
        ]
        out.json({"pack": path.name, "at": now, "items": listed, "problems": problems})
        return
    if not rows:
        out.show(Text("nothing that is known here", style="dim"))
    for file in dict.fromkeys(item.file for item in rows):
        table = Table.grid(padding=(0, 2))
        for width in (9, 11, 11, None, None):
            table.add_column(width=width, no_wrap=width is not None, overflow="fold")
        for item in (item for item in rows if item.file == file):
            table.add_row(*_row(item, now))
        out.show(Text(safe(file), style="title"))
        out.show(Padding(table, (0, 0, 0, 2)))


def _row(item: PackItem, now: int) -> tuple[Text | str, ...]:
    marks = {"current": ("✓", "good"), "expired": ("✗", "bad"), "not yet": ("◌", "warn")}
    state = item.state(now)
    mark, style = marks.get(state, ("–", "dim"))
    window = [stamp(t)[:10] if t is not None else "" for t in (item.begins, item.ends)]
    return (Text(f"{mark} {state}", style=style), item.kind, window[0], window[1], safe(item.subject))
