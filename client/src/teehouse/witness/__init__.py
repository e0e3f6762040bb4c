# SPDX-License-Identifier: Apache-2.0
"""`teehouse-witness`: countersigns checkpoints that continue what it signed before, and nothing else (KEYS §4).

Run by users, auditors and others whom the platform's operator does not command: a witness of his counts as none.
"""
