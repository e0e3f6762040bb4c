# SPDX-License-Identifier: Apache-2.0
"""Doors for existing TKS clients, bit by bit what they send and expect (spec/06-compat.md). All of them weak."""
