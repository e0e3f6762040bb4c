# SPDX-License-Identifier: Apache-2.0
"""The few TPM 2.0 commands that a node needs, marshalled by hand: no library and no tool of others inside the TCB.

Source: TPM 2.0 Library, Part 3 "Commands" and Part 1 §18 (command and response layout); all big-endian. Works over the
kernel's resource manager (`/dev/tpmrm0`) and over a socket that speaks the bare protocol (swtpm). Authorisation is by
empty passwords; sealing (`tpm2_seal`) adds a policy session.
"""

from __future__ import annotations

import os
import socket
import stat
import struct
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, Protocol

from teehouse_core.errors import LocalError, OperatorError

__all__ = ["AK_TEMPLATE", "PASSWORD", "RH_ENDORSEMENT", "RH_OWNER", "Reader", "Tpm", "TpmError", "Transport"]
__all__ += ["open_transport", "selection", "sized"]


class Transport(Protocol):
    """Sends one whole command, returns one whole response."""

    def __call__(self, command: bytes) -> bytes: ...

    def close(self) -> None: ...


MAX_RESPONSE: Final = 4096  # bytes, TPM2_MAX_RESPONSE_SIZE of the PC Client profile
NV_CHUNK: Final = 512  # bytes of one NV_Read; every TPM allows at least this
MAX_NV: Final = 16 * 1024  # bytes of one NV index
DIGESTS_AT_ONCE: Final = 8  # what one PCR_Read returns at most (Part 2 §10.9.7)
RETRIES: Final = 20  # times that a busy TPM is asked again, with PAUSE between
PAUSE: Final = 0.05  # seconds
TIMEOUT: Final = 30.0  # seconds for one response; a slow discrete TPM makes an RSA key in under ten

RH_OWNER: Final = 0x4000_0001
RH_ENDORSEMENT: Final = 0x4000_000B
_RS_PW: Final = 0x4000_0009
_NO_SESSIONS: Final = 0x8001
_SESSIONS: Final = 0x8002
PASSWORD: Final = struct.pack(">IIHBH", 9, _RS_PW, 0, 0, 0)  # one authorisation, empty password
_BUSY: Final = frozenset({0x0922, 0x0908, 0x090A})  # RETRY, YIELDED, TESTING

_CREATE_PRIMARY: Final = 0x131
_PCR_EVENT: Final = 0x13C
_NV_READ: Final = 0x14E
_QUOTE: Final = 0x158
_FLUSH_CONTEXT: Final = 0x165
_NV_READ_PUBLIC: Final = 0x169
_READ_PUBLIC: Final = 0x173
_GET_RANDOM: Final = 0x17B
_PCR_READ: Final = 0x17E
_PCR_EXTEND: Final = 0x182

_SHA256: Final = 0x000B
_NULL: Final = 0x0010

AK_TEMPLATE: Final = struct.pack(
    ">HHIHHHHHHHH",
    0x0023,  # ECC
    _SHA256,  # name algorithm
    0x0005_0072,  # fixedTPM fixedParent sensitiveDataOrigin userWithAuth restricted sign
    0,  # no policy
    _NULL,  # no symmetric algorithm
    0x0018,  # ECDSA
    _SHA256,
    0x0003,  # P-256
    _NULL,  # no KDF
    0,  # unique x and y are the TPM's to choose
    0,
)
"""TPMT_PUBLIC of our attestation key. As a primary key it is the same at each start until the TPM is cleared."""


class TpmError(OperatorError):
    """The TPM answered with an error; `rc` is TPM_RC (Part 2 §6.6)."""

    default_code = "tpm"

    def __init__(self, message: str, rc: int) -> None:
        super().__init__(f"{message} (TPM_RC 0x{rc:03x})", hint="tpm2_rc_decode explains the number")
        self.rc = rc


class Tpm:
    """One TPM behind one transport. Transient objects that it makes live until `flush`."""

    def __init__(self, transport: Transport, sleep: Callable[[float], None] = time.sleep) -> None:
        self._send = transport
        self._sleep = sleep

    def get_random(self, size: int) -> bytes:
        """Up to `size` bytes (at most a digest's size at once)."""
        return Reader(self.run("GetRandom", _GET_RANDOM, struct.pack(">H", size))).sized()

    def create_primary(self, hierarchy: int, template: bytes = AK_TEMPLATE) -> tuple[int, bytes]:
        """A primary key: its handle, and TPMT_PUBLIC."""
        sensitive = sized(sized(b"") + sized(b""))
        parameters = sensitive + sized(template) + sized(b"") + struct.pack(">I", 0)
        answer = Reader(self.run("CreatePrimary", _CREATE_PRIMARY, struct.pack(">I", hierarchy), parameters))
        handle = answer.uint(4)
        answer.uint(4)  # size of the parameters
        return handle, answer.sized()

    def quote(self, key: int, data: bytes, pcrs: Sequence[int]) -> tuple[bytes, bytes]:
        """TPMS_ATTEST over SHA-256 registers, and TPMT_SIGNATURE by the key's own scheme."""
        parameters = sized(data) + struct.pack(">H", _NULL) + selection(pcrs)
        answer = Reader(self.run("Quote", _QUOTE, struct.pack(">I", key), parameters))
        answer.uint(4)
        return answer.sized(), answer.rest()

    def pcr_read(self, pcrs: Sequence[int]) -> dict[int, bytes]:
        """SHA-256 register values; several commands where one does not return all."""
        found: dict[int, bytes] = {}
        wanted = sorted(pcrs)
        for at in range(0, len(wanted), DIGESTS_AT_ONCE):
            some = wanted[at : at + DIGESTS_AT_ONCE]
            answer = Reader(self.run("PCR_Read", _PCR_READ, selection(some)))
            answer.uint(4)  # update counter
            for _ in range(answer.uint(4)):
                answer.uint(2)
                answer.take(answer.uint(1))
            values = [answer.sized() for _ in range(answer.uint(4))]
            if len(values) != len(some):
                raise LocalError("the TPM has no SHA-256 bank, or not all registers", code="tpm-bank")
            found.update(zip(some, values, strict=True))
        return found

    def pcr_event(self, pcr: int, data: bytes) -> None:
        """Extend a register of every active bank with that bank's hash of `data` (Part 3 §22.4)."""
        self.run("PCR_Event", _PCR_EVENT, struct.pack(">I", pcr), sized(data))

    def pcr_extend(self, pcr: int, digest: bytes) -> None:
        """Extend the SHA-256 bank's register with a digest of 32 bytes (Part 3 §22.2)."""
        self.run("PCR_Extend", _PCR_EXTEND, struct.pack(">I", pcr), struct.pack(">IH", 1, _SHA256) + digest)

    def read_public(self, handle: int) -> bytes:
        """TPMT_PUBLIC of a loaded or persistent object."""
        return Reader(self.run("ReadPublic", _READ_PUBLIC, struct.pack(">I", handle))).sized()

    def nv_read(self, index: int) -> bytes:
        """A whole NV index, by owner authorisation. Raises `TpmError` when there is none."""
        public = Reader(Reader(self.run("NV_ReadPublic", _NV_READ_PUBLIC, struct.pack(">I", index))).sized())
        public.take(4 + 2 + 4)  # index, name algorithm, attributes
        public.sized()
        size = public.uint(2)
        if size > MAX_NV:
            raise LocalError(f"NV index 0x{index:08x} holds {size} bytes", code="tpm-nv")
        data = b""
        while len(data) < size:
            part = struct.pack(">HH", min(NV_CHUNK, size - len(data)), len(data))
            answer = Reader(self.run("NV_Read", _NV_READ, struct.pack(">II", RH_OWNER, index), part))
            answer.uint(4)
            piece = answer.sized()
            if not piece:
                raise LocalError("the TPM returns an empty piece of an NV index", code="tpm-nv")
            data += piece
        return data

    def flush(self, handle: int) -> None:
        """Free a transient object."""
        self.run("FlushContext", _FLUSH_CONTEXT, struct.pack(">I", handle))

    def close(self) -> None:
        """Let go of the device; objects that were not flushed stay where no resource manager frees them."""
        self._send.close()

    def run(
        self, name: str, code: int, handles: bytes, parameters: bytes | None = None, *, auth: bytes = PASSWORD
    ) -> bytes:
        """One command; with `parameters` it carries `auth` for its first handle, an empty password. The answer's body.

        Raises `TpmError`, `LocalError` (`tpm-answer`), `OperatorError` (`tpm-busy`, `tpm-device`).
        """
        tag = _NO_SESSIONS if parameters is None else _SESSIONS
        body = handles if parameters is None else handles + auth + parameters
        command = struct.pack(">HII", tag, 10 + len(body), code) + body
        for _ in range(RETRIES):
            response = self._send(command)
            if len(response) < 10 or struct.unpack_from(">I", response, 2)[0] != len(response):
                raise LocalError("the TPM's answer has another length than it says", code="tpm-answer")
            rc = struct.unpack_from(">I", response, 6)[0]
            if rc == 0:
                return response[10:]
            if rc not in _BUSY:
                raise TpmError(f"TPM2_{name} failed", rc)
            self._sleep(PAUSE)
        raise OperatorError("the TPM stays busy", code="tpm-busy")


def open_transport(path: str) -> Transport:
    """A transport to a TPM device node, or to a unix socket that speaks the bare protocol. Raises `LocalError`."""
    try:
        if stat.S_ISSOCK(Path(path).stat().st_mode):
            return _Socket(path)
        return _Device(os.open(path, os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        hint = "does this machine have a TPM 2.0, and may this process use it?"
        raise LocalError(f"cannot open {path}: {error.strerror}", code="tpm-open", hint=hint) from error


class _Device:
    """The kernel's device node: it takes and gives whole messages."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def __call__(self, command: bytes) -> bytes:
        try:
            os.write(self._descriptor, command)
            return os.read(self._descriptor, MAX_RESPONSE)
        except OSError as error:
            raise OperatorError(f"the TPM device fails: {error.strerror}", code="tpm-device") from error

    def close(self) -> None:
        os.close(self._descriptor)


class _Socket:
    """A stream socket: an answer's header says how long it is."""

    def __init__(self, path: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(TIMEOUT)
        try:
            self._socket.connect(path)
        except OSError:
            self._socket.close()
            raise

    def __call__(self, command: bytes) -> bytes:
        try:
            self._socket.sendall(command)
            head = self._exactly(6)
            size = struct.unpack(">I", head[2:])[0]
            if not 10 <= size <= MAX_RESPONSE:
                raise OperatorError("the TPM's answer is too long", code="tpm-answer")
            return head + self._exactly(size - 6)
        except OSError as error:
            raise OperatorError(f"the TPM's socket fails: {error}", code="tpm-device") from error

    def close(self) -> None:
        self._socket.close()

    def _exactly(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            piece = self._socket.recv(size - len(data))
            if not piece:
                raise OperatorError("the TPM's socket was closed", code="tpm-device")
            data += piece
        return data


def sized(data: bytes) -> bytes:
    return struct.pack(">H", len(data)) + data


def selection(pcrs: Sequence[int]) -> bytes:
    """TPML_PCR_SELECTION of one SHA-256 selection."""
    bits = sum(1 << index for index in set(pcrs))
    return struct.pack(">IHB", 1, _SHA256, 3) + bits.to_bytes(3, "little")


class Reader:
    """A cursor over an answer; what is missing is the TPM's fault."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def take(self, size: int) -> bytes:
        piece = self._data[self._at : self._at + size]
        if len(piece) != size:
            raise LocalError("the TPM's answer ends early", code="tpm-answer")
        self._at += size
        return piece

    def uint(self, size: int) -> int:
        return int.from_bytes(self.take(size), "big")

    def sized(self) -> bytes:
        return self.take(self.uint(2))

    def rest(self) -> bytes:
        """What is left before the session area: a signature has a known form, so its own lengths say where it ends."""
        start = self._at
        scheme = self.uint(2)
        self.uint(2)
        for _ in range(2 if scheme == 0x0018 else 1):
            self.sized()
        return self._data[start : self._at]
