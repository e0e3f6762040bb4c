# SPDX-License-Identifier: Apache-2.0
"""Bench `verify`: a whole appraisal beside the bare signature checks under it, and beside bare `dcap-qvl` for TDX.

The evidence is forged under TEST roots by core's tests, with keys, sizes and numbers of signatures as genuine evidence
has them. `signatures` are the library's checks of every distinct signature in it, with loaded keys and parsed
certificates, and nothing else: no parsing, no dates, no comparison. What is timed is CPU time of one process.

The appraiser remembers which certificate signed what, and manifests. `ours` forgets all of it before each call (outside
the time), as a process that has just begun; `again` is the same evidence once more. `fresh`, for one GPU, is what a
verifier that runs on meets: before each call it forgets all and appraises another GPU (outside the time). Of what is
timed, only the makers' and responders' certificates and the manifests were seen then; device, report, nonce and every
revocation answer are new, and each of their signatures is checked.
"""

from __future__ import annotations

import functools
import gc
import importlib
import json
import secrets
import statistics
import sys
import time
from base64 import b64decode
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import dcap_qvl
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, load_der_public_key
from cryptography.x509 import ocsp

from teehouse_bench.machine import Busy
from teehouse_bench.results import Budget, Case, Result, Row
from teehouse_bench.sides import Sides, turns
from teehouse_bench.stats import Spread
from teehouse_core.appraise.artifacts import nvidia as nvidia_artifact
from teehouse_core.appraise.artifacts.dispatch import artifact_policy
from teehouse_core.appraise.policy import Policy
from teehouse_core.appraise.roots import SIMULATED_ROOT_PEM
from teehouse_core.evidence import amdcert, rim, snp, tdx, tpm
from teehouse_core.evidence.bundle import Bundle

__all__ = ["run_verify"]

FORGES = Path(__file__).resolve().parents[2] / "core" / "tests"
PSS = padding.PSS(mgf=padding.MGF1(hashes.SHA384()), salt_length=48)  # of AMD's certificates
FRESH_SIGNATURES = 9  # report, attestation key, device, and one answer for each of six certificates
Check = Callable[[], object]


def run_verify(result: Result, budget: Budget, *, quick: bool, tiny: bool) -> None:
    """One case for each technology."""
    forge_scenes = _forge()
    rounds = 2 if tiny else 3 if quick else 5
    target = 0.02 if tiny else 0.08 if quick else 0.1  # seconds that one side of a round is repeated for

    def measure(name: str, ours: Check, checks: Sequence[Check], aim: float | None, *notes: str, **more: Check) -> None:
        counted = f"distinct signatures: {len(checks)}"
        sides = {"ours": ours, "again": ours, **more, "signatures": _all(checks)}
        _case(result, budget, name, sides, aim, rounds, target, (counted, *notes))

    def measure_gpu() -> None:
        scene = forge_scenes.nvidia(1)
        seen, fresh = _one_gpu(0, 0), _one_gpu(1, 3600)

        def after_another() -> None:
            _forget()
            seen()

        name, checks = "one GPU by itself, two manifests, OCSP", _nvidia(scene)
        sides = {"ours": seen, "again": seen, "fresh": fresh, "signatures": _all(checks)}
        told = "the aim is for the median of many GPUs: a process meets its first one once"
        notes = (f"distinct signatures: {len(checks)}; {FRESH_SIGNATURES} of them new with another GPU", told)
        _case(result, budget, name, sides, 10.0, rounds, target, notes, after_another)

    included = "with the checks of its simulated TDX platform"
    for version, label in ((4, "TDX quote v4, TD report 1.0"), (5, "TDX quote v5, TD report 1.5")):
        if version == 4 or not quick:
            scene = forge_scenes.tdx(version)
            note = "ours includes dcap-qvl itself, as the second opinion"
            measure(label, _accepting(scene), _tdx(scene), 5.0, note, dcap=_dcap(scene))
    scene = forge_scenes.snp()
    measure("SNP report v5, VCEK", _accepting(scene), _snp(scene), 5.0)
    measure_gpu()
    if not quick:
        scene = forge_scenes.nvidia(1)
        checks = [*_nvidia(scene), *_platform(scene)]
        measure("node with one GPU", _accepting(scene), checks, None, included)
    scene = forge_scenes.nvidia(8, 4)
    checks = [*_nvidia(scene), *_platform(scene)]
    name = "node with 8 GPUs and 4 switches, three manifests, OCSP"
    measure(name, _accepting(scene), checks, 150.0, included)
    scene = forge_scenes.tpm()
    measure("TPM quote, P-256, with its boot log", _accepting(scene), _tpm(scene), None)


def _case(
    result: Result,
    budget: Budget,
    name: str,
    sides: Mapping[str, Check],
    aim: float | None,
    rounds: int,
    target: float,
    notes: Sequence[str],
    after_another: Callable[[], None] | None = None,
) -> None:
    """Time every side in turns; a round's number is the median of its calls.

    With `after_another`, which comes before each call of the side `fresh`, the aim is judged on that side.
    """
    before_each = {"ours": _forget, "fresh": after_another or _forget}

    def time_one(side: str, number: int) -> dict[str, Any]:
        call, used, wall = sides[side], [], []
        before = before_each.get(side, _nothing)
        gc.collect()
        busy, began_cpu, began = Busy.now(), time.process_time(), time.perf_counter()
        for _ in range(number):
            before()
            cpu, clock = time.process_time(), time.perf_counter()
            call()
            used.append(time.process_time() - cpu)
            wall.append(time.perf_counter() - clock)
        whole, cpu, after = time.perf_counter() - began, time.process_time() - began_cpu, Busy.now()
        return {
            "milliseconds": statistics.median(used) * 1e3,  # of CPU, which a neighbour disturbs less than the clock
            "wall_milliseconds": statistics.median(wall) * 1e3,
            "calls": number,
            "wall": whole,
            "cpu": {"own": cpu},
            "machine_cpu": after.used - busy.used,
            "stolen": after.stolen - busy.stolen,
        }

    def measure(case: Case) -> None:
        numbers = {}
        for side, call in sides.items():
            call()
            began = time.perf_counter()
            before_each.get(side, _nothing)()
            call()
            numbers[side] = max(3, round(target / (time.perf_counter() - began)))
        for _ in turns(case, budget, tuple(sides), rounds, lambda side: time_one(side, numbers[side])):
            pass
        words = {"signatures": "bare signature checks", "dcap": "bare dcap-qvl"}
        for place, other in enumerate(side for side in sides if side in words):
            # the machine-wide clock ticks too coarsely for short rounds: no word about neighbours here
            both = Sides(case, "ours", other, 10**6)
            ours, theirs, _, ratio = both.compare(f"ms per call, beside {words[other]}", _milliseconds)
            aimed = aim is not None and place == 0 and after_another is None
            case.rows.append(
                Row(
                    f"first appraisal, beside {words[other]}",
                    f"{ours.median:.2f} ms",
                    f"{theirs.median:.2f} ms",
                    f"× {ratio.median:.2f}",
                    f"{ours.low:.2f} … {ours.high:.2f} ms",
                    f"≤ {aim:g} ms" if aimed else "",
                    ours.median <= aim if aimed and aim is not None else None,
                    ours.agrees(aim) if aimed and aim is not None else True,
                )
            )
        later = {"fresh": "another GPU, with new revocation answers", "again": "the same evidence again"}
        for side, name in later.items():
            if side in sides:
                case.rows.append(_alone(case, side, name, aim))
        case.notes += notes

    result.run(name, {"rounds": rounds, "target seconds": target}, measure)


def _alone(case: Case, side: str, name: str, aim: float | None) -> Row:
    found = Spread.of([one["milliseconds"] for one in case.rounds if one["side"] == side])
    case.summary[f"ms per call, {side}"] = found.to_json()
    met = None if aim is None else found.median <= aim
    agree = True if aim is None else found.agrees(aim)
    goal = "" if aim is None else f"≤ {aim:g} ms"
    return Row(name, f"{found.median:.2f} ms", "", "", f"{found.low:.2f} … {found.high:.2f} ms", goal, met, agree)


def _forge() -> Any:
    """`forge_scenes`: test code, in no package."""
    if str(FORGES) not in sys.path:
        sys.path.append(str(FORGES))
    return importlib.import_module("forge_scenes")


def _nothing() -> None:
    """What comes before a call that may remember."""


def _forget() -> None:
    """Empty every cache of the appraiser."""
    for cache in _caches():
        cache.cache_clear()


@functools.cache
def _caches() -> tuple[Any, ...]:
    modules = [module for name, module in sys.modules.items() if name.startswith("teehouse_core.")]
    return tuple({id(v): v for module in modules for v in vars(module).values() if hasattr(v, "cache_clear")}.values())


def _milliseconds(one: dict[str, Any]) -> float:
    return float(one["milliseconds"])


def _accepting(scene: Any) -> Check:
    """The whole appraisal, after one look that it accepts: a refusal is quicker and would say nothing."""
    verdict = scene.appraise()
    if verdict.result != "accepted":
        raise RuntimeError(f"{scene.name} is refused: {[check.id for check in verdict.refusing]}")
    appraise: Check = scene.appraise
    return appraise


def _all(checks: Sequence[Check]) -> Check:
    def run() -> None:
        for check in checks:
            check()

    return run


# Bare signature checks: each raises when the signature does not hold.


def _ecdsa(key: Any, signature: bytes, data: bytes, algorithm: hashes.HashAlgorithm) -> Check:
    half = len(signature) // 2
    der = encode_dss_signature(int.from_bytes(signature[:half]), int.from_bytes(signature[half:]))
    return partial(key.verify, der, data, ec.ECDSA(algorithm))


def _issued(child: x509.Certificate, issuer: x509.Certificate) -> Check:
    return partial(child.verify_directly_issued_by, issuer)


def _tdx(scene: Any) -> list[Check]:
    return _quote(scene.extra["quote"], scene.extra["collateral"], scene.extra["root"])


def _platform(scene: Any) -> list[Check]:
    """Those of a simulated platform's quote."""
    bundle = Bundle.parse(scene.bundle)
    if bundle.collateral.intel is None:
        raise RuntimeError("the scene has no TDX collateral")
    root = x509.load_pem_x509_certificate(SIMULATED_ROOT_PEM)
    return _quote(bundle.platform.report, bundle.collateral.intel.to_dict(), root)


def _quote(raw: bytes, collateral: Mapping[str, str], root: x509.Certificate) -> list[Check]:
    quote = tdx.parse_quote(raw)
    s = quote.signature
    chain = x509.load_pem_x509_certificates(s.pem_chain)
    numbers = (int.from_bytes(s.attestation_key[:32]), int.from_bytes(s.attestation_key[32:]))
    key = ec.EllipticCurvePublicNumbers(*numbers, ec.SECP256R1()).public_key()
    leaf: Any = chain[0].public_key()
    found = [_ecdsa(key, s.signature, quote.signed, hashes.SHA256())]
    found.append(_ecdsa(leaf, s.qe_signature, s.qe_report.raw, hashes.SHA256()))
    found += [_issued(child, issuer) for child, issuer in pairwise((*chain[:2], root))]
    signers: set[bytes] = set()  # one certificate signs both texts
    for name in ("tcb_info", "qe_identity"):
        signer = x509.load_pem_x509_certificates(collateral[f"{name}_issuer_chain"].encode())[0]
        signature = bytes.fromhex(collateral[f"{name}_signature"])
        if signer.tbs_certificate_bytes not in signers:
            signers.add(signer.tbs_certificate_bytes)
            found.append(_issued(signer, root))
        found.append(_ecdsa(signer.public_key(), signature, collateral[name].encode(), hashes.SHA256()))
    for name, issuer in (("root_ca_crl", root), ("pck_crl", chain[1])):
        crl = x509.load_der_x509_crl(bytes.fromhex(collateral[name]))
        found.append(partial(crl.is_signature_valid, issuer.public_key()))
    return found


def _dcap(scene: Any) -> Check:
    """As a user of `dcap-qvl` alone calls it: collateral from its JSON, the quote, one root."""
    text, root = json.dumps(scene.extra["collateral"]), scene.extra["root"].public_bytes(Encoding.DER)
    quote, now = scene.extra["quote"], _forge().NOW

    def run() -> None:
        dcap_qvl.verify_with_root_ca(quote, dcap_qvl.QuoteCollateralV3.from_json(text), root, now)

    return run


def _snp(scene: Any) -> list[Check]:
    report, given = snp.parse_report(scene.extra["report"]), scene.extra["collateral"]
    certificates = [amdcert.parse_certificate(data) for data in (given.vcek, *given.chain)]
    keys: list[Any] = [load_der_public_key(certificate.public_key) for certificate in certificates]
    crl = x509.load_der_x509_crl(given.crl)
    r, s = (int.from_bytes(part, "little") for part in (report.r, report.s))
    return [
        partial(keys[0].verify, encode_dss_signature(r, s), report.signed, ec.ECDSA(hashes.SHA384())),
        *(
            partial(issuer.verify, child.signature, child.tbs, PSS, hashes.SHA384())
            for child, issuer in zip(certificates, keys[1:], strict=False)
        ),
        partial(keys[-1].verify, crl.signature, crl.tbs_certlist_bytes, PSS, hashes.SHA384()),
    ]


def _nvidia(scene: Any) -> list[Check]:
    """Every distinct signature of devices, manifests and revocation answers; many devices share most certificates."""
    found: list[Check] = []
    links: dict[tuple[bytes, bytes], Check] = {}

    def link(child: x509.Certificate, issuer: x509.Certificate) -> None:
        links[child.fingerprint(hashes.SHA256()), issuer.fingerprint(hashes.SHA256())] = _issued(child, issuer)

    issuers: dict[x509.Name, x509.Certificate] = {}
    for device, report in zip(scene.extra["devices"], scene.extra["reports"], strict=True):
        leaf: Any = device.chain[0].public_key()
        found.append(_ecdsa(leaf, report[-96:], report[:-96], hashes.SHA384()))
        for child, issuer in pairwise(device.chain):
            link(child, issuer)
            issuers[issuer.subject] = issuer
    for raw in scene.extra["collateral"].rims:
        manifest = rim.parse_rim(raw)
        chain = [x509.load_der_x509_certificate(data) for data in manifest.certificates]
        signer: Any = chain[0].public_key()
        found.append(_ecdsa(signer, manifest.signature, manifest.signed_info, hashes.SHA384()))
        for child, issuer in pairwise(chain):
            link(child, issuer)
            issuers[issuer.subject] = issuer
    for raw in scene.extra["collateral"].ocsp:
        answer = ocsp.load_der_ocsp_response(raw)
        responder = answer.certificates[0]
        key: Any = responder.public_key()
        link(responder, issuers[responder.issuer])
        found.append(partial(key.verify, answer.signature, answer.tbs_response_bytes, ec.ECDSA(hashes.SHA384())))
    return [*found, *links.values()]


def _one_gpu(number: int, later: int) -> Check:
    """GPU `number` alone, with parsed files beside it as `teehouse evidence verify` has them.

    Its revocation answers were made `later` seconds after those of another call; a nonce is asked once.
    """
    now, forge = _forge().NOW, importlib.import_module("forge_nvidia")
    device, nonce = forge.gpu(number), secrets.token_bytes(32)
    answers = forge.answers([device], since=now - forge.DAY + later)
    files = {f"{n}.xml": raw for n, raw in enumerate(forge.rims([device]))}
    files |= {f"{n}.der": raw for n, raw in enumerate(answers)}
    policy = artifact_policy(Policy.preset("evaluate"), fresh=True)
    chain, report = device.pem.encode(), device.report(nonce)

    def run() -> Any:
        return nvidia_artifact.verify_artifact(
            report, chain=chain, collateral=files, nonce=nonce, report_data=None, policy=policy, now=now
        )

    if (verdict := run()).result != "accepted":
        raise RuntimeError(f"the GPU is refused: {[check.id for check in verdict.refusing]}")
    return run


def _tpm(scene: Any) -> list[Check]:
    forged = scene.extra["forged"]
    document = json.loads(scene.bundle)["platform"]
    raw, key = b64decode(document["report"]), forged.key.public_key()
    signature = tpm.parse_signature(b64decode(document["aux"]["signature"]))
    return [_ecdsa(key, signature.r + signature.s, raw, hashes.SHA256())]
