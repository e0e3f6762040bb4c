# SPDX-License-Identifier: Apache-2.0
"""Alembic scripts of the cloud database."""
