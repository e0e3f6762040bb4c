# SPDX-License-Identifier: Apache-2.0
"""Untrusted storage of transparency logs: keeps what TKS appends and serves it. Proves nothing, is believed nothing.

Readers hold every answer against a checkpoint that TKS signed and witnesses countersigned (KEYS §3-4).
"""
