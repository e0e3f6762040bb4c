# SPDX-License-Identifier: Apache-2.0
"""Operator API: registry of endpoints, nodes and keys, behind one bearer token."""
