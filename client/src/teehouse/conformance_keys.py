# SPDX-License-Identifier: Apache-2.0
"""Stages of the key service for `teehouse-conformance`: commands, what binds keys, policies (spec/07-keys.md)."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import Any

from teehouse.conformance_input import maybe, member, objects, take
from teehouse_core.appraise.release_policy import ReleasePolicy
from teehouse_core.errors import MalformedError
from teehouse_core.seal.commands import valid_signers
from teehouse_core.seal.grant import check_grant
from teehouse_core.wire.canonical import b64u
from teehouse_core.wire.commands import AdminSet, export_info, import_info, parse_command_request, tenant_id
from teehouse_core.wire.fields import Fields
from teehouse_core.wire.grant import ReleaseAnswer, ReleaseRequest, grant_info
from teehouse_core.wire.keyset import Keyset

__all__ = ["KEY_STAGES"]


def _command(given: Mapping[str, Any]) -> dict[str, Any]:
    """Form and signatures; whether the state allows it is the service's to say."""
    document: dict[str, Any] = {"command": b64u(take(given, "command")), "signatures": objects(given, "signatures")}
    if (payload := maybe(given, "payload")) is not None:
        document["payload"] = b64u(payload)
    request = parse_command_request(document)
    admins = AdminSet.read(Fields(member(given, "admins", dict), "admins"))
    command = request.command
    signers = valid_signers(command.raw, request.signatures, admins.by_kid())
    if len(signers) < admins.threshold:
        raise MalformedError("too few admin keys signed", code="not-enough-signatures")
    facts = {"op": command.op, "ring": command.ring, "seq": command.seq, "sha256": command.sha256}
    if command.op == "tenant.create":
        facts["tenant"] = tenant_id(command.args)
        if facts["tenant"] != command.tenant:
            raise MalformedError("the id does not follow from the arguments", code="tenant-id")
    return {**facts, "signers": sorted(signers)}


def _info(given: Mapping[str, Any]) -> dict[str, Any]:
    names = [str(member(given, name, str)) for name in ("tenant", "ring", "key", "algorithm")]
    return {
        "import_info": b64u(import_info(*names)),
        "export_info": b64u(export_info(member(given, "command_sha256", str))),
    }


def _policy(given: Mapping[str, Any]) -> dict[str, Any]:
    policy = ReleasePolicy.parse(take(given, "data"))
    return {"id": policy.id, "sha256": policy.sha256}


def _request(given: Mapping[str, Any]) -> dict[str, Any]:
    data = take(given, "data")
    request = ReleaseRequest.parse(data)
    names = ("tenant", "ring", "key", "version", "pool_keyset_sha256")
    return {"sha256": hashlib.sha256(data).hexdigest(), **{name: getattr(request, name) for name in names}}


def _grant(given: Mapping[str, Any]) -> dict[str, Any]:
    """Everything of an answer but the sealed key, which takes a one-time key to open."""
    answer = ReleaseAnswer.parse(take(given, "answer"))
    grant = check_grant(
        answer,
        request=take(given, "request"),
        requester_keyset_sha256=str(member(given, "requester_keyset_sha256", str)),
        evidence_sha256=str(member(given, "evidence_sha256", str)),
        key_service=Keyset.parse(take(given, "key_service")),
        now=int(member(given, "now", int)),
    )
    return {"algorithm": grant.algorithm, "index": grant.log.index, "info": b64u(grant_info(answer.grant))}


KEY_STAGES: dict[str, Callable[[Mapping[str, Any]], dict[str, Any]]] = {
    "command": _command,
    "key-info": _info,
    "release-policy": _policy,
    "release-request": _request,
    "grant": _grant,
}
