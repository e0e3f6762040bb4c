# SPDX-License-Identifier: Apache-2.0
"""What can be derived from each genuine artifact without its keys: none of it may be accepted, nor raise but ours."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Callable, Iterator
from typing import Any

import test_eventlog_vectors as eventlog
import test_nvidia_vectors as nvidia
import test_snp_vectors as snp
import test_tdx_artifacts as tdx
import test_tpm_vectors as tpm
from real_kit import manifest, read, seconds, short
from real_rows import ANY_STATUS
from real_tpm import quotes

from teehouse_core.errors import MalformedError, TeehouseError
from teehouse_core.evidence import tpm as tpm_format
from teehouse_core.evidence.hcl import parse_hcl
from teehouse_core.evidence.tpm_document import parse_document

Try = Callable[[], str]


def tdx_tries() -> Iterator[tuple[str, str, Try]]:
    """Of each quote with collateral; where the status allows it, the unspoilt one is accepted under a wide policy."""
    for row in manifest()["tdx"]:
        if not row["verify"]:
            continue
        run = row["verify"][-1]
        raw, now = read(row["file"]), seconds(run["at"])
        files = {"c.json": read(run["collateral"])}
        advisories = tuple(run["detail"]) if run["result"] != "REJECT" else ()
        wide = dataclasses.replace(ANY_STATUS, advisories_allowed=advisories)
        if run["result"] != "REJECT":
            yield short(row["file"]), "", lambda r=raw, f=files, p=wide, n=now: tdx.appraise(r, f, p, n).result
        for name, (data, given, at, options) in tdx.negatives(raw, files, now).items():
            yield (
                short(row["file"]),
                name,
                lambda d=data, g=given, p=wide, a=at, o=options: tdx.appraise(d, g, p, a, **o).result,
            )


def snp_tries() -> Iterator[tuple[str, str, Try]]:
    rows = snp.signed_rows()
    for row in rows:
        if not row["debug"]:
            yield short(row["file"]), "", lambda r=row: snp.verify(r, snp.WIDE).result
        for name, changes in snp.negatives(row, rows):
            yield short(row["file"]), name, lambda r=row, c=changes: snp.verify(r, snp.WIDE, **c).result


def nvidia_tries() -> Iterator[tuple[str, str, Try]]:
    for row in nvidia.VALID:
        yield short(row["file"]), "", lambda r=row: nvidia.report(r).result
        for name, case in nvidia.negatives(row).items():
            yield short(row["file"]), name, lambda c=case: c().result
    for row in nvidia.GOOD_RIMS:
        yield short(row["file"]), "", lambda r=row: nvidia.rim_verdict(read(r["file"]), nvidia.middle(r)).result
        for name, (raw, now) in nvidia.rim_negatives(row).items():
            yield short(row["file"]), name, lambda d=raw, n=now: nvidia.rim_verdict(d, n).result


def tpm_tries() -> Iterator[tuple[str, str, Try]]:
    rows = [row for row in tpm.AZURE if not row[4]]
    for number, (name, nonce, now, platform, _) in enumerate(rows):
        raw = tpm.document(name)
        asked = nonce or tpm_format.parse_quote(parse_document(raw).quote).extra_data
        others = (tpm.document(r[0]) for r in rows[number + 1 :] + rows if r[3] == platform)
        other = next(document for document in others if _key(document) != _key(raw))
        yield name, "", lambda r=raw, a=asked, n=now: tpm.verify(r, a, n).result
        cases = {what: wrong for what, (wrong, _) in tpm.azure_negatives(raw, other).items()}
        if platform == "az-tdx-vtpm":
            del cases["chip report"]  # the TD report beside the quote is for its own machine; the quote counts
        for what, wrong in cases.items():
            yield name, what, lambda w=wrong, a=asked, n=now: tpm.verify(w, a, n).result
        yield name, "another nonce", lambda r=raw, n=now: tpm.verify(r, b"\1" * 32, n).result
        yield name, "no nonce", lambda r=raw, n=now: tpm.verify(r, None, n).result
        yield name, "before validity", lambda r=raw, a=asked: tpm.verify(r, a, 1_000_000_000).result
        yield name, "after validity", lambda r=raw, a=asked: tpm.verify(r, a, 4_000_000_000).result
        yield name, "truncated", lambda r=raw, a=asked, n=now: tpm.verify(r.rstrip()[:-1], a, n).result
        yield name, "trailing", lambda r=raw, a=asked, n=now: tpm.verify(r + b"{", a, n).result


def _key(document: bytes) -> int:
    """What names the attestation key: two captures of one machine vouch for the same one."""
    return parse_hcl(parse_document(document).hcl or b"").ak.public_numbers().n


def quote_tries() -> Iterator[tuple[str, str, Try]]:
    """Of the plain TPM quotes, which are files side by side."""
    found = quotes()
    for quote in found:
        signature = next(name for name in quote.files if name.endswith(".sig"))
        key = next(name for name in quote.files if name.startswith("ak"))
        keys = (data for one in found for name, data in one.files.items() if name.startswith("ak"))
        other = next(data for data in keys if data != quote.files[key])
        foreign = {name: data for name, data in quote.files.items() if name != key}
        foreign["ak.tpmt" if other[:1] == b"\0" else "ak.pem"] = other
        pcrs = json.loads(quote.files["pcrs.json"])
        register = next(iter(pcrs["sha256"]))
        pcrs["sha256"][register] = "11" * 32
        raw, signed = quote.raw, quote.files[signature]
        cases: dict[str, dict[str, Any]] = {
            "bit in the clock": {"raw": tdx.flip(raw, len(raw) - 60)},
            "bit in the digest": {"raw": tdx.flip(raw, len(raw) - 1)},
            "bit in the signer": {"raw": tdx.flip(raw, 20)},
            "bit in the signature": {"files": {**quote.files, signature: tdx.flip(signed, len(signed) - 5)}},
            "signature of another scheme": {"files": {**quote.files, signature: b"\0\x16" + signed[2:]}},
            "signature cut": {"files": {**quote.files, signature: signed[:-1]}},
            "register listed otherwise": {"files": {**quote.files, "pcrs.json": json.dumps(pcrs).encode()}},
            "foreign key": {"files": foreign},
            "another nonce": {"nonce": b"another nonce"},
            "truncated": {"raw": raw[:-1]},
            "trailing": {"raw": raw + b"\0"},
        }
        yield quote.name, "", lambda q=quote: q.verify().result
        for what, changes in cases.items():
            yield quote.name, what, lambda q=quote, c=changes: q.verify(**c).result


def document_tries() -> Iterator[tuple[str, str, Try]]:
    """Of dstack's documents, which hold a JSON log and its quote."""
    for name in ("quote-report.json", "tdx-lite-getquote.json"):
        raw = read(f"eventlog/dstack/{name}")
        document = json.loads(raw)
        events = json.loads(document["event_log"])
        last = max(n for n, event in enumerate(events) if event["imr"] == 3)

        def spoilt(change: Callable[[list[Any]], Any], _events: Any = events, _document: Any = document) -> bytes:
            copy = json.loads(json.dumps(_events))
            change(copy)
            return json.dumps({**_document, "event_log": json.dumps(copy)}).encode()

        quote = bytearray.fromhex(document["quote"])
        quote[48 + 520 - 10] ^= 1  # in RTMR3
        cases = {
            "last event left out": spoilt(lambda e, n=last: e.pop(n)),
            "last event twice": spoilt(lambda e, n=last: e.insert(n, e[n])),
            "events exchanged": spoilt(lambda e, n=last: e.insert(n - 1, e.pop(n))),
            "event of another register": spoilt(lambda e, n=last: e[n].update(imr=2)),
            "payload changed": spoilt(lambda e, n=last: e[n].update(event_payload="00")),
            "event renamed": spoilt(lambda e, n=last: e[n].update(event="other")),
            "boot digest changed": spoilt(lambda e: e[0].update(digest="00" * 48)),
            "register of the quote changed": json.dumps({**document, "quote": quote.hex()}).encode(),
            "no quote": json.dumps({k: v for k, v in document.items() if k != "quote"}).encode(),
            "truncated": raw.rstrip()[:-1],
            "trailing": raw + b"{",
        }
        yield name, "", lambda r=raw: str(eventlog.verdict(r).result)
        for what, wrong in cases.items():
            yield name, what, lambda w=wrong: str(eventlog.verdict(w).result)


def log_tries() -> Iterator[tuple[str, str, Try]]:
    for name, quote, fits in eventlog.PAIRS:
        if not fits:
            continue
        raw, beside = read(f"eventlog/ccel/{name}"), read(f"eventlog/ccel/{quote}")
        yield name, "", lambda r=raw, q=beside: str(eventlog.verdict(r, quote=q).result)
        for what, wrong in eventlog.negatives(raw).items():
            yield name, what, lambda w=wrong, q=beside: str(eventlog.verdict(w, quote=q).result)


def tries() -> Iterator[tuple[str, str, Try]]:
    """Artifact, what was done to it (nothing: ""), and what the verifier says then."""
    for source in (tdx_tries, snp_tries, nvidia_tries, tpm_tries, quote_tries, log_tries, document_tries):
        yield from source()


def run() -> tuple[dict[str, int], list[str]]:
    """Derived negatives by artifact, and every false accept, false refusal or foreign exception."""
    counts: dict[str, int] = {}
    wrong: list[str] = []
    for artifact, what, call in tries():
        result = "malformed"
        with contextlib.suppress(MalformedError):
            try:
                result = call()
            except TeehouseError:
                raise
            except Exception as error:  # the one thing looked for
                wrong.append(f"{artifact}: {what or 'as it is'}: {type(error).__name__}")
                continue
        if what:
            counts[artifact] = counts.get(artifact, 0) + 1
            if result == "accepted":
                wrong.append(f"{artifact}: {what}: ACCEPTED")
        elif result != "accepted":
            wrong.append(f"{artifact}: as it is: {result}")
    wrong += [f"{artifact}: only {count} derived negatives" for artifact, count in counts.items() if count < 8]
    return counts, wrong
