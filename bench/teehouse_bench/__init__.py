# SPDX-License-Identifier: Apache-2.0
"""The benches of Teehouse: the sealed path measured beside the plain one, in one run, in turns. Not a product wheel."""
