# SPDX-License-Identifier: Apache-2.0
"""Data plane: bare ASGI callables that copy sealed bytes between clients and nodes, and the nodes' poller."""
