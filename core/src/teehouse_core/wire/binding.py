# SPDX-License-Identifier: Apache-2.0
"""What ties evidence to a keyset: challenge, device and report-data digests (PROTOCOL §2)."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence

from teehouse_core.wire.labels import L, hash_label

__all__ = [
    "GPU",
    "INTERACTIVE",
    "KEY_RELEASE",
    "LEDGER",
    "NVSWITCH",
    "challenge",
    "device_nonce",
    "devices_digest",
    "report_data",
]

INTERACTIVE, LEDGER, KEY_RELEASE = 1, 2, 3  # kinds of challenge
GPU, NVSWITCH = 1, 2  # types of device


def challenge(kind: int, value: bytes) -> bytes:
    """challenge = SHA-256(L("challenge") ‖ u8 kind ‖ value), 32 bytes."""
    return hash_label("challenge", bytes([kind]), value)


def devices_digest(devices: Sequence[tuple[int, bytes, bytes]]) -> bytes:
    """Over (type, report, chain) in bundle order, the bytes that the bundle's members decode to; 32 bytes."""
    parts = [struct.pack(">H", len(devices))]
    for kind, report, chain in devices:
        parts += [bytes([kind]), hashlib.sha256(report).digest(), hashlib.sha256(chain).digest()]
    return hash_label("devices", *parts)


def device_nonce(keyset_digest: bytes, challenge_digest: bytes) -> bytes:
    """The nonce that every device report carries: SHA-256(L("device") ‖ keyset_digest ‖ challenge), 32 bytes."""
    return hash_label("device", keyset_digest, challenge_digest)


def report_data(keyset_digest: bytes, devices: bytes, challenge_digest: bytes) -> bytes:
    """REPORT_DATA = SHA-512(L("report-data") ‖ keyset_digest ‖ devices_digest ‖ challenge), 64 bytes."""
    return hashlib.sha512(L("report-data") + keyset_digest + devices + challenge_digest).digest()
