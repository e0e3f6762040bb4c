# SPDX-License-Identifier: Apache-2.0
"""Settings of everything that runs on the user's machine; each value remembers where it came from.

Order: arguments > environment (`TEEHOUSE_*`) > config file > defaults. Nothing is read at import, only in
`Settings.load`. The default policy is `strict`; `evaluate` (which accepts simulated evidence) is in force only where
the user wrote it.
"""

from __future__ import annotations

import ipaddress
import os
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import platformdirs

from teehouse_core.appraise.policy import PRESETS, Policy
from teehouse_core.errors import LocalError
from teehouse_core.seal.inner import DEFAULT_FLUSH_MS, MAX_FLUSH_MS, SHAPES, InnerOptions, Shape
from teehouse_core.wire.apikey import account_of
from teehouse_core.wire.fields import ENDPOINT
from teehouse_core.wire.header import MAX_CANDIDATES

__all__ = ["ENV_PREFIX", "Settings", "config_file", "is_loopback", "load_policy"]

ENV_PREFIX: Final = "TEEHOUSE_"
CONFIG_ENV: Final = "TEEHOUSE_CONFIG"  # another config file than the user's own
DEFAULT_POLICY: Final = "strict"
MAX_SECONDS: Final = 24 * 3600.0
MAX_FILE: Final = 256 * 1024  # bytes of a config or policy file


@dataclass(frozen=True, slots=True)
class Settings:
    """One process's settings. Make it with `Settings.load`; times are seconds."""

    base_url: str | None = None
    """The gateway, without a trailing `/v1`."""
    api_key: str | None = field(default=None, repr=False)
    """The platform's key; it travels only in the outer `Authorization` to the gateway."""
    endpoint: str | None = None
    """The endpoint for requests whose `model` names none."""
    policy: Policy = field(default_factory=lambda: Policy.preset(DEFAULT_POLICY), repr=False)
    policy_from: str = DEFAULT_POLICY
    """The preset's name or the file that `policy` was read from."""
    candidates: int = 2
    """Nodes that each request is sealed to; each can read it (PROTOCOL §3.1)."""
    shape: Shape = "pad"
    flush_ms: int = DEFAULT_FLUSH_MS
    connect_seconds: float = 10.0
    first_byte_seconds: float = 300.0
    """Longest wait for an answer to begin: queueing and, for long prompts, prefill."""
    idle_seconds: float = 60.0
    """Longest silence inside an answer; nodes break it at least every 10 s with a cover record."""
    allow_http: bool = False
    """Whether the API key may travel over plain HTTP to another machine."""
    ca_file: str | None = None
    """PEM file of the certificate authority of the gateway, when it is a private one."""
    collateral_state: bool = True
    """Whether the newest collateral seen is remembered between runs (older one refuses); else for one session."""
    cache_dir: Path = Path()
    state_dir: Path = Path()
    """Where it is remembered which checkpoints of which logs were seen; shared with `teehouse audit`."""
    sources: Mapping[str, str] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def load(
        cls, *, environ: Mapping[str, str] | None = None, file: Path | str | None = None, **given: Any
    ) -> Settings:
        """Read settings. `given` are arguments by field name, None is not given; `environ` defaults to the process's.

        Raises `LocalError`: `setting-unknown`, `setting-value`, `config-file`, and what a policy file raises.
        """
        env = os.environ if environ is None else environ
        table, path = _read_file(env, file)
        _known(given, "argument")
        values: dict[str, Any] = {}
        sources: dict[str, str] = {}
        for name, read in _READERS.items():
            raw, source = _pick(name, given, env, table, path)
            if source == "default":
                sources[name] = source
                continue
            values[name] = read(name, raw)
            sources[name] = source
            if name == "policy":
                values["policy_from"] = "a Policy object" if isinstance(raw, Policy) else str(raw)
        values.setdefault("cache_dir", platformdirs.user_cache_path("teehouse"))
        values.setdefault("state_dir", platformdirs.user_state_path("teehouse"))
        return cls(**values, sources=sources)

    def describe(self) -> list[tuple[str, str, str]]:
        """(name, value as shown, source) of every setting; secrets are masked."""
        rows = []
        for name in _READERS:
            value = getattr(self, name)
            if name == "api_key":
                shown = "" if value is None else _mask(value)
            elif name == "policy":
                shown = f"{self.policy_from} (sha256 {self.policy.digest[:16]}…)"
            else:
                shown = "" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
            rows.append((name, shown, self.sources.get(name, "argument")))
        return rows

    @property
    def options(self) -> InnerOptions:
        """How answers are to be cut into records."""
        return InnerOptions(self.shape, self.flush_ms)

    def need_base_url(self) -> str:
        """The gateway. Raises `LocalError` (`base-url-missing`, `base-url-insecure`)."""
        if self.base_url is None:
            raise LocalError(
                "no gateway is set",
                code="base-url-missing",
                hint="set base_url or TEEHOUSE_BASE_URL",
            )
        parts = urlsplit(self.base_url)
        if parts.scheme == "http" and not self.allow_http and not is_loopback(parts.hostname or ""):
            raise LocalError(
                "the gateway's address is plain HTTP to another machine, which would show the API key",
                code="base-url-insecure",
                hint="use https, or set allow_http where the network is your own",
            )
        return self.base_url

    def need_api_key(self) -> str:
        """The platform's API key. Raises `LocalError` (`api-key-missing`, `api-key-form`)."""
        if self.api_key is None:
            raise LocalError("no API key is set", code="api-key-missing", hint="set api_key or TEEHOUSE_API_KEY")
        account_of(self.api_key)
        return self.api_key

    def need_endpoint(self) -> str:
        """The default endpoint. Raises `LocalError` (`endpoint-missing`)."""
        if self.endpoint is None:
            raise LocalError(
                "no endpoint is set",
                code="endpoint-missing",
                hint="name it as the model (ep-…), or set endpoint or TEEHOUSE_ENDPOINT",
            )
        return self.endpoint


def config_file() -> Path:
    """The user's own config file."""
    return platformdirs.user_config_path("teehouse") / "config.toml"


def is_loopback(host: str) -> bool:
    """Whether `host` is a loopback address literal or `localhost`."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def load_policy(value: Policy | str | Path) -> Policy:
    """A policy from an object, a preset's name, or the path of a .toml or .json file. Raises `LocalError`."""
    if isinstance(value, Policy):
        return value
    if isinstance(value, str) and value in PRESETS:
        return Policy.preset(value)
    path = Path(value)
    kind = path.suffix.lower().removeprefix(".")
    if kind not in ("toml", "json"):
        raise LocalError(
            f"{str(value)!r} is no policy",
            code="policy-preset",
            hint=f"give one of {', '.join(PRESETS)}, or the path of a .toml or .json file",
        )
    return Policy.load(_read_text(path, "policy-file"), kind)


def _read_text(path: Path, code: str) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE + 1)
        if len(data) > MAX_FILE:
            raise LocalError(f"{path} is larger than {MAX_FILE} bytes", code=code)
        return data.decode("utf-8")
    except OSError as error:
        raise LocalError(f"cannot read {path}: {error.strerror}", code=code) from None
    except UnicodeDecodeError:
        raise LocalError(f"{path} is not UTF-8 text", code=code) from None


def _read_file(env: Mapping[str, str], given: Path | str | None) -> tuple[Mapping[str, Any], Path | None]:
    named = given if given is not None else env.get(CONFIG_ENV)
    path = Path(named) if named else config_file()
    if not named and not path.is_file():
        return {}, None
    try:
        table = tomllib.loads(_read_text(path, "config-file"))
    except tomllib.TOMLDecodeError as error:
        raise LocalError(f"{path} is not TOML", code="config-file", hint=str(error)[:200]) from None
    _known(table, str(path))
    return table, path


def _known(names: Mapping[str, Any], where: str) -> None:
    for name in names:
        if name not in _READERS:
            raise LocalError(
                f"no setting {name!r} ({where})", code="setting-unknown", hint=f"settings are: {', '.join(_READERS)}"
            )


def _pick(
    name: str, given: Mapping[str, Any], env: Mapping[str, str], table: Mapping[str, Any], path: Path | None
) -> tuple[Any, str]:
    if given.get(name) is not None:
        return given[name], "argument"
    variable = ENV_PREFIX + name.upper()
    if env.get(variable):
        return env[variable], f"environment {variable}"
    if name in table:
        return table[name], f"config file {path}"
    return None, "default"


def _mask(secret: str) -> str:
    """The public account id and nothing of the secret."""
    try:
        return f"sk-th-{account_of(secret)}-…"
    except LocalError:
        return "…"


def _bad(name: str, want: str) -> LocalError:
    return LocalError(f"setting {name} has a wrong value", code="setting-value", hint=f"{name} is {want}")


def _url(name: str, value: Any) -> str:
    if isinstance(value, str):
        text = value.strip().rstrip("/").removesuffix("/v1").rstrip("/")
        try:
            parts = urlsplit(text)
            ok = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
        except ValueError:
            ok = False
        if ok and text.isascii() and text.isprintable() and not (parts.query or parts.fragment or parts.username):
            return text
    raise _bad(name, "an http or https address without query and credentials")


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str) or not value.isascii() or not value.isprintable() or len(value) > 4096:
        raise _bad(name, "a printable text")
    return value


def _secret(name: str, value: Any) -> str:
    return _text(name, value).strip()


def _endpoint(name: str, value: Any) -> str:
    if not isinstance(value, str) or not ENDPOINT.fullmatch(value):
        raise _bad(name, "an endpoint id (letters, digits, hyphens)")
    return value


def _policy(_name: str, value: Any) -> Policy:
    if not isinstance(value, Policy | str | Path):
        raise _bad("policy", "a preset's name, the path of a file, or a Policy")
    return load_policy(value)


def _whole(low: int, high: int) -> Callable[[str, Any], int]:
    def read(name: str, value: Any) -> int:
        if isinstance(value, str) and value.strip().isdigit() and len(value) < 10:
            value = int(value)
        if type(value) is not int or not low <= value <= high:
            raise _bad(name, f"a whole number from {low} to {high}")
        return value

    return read


def _seconds(name: str, value: Any) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = -1.0
    if isinstance(value, bool) or not 0 < number <= MAX_SECONDS:
        raise _bad(name, f"a number of seconds up to {MAX_SECONDS:.0f}")
    return number


def _flag(name: str, value: Any) -> bool:
    if isinstance(value, bool):
        return value
    known = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}
    if isinstance(value, str) and value.lower() in known:
        return known[value.lower()]
    raise _bad(name, "true or false")


def _shape(name: str, value: Any) -> Shape:
    for shape in SHAPES:
        if value == shape:
            return shape
    raise _bad(name, " or ".join(SHAPES))


def _path(name: str, value: Any) -> Path:
    if not isinstance(value, str | Path):
        raise _bad(name, "a path")
    return Path(value).expanduser()


_READERS: Final[dict[str, Callable[[str, Any], Any]]] = {
    "base_url": _url,
    "api_key": _secret,
    "endpoint": _endpoint,
    "policy": _policy,
    "candidates": _whole(1, MAX_CANDIDATES),
    "shape": _shape,
    "flush_ms": _whole(0, MAX_FLUSH_MS),
    "connect_seconds": _seconds,
    "first_byte_seconds": _seconds,
    "idle_seconds": _seconds,
    "allow_http": _flag,
    "ca_file": lambda name, value: str(_path(name, value)),
    "collateral_state": _flag,
    "cache_dir": _path,
    "state_dir": _path,
}

if {f.name for f in fields(Settings)} != {*_READERS, "policy_from", "sources"}:  # a field nobody could set
    raise LocalError("settings table and class differ", code="setting-unknown")
