# SPDX-License-Identifier: Apache-2.0
"""Stand-ins for NVIDIA's RIM service and OCSP responder, on one loopback socket, speaking their protocols.

Not NVIDIA's: the responder signs with keys of the SIMULATED roots that it is given, so only evidence under those roots
is accepted with its answers. A test says how it misbehaves.
"""

from __future__ import annotations

import base64
import json
import threading
import time
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote

from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp

__all__ = ["StandInServices"]

Status = Callable[[int], bytes | None]  # the OCSP response for a serial number; None when it is unknown
UNAUTHORIZED = ocsp.OCSPResponseBuilder.build_unsuccessful(ocsp.OCSPResponseStatus.UNAUTHORIZED)


class StandInServices:
    """`rims` by name; `status` answers for a serial number. `mode` is one of the `_mode_…` methods below."""

    def __init__(self, rims: Mapping[str, bytes], status: Status) -> None:
        self.rims, self.status, self.mode = dict(rims), status, "plain"
        self.asked: list[tuple[str, str]] = []
        self.requests: list[ocsp.OCSPRequest] = []
        services = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_args: Any) -> None:
                pass

            def do_GET(self) -> None:
                services.asked.append(("GET", self.path))
                rim = services.rims.get(unquote(self.path).removeprefix("/v1/rim/"))
                body = {"id": "SIMULATED", "rim": base64.b64encode(rim or b"").decode(), "sha256": ""}
                services._send(self, 200 if rim else 404, json.dumps(body).encode() if rim else b"", "application/json")

            def do_POST(self) -> None:
                services.asked.append(("POST", self.headers.get("Content-Type", "")))
                body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
                request = ocsp.load_der_ocsp_request(body)
                services.requests.append(request)
                getattr(services, f"_mode_{services.mode}")(self, services.status(request.serial_number))

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.server.block_on_close = False
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_address[1]}"

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()

    def _send(self, handler: BaseHTTPRequestHandler, status: int, body: bytes, kind: str, **headers: str) -> None:
        handler.send_response(status)
        changed = {name.replace("_", "-"): value for name, value in headers.items()}
        for name, value in {"Content-Type": kind, "Content-Length": str(len(body)), **changed}.items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(body)

    def _answer(self, handler: BaseHTTPRequestHandler, answer: bytes, **headers: str) -> None:
        self._send(handler, 200, answer, "application/ocsp-response", **headers)

    def _mode_plain(self, handler: BaseHTTPRequestHandler, answer: bytes | None) -> None:
        self._answer(handler, answer or UNAUTHORIZED.public_bytes(Encoding.DER))

    def _mode_error(self, handler: BaseHTTPRequestHandler, _answer: bytes | None) -> None:
        self._send(handler, 500, b"no", "text/plain")

    def _mode_elsewhere(self, handler: BaseHTTPRequestHandler, _answer: bytes | None) -> None:
        self._send(handler, 302, b"", "text/plain", Location="http://127.0.0.1:9/")

    def _mode_page(self, handler: BaseHTTPRequestHandler, _answer: bytes | None) -> None:
        self._send(handler, 200, b"<html>sign in to this network</html>", "text/html")

    def _mode_cut(self, handler: BaseHTTPRequestHandler, answer: bytes | None) -> None:
        self._answer(handler, (answer or b"")[:-1])

    def _mode_broken_off(self, handler: BaseHTTPRequestHandler, answer: bytes | None) -> None:
        self._answer(handler, answer or b"", Content_Length="9999")
        handler.close_connection = True

    def _mode_packed(self, handler: BaseHTTPRequestHandler, answer: bytes | None) -> None:
        self._answer(handler, answer or b"", Content_Encoding="gzip")

    def _mode_silent(self, handler: BaseHTTPRequestHandler, _answer: bytes | None) -> None:
        time.sleep(1.5)
        handler.close_connection = True

    def _mode_dripping(self, handler: BaseHTTPRequestHandler, _answer: bytes | None) -> None:
        self._send(handler, 200, b"", "application/ocsp-response", Content_Length="1000")
        try:
            for _ in range(60):
                handler.wfile.write(b"\x30")
                time.sleep(0.05)
        except OSError:
            pass

    def _mode_endless(self, handler: BaseHTTPRequestHandler, _answer: bytes | None) -> None:
        self._send(handler, 200, b"", "application/ocsp-response", Content_Length=str(1 << 30))
        try:
            for _ in range(1 << 10):
                handler.wfile.write(bytes(1 << 16))
        except OSError:
            pass
