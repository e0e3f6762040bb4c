# SPDX-License-Identifier: Apache-2.0
"""The part of an Appraisal Policy that speaks of pool keys and the key service: the table `pool`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from teehouse_core.appraise.policy_fields import Reader, digests, flag, table

__all__ = ["PoolPolicy", "read_pool"]


@dataclass(frozen=True, slots=True)
class PoolPolicy:
    """Which pools are accepted, when `Policy.roles` lists `pool`. Empty: none, as in every preset.

    The key service itself is appraised by the rest of the policy, with the Reference Values of `Policy.key_service`;
    without `references_required` those that are empty ask for nothing.
    """

    release_policies: tuple[str, ...] = ()  # hex SHA-256 of release policies: who else may hold the key
    references_required: bool = True

    def to_json(self) -> dict[str, Any]:
        return {"release_policies": list(self.release_policies), "references_required": self.references_required}


def read_pool(name: str, item: Any, current: PoolPolicy) -> PoolPolicy:
    """`current` changed by the members of `item`. Raises `LocalError` (`policy-field`, `policy-value`)."""
    return table(name, item, current, _READERS)


_READERS: Final[dict[str, Reader]] = {"release_policies": digests(32), "references_required": flag}
