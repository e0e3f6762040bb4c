# SPDX-License-Identifier: Apache-2.0
"""What existing clients' calls do to their account's tenant, each by one entry in its log (KEYS §1, §3).

A client's policy (`Rules`) is kept as a label of the key, by the digests of the policies that its ids meant; the key's
own release policy stays "nobody", so that no other door gives such a key out.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_der_private_key

from teehouse_core.wire.labels import hash_label
from teehouse_enclave.keys import algorithms, ops
from teehouse_enclave.keys.algorithms import Material
from teehouse_enclave.keys.codec import labels_json, version_json
from teehouse_enclave.keys.commands import CompatCall, Tools, compat_change, compat_tenant, compat_tenant_id
from teehouse_enclave.keys.compat.accounts import Account
from teehouse_enclave.keys.compat.errors import CompatError
from teehouse_enclave.keys.compat.rules import Decision, Rules
from teehouse_enclave.keys.errors import KeysError, StorageError
from teehouse_enclave.keys.fold import build_delta
from teehouse_enclave.keys.journal import tenant_log
from teehouse_enclave.keys.model import ACTIVE, MAX_VERSIONS, NO_END, Change, EntryDraft, Key, Ring, State, Version
from teehouse_enclave.keys.service import Service
from teehouse_enclave.keys.vault import Vault

__all__ = ["ALGO", "Caller", "Store", "algorithm_of"]

ALGO: Final = "algo"  # labels of a key or ring
NAME: Final = "name"
DESCRIPTION: Final = "description"
SCENARIO: Final = "scenario"
RULES: Final = "rules"
PEM_FORM: Final = "pem"
WEAK: Final = "compat, weak"
RELEASE_OP: Final = "key.release"
_RSA: Final = "rsa4096"
_ALGORITHMS: Final = {
    "SYMMETRIC_256": "aes256",
    "SYMMTRIC_256": "aes256",  # as the client's own type descriptions spell it
    "AES_256": "aes256",
    "AES256": "aes256",
    "SYMMETRIC_128": "aes128",
    "SYMMTRIC_128": "aes128",
    "AES_128": "aes128",
    "AES128": "aes128",
    "RSA": _RSA,
    "RSA_4096": _RSA,
    "RSA4096": _RSA,
    "ASYMMETRIC_RSA_4096": _RSA,
    "EC_P256": "p256",
    "P256": "p256",
    "ECC_P256": "p256",
}


@dataclass(frozen=True, slots=True)
class Caller:
    """Who calls, and how sure that is: `v4` (signed with the access key) or `app-id` (a claim).

    `once` names this call over all its retries; "" when the client did not say.
    """

    account: Account
    auth: str
    request_sha256: str
    once: str = field(default="", repr=False)

    @property
    def tenant(self) -> str:
        return compat_tenant_id(self.account.id)

    @property
    def actor(self) -> str:
        return f"{self.auth} {self.account.id}"

    def fresh_id(self, purpose: str) -> str:
        """An id for a new object: the same for every retry of one call, also after a restart of the service."""
        if not self.once:
            return str(uuid.uuid4())
        parts = "\0".join((self.account.id, purpose, self.once)).encode()
        return str(uuid.UUID(bytes=hash_label("tks compat id", parts)[:16], version=4))


def algorithm_of(algo: str) -> str:
    """Ours for a client's `Algo`. Raises `KeysError` (`wrong-algorithm`)."""
    found = _ALGORITHMS.get(algo.upper().replace("-", "_"))
    if found is None:
        hint = "SYMMETRIC_256, SYMMETRIC_128, RSA_4096 or EC_P256"
        raise KeysError("wrong-algorithm", "no such Algo", hint=hint)
    return found


class Store:
    """The tenants of existing clients behind one `Service`."""

    def __init__(self, service: Service, vault: Vault) -> None:
        self._service = service
        self._vault = vault
        # These calls open nothing that is sealed to the service's keyset and export nothing by command.
        self._tools = Tools(vault, lambda _kid, _info, _sealed: None, lambda _name: None)

    def now(self) -> int:
        return self._service.now()

    def rings(self, caller: Caller) -> list[Ring]:
        """All rings of the caller's account, oldest first."""
        state = self._service.state(caller.tenant)
        return sorted(state.rings.values(), key=lambda ring: (ring.created_at, ring.id)) if state else []

    def ring(self, caller: Caller, ring: str) -> Ring:
        """Raises `KeysError` (`unknown-ring`): for another account's too."""
        state = self._service.state(caller.tenant)
        if state is None or ring not in state.rings:
            raise KeysError("unknown-ring", "no such ring")
        return state.rings[ring]

    def key(self, caller: Caller, ring: str, key: str) -> Key:
        """Raises `KeysError` (`unknown-ring`, `unknown-key`)."""
        found = self.ring(caller, ring).keys.get(key)
        if found is None:
            raise KeysError("unknown-key", "no such key")
        return found

    def find_key(self, caller: Caller, key: str) -> tuple[Ring, Key]:
        """A key by its id alone, as the clients name it in SetTksPolicy."""
        for ring in self.rings(caller):
            if key in ring.keys:
                return ring, ring.keys[key]
        raise KeysError("unknown-key", "no such key")

    async def create_ring(self, caller: Caller, name: str, description: str) -> str:
        """A ring of usage `compat`, with its tenant when it is the account's first. Gives its id."""
        await self._tenant(caller)
        ring = caller.fresh_id("ring")
        labels = labels_json({NAME: name, DESCRIPTION: description})
        args = {"ring": ring, "usage": "compat", "labels": labels}
        try:
            await self._call(caller, "ring.create", "", args)
        except KeysError as error:
            if error.code != "ring-exists" or not caller.once:
                raise
            self._settled(caller)  # an earlier try of this very call made it
        return ring

    async def create_key(self, caller: Caller, ring: str, algo: str, labels: Mapping[str, str], imported: bool) -> str:
        """A key made inside, or announced for an import. Gives its id."""
        self.ring(caller, ring)
        key, algorithm = caller.fresh_id("key"), algorithm_of(algo)
        args = {
            "key": key,
            "algorithm": algorithm,
            "exportable": False,
            "policy": "",
            "labels": labels_json({**labels, ALGO: algo}),
        }
        try:
            if imported:
                await self._call(caller, "key.expect", ring, args)
            elif algorithm == _RSA:
                await self._slow_key(caller, ring, args)
            else:
                await self._call(caller, "key.create", ring, args)
        except KeysError as error:
            if error.code != "key-exists" or not caller.once:
                raise
            self._settled(caller)
        return key

    async def import_key(self, caller: Caller, ring: str, key: str, clear: bytes) -> int:
        """The first or next version of an announced key. Gives its number."""
        expected = self.key(caller, ring, key)
        if expected.source != "imported":
            raise KeysError("wrong-state", "the key was made inside", hint="create it with Source external")
        algorithm = expected.algorithm
        if not expected.versions and clear.lstrip().startswith(b"-----BEGIN"):
            # The clients name no algorithm for the RSA keys that they keep here: the bytes say what it is.
            algorithm = algorithm if algorithm in (_RSA, "p256") else _RSA
        material = await asyncio.to_thread(algorithms.read_key_bytes, algorithm, clear)
        if expected.versions and expected.versions[-1].public_sha256 == material.public_sha256:
            self._settled(caller)  # a retry
            return expected.newest
        if b"BEGIN RSA PRIVATE KEY" in clear and PEM_FORM not in expected.labels:
            await self._label(caller, ring, key, PEM_FORM, "pkcs1", "key.label", "")

        def propose(state: State | None, now: int) -> Change:
            return self._version(caller, _existing(state), ring, key, material, now)

        committed = await self._service.commit(caller.tenant, propose)
        version: int = committed.result["version"]
        return version

    async def set_rules(self, caller: Caller, ring: str, key: str, rules: Rules) -> None:
        """Replace the key's rules."""
        text = rules.to_bytes().decode("ascii")
        if self.key(caller, ring, key).labels.get(RULES) == text:
            self._settled(caller)
            return
        await self._label(caller, ring, key, RULES, text, "key.policy", rules.sha256)

    def rules(self, key: Key) -> Rules:
        """The key's rules; none set means nobody. Raises `StorageError`."""
        text = key.labels.get(RULES, "")
        return Rules.stored(text.encode()) if text else Rules(())

    async def release(
        self, caller: Caller, ring: str, key: str, evidence_sha256: str, decide: Callable[[Rules], Decision]
    ) -> tuple[int, bytes]:
        """Decide, write the entry, wait for its quorum; only then (version, key bytes as clients expect them).

        Raises `CompatError` (`policy-denied`, after the refusal stands in the log), `KeysError`, `StorageError`.
        """
        found = self.key(caller, ring, key)
        if not found.versions:
            raise CompatError("key-empty", "nothing was imported into this key yet")
        rules, version = self.rules(found), found.versions[-1]
        decision = await asyncio.to_thread(decide, rules)
        secret = b""
        if decision.granted and not version.destroyed:
            slot = await self._service.slot(caller.tenant, version.slot)
            secret = self._vault.unwrap((caller.tenant, ring, key, version.number), version, slot)

        def propose(state: State | None, now: int) -> Change:
            """The state may have moved since: then what the rules said is not enough."""
            problem = ""
            try:
                _, held, newest = ops.releasable(_existing(state), ring, key, 0, now)
                if held.labels.get(RULES, "") != found.labels.get(RULES, "") or newest != version:
                    raise KeysError("wrong-state", "the key changed meanwhile")
            except KeysError as error:
                if error.code != "wrong-state":
                    raise
                problem = error.message
            granted = decision.granted and not problem
            entry = EntryDraft(
                RELEASE_OP,
                "granted" if granted else "refused",
                ring=ring,
                key=key,
                version=str(version.number),
                actors=(caller.actor,),
                policy_sha256=rules.sha256,
                evidence_sha256=evidence_sha256,
                request_sha256=caller.request_sha256,
                failed_checks=(*decision.failed, *(["key.state"] if problem else [])),
                reason=WEAK,
                tier=decision.tier if granted else "",
            )
            return Change(entry, None, result={"granted": granted, "problem": problem})

        committed = await self._service.commit(caller.tenant, propose)
        if problem := committed.result["problem"]:
            raise KeysError("wrong-state", problem)
        if not committed.result["granted"]:
            raise CompatError("policy-denied", f"the key's policy refuses: {', '.join(decision.failed)}")
        return version.number, _as_client_expects(found, secret)

    async def _tenant(self, caller: Caller) -> None:
        if self._service.state(caller.tenant) is not None:
            return

        def propose(state: State | None, now: int) -> Change:
            if state is not None:
                raise KeysError("tenant-exists")
            return compat_tenant(caller.account.id, now)

        try:
            await self._service.commit(caller.tenant, propose)
        except KeysError as error:
            if error.code != "tenant-exists":
                raise

    async def _call(self, caller: Caller, op: str, ring: str, args: Mapping[str, Any], material: bytes = b"") -> None:
        call = CompatCall(caller.account.id, caller.auth, op, ring, args, material)

        def propose(state: State | None, now: int) -> Change:
            return compat_change(_existing(state), call, now, self._tools)

        await self._service.commit(caller.tenant, propose)

    async def _slow_key(self, caller: Caller, ring: str, args: Mapping[str, Any]) -> None:
        """RSA takes seconds to make, which the journal's thread has not: made before, checked again in its place."""
        make = CompatCall(caller.account.id, caller.auth, "key.create", ring, args)
        check = CompatCall(caller.account.id, caller.auth, "key.expect", ring, args)
        made = await asyncio.to_thread(
            compat_change, _existing(self._service.state(caller.tenant)), make, self.now(), self._tools
        )

        def propose(state: State | None, now: int) -> Change:
            compat_change(_existing(state), check, now, self._tools)
            return made

        await self._service.commit(caller.tenant, propose)

    def _version(self, caller: Caller, state: State, ring: str, key: str, material: Material, now: int) -> Change:
        """`key.rotate` for an announced key, whose first version may tell its algorithm."""
        found = state.rings[ring].keys[key] if state.key(ring, key) else None
        if found is None:
            raise KeysError("unknown-key", "no such key")
        if found.state != ACTIVE:
            raise KeysError("wrong-state", f"the key is {found.state}")
        if found.versions and material.algorithm != found.algorithm:
            raise KeysError("wrong-algorithm", f"this is no {found.algorithm} key")
        if len(found.versions) >= MAX_VERSIONS:
            raise KeysError("too-many", f"a key has at most {MAX_VERSIONS} versions")
        number = found.newest + 1
        wrapped, name, slot = self._vault.wrap((state.tenant, ring, key, number), material)
        version = Version(
            number, now, NO_END, material.public, material.public_sha256, found.policy_sha256, wrapped, name
        )
        body = {
            "ring": ring,
            "key": key,
            "version": version_json(version),
            "previous_opens_until": now + ops.MAX_OVERLAP_COMPAT,
            "policy": "",
            "algorithm": material.algorithm,
        }
        entry = EntryDraft(
            "key.import",
            "done",
            ring=ring,
            key=key,
            version=str(number),
            actors=(caller.actor,),
            policy_sha256=found.policy_sha256,
            request_sha256=caller.request_sha256,
            reason=WEAK,
        )
        return Change(entry, build_delta("version", body, None), {name: slot}, (), {"version": number})

    async def _label(
        self, caller: Caller, ring: str, key: str, label: str, text: str, op: str, policy_sha256: str
    ) -> None:
        def propose(state: State | None, _now: int) -> Change:
            found = _existing(state).key(ring, key)
            if found is None:
                raise KeysError("unknown-key", "no such key")
            body = {"ring": ring, "key": key, "labels": labels_json({**found.labels, label: text})}
            entry = EntryDraft(
                op,
                "done",
                ring=ring,
                key=key,
                actors=(caller.actor,),
                policy_sha256=policy_sha256,
                request_sha256=caller.request_sha256,
                reason=WEAK,
            )
            return Change(entry, build_delta("labels", body, None))

        await self._service.commit(caller.tenant, propose)

    def _settled(self, caller: Caller) -> None:
        """An earlier try did it; say so only while its entry can come out. Raises `StorageError` otherwise."""
        if tenant_log(caller.tenant) in self._service.stalled:
            raise StorageError("storage", "the audit log waits for its witnesses", hint="try again in a moment")


def _existing(state: State | None) -> State:
    if state is None:
        raise KeysError("unknown-ring", "no such ring")
    return state


def _as_client_expects(key: Key, secret: bytes) -> bytes:
    """RSA and EC keys are kept as DER; clients read PEM, in the form in which they sent it."""
    if key.algorithm not in (_RSA, "p256"):
        return secret
    form = PrivateFormat.TraditionalOpenSSL if key.labels.get(PEM_FORM) == "pkcs1" else PrivateFormat.PKCS8
    return load_der_private_key(secret, None).private_bytes(Encoding.PEM, form, NoEncryption())
