# SPDX-License-Identifier: Apache-2.0
"""Platforms: where evidence comes from. `base` is the interface, each other module one technology."""
