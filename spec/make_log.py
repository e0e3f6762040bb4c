# SPDX-License-Identifier: Apache-2.0
"""Vectors of trees, notes, checkpoints and quorums (spec/04-log.md §2, §5, §6)"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from kit import NOW, Vector, b64u, sha
from log_kit import (
    EMPTY,
    ENTRIES,
    HEAD,
    NOTE,
    ORIGIN,
    ROOT,
    b64,
    cosigned,
    head,
    key_id,
    line,
    listed,
    mth,
    path,
    signed,
    signer,
    subproof,
    vectors,
    vkey,
)

# The entries that implementations of Certificate Transparency test with, and the root of each prefix
CT_ENTRIES = [
    bytes.fromhex(text)
    for text in ("", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f")
]
CT_ROOTS = [
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]
PUBLISHED = {
    "go-note": (
        "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW",
        (
            "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n\n"
            "— PeterNeumann "
            "x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n"
        ),
    ),
    "c2sp-note": (
        "example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k",
        (
            "This is an example message.\n\n— example.com/foo "
            "Uw2QOkn8srV1yJGh2VYRlL1Tnagv1YEq6TfXppzi2ONncAlTgK7Ztg1ERYNZXsYjOBH3mFXmRKuwHjG1Yu72IneyaQM=\n"
        ),
    ),
    "go-sumdb": (
        "sum.golang.org+033de0ae+Ac4zctda0e5eza+HJyk9SxEdh+s3Ux18htTTAD8OuAn8",
        (
            "go.sum database tree\n6476701\nmb8QLQIs0Z0yP5Cstq6guj87oXWeC9gEM8oVikmm9Wk=\n\n— sum.golang.org "
            "Az3grsLX85Gz+s1SiTbgkuqxgItqFq7gsMUEyVnrsa9LM7Us9S+1xbFIGu95949rj4nPRYfvimWEPWL+o3GeoWwOoAw=\n"
        ),
    ),
}


def _trees() -> Iterator[Vector]:
    yield Vector("log-root-0", "log-root", "04 §2.1", "The empty tree.", {"entries": []}, "accept",
                 {"size": 0, "root": b64u(EMPTY)})  # fmt: skip
    for n, root in enumerate(CT_ROOTS, 1):
        given = {"entries": listed(CT_ENTRIES[:n])}
        output = {"size": n, "root": b64u(bytes.fromhex(root))}
        yield Vector(f"log-root-{n}", "log-root", "04 §2.1", f"A published root of {n}.", given, "accept", output)
    cuts = [0, 1, 1, 4, 7, 13]
    batches = [{"entries": listed(ENTRIES[a:b])} for a, b in zip([0, *cuts], cuts, strict=False)]
    output = {"roots": [b64u(mth(ENTRIES[:cut])) for cut in cuts]}
    yield Vector("log-grow-13", "log-grow", "04 §2.1", "A tree that grows by batches.", {"batches": batches}, "accept",
                 output)  # fmt: skip


def _inclusion() -> Iterator[Vector]:
    def given(index: int, size: int, /, **change: Any) -> dict[str, Any]:
        base = {"index": index, "size": size, "entry": b64u(ENTRIES[index]), "root": b64u(mth(ENTRIES[:size])),
                "proof": listed(path(index, ENTRIES[:size]))}  # fmt: skip
        return base | change

    for index, size in ((0, 1), (0, 2), (1, 2), (2, 3), (4, 7), (6, 7), (7, 8), (8, 9), (12, 13), (5, 13)):
        yield Vector(f"log-inclusion-{index}-{size}", "log-inclusion", "04 §2.2", f"Entry {index} of {size}.",
                     given(index, size), "accept")  # fmt: skip
    proof = path(5, ENTRIES)
    flipped = [proof[0], bytes([proof[1][0] ^ 1]) + proof[1][1:], *proof[2:]]
    yield from vectors(
        "log-inclusion",
        "04 §2.2",
        [
            ("flipped", given(5, 13, proof=listed(flipped)), "reject/proof", "One bit of one hash."),
            ("short", given(5, 13, proof=listed(proof[:-1])), "reject/proof", "The last hash is missing."),
            ("long", given(5, 13, proof=listed([*proof, bytes(32)])), "reject/proof", "A hash too many."),
            ("swapped", given(5, 13, proof=listed([proof[1], proof[0], *proof[2:]])), "reject/proof", "Two swapped."),
            ("other-entry", given(5, 13, entry=b64u(b"lie")), "reject/proof", "Another entry."),
            ("other-index", given(5, 13, index=4), "reject/proof", "The sibling's index."),
            ("node-as-leaf", given(0, 1, size=2, entry=b64u(sha(b"x") * 2), root=b64u(sha(b"\1", sha(b"x") * 2))),
             "reject/proof", "Two hashes given as an entry: leaves and nodes have different prefixes."),
            ("beyond", given(5, 13, index=13), "reject/proof", "An index beyond the tree."),
            ("empty-tree", given(0, 1, size=0), "reject/proof", "Nothing is in the empty tree."),
            ("hash-short", given(5, 13, proof=listed([proof[0][:31], *proof[1:]])), "reject/proof", "31 bytes."),
        ],
    )  # fmt: skip


def _consistency() -> Iterator[Vector]:
    def given(old: int, new: int, /, **change: Any) -> dict[str, Any]:
        base = {"old": old, "new": new, "old_root": b64u(mth(ENTRIES[:old])), "new_root": b64u(mth(ENTRIES[:new])),
                "proof": listed(subproof(old, ENTRIES[:new], True) if 0 < old < new else [])}  # fmt: skip
        return base | change

    for old, new in ((0, 0), (0, 5), (1, 1), (1, 2), (3, 4), (4, 8), (6, 8), (7, 13), (8, 13), (12, 13), (13, 13)):
        yield Vector(f"log-consistency-{old}-{new}", "log-consistency", "04 §2.2", f"From {old} to {new}.",
                     given(old, new), "accept")  # fmt: skip
    proof = subproof(6, ENTRIES, True)
    rewritten = [*ENTRIES[:2], b"lie", *ENTRIES[3:]]
    lie = given(6, 13, new_root=b64u(mth(rewritten)), proof=listed(subproof(6, rewritten, True)))
    yield from vectors(
        "log-consistency",
        "04 §2.2",
        [
            ("rewritten", lie, "reject/proof", "Entry 2 was rewritten; the proof is right for the new tree."),
            ("flipped", given(6, 13, proof=listed([bytes(32), *proof[1:]])), "reject/proof", "Another hash."),
            ("short", given(6, 13, proof=listed(proof[:-1])), "reject/proof", "The last hash is missing."),
            ("long", given(6, 13, proof=listed([*proof, bytes(32)])), "reject/proof", "A hash too many."),
            ("none", given(6, 13, proof=[]), "reject/proof", "No proof at all."),
            ("shrunk", given(6, 13, old=13, new=6), "reject/proof", "The new tree is smaller."),
            ("two-roots", given(6, 6, new_root=b64u(bytes(32))), "reject/proof", "Two roots of one size."),
            ("from-nothing", given(0, 5, proof=listed([bytes(32)])), "reject/proof", "From 0 nothing is proven."),
            ("not-empty", given(0, 5, old_root=b64u(bytes(32))), "reject/proof", "The empty tree has one root."),
            ("same-size-proof", given(6, 6, proof=listed([bytes(32)])), "reject/proof", "A proof between equals."),
        ],
    )


def _notes() -> Iterator[Vector]:
    def given(note: str | bytes, *keys: str) -> dict[str, Any]:
        data = {"text": note} if isinstance(note, str) else b64u(note)
        return {"note": data, "keys": list(keys) or [vkey(ORIGIN)]}

    for name, (key, note) in PUBLISHED.items():
        yield Vector(f"log-note-{name}", "log-note", "04 §5.3", "A note of others.", given(note, key), "accept")
    other = "witness.example/w1"
    stranger = line("stranger.example", bytes(64))
    forged = line(ORIGIN, bytes(64))
    timed = cosigned(HEAD, other, NOW)
    poem = "one\n\ntwo\n"
    yield from vectors(
        "log-note",
        "04 §5.3",
        [
            ("own", given(NOTE), "accept", "A checkpoint."),
            ("cosigned", given(NOTE + timed, vkey(ORIGIN), vkey(other, 4)), "accept", "With a cosignature."),
            ("stranger", given(NOTE + stranger), "accept", "An unknown key is ignored."),
            ("forged", given(HEAD + "\n" + forged), "reject/log-signature", "64 zero bytes by a known key."),
            ("forged-beside", given(NOTE + forged), "reject/log-signature", "One right and one wrong by one key."),
            ("other-text", given(head(12, ROOT) + "\n" + signed(HEAD)), "reject/log-signature", "Another size."),
            ("unsigned", given(HEAD + "\n" + stranger), "reject/log-unsigned", "Nobody known signed."),
            ("plain-as-timed", given(NOTE + line(other, signer(other).sign(HEAD.encode()), 4), vkey(other, 4)),
             "reject/log-signature", "A plain signature under a cosigner's key id."),
            ("other-time", given(NOTE + cosigned(HEAD, other, NOW, says=NOW + 1), vkey(other, 4)),
             "reject/log-signature", "The time that is shown is not the one signed."),
            ("cut-time", given(NOTE + line(other, bytes(8), 4), vkey(other, 4)), "reject/log-signature", "A time."),
        ],
    )  # fmt: skip
    many = NOTE + stranger * 64
    yield from vectors(
        "log-note",
        "04 §5.1",
        [
            ("empty-lines", given(poem + "\n" + signed(poem)), "accept", "The last blank line divides."),
            ("sixty-four", given(NOTE + stranger * 63), "accept", "64 signatures."),
            ("no-signature", given(HEAD), "reject/note-form", "No blank line."),
            ("no-dash", given(NOTE.replace("— ", "- ")), "reject/signature-line", "A hyphen."),
            ("no-base64", given(HEAD + f"\n— {ORIGIN}\n"), "reject/signature-line", "A name alone."),
            ("only-id", given(HEAD + f"\n— {ORIGIN} AAAAAA==\n"), "reject/signature-line", "A key id alone."),
            ("plus-in-name", given(HEAD + "\n— a+b AAAAAAA=\n"), "reject/key-name", "A plus in a name."),
            ("space-in-name", given(HEAD + "\n— a\u00a0b AAAAAAA=\n"), "reject/key-name", "A space of Unicode."),
            ("no-name", given(HEAD + "\n—  AAAAAAA=\n"), "reject/key-name", "No name."),
        ],
    )
    yield from vectors(
        "log-note",
        "04 §1.1",
        [
            ("line-end", given(NOTE[:-1]), "reject/line-end", "The last line has no end."),
            ("carriage-return", given(NOTE.replace("\n", "\r\n")), "reject/control-character", "CRLF."),
            ("tab", given(NOTE.replace("13", "13\t", 1)), "reject/control-character", "A tab."),
            ("not-utf8", given(NOTE.encode() + b"\xff"), "reject/not-utf8", "No UTF-8."),
        ],
    )
    yield from vectors(
        "log-note",
        "04 §1.2",
        [
            ("spare-bits", given(HEAD + f"\n— {ORIGIN} AAAAAAB=\n"), "reject/not-base64", "Spare bits that are set."),
            ("no-padding", given(HEAD + f"\n— {ORIGIN} AAAAAAA\n"), "reject/not-base64", "No padding."),
            ("url-base64", given(HEAD + f"\n— {ORIGIN} AAAAAAA-\n"), "reject/not-base64", "The other alphabet."),
        ],
    )
    yield from vectors(
        "log-note",
        "04 §1.3",
        [
            ("sixty-five", given(many), "reject/too-many-signatures", "65 signatures."),
            ("too-large", given("x" * 65_536 + "\n\n" + stranger), "reject/document-too-large", "More than 64 KiB."),
        ],
    )
    key = vkey(ORIGIN)
    yield from vectors(
        "log-note",
        "04 §5.2",
        [
            ("key-cut", given(NOTE, key[:-4]), "reject/verifier-key", "A key of 30 bytes."),
            ("key-type", given(NOTE, vkey(ORIGIN, 6)), "reject/verifier-key", "A type that is not taken."),
            ("key-other-id", given(NOTE, key.replace(f"+{key_id(ORIGIN, 1).hex()}+", "+00000000+")), "reject/key-id",
             "A key id that is not this key's."),
        ],
    )  # fmt: skip


def _checkpoints() -> Iterator[Vector]:
    def given(text: str) -> dict[str, Any]:
        return {"data": {"text": text}}

    root = b64(ROOT)
    yield from vectors(
        "log-checkpoint",
        "04 §5.4",
        [
            ("plain", given(HEAD), "accept", "Three lines."),
            ("empty", given(head(0, EMPTY)), "accept", "The empty tree."),
            ("spaces", given(head(1, ROOT, "go.sum database tree")), "accept", "An origin with spaces."),
            ("extension", given(HEAD + "note\n"), "accept", "An extension line."),
            ("largest", given(head(2**63 - 1, ROOT)), "accept", "2^63 − 1 entries."),
            ("two-lines", given(f"{ORIGIN}\n13\n"), "reject/checkpoint-form", "No root."),
            ("no-origin", given(f"\n13\n{root}\n"), "reject/origin", "No origin."),
            ("long-origin", given(head(13, ROOT, "x" * 256)), "reject/origin", "256 bytes."),
            ("empty-with-root", given(head(0, ROOT)), "reject/tree-head", "Size 0 with a root of something."),
            ("empty-extension", given(HEAD + "\n"), "reject/extensions", "An empty line."),
        ],
    )
    yield from vectors(
        "log-checkpoint",
        "04 §1.2",
        [
            ("leading-zero", given(f"{ORIGIN}\n013\n{root}\n"), "reject/not-decimal", "A leading zero."),
            ("negative", given(f"{ORIGIN}\n-1\n{root}\n"), "reject/not-decimal", "Below zero."),
            ("plus", given(f"{ORIGIN}\n+13\n{root}\n"), "reject/not-decimal", "A sign."),
            ("too-large", given(head(2**63, ROOT)), "reject/not-decimal", "2^63."),
            ("other-digits", given(f"{ORIGIN}\n\u0661\n{root}\n"), "reject/not-decimal", "Digits beyond ASCII."),
            ("short-root", given(f"{ORIGIN}\n13\n{b64(ROOT[:31])}\n"), "reject/wrong-length", "31 bytes."),
            ("hex-root", given(f"{ORIGIN}\n13\n{ROOT.hex()}\n"), "reject/wrong-length", "Hex reads as 48 bytes."),
            ("root-space", given(f"{ORIGIN}\n13\n{root} \n"), "reject/not-base64", "A space behind it."),
        ],
    )


def _quorums() -> Iterator[Vector]:
    names = [f"w{n}.example" for n in range(5)]
    operators = ["ada", "ada", "bob", "cleo", "dan"]

    def given(quorum: int, *signatures: str) -> dict[str, Any]:
        witnesses = [{"vkey": vkey(name, 4), "operator": op} for name, op in zip(names, operators, strict=True)]
        return {"note": {"text": NOTE + "".join(signatures)}, "policy": {"quorum": quorum, "witnesses": witnesses}}

    def by(n: int, time: int) -> str:
        return cosigned(HEAD, names[n], NOW + time)

    yield from vectors(
        "log-quorum",
        "04 §6.3",
        [
            ("two", given(2, by(0, 0), by(2, 5)), "accept", "Two operators."),
            ("unpinned", given(1, by(0, 0), cosigned(HEAD, "w9.example", NOW)), "accept", "A stranger is ignored."),
            ("one-of-two", given(2, by(0, 0)), "reject/log-quorum", "One operator where two are asked for."),
            ("one-operator-twice", given(2, by(0, 0), by(1, 1)), "reject/log-quorum", "Two witnesses of one operator."),
            ("one-witness-twice", given(2, by(0, 0), by(0, 1)), "reject/log-quorum", "One witness at two times."),
            ("strangers", given(1, cosigned(HEAD, "w9.example", NOW)), "reject/log-quorum", "A stranger."),
            (
                "other-tree",
                given(1, cosigned(head(12, ROOT), names[0], NOW)),
                "reject/log-signature",
                "Of another.",
            ),
        ],
    )
    yield from vectors(
        "log-quorum",
        "04 §6.4",
        [
            ("time", given(2, by(3, 90), by(0, 70), by(1, 10), by(2, 50)), "accept",
             "Complete at the second smallest of the operators' earliest times."),
            ("time-repeated", given(1, by(0, 90), by(0, 20)), "accept", "The earlier of one witness's two."),
            ("none", given(0, by(0, 0)), "accept", "Quorum 0 proves no age."),
        ],
    )  # fmt: skip


def logs() -> Iterator[Vector]:
    """Every vector of this file."""
    for maker in (_trees, _inclusion, _consistency, _notes, _checkpoints, _quorums):
        yield from maker()


__all__ = ["logs"]
