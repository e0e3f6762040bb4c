# SPDX-License-Identifier: Apache-2.0
"""What each appraisal check is about, in a few words that fit half a terminal. Ids stay the stable name."""

from __future__ import annotations

from typing import Final

__all__ = ["GROUPS", "TITLES", "title_of"]

GROUPS: Final[dict[str, str]] = {
    "silicon": "vendor chain, revocation, patch level",
    "quote": "what the processor signed",
    "firmware": "the confidential machine itself",
    "workload": "what runs in it",
    "gpu": "attached devices",
    "release": "who built it",
    "binding": "that it all speaks for this key, now",
    "policy": "what your policy demands",
}

TITLES: Final[dict[str, str]] = {
    "policy.supported": "platform type can be appraised",
    "policy.platform": "platform type is allowed",
    "tdx.quote.format": "quote parses as TDX v4",
    "tdx.quote.vendor": "quoting enclave vendor",
    "tdx.quote.signature": "quote signature",
    "tdx.quote.attestation-key": "attestation key bound by QE report",
    "tdx.qe.signature": "QE report signature",
    "tdx.qe.identity": "QE identity",
    "tdx.pck.chain": "certificate chain to the root",
    "tdx.pck.revocation": "nothing in the chain is revoked",
    "tdx.collateral.tcb-info": "TCB info signature",
    "tdx.collateral.qe-identity": "QE identity signature",
    "tdx.collateral.dates": "collateral valid now",
    "tdx.collateral.age": "collateral age",
    "tdx.collateral.evaluation": "collateral not rolled back",
    "tdx.tcb.fmspc": "TCB info is of this processor",
    "tdx.dcap": "second verifier agrees",
    "tdx.tcb.status": "TCB status",
    "tdx.tcb.advisories": "security advisories",
    "policy.machine": "machine allow-list",
    "tdx.td.debug": "debug is off",
    "tdx.td.attributes": "TD attributes",
    "tdx.td.xfam": "extended features",
    "tdx.td.seam": "TDX module signer",
    "tdx.reference.mrtd": "MRTD reference value",
    "tdx.reference.rtmr0": "RTMR0 reference value",
    "tdx.reference.rtmr1": "RTMR1 reference value",
    "tdx.reference.rtmr2": "RTMR2 reference value",
    "tdx.reference.rtmr3": "RTMR3 reference value",
    "workload.log.digests": "workload log digests",
    "workload.log.replay": "log replays to RTMR3",
    "workload.log.events": "log holds each event once",
    "workload.reference.image-sha256": "image digest is the expected",
    "workload.reference.config-sha256": "configuration is the expected",
    "workload.reference.weights-sha256": "model weights are the expected",
    "workload.reference.release": "release is the expected",
    "policy.devices": "devices demanded by policy",
    "release.statement": "signed release statement",
    "challenge.kind": "challenge of the right kind",
    "challenge.nonce": "answers my fresh challenge",
    "binding.report-data": "quote covers this keyset",
    "binding.endpoint": "keyset is of this endpoint",
    "binding.names": "names agree",
    "binding.role": "keyset role",
    "binding.group": "group membership",
    "binding.kids": "key ids recompute",
    "binding.validity": "keyset valid now",
    "binding.suites": "sealing suite on offer",
    "binding.release": "release as measured",
    "binding.image-sha256": "image digest as measured",
    "binding.config-sha256": "configuration as measured",
    "binding.weights-sha256": "model weights as measured",
    "binding.model": "model name as measured",
    "binding.doors": "compatibility doors as measured",
    "binding.egress": "egress as measured",
    "binding.content-logging": "content logging as measured",
    "binding.moderation": "moderation as measured",
    "policy.doors": "open compatibility doors",
    "policy.egress": "egress",
    "policy.content-logging": "content logging",
    "policy.moderation": "moderation",
}


def title_of(check_id: str) -> str:
    """The words for a check; its id where a newer core brings one that has none here."""
    return TITLES.get(check_id, check_id)
