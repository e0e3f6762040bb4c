# SPDX-License-Identifier: Apache-2.0
"""Prometheus metrics of the ledger. No log is named: names of logs are names of tenants."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Histogram

__all__ = ["LedgerMetrics"]

_APPEND_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10)  # seconds


class LedgerMetrics:
    """Registered beside the gateway's, so that one scrape has both."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.requests = Counter(
            "teehouse_ledger_requests",
            "Requests to the ledger by method, noun and final status",
            ("method", "noun", "code"),
            registry=registry,
        )
        self.appended = Counter("teehouse_ledger_appended", "Entries stored for the first time", registry=registry)
        self.append_seconds = Histogram(
            "teehouse_ledger_append_seconds",
            "One append, from its first body byte to the commit",
            buckets=_APPEND_BUCKETS,
            registry=registry,
        )
