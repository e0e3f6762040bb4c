# SPDX-License-Identifier: Apache-2.0
"""Evidence that a liar can forge because the SIMULATED root's key is public: right in everything but one thing.

The forger copies what an honest node measured, puts its own keys into the keyset and quotes it for the caller's fresh
challenge. Without the one fault the evidence would be accepted: that is what SIMULATED means, and a test says so.
"""

from __future__ import annotations

import base64
import dataclasses
import json
import time
import warnings
from typing import Any

from teehouse_core.evidence.bundle import build_bundle
from teehouse_core.evidence.tdx import TdReport
from teehouse_core.seal.suite import generate_key
from teehouse_core.wire.binding import INTERACTIVE, challenge, devices_digest, report_data
from teehouse_core.wire.canonical import b64u, encode, unb64u
from teehouse_core.wire.keyset import Keyset, key_id
from teehouse_enclave.platform.base import InsecurePlatformWarning
from teehouse_enclave.platform.simulated import SimulatedPlatform

DEBUG = 1  # bit 0 of td_attributes: the host may read the machine's memory
DAYS_60 = 60 * 86_400  # seconds; simulated collateral lives 30 days


class _Forger(SimulatedPlatform):
    """The simulated platform with one field of the report changed."""

    def __init__(self, fields: dict[str, Any], age: float) -> None:
        self._fields = fields
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", InsecurePlatformWarning)
            super().__init__(clock=lambda: time.time() - age)

    def _report(self, report_data: bytes) -> TdReport:
        report = super()._report(report_data)
        if "td_attributes" in self._fields:
            return dataclasses.replace(report, td_attributes=report.td_attributes | self._fields["td_attributes"])
        return dataclasses.replace(report, **self._fields)


def forge(honest: bytes, challenge_text: str, *, age: float = 0.0, bound: bool = True, **fields: Any) -> bytes:
    """A bundle with the forger's own sealing key, on a machine like the honest one but for `fields`.

    `age` makes its collateral that many seconds old; not `bound`: the quote covers the honest keyset instead.
    """
    document = json.loads(honest)
    key, listed = generate_key(), document["keyset"]["hpke"][0]
    honest_digest = Keyset.parse(encode(document["keyset"])).digest
    listed["pk"], listed["kid"] = b64u(key.pk), key_id(key.suite, key.pk)
    raw = encode(document["keyset"])
    value = unb64u(challenge_text)
    platform = _Forger(fields, age)
    for entry in document["workload_log"]:
        platform.extend(entry["event"], base64.b64decode(entry["content"]))
    digest = Keyset.parse(raw).digest if bound else honest_digest
    evidence = platform.collect(report_data(digest, devices_digest([]), challenge(INTERACTIVE, value)))
    return build_bundle(
        endpoint=document["endpoint"],
        node=document["node"],
        keyset=raw,
        challenge_kind=INTERACTIVE,
        challenge_value=value,
        platform_type="simulated",
        report=evidence.report,
        workload_log=platform.workload_log(),
        collateral=evidence.collateral,
    )
