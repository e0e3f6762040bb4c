# SPDX-License-Identifier: Apache-2.0
"""What is fuzzed: one function per parser. Any bytes make it return or raise `TeehouseError`; all else is a bug.

Some also say what must hold of bytes that were accepted: a canonical text is what its value encodes to, cutting a
stream elsewhere changes nothing. A broken promise is an `AssertionError`, and so a finding.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final

from teehouse_core.appraise.appraise import appraise_under
from teehouse_core.appraise.artifacts import nvidia as nvidia_artifact
from teehouse_core.appraise.artifacts.dispatch import ARTIFACTS, verify
from teehouse_core.appraise.policy import Policy
from teehouse_core.appraise.release_policy import ReleasePolicy
from teehouse_core.appraise.revocation import RevocationPack
from teehouse_core.errors import TeehouseError
from teehouse_core.evidence import (
    akcert,
    amd_collateral,
    amdcert,
    collateral,
    der,
    eventlog,
    hcl,
    jsontext,
    nvidia,
    nvidia_cert,
    pack,
    parsed,
    pck,
    rim,
    snp,
    tcb,
    tdreport,
    tdx,
    tdx_fields,
    tpm,
    tpm_document,
    x509fields,
)
from teehouse_core.evidence.bundle import Bundle
from teehouse_core.evidence.fields import Field
from teehouse_core.log import tiles
from teehouse_core.log.checkpoint import Checkpoint
from teehouse_core.log.entry import Opening, parse_leaf
from teehouse_core.log.merkle import Frontier, verify_consistency, verify_inclusion
from teehouse_core.log.note import Note, VerifierKey, parse_signatures
from teehouse_core.log.proof import TlogProof
from teehouse_core.log.quorum import WitnessPolicy
from teehouse_core.log.witness import AddCheckpoint, NewestStatement, parse_size
from teehouse_core.seal.bhttp import decode_request
from teehouse_core.weights.manifest import Manifest
from teehouse_core.weights.plan import Cut, Part, PartHeader
from teehouse_core.weights.signing import parse_signed
from teehouse_core.weights.whole import open_model
from teehouse_core.wire import canonical
from teehouse_core.wire.armor import ArmorReader
from teehouse_core.wire.commands import AdminSet, Command, build_command
from teehouse_core.wire.fields import Fields
from teehouse_core.wire.frame import RequestFrame, parse_prefix
from teehouse_core.wire.grant import Grant, Release, ReleaseAnswer, ReleaseRequest, parse_challenge
from teehouse_core.wire.header import RequestHeader
from teehouse_core.wire.keyset import Keyset
from teehouse_core.wire.problem import PROBLEM_TYPE, parse_problem
from teehouse_core.wire.receipts import Receipt, UsageRecord
from teehouse_core.wire.records import RecordReader
from teehouse_fuzz import scenes

__all__ = ["MAX_INPUT", "TARGETS", "each"]

Target = Callable[[bytes], None]

NOW: Final = scenes.NOW
TARGETS: Final[dict[str, Target]] = {}
MAX_INPUT: Final[dict[str, int]] = {}
"""Bytes of the largest input that the fuzzer makes for a target."""


def target(name: str, size: int = 8192) -> Callable[[Target], Target]:
    def add(function: Target) -> Target:
        TARGETS[name], MAX_INPUT[name] = function, size
        return function

    return add


def each(*calls: Callable[[], Any]) -> None:
    """Make every call even when one refuses; then raise the last refusal."""
    refusal: TeehouseError | None = None
    for call in calls:
        try:
            call()
        except TeehouseError as error:
            refusal = error
    if refusal is not None:
        raise refusal


def lie_within(data: bytes, found: Iterable[Field]) -> None:
    """Every field knows where it stands; one that points outside would make a viewer show nonsense."""
    for field in found:
        if not 0 <= field.start <= field.end <= len(data):
            raise AssertionError(f"{field.path} stands at {field.start}..{field.end} of {len(data)} bytes")


# The wire


@target("wire-canonical")
def wire_canonical(data: bytes) -> None:
    text = data.decode("utf-8", "replace")

    def b64() -> None:
        if canonical.b64u(canonical.unb64u(text)) != text:
            raise AssertionError("base64url has two spellings")

    def document() -> None:
        if canonical.encode(canonical.parse(data, limit=1 << 16)) != data:
            raise AssertionError("a canonical text has two spellings")

    each(b64, document)


@target("wire-keyset")
def wire_keyset(data: bytes) -> None:
    keyset = Keyset.parse(data)
    for key in keyset.hpke:
        if keyset.hpke_key(key.kid) != key:
            raise AssertionError("a key is not found by its id")


@target("wire-commands")
def wire_commands(data: bytes) -> None:
    def command() -> None:
        read = Command.parse(data)
        parts = ("tks_keyset_sha256", "tenant", "ring", "seq", "op", "args", "expires_at")
        if build_command(**{name: getattr(read, name) for name in parts}) != data:
            raise AssertionError("a command has two spellings")

    def policy() -> None:
        read = ReleasePolicy.parse(data)
        if read.encode() != data:
            raise AssertionError("a release policy has two spellings")

    def admins() -> None:
        given = canonical.parse(data, limit=1 << 16)
        if AdminSet.read(Fields(given, "admins")).to_json() != given:
            raise AssertionError("an admin set has two spellings")

    each(command, policy, admins)


@target("wire-grants")
def wire_grants(data: bytes) -> None:
    """What a release is asked with and answered by; each has one spelling."""

    def only(parse: Callable[[bytes], Any]) -> Callable[[], None]:
        def one() -> None:
            if parse(data).encode() != data:
                raise AssertionError("a release document has two spellings")

        return one

    each(*map(only, (ReleaseRequest.parse, Release.parse, Grant.parse, ReleaseAnswer.parse)))
    each(lambda: parse_challenge(data))


@target("wire-header")
def wire_header(data: bytes) -> None:
    if RequestHeader.parse(data).encode() != data:
        raise AssertionError("a header has two spellings")


@target("wire-frame")
def wire_frame(data: bytes) -> None:
    each(lambda: parse_prefix(data[:9]), lambda: RequestFrame.parse(data))


def whole_and_cut(make: Callable[[], Any], data: bytes) -> None:
    """Feed the same stream at once and in pieces; the first byte says how long those are. Both must read the same."""
    size, stream = 1 + (data[0] if data else 0) % 64, data[1:]

    def read(pieces: Iterable[bytes]) -> Iterator[Any]:
        reader = make()
        try:
            for piece in pieces:
                yield from reader.feed(piece)
        except TeehouseError as error:
            yield error.code

    once = list(read([stream]))
    if list(read(stream[at : at + size] for at in range(0, len(stream), size))) != once:
        raise AssertionError("cutting a stream elsewhere changes what is read")


@target("wire-records", 4096)
def wire_records(data: bytes) -> None:
    whole_and_cut(RecordReader, data)


@target("wire-armor", 4096)
def wire_armor(data: bytes) -> None:
    whole_and_cut(ArmorReader, data)


@target("wire-receipts", 4096)
def wire_receipts(data: bytes) -> None:
    def same(kind: Any) -> None:
        if kind.parse(data).encode() != data:
            raise AssertionError("a receipt has two spellings")

    each(lambda: same(Receipt), lambda: same(UsageRecord))


@target("wire-problem", 4096)
def wire_problem(data: bytes) -> None:
    retry = data[:8].decode("latin-1")
    parse_problem(400 + (data[0] % 128 if data else 0), PROBLEM_TYPE, data[1:], retry)


@target("seal-bhttp")
def seal_bhttp(data: bytes) -> None:
    decode_request(data)


# Model weights


@target("weights-manifest", 4096)
def weights_manifest(data: bytes) -> None:
    part = Part(Cut(data[8:24].ljust(16, b"\0"), 1024, 2), 0, "model.gguf", 2500, 0)

    def header() -> None:
        if PartHeader.parse(data, part).encode() != data[:64]:
            raise AssertionError("a part's header has two spellings")

    each(lambda: parse_signed(data), lambda: Manifest.parse(data), header)


@target("weights-edited", 64)
def weights_edited(data: bytes) -> None:
    """A right model of some parts; each 5 bytes of input edit it: object, kind of edit, place (2), value."""
    objects, names = dict(scenes.sealed_model()), sorted(scenes.sealed_model())
    for at in range(0, len(data) - 4, 5):
        which, kind, place, value = (
            data[at],
            data[at + 1] % 4,
            int.from_bytes(data[at + 2 : at + 4], "big"),
            data[at + 4],
        )
        name = names[which % len(names)]
        old = objects.get(name, b"")
        spot = place % (len(old) + 1)
        objects[name] = (
            old[:spot] + bytes(b ^ value for b in old[spot : spot + 1]) + old[spot + 1 :],
            old[:spot],
            scenes.sealed_model()[names[value % len(names)]],
            old[:spot] + bytes((value,)) + old[spot:],
        )[kind]
    _, files = open_model(objects, publishers={scenes.PUBLISHER_PK}, data_key=bytes(32))
    if files != scenes.MODEL_FILES:
        raise AssertionError("an edited model opens to other files")


# Logs


def same_bytes(kind: Any, data: bytes) -> None:
    if kind.parse(data).to_bytes() != data:
        raise AssertionError(f"{kind.__name__} has two spellings")


@target("log-notes")
def log_notes(data: bytes) -> None:
    text = data.decode("utf-8", "surrogateescape")

    def key() -> None:
        if VerifierKey.parse(text).text != text:
            raise AssertionError("a verifier key has two spellings")

    def checkpoint() -> None:
        if Checkpoint.parse(text).text() != text:
            raise AssertionError("a checkpoint has two spellings")

    def frontier() -> None:
        if Frontier.from_bytes(data).to_bytes() != data:
            raise AssertionError("a frontier has two spellings")

    def signatures() -> None:
        if "".join(item.line() for item in parse_signatures(data)).encode() != data:
            raise AssertionError("signature lines have two spellings")

    each(lambda: same_bytes(Note, data), signatures, key, checkpoint, frontier, lambda: parse_size(data))


@target("log-documents", 16384)
def log_documents(data: bytes) -> None:
    def opening() -> None:
        with contextlib.suppress(ValueError, RecursionError):
            Opening.read(json.loads(data))

    def policy() -> None:
        with contextlib.suppress(ValueError, RecursionError):
            WitnessPolicy.read(json.loads(data))

    def leaf() -> None:
        if parse_leaf(data).to_bytes() != data:
            raise AssertionError("a log entry has two spellings")

    documents = (TlogProof, AddCheckpoint, NewestStatement)
    each(*(lambda kind=kind: same_bytes(kind, data) for kind in documents), leaf, opening, policy)  # type: ignore[misc]


@target("log-tiles", 4096)
def log_tiles(data: bytes) -> None:
    def bundle_entries() -> None:
        if tiles.format_bundle(tiles.parse_bundle(data)) != data:
            raise AssertionError("a bundle has two spellings")

    def path() -> None:
        text = data.decode("utf-8", "surrogateescape")
        named = tiles.parse_path(text)
        bundled = named.level == tiles.ENTRIES
        made = (
            tiles.entries_path(named.index, named.width)
            if bundled
            else tiles.tile_path(named.level, named.index, named.width)
        )
        if made != text:
            raise AssertionError("a tile has two paths")

    each(bundle_entries, path)


@target("log-trees", 4096)
def log_trees(data: bytes) -> None:
    """Two sizes of 8 bytes, two roots, then a proof: nothing made up proves anything, and no size takes long."""
    one, two = int.from_bytes(data[:8], "big"), int.from_bytes(data[8:16], "big")
    first, second = data[16:48], data[48:80]
    proof = [data[at : at + 32] for at in range(80, len(data), 32)]
    each(
        lambda: verify_inclusion(one, two, first, proof, second),
        lambda: verify_consistency(one, two, first, second, proof),
    )


# Bundles and what stands beside them


@target("bundle", 32768)
def bundle(data: bytes) -> None:
    each(lambda: Bundle.parse(data), lambda: parsed.parse_report(data))


@target("artifact-detect", 16384)
def artifact_detect(data: bytes) -> None:
    parsed.parse_artifact(data)


@target("collateral-pack", 16384)
def collateral_pack(data: bytes) -> None:
    pack.is_pack(data)
    for item in pack.describe(pack.parse_pack(data).files):
        item.state(NOW)


@target("jsontext")
def json_text(data: bytes) -> None:
    each(
        lambda: jsontext.load_object(data, limit=1 << 16, what="it"),
        lambda: jsontext.load_array(data, limit=1 << 16, what="it"),
        lambda: jsontext.unb64_text(data.decode("latin-1"), limit=1 << 16, what="it"),
    )


@target("policy")
def policy(data: bytes) -> None:
    text = data.decode("utf-8", "replace")

    def load(form: str) -> None:
        made = Policy.load(text, form)
        if Policy.load(canonical.encode(made.to_json()).decode(), "json") != made:
            raise AssertionError("a policy is not what its own text says")

    each(lambda: load("toml"), lambda: load("json"))


# Intel


@target("tdx-quote", 16384)
def tdx_quote(data: bytes) -> None:
    each(
        lambda: tdx.parse_any_quote(data),
        lambda: tdx.parse_any_quote(data, padding=True),
        lambda: tdx.parse_quote(data),
        lambda: lie_within(data, tdx_fields.fields(data)),
    )


@target("tdx-report", 2048)
def tdx_report(data: bytes) -> None:
    each(lambda: tdreport.parse_tdreport(data), lambda: lie_within(data, tdreport.fields(data)))


@target("tdx-tcb-info", 16384)
def tdx_tcb_info(data: bytes) -> None:
    text = data.decode("utf-8", "replace")
    each(lambda: collateral.parse_tcb_info(text), lambda: tcb.parse_tcb_levels(text))


@target("tdx-qe-identity")
def tdx_qe_identity(data: bytes) -> None:
    text = data.decode("utf-8", "replace")
    each(lambda: collateral.parse_qe_identity(text), lambda: tcb.parse_qe_levels(text))


@target("tdx-collateral", 16384)
def tdx_collateral(data: bytes) -> None:
    collateral.IntelCollateral.parse(jsontext.load_object(data, limit=1 << 20, what="it")).to_json()


@target("der-pck", 4096)
def der_pck(data: bytes) -> None:
    each(
        lambda: pck.parse_sgx_extension(data),
        lambda: [der.oid_text(content) for tag, content in der.children(data) if tag == 6],
        lambda: der.elements(data),
    )


@target("x509-fields")
def x509_fields(data: bytes) -> None:
    each(
        lambda: lie_within(data, x509fields.certificate_fields(data)),
        lambda: lie_within(data, x509fields.crl_fields(data)),
    )


# AMD


@target("snp-report", 2048)
def snp_report(data: bytes) -> None:
    report = snp.parse_report(data)
    lie_within(data, snp.fields(data))
    properties(report, report.policy, report.platform_info, report.reported_tcb)
    snp.kds_path(report)


@target("amd-certificate", 4096)
def amd_certificate(data: bytes) -> None:
    each(
        lambda: amdcert.parse_leaf(amdcert.parse_certificate(data)),
        lambda: amd_collateral.certificates_of(data),
    )


# NVIDIA


@target("nvidia-report")
def nvidia_report(data: bytes) -> None:
    lie_within(data, nvidia.fields(data))
    report = nvidia.parse_report(data)
    properties(report)
    report.measurement(1)


@target("nvidia-certificate")
def nvidia_certificate(data: bytes) -> None:
    chain = nvidia_artifact.load_chain(data)
    each(lambda: nvidia_cert.parse_identity(chain), lambda: nvidia_cert.firmware_ids(chain[0]))


@target("nvidia-rim", 32768)
def nvidia_rim(data: bytes) -> None:
    each(lambda: rim.parse_rim(data), lambda: lie_within(data, rim.fields(data)))


@target("ocsp")
def ocsp(data: bytes) -> None:
    RevocationPack([data], [data], NOW, 30 * 86400).chain(scenes.device_chain())


# TPM


@target("tpm-quote", 1024)
def tpm_quote(data: bytes) -> None:
    quote = tpm.parse_quote(data)
    lie_within(data, tpm.fields(data))
    tpm.pcr_digest(quote.selections, {"sha256": dict.fromkeys(range(24), bytes(32))}, "sha256")


@target("tpm-structures", 4096)
def tpm_structures(data: bytes) -> None:
    each(
        lambda: tpm.parse_public(data),
        lambda: tpm.parse_signature(data),
        lambda: tpm.load_spki(data),
        lambda: tpm.parse_pcrs(data),
        lambda: tpm_document.raw_rsassa(data),
    )


@target("tpm-document", 16384)
def tpm_evidence_document(data: bytes) -> None:
    tpm_document.parse_document(data)


@target("tpm-ak-chain")
def tpm_ak_chain(data: bytes) -> None:
    akcert.parse_ak_chain(data)


@target("tpm-hcl")
def tpm_hcl(data: bytes) -> None:
    each(lambda: hcl.parse_hcl(data), lambda: lie_within(data, hcl.fields(data)))


@target("event-log", 16384)
def event_log(data: bytes) -> None:
    log = eventlog.parse_event_log(data)
    lie_within(data, eventlog.fields(data))
    for bank in ("sha1", "sha256", "sha384", "sha512", "sm3"):
        eventlog.replay(log, bank)
    eventlog.secure_boot(log)
    for event in log.events:
        eventlog.digest_problem(event)
    eventlog.rtmrs(log)


# Verdicts


@target("verify-artifact", 8192)
def verify_artifact(data: bytes) -> None:
    """The first byte says as what; what stands beside it is right."""
    kinds = list(ARTIFACTS)
    kind = kinds[(data[0] if data else 0) % len(kinds)]
    beside: Mapping[str, Any] = scenes.beside(kind)
    verify(kind, data[1:], nonce=None, report_data=None, policy=scenes.policy_for(kind), now=NOW, **beside)


@target("appraise", 32768)
def appraise_bytes(data: bytes) -> None:
    """Whole bundles, as they come."""
    for scene in scenes.scenes()[:1]:
        appraise_under(scene.anchors, data, scene.policy, NOW, endpoint=scene.endpoint, nonce=scene.nonce)


@target("appraise-edited", 512)
def appraise_edited(data: bytes) -> None:
    """A right bundle of each technology, in which the input edits the bytes of reports, chains, logs and collateral."""
    scene, document = scenes.edited(data)
    verdict = appraise_under(scene.anchors, document, scene.policy, NOW, endpoint=scene.endpoint, nonce=scene.nonce)
    verdict.to_json()
    if verdict.result == "accepted" and scenes.changes_meaning(scene, document):
        raise AssertionError(f"an edited {scene.name} bundle was accepted")


def properties(*values: Any) -> None:
    """Read everything that a value works out when asked."""
    for value in values:
        for name, member in vars(type(value)).items():
            if isinstance(member, property):
                getattr(value, name)
