# SPDX-License-Identifier: Apache-2.0
"""Whose checkpoints a witness looks at: single logs, and writers that open one log after another below a prefix."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from teehouse_core.errors import LocalError, MalformedError
from teehouse_core.log.checkpoint import MAX_ORIGIN
from teehouse_core.log.note import ED25519, VerifierKey

__all__ = ["LogTrust", "read_pair"]


@dataclass(frozen=True, slots=True)
class LogTrust:
    """Keys by origin, and by prefix of origins. An origin below a prefix is taken up when its first checkpoint comes.

    A prefix stands for itself and for everything behind a slash after it: `tks.example` covers `tks.example/tenant/a`
    and not `tks.example.org`. One key service signs each of its logs under the log's own name with one key, so below a
    prefix that key counts under its own name and under the origin's.
    """

    logs: Mapping[str, tuple[VerifierKey, ...]] = field(default_factory=dict)
    prefixes: tuple[tuple[str, VerifierKey], ...] = ()

    @classmethod
    def of(cls, logs: Iterable[tuple[str, VerifierKey]], prefixes: Iterable[tuple[str, VerifierKey]]) -> LogTrust:
        """Raises LocalError for a key that does not sign notes, or an origin that no statement can carry."""
        by_origin: dict[str, tuple[VerifierKey, ...]] = {}
        below = tuple((prefix.rstrip("/"), key) for prefix, key in prefixes)
        for origin, key in (*(pairs := tuple(logs)), *below):
            if key.alg != ED25519:
                raise LocalError(f"the key for {origin!r} is not a log's", code="log-key")
            if not _plain(origin):
                raise LocalError("an origin is 1 to 255 printable ASCII characters", code="log-origin")
        for origin, key in pairs:
            by_origin[origin] = (*by_origin.get(origin, ()), key)
        return cls(by_origin, below)

    def keys_for(self, origin: str) -> tuple[VerifierKey, ...]:
        """The keys any of which must have signed a checkpoint of `origin`; none when it is nobody we know."""
        if not _plain(origin):
            return ()
        found = list(self.logs.get(origin, ()))
        for prefix, key in self.prefixes:
            if origin == prefix or origin.startswith(prefix + "/"):
                found.append(key)
                try:
                    found.append(VerifierKey(origin, key.alg, key.key))
                except MalformedError:
                    continue  # an origin that cannot be the name of a key
        return tuple(found)


def _plain(origin: str) -> bool:
    return origin.isascii() and origin.isprintable() and 0 < len(origin) <= MAX_ORIGIN


def read_pair(text: str) -> tuple[str, VerifierKey]:
    """`ORIGIN=VKEY`, or a VKEY alone, whose name is then the origin. Raises LocalError."""
    origin, equals, vkey = text.partition("=")
    if not equals or "+" in origin:  # base64 may end with "=" too
        origin, vkey = "", text
    try:
        key = VerifierKey.parse(vkey)
    except MalformedError as error:
        hint = "ORIGIN=NAME+HASH+BASE64, as the log's operator publishes it"
        raise LocalError(f"not a log key: {error.message}", code="log-key", hint=hint) from error
    return origin or key.name, key
