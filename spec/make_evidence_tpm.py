# SPDX-License-Identifier: Apache-2.0

"""Vectors of TPM 2.0 quotes: whole nodes of the type `tpm`, and single quotes."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from evidence_kit import Evidence, sentence, slug
from forge_tpm import (
    AK_ATTRIBUTES,
    EVENTS,
    NOW,
    PCRS,
    Chain,
    TpmBundle,
    digest_of,
    log,
    public,
    quote,
    replayed,
    rsa_key,
    secure_boot_variable,
    sign,
)
from forge_tpm import (
    crl as ak_crl,
)

from teehouse_core.appraise.policy import Policy
from teehouse_core.appraise.policy_tpm import TpmPolicy
from teehouse_core.evidence.bundle import Bundle
from teehouse_core.evidence.jsontext import b64_text
from teehouse_core.evidence.tpm import encode_pcrs

BARE = replace(Policy.preset("standard"), required_references=())
KEY = ec.derive_private_key(9, ec.SECP256R1())  # fixed, since policies name it
OTHER = ec.derive_private_key(7, ec.SECP256R1())
LYING = (*EVENTS[:-1], (9, 0xD, b"another kernel"))
OFF = tuple((7, event[1], secure_boot_variable(False)) if event[1] == 0x80000001 else event for event in EVENTS)
NONCE = bytes(range(32))
LOG_GONE = ("tpm.log.digests", "tpm.log.replay")
NO_PCRS = ("tpm.reference.pcrs", "tpm.log.replay")


def mine(**changes: Any) -> TpmBundle:
    return TpmBundle(**{"key": KEY, **changes})


def tpm_policy(**tpm: Any) -> Policy:
    """Names the fixed key and the values of the usual boot."""
    right = mine()
    table = {"references": right.references, "attestation_keys": (right.pin,), **tpm}
    return replace(BARE, platforms=("tpm",), tpm=TpmPolicy(**table))


USUAL = tpm_policy()


def bundle(
    name: str,
    expect: str,
    make: Callable[[], dict[str, Any]],
    policy: Policy = USUAL,
    *,
    family: str = "tpm",
    what: str = "TPM node",
    nonce: bytes = NONCE,
    now: int = NOW,
    also: tuple[str, ...] = (),
) -> Evidence:
    description = f"{what}: {name}." if expect == "accept" else sentence(what, name)
    fixed = {"nonce": nonce, "endpoint": "ep-1"}
    return Evidence(
        f"{family}-node-{slug(name)}", family, "appraise", description, expect, policy, now, make, fixed, also
    )


def plain(**changes: Any) -> Callable[[], dict[str, Any]]:
    return lambda: {"bundle": mine(**changes).build()}


def chained(own: bool = True, **chain: Any) -> Callable[[], dict[str, Any]]:
    """With certificates of its key; the TEST root is trusted unless it is not the chain's `own`."""

    def make() -> dict[str, Any]:
        made, other = Chain(**{"key": KEY, **chain}), Chain(key=KEY)
        root = made.root if own else other.root
        der = root.public_bytes(Encoding.DER)
        return {"bundle": mine(aux={"ak_chain": made.pem.decode()}).build(), "roots": {"vtpm": [der]}}

    return make


def wrong_digest() -> dict[str, Any]:
    return plain(event_log=log(EVENTS).replace(secure_boot_variable(True), secure_boot_variable(False)))()


def nodes() -> Iterator[Evidence]:
    unpinned = tpm_policy(attestation_keys=())
    yield bundle("key named by the policy", "accept", plain())
    yield bundle("certified key", "accept", chained(), unpinned)
    yield bundle("no event log", "accept", plain(event_log=None))
    yield bundle(
        "Secure Boot demanded and on", "accept", plain(), tpm_policy(secure_boot_required=True, log_required=True)
    )
    yield bundle("signed by another key", "reject/tpm.quote.signature", plain(signed_by=OTHER))
    yield bundle("changed after signing", "reject/tpm.quote.signature", changed_clock)
    yield bundle("quote of other report data", "reject/binding.report-data", plain(extra=bytes(32)))
    yield bundle("answer to another nonce", "reject/challenge.nonce", plain(), nonce=bytes(32))
    for name, attributes in (
        ("not fixed to its TPM", AK_ATTRIBUTES & ~(1 << 1)),
        ("not restricted", AK_ATTRIBUTES & ~(1 << 16)),
        ("made outside", AK_ATTRIBUTES & ~(1 << 5)),
        ("for decryption too", AK_ATTRIBUTES | (1 << 17)),
    ):
        yield bundle(f"key {name}", "reject/tpm.ak.attributes", plain(attributes=attributes))
    yield bundle("public area that does not parse", "reject/tpm.ak.attributes", broken_public, unpinned)
    yield bundle("key of nobody", "reject/tpm.ak.trust", plain(), unpinned)
    yield bundle(
        "another key than the policy names", "reject/tpm.ak.trust", lambda: {"bundle": TpmBundle(key=OTHER).build()}
    )
    yield bundle("certificate under another root", "reject/tpm.ak.chain", chained(own=False))
    yield bundle("certificate of another key", "reject/tpm.ak.chain", chained(key=OTHER))
    yield bundle("certificate not yet valid", "reject/tpm.ak.chain", chained(extra={"start": NOW + 60}))
    yield bundle("certificate over", "reject/tpm.ak.chain", chained(end=NOW))
    yield bundle(
        "certificate of an endorsement key",
        "reject/tpm.ak.chain",
        chained(extra={"aik": False, "usage_encipher": True}),
    )
    yield bundle(
        "revocation demanded, unknown", "reject/tpm.ak.revocation", chained(), tpm_policy(revocation_required=True)
    )
    yield bundle(
        "register not quoted",
        "reject/tpm.quote.selection",
        plain(pcrs=(*range(7), 15)),
        tpm_policy(references=tuple(r for r in mine().references if not r.startswith("7="))),
    )
    yield bundle(
        "register listed otherwise",
        "reject/tpm.quote.pcr-digest",
        plain(changed_pcrs={4: bytes(32)}),
        also=(*NO_PCRS, "workload.log.replay"),
    )
    yield bundle(
        "another kernel than the references",
        "reject/tpm.reference.pcrs",
        plain(),
        tpm_policy(references=("4=" + "0" * 64,)),
    )
    yield bundle("references demanded, none listed", "reject/tpm.reference.pcrs", plain(), tpm_policy(references=()))
    yield bundle("log of another boot", "reject/tpm.log.replay", plain(log_events=LYING))
    yield bundle("log without its last event", "reject/tpm.log.replay", plain(log_events=EVENTS[:-1]))
    yield bundle("log without a SHA-256 bank", "reject/tpm.log.replay", plain(event_log=log(EVENTS, ("sha384",))))
    yield bundle("log that is none", "reject/tpm.log.format", plain(event_log=bytes(31)), also=LOG_GONE)
    yield bundle(
        "log demanded, none given",
        "reject/tpm.log.format",
        plain(event_log=None),
        tpm_policy(log_required=True),
        also=LOG_GONE,
    )
    yield bundle("event that is not what its digest says", "reject/tpm.log.digests", wrong_digest)
    off = mine(events=OFF)
    yield bundle(
        "Secure Boot demanded and off",
        "reject/tpm.log.secure-boot",
        plain(events=OFF),
        tpm_policy(references=off.references, secure_boot_required=True),
    )
    yield bundle(
        "Secure Boot demanded, no log",
        "reject/tpm.log.secure-boot",
        plain(event_log=None),
        tpm_policy(secure_boot_required=True),
    )
    yield bundle(
        "something extended before the workload",
        "reject/workload.log.replay",
        plain(events=(*EVENTS, (15, 0xD, b"before the node"))),
    )
    yield bundle(
        "type that no preset accepts", "reject/policy.platform", plain(), replace(USUAL, platforms=("tdx", "sev-snp"))
    )
    yield bundle("machine not listed", "reject/policy.machine", plain(), replace(USUAL, machines=("00" * 32,)))
    gone = (
        *NO_PCRS,
        "tpm.quote.signature",
        "tpm.quote.selection",
        "tpm.quote.pcr-digest",
        "workload.log.replay",
        "binding.report-data",
    )
    for name, change in (
        ("of another magic", lambda r: b"\xffTCH" + r[4:]),
        ("of another type", lambda r: r[:4] + b"\x80\x17" + r[6:]),
        ("with a byte behind it", lambda r: r + b"\0"),
    ):
        yield bundle(f"quote {name}", "reject/tpm.quote.format", lambda c=change: replaced(c), also=gone)


def replaced(change: Callable[[bytes], bytes]) -> dict[str, Any]:
    """A bundle whose quote was changed after it was signed."""
    data = mine().build()
    document = json.loads(data)
    document["platform"]["report"] = b64_text(change(Bundle.parse(data).platform.report))
    return {"bundle": json.dumps(document).encode()}


def changed_clock() -> dict[str, Any]:
    return replaced(lambda r: r[:83] + bytes([r[83] ^ 1]) + r[84:])


def broken_public() -> dict[str, Any]:
    """The certificate vouches for the key, and the public area beside it is cut."""
    given = chained()()
    document = json.loads(given["bundle"])
    document["platform"]["aux"]["ak"] = "AAAA"
    return {**given, "bundle": json.dumps(document).encode()}


# --- single quotes ---------------------------------------------------------------------------------------------------


def quoted(
    name: str,
    expect: str,
    change: Callable[[dict[str, Any]], Any] = lambda _: None,
    policy: Policy = USUAL,
    *,
    nonce: bytes | None = NONCE,
    key: Any = KEY,
    extra: bytes = NONCE,
    pcrs: tuple[int, ...] = PCRS,
    chain: Chain | None = None,
    crls: Callable[[Chain], dict[str, bytes]] = lambda _: {},
    bank: str = "sha256",
    also: tuple[str, ...] = (),
) -> Evidence:
    """One quote as our own document; `change` works on that."""

    def forge() -> dict[str, Any]:
        values = replayed(EVENTS, range(24))
        values = {index: value for index, value in values.items() if index in pcrs}
        raw = quote(extra, digest_of(values, bank), pcrs=pcrs)
        document: dict[str, Any] = {
            "quote": {
                "message": raw.hex(),
                "signature": sign(key, raw, bank=bank).hex(),
                "pcrs": json.loads(encode_pcrs({"sha256": values})),
            },
            "ak": public(key).hex(),
            "event_log": log(EVENTS).hex(),
        }
        given: dict[str, Any] = {}
        if chain is not None:
            document["ak_chain"] = chain.pem.decode()
            given = {"roots": {"vtpm": [chain.root.public_bytes(Encoding.DER)]}, "collateral": crls(chain)}
        change(document)
        return {"artifact": json.dumps(document).encode(), **given}

    what = "TPM quote"
    description = f"{what}: {name}." if expect == "accept" else sentence(what, name)
    fixed: dict[str, Any] = {"type": "tpm-quote"} | ({"nonce": nonce} if nonce is not None else {})
    return Evidence(f"tpm-{slug(name)}", "tpm", "artifact", description, expect, policy, NOW, forge, fixed, also)


def flip_hex(text: str, at: int) -> str:
    raw = bytearray.fromhex(text)
    raw[at] ^= 1
    return raw.hex()


def quotes() -> Iterator[Evidence]:
    def inner(member: str, change: Callable[[Any], Any]) -> Callable[[dict[str, Any]], None]:
        return lambda d: d["quote"].update({member: change(d["quote"][member])})

    demanding = tpm_policy(revocation_required=True)
    chain = Chain(key=KEY)
    both = lambda c: {"a.crl": ak_crl(c.ca, c.ca_key), "b.crl": ak_crl(c.root, c.root_key)}  # noqa: E731
    yield quoted("key named by the policy", "accept")
    yield quoted(
        "certified key, not revoked",
        "accept",
        policy=tpm_policy(attestation_keys=(), revocation_required=True),
        chain=chain,
        crls=both,
    )
    yield quoted(
        "certified RSA key", "accept", policy=tpm_policy(attestation_keys=()), key=rsa_key(), chain=Chain(key=rsa_key())
    )
    yield quoted(
        "no nonce where none is demanded", "accept", policy=replace(USUAL, freshness_required=False), nonce=None
    )
    yield quoted("another nonce", "reject/tpm.quote.nonce", nonce=bytes(32))
    yield quoted("nonce demanded, none given", "reject/tpm.quote.nonce", nonce=None)
    yield quoted(
        "clock changed after signing", "reject/tpm.quote.signature", inner("message", lambda m: flip_hex(m, 83))
    )
    yield quoted(
        "bit flipped in the signature", "reject/tpm.quote.signature", inner("signature", lambda s: flip_hex(s, -1))
    )
    yield quoted("hash too weak", "reject/tpm.quote.signature", bank="sha1")
    yield quoted(
        "register listed otherwise",
        "reject/tpm.quote.pcr-digest",
        lambda d: d["quote"]["pcrs"]["sha256"].update({"14": "11" * 32}),
        tpm_policy(references=(), references_required=False),
        also=("tpm.log.replay",),
    )
    yield quoted(
        "register listed otherwise, no log",
        "reject/tpm.quote.pcr-digest",
        lambda d: (d.pop("event_log"), d["quote"]["pcrs"]["sha256"].update({"14": "11" * 32})),
        tpm_policy(references=(), references_required=False),
    )
    yield quoted(
        "register not quoted",
        "reject/tpm.quote.selection",
        policy=tpm_policy(references=(), references_required=False),
        pcrs=tuple(p for p in PCRS if p != 7),
    )
    yield quoted(
        "certificate revoked",
        "reject/tpm.ak.revocation",
        policy=demanding,
        chain=chain,
        crls=lambda c: {**both(c), "c.crl": ak_crl(c.ca, c.ca_key, [c.leaf.serial_number])},
    )
    yield quoted(
        "issuer revoked",
        "reject/tpm.ak.revocation",
        policy=demanding,
        chain=chain,
        crls=lambda c: {**both(c), "c.crl": ak_crl(c.root, c.root_key, [c.ca.serial_number])},
    )
    yield quoted(
        "list over",
        "reject/tpm.ak.revocation",
        policy=demanding,
        chain=chain,
        crls=lambda c: {**both(c), "a.crl": ak_crl(c.ca, c.ca_key, start=NOW - 8 * 86400)},
    )
    yield quoted(
        "list signed by another",
        "reject/tpm.ak.revocation",
        policy=demanding,
        chain=chain,
        crls=lambda c: {**both(c), "a.crl": ak_crl(c.ca, c.root_key)},
    )
    yield quoted("key of nobody", "reject/tpm.ak.trust", policy=tpm_policy(attestation_keys=()))
    for name, change in (
        ("cut by a byte", inner("message", lambda m: m[:-2])),
        ("a byte too many", inner("message", lambda m: m + "00")),
        ("of another magic", inner("message", lambda m: "00" + m[2:])),
        ("of another type", inner("message", lambda m: m[:8] + "8017" + m[12:])),
        (
            "selecting nine banks",
            inner("message", lambda m: m.replace(m[-2 * (34 + 10) : -2 * 34], "00000009" + m[-2 * (34 + 6) : -2 * 34])),
        ),
        ("that is no blob", inner("message", lambda _: "!")),
        ("without a quote", lambda d: d.pop("quote")),
    ):
        yield quoted(f"document {name}", "malformed", change)


def vectors() -> Iterator[Evidence]:
    yield from nodes()
    yield from quotes()
