# SPDX-License-Identifier: Apache-2.0
"""Who may command, and what becomes of it: parse → authorise → Change (spec/07-keys.md §4).

A command is taken when (1) it is well formed, (2) it was made for a keyset of this service that is current, (3) it has
not expired, (4) m distinct keys of the admin set of its scope signed it, (5) its seq is the next one of that scope,
and (6) what it asks is possible. A stranger learns from a refusal nothing that is not in the request: to somebody whose
signature no admin set holds, every tenant is unknown. A refused command changes nothing.

Calls of existing clients are unsigned; they reach keys of their own account's tenant only, all of them marked weak.
What the service does by itself (the end of a grace period, a pool's next version) is here too.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass, field
from typing import Any, Final

from teehouse_core.errors import LocalError, MalformedError
from teehouse_core.seal.commands import valid_signers
from teehouse_core.wire.commands import (
    READ_OP,
    AdminSet,
    Command,
    CommandRequest,
    parse_command_request,
    tenant_id,
)
from teehouse_core.wire.labels import hash_label
from teehouse_enclave.keys import ops
from teehouse_enclave.keys.codec import labels_json, read_labels
from teehouse_enclave.keys.errors import KeysError
from teehouse_enclave.keys.fold import CommandMark, build_delta
from teehouse_enclave.keys.model import COMPAT, NO_END, SCHEDULED, Change, EntryDraft, Ring, State
from teehouse_enclave.keys.ops import Call, Tools

__all__ = [
    "COMPAT_OPS",
    "MAX_COMMAND_LIFE",
    "MAX_READ_LIFE",
    "SERVICE",
    "CompatCall",
    "Tools",
    "authorise",
    "authorise_read",
    "compat_change",
    "compat_tenant",
    "compat_tenant_id",
    "due",
    "parse_command",
    "rotate_pool",
]

MAX_COMMAND_LIFE: Final = 7 * 86400  # seconds from now to expires_at; m people on several continents must sign
MAX_READ_LIFE: Final = 300  # seconds; a read command has no seq, so only this ends its use
SERVICE: Final = "service"
"""The actor of what the service does by itself."""
COMPAT_OPS: Final = (
    "ring.create",
    "key.create",
    "key.expect",
    "key.import",
    "key.rotate",
    "key.policy",
    "key.disable",
    "key.enable",
    "key.destroy",
    "key.cancel-destroy",
)
"""What an existing client may ask unsigned. Its export is a release: it needs evidence.

`key.expect` announces an import that comes in a second call: a key without versions."""


def parse_command(document: Any) -> CommandRequest:
    """The JSON body of `POST /v1/commands`, parsed. Raises `KeysError` (`malformed`)."""
    try:
        return parse_command_request(document)
    except MalformedError as error:
        raise KeysError("malformed", f"the command does not parse: {error.code}", hint=error.message) from None


def authorise(
    state: State | None,
    request: CommandRequest,
    tks_keyset_digests: Set[str],
    now: int,
    tools: Tools,
) -> Change:
    """Decide one command. `state` is None for an unknown tenant, `tks_keyset_digests` are hex. Raises `KeysError`.

    Key generation and unsealing happen here, so it may take seconds; nothing is stored before the change is committed.
    """
    command = request.command
    _check_current(command, tks_keyset_digests, now, MAX_COMMAND_LIFE)  # (2) (3)
    if command.op == READ_OP:
        raise KeysError("bad-args", "a read is no command", hint="ask for the state instead")
    if command.op == "tenant.create":
        return _create_tenant(state, request, now)
    state, ring, actors = _signed(state, request)  # (4)
    scope = state if ring is None else ring
    if command.sha256 == scope.last_command:
        raise KeysError("replayed", "this command was taken before", hint="look for its digest in the audit log")
    if command.seq != scope.seq + 1:  # (5)
        raise KeysError("wrong-seq", "another command came before", hint=f"the next seq is {scope.seq + 1}")
    call = Call(
        state=state,
        ring=ring,
        op=command.op,
        args=command.args,
        payload=request.payload,
        mark=CommandMark(command.ring, command.seq, command.sha256),
        actors=actors,
        request_sha256=command.sha256,
        now=now,
        tools=tools,
    )
    return ops.perform(call)  # (6)


def authorise_read(state: State | None, request: CommandRequest, tks_keyset_digests: Set[str], now: int) -> State:
    """The state, for one who proves to be an admin of the tenant or of any ring in it. Raises `KeysError`."""
    command = request.command
    _check_current(command, tks_keyset_digests, now, MAX_READ_LIFE)
    if command.op != READ_OP or command.seq != 0 or command.ring or command.args:
        raise KeysError("bad-args", "this is no read", hint=f'op "{READ_OP}", seq 0, ring "", args {{}}')
    if state is None or not _signers(request, _everybody(state)):
        raise _unknown_tenant()
    return state


def due(state: State, now: int) -> list[Change]:
    """What time has brought about: keys past their grace, versions past their end. Each is to be committed."""
    changes = []
    for ring, key in state.all_keys():
        living = [version for version in key.versions if not version.destroyed]
        if key.state == SCHEDULED:
            if key.destroy_at <= now:
                changes.append(ops.destroyed("key.destroyed", ring, key, living, SERVICE))
        else:  # the current version never ends by itself, or a key would end without a word of its admins
            over = [v for v in living if v is not key.current and v.opens_until != NO_END and v.opens_until <= now]
            if over:
                changes.append(ops.destroyed("version.destroyed", ring, key, over, SERVICE))
    return changes


def rotate_pool(state: State, endpoint: str, now: int, tools: Tools) -> Change:
    """The next version of a pool's key, as `pool.create` commanded for every epoch. Raises `KeysError`."""
    pool = state.pools.get(endpoint)
    if pool is None:
        raise KeysError("unknown-pool", "no pool for this endpoint")
    args = {
        "key": pool.key,
        "overlap_seconds": pool.overlap_seconds,
        "keep_old": False,
        "hpke_kid": "",
        "payload_sha256": "",
        "public_sha256": "",
    }
    ring = state.rings[pool.ring]
    return ops.perform(Call(state, ring, "key.rotate", args, b"", None, (SERVICE,), "", now, tools))


@dataclass(frozen=True, slots=True)
class CompatCall:
    """An unsigned call of an existing client. `auth` says what was checked: `v4` (a signature by the access key) or
    `app-id` (a claim). `args` as of the command; `material` are the key bytes of an import, already opened."""

    account: str
    auth: str
    op: str
    ring: str
    args: Mapping[str, Any] = field(repr=False)
    material: bytes = field(default=b"", repr=False)


def compat_tenant_id(account: str) -> str:
    """The tenant of an account: "c-" and hex of the first 16 bytes of SHA-256(L("tks compat tenant") ‖ account)."""
    return "c-" + hash_label("tks compat tenant", account.encode())[:16].hex()


def compat_tenant(account: str, now: int) -> Change:
    """The first change of an account's tenant: without admin keys, so no signed command ever reaches it."""
    body = {
        "tenant": compat_tenant_id(account),
        "admins": AdminSet(0, ()).to_json(),
        "created_at": now,
        "labels": {},
        "compat_account": account,
    }
    entry = EntryDraft("tenant.create", "done", actors=(SERVICE,), reason="compat, weak")
    return Change(entry, build_delta("tenant", body, None), result={"tenant": compat_tenant_id(account)})


def compat_change(state: State, call: CompatCall, now: int, tools: Tools) -> Change:
    """Decide a call of an existing client on its own account's tenant. Raises `KeysError`."""
    if state.compat_account != call.account or not call.account or call.auth not in ("v4", "app-id"):
        raise _unknown_tenant()
    if call.op not in COMPAT_OPS:
        raise KeysError("unsigned-not-allowed", "this needs admin signatures")
    ring = None
    if call.op != "ring.create":
        ring = state.rings.get(call.ring)
        if ring is None or ring.usage != COMPAT:
            raise KeysError("unknown-ring", "no such ring")
    actors = (f"{call.auth} {call.account}"[:256],)
    return ops.perform(Call(state, ring, call.op, call.args, call.material, None, actors, "", now, tools))


def _create_tenant(state: State | None, request: CommandRequest, now: int) -> Change:
    command = request.command
    with ops.arguments(command.args) as args:
        admins, labels = AdminSet.read(args.fields("admins")), read_labels(args)
        args.octets("nonce", 16)  # so that one admin set can have several tenants
        args.done()
    if command.ring or command.seq != 1:
        raise KeysError("bad-args", "a tenant begins with seq 1 and no ring")
    if command.tenant != _derived(command.args):
        raise KeysError("tenant-id", "the id does not follow from the arguments")
    signers = _signers(request, admins)
    if len(signers) < admins.threshold:
        raise _too_few(signers, admins)
    if state is not None:
        raise KeysError("tenant-exists", "the tenant exists", hint="its first command was taken before")
    body = {
        "tenant": command.tenant,
        "admins": admins.to_json(),
        "created_at": now,
        "labels": labels_json(labels),
        "compat_account": "",
    }
    entry = EntryDraft(command.op, "done", actors=_names(signers, admins), request_sha256=command.sha256)
    delta = build_delta("tenant", body, CommandMark("", 1, command.sha256))
    return Change(entry, delta, result={"tenant": command.tenant})


def _derived(args: Mapping[str, Any]) -> str:
    try:
        return tenant_id(args)
    except LocalError:
        raise KeysError("bad-args", "the arguments are no canonical JSON") from None


def _check_current(command: Command, digests: Set[str], now: int, life: int) -> None:
    if command.tks_keyset_sha256 not in digests:
        raise KeysError("unknown-keyset", "made for another keyset than those in use", hint="appraise the service anew")
    if command.expires_at < now:
        raise KeysError("expired", "the command has expired", hint="sign it again; check this machine's clock")
    if command.expires_at > now + life:
        raise KeysError("expires-too-late", "the command would live too long", hint=f"at most {life} seconds")


def _signed(state: State | None, request: CommandRequest) -> tuple[State, Ring | None, tuple[str, ...]]:
    """The scope that a command may change, and who signed. Strangers see nothing, admins see what is missing."""
    command = request.command
    if state is None or state.tenant != command.tenant or not _signers(request, everybody := _everybody(state)):
        raise _unknown_tenant()
    ring = state.rings.get(command.ring)
    if command.ring and ring is None:
        raise KeysError("unknown-ring", "no such ring")
    admins = state.admins if ring is None else ring.admins
    signers = _signers(request, admins)
    if not signers and ring is not None and not _signers(request, state.admins):
        raise KeysError("unknown-ring", "no such ring")  # an admin of another ring only
    if len(signers) < admins.threshold or not admins.keys:
        raise _too_few(signers, admins)
    return state, ring, _names(signers, everybody)


def _everybody(state: State) -> AdminSet:
    keys = {key.pk: key for ring in state.rings.values() for key in ring.admins.keys}
    keys.update({key.pk: key for key in state.admins.keys})
    return AdminSet(0, tuple(keys.values()))


def _signers(request: CommandRequest, admins: AdminSet) -> frozenset[str]:
    return valid_signers(request.command.raw, request.signatures, admins.by_kid())


def _names(signers: frozenset[str], admins: AdminSet) -> tuple[str, ...]:
    """Who signed, for the opening: their names and key ids, in a fixed order."""
    return tuple(sorted(f"{key.name or 'admin'} {key.kid}" for key in admins.keys if key.kid in signers))[:16]


def _too_few(signers: frozenset[str], admins: AdminSet) -> KeysError:
    text = f"{len(signers)} of {admins.threshold} signatures"
    return KeysError("not-enough-signatures", text, hint="collect more approvals of this very command")


def _unknown_tenant() -> KeysError:
    return KeysError("unknown-tenant", "no such tenant", hint="or no admin key of it signed this")
