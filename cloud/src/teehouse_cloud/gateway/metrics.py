# SPDX-License-Identifier: Apache-2.0
"""Prometheus metrics of the gateway. No content, no account, no key; endpoint labels only for endpoints that exist."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

__all__ = ["METRICS_TYPE", "Metrics"]

METRICS_TYPE = b"text/plain; version=0.0.4; charset=utf-8"
_FIRST_BYTE_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)  # seconds


class Metrics:
    """One registry per gateway, so that two of them in one test process do not share counters."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "teehouse_gateway_requests",
            "Data plane requests by endpoint and final status (499: the client left before an answer)",
            ("endpoint", "code"),
            registry=self.registry,
        )
        self.in_flight = Gauge("teehouse_gateway_in_flight", "Sealed requests now open", registry=self.registry)
        self.bytes = Counter(
            "teehouse_gateway_bytes", "Sealed bytes copied", ("endpoint", "direction"), registry=self.registry
        )
        self.upstream_failures = Counter(
            "teehouse_gateway_upstream_failures",
            "Attempts on a node that gave no usable answer",
            ("endpoint", "reason"),
            registry=self.registry,
        )
        self.truncated = Counter(
            "teehouse_gateway_truncated",
            "Answers cut after the first byte, by cause",
            ("endpoint", "cause"),
            registry=self.registry,
        )
        self.first_byte = Histogram(
            "teehouse_gateway_first_byte_seconds",
            "From the last request byte to the first answer byte",
            ("endpoint",),
            buckets=_FIRST_BYTE_BUCKETS,
            registry=self.registry,
        )
        self.nodes_ready = Gauge(
            "teehouse_gateway_nodes_ready", "Nodes that answered ready", ("endpoint",), registry=self.registry
        )
        self.usage_records = Counter(
            "teehouse_gateway_usage_records", "Signed usage records pulled from nodes", registry=self.registry
        )
        self.body_bytes = Gauge(
            "teehouse_gateway_body_bytes", "Request bytes now reserved in memory", registry=self.registry
        )

    def render(self) -> bytes:
        """Text exposition."""
        return generate_latest(self.registry)
