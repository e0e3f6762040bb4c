# SPDX-License-Identifier: Apache-2.0
"""Chains and CRLs, link by link: each way a link can be wrong has its own answer."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from teehouse_core.appraise.appraise import _status
from teehouse_core.appraise.tdx_facts import have
from teehouse_core.appraise.verdict import Check
from teehouse_core.appraise.x509chain import (
    crl_problem,
    link_problem,
    load_pem_chain,
    p256_from_raw,
    verify_raw,
)
from teehouse_core.errors import MalformedError

NOW = 1_790_000_000
AT = datetime.fromtimestamp(NOW, UTC)
Key = ec.EllipticCurvePrivateKey


def name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def make(
    subject: str,
    key: Key,
    issuer: str,
    issuer_key: Key,
    *,
    ca: bool = True,
    sign: bool = True,
    length: int | None = None,
    bare: bool = False,
) -> x509.Certificate:
    builder = (
        x509.CertificateBuilder()
        .subject_name(name(subject))
        .issuer_name(name(issuer))
        .public_key(key.public_key())
        .serial_number(7)
        .not_valid_before(AT - timedelta(1))
        .not_valid_after(AT + timedelta(1))
    )
    if not bare:
        usage = x509.KeyUsage(True, False, False, False, False, sign, False, False, False)
        builder = builder.add_extension(x509.BasicConstraints(ca, length if ca else None), critical=True)
        builder = builder.add_extension(usage, critical=True)
    return builder.sign(issuer_key, hashes.SHA256())


ROOT_KEY, CA_KEY, LEAF_KEY = (ec.generate_private_key(ec.SECP256R1()) for _ in range(3))
ROOT = make("root", ROOT_KEY, "root", ROOT_KEY)
CA = make("ca", CA_KEY, "root", ROOT_KEY, length=0)
LEAF = make("leaf", LEAF_KEY, "ca", CA_KEY, ca=False, sign=False)


def problem(*chain: x509.Certificate, root: x509.Certificate = ROOT, links: int = 2, now: int = NOW) -> str | None:
    return link_problem(chain, root, now, links=links)


def test_a_good_chain_with_or_without_its_root() -> None:
    assert problem(LEAF, CA) is None
    assert problem(LEAF, CA, ROOT) is None
    assert problem(make("leaf", LEAF_KEY, "ca", CA_KEY, bare=True), CA) is None


@pytest.mark.parametrize(
    ("made", "says"),
    [
        (lambda: problem(LEAF, CA, make("root", ROOT_KEY, "root", ROOT_KEY)), "another root"),
        (lambda: problem(LEAF, CA, root=make("root", CA_KEY, "root", CA_KEY)), "not signed"),
        (lambda: problem(ROOT), "0 certificates"),
        (lambda: problem(LEAF), "1 certificates"),
        (lambda: problem(LEAF, links=1), "not signed"),
        (lambda: problem(LEAF, make("ca", CA_KEY, "root", ROOT_KEY, ca=False)), "not a CA"),
        (lambda: problem(LEAF, make("ca", CA_KEY, "root", ROOT_KEY, sign=False)), "not a CA"),
        (lambda: problem(LEAF, make("ca", CA_KEY, "root", ROOT_KEY, bare=True)), "does not say"),
        (lambda: problem(LEAF, CA, root=make("root", ROOT_KEY, "root", ROOT_KEY, length=0)), "longer"),
        (lambda: problem(LEAF, CA, now=NOW + 100_000), "validity"),
        (lambda: problem(LEAF, CA, now=NOW - 100_000), "validity"),
        (lambda: problem(make("leaf", LEAF_KEY, "ca", CA_KEY), CA), "leaf is a CA"),
    ],
)
def test_each_bad_link_is_named(made: Callable[[], str | None], says: str) -> None:
    assert says in (made() or "")


def crl(*, issuer: str = "ca", key: Key = CA_KEY, end: int = 60) -> x509.CertificateRevocationList:
    builder = x509.CertificateRevocationListBuilder().issuer_name(name(issuer)).last_update(AT - timedelta(minutes=1))
    return builder.next_update(AT + timedelta(seconds=end)).sign(key, hashes.SHA256())


def test_each_bad_crl_is_named() -> None:
    assert crl_problem(crl(), CA, [LEAF], NOW) is None
    assert "another issuer" in (crl_problem(crl(issuer="x"), CA, [LEAF], NOW) or "")
    assert "signature" in (crl_problem(crl(key=ROOT_KEY), CA, [LEAF], NOW) or "")
    assert "not current" in (crl_problem(crl(end=0), CA, [LEAF], NOW) or "")

    class Endless:
        issuer, next_update_utc = CA.subject, None

        @staticmethod
        def is_signature_valid(_: object) -> bool:
            return True

    assert "no next update" in (crl_problem(Endless(), CA, [LEAF], NOW) or "")  # type: ignore[arg-type]


def test_chains_have_a_few_certificates() -> None:
    pem = LEAF.public_bytes(Encoding.PEM)
    assert load_pem_chain(pem + b"\0") == (LEAF,)
    for bad in (b"", pem * 5, b"\0", pem[:60]):
        with pytest.raises(MalformedError):
            load_pem_chain(bad)


def test_raw_keys_and_signatures() -> None:
    with pytest.raises(MalformedError):
        p256_from_raw(b"\1" * 64)
    assert not verify_raw(ed25519.Ed25519PrivateKey.generate().public_key(), bytes(64), b"")
    assert not verify_raw(ec.generate_private_key(ec.SECP384R1()).public_key(), bytes(64), b"")
    assert not verify_raw(LEAF_KEY.public_key(), bytes(64), b"")
    assert not verify_raw(LEAF_KEY.public_key(), b"\xff" * 64, b"")


def test_what_is_missing_is_malformed() -> None:
    with pytest.raises(MalformedError):
        have(None)


def test_ear_tiers() -> None:
    def check(state: str, required: bool = True) -> tuple[Check, ...]:
        return (Check("x", "quote", state, "", "", "", "", "", required),)  # type: ignore[arg-type]

    assert _status(check("passed"), ("quote",), "hardware") == "affirming"
    assert _status(check("passed"), ("quote",), "simulated") == "warning"
    assert _status(check("skipped", False), ("quote",), "hardware") == "warning"
    assert _status(check("skipped"), ("quote",), "hardware") == "none"
    assert _status(check("failed"), ("quote",), "hardware") == "contraindicated"
