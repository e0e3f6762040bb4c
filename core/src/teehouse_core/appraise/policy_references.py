# SPDX-License-Identifier: Apache-2.0
"""Reference Values in an Appraisal Policy: the tables `references` (nodes) and `key_service` (the key service)."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Final

from teehouse_core.appraise.policy_fields import Reader, digests, names, table

__all__ = ["REFERENCE_NAMES", "References", "read_references"]


@dataclass(frozen=True, slots=True)
class References:
    """Reference Values. An empty list compares nothing; `Policy.required_references` says which may not be empty."""

    mrtd: tuple[str, ...] = ()  # hex SHA-384, as are rtmr0…3
    rtmr0: tuple[str, ...] = ()
    rtmr1: tuple[str, ...] = ()
    rtmr2: tuple[str, ...] = ()
    rtmr3: tuple[str, ...] = ()
    image_sha256: tuple[str, ...] = ()  # hex, as are the two below
    config_sha256: tuple[str, ...] = ()
    weights_sha256: tuple[str, ...] = ()
    release: tuple[str, ...] = ()
    mr_config_id: tuple[str, ...] = ()  # hex SHA-384-sized, as are the two below; what the host set for a TD
    mr_owner: tuple[str, ...] = ()
    mr_owner_config: tuple[str, ...] = ()
    measurement: tuple[str, ...] = ()  # hex SHA-384, an SNP launch digest
    host_data: tuple[str, ...] = ()  # hex, 32 bytes that the host set for an SNP guest

    def to_json(self) -> dict[str, Any]:
        return {name: list(getattr(self, name)) for name in REFERENCE_NAMES}


REFERENCE_NAMES: Final = tuple(f.name for f in dataclasses.fields(References))


def read_references(name: str, item: Any, current: References) -> References:
    """`current` changed by the members of `item`. Raises `LocalError` (`policy-field`, `policy-value`)."""
    return table(name, item, current, {n: _reference(n) for n in REFERENCE_NAMES}, "reference value")


def _reference(name: str) -> Reader:
    if name == "release":
        return names("release names")
    return digests(32 if name in ("image_sha256", "config_sha256", "weights_sha256", "host_data") else 48)
