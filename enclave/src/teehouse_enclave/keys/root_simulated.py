# SPDX-License-Identifier: Apache-2.0
"""SIMULATED sealing: a key in a file beside the store. It protects nothing and says so.

Whoever reads the folder reads every key. It exists so that demo and tests run the same code without hardware, and it is
refused where the platform is real.
"""

from __future__ import annotations

import os
import secrets
import warnings
from pathlib import Path
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from teehouse_core.errors import LocalError
from teehouse_core.wire.labels import L
from teehouse_enclave.platform.base import InsecurePlatformWarning

__all__ = ["SimulatedBackend"]

MAGIC: Final = b"SIMULATED, INSECURE: key of a Teehouse demo\n"
KEY: Final = 32  # bytes
NONCE: Final = 12
_AAD: Final = L("tks simulated root")


class SimulatedBackend:
    """Implements `RootBackend` with a key file of mode 0600, made when it is missing."""

    name = "simulated"
    simulated = True

    def __init__(self, path: str | Path) -> None:
        text = "the root key is SIMULATED: it lies in a file, and whoever reads the disk reads every key"
        warnings.warn(text, InsecurePlatformWarning, stacklevel=2)
        self._key = _load(Path(path))

    def seal(self, secret: bytes) -> bytes:
        nonce = secrets.token_bytes(NONCE)  # one or two records in a key's life
        return nonce + AESGCM(self._key).encrypt(nonce, secret, _AAD)

    def unseal(self, sealed: bytes) -> bytes:
        try:
            return AESGCM(self._key).decrypt(sealed[:NONCE], sealed[NONCE:], _AAD)
        except (InvalidTag, ValueError):
            text = "the SIMULATED key file is not the one that sealed this root"
            raise LocalError(text, code="root-sealed-elsewhere", hint="bring the file back") from None

    def close(self) -> None:
        """Nothing is held."""


def _load(path: Path) -> bytes:
    try:
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except FileExistsError:
            if path.stat().st_mode & 0o077:
                hint = f"chmod 600 {path.name}"
                raise LocalError("the SIMULATED key file can be read by others", code="root-file", hint=hint) from None
            data = path.read_bytes()
        else:
            data = MAGIC + secrets.token_bytes(KEY)
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
    except OSError as error:
        raise LocalError(f"the SIMULATED key file fails: {error.strerror}", code="root-file") from error
    if not data.startswith(MAGIC) or len(data) != len(MAGIC) + KEY:
        raise LocalError("the SIMULATED key file has another form", code="root-file", hint="it was cut, or is another")
    return data[len(MAGIC) :]
