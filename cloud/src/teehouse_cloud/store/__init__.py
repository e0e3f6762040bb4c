# SPDX-License-Identifier: Apache-2.0
"""Database of the cloud: tables, migrations and one module of queries per noun."""
