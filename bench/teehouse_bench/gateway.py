# SPDX-License-Identifier: Apache-2.0
"""Bench `gateway`: what one core of our gateway passes through, beside nginx on the same streams in the same run.

    sink → our gateway → source        sink → nginx → source

Only the process in the middle counts: chunks or requests per second of its CPU time. Source and sink are the fastest
that Python allows and the same for both. nginx writes no access log and checks nobody; ours authenticates, reads the
header, limits, logs and meters: the comparison favours nginx, as it should.
"""

from __future__ import annotations

import base64
import json
import os
import socket
import time
from dataclasses import dataclass
from functools import partial
from typing import Any
from urllib.parse import urlsplit

from teehouse_bench.frames import NUMBERED, unsealed_frame
from teehouse_bench.machine import program
from teehouse_bench.results import Budget, Case, Result, Row
from teehouse_bench.rig import Rig, Talker, open_rig
from teehouse_bench.sides import Sides, turns
from teehouse_core.wire.apikey import account_of
from teehouse_core.wire.frame import REQUEST_TYPE

__all__ = ["run_gateway"]

ENDPOINT = "ep-bench-source"
SIZE = 200  # bytes of one chunk, about one token as a server-sent event
OPENING = 0.003  # seconds that opening one more stream may take; a stream begins in earnest after that
AIM = 1 / 3  # of nginx per core, issue 2; PERFORMANCE §4 wants a half later
NGINX = """\
# Pass-through as generous as nginx can be: one process, no log, no buffering, connections kept.
daemon off;
master_process off;
worker_processes 1;
pid {folder}/nginx.pid;
error_log {folder}/nginx.error.log error;
events {{ worker_connections 8192; }}
http {{
  access_log off;
  client_body_temp_path {folder}/nginx-body;
  proxy_temp_path {folder}/nginx-proxy;
  fastcgi_temp_path {folder}/nginx-fastcgi;
  uwsgi_temp_path {folder}/nginx-uwsgi;
  scgi_temp_path {folder}/nginx-scgi;
  client_max_body_size 80m;
  client_body_buffer_size 64k;
  keepalive_requests 10000000;
  tcp_nodelay on;
  upstream source {{ server {upstream}; keepalive 1024; keepalive_requests 10000000; }}
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    location / {{
      proxy_pass http://source;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_buffering off;
      proxy_read_timeout 300s;
    }}
  }}
}}
"""


@dataclass(frozen=True, slots=True)
class Flow:
    """One kind of traffic. `rate`: chunks per second and stream, 0 as fast as they are read."""

    name: str
    connections: int
    mode: str
    rate: float = 0.0


FLOWS = (
    Flow("32 streams, paced", 32, "paced", 150.0),
    Flow("256 streams, paced", 256, "paced", 30.0),
    Flow("32 streams, flood", 32, "flood"),
    Flow("256 streams, flood", 256, "flood"),
    Flow("32 connections, whole answers", 32, "whole"),
)


def run_gateway(result: Result, budget: Budget, *, quick: bool, tiny: bool) -> None:
    """All flows; without nginx ours is measured alone, and the comparison is skipped aloud."""
    flows = [Flow("4 streams, paced", 4, "paced", 100.0), Flow("4 streams, flood", 4, "flood")] if tiny else FLOWS
    rounds, seconds = (2, 0.3) if tiny else (2, 0.8) if quick else (6, 2.0)
    with open_rig() as rig:
        source = rig.start_source(ENDPOINT)
        sink = rig.talker("sink")
        rig.up()
        middles = {"gateway": (rig.gateway_pid, int(rig.gateway.rsplit(":", 1)[1]))}
        if program("nginx") is None:
            result.skip("nginx", "nginx is not installed (apt-get install nginx): NOTHING TO COMPARE WITH in this run")
        else:
            middles["nginx"] = _start_nginx(rig, rig.urls["source"])
        for name in middles:  # connections and code paths are warm before anything counts
            sink.ask(_job(rig, middles[name], [], Flow("", 4, "flood"), 0.2))
        for flow in flows:
            if budget.left < seconds * 5:
                result.skip(flow.name, "the time budget ended")
                continue
            settings = {
                "connections": flow.connections,
                "mode": flow.mode,
                "rate": flow.rate,
                "bytes per chunk": SIZE,
                "rounds": rounds,
                "seconds": rounds * len(middles) * seconds,
            }
            result.run(flow.name, settings, partial(_measure, flow, budget, rig, sink, middles, source))


def _start_nginx(rig: Rig, upstream: str) -> tuple[int, int]:
    """Process id and port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    config = rig.folder / "nginx.conf"
    text = NGINX.format(folder=rig.folder, upstream=urlsplit(upstream).netloc, port=port)
    if os.geteuid() == 0:
        text = f"user root;\n{text}"
    config.write_text(text)
    process = rig.spawn("nginx", program("nginx") or "nginx", "-p", rig.folder, "-c", config)
    end = time.monotonic() + 10
    while True:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return process.pid, port
        if process.poll() is not None or time.monotonic() > end:
            raise RuntimeError("nginx did not start: " + (rig.folder / "nginx.log").read_text(errors="replace")[-600:])
        time.sleep(0.02)


def _job(rig: Rig, middle: tuple[int, int], others: list[int], flow: Flow, seconds: float) -> dict[str, Any]:
    order = {"mode": flow.mode, "size": SIZE, "seconds": seconds, "rate": flow.rate or 1}
    order["delay"] = flow.connections * OPENING
    frame = unsealed_frame(
        ENDPOINT, "source", account_of(rig.api_key), NUMBERED, json.dumps(order).encode(), stream=True
    )
    head = (
        f"POST /sealed/v1/{ENDPOINT} HTTP/1.1\r\nhost: bench\r\ncontent-type: {REQUEST_TYPE}\r\n"
        f"authorization: Bearer {rig.api_key}\r\ncontent-length: {len(frame)}\r\n\r\n"
    )
    return {
        "port": middle[1],
        "request": base64.b64encode(head.encode() + frame).decode(),
        "connections": flow.connections,
        "closed_loop": flow.mode == "whole",
        "seconds": seconds,
        "pids": [middle[0], *others],
    }


def _measure(
    flow: Flow,
    budget: Budget,
    rig: Rig,
    sink: Talker,
    middles: dict[str, tuple[int, int]],
    source: int,
    case: Case,
) -> None:
    rounds = case.settings["rounds"]
    seconds = case.settings["seconds"] / rounds / len(middles)

    def side(name: str) -> dict[str, Any]:
        report = sink.ask(_job(rig, middles[name], [source], flow, seconds))
        return {**report, "middle_cpu": report["cpu"][str(middles[name][0])]}

    for _ in turns(case, budget, tuple(middles), rounds, side):
        pass
    short = sum(one["wall"] < seconds / 4 or not one["middle_cpu"] for one in case.rounds)
    if short:
        case.skipped = f"in {short} rounds the first stream ended too soon after the last had begun: a busy machine"
        return
    _tell(case, flow, compared="nginx" in middles)


def _tell(case: Case, flow: Flow, *, compared: bool) -> None:
    sides = Sides(case, "gateway", "nginx", len(os.sched_getaffinity(0)))
    whole = flow.mode == "whole"
    what = "requests" if whole else "chunks"

    def rate(one: dict[str, Any]) -> float:
        return float((one["answers"] if whole else one["bytes"] / SIZE) / one["middle_cpu"])

    def busy(one: dict[str, Any]) -> float:
        return float(one["middle_cpu"] / one["wall"])

    ours, theirs, _, ratio = sides.compare(f"{what} per CPU-second", rate)
    case.rows.append(
        Row(
            f"{what} per CPU-second",
            f"{ours.median:,.0f}",
            f"{theirs.median:,.0f}" if compared else "skipped",
            f"× {ratio.median:.2f}" if compared else "",
            f"{ratio.low:.2f} … {ratio.high:.2f}" if compared else f"{ours.low:,.0f} … {ours.high:,.0f}",
            "" if whole else f"≥ {AIM:.2f} of nginx",
            ratio.median >= AIM and not sides.failed if compared and not whole else None,
            ratio.agrees(AIM),
        )
    )
    if not whole:
        # What is read in one piece costs one write: without this number the one above says little.
        ours, theirs, _, _ = sides.compare("chunks per write", lambda one: one["bytes"] / SIZE / max(one["writes"], 1))
        case.rows.append(
            Row("chunks joined per write", f"{ours.median:.1f}", f"{theirs.median:.1f}" if compared else "", "", "")
        )
        ours, theirs, _, ratio = sides.compare("writes per CPU-second", lambda one: one["writes"] / one["middle_cpu"])
        case.rows.append(
            Row(
                "writes per CPU-second",
                f"{ours.median:,.0f}",
                f"{theirs.median:,.0f}" if compared else "",
                f"× {ratio.median:.2f}" if compared else "",
                f"{ratio.low:.2f} … {ratio.high:.2f}" if compared else "",
            )
        )
    ours, theirs, _, _ = sides.compare("core used", busy)
    case.rows.append(
        Row("share of a core used", f"{ours.median:.0%}", f"{theirs.median:.0%}" if compared else "", "", "")
    )
