# SPDX-License-Identifier: Apache-2.0
"""Checks of a TPM quote: what it signed, which registers it covers, and who vouches for the key that signed.

A signature alone proves nothing about the key. It counts when a certificate chain leads to a pinned vTPM root, when
the policy names the key, or when an Azure HCL report carries it (`checks_hcl`). A TPM with no TEE report underneath is
tier `vtpm`: measured boot, and the host is trusted. Clauses: TPM 2.0 Library; TCG PC Client Platform Firmware Profile.
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass, field
from typing import Any, Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from teehouse_core.appraise.checks_eventlog import log_digests
from teehouse_core.appraise.facts import PlatformFacts
from teehouse_core.appraise.policy import ANY, Policy
from teehouse_core.appraise.revocation import RevocationPack
from teehouse_core.appraise.sheet import Outcome, Sheet, failed, not_applicable, one_of, passed, skipped
from teehouse_core.appraise.x509chain import chain_end, link_problem
from teehouse_core.errors import MalformedError, TeehouseError
from teehouse_core.evidence import tpm
from teehouse_core.evidence.akcert import AkChain, parse_ak_chain
from teehouse_core.evidence.bundle import Bundle
from teehouse_core.evidence.eventlog import EventLog, parse_event_log, replay, secure_boot
from teehouse_core.evidence.jsontext import unb64_text

__all__ = ["TpmEvidence", "TpmFacts", "check_quote", "check_tpm", "tpm_evidence", "verify_signature"]

LOGGED: Final = frozenset((*range(10), 14))
"""Registers that firmware, shim and GRUB extend and log; the operating system extends others after the log ended."""
AIK_CERTIFICATE: Final = "2.23.133.8.3"  # tcg-kp-AIKCertificate
MAX_BLOB: Final = 64 * 1024  # bytes of one `aux` member
_HASHES: Final[dict[str, type[hashes.HashAlgorithm]]] = {
    "sha256": hashes.SHA256,
    "sha384": hashes.SHA384,
    "sha512": hashes.SHA512,
}


@dataclass(frozen=True, slots=True)
class TpmEvidence:
    """The pieces of one quote, unparsed. `ak` is TPMT_PUBLIC, `pcrs` the JSON of `evidence.tpm.parse_pcrs`."""

    platform: str
    quote: bytes
    signature: bytes | None = None
    pcrs: bytes | None = None
    ak: bytes | None = None
    spki: bytes | None = None  # the key without its public area, PEM or DER
    chain: bytes | None = None
    event_log: bytes | None = None
    crls: tuple[bytes, ...] = ()
    hcl_key: rsa.RSAPublicKey | None = None


@dataclass(slots=True)
class TpmFacts(PlatformFacts):
    """What the checks learned; believe a field only with its checks passed."""

    quote: tpm.TpmQuote | None = None
    signature: tpm.TpmSignature | None = None
    public: tpm.TpmPublic | None = None
    key: tpm.PublicKey | None = None
    chain: AkChain | None = None
    pcrs: dict[str, dict[int, bytes]] = field(default_factory=dict)
    log: EventLog | None = None


def check_tpm(sheet: Sheet, bundle: Bundle, policy: Policy, now: int) -> TpmFacts:
    """Make every `tpm.…` check of one bundle of type `tpm`, and `policy.machine`."""
    facts = check_quote(sheet, tpm_evidence(bundle), policy, now, extra_data=None)
    bind(bundle, facts)
    sheet.run("policy.machine", lambda: _machine(facts, policy), needs=(facts.key,))
    return facts


def bind(bundle: Bundle, facts: TpmFacts) -> None:
    """Say what a bundle's quote speaks for: its report data by hash (PROTOCOL §2), and PCR 15."""
    if facts.quote is not None:
        wanted = hashlib.sha256(bundle.report_data).digest()
        matches = hmac.compare_digest(facts.quote.extra_data, wanted)
        facts.report_data = bundle.report_data if matches else facts.quote.extra_data
    facts.register = facts.pcrs.get("sha256", {}).get(tpm.WORKLOAD_PCR)


def tpm_evidence(bundle: Bundle, *, hcl_key: rsa.RSAPublicKey | None = None) -> TpmEvidence:
    """The pieces as a bundle carries them: `report` is TPMS_ATTEST, the rest stands in `aux`."""
    aux = bundle.platform.aux
    chain = aux.get("ak_chain")
    pcrs = aux.get("pcrs")
    return TpmEvidence(
        platform=bundle.platform.type,
        quote=bundle.platform.report,
        signature=aux_blob(bundle, "signature"),
        pcrs=pcrs.encode("utf-8") if pcrs is not None else None,
        ak=aux_blob(bundle, "ak"),
        chain=chain.encode("utf-8") if chain is not None else None,
        event_log=bundle.platform.event_log,
        hcl_key=hcl_key,
    )


def aux_blob(bundle: Bundle, name: str) -> bytes | None:
    """An `aux` member that is base64, or None when it is missing or is none."""
    text = bundle.platform.aux.get(name)
    try:
        return None if text is None else unb64_text(text, limit=MAX_BLOB, what=name)
    except TeehouseError:
        return None


def check_quote(
    sheet: Sheet, evidence: TpmEvidence, policy: Policy, now: int, *, extra_data: bytes | None, in_bundle: bool = True
) -> TpmFacts:
    """Make every `tpm.…` check. `extra_data` is what the quote must carry, for a quote that is not in a bundle."""
    facts = TpmFacts()
    _read(sheet, evidence, facts)
    quote, key = facts.quote, facts.key

    sheet.run("tpm.quote.signature", lambda: _signature(facts), needs=(quote, facts.signature, key))
    if in_bundle:
        sheet.write("tpm.quote.nonce", not_applicable("in a bundle this is binding.report-data"))
    elif extra_data is None:
        sheet.write("tpm.quote.nonce", _no_nonce(quote, policy))
    else:
        sheet.run("tpm.quote.nonce", lambda: _nonce(facts, extra_data), needs=(quote,))
    sheet.run("tpm.quote.selection", lambda: _selection(facts, policy), needs=(quote,))
    digest_fits = sheet.run(
        "tpm.quote.pcr-digest", lambda: _pcr_digest(facts), needs=(quote, facts.signature, facts.pcrs or None)
    )
    if not digest_fits:
        facts.pcrs = {}  # values that no quote covers are nobody's
    known = facts.pcrs or None

    _key_checks(sheet, evidence, facts, policy, now)
    _log_checks(sheet, evidence, facts, policy)
    required = policy.tpm.references_required or bool(policy.tpm.references)
    if policy.tpm.references:
        sheet.run("tpm.reference.pcrs", lambda: _references(facts, policy), required=required, needs=(known,))
    else:
        hint = "the policy lists no register values to compare with: name some in tpm.references"
        sheet.write("tpm.reference.pcrs", skipped(hint), required)
    facts.claims = _claims(facts)
    return facts


def verify_signature(key: tpm.PublicKey, signature: tpm.TpmSignature, data: bytes) -> bool:
    """Whether `signature` is `key`'s over `data`; False for SHA-1, SM3, and a scheme of another kind of key."""
    algorithm = _HASHES.get(signature.hash)
    if algorithm is None:
        return False
    try:
        if isinstance(key, ec.EllipticCurvePublicKey):
            if signature.scheme != "ecdsa":
                return False
            r, s = int.from_bytes(signature.r, "big"), int.from_bytes(signature.s, "big")
            key.verify(encode_dss_signature(r, s), data, ec.ECDSA(algorithm()))
        elif signature.scheme == "rsassa":
            key.verify(signature.value, data, padding.PKCS1v15(), algorithm())
        elif signature.scheme == "rsapss":  # the salt is as long as the modulus allows, or as the digest (FIPS mode)
            pss = padding.PSS(padding.MGF1(algorithm()), padding.PSS.AUTO)
            key.verify(signature.value, data, pss, algorithm())
        else:
            return False
    except InvalidSignature:
        return False
    return True


def _read(sheet: Sheet, evidence: TpmEvidence, facts: TpmFacts) -> None:
    def quote() -> Outcome:
        facts.quote = tpm.parse_quote(evidence.quote)
        return passed(f"{len(evidence.quote)} bytes", "TPMS_ATTEST of type quote")

    sheet.run("tpm.quote.format", quote)
    facts.signature = _quietly(tpm.parse_signature, evidence.signature)
    facts.public = _quietly(tpm.parse_public, evidence.ak)
    facts.chain = _quietly(parse_ak_chain, evidence.chain)
    facts.pcrs = _quietly(tpm.parse_pcrs, evidence.pcrs) or {}
    if evidence.hcl_key is not None:
        facts.key = evidence.hcl_key
    elif facts.public is not None:
        facts.key = facts.public.key
    elif evidence.spki is not None:
        facts.key = _quietly(tpm.load_spki, evidence.spki)
    elif facts.chain is not None:
        key = facts.chain.certificates[0].public_key()
        facts.key = key if isinstance(key, rsa.RSAPublicKey | ec.EllipticCurvePublicKey) else None


def _quietly(parse: Any, data: bytes | None) -> Any:
    """Parse or None; the checks that need the value are then skipped, and those are required."""
    try:
        return None if data is None else parse(data)
    except TeehouseError:
        return None


def _have(value: Any) -> Any:
    if value is None:
        raise MalformedError("missing", code="missing")
    return value


def _signature(facts: TpmFacts) -> Outcome:
    quote, signature = _have(facts.quote), _have(facts.signature)
    claimed = f"{signature.scheme} {signature.hash}"
    if signature.hash not in _HASHES:
        return failed("the signature's hash is too weak", claimed, "SHA-256, SHA-384 or SHA-512")
    if verify_signature(_have(facts.key), signature, quote.raw):
        return passed(claimed, "signature by the attestation key over the quote")
    return failed("the quote was changed after it was signed, or another key signed it", claimed)


def _no_nonce(quote: tpm.TpmQuote | None, policy: Policy) -> Outcome:
    shown = quote.extra_data.hex() if quote is not None else ""
    if policy.freshness_required:
        return skipped("supply the nonce that the quote should carry: the policy demands freshness", shown)
    return not_applicable(f"nothing to compare with was given; the quote carries {shown}")


def _nonce(facts: TpmFacts, extra_data: bytes) -> Outcome:
    claimed = _have(facts.quote).extra_data
    if hmac.compare_digest(claimed, extra_data):
        return passed(claimed, extra_data)
    return failed("the quote answers another challenge: replayed, or made for somebody else", claimed, extra_data)


def _selection(facts: TpmFacts, policy: Policy) -> Outcome:
    selections = _have(facts.quote).selections
    claimed = ", ".join(f"{one.bank}:{_numbers(one.pcrs)}" for one in selections)
    expected = f"sha256:{_numbers(policy.tpm.pcrs)} or more"
    if [one.bank for one in selections] != ["sha256"]:
        return failed("the quote is not over the SHA-256 bank alone", claimed, expected)
    if missing := sorted(set(policy.tpm.pcrs) - set(selections[0].pcrs)):
        return failed(f"the quote does not cover registers {_numbers(tuple(missing))}", claimed, expected)
    return passed(claimed, expected)


def _pcr_digest(facts: TpmFacts) -> Outcome:
    quote = _have(facts.quote)
    digest = tpm.pcr_digest(quote.selections, facts.pcrs, _have(facts.signature).hash)
    if digest is None:
        return failed("a register that the quote covers is not listed", quote.pcr_digest)
    if not hmac.compare_digest(digest, quote.pcr_digest):
        return failed("the listed register values are not those that were quoted", digest, quote.pcr_digest)
    selected = {one.bank: {i: facts.pcrs[one.bank][i] for i in one.pcrs} for one in quote.selections}
    facts.pcrs = selected  # forget values that the quote does not cover
    return passed(digest, quote.pcr_digest)


def _key_checks(sheet: Sheet, evidence: TpmEvidence, facts: TpmFacts, policy: Policy, now: int) -> None:
    if facts.public is not None:
        sheet.run("tpm.ak.attributes", lambda: _attributes(facts))
    elif evidence.ak is not None:
        sheet.write("tpm.ak.attributes", failed("the attestation key's public area does not parse"))
    else:
        sheet.write("tpm.ak.attributes", not_applicable("no public area was given; who vouches for the key does so"))
    chained = False
    roots = sheet.anchors.vtpm(evidence.platform)
    if evidence.chain is None:
        sheet.write("tpm.ak.chain", not_applicable("no certificate of the attestation key was given"))
        sheet.write("tpm.ak.revocation", not_applicable("no certificate of the attestation key was given"))
    else:
        chained = sheet.run("tpm.ak.chain", lambda: _chain(evidence, facts, roots, now), needs=(facts.chain, facts.key))
        required = policy.tpm.revocation_required
        run = lambda: _revocation(evidence, facts, roots, policy, now)  # noqa: E731
        # known to be revoked refuses always; only not knowing is the policy's matter
        sheet.run("tpm.ak.revocation", run, required=required, needs=(facts.chain,), failure_refuses=True)
    sheet.run("tpm.ak.trust", lambda: _trust(evidence, facts, policy, chained), needs=(facts.key,))


def _attributes(facts: TpmFacts) -> Outcome:
    public = _have(facts.public)
    wanted = tpm.FIXED_TPM | tpm.FIXED_PARENT | tpm.SENSITIVE_DATA_ORIGIN | tpm.RESTRICTED | tpm.SIGN
    shown = f"0x{public.attributes:08x}"
    if public.attributes & wanted != wanted or public.attributes & tpm.DECRYPT:
        hint = "not a restricted signing key made inside the TPM: it could sign a quote that no TPM made"
        return failed(hint, shown, "fixedTPM fixedParent sensitiveDataOrigin restricted sign, not decrypt")
    if tpm.spki_sha256(public.key) != tpm.spki_sha256(_have(facts.key)):
        return failed("the public area is another key's")
    return passed(shown, "a restricted signing key that never leaves its TPM")


def _chain(evidence: TpmEvidence, facts: TpmFacts, pinned: tuple[x509.Certificate, ...], now: int) -> Outcome:
    chain = _have(facts.chain)
    leaf = chain.certificates[0]
    claimed = " < ".join(_name(c) for c in chain.certificates)
    note = f"; {chain.padding} zero bytes after a certificate were ignored" if chain.padding else ""
    key = leaf.public_key()
    if not isinstance(key, rsa.RSAPublicKey | ec.EllipticCurvePublicKey) or tpm.spki_sha256(key) != tpm.spki_sha256(
        _have(facts.key)
    ):
        return failed("the certificate is another key's", claimed)
    roots = [root for root in pinned if _leads_to(chain.certificates, root)]
    if not roots:
        hint = "the chain does not reach a pinned vTPM root; supply every certificate between the key and the root"
        outcome = failed if evidence.hcl_key is None else _unneeded
        return outcome(hint, claimed)
    links = len([c for c in chain.certificates if c != roots[0]])
    if problem := link_problem(chain.certificates, roots[0], now, links=links) or _leaf_problem(leaf):
        return failed(problem, claimed + note, _name(roots[0]))
    facts.ends.append(chain_end(chain.certificates))
    return passed(claimed + note, _name(roots[0]))


def _unneeded(hint: str, claimed: object = "", expected: object = "") -> Outcome:
    """An incomplete chain beside an HCL report, which vouches for the key by itself."""
    return not_applicable(f"{hint}; the HCL report vouches for this key ({claimed}{expected})")


def _leads_to(chain: tuple[x509.Certificate, ...], root: x509.Certificate) -> bool:
    return chain[-1] == root or chain[-1].issuer == root.subject


def _leaf_problem(leaf: x509.Certificate) -> str | None:
    try:
        usage = leaf.extensions.get_extension_for_class(x509.KeyUsage).value
    except x509.ExtensionNotFound:
        return "the certificate does not say what its key may do"
    if not usage.digital_signature or usage.key_encipherment:
        return "not a signing key's certificate (an endorsement key cannot attest)"
    try:
        extended = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        return None  # Google's carry none
    if AIK_CERTIFICATE not in {oid.dotted_string for oid in extended}:
        return "the certificate is not an attestation key's"
    return None


def _revocation(
    evidence: TpmEvidence, facts: TpmFacts, pinned: tuple[x509.Certificate, ...], policy: Policy, now: int
) -> Outcome:
    """Good, revoked or unknown: each certificate below the root needs a current CRL of its issuer."""
    chain = list(_have(facts.chain).certificates)
    path = chain + [root for root in pinned if chain[-1].issuer == root.subject != chain[-1].subject]
    status = RevocationPack((), evidence.crls, now, policy.max_collateral_age).chain(path)
    if status.state == "unknown":
        return skipped(f"revocation unknown: {status.detail}", status.state, "good")
    if status.state != "good":
        return failed("a certificate of the attestation key is revoked", f"{status.state}: {status.detail}", "good")
    if status.end is not None:
        facts.ends.append(status.end)
    return passed(f"good: {status.detail}", "good")


def _trust(evidence: TpmEvidence, facts: TpmFacts, policy: Policy, chained: bool) -> Outcome:
    name = tpm.spki_sha256(_have(facts.key))
    if evidence.hcl_key is not None:
        return passed(name, "HCLAkPub of the HCL report")
    if chained:
        return passed(name, "a certificate under a pinned vTPM root")
    if name in policy.tpm.attestation_keys:
        return passed(name, "named by the policy (tpm.attestation_keys)")
    hint = "nobody vouches for this attestation key: give its certificate chain, or name it in tpm.attestation_keys"
    return failed(hint, name, "a certificate under a pinned root, or a key that the policy names")


def _log_checks(sheet: Sheet, evidence: TpmEvidence, facts: TpmFacts, policy: Policy) -> None:
    wanted, boot = policy.tpm.log_required, policy.tpm.secure_boot_required
    if evidence.event_log is None:
        none = skipped("no event log was given") if wanted else not_applicable("no event log was given")
        for check_id in ("tpm.log.format", "tpm.log.digests", "tpm.log.replay"):
            sheet.write(check_id, none)
        sheet.write("tpm.log.secure-boot", skipped("no event log was given"), boot)
        return

    def parse() -> Outcome:
        facts.log = parse_event_log(_have(evidence.event_log))
        return passed(f"{len(facts.log.events)} events, banks {' '.join(facts.log.banks)}", facts.log.form)

    sheet.run("tpm.log.format", parse)
    sheet.run("tpm.log.digests", lambda: log_digests(_have(facts.log)), needs=(facts.log,))
    fits = sheet.run("tpm.log.replay", lambda: _log_replay(facts), needs=(facts.log, facts.pcrs or None))
    log = facts.log if fits else None
    sheet.run("tpm.log.secure-boot", lambda: _secure_boot(facts), required=boot, needs=(log,))


def _log_replay(facts: TpmFacts) -> Outcome:
    log, values = _have(facts.log), facts.pcrs.get("sha256", {})
    if "sha256" not in log.banks:
        return failed("the log has no SHA-256 bank", " ".join(log.banks), "sha256")
    replayed = replay(log, "sha256")
    logged = {event.index for event in log.events}
    compared = sorted(index for index in values if index in LOGGED)
    for index in compared:
        if index in logged and index not in replayed:
            return failed(f"an event of register {index} has no SHA-256 digest")
        if replayed.get(index, bytes(32)) != values[index]:
            hint = f"the log does not lead to the quoted value of register {index}: stale, cut or forged"
            return failed(hint, replayed.get(index, bytes(32)), values[index])
    if not compared:
        return failed("the quote covers no register that the log speaks of")
    return passed(f"registers {_numbers(tuple(compared))}", "the quoted values")


def _secure_boot(facts: TpmFacts) -> Outcome:
    state = secure_boot(_have(facts.log))
    facts.claims["secure_boot"] = state
    shown = {True: "on", False: "off", None: "unknown"}[state]
    return passed(shown, "on") if state else failed("the machine did not boot under Secure Boot", shown, "on")


def _references(facts: TpmFacts, policy: Policy) -> Outcome:
    values = facts.pcrs.get("sha256", {})
    allowed: dict[int, list[str]] = {}
    for reference in policy.tpm.references:
        number, _, value = reference.partition("=")
        allowed.setdefault(int(number), []).append(value)
    for index, wanted in sorted(allowed.items()):
        claimed = values[index].hex() if index in values else "not quoted"
        if claimed not in wanted:
            hint = f"register {index} is none of the policy's reference values"
            return one_of(f"{index}={claimed}", tuple(f"{index}={value}" for value in wanted), hint)
    return passed(f"registers {_numbers(tuple(sorted(allowed)))}", "the policy's reference values")


def _machine(facts: TpmFacts, policy: Policy) -> Outcome:
    machine = tpm.spki_sha256(_have(facts.key))
    if ANY in policy.machines:
        return not_applicable(f"the policy lists no machines; this one's attestation key is {machine}")
    return one_of(machine, policy.machines, "this machine is not on the policy's list")


def _claims(facts: TpmFacts) -> dict[str, Any]:
    claims = dict(facts.claims)
    if claims.get("secure_boot", True) is None:
        del claims["secure_boot"]
    if facts.quote is not None:
        quote = facts.quote
        claims["tpm_firmware_version"] = f"0x{quote.firmware_version:016x}"
        claims["tpm_resets"] = quote.reset_count
        claims["tpm_clock_safe"] = quote.safe
    if facts.key is not None:
        claims["attestation_key_sha256"] = tpm.spki_sha256(facts.key)
    claims.update({f"pcr{index}": value.hex() for index, value in sorted(facts.pcrs.get("sha256", {}).items())})
    return claims


def _numbers(pcrs: tuple[int, ...]) -> str:
    return ",".join(str(index) for index in pcrs)


def _name(certificate: x509.Certificate) -> str:
    return certificate.subject.rfc4514_string().partition(",")[0].removeprefix("CN=")
