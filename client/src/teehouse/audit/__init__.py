# SPDX-License-Identifier: Apache-2.0
"""An auditor's side of the logs: read, export, verify offline, watch. The ledger that answers is believed nothing."""
