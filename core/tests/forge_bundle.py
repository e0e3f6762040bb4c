# SPDX-License-Identifier: Apache-2.0
"""Bundles on the simulated platform that are right in everything but what a test changes."""

from __future__ import annotations

import base64
import json
import secrets
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from teehouse_core.appraise.policy import Policy, References
from teehouse_core.appraise.roots import SIMULATED_ROOT_PEM
from teehouse_core.evidence.bundle import Bundle, build_bundle, log_entry
from teehouse_core.evidence.jsontext import b64_text
from teehouse_core.evidence.tdx import TdReport, encode_pem_bundle
from teehouse_core.wire import binding
from teehouse_core.wire.keyset import Capabilities, HpkeKey, Keyset, Model, Software, build_keyset, key_id
from teehouse_core.wire.suites import DEFAULT_SUITE
from teehouse_enclave.platform import simulated, simulated_pki
from teehouse_enclave.platform.base import InsecurePlatformWarning
from teehouse_enclave.platform.simulated_root import root_key

NOW = 1_790_000_000
ENDPOINT, NODE = "ep-20260901000000-abcde", "node-1"
NONCE = bytes(range(32))
SOFTWARE = Software("0.1.0", "aa" * 32, "bb" * 32)
MODEL = Model("tiny", "cc" * 32)
CAPABILITIES = Capabilities("none", "none", "none", ())
LOG = (
    ("release", b"0.1.0"),
    ("image_sha256", b"aa" * 32),
    ("config_sha256", b"bb" * 32),
    ("weights_sha256", b"cc" * 32),
    ("model", b"tiny"),
    ("doors", b""),
    ("egress", b"none"),
    ("content_logging", b"none"),
    ("moderation", b"none"),
)
EVALUATE = Policy.preset("evaluate")


def hpke_key(
    suite: str = DEFAULT_SUITE, size: int = 1216, not_before: int = NOW, not_after: int = NOW + 3600
) -> HpkeKey:
    pk = secrets.token_bytes(size)
    return HpkeKey(key_id(suite, pk), suite, pk, not_before, not_after)


def keyset(**changes: Any) -> bytes:
    fields: dict[str, Any] = {
        "role": "node",
        "endpoint": ENDPOINT,
        "node": NODE,
        "hpke": [hpke_key()],
        "sign": [],
        "model": MODEL,
        "software": SOFTWARE,
        "capabilities": CAPABILITIES,
        "not_before": NOW,
        "not_after": NOW + 3600,
    }
    return build_keyset(**{**fields, **changes})


def platform(log: tuple[tuple[str, bytes], ...] = LOG) -> simulated.SimulatedPlatform:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", InsecurePlatformWarning)
        made = simulated.SimulatedPlatform(clock=lambda: NOW, machine=b"machine-for-test")
    for event, content in log:
        made.extend(event, content)
    return made


MACHINE = platform()


@dataclass
class Forge:
    """Evidence that is right in everything but what a case changes; unlike an attacker it holds every key."""

    keyset: bytes = field(default_factory=keyset)
    machine: simulated.SimulatedPlatform = MACHINE
    kind: int = 1
    value: bytes = NONCE
    report: Callable[[TdReport], TdReport] = lambda r: r
    header: Callable[[bytes], bytes] = lambda h: h
    quote: dict[str, bytes] = field(default_factory=dict)  # parts put in place of the right ones
    cut: int | None = None
    collateral: Callable[[dict[str, str]], None] = lambda c: None
    bundle: Callable[[dict[str, Any]], None] = lambda b: None

    def bytes(self) -> bytes:
        parsed = Keyset.parse(self.keyset)
        data = binding.report_data(parsed.digest, binding.devices_digest([]), binding.challenge(self.kind, self.value))
        evidence = self.machine.collect(data)
        m = self.machine
        signed = self.header(simulated._HEADER) + self.report(m._report(data)).encode()
        parts = {
            "signed": signed,
            "signature": simulated_pki.raw_signature(m._key, signed),
            "attestation_key": m._public,
            "qe_report": m._qe_report,
            "qe_signature": m._qe_signature,
            "qe_auth_data": simulated.AUTH_DATA,
            "pem_chain": m._pki.chain,
        }
        collateral = dict(evidence.collateral["intel"])
        self.collateral(collateral)
        document = json.loads(
            build_bundle(
                endpoint=ENDPOINT,
                node=NODE,
                keyset=self.keyset,
                challenge_kind=self.kind,
                challenge_value=self.value,
                platform_type="simulated",
                report=encode_pem_bundle(**{**parts, **self.quote})[: self.cut],
                workload_log=m.workload_log(),
                collateral={"intel": collateral},
            )
        )
        self.bundle(document)
        return json.dumps(document).encode()


def flip(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def device(document: dict[str, Any]) -> None:
    chain = MACHINE._pki.chain.decode()
    document["devices"] = [{"type": "nvidia-gpu", "report": "AAAA", "chain": chain, "arch": "HOPPER"}]


def good_signature() -> bytes:
    return simulated_pki.raw_signature(MACHINE._key, b"another report")


def other_attestation_key() -> Forge:
    key = ec.generate_private_key(ec.SECP256R1())
    raw = key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)[1:]

    class Other(Forge):
        def bytes(self) -> bytes:
            data = Bundle.parse(super().bytes()).report_data
            signed = simulated._HEADER + MACHINE._report(data).encode()
            self.quote = {"attestation_key": raw, "signature": simulated_pki.raw_signature(key, signed)}
            return super().bytes()

    return Other()


def qe(change: Callable[[bytes], bytes], signed: bool = True) -> Callable[[], Forge]:
    report = change(MACHINE._qe_report)
    signature = simulated_pki.raw_signature(MACHINE._pki.leaf_key, report) if signed else MACHINE._qe_signature
    return lambda: Forge(quote={"qe_report": report, "qe_signature": signature})


def leaf(issuer_key: ec.EllipticCurvePrivateKey | None = None, now: int = NOW, sgx: bool = True) -> Forge:
    pki = MACHINE._pki
    extension = x509.UnrecognizedExtension(
        x509.ObjectIdentifier(simulated_pki.SGX_EXTENSION_OID), simulated_pki._sgx_extension(bytes(16))
    )
    made = simulated_pki._certificate(
        "SIMULATED PCK Certificate",
        pki.leaf_key.public_key(),
        pki.ca,
        issuer_key or pki.ca_key,
        now,
        extra=extension if sgx else None,
    )
    rest = pki.ca.public_bytes(Encoding.PEM) + SIMULATED_ROOT_PEM
    return Forge(quote={"pem_chain": made.public_bytes(Encoding.PEM) + rest})


def pem_with(change: Callable[[bytes], bytes]) -> bytes:
    """The chain with the leaf's DER changed; its signature is wrong then, which matters only if it parses."""
    first = x509.load_pem_x509_certificate(MACHINE._pki.chain)
    text = base64.encodebytes(change(first.public_bytes(Encoding.DER)))
    rest = MACHINE._pki.ca.public_bytes(Encoding.PEM) + SIMULATED_ROOT_PEM
    return b"-----BEGIN CERTIFICATE-----\n" + text + b"-----END CERTIFICATE-----\n" + rest


def version_9() -> bytes:
    return pem_with(lambda der: der.replace(bytes.fromhex("a003020102"), bytes.fromhex("a003020108"), 1))


def twice() -> bytes:
    key_identifier, authority = bytes.fromhex("0603551d0e"), bytes.fromhex("0603551d23")
    return pem_with(lambda der: der.replace(authority, key_identifier, 1))


def crl(which: str, *, revoke: x509.Certificate | None = None, until: int = NOW + 100, key: Any = None) -> Forge:
    pki = MACHINE._pki
    root = x509.load_pem_x509_certificate(SIMULATED_ROOT_PEM)
    issuer, issuer_key = (root, root_key()) if which == "root_ca_crl" else (pki.ca, pki.ca_key)
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(issuer.subject)
        .last_update(datetime.fromtimestamp(NOW - 1000, UTC))
        .next_update(datetime.fromtimestamp(until, UTC))
        .add_extension(x509.CRLNumber(1), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False)
    )
    if revoke is not None:
        entry = x509.RevokedCertificateBuilder().serial_number(revoke.serial_number)
        builder = builder.add_revoked_certificate(entry.revocation_date(datetime.fromtimestamp(NOW - 1, UTC)).build())
    made = builder.sign(key or issuer_key, hashes.SHA256()).public_bytes(Encoding.DER)
    return Forge(collateral=lambda c: c.update({which: made.hex()}))


def text(name: str, change: Callable[[dict[str, Any]], None], signed: bool = True) -> Callable[[], Forge]:
    def apply(collateral: dict[str, str]) -> None:
        value = json.loads(collateral[name])
        change(value)
        collateral[name] = json.dumps(value, separators=(",", ":"))
        if signed:
            signature = simulated_pki.raw_signature(MACHINE._pki.tcb_key, collateral[name].encode())
            collateral[f"{name}_signature"] = signature.hex()

    return lambda: Forge(collateral=apply)


def signed_text(name: str, change: Callable[[dict[str, Any]], None]) -> Callable[[dict[str, str]], None]:
    return text(name, change)().collateral


def td(**changes: Any) -> Callable[[], Forge]:
    return lambda: Forge(report=lambda r: replace(r, **changes))


def claims(**changes: Any) -> Callable[[], Forge]:
    return lambda: Forge(keyset=keyset(**changes))


def edit(change: Callable[[dict[str, Any]], None]) -> Callable[[], Forge]:
    return lambda: Forge(bundle=change)


def references(**values: tuple[str, ...]) -> Policy:
    return replace(EVALUATE, references=References(**values))


def exchange_key(document: dict[str, Any]) -> None:
    document["keyset"] = json.loads(keyset())


def no_collateral(document: dict[str, Any]) -> None:
    del document["collateral"]


def log_content(document: dict[str, Any]) -> None:
    document["workload_log"][0]["content"] = b64_text(b"9.9.9")


def log_rewritten(document: dict[str, Any]) -> None:
    document["workload_log"][0] = log_entry("release", b"9.9.9")


def signed_by_pck(collateral: dict[str, str]) -> None:
    signature = simulated_pki.raw_signature(MACHINE._pki.leaf_key, collateral["tcb_info"].encode())
    collateral.update(tcb_info_issuer_chain=MACHINE._pki.chain.decode(), tcb_info_signature=signature.hex())


def relabel(document: dict[str, Any]) -> None:
    document["platform"]["type"] = "tdx"


def level(**changes: Any) -> Callable[[], Forge]:
    return text("tcb_info", lambda v: v["tcbLevels"][0].update(changes))
