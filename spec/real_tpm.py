# SPDX-License-Identifier: Apache-2.0
"""Genuine TPM quotes, Azure vTPM evidence, boot logs, and every part beside them that the manifest lists."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import re
from collections.abc import Iterator
from typing import Any

import test_eventlog_vectors as eventlog
import test_tpm_vectors as tpm
from cryptography.hazmat.primitives.serialization import Encoding
from real_kit import SEEN, Row, day, manifest, policy_lines, quietly, read, refusing, told
from tpm_vectors import gce, policy, txtar

from teehouse_core.appraise.artifacts.base import ArtifactVerdict
from teehouse_core.appraise.policy import Policy
from teehouse_core.appraise.roots_tpm import vtpm_roots_for
from teehouse_core.evidence import tpm as tpm_format
from teehouse_core.evidence.detect import KINDS, detect, fields_of
from teehouse_core.evidence.eventlog import digest_problem, parse_event_log, replay
from teehouse_core.evidence.tpm_document import parse_document

PEM = re.compile(rb"-----BEGIN CERTIFICATE-----([^-]+)-----END CERTIFICATE-----")

NOT_READ = {
    "_quote.bin": "another program's own encoding of a quote",
    "tpm-quote.sig": "a signature; part of the quote beside it",
    ".yaml": "collateral as YAML, which nothing here reads",
    "measurements.json": "reference values of another project",
    "quotepcr.out": "register values as a C structure; read with the quote beside it",
    "quotesig.out": "a signature; part of the quote beside it",
    "ccel_table.dat": "an ACPI table that names the log beside it",
    "nonce.dat": "the nonce of the quote beside it",
    "_attestation.bin": "another project's own encoding",
    "attestation.json": "another project's own encoding",
    "gpu_attestation_h100.json": "a verdict of another verifier",
    "akpub.pem": "a public key; part of the quote beside it",
    "ekpub.pem": "an endorsement key, which signs nothing",
}
"""End of a file's name → why it is no artifact by itself."""

APPRAISED = {
    "trustee_tpm_evidence.json",
    "quote-report.json",
    "tdx-lite-getquote.json",
    "gce-cos-85-no-nonce.pb",
    "gce-cos-85-nonce9009.pb",
}
"""Files that have a verdict in another section."""


def azure_rows() -> Iterator[Row]:
    for name, nonce, now, platform, wanted in tpm.AZURE:
        raw = tpm.document(name)
        asked = nonce or tpm_format.parse_quote(parse_document(raw).quote).extra_data
        chain = tpm.intermediate() if name == tpm.PADDED else None
        found = tpm.verify(raw, asked, now, chain=chain)
        SEEN.note(found.checks)
        states = {check.id: check.state for check in found.checks}
        own = ("hcl.format", "hcl.runtime-data", "tpm.quote.signature", "tpm.quote.pcr-digest", "tpm.ak.trust")
        ok = [check.id for check in found.refusing] == wanted and all(states[i] == "passed" for i in own)
        ok &= found.claims["platform"] == platform and found.tier == "hardware"
        expected = "valid, refused by default" if wanted else "valid"
        yield Row(name, day(now), expected, told(found), ok, policy_lines(found, policy()))
        default = dataclasses.replace(tpm.Policy.preset("standard"), required_references=())
        refused = tpm.verify(raw, asked, now, chain=chain, under=default)
        SEEN.note(refused.checks)
        ok = refused.result == "refused" and {"policy.platform", "tpm.reference.pcrs"} <= refusing(refused)
        yield Row(
            name, day(now), "genuine, refused by default", refused.result, ok, policy_lines(refused, default)[:160]
        )


@dataclasses.dataclass(frozen=True)
class Quote:
    """A bare quote with its company as files, the nonce that it carries, and a policy that accepts it."""

    name: str
    raw: bytes
    files: dict[str, bytes]
    under: Policy

    @property
    def nonce(self) -> bytes | None:
        return tpm_format.parse_quote(self.raw).extra_data or None

    def verify(self, **changes: Any) -> ArtifactVerdict:
        given = {"raw": self.raw, "nonce": self.nonce, "now": 1_780_000_000, "files": self.files, "under": self.under}
        return tpm.verify(**{**given, **changes})


def quotes() -> list[Quote]:
    """The plain TPM quotes, each with the key that its policy names."""
    document = parse_document(read("tpm/generic/trustee_tpm_evidence.json"))
    trustee = {"ak.pem": document.ak_public or b"", "quote.sig": document.signature, "pcrs.json": document.pcrs or b""}
    found = [Quote("trustee_tpm_evidence.json", document.quote, trustee, _naming(trustee["ak.pem"]))]
    keylime = {
        "ak.pem": read("tpm/generic/keylime_akpub.pem"),
        "quote.sig": read("tpm/generic/keylime_quotesig.out"),
        "pcrs.json": tpm._keylime_pcrs().encode(),
    }
    raw = read("tpm/generic/keylime_quote.out")
    found.append(Quote("keylime_quote.out", raw, keylime, _naming(keylime["ak.pem"], pcrs=(15, 16))))
    for name in ("gce-cos-85-no-nonce.pb", "gce-cos-85-nonce9009.pb"):
        message = gce(f"tpm/gce/{name}")
        raw, signature, _, pcrs = message["quotes"][1]
        pin = tpm_format.spki_sha256(tpm_format.parse_public(message["ak"]).key)
        files = {"ak.tpmt": message["ak"], "quote.sig": signature, "boot.log": message["event_log"]}
        files["pcrs.json"] = tpm_format.encode_pcrs({"sha256": pcrs}).encode()
        under = policy(attestation_keys=(pin,), log_required=True, secure_boot_required=True)
        fresh = bool(tpm_format.parse_quote(raw).extra_data)
        found.append(Quote(name, raw, files, dataclasses.replace(under, freshness_required=fresh)))
    base = "tpm/qemu-swtpm/"
    raw = read(base + "q.msg")
    values = replay(parse_event_log(read(base + "log")), "sha256")
    registers = {i: values.get(i, bytes(32)) for i in tpm_format.parse_quote(raw).selections[0].pcrs}
    registers[14] = hashlib.sha256(registers[14] + bytes.fromhex(read(base + "m").decode().strip())).digest()
    swtpm = {"ak.pub": read(base + "ak.pub"), "q.sig": read(base + "q.sig")}
    swtpm["pcrs.json"] = tpm_format.encode_pcrs({"sha256": registers}).encode()
    found.append(Quote("qemu-swtpm", raw, swtpm, _naming(swtpm["ak.pub"])))
    return found


def _naming(key: bytes, **table: Any) -> Policy:
    return policy(attestation_keys=(tpm_format.spki_sha256(tpm_format.load_spki(key)),), **table)


def quote_rows() -> Iterator[Row]:
    """Each as it is; those that a narrower policy refuses, under that too."""
    for quote in quotes():
        found = quote.verify()
        SEEN.note(found.checks)
        ok = found.result == "accepted" and found.tier == "vtpm"
        yield Row(quote.name, "any", "valid once its key is named", told(found), ok)
        nobody = dataclasses.replace(quote.under, tpm=dataclasses.replace(quote.under.tpm, attestation_keys=()))
        refused = quote.verify(under=nobody)
        SEEN.note(refused.checks)
        ok = refusing(refused) == {"tpm.ak.trust"} and refused.tier == "none"
        yield Row(quote.name, "any", "key of nobody: refused", told(refused), ok, policy_lines(refused, nobody))
        if quote.name == "keylime_quote.out":
            usual = dataclasses.replace(quote.under, tpm=dataclasses.replace(quote.under.tpm, pcrs=policy().tpm.pcrs))
            refused = quote.verify(under=usual)
            SEEN.note(refused.checks)
            ok, why = refusing(refused) == {"tpm.quote.selection"}, policy_lines(refused, usual)
            yield Row(quote.name, "any", "covers registers 15 and 16 alone", told(refused), ok, why)
        if quote.name == "qemu-swtpm":
            refused = quote.verify(files={**quote.files, "boot.log": read("tpm/qemu-swtpm/log")})
            SEEN.note(refused.checks)
            ok = refusing(refused) == {"tpm.log.replay"}
            yield Row("qemu-swtpm with its log", "any", "register 14 is the application's own", told(refused), ok)


def log_rows() -> Iterator[Row]:
    for name, quote, fits in eventlog.PAIRS:
        found = eventlog.verdict(read(f"eventlog/ccel/{name}"), quote=read(f"eventlog/ccel/{quote}"))
        SEEN.note(found.checks)
        stale = "NEGATIVE: stale log" if "live.bin" in name else "log of another machine"
        ok = found.result == ("accepted" if fits else "refused") and (fits or refusing(found) == {"eventlog.replay"})
        yield Row(f"{name} + {quote}", "any", "RTMR0-3 replay == quote" if fits else stale, told(found), ok)
    for name in ("quote-report.json", "tdx-lite-getquote.json"):
        found = eventlog.verdict(read(f"eventlog/dstack/{name}"))
        SEEN.note(found.checks)
        yield Row(name, "any", "leads to the quote in it", told(found), found.result == "accepted")
    for path in eventlog.logs():
        log = parse_event_log(path.read_bytes())
        ok = not [p for event in log.events if (p := digest_problem(event))] and bool(replay(log, log.banks[-1]))
        yield Row(path.name, "any", "a log", f"{len(log.events)} events, every digest recomputes", ok)


def part_rows() -> Iterator[Row]:
    """What the manifest lists without a verdict: certificates, reports inside archives, parts of quotes."""
    pinned = {c.public_bytes(Encoding.DER) for kind in ("tpm", "az-snp-vtpm") for c in vtpm_roots_for(kind)}
    shown = {path.name for path in eventlog.logs()} | {name for name, *_ in tpm.AZURE}
    for row in [*manifest()["tpm"], *manifest()["eventlog"]]:
        name, raw = row["file"].rpartition("/")[2], read(row["file"])
        if name in shown or name in APPRAISED:
            continue
        reason = next((why for end, why in NOT_READ.items() if name.endswith(end)), None)
        if reason is not None:
            yield Row(name, "", "no verdict stated", f"not appraised: {reason}", True)
        elif name.endswith(".txt"):
            got = [quietly(lambda d=data: _fields(d)) for data in txtar(row["file"]).values()]
            ok = all("malformed" not in one for one in got)
            yield Row(name, "", "an archive", ", ".join(got)[:90], ok)
        else:
            got = quietly(lambda d=raw: _certificate(d, pinned) or _fields(d))
            yield Row(name, "", "no verdict stated", got, "malformed" not in got)


def _certificate(raw: bytes, pinned: set[bytes]) -> str:
    if detect(raw) == "certificate":
        found = [raw]
    elif detect(raw) in (None, "pem"):
        found = [base64.b64decode(body) for body in PEM.findall(raw)]
    else:
        found = []
    if not found:
        return ""
    held = any(der in pinned for der in found)
    parts = sum(len(fields_of("certificate", der)) for der in found)
    return f"{len(found)} certificates, {parts} fields" + (", a pinned root" if held else "")


def _fields(raw: bytes) -> str:
    kind = detect(raw)
    if kind in KINDS:
        return f"{kind}, {len(fields_of(kind, raw))} fields"
    return f"{len(raw)} bytes" + (f", {kind}" if kind else "")
