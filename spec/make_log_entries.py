# SPDX-License-Identifier: Apache-2.0
"""Vectors of proofs, tiles, entries and what witnesses are sent (spec/04-log.md §3, §4, §6, §8 to §10)"""

from __future__ import annotations

import hmac
import json
from collections.abc import Iterator, Sequence
from typing import Any

from kit import NOW, Vector, b64u, canonical, label, seed, sha
from log_kit import (
    EMPTY,
    ENTRIES,
    HEAD,
    NOTE,
    ORIGIN,
    ROOT,
    b64,
    cosigned,
    line,
    path,
    signer,
    subproof,
    vectors,
    vkey,
)


def _proofs() -> Iterator[Vector]:
    def text(*, extra: str = "", index: str = "5", hashes: Sequence[bytes] | None = None, note: str = NOTE) -> str:
        lines = "".join(f"{b64(item)}\n" for item in (path(5, ENTRIES) if hashes is None else hashes))
        return f"c2sp.org/tlog-proof@v1\n{extra}index {index}\n{lines}\n{note}"

    def given(proof: str, entry: bytes = ENTRIES[5]) -> dict[str, Any]:
        return {"proof": {"text": proof}, "entry": b64u(entry), "key": vkey(ORIGIN)}

    unsigned = HEAD + "\n" + line("stranger.example", bytes(64))
    yield from vectors(
        "log-proof",
        "04 §10.2",
        [
            ("plain", given(text()), "accept", "Entry 5 of 13."),
            ("extra", given(text(extra="extra ZXh0cmE=\n")), "accept", "With extra data."),
            ("other-entry", given(text(), b"lie"), "reject/proof", "Another entry."),
            ("other-index", given(text(index="4")), "reject/proof", "Another index."),
            ("unsigned", given(text(note=unsigned)), "reject/log-unsigned", "A checkpoint that the log did not sign."),
            ("version", given(text().replace("@v1", "@v2")), "reject/tlog-proof-form", "Another version."),
            ("no-index", given(text().replace("index 5\n", "")), "reject/tlog-proof-form", "No index."),
            ("empty-extra", given(text(extra="extra \n")), "reject/tlog-proof-form", "Empty extra data."),
            ("two-extras", given(text(extra="extra ZQ==\nextra ZQ==\n")), "reject/tlog-proof-form", "Two extra lines."),
            ("index-zero", given(text(index="05")), "reject/not-decimal", "A leading zero."),
            ("too-long", given(text(hashes=[bytes(32)] * 65)), "reject/proof-too-long", "65 hashes."),
            ("short-hash", given(text(hashes=[bytes(31)])), "reject/wrong-length", "31 bytes."),
        ],
    )


def _tiles() -> Iterator[Vector]:
    rows = [
        ("first", "tile/0/000", "accept", "The first tile."),
        ("example", "tile/0/x001/x234/067", "accept", "The example of tlog-tiles."),
        ("partial", "tile/1/000.p/17", "accept", "A partial tile."),
        ("bundle", "tile/entries/005.p/1", "accept", "A partial bundle."),
    ]
    bad = [
        ("no-padding", "tile/0/0", "One digit."),
        ("needless", "tile/0/x000/001", "A needless element."),
        ("level-zero", "tile/00/001", "A leading zero in the level."),
        ("level", "tile/64/001", "Level 64."),
        ("full-as-partial", "tile/0/001.p/256", "256 is not partial."),
        ("none", "tile/0/001.p/0", "No hash."),
        ("width-zero", "tile/0/001.p/01", "A leading zero in the width."),
        ("up", "tile/0/../001", "A way out."),
        ("slash", "/tile/0/001", "A slash before it."),
        ("last-x", "tile/0/x001", "The last element with an x."),
        ("digits", "tile/0/\u0661\u0661\u0661", "Digits beyond ASCII."),
    ]
    for name, given, expect, description in [*rows, *((n, p, "reject/tile-path", d) for n, p, d in bad)]:
        yield Vector(f"log-tile-path-{name}", "log-tile-path", "04 §10.1", description, {"path": given}, expect)
    two = b"\0\3one\0\3two"
    yield from vectors(
        "log-bundle",
        "04 §10.1",
        [
            ("two", {"data": b64u(two)}, "accept", "Two entries."),
            ("empty-entry", {"data": b64u(b"\0\0")}, "accept", "An empty entry."),
            ("full", {"data": b64u(b"\0\1x" * 256)}, "accept", "256 entries."),
            ("none", {"data": ""}, "reject/bundle", "No entry."),
            ("cut", {"data": b64u(two[:-1])}, "reject/bundle", "Cut in an entry."),
            ("cut-length", {"data": b64u(two + b"\0")}, "reject/bundle", "Cut in a length."),
            ("too-many", {"data": b64u(b"\0\1x" * 257)}, "reject/bundle", "257 entries."),
        ],
    )


AUDIT: dict[str, Any] = {
    "v": "tks-log/1",
    "time": NOW,
    "op": "release",
    "id": seed("entry id", 16).hex(),
    "decision": "refused",
    "tenant": "demo",
    "ring": "ring-1",
    "key": "key-1",
    "version": "1",
    "actor": "",
    "policy_sha256": sha(b"policy").hex(),
    "evidence_sha256": sha(b"evidence").hex(),
    "keyset_sha256": sha(b"keyset").hex(),
    "request_sha256": sha(b"request").hex(),
    "failed_checks": ["tdx.tcb-status"],
    "reason": "evidence-refused",
    "tier": "hardware",
    "witnesses": 2,
    "private_sha256": sha(b"private").hex(),
}
PUBLIC: dict[str, Any] = {
    "v": "public-log/1",
    "time": NOW,
    "kind": "keyset",
    "id": seed("public id", 16).hex(),
    "sha256": sha(b"keyset").hex(),
    "endpoint": "ep-demo",
    "node": "alpha",
    "name": "",
    "evidence_sha256": sha(b"evidence").hex(),
}


def _entries() -> Iterator[Vector]:
    def given(**change: Any) -> dict[str, Any]:
        return {"data": b64u(canonical(AUDIT | change))}

    def without(document: dict[str, Any], name: str) -> dict[str, Any]:
        return {"data": b64u(canonical({k: v for k, v in document.items() if k != name}))}

    yield from vectors(
        "log-entry",
        "04 §3.1",
        [
            ("refusal", given(), "accept", "A refused release."),
            ("granted", given(decision="granted", failed_checks=[], reason=""), "accept", "A granted one."),
            ("least", given(**{k: "" for k, v in AUDIT.items() if isinstance(v, str) and k not in
                               ("v", "op", "id", "decision")}, failed_checks=[], witnesses=0), "accept",
             "Everything absent that may be."),
            ("missing", without(AUDIT, "tier"), "reject/missing-member", "No tier."),
            ("unknown", given(note="x"), "reject/unknown-member", "A member too many."),
            ("decision", given(decision="maybe"), "reject/unknown-value", "Another decision."),
            ("op", given(op="Release"), "reject/wrong-form", "Upper case."),
            ("id", given(id="00"), "reject/wrong-form", "A short id."),
            ("actor-name", given(actor="Ada Lovelace"), "reject/wrong-form", "A person's name in the leaf."),
            ("digest", given(policy_sha256="00"), "reject/wrong-form", "A short digest."),
            ("witnesses", given(witnesses=33), "reject/out-of-range", "33 witnesses."),
            ("checks", given(failed_checks=["x"] * 65), "reject/out-of-range", "65 checks."),
            ("empty-check", given(failed_checks=[""]), "reject/wrong-form", "A check without id."),
            ("time", given(time="now"), "reject/wrong-type", "A text as time."),
            ("spaces", {"data": b64u(json.dumps(AUDIT, sort_keys=True).encode())}, "reject/not-canonical", "Spaces."),
        ],
    )  # fmt: skip
    yield from vectors(
        "log-entry",
        "04 §3.3",
        [
            ("version", given(v="tks-log/2"), "reject/unknown-value", "Another version."),
            ("no-version", without(AUDIT, "v"), "reject/unknown-value", "No version."),
        ],
    )
    yield from vectors(
        "log-entry",
        "04 §1.3",
        [("too-large", {"data": b64u(b'{"v":"' + b"x" * 65_536 + b'"}')}, "reject/document-too-large", "Over 65,535.")],
    )
    salt = seed("salt")
    names = ["Ada", "李雷"]
    actor = hmac.digest(salt, "\n".join(names).encode(), "sha256").hex()

    def opened(salt: bytes, names: list[Any], **more: Any) -> dict[str, Any]:
        return given(actor=actor) | {"opening": {"text": json.dumps({"salt": b64u(salt), "names": names} | more)}}

    yield from vectors(
        "log-entry",
        "04 §4.2",
        [
            ("opening", opened(salt, names), "accept", "The names that the entry commits to."),
            ("opening-other", opened(salt, ["Bob"]), "reject/opening", "Another name."),
            ("opening-order", opened(salt, names[::-1]), "reject/opening", "Another order."),
            ("opening-joined", opened(salt, ["Ada李雷"]), "reject/opening", "Joined without a newline."),
            ("opening-salt", opened(bytes(32), names), "reject/opening", "Another salt."),
            ("opening-newline", opened(salt, ["Ada\n李雷"]), "reject/opening-form", "One name that looks like two."),
            ("opening-empty", opened(salt, [""]), "reject/opening-form", "An empty name."),
            ("opening-none", opened(salt, []), "reject/out-of-range", "No name."),
            ("opening-short-salt", opened(salt[:31], names), "reject/wrong-length", "31 bytes of salt."),
            ("opening-unknown", opened(salt, names, more=1), "reject/unknown-member", "A member too many."),
        ],
    )
    yield from vectors(
        "log-entry",
        "04 §9.1",
        [
            ("public", {"data": b64u(canonical(PUBLIC))}, "accept", "A keyset that was served."),
            ("public-kind", {"data": b64u(canonical(PUBLIC | {"kind": "other"}))}, "reject/unknown-value", "A kind."),
            ("public-nothing", {"data": b64u(canonical(PUBLIC | {"sha256": ""}))}, "reject/wrong-form", "Of nothing."),
            ("public-missing", without(PUBLIC, "endpoint"), "reject/missing-member", "No endpoint."),
        ],
    )


def _witnesses() -> Iterator[Vector]:
    def request(old: str = "old 6", proof: Sequence[bytes] | None = None, note: str = NOTE) -> dict[str, Any]:
        hashes = subproof(6, ENTRIES, True) if proof is None else proof
        return {"data": {"text": old + "\n" + "".join(f"{b64(item)}\n" for item in hashes) + "\n" + note}}

    yield from vectors(
        "log-add-checkpoint",
        "04 §6.2",
        [
            ("plain", request(), "accept", "From 6 to 13."),
            ("first", request("old 0", []), "accept", "The first one."),
            ("above", request("old 14"), "reject/old-size", "From a size above the checkpoint's."),
            ("word", request("size 6"), "reject/add-checkpoint-form", "Another word."),
            ("leading-zero", request("old 06"), "reject/not-decimal", "A leading zero."),
            ("too-long", request(proof=[bytes(32)] * 64), "reject/proof-too-long", "64 hashes."),
            ("short-hash", request(proof=[bytes(31)]), "reject/wrong-length", "31 bytes."),
            ("no-note", request(note=HEAD), "reject/note-form", "An unsigned checkpoint."),
        ],
    )
    name, nonce = "w0.example", seed("nonce")
    note = NOTE + cosigned(HEAD, name, NOW)
    right = {"v": "witness-newest/1", "origin": ORIGIN, "size": 13, "root": ROOT.hex(), "nonce": b64u(nonce),
             "time": NOW, "note": b64u(note.encode())}  # fmt: skip

    def given(over: str = "witness newest", asked: bytes = nonce, by: str = ORIGIN, **change: Any) -> dict[str, Any]:
        data = canonical(right | change)
        signature = signer(name).sign(label(over) + data)
        return {"statement": b64u(data), "sig": b64u(signature), "key": vkey(name, 4), "origin": by,
                "nonce": b64u(asked)}  # fmt: skip

    yield from vectors(
        "log-statement",
        "04 §8.1",
        [
            ("plain", given(), "accept", "The newest checkpoint a witness signed."),
            ("never", given(size=0, root=EMPTY.hex(), note=""), "accept", "A witness that never signed one."),
            ("unsigned", given() | {"sig": b64u(bytes(64))}, "reject/log-signature", "No signature."),
            ("other-label", given("grant"), "reject/log-signature", "A signature for another purpose."),
            ("unknown", given(more=1), "reject/unknown-member", "A member too many."),
        ],
    )
    yield from vectors(
        "log-statement",
        "04 §8.2",
        [
            ("replayed", given(asked=seed("other nonce")), "reject/statement-stale", "Over another nonce."),
            ("other-origin", given(by="tks.example/public"), "reject/statement-stale", "Of another origin."),
            ("no-note", given(note=""), "reject/statement-note", "A size without its checkpoint."),
            ("other-note", given(size=12), "reject/statement-note", "The checkpoint is of another size."),
        ],
    )


def log_entries() -> Iterator[Vector]:
    """Every vector of this file."""
    for maker in (_proofs, _tiles, _entries, _witnesses):
        yield from maker()


__all__ = ["log_entries"]
