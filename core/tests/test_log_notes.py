# SPDX-License-Identifier: Apache-2.0
"""Notes, checkpoints, cosignatures and quorums: what others published verifies here; what is spoilt does not."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st
from log_support import LOG, LOG_KEY, ORIGIN, policy, seeded, signed

from teehouse_core.errors import LocalError, MalformedError
from teehouse_core.log.checkpoint import Checkpoint
from teehouse_core.log.errors import LogQuorumError, LogSignatureError
from teehouse_core.log.merkle import EMPTY_ROOT
from teehouse_core.log.note import Note, Signature, VerifierKey, parse_signatures
from teehouse_core.log.quorum import Witness, WitnessPolicy
from teehouse_core.log.signing import cosign, cosigner_key, log_key, sign_note, verify_signature
from teehouse_core.log.text import decimal, unb64

# golang.org/x/mod/sumdb/note
NEUMANN_KEY = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
NEUMANN = """If you think cryptography is the answer to your problem,
then you don't know what your problem is.

— PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=
"""
# c2sp.org/signed-note
C2SP_KEY = "example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k"
C2SP = """This is an example message.

— example.com/foo Uw2QOkn8srV1yJGh2VYRlL1Tnagv1YEq6TfXppzi2ONncAlTgK7Ztg1ERYNZXsYjOBH3mFXmRKuwHjG1Yu72IneyaQM=
"""
# A checkpoint of the Go checksum database
SUMDB_KEY = "sum.golang.org+033de0ae+Ac4zctda0e5eza+HJyk9SxEdh+s3Ux18htTTAD8OuAn8"
SUMDB = """go.sum database tree
6476701
mb8QLQIs0Z0yP5Cstq6guj87oXWeC9gEM8oVikmm9Wk=

— sum.golang.org Az3grsLX85Gz+s1SiTbgkuqxgItqFq7gsMUEyVnrsa9LM7Us9S+1xbFIGu95949rj4nPRYfvimWEPWL+o3GeoWwOoAw=
"""
# A checkpoint of a staging CT log, with an RFC 6962 signature, a note signature and four witness cosignatures
ARCHE = "arche2025h1.staging.ct.transparency.dev"
ARCHE_KEY = f"{ARCHE}+ba2f06c0+AU0vHmlGCS/PdN8b2OaGmKprLI8HKM+dJ472xgFYh15f"
WITNESS_KEYS = (
    ("remora.n621.de+da77ade7+BOvN63jn/bLvkieywe8R6UYAtVtNbZpXh34x7onlmtw2", "Florian Larysch"),
    ("witness.stagemole.eu+67f7aea0+BEqSG3yu9YrmcM3BHvQYTxwFj3uSWakQepafafpUqklv", "Mullvad"),
    ("witness1.smartit.nu/witness1+a48c820f+BPSFWg9G6KPiO7QPryYO5Xq4oYJJ+kAvLKLSimDhoxMO", "Elias Rudberg"),
    (
        "transparency.dev/DEV:witness-little-garden+d8042a87+BCtusOxINQNUTN5Oj8HObRkh2yHf/MwYaGX4CPdiVEPM",
        "TrustFabric",
    ),
)
CT_SIGNATURES = (
    (
        "arche2025h1.staging.ct.transparency.dev zTM8sQAAAZ5W0WdjBAMARjBEAiBjW5IQf9pvsYLfQFX6hoGREPMHbdQ3urbl"
        "lzalApkptQIgIpwtEroeW2BXaHAI4kJXFbon5Ch9MNL5zRNZ55lvGt0="
    ),
    (
        "arche2025h1.staging.ct.transparency.dev ui8GwCF1+kWqZrxGdhj4aX3gcw7XUlXQQabg/27lefwhUkzbC3NygNI75MdhL"
        "1bfTW9g8Ei59RA23oHP7Ry1k3ZFWwQ="
    ),
    (
        "transparency.dev/DEV:witness-little-garden 2AQqhwAAAABqEiEgzgFIqqhbUoDwjMWE6UP8nd8/KYTzwZ2rhIgcqoXHA"
        "wVkjZr4AscylP3v7sEodkRAErumC2q44vdgJY096st5BQ=="
    ),
    (
        "witness1.smartit.nu/witness1 pIyCDwAAAABqEiEghIp82KWebrw7/oHQwlTAm3g2RKS4+eebl8eO0WH+/iEcxZ75W3u5hNI7"
        "TOQtmJbqmNWVuE0tgh0XwzdZsDsUAQ=="
    ),
    (
        "remora.n621.de 2net5wAAAABqEiEgPlfF3V06o0Y+fHM+J5J9s27wgxxcOVSpZ/2g/KSiXCg9DEZI+aVCIobWX9sXTynk5XeU/z"
        "Z0WBxtqB0DrAWfBw=="
    ),
    (
        "witness.stagemole.eu Z/euoAAAAABqEiEgw0i+7g2ENfDAWHmtRzCfKTHSDwYDJA2NmKeGi9Y8FtEyOUvVr+AJmIY/2TUFucgK"
        "i7lI7cUiOvKFYe/TmN9DAg=="
    ),
)
CT = f"{ARCHE}\n1432088532\nU7WM79jrzyhGZ5/GUBTpM7NzwdyfFx61t3RovgcC4Ro=\n\n" + "".join(
    f"— {signature}\n" for signature in CT_SIGNATURES
)
CT_TIME = 0x6A122120  # Unix seconds, in all four cosignatures


@pytest.mark.parametrize(
    ("text", "key"), [(NEUMANN, NEUMANN_KEY), (C2SP, C2SP_KEY), (SUMDB, SUMDB_KEY), (CT, ARCHE_KEY)]
)
def test_published_notes(text: str, key: str) -> None:
    note, vkey = Note.parse(text.encode()), VerifierKey.parse(key)
    assert note.to_bytes() == text.encode()
    assert vkey.text == key
    assert verify_signature(note, vkey) is None
    with pytest.raises(LogSignatureError, match="does not verify"):
        verify_signature(dataclasses.replace(note, text=note.text.replace("e", "3", 1)), vkey)


def test_published_cosignatures() -> None:
    note = Note.parse(CT.encode())
    keys = [(VerifierKey.parse(key), operator) for key, operator in WITNESS_KEYS]
    for key, _ in keys:
        assert verify_signature(note, key) == CT_TIME
    pinned = WitnessPolicy(tuple(Witness(key.name, key, operator) for key, operator in keys), 4)
    assert pinned.require(note).completed_at == CT_TIME
    assert WitnessPolicy.read(pinned.to_json()) == pinned
    checkpoint = Checkpoint.parse(note.text)
    assert (checkpoint.origin, checkpoint.size, checkpoint.text()) == (ARCHE, 1432088532, note.text)
    smaller = dataclasses.replace(note, text=dataclasses.replace(checkpoint, size=1432088531).text())
    for key, _ in keys:
        with pytest.raises(LogSignatureError):
            verify_signature(smaller, key)


def test_the_bytes_that_a_cosignature_covers() -> None:
    """The worked example of c2sp.org/tlog-cosignature."""
    text = "example.com/behind-the-sofa\n20852163\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n"
    key = seeded("w")
    made = cosign(text, "witness.example.com/w1", key, 1679315147)
    assert made.data[:8] == bytes.fromhex("00000000641850cb")
    key.public_key().verify(made.data[8:], f"cosignature/v1\ntime 1679315147\n{text}".encode())


def test_known_signatures_must_verify_and_others_are_ignored() -> None:
    note = signed(0, EMPTY_ROOT)
    stranger = Signature(ORIGIN, b"\0\0\0\0", bytes(64))
    namesake = sign_note(note.text, "other.example", LOG)
    assert verify_signature(note.add(stranger, namesake), LOG_KEY) is None
    forged = Signature(ORIGIN, LOG_KEY.key_id, bytes(64))
    for spoilt in (Note(note.text, (forged,)), note.add(forged)):
        with pytest.raises(LogSignatureError) as caught:
            verify_signature(spoilt, LOG_KEY)
        assert caught.value.code == "log-signature"
    with pytest.raises(LogSignatureError) as caught:
        verify_signature(Note(note.text, (stranger,)), LOG_KEY)
    assert caught.value.code == "log-unsigned"


def test_a_cosignature_is_no_plain_signature() -> None:
    key = seeded("both")
    note = signed(0, EMPTY_ROOT)
    plain, timed = log_key("both.example", key.public_key()), cosigner_key("both.example", key.public_key())
    assert plain.key_id != timed.key_id
    with pytest.raises(LogSignatureError):
        verify_signature(note.add(cosign(note.text, "both.example", key, 5)), plain)
    swapped = Signature(timed.name, timed.key_id, sign_note(note.text, "both.example", key).data)
    with pytest.raises(LogSignatureError):
        verify_signature(note.add(swapped), timed)
    cut = Signature(timed.name, timed.key_id, bytes(8))
    late = Signature(timed.name, timed.key_id, b"\xff" * 72)
    for spoilt in (cut, late):
        with pytest.raises(LogSignatureError):
            verify_signature(note.add(spoilt), timed)


def test_a_quorum_counts_operators() -> None:
    pinned = policy(2, w1="ada", w2="ada", w3="bob", w4="cleo")
    one = signed(0, EMPTY_ROOT, witnesses=["w1.example", "w2.example"])
    result = pinned.check(one)
    assert (result.count, result.operators, result.names, result.met) == (
        1,
        ("ada",),
        ("w1.example", "w2.example"),
        False,
    )
    assert result.completed_at is None
    with pytest.raises(LogQuorumError):
        pinned.require(one)
    two = signed(0, EMPTY_ROOT, witnesses=["w4.example", "w2.example", "w3.example", "w9.example"])
    result = pinned.require(two)
    assert (result.count, result.names) == (3, ("w2.example", "w3.example", "w4.example"))
    assert result.completed_at == 1001  # the second operator in time completes it, not the third


def test_the_earliest_of_a_witness_counts() -> None:
    pinned = policy(1, w1="ada")
    note = signed(0, EMPTY_ROOT, witnesses=["w1.example"], time=1000)
    later = note.add(cosign(note.text, "w1.example", seeded("w1.example"), 5000))
    assert pinned.require(later).completed_at == 1000


def test_no_witness_proves_no_age() -> None:
    note = signed(0, EMPTY_ROOT, witnesses=["w1.example"])
    assert WitnessPolicy.none().require(note).completed_at is None
    assert policy(0, w1="ada").require(note).completed_at is None


def test_a_pinned_witness_that_lies_spoils_the_note() -> None:
    pinned = policy(1, w1="ada", w2="bob")
    vkey = pinned.witnesses[1].vkey
    note = signed(0, EMPTY_ROOT, witnesses=["w1.example"]).add(Signature(vkey.name, vkey.key_id, bytes(72)))
    with pytest.raises(LogSignatureError):
        pinned.check(note)


def test_a_policy_that_cannot_be_is_refused() -> None:
    key = seeded("w1.example").public_key()
    one = Witness("w1.example", cosigner_key("w1.example", key), "ada")
    again = Witness("w2.example", cosigner_key("w2.example", key), "bob")
    plain = Witness("w1.example", log_key("w1.example", key), "ada")
    for witnesses, quorum in (((one,), 2), ((one, again), 1), ((plain,), 1), ((one,), -1)):
        with pytest.raises(LocalError):
            WitnessPolicy(witnesses, quorum)
    for value in ({}, {"quorum": 0}, {"quorum": 0, "witnesses": [{}]}, {"quorum": "1", "witnesses": []}):
        with pytest.raises(MalformedError):
            WitnessPolicy.read(value)


@pytest.mark.parametrize(
    "data",
    [
        "",
        "text\n",
        "text\n\n",
        "text\n\n\n",
        "text\n\n— name AAAAAAA=",  # no end of the line
        "text\n\n- name AAAAAAA=\n",
        "text\n\n— name\n",
        "text\n\n— name AAAAAA==\n",  # only a key id
        "text\n\n— name AAAAAAB=\n",  # spare bits
        "text\n\n— name AAAAAAA\n",
        "text\n\n—  AAAAAAA=\n",
        "text\n\n— na+me AAAAAAA=\n",
        "text\n\n— na\u00a0me AAAAAAA=\n",
        "text\n\n— name  AAAAAAA=\n",
        "text\n\n— name AAAAAAA= \n",
        "te\txt\n\n— name AAAAAAA=\n",
        "te\rxt\n\n— name AAAAAAA=\n",
        "text\n\n" + "— name AAAAAAA=\n" * 65,
        "x" * 65536 + "\n\n— name AAAAAAA=\n",
    ],
)
def test_what_is_no_note(data: str) -> None:
    with pytest.raises(MalformedError):
        Note.parse(data.encode())


def test_notes_may_have_empty_lines_and_sixteen_signatures() -> None:
    poem = "Ognuno sta solo sul cuor della terra\ntrafitto da un raggio di sole:\n\ned è subito sera.\n"
    line = (
        "— quasimodo.example/salvatore NnugSzTjtVAewIS+Z/iJhUPeFDkO/5QQ2i5ddnGITLlC+EhfLW9oJKONrMouFSQU0xMcXxj99ihAQwaq"
        "P3ZekRwNtIc=\n"
    )
    note = Note.parse((poem + "\n" + line * 16).encode())
    assert (note.text, len(note.signatures)) == (poem, 16)
    assert parse_signatures(line.encode()) == note.signatures[:1]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "o\n1\n",
        "o\n1\nmb8QLQIs0Z0yP5Cstq6guj87oXWeC9gEM8oVikmm9Wk=",
        "\n1\nmb8QLQIs0Z0yP5Cstq6guj87oXWeC9gEM8oVikmm9Wk=\n",
        "o\n01\nmb8QLQIs0Z0yP5Cstq6guj87oXWeC9gEM8oVikmm9Wk=\n",
        "o\n-1\nmb8QLQIs0Z0yP5Cstq6guj87oXWeC9gEM8oVikmm9Wk=\n",
        "o\n9223372036854775808\nmb8QLQIs0Z0yP5Cstq6guj87oXWeC9gEM8oVikmm9Wk=\n",
        "o\n0\nmb8QLQIs0Z0yP5Cstq6guj87oXWeC9gEM8oVikmm9Wk=\n",
        "o\n1\nmb8QLQIs0Z0yP5Cstq6guj87oXWeC9gEM8oVikmm9W==\n",
        "o\n1\nmb8QLQIs0Z0yP5Cstq6guj87oXWeC9gEM8oVikmm9Wk=\n\n",
        "o" * 256 + "\n1\nmb8QLQIs0Z0yP5Cstq6guj87oXWeC9gEM8oVikmm9Wk=\n",
    ],
)
def test_what_is_no_checkpoint(text: str) -> None:
    with pytest.raises(MalformedError):
        Checkpoint.parse(text)


def test_extension_lines_are_kept() -> None:
    text = SUMDB.split("\n\n")[0] + "\nsomething\n"
    assert Checkpoint.parse(text).extensions == ("something",)
    assert Checkpoint.parse(text).text() == text


@pytest.mark.parametrize(
    "key",
    [
        "",
        "name",
        "name+00000000",
        "PeterNeumann+c74f20a4+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW",  # another id
        "PeterNeumann+C74F20A3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW",
        "PeterNeuman+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW",
        "PeterNeumann+c74f20a3+Ahpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW",  # another type
        "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10Q=",
        "PeterNeumann+c74f20a3+",
        "\ud800+00000000+AAAA",
    ],
)
def test_what_is_no_verifier_key(key: str) -> None:
    with pytest.raises(MalformedError):
        VerifierKey.parse(key)


@given(st.binary(max_size=300) | st.text(max_size=200).map(lambda text: text.encode("utf-8", "replace")))
def test_any_bytes(data: bytes) -> None:
    for parse in (
        Note.parse,
        parse_signatures,
        lambda raw: Checkpoint.parse(raw.decode("utf-8", "surrogateescape")),
        lambda raw: VerifierKey.parse(raw.decode("utf-8", "surrogateescape")),
        lambda raw: decimal(raw.decode("utf-8", "surrogateescape")),
        lambda raw: unb64(raw.decode("utf-8", "surrogateescape")),
    ):
        try:
            parse(data)
        except MalformedError:
            continue


def test_a_note_needs_a_text_and_a_signature() -> None:
    with pytest.raises(LocalError):
        Note("no newline", signed(0, EMPTY_ROOT).signatures).to_bytes()
    with pytest.raises(LocalError):
        Note("text\n", ()).to_bytes()
    with pytest.raises(LocalError):
        sign_note("no newline", ORIGIN, LOG)
    with pytest.raises(LocalError):
        cosign("text\n", "w.example", LOG, -1)
