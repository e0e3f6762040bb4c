# SPDX-License-Identifier: Apache-2.0
"""Which endorsements an artifact needs, and under which names the vendors publish them. No network here.

Nothing in the artifact is believed: a wrong name fetches an endorsement that then fits nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from cryptography import x509
from cryptography.x509.oid import NameOID

from teehouse_core.appraise.x509chain import load_pem_chain
from teehouse_core.errors import LocalError, MalformedError, TeehouseError
from teehouse_core.evidence.detect import detect
from teehouse_core.evidence.nvidia import GpuReport, Opaque
from teehouse_core.evidence.nvidia import parse_report as parse_gpu
from teehouse_core.evidence.pck import SGX_EXTENSION_OID, parse_sgx_extension
from teehouse_core.evidence.rim import parse_rim
from teehouse_core.evidence.snp import kds_path
from teehouse_core.evidence.snp import parse_report as parse_snp
from teehouse_core.evidence.tdx import TdQuote, parse_any_quote

__all__ = ["AmdWant", "IntelWant", "OcspWant", "RimWant", "Want", "chain_statuses", "rim_statuses", "wants"]


@dataclass(frozen=True, slots=True)
class IntelWant:
    """TCB info and QE identity for an FMSPC (lower-case hex), CRLs of `ca`."""

    fmspc: str
    ca: Literal["platform", "processor"]
    tee: Literal["tdx", "sgx"]


@dataclass(frozen=True, slots=True)
class AmdWant:
    """The VCEK at a KDS path, and the product's chain and CRL. `vcek` is None when the report does not name it."""

    product: str
    vcek: str | None


@dataclass(frozen=True, slots=True)
class RimWant:
    """A reference integrity manifest by the name that NVIDIA's service knows it by."""

    id: str


@dataclass(frozen=True, slots=True)
class OcspWant:
    """The signed status of one certificate. `name` is for people and for the file."""

    name: str
    certificate: x509.Certificate
    issuer: x509.Certificate


Want = IntelWant | AmdWant | RimWant | OcspWant


def wants(data: bytes, product: str | None = None) -> list[Want]:
    """What one artifact needs. Raises `MalformedError` from its parser, `LocalError` for a kind that needs nothing.

    `product` names an AMD product line for reports before version 3, which do not.
    """
    kind = detect(data)
    if kind == "tdx-quote":
        return [_intel(data)]
    if kind == "snp-report":
        report = parse_snp(data)
        line = product or report.product
        if line is None:
            hint = "name it with --product Milan, Genoa or Turin"
            raise LocalError("this report does not name its product line", code="product-missing", hint=hint)
        return [AmdWant(line, kds_path(report))]
    if kind == "nvidia-gpu":
        return [RimWant(name) for name in _rims(parse_gpu(data))]
    raise LocalError(
        "nothing is known to fetch for this file", code="kind-unknown", hint="a quote, an SNP or a GPU report"
    )


def chain_statuses(chain: Sequence[x509.Certificate], roots: Iterable[x509.Certificate]) -> list[OcspWant]:
    """The statuses that a device's chain (leaf first) is appraised with.

    Not the leaf's: the device makes it at each start, so nobody lists it. Nor the root's: it is pinned. A chain that
    leaves its root out gets it from `roots`.
    """
    return _statuses(chain, roots)[1:]


def rim_statuses(manifest: bytes, roots: Iterable[x509.Certificate]) -> list[OcspWant]:
    """The statuses of a manifest's signer and the CAs above it; none when lxml is missing or it does not parse."""
    try:
        chain = [x509.load_der_x509_certificate(data) for data in parse_rim(manifest).certificates]
    except (TeehouseError, ValueError):
        return []  # `evidence verify` says why it does not hold
    return _statuses(chain, roots)


def _statuses(chain: Sequence[x509.Certificate], roots: Iterable[x509.Certificate]) -> list[OcspWant]:
    root = next((root for root in roots if root.subject == chain[-1].issuer and root != chain[-1]), None)
    path = [*chain, root] if root is not None else [*chain]
    return [OcspWant(_name(child), child, issuer) for child, issuer in pairwise(path)]


def _name(certificate: x509.Certificate) -> str:
    found = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return f"{str(found[0].value)[:48] if found else 'certificate'} {certificate.serial_number:x}"


def _intel(data: bytes) -> IntelWant:
    quote = parse_any_quote(data, padding=True)
    leaf = load_pem_chain(quote.signature.pem_chain)[0]
    try:
        extension = leaf.extensions.get_extension_for_oid(x509.ObjectIdentifier(SGX_EXTENSION_OID)).value
    except (x509.ExtensionNotFound, x509.DuplicateExtension, ValueError):
        raise MalformedError("the quote's leaf is no PCK certificate", code="sgx-extension") from None
    raw = extension.value if isinstance(extension, x509.UnrecognizedExtension) else b""
    fmspc = parse_sgx_extension(raw).fmspc.hex()
    platform = "Platform" in leaf.issuer.rfc4514_string()
    return IntelWant(fmspc, "platform" if platform else "processor", "tdx" if isinstance(quote, TdQuote) else "sgx")


def _rims(report: GpuReport) -> list[str]:
    """Driver and VBIOS manifests of a GPU, the VBIOS manifest of a switch, as NVIDIA names them."""
    found: list[str] = []
    chip = (report.text(Opaque.CHIP_INFO) or "GH100").split()[0].split("-")[0]
    if report.driver_version:
        found.append(f"NV_GPU_DRIVER_{chip}_{report.driver_version}")
    parts = [report.text(n) for n in (Opaque.PROJECT, Opaque.PROJECT_SKU, Opaque.CHIP_SKU)]
    if report.vbios_version and all(parts):
        kind = "NV_GPU_VBIOS" if report.driver_version else "NV_SWITCH_BIOS"
        name = "_".join(str(part).upper() for part in parts)
        found.append(f"{kind}_{name}_{report.vbios_version.replace('.', '').upper()}")
    return found
