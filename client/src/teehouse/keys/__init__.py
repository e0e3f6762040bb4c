# SPDX-License-Identifier: Apache-2.0
"""The tenant's side of the Trusted Key Service: admin keys that stay on this machine, and the commands they sign."""
