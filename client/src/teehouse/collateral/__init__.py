# SPDX-License-Identifier: Apache-2.0
"""Fetching endorsements from the vendors' services. The one part of offline verification that uses the network."""
