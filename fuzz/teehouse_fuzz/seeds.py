# SPDX-License-Identifier: Apache-2.0
"""Where each target starts from: forged evidence of core's tests, and the shared vectors when they are there."""

from __future__ import annotations

import base64
import contextlib
import json
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final

import forge_nvidia
import forge_snp
import forge_tdx
import forge_tpm
import log_support
import seal_support
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from teehouse_core.appraise.artifacts.dispatch import ARTIFACTS
from teehouse_core.appraise.policy import Policy
from teehouse_core.appraise.release_policy import ReleasePolicy
from teehouse_core.evidence.pack import Pack, build_pack
from teehouse_core.log.entry import AuditEntry, Opening, PublicEntry
from teehouse_core.log.merkle import Frontier, consistency_proof, inclusion_proof, leaf_hash
from teehouse_core.log.proof import TlogProof
from teehouse_core.log.tiles import entries_path, format_bundle, tile_path
from teehouse_core.log.witness import AddCheckpoint, NewestStatement
from teehouse_core.seal.bhttp import InnerRequest, encode_request
from teehouse_core.weights.signing import parse_signed
from teehouse_core.wire import canonical
from teehouse_core.wire.armor import armor
from teehouse_core.wire.commands import AdminKey, AdminSet, build_command, tenant_id
from teehouse_core.wire.grant import Grant, LogPlace, Release, ReleaseAnswer, ReleaseRequest
from teehouse_core.wire.keyset import Model
from teehouse_core.wire.problem import problem_body
from teehouse_core.wire.receipts import Receipt, Usage, UsageRecord
from teehouse_enclave.platform import simulated_pki
from teehouse_fuzz import scenes

__all__ = ["VECTORS", "forged", "vendor", "vendor_files"]

VECTORS: Final = Path(__file__).resolve().parents[3] / "shared" / "vectors"
_SPKI: Final = PublicFormat.SubjectPublicKeyInfo
MAX_SEED: Final = 65536  # bytes; larger logs slow the fuzzer down more than they teach it


def forged() -> dict[str, list[bytes]]:
    """Seeds by target that nobody but this project made."""
    return {**_wire(), **_logs(), **_weights(), **_intel(), **_amd(), **_nvidia(), **_tpm(), **_whole()}


def _wire() -> dict[str, list[bytes]]:
    node = seal_support.make_node()
    request = seal_support.seal([node, seal_support.make_node("beta")])
    answer = b"".join(node.answer(node.open(request.frame), [b"data: one\n\n", b"data: two\n\n"]))
    receipt = Receipt(
        kid="ab" * 16,
        th=b"t" * 32,
        request_id="AAAAAAAAAAAAAAAAAAAAAA",
        request_commit=b"a" * 32,
        response_commit=b"b" * 32,
        model=Model("demo", "cd" * 32),
        keyset_sha256="ef" * 32,
        usage=Usage(1, 2, 3),
        status=200,
        finish="stop",
        started_at=seal_support.NOW,
        finished_at=seal_support.NOW + 1,
    )
    record = UsageRecord(
        "ab" * 16, b"t" * 32, "AAAAAAAAAAAAAAAAAAAAAA", "0" * 16, "ef" * 32, Usage(), 499, seal_support.NOW
    )
    texts = [request.header_bytes, node.keyset.raw, b'{"a":[1,true,null,"\\u00e9"],"b":-3}']
    inner = InnerRequest(
        "POST", "https", "teehouse", "/v1/chat/completions", (("content-type", "application/json"),), b"{}"
    )
    return {
        "wire-canonical": [*texts, b"AAAA", canonical.b64u(bytes(range(40))).encode()],
        "wire-keyset": [node.keyset.raw, scenes.forge_scenes.keyset()],
        "wire-commands": _commands(),
        "wire-grants": _grants(),
        "wire-header": [request.header_bytes],
        "wire-frame": [request.frame],
        "wire-records": [b"\7" + answer, b"\0" + answer],
        "wire-armor": [b"\5" + armor(b"one") + b": note\n" + armor(bytes(100)) + b"data:AAAA\r\n\r\n"],
        "wire-receipts": [receipt.encode(), record.encode()],
        "wire-problem": [
            bytes((n,)) + b"120     "[:7] + problem_body(c) for n, c in ((9, "expired"), (3, "malformed"))
        ],
        "seal-bhttp": [encode_request(inner).ljust(1024, b"\0")],
    }


def _commands() -> list[bytes]:
    """A command, the admin set that might sign it, and a release policy."""
    admins = AdminSet(1, (AdminKey(bytes(range(32)), "ann"),)).to_json()
    args = {"admins": admins, "nonce": canonical.b64u(bytes(16)), "labels": {}}
    create = build_command(
        tks_keyset_sha256="ef" * 32,
        tenant=tenant_id(args),
        ring="",
        seq=1,
        op="tenant.create",
        args=args,
        expires_at=seal_support.NOW,
    )
    policy = ReleasePolicy("members", Policy.preset("standard"), ("ep-demo",))
    return [create, canonical.encode(admins), policy.encode()]


def _grants() -> list[bytes]:
    """A challenge, a request, its release with a bundle, a grant, an answer."""
    request = ReleaseRequest("ef" * 32, "t-1", "models", "llama", "2", "cd" * 32).encode()
    place = LogPlace("tks.example/tenant/t-1", 7, "ab" * 32)
    digests = ("ef" * 32, "01" * 32, "23" * 32, "45" * 32)
    grant = Grant(*digests, "t-1", "models", "llama", "2", "aes256", "67" * 32, "89" * 32, place, seal_support.NOW)
    answer = ReleaseAnswer(grant.encode(), "ab" * 16, bytes(64), b"sealed", b"note\n", b"", b"{}", bytes(64))
    challenge = b'{"tks_keyset_sha256":"' + b"ef" * 32 + b'","challenge":"' + canonical.b64u(bytes(32)).encode() + b'"}'
    return [challenge, request, Release(request, b"a bundle").encode(), grant.encode(), answer.encode()]


def _weights() -> dict[str, list[bytes]]:
    model = scenes.sealed_model()
    manifest, _ = parse_signed(model["weights.json"])
    part = model["00002-00001.thw"]
    return {
        "weights-manifest": [model["weights.json"], manifest.raw, part[:64], part[:80]],
        "weights-edited": [b"", bytes((3, 0, 0, 70, 1)), bytes((6, 2, 0, 0, 2, 1, 1, 0, 9, 0)), bytes((5, 3, 0, 1, 7))],
    }


def _logs() -> dict[str, list[bytes]]:
    entries = [b"entry %d" % n for n in range(13)]
    source, _ = log_support.nodes_of([leaf_hash(entry) for entry in entries])
    note = log_support.signed(13, log_support.mth(entries), witnesses=["w1.example", "w2.example"])
    policy = log_support.policy(2, w1="ada", w2="bob")
    opening = Opening(bytes(32), ("Ada", "Bob"))
    audit = AuditEntry(
        time=1, op="release", id="ab" * 16, decision="refused", actor=opening.actor, failed_checks=("x",)
    )
    public = PublicEntry(time=1, kind="keyset", id="ab" * 16, sha256="cd" * 32, endpoint="ep-demo")
    statement = NewestStatement(log_support.ORIGIN, 13, log_support.mth(entries), bytes(32), 1, note.to_bytes())
    inclusion, consistency = inclusion_proof(source, 5, 13), consistency_proof(source, 6, 13)
    old, new = log_support.mth(entries[:6]), log_support.mth(entries)
    return {
        "log-notes": [
            note.to_bytes(),
            note.text.encode(),
            note.signatures[0].line().encode(),
            policy.witnesses[0].vkey.text.encode(),
            Frontier.empty().extend(leaf_hash(entry) for entry in entries).to_bytes(),
            b"13\n",
        ],
        "log-documents": [
            TlogProof(5, tuple(inclusion), note.to_bytes(), b"extra").to_bytes(),
            AddCheckpoint(6, tuple(consistency), note).to_bytes(),
            statement.to_bytes(),
            audit.to_bytes(),
            public.to_bytes(),
            json.dumps(opening.to_json()).encode(),
            json.dumps(policy.to_json()).encode(),
        ],
        "log-tiles": [format_bundle(entries), tile_path(1, 1234067, 17).encode(), entries_path(5).encode()],
        "log-trees": [
            struct.pack(">QQ", 5, 13) + b"".join([leaf_hash(entries[5]), new, *inclusion]),
            struct.pack(">QQ", 6, 13) + b"".join([old, new, *consistency]),
        ],
    }


def _intel() -> dict[str, list[bytes]]:
    quotes = [
        forge_tdx.ForgedQuote(version=4).quote(),
        forge_tdx.ForgedQuote(version=5).quote(),
        forge_tdx.ForgedQuote(version=5, later=True).quote(),
    ]
    certified = quotes[0][636:764] + quotes[0][770:]  # version 3 has no shell of type 6 around the certification
    sgx = struct.pack("<HHI", 3, 2, 0) + quotes[0][8:48] + forge_tdx.qe_report(b"", bytes(64))
    sgx += struct.pack("<I", len(certified)) + certified
    endorsements = forge_tdx.ForgedQuote().endorsements()
    report = bytes.fromhex("8100000000000000") + bytes(1016)
    pki = forge_tdx.pki()
    lists = [forge_tdx.crl("root"), forge_tdx.crl("pck")]
    extension = simulated_pki._sgx_extension(forge_tdx.PPID)
    return {
        "tdx-quote": [*quotes, sgx],
        "tdx-report": [report, b"\x81\0\1\0" + bytes(1020)],
        "tdx-tcb-info": [endorsements["tcb_info"].encode()],
        "tdx-qe-identity": [endorsements["qe_identity"].encode()],
        "tdx-collateral": [json.dumps(endorsements).encode()],
        "der-pck": [extension],
        "x509-fields": [
            pki.ca.public_bytes(Encoding.DER),
            *lists,
            forge_snp.Forge().vcek(),
            *(c.public_bytes(Encoding.DER) for c in forge_nvidia.gpu().chain[:2]),
        ],
    }


def _amd() -> dict[str, list[bytes]]:
    makes = [forge_snp.Forge(version=v) for v in (2, 3, 4, 5)]
    makes += [forge_snp.Forge(product="Turin"), forge_snp.Forge(product="Turin", kind="VLEK")]
    roots = forge_snp.TEST_ROOTS["Genoa"]
    return {
        "snp-report": [make.report() for make in makes],
        "amd-certificate": [makes[0].vcek(), makes[4].vcek(), makes[5].vcek(), roots.ark, roots.asvk],
    }


def _nvidia() -> dict[str, list[bytes]]:
    devices = [forge_nvidia.gpu(), forge_nvidia.gpu(chip="GB100"), *forge_nvidia.machine(2, 1)]
    chains = [b"".join(c.public_bytes(Encoding.DER) for c in device.chain) for device in devices]
    return {
        "nvidia-report": [device.report(bytes(32)) for device in devices],
        "nvidia-certificate": [*chains[:2], devices[-1].pem.encode()],
        "nvidia-rim": forge_nvidia.rims(devices),
        "ocsp": [
            *forge_nvidia.answers(devices[:1]),
            forge_nvidia.crl(forge_nvidia.pki().device_root, {}),
            forge_nvidia.crl(forge_nvidia.pki().provisioner, {5: None}),
        ],
    }


def _tpm() -> dict[str, list[bytes]]:
    ecc, rsa = forge_tpm.ecc_key(), forge_tpm.rsa_key()
    quote = forge_tpm.quote(bytes(32), bytes(32))
    files = dict(scenes.tpm_files())
    chain = forge_tpm.Chain()
    legacy = b"".join(
        struct.pack("<II20sI", index, kind, bytes(20), len(data)) + data for index, kind, data in forge_tpm.EVENTS
    )
    dstack = [
        {"imr": 3, "event_type": 0x08000001, "digest": "", "event": "app-id", "event_payload": "00ff"},
        {"imr": 0, "event_type": 11, "digest": "ab" * 48, "event": "", "event_payload": ""},
    ]
    n = base64.urlsafe_b64encode(b"\xc5" * 256).rstrip(b"=").decode()
    runtime = json.dumps(
        {
            "keys": [{"kid": "HCLAkPub", "key_ops": ["sign"], "kty": "RSA", "e": "AQAB", "n": n}],
            "vm-configuration": {"secure-boot": True},
            "user-data": "00" * 64,
        }
    ).encode()
    hcl = [
        b"HCLA"
        + struct.pack("<IIII", 2, 32 + 1184 + 20 + len(runtime), 2, 0)
        + bytes(12)
        + area
        + struct.pack("<IIIII", 20 + len(runtime), 1, kind, 1, len(runtime))
        + runtime
        for kind, area in ((2, forge_snp.Forge().report()), (4, b"\x81" + bytes(1183)))
    ]
    aux: dict[str, Any] = {name: base64.b64encode(data).decode() for name, data in files.items()}
    document = {"version": 1, "quote": {"message": quote.hex(), "signature": aux["signature"], "pcrs": []}}
    return {
        "tpm-quote": [quote, forge_tpm.b2(quote)],
        "tpm-structures": [
            forge_tpm.public(ecc),
            forge_tpm.public(rsa),
            forge_tpm.sign(ecc, quote),
            forge_tpm.sign(rsa, quote),
            forge_tpm.sign(rsa, quote, scheme="rsapss"),
            files["pcrs"],
            *(k.public_key().public_bytes(Encoding.DER, _SPKI) for k in (ecc, rsa)),
        ],
        "tpm-document": [
            json.dumps({**document, "hcl_report": base64.b64encode(hcl[0]).decode()}).encode(),
            json.dumps(
                {"tpm_quote": {"message": list(quote), "signature": [1] * 256, "pcrs": [[0] * 32] * 24}}
            ).encode(),
        ],
        "tpm-ak-chain": [chain.pem, chain.root.public_bytes(Encoding.DER) + bytes(64)],
        "tpm-hcl": hcl,
        "event-log": [
            legacy,
            forge_tpm.log(forge_tpm.EVENTS, ("sha1", "sha256", "sha384")),
            forge_tpm.log(forge_tpm.EVENTS, fill=b"\xff" * 64),
            json.dumps(dstack).encode(),
        ],
    }


def _whole() -> dict[str, list[bytes]]:
    small = [scene.bundle for scene in scenes.scenes() if len(scene.bundle) < 20_000]
    policies = [Policy.preset(name) for name in ("strict", "standard", "evaluate")]
    intel = {"intel.json": json.dumps(forge_tdx.ForgedQuote().endorsements()).encode()}
    artifacts = {
        "tdx-quote": forge_tdx.ForgedQuote().quote(),
        "snp-report": forge_snp.Forge().report(),
        "nvidia-gpu": forge_nvidia.gpu().report(bytes(32)),
        "nvidia-nvswitch": forge_nvidia.switch().report(bytes(32)),
        "tpm-quote": forge_tpm.quote(bytes(32), bytes(32)),
        "az-vtpm": b'{"tpm_quote":{"message":"AAAA","signature":"AAAA"},"hcl_report":"AAAA"}',
        "event-log": forge_tpm.log(forge_tpm.EVENTS, ("sha384",)),
        "rim": forge_nvidia.driver_rim(),
    }
    return {
        "bundle": small,
        "appraise": small,
        "appraise-edited": [
            *(bytes((n, n // 7, 9 * n, 0, 1, n)) for n in range(28)),
            *(bytes((n, 0, 255, 0, 0x20 | 3, 1, 2, 3, 0xC0 | n, 0, 0, 0x41)) for n in range(14)),
        ],
        "verify-artifact": [bytes((n,)) + artifacts[kind] for n, kind in enumerate(ARTIFACTS)],
        "artifact-detect": [*artifacts.values(), *small[:1], forge_tdx.pki().chain],
        "collateral-pack": [build_pack(Pack(1, intel)), build_pack(Pack(1, {"a.crl": forge_tdx.crl("root")}))],
        "jsontext": [b'{"a":[1,-2,true,null,"\\ud83d\\ude00"]}', b'["AAAA"]', b"AAAA"],
        "policy": [
            *(canonical.encode(policy.to_json()) for policy in policies),
            b'base = "strict"\nname = "mine"\nplatforms = ["tdx"]\n[references]\nmr_td = ["' + b"aa" * 48 + b'"]\n',
            b'[[devices]]\ntype = "nvidia-gpu"\ncount = 1\n[gpu]\nrim_required = false\n[snp]\nvmpl = 0\n',
        ],
    }


_FOLDERS: Final = {
    "tdx/quotes": ("tdx-quote", "artifact-detect"),
    "tdx/collateral": ("tdx-collateral",),
    "snp/reports": ("snp-report", "amd-certificate", "x509-fields"),
    "snp/crl": ("x509-fields", "ocsp"),
    "snp/roots": ("amd-certificate",),
    "nvidia": ("nvidia-report", "nvidia-certificate", "nvidia-rim", "ocsp", "artifact-detect"),
    "tpm": ("tpm-quote", "tpm-structures", "tpm-document", "tpm-ak-chain", "tpm-hcl"),
    "eventlog": ("event-log", "tpm-document", "tdx-report", "artifact-detect"),
}


def vendor_files() -> Iterator[Path]:
    """Every shared vector, sorted; none when they are not there."""
    yield from sorted(path for path in VECTORS.rglob("*") if path.is_file()) if VECTORS.is_dir() else ()


def vendor(target: str, limit: int) -> Iterable[bytes]:
    """Shared vectors that `target` could read, small ones only. Never to be copied into this project."""
    for folder, names in _FOLDERS.items():
        if target in names:
            for path in vendor_files():
                if path.is_relative_to(VECTORS / folder) and path.stat().st_size <= min(limit, MAX_SEED):
                    with contextlib.suppress(OSError):
                        yield path.read_bytes()
