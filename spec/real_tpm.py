# SPDX-License-Identifier: Apache-2.0
"""Genuine TPM quotes, Azure vTPM evidence, boot logs, and every part beside them that the manifest lists."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import json
import re
from collections.abc import Iterator
from typing import Any

import test_eventlog_vectors as eventlog
import test_tpm_vectors as tpm
from cryptography.hazmat.primitives.serialization import Encoding
from real_kit import SEEN, Row, day, manifest, policy_lines, quietly, read, refusing, told
from tpm_vectors import gce, policy, txtar

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


def quote_rows() -> Iterator[Row]:
    raw, nonce, pin = tpm.generic()
    named = policy(attestation_keys=(pin,))
    nobody = tpm.verify(raw, nonce, 1_780_000_000)
    ok = refusing(nobody) == {"tpm.ak.trust"}
    yield Row("trustee_tpm_evidence.json", "any", "key of nobody", told(nobody), ok, policy_lines(nobody, policy()))
    found = tpm.verify(raw, nonce, 1_780_000_000, under=named)
    yield Row(
        "trustee_tpm_evidence.json", "any", "valid once its key is named", told(found), found.result == "accepted"
    )

    quote, key = read("tpm/generic/keylime_quote.out"), read("tpm/generic/keylime_akpub.pem")
    files = {
        "ak.pem": key,
        "quote.sig": read("tpm/generic/keylime_quotesig.out"),
        "pcrs.json": tpm._keylime_pcrs().encode(),
    }
    nonce = tpm_format.parse_quote(quote).extra_data
    pin = tpm_format.spki_sha256(tpm_format.load_spki(key))
    usual, some = policy(attestation_keys=(pin,)), policy(attestation_keys=(pin,), pcrs=(15, 16))
    refused = tpm.verify(quote, nonce, 1_780_000_000, files=files, under=usual)
    ok = refusing(refused) == {"tpm.quote.selection"}
    yield Row(
        "keylime_quote.out", "any", "covers registers 15 and 16 alone", told(refused), ok, policy_lines(refused, usual)
    )
    found = tpm.verify(quote, nonce, 1_780_000_000, files=files, under=some)
    yield Row("keylime_quote.out", "any", "valid where that is asked", told(found), found.result == "accepted")
    for verdict in (nobody, refused, found):
        SEEN.note(verdict.checks)

    for name in ("gce-cos-85-no-nonce.pb", "gce-cos-85-nonce9009.pb"):
        found = _gce(name)
        SEEN.note(found.checks)
        yield Row(name, "any", "valid with its log", told(found), found.result == "accepted" and found.tier == "vtpm")
    found = _qemu(log=True)
    ok = refusing(found) == {"tpm.log.replay"}
    yield Row("qemu-swtpm with its log", "any", "register 14 is the application's own", told(found), ok)
    SEEN.note(found.checks)
    found = _qemu(log=False)
    SEEN.note(found.checks)
    yield Row("qemu-swtpm", "any", "log replay equals the quote", told(found), found.result == "accepted")


def _gce(name: str) -> Any:
    found = gce(f"tpm/gce/{name}")
    raw, signature, _, pcrs = found["quotes"][1]
    pin = tpm_format.spki_sha256(tpm_format.parse_public(found["ak"]).key)
    quote = {"message": raw.hex(), "signature": signature.hex()}
    quote["pcrs"] = {"sha256": {str(k): v.hex() for k, v in pcrs.items()}}
    document = {"quote": quote, "ak": found["ak"].hex(), "event_log": found["event_log"].hex()}
    nonce = tpm_format.parse_quote(raw).extra_data
    under = policy(attestation_keys=(pin,), log_required=True, secure_boot_required=True)
    under = under if nonce else dataclasses.replace(under, freshness_required=False)
    return tpm.verify(json.dumps(document).encode(), nonce or None, 1_780_000_000, under=under)


def _qemu(*, log: bool) -> Any:
    base = "tpm/qemu-swtpm/"
    raw, boot, key = read(base + "q.msg"), read(base + "log"), read(base + "ak.pub")
    values = replay(parse_event_log(boot), "sha256")
    pcrs = {i: values.get(i, bytes(32)) for i in tpm_format.parse_quote(raw).selections[0].pcrs}
    pcrs[14] = hashlib.sha256(pcrs[14] + bytes.fromhex(read(base + "m").decode().strip())).digest()
    files = {
        "ak.pub": key,
        "q.sig": read(base + "q.sig"),
        "pcrs.json": tpm_format.encode_pcrs({"sha256": pcrs}).encode(),
    }
    if log:
        files["boot.log"] = boot
    under = policy(attestation_keys=(tpm_format.spki_sha256(tpm_format.load_spki(key)),))
    return tpm.verify(raw, b"\xcd" * 32, 1_780_000_000, files=files, under=under)


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
