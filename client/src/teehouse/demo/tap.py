# SPDX-License-Identifier: Apache-2.0
"""A byte tap: a TCP relay on loopback between client and gateway that copies every byte it passes on."""

from __future__ import annotations

import contextlib
import socket
import threading
from types import TracebackType
from urllib.parse import urlsplit

__all__ = ["MAX_KEPT", "ByteTap"]

MAX_KEPT = 16 * 1024 * 1024  # bytes kept per direction; a demo question is a few kilobytes
_CHUNK = 65536  # bytes per read


class ByteTap:
    """Use as a context; `url` is where to send instead of the gateway. It sees exactly what the gateway sees."""

    def __init__(self, gateway: str) -> None:
        parts = urlsplit(gateway)
        self._target = (parts.hostname or "127.0.0.1", parts.port or 80)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._lock = threading.Lock()
        self._up, self._down = bytearray(), bytearray()
        self._open: set[socket.socket] = set()
        self._thread = threading.Thread(target=self._accept, daemon=True, name="byte-tap")

    @property
    def sent(self) -> bytes:
        """Every byte from the client to the gateway so far, all connections in the order in which bytes came."""
        with self._lock:
            return bytes(self._up)

    @property
    def received(self) -> bytes:
        """Every byte from the gateway to the client so far."""
        with self._lock:
            return bytes(self._down)

    def clear(self) -> None:
        """Forget what was copied."""
        with self._lock:
            self._up.clear()
            self._down.clear()

    def __enter__(self) -> ByteTap:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        with self._lock:
            open_now = list(self._open)
        for sock in open_now:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        self._thread.join(2.0)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._relay, args=(client,), daemon=True).start()

    def _relay(self, client: socket.socket) -> None:
        try:
            upstream = socket.create_connection(self._target, 5.0)
        except OSError:
            client.close()
            return
        upstream.settimeout(None)
        with self._lock:
            self._open |= {client, upstream}
        back = threading.Thread(target=self._copy, args=(upstream, client, self._down), daemon=True)
        back.start()
        self._copy(client, upstream, self._up)
        back.join()
        with self._lock:
            self._open -= {client, upstream}
        client.close()
        upstream.close()

    def _copy(self, source: socket.socket, target: socket.socket, kept: bytearray) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(_CHUNK):
                with self._lock:
                    kept += data[: max(0, MAX_KEPT - len(kept))]
                target.sendall(data)
        with contextlib.suppress(OSError):
            target.shutdown(socket.SHUT_WR)
