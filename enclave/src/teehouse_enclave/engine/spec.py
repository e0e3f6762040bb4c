# SPDX-License-Identifier: Apache-2.0
"""How a node is told which engine to run: a plain dictionary, parsed once into a frozen value."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from teehouse_core.errors import LocalError

__all__ = ["KINDS", "EngineSpec"]

KINDS = ("llamacpp", "openai-upstream", "echo")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:+/@-]{0,127}")
_HEX = re.compile(r"[0-9a-f]{64}")
# Inclusive ranges; the upper ends are there so that a slip of the keyboard is refused, not obeyed.
_INTS: Mapping[str, tuple[int, int]] = {
    "context": (64, 4_194_304),  # tokens per request
    "parallel": (1, 4096),  # requests at a time
    "queue": (0, 65_536),  # requests waiting
    "threads": (0, 1024),  # 0 = one per physical core, less one for the node
    "batch": (16, 8192),  # tokens of one prefill step; also how often a prefill can be cancelled
    "gpu_layers": (-1, 100_000),  # -1 = all
}
_FLOATS: Mapping[str, tuple[float, float]] = {
    "pace": (0.0, 1_000_000.0),  # tokens per second, 0 = as fast as possible
    "first_token_delay": (0.0, 600.0),  # seconds
    "start_timeout": (0.1, 7200.0),  # seconds
    "stall_timeout": (1.0, 7200.0),  # seconds without a byte
}


@dataclass(frozen=True, slots=True)
class EngineSpec:
    """Which engine, which weights, how much of the machine.

    `llamacpp` needs `path` (a GGUF file) and may have `mmproj`. `openai-upstream` needs `url`, and `weights_sha256` or
    a `path` to hash; `images` and `tools` say what the server behind it can do. `echo` needs nothing.
    """

    kind: str
    name: str = ""  # the model's public name; answers carry it
    path: str | None = None
    mmproj: str | None = None  # image adapter for llama.cpp
    weights_sha256: str | None = None  # expected digest (llamacpp: refused if other), or the upstream's
    context: int = 2048
    parallel: int = 4
    queue: int = 64
    threads: int = 0
    batch: int = 64  # 512 is no faster on a CPU; raise it for image models whose pictures have more tokens
    gpu_layers: int = 0
    url: str | None = None
    upstream_model: str | None = None  # name the upstream knows the model by; `name` if not given
    api_key: str | None = field(default=None, repr=False)  # of the upstream
    images: bool = False
    tools: bool = True
    cache_salt: bool = True  # send vLLM's `cache_salt`, so that tenants share no prefix cache
    pace: float = 0.0
    first_token_delay: float = 0.0
    start_timeout: float = 120.0
    stall_timeout: float = 600.0

    @classmethod
    def parse(cls, raw: Mapping[str, Any]) -> EngineSpec:
        """Check a dictionary. Raises LocalError `engine-spec-*`, naming the member, never its value."""
        known = {one.name for one in fields(cls)}
        for key in raw:
            if key not in known:
                raise LocalError(
                    f"unknown engine setting {key!r}",
                    code="engine-spec-unknown",
                    hint="settings: " + ", ".join(sorted(known)),
                )
        given = {key: value for key, value in raw.items() if value is not None}
        kind = given.get("kind")
        if kind not in KINDS:
            raise _invalid("kind", "one of " + ", ".join(KINDS))
        for key, value in given.items():
            given[key] = _check(key, value)
        given.setdefault("name", "echo" if kind == "echo" else "")
        if kind == "echo":
            given.setdefault("context", 8192)
            given.setdefault("parallel", 1024)
            given.setdefault("images", True)
        spec = cls(**given)
        spec._check_kind()
        return spec

    def _check_kind(self) -> None:
        if not self.name:
            raise _missing("name")
        if self.kind == "llamacpp" and self.path is None:
            raise _missing("path")
        if self.kind == "openai-upstream":
            if self.url is None:
                raise _missing("url")
            if self.weights_sha256 is None and self.path is None:
                raise _missing("weights_sha256", "the keyset must name the weights: give their digest, or a path")


def _check(key: str, value: Any) -> Any:
    if key in _INTS:
        low, high = _INTS[key]
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise _invalid(key, f"a whole number from {low} to {high}")
        return value
    if key in _FLOATS:
        least, most = _FLOATS[key]
        if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
            raise _invalid(key, f"a number from {least:g} to {most:g}")
        return float(value)
    if key in ("images", "tools", "cache_salt"):
        if not isinstance(value, bool):
            raise _invalid(key, "true or false")
        return value
    if not isinstance(value, str) or not value or "\x00" in value:
        raise _invalid(key, "a non-empty string")
    if key == "name" and not _NAME.fullmatch(value):
        raise _invalid(key, "letters, digits and . _ : + / @ -, at most 128")
    if key == "weights_sha256" and not _HEX.fullmatch(value):
        raise _invalid(key, "64 lower-case hex digits")
    return value


def _invalid(key: str, wanted: str) -> LocalError:
    return LocalError(f"engine setting {key!r} is not {wanted}", code="engine-spec-invalid")


def _missing(key: str, hint: str | None = None) -> LocalError:
    return LocalError(f"engine setting {key!r} is missing", code="engine-spec-missing", hint=hint)
