# SPDX-License-Identifier: Apache-2.0
"""Dry run: which of today's nodes would receive a key, and why not. It releases nothing and writes no entry.

Bundles come from the caller, or are the newest that this service saw in requests for the tenant's keys, judged as of
the time they came (`at`). A stored bundle proves no freshness; a real release asks for a fresh one.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

from teehouse_core.errors import MalformedError
from teehouse_core.evidence.bundle import Bundle
from teehouse_core.wire.canonical import unb64u
from teehouse_core.wire.fields import Fields
from teehouse_enclave.keys.commands import authorise_read, parse_command
from teehouse_enclave.keys.desk import Desk
from teehouse_enclave.keys.errors import KeysError
from teehouse_enclave.keys.policy import ReleasePolicy
from teehouse_enclave.keys.release import ReleaseDesk, judge

__all__ = ["MAX_BUNDLES", "dry_run"]

MAX_BUNDLES: Final = 64


async def dry_run(desk: Desk, releases: ReleaseDesk, document: Any) -> dict[str, Any]:
    """`{"read": <signed read command>, "ring", "key"}` or `{"read", "policy"}`; `bundles` optional, all b64u.

    With `policy` (the text of a release policy) a tenant tries a policy before it sets it. Raises KeysError.
    """
    try:
        top = Fields(document, "dry run")
        read = parse_command(top.take("read", dict))
        text = top.octets("policy") if top.has("policy") else b""
        ring, key = (top.text("ring"), top.text("key")) if top.has("ring") else ("", "")
        given = top.items("bundles", 0, MAX_BUNDLES) if top.has("bundles") else None
        top.done()
        raws = [unb64u(item) for item in given if isinstance(item, str)] if given is not None else None
    except MalformedError as error:
        raise KeysError("malformed", f"the dry run does not parse: {error.code}", hint=error.message) from None
    now = desk.now()
    tenant = read.command.tenant
    state = authorise_read(desk.service.state(tenant), read, desk.keys.digests(now), now)
    if text:
        policy = ReleasePolicy.parse(text)
    else:
        found = state.key(ring, key)
        if found is None:
            raise KeysError("unknown-key", "no such key")
        policy = ReleasePolicy.stored(found.policy)
    source = "given" if raws is not None else "last-seen"
    bundles = [(raw, now) for raw in raws] if raws is not None else releases.last_seen(tenant)
    results = [await asyncio.to_thread(_try, raw, policy, at) for raw, at in bundles]
    return {"policy": policy.id, "policy_sha256": policy.sha256, "evidence": source, "results": results}


def _try(raw: bytes, policy: ReleasePolicy, at: int) -> dict[str, Any]:
    try:
        bundle = Bundle.parse(raw)
    except MalformedError as error:
        failed = [{"id": "bundle", "hint": f"not an evidence bundle: {error.code}"}]
        return {"would_receive": False, "failed_checks": failed}
    judgement = judge(bundle, policy, at, None)
    # A node makes its one-time key for the release itself; that this bundle has another keyset says nothing.
    failed = [{"id": check, "hint": hint} for check, hint in judgement.failed if check not in ("release.one-time-key",)]
    return {
        "endpoint": bundle.keyset.endpoint,
        "node": bundle.keyset.node,
        "keyset_sha256": bundle.keyset.sha256,
        "evidence_sha256": bundle.sha256,
        "tier": judgement.tier,
        "at": at,
        "would_receive": not failed,
        "failed_checks": failed,
    }
