# SPDX-License-Identifier: Apache-2.0
"""The Trusted Key Service: keys that tenants own, commanded by their signatures, released on evidence (KEYS)."""
