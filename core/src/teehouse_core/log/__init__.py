# SPDX-License-Identifier: Apache-2.0
"""Append-only logs: Merkle trees, checkpoints, proofs, witnesses, in the formats of C2SP (spec/04-log.md).

Pure functions on bytes. `signing` and what stands on it (`quorum`) verify and make signatures; the rest knows hashes
only, so that the untrusted store of a log can use it. Nothing is imported here for the same reason.
"""
