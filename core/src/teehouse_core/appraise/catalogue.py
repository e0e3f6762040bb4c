# SPDX-License-Identifier: Apache-2.0
"""Every check by id: its group, where its input comes from, and the clause it enforces. The ids are stable API."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from teehouse_core.appraise.verdict import Group

__all__ = ["CATALOGUE", "CheckSpec"]


@dataclass(frozen=True, slots=True)
class CheckSpec:
    """`required` is the default; a policy can make an optional check required, never the reverse."""

    group: Group
    source: str
    clause: str
    required: bool = True


_QUOTE = "Intel TDX DCAP Quoting Library API, appendix 3"
_PCS = "Intel PCS API v4"
_PCK = "Intel SGX PCK Certificate and CRL Profile"
_MODULE = "Intel TDX Module ABI"
_TPM = "TPM 2.0 Library, parts 2 and 3"
_PFP = "TCG PC Client Platform Firmware Profile §10"
_VTPM = "ATTESTATION §3.4"
_ABI = "AMD 56860, SEV-SNP Firmware ABI"
_KDS = "AMD 57230, VCEK and KDS"
_PROTOCOL = "PROTOCOL §2"
_POOL = "PROTOCOL §6"
_LEDGER = "KEYS §4"
_SPDM = "DMTF DSP0274 (SPDM 1.1), MEASUREMENTS"
_RIM = "TCG RIM Information Model; ATTESTATION §3.3"
_NVIDIA = "ATTESTATION §3.3"
_EVIDENCE = "EVIDENCE §2"

CATALOGUE: Final[dict[str, CheckSpec]] = {
    "policy.supported": CheckSpec("policy", "platform.type", _EVIDENCE),
    "policy.platform": CheckSpec("policy", "platform.type", _EVIDENCE),
    "policy.collateral-newest": CheckSpec("silicon", "CRLs, TCB info, QE identity", "EVIDENCE §1"),
    "tdx.quote.format": CheckSpec("quote", "platform.report", _QUOTE),
    "tdx.quote.vendor": CheckSpec("quote", "quote header", _QUOTE),
    "tdx.quote.signature": CheckSpec("quote", "quote signature data", _QUOTE),
    "tdx.quote.attestation-key": CheckSpec("quote", "QE report", _QUOTE),
    "tdx.qe.signature": CheckSpec("quote", "QE report", _QUOTE),
    "tdx.qe.identity": CheckSpec("quote", "QE report, QE identity", _PCS),
    "tdx.qe.level": CheckSpec("quote", "QE report, QE identity", _PCS),
    "tdx.pck.chain": CheckSpec("silicon", "certification data", _PCK),
    "tdx.pck.revocation": CheckSpec("silicon", "root CRL, PCK CRL", _PCK),
    "tdx.collateral.tcb-info": CheckSpec("silicon", "TCB info", _PCS),
    "tdx.collateral.qe-identity": CheckSpec("silicon", "QE identity", _PCS),
    "tdx.collateral.dates": CheckSpec("silicon", "TCB info, QE identity", _PCS),
    "tdx.collateral.age": CheckSpec("silicon", "TCB info, QE identity, PCK CRL", "EVIDENCE §1"),
    "tdx.collateral.evaluation": CheckSpec("silicon", "TCB info, QE identity", "EVIDENCE §1"),
    "tdx.tcb.fmspc": CheckSpec("silicon", "PCK certificate, TCB info", _PCS),
    "tdx.tcb.level": CheckSpec("silicon", "PCK certificate, TD report, TCB info", _PCS),
    "tdx.module.identity": CheckSpec("silicon", "TD report, TCB info", _PCS),
    "tdx.module.level": CheckSpec("silicon", "TD report, TCB info", _PCS),
    "tdx.module.running": CheckSpec("silicon", "TD report 1.5, TCB info", _MODULE),
    "tdx.dcap": CheckSpec("silicon", "whole quote with collateral", "ATTESTATION §3.1"),
    "tdx.tcb.status": CheckSpec("silicon", "TCB level", _PCS),
    "tdx.tcb.advisories": CheckSpec("silicon", "TCB level", _PCS),
    "policy.machine": CheckSpec("silicon", "PPID or CHIP_ID", "ATTESTATION §3.6"),
    "tdx.td.debug": CheckSpec("firmware", "TD report", _MODULE),
    "tdx.td.attributes": CheckSpec("firmware", "TD report", _MODULE),
    "tdx.td.xfam": CheckSpec("firmware", "TD report", _MODULE),
    "tdx.td.seam": CheckSpec("firmware", "TD report", _MODULE),
    "tdx.td.service": CheckSpec("firmware", "TD report 1.5", _MODULE),
    "tdx.td.partition": CheckSpec("firmware", "extended TD report 1.5", _MODULE),
    "sgx.enclave.init": CheckSpec("firmware", "enclave report", _QUOTE),
    "sgx.enclave.debug": CheckSpec("firmware", "enclave report", _QUOTE),
    "tdx.reference.mrtd": CheckSpec("firmware", "TD report", _EVIDENCE, required=False),
    "tdx.reference.rtmr0": CheckSpec("firmware", "TD report", _EVIDENCE, required=False),
    "tdx.reference.rtmr1": CheckSpec("firmware", "TD report", _EVIDENCE, required=False),
    "tdx.reference.rtmr2": CheckSpec("firmware", "TD report", _EVIDENCE, required=False),
    "tdx.reference.rtmr3": CheckSpec("firmware", "TD report", _EVIDENCE, required=False),
    "tdx.reference.mr-config-id": CheckSpec("firmware", "TD report", _EVIDENCE, required=False),
    "tdx.reference.mr-owner": CheckSpec("firmware", "TD report", _EVIDENCE, required=False),
    "tdx.reference.mr-owner-config": CheckSpec("firmware", "TD report", _EVIDENCE, required=False),
    "snp.report.format": CheckSpec("quote", "platform.report", _ABI),
    "snp.report.algorithm": CheckSpec("quote", "SNP report", _ABI),
    "snp.report.reserved": CheckSpec("quote", "SNP report", _ABI),
    "snp.report.signature": CheckSpec("quote", "SNP report, leaf", _ABI),
    "snp.report.version": CheckSpec("quote", "SNP report", "ATTESTATION §0"),
    "snp.key.kind": CheckSpec("quote", "SNP report, leaf", _ABI),
    "snp.leaf.format": CheckSpec("silicon", "leaf", _KDS),
    "snp.chain.signatures": CheckSpec("silicon", "leaf, chain", _KDS),
    "snp.chain.dates": CheckSpec("silicon", "leaf, chain", _KDS),
    "snp.chain.revocation": CheckSpec("silicon", "ARK CRL", _KDS),
    "snp.product.match": CheckSpec("silicon", "SNP report, leaf", _KDS),
    "snp.product.allowed": CheckSpec("silicon", "leaf", "ATTESTATION §3.6"),
    "snp.leaf.tcb": CheckSpec("silicon", "SNP report, leaf", _KDS),
    "snp.leaf.chip-id": CheckSpec("silicon", "SNP report, leaf", _KDS),
    "snp.leaf.csp-id": CheckSpec("silicon", "leaf", _KDS),
    "snp.tcb.minimum": CheckSpec("silicon", "SNP report", "ATTESTATION §3.2"),
    "snp.tcb.order": CheckSpec("silicon", "SNP report", _ABI),
    "snp.platform.alias-check": CheckSpec("silicon", "SNP report", "AMD-SB-3015"),
    "snp.firmware.provisional": CheckSpec("silicon", "SNP report", _ABI),
    "snp.firmware.mitigations": CheckSpec("silicon", "SNP report", _ABI),
    "snp.guest.policy": CheckSpec("firmware", "SNP report", _ABI),
    "snp.guest.debug": CheckSpec("firmware", "SNP report", _ABI),
    "snp.guest.migration": CheckSpec("firmware", "SNP report", _ABI),
    "snp.guest.smt": CheckSpec("firmware", "SNP report", _ABI),
    "snp.guest.abi": CheckSpec("firmware", "SNP report", _ABI),
    "snp.guest.vmpl": CheckSpec("firmware", "SNP report", _ABI),
    "snp.guest.svn": CheckSpec("firmware", "SNP report", _ABI),
    "snp.id.id-key": CheckSpec("firmware", "SNP report", _ABI),
    "snp.id.author-key": CheckSpec("firmware", "SNP report", _ABI),
    "snp.reference.measurement": CheckSpec("firmware", "SNP report", _EVIDENCE, required=False),
    "snp.reference.host-data": CheckSpec("firmware", "SNP report", _EVIDENCE, required=False),
    "tpm.quote.format": CheckSpec("quote", "TPM quote", _TPM),
    "tpm.quote.signature": CheckSpec("quote", "TPM quote, signature", _TPM),
    "tpm.quote.nonce": CheckSpec("quote", "TPM quote", _TPM),
    "tpm.quote.selection": CheckSpec("quote", "TPM quote", _TPM),
    "tpm.quote.pcr-digest": CheckSpec("quote", "TPM quote, register values", _TPM),
    "tpm.ak.attributes": CheckSpec("silicon", "TPM public area", _TPM),
    "tpm.ak.chain": CheckSpec("silicon", "attestation key certificates", _VTPM),
    "tpm.ak.revocation": CheckSpec("silicon", "CRLs", _VTPM, required=False),
    "tpm.ak.trust": CheckSpec("silicon", "attestation key", _VTPM),
    "hcl.format": CheckSpec("quote", "HCL report", _VTPM),
    "hcl.runtime-data": CheckSpec("quote", "HCL report, chip report", _VTPM),
    "tpm.log.format": CheckSpec("firmware", "event log", _PFP),
    "tpm.log.digests": CheckSpec("firmware", "event log", _PFP),
    "tpm.log.replay": CheckSpec("firmware", "event log, register values", _PFP),
    "tpm.log.secure-boot": CheckSpec("firmware", "event log", _PFP, required=False),
    "tpm.reference.pcrs": CheckSpec("firmware", "register values", _EVIDENCE, required=False),
    "eventlog.format": CheckSpec("firmware", "event log", _PFP),
    "eventlog.digests": CheckSpec("firmware", "event log", _PFP),
    "eventlog.replay": CheckSpec("firmware", "event log, registers", "ATTESTATION §3.1"),
    "workload.log.digests": CheckSpec("workload", "workload_log", "spec 03 §3"),
    "workload.log.replay": CheckSpec("workload", "workload_log, register", "spec 03 §3"),
    "workload.log.events": CheckSpec("workload", "workload_log", "spec 03 §3"),
    "workload.reference.image-sha256": CheckSpec("workload", "workload_log", _EVIDENCE, required=False),
    "workload.reference.config-sha256": CheckSpec("workload", "workload_log", _EVIDENCE, required=False),
    "workload.reference.weights-sha256": CheckSpec("workload", "workload_log", _EVIDENCE, required=False),
    "workload.reference.release": CheckSpec("workload", "workload_log", _EVIDENCE, required=False),
    "gpu.report.format": CheckSpec("gpu", "device report", _SPDM),
    "gpu.report.signature": CheckSpec("gpu", "device report", _SPDM),
    "gpu.report.nonce": CheckSpec("gpu", "device report", _PROTOCOL),
    "gpu.certificate.chain": CheckSpec("gpu", "device chain", _NVIDIA),
    "gpu.certificate.fwid": CheckSpec("gpu", "device chain, device report", "TCG DICE Attestation Architecture"),
    "gpu.certificate.revocation": CheckSpec("gpu", "OCSP responses, CRLs", "RFC 6960", required=False),
    "gpu.device.identity": CheckSpec("gpu", "device chain, device report", _NVIDIA),
    "gpu.driver.version": CheckSpec("gpu", "device report", _EVIDENCE),
    "gpu.vbios.version": CheckSpec("gpu", "device report", _EVIDENCE),
    "gpu.mode.flags": CheckSpec("gpu", "device report", _NVIDIA),
    "gpu.mode.allowed": CheckSpec("gpu", "device report", _NVIDIA),
    "gpu.switch.locked": CheckSpec("gpu", "device report", _NVIDIA),
    "gpu.rim.format": CheckSpec("gpu", "RIMs", _RIM, required=False),
    "gpu.rim.present": CheckSpec("gpu", "RIMs, device report", _RIM, required=False),
    "gpu.rim.signature": CheckSpec("gpu", "RIMs", "XML Signature Syntax and Processing 1.1", required=False),
    "gpu.rim.chain": CheckSpec("gpu", "RIMs", _RIM, required=False),
    "gpu.rim.revocation": CheckSpec("gpu", "OCSP responses, CRLs", "RFC 6960", required=False),
    "gpu.rim.overlap": CheckSpec("gpu", "RIMs", _RIM, required=False),
    "gpu.rim.measurements": CheckSpec("gpu", "RIMs, device report", _RIM, required=False),
    "devices.unique": CheckSpec("gpu", "devices", _PROTOCOL),
    "devices.topology": CheckSpec("gpu", "devices", _NVIDIA),
    "policy.devices": CheckSpec("gpu", "devices", _EVIDENCE),
    "release.statement": CheckSpec("release", "release", "EVIDENCE §1", required=False),
    "challenge.kind": CheckSpec("binding", "challenge", _PROTOCOL),
    "challenge.nonce": CheckSpec("binding", "challenge", _PROTOCOL),
    "artifact.report-data": CheckSpec("binding", "report data", "ATTESTATION §3.1"),
    "binding.report-data": CheckSpec("binding", "report data", _PROTOCOL),
    "binding.endpoint": CheckSpec("binding", "keyset", _PROTOCOL),
    "binding.names": CheckSpec("binding", "bundle, keyset", _PROTOCOL),
    "binding.role": CheckSpec("binding", "keyset", _PROTOCOL),
    "binding.group": CheckSpec("binding", "keyset, members", _PROTOCOL),
    "binding.kids": CheckSpec("binding", "keyset", _PROTOCOL),
    "binding.validity": CheckSpec("binding", "keyset", _PROTOCOL),
    "binding.suites": CheckSpec("binding", "keyset", "PROTOCOL §1"),
    "binding.release": CheckSpec("binding", "keyset, workload_log", _PROTOCOL),
    "binding.image-sha256": CheckSpec("binding", "keyset, workload_log", _PROTOCOL),
    "binding.config-sha256": CheckSpec("binding", "keyset, workload_log", _PROTOCOL),
    "binding.weights-sha256": CheckSpec("binding", "keyset, workload_log", _PROTOCOL),
    "binding.model": CheckSpec("binding", "keyset, workload_log", _PROTOCOL),
    "binding.doors": CheckSpec("binding", "keyset, workload_log", _PROTOCOL),
    "binding.egress": CheckSpec("binding", "keyset, workload_log", _PROTOCOL),
    "binding.content-logging": CheckSpec("binding", "keyset, workload_log", _PROTOCOL),
    "binding.moderation": CheckSpec("binding", "keyset, workload_log", _PROTOCOL),
    "ledger.checkpoint": CheckSpec("binding", "ledger checkpoint", _LEDGER),
    "ledger.quorum": CheckSpec("binding", "ledger checkpoint", _LEDGER),
    "ledger.age": CheckSpec("binding", "ledger checkpoint", _PROTOCOL),
    "ledger.inclusion": CheckSpec("binding", "inclusion proof, keyset", _LEDGER),
    "ledger.consistency": CheckSpec("binding", "ledger checkpoint", _LEDGER),
    "pool.allowed": CheckSpec("policy", "pool keyset", _POOL),
    "pool.listed": CheckSpec("policy", "pool keyset", _POOL),
    "pool.policy-text": CheckSpec("binding", "pool keyset, release policy", _POOL),
    "pool.policy-strength": CheckSpec("policy", "release policy", _POOL),
    "pool.service": CheckSpec("binding", "pool keyset, keyset", _POOL),
    "pool.signature": CheckSpec("binding", "pool keyset, keyset", _POOL),
    "pool.endpoint": CheckSpec("binding", "pool keyset, release policy", _POOL),
    "pool.validity": CheckSpec("binding", "pool keyset", _POOL),
    "pool.suites": CheckSpec("binding", "pool keyset", "PROTOCOL §1"),
    "pool.claims": CheckSpec("binding", "pool keyset, release policy", _POOL),
    "policy.doors": CheckSpec("policy", "keyset", "PROTOCOL §8"),
    "policy.egress": CheckSpec("policy", "keyset", _EVIDENCE),
    "policy.content-logging": CheckSpec("policy", "keyset", _EVIDENCE),
    "policy.moderation": CheckSpec("policy", "keyset", _EVIDENCE),
}
