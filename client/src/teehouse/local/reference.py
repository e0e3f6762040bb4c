# SPDX-License-Identifier: Apache-2.0
"""Reference Values of a local platform, computed by its deployer from installed files; and the policy that pins them.

On real hardware `image_sha256` is the digest of the machine image that booted, and the platform measures it. Here
nothing boots: it is the digest of the installed source files of the two wheels that would be inside, over the sorted
lines `package/path ‖ 00 ‖ sha256 ‖ 0A` (the form that EVIDENCE §1 gives to a directory), and the SIMULATED node
repeats what its configuration says.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from teehouse.local.programs import child_environment, find_program, wheel_folder
from teehouse_core.errors import LocalError
from teehouse_core.evidence.replay import event_digest, replay, workload_events

__all__ = [
    "ECHO_WEIGHTS_SHA256",
    "KeyServiceValues",
    "ReferenceValues",
    "config_digest",
    "file_sha256",
    "image_digest",
    "policy_text",
]

MEASURED_PACKAGES: Final = ("teehouse_core", "teehouse_enclave")
# The echo engine has no weights; a digest must stand in the keyset, and this one is of a sentence that says so.
ECHO_WEIGHTS_SHA256: Final = hashlib.sha256(b"teehouse echo engine: there are no weights").hexdigest()
_BLOCK: Final = 1 << 20  # bytes read at a time
_MEASURE_SECONDS: Final = 30.0


# The firmware and boot registers of the simulated machine: constants, published with its form, SHA-384 of their names.
_SIMULATED: Final = {
    name: hashlib.sha384(f"SIMULATED {name}".encode()).hexdigest() for name in ("mrtd", "rtmr0", "rtmr1", "rtmr2")
}


@dataclass(frozen=True, slots=True)
class ReferenceValues:
    """What the nodes of this platform must have measured; all digests are 64 hex digits."""

    release: str
    image_sha256: str
    config_sha256: str
    weights_sha256: str
    model: str

    @property
    def rtmr3(self) -> str:
        """The register that holds the workload log, replayed from these values; 96 hex digits."""
        events = workload_events(
            release=self.release,
            image_sha256=self.image_sha256,
            config_sha256=self.config_sha256,
            weights_sha256=self.weights_sha256,
            model=self.model,
        )
        return replay(event_digest(event, content) for event, content in events).hex()


@dataclass(frozen=True, slots=True)
class KeyServiceValues:
    """What the key service of this platform must have measured; it has no model."""

    release: str
    image_sha256: str
    config_sha256: str

    @property
    def rtmr3(self) -> str:
        """As of `ReferenceValues`."""
        return ReferenceValues(self.release, self.image_sha256, self.config_sha256, "", "").rtmr3


def file_sha256(path: Path) -> str:
    """Hex SHA-256 of a file. Raises `LocalError` (`file-unreadable`)."""
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while block := file.read(_BLOCK):
                digest.update(block)
    except OSError as exc:
        raise LocalError(f"cannot read {path}: {exc.strerror}", code="file-unreadable") from exc
    return digest.hexdigest()


def image_digest() -> str:
    """The digest of what is installed here as core and enclave. Raises `LocalError` (`wheel-missing`)."""
    lines = []
    for package in MEASURED_PACKAGES:
        folder = wheel_folder(package)
        for path in folder.rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts and path.suffix != ".pyc":
                name = f"{package}/{path.relative_to(folder).as_posix()}"
                lines.append(name.encode() + b"\0" + file_sha256(path).encode("ascii") + b"\n")
    return hashlib.sha256(b"".join(sorted(lines))).hexdigest()


def config_digest(config_file: Path) -> str:
    """What a node started with this file will measure as `config_sha256`, 64 hex digits.

    The installed `teehouse-node --measure` computes it and starts nothing: it follows from the program, whose files
    `image_digest` covers, and the file. Raises `LocalError` (`wheel-missing`, `config-refused`).
    """
    command = [str(find_program("teehouse-node")), "--config", str(config_file), "--measure"]
    try:
        done = subprocess.run(  # noqa: S603  our own list, no shell
            command, capture_output=True, text=True, timeout=_MEASURE_SECONDS, env=child_environment(), check=False
        )
    except (OSError, subprocess.TimeoutExpired) as exc:
        raise LocalError("cannot measure the node configuration", code="config-refused") from exc
    try:
        digest = json.loads(done.stdout)["config_sha256"]
    except (ValueError, KeyError, TypeError):
        last = (done.stderr.strip().splitlines() or [""])[-1]
        raise LocalError("the node refuses its configuration", code="config-refused", hint=last[:300] or None) from None
    return str(digest)


def policy_text(values: ReferenceValues, keys: KeyServiceValues | None = None) -> str:
    """A policy file: `evaluate`, which a person chose by starting a simulated platform, with everything pinned."""
    registers = "\n".join(f'{name} = ["{value}"]' for name, value in _SIMULATED.items())
    return f"""\
# Appraisal policy of a local Teehouse platform. SIMULATED hardware is allowed, which protects nothing.
# The reference values were computed on this machine from the installed files, not taken from a node's answer.
base = "evaluate"
name = "evaluate, pinned to this machine's platform"
platforms = ["simulated"]
required_references = [
  "mrtd", "rtmr0", "rtmr1", "rtmr2", "rtmr3",
  "release", "image_sha256", "config_sha256", "weights_sha256",
]

[references]
{registers}
rtmr3 = ["{values.rtmr3}"]
release = [{json.dumps(values.release)}]
image_sha256 = ["{values.image_sha256}"]
config_sha256 = ["{values.config_sha256}"]
weights_sha256 = ["{values.weights_sha256}"]
""" + (_keys_text(keys, registers) if keys is not None else "")


def _keys_text(values: KeyServiceValues, registers: str) -> str:
    return f"""
[pool]
references_required = true

[key_service]
{registers}
rtmr3 = ["{values.rtmr3}"]
release = [{json.dumps(values.release)}]
image_sha256 = ["{values.image_sha256}"]
config_sha256 = ["{values.config_sha256}"]
"""
