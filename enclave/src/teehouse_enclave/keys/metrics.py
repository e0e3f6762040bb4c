# SPDX-License-Identifier: Apache-2.0
"""Counters of the key service as Prometheus text. No tenant, ring, key, node or address stands in it."""

from __future__ import annotations

from collections import Counter

from teehouse_enclave.keys.service import Service

__all__ = ["Metrics"]


class Metrics:
    """Requests by route and code; releases by decision; what the logs wait for."""

    def __init__(self) -> None:
        self.requests: Counter[tuple[str, str]] = Counter()
        self.active = 0

    def count(self, route: str, code: str) -> None:
        self.requests[(route, code)] += 1

    def text(self, service: Service, *, challenges: int) -> bytes:
        """The exposition, ASCII."""
        lines = ["# TYPE teehouse_keys_requests_total counter"]
        lines += [
            f'teehouse_keys_requests_total{{route="{route}",code="{code}"}} {n}'
            for (route, code), n in sorted(self.requests.items())
        ]
        writers = service.writers.values()
        gauges = {
            "teehouse_keys_active": self.active,
            "teehouse_keys_open_challenges": challenges,
            "teehouse_keys_logs": len(service.writers),
            "teehouse_keys_logs_stalled": len(service.stalled),
            "teehouse_keys_log_backlog": sum(writer.backlog for writer in writers),
            "teehouse_keys_witness_quorum": service.outside.policy.quorum,
        }
        counters = {
            "teehouse_keys_entries_journaled_total": service.journaled,
            "teehouse_keys_journal_commits_total": service.commits,
            "teehouse_keys_checkpoints_published_total": sum(writer.rounds for writer in writers),
        }
        for kind, values in (("gauge", gauges), ("counter", counters)):
            for name, value in values.items():
                lines += [f"# TYPE {name} {kind}", f"{name} {value}"]
        return ("\n".join(lines) + "\n").encode("ascii")
