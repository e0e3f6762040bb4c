# SPDX-License-Identifier: Apache-2.0

"""Vectors of whole SIMULATED nodes: the bundle's form, the workload log, the binding, the policy, the challenge."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from evidence_kit import Evidence, sentence, slug
from test_appraise_mutations import (
    CAPABILITIES,
    CASES,
    ENDPOINT,
    EVALUATE,
    LOG,
    NONCE,
    NOW,
    SOFTWARE,
    Forge,
    edit,
    hpke_key,
    keyset,
    platform,
)

from teehouse_core.appraise.policy import Policy
from teehouse_core.evidence.jsontext import b64_text
from teehouse_core.wire.suites import HIGH_SUITE

# What refuses beside a check, where a case of the tests fails several because the later ones have nothing to look at.
SHOWN = {
    "quote cut short": "tdx.quote.format",
    "boot log that is none": "eventlog.format",
    "keyset over": "binding.validity",
    "ledger challenge": "challenge.kind",
    "simulated relabelled as tdx": "tdx.pck.chain",
    "unknown event measured": "workload.log.events",
    "event measured twice": "workload.log.events",
    "event not ASCII": "workload.log.events",
}


def node(
    name: str,
    expect: str,
    make: Callable[[], bytes],
    policy: Policy = EVALUATE,
    *,
    endpoint: str | None = ENDPOINT,
    nonce: bytes | None = NONCE,
    now: int = NOW,
    also: tuple[str, ...] = (),
) -> Evidence:
    fixed = {name: value for name, value in (("endpoint", endpoint), ("nonce", nonce)) if value is not None}
    description = f"Node: {name}." if expect == "accept" else sentence("Node", name)
    made = lambda: {"bundle": make()}  # noqa: E731
    return Evidence(f"node-{slug(name)}", "node", "appraise", description, expect, policy, now, made, fixed, also)


def cases() -> Iterator[Evidence]:
    yield node("good", "accept", lambda: Forge().bytes())
    for case in CASES:
        failing = sorted(case.failing)
        named = SHOWN.get(case.name) or (failing[0] if len(failing) == 1 else None)
        if named is None:
            continue
        also = tuple(check_id for check_id in failing if check_id != named)
        yield node(
            case.name,
            f"reject/{named}",
            lambda c=case: c.forge().bytes(),
            case.policy,
            endpoint=case.endpoint,
            nonce=case.nonce,
            now=case.now,
            also=also,
        )


def claiming(*, measured: bool = True, **claims: Any) -> bytes:
    """A node that claims these capabilities, and measured them too."""
    texts = {name: (",".join(value) if isinstance(value, tuple) else value).encode() for name, value in claims.items()}
    log = tuple((event, texts.get(event, content) if measured else content) for event, content in LOG)
    return Forge(keyset=keyset(capabilities=replace(CAPABILITIES, **claims)), machine=platform(log)).bytes()


def own() -> Iterator[Evidence]:
    """Where the keyset says what was measured, so that the policy alone refuses; and other things that stand alone."""
    stored = EVALUATE.for_stored_report()
    for member, value, allowed in (
        ("egress", "web", ("none", "web")),
        ("content_logging", "all", ("none", "all")),
        ("moderation", "in-tee:x", ("none", "in-tee:x")),
    ):
        loose, tight = replace(EVALUATE, **{member: allowed}), replace(EVALUATE, **{member: ("none",)})
        said = member.replace("_", "-")
        both = functools.partial(claiming, **{member: value})
        claimed = functools.partial(claiming, measured=False, **{member: value})
        yield node(f"{said} {value} measured and claimed", f"reject/policy.{said}", both, tight)
        yield node(f"{said} {value} where allowed", "accept", both, loose)
        yield node(f"{said} {value} claimed, not measured", f"reject/binding.{said}", claimed, loose)
    door = functools.partial(claiming, doors=("aicc-jsc",))
    yield node("door measured and claimed", "reject/policy.doors", door, replace(EVALUATE, doors=()))
    yield node("door where allowed", "accept", door)
    ledger = replace(EVALUATE, freshness_required=False)
    yield node(
        "ledger challenge of a stored report",
        "reject/challenge.kind",
        lambda: Forge(kind=2).bytes(),
        ledger,
        nonce=None,
    )
    yield node(
        "key release challenge of a stored report",
        "reject/challenge.kind",
        lambda: Forge(kind=3, value=bytes(64)).bytes(),
        ledger,
        nonce=None,
    )
    yield node("stored report", "accept", lambda: Forge().bytes(), stored, nonce=None)
    yield node("no endpoint asked for", "accept", lambda: Forge().bytes(), endpoint=None)
    yield node("high suite", "accept", lambda: Forge(keyset=keyset(hpke=[hpke_key(HIGH_SUITE, 1665)])).bytes())
    yield node("log content of another digest, as claimed", "reject/workload.log.digests", claimed_otherwise)
    yield node("release statement", "accept", lambda: edit(lambda d: d.update(release={"statement": "x"}))().bytes())
    unknown = edit(lambda d: d["platform"].update(type="arm-cca"))
    allowed = replace(EVALUATE, platforms=("arm-cca",), simulated_allowed=False)
    also = ("policy.machine", "workload.log.replay", "binding.report-data")
    yield node("platform of an unknown kind", "reject/policy.supported", lambda: unknown().bytes(), allowed, also=also)
    yield node(
        "pinned machine and references, all right",
        "accept",
        lambda: Forge().bytes(),
        replace(
            EVALUATE,
            references=replace(
                EVALUATE.references,
                image_sha256=("aa" * 32,),
                config_sha256=("bb" * 32,),
                weights_sha256=("cc" * 32,),
                release=("0.1.0",),
            ),
        ),
    )


def claimed_otherwise() -> bytes:
    """The keyset and the log's content say one release, the measured digest another."""

    def change(document: dict[str, Any]) -> None:
        document["workload_log"][0]["content"] = b64_text(b"9.9.9")

    return Forge(keyset=keyset(software=replace(SOFTWARE, release="9.9.9")), bundle=change).bytes()


def malformed() -> Iterator[Evidence]:
    def changed(change: Callable[[dict[str, Any]], Any]) -> Callable[[], bytes]:
        return lambda: edit(change)().bytes()

    def text(change: Callable[[bytes], bytes]) -> Callable[[], bytes]:
        return lambda: change(Forge().bytes())

    for name, make in (
        ("is no JSON", text(lambda b: b[:-1])),
        ("has bytes behind it", text(lambda b: b + b"{}")),
        ("is an array", text(lambda b: b"[" + b + b"]")),
        ("is empty", text(lambda b: b[:0])),
        ("has a member twice", text(lambda b: b[:-1] + b',"endpoint":"ep-other"}')),
        ("has null", changed(lambda d: d.update(members=None))),
        ("has a fraction", text(lambda b: b.replace(b'"kind": 1', b'"kind": 1.0'))),
        ("of another version", changed(lambda d: d.update(v="evidence/2"))),
        ("with an unknown member", changed(lambda d: d.update(verified=True))),
        ("without a keyset", changed(lambda d: d.pop("keyset"))),
        ("with a key id that is not its key's", changed(lambda d: d["keyset"]["hpke"][0].update(kid="00" * 16))),
        ("with one key twice", changed(lambda d: d["keyset"].update(hpke=d["keyset"]["hpke"] * 2))),
        ("with an unknown suite", changed(lambda d: d["keyset"]["hpke"][0].update(suite="rot13"))),
        ("of challenge kind 4", changed(lambda d: d["challenge"].update(kind=4))),
        ("with a challenge of 31 bytes", changed(lambda d: d["challenge"].update(value=b64_text(bytes(31))))),
        ("with base64 that is none", changed(lambda d: d["platform"].update(report="A"))),
        (
            "with a device of an unknown kind",
            changed(lambda d: d.update(devices=[{"type": "tpu", "report": "AAAA", "chain": "", "arch": ""}])),
        ),
        (
            "with a device chain that is no PEM",
            changed(
                lambda d: d.update(devices=[{"type": "nvidia-gpu", "report": "AAAA", "chain": "x", "arch": "HOPPER"}])
            ),
        ),
        ("with a log digest in capitals", changed(lambda d: d["workload_log"][0].update(digest="AA" * 48))),
        ("with an event that has no name", changed(lambda d: d["workload_log"][0].update(event=""))),
        ("with collateral of an unknown vendor", changed(lambda d: d["collateral"].update(acme={}))),
        ("with Intel collateral that lacks a member", changed(lambda d: d["collateral"]["intel"].pop("pck_crl"))),
    ):
        yield node(f"bundle {name}", "malformed", make)


def vectors() -> Iterator[Evidence]:
    yield from cases()
    yield from own()
    yield from malformed()
