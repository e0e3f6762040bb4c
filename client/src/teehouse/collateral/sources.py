# SPDX-License-Identifier: Apache-2.0
"""The vendors' services over HTTP: Intel PCS v4 (or a PCCS), AMD KDS, NVIDIA RIM and OCSP. Addresses are settings.

What comes is stored as it came and verified by nobody here; whoever appraises with it checks every signature and date.
But it must be what was asked for by its form: a captive portal's page is no certificate. Bounded: each answer has a
size limit, each request a limit for a silence and one for the whole, redirects are not followed, nothing is unpacked.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final
from urllib.parse import unquote

import httpx2
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp

from teehouse.collateral.wanted import AmdWant, IntelWant, OcspWant, RimWant, Want
from teehouse.session.errors import Unreachable
from teehouse_core.errors import MalformedError
from teehouse_core.evidence.amdcert import AmdCertificate, parse_certificate
from teehouse_core.evidence.collateral import IntelCollateral
from teehouse_core.evidence.jsontext import load_object
from teehouse_core.evidence.x509fields import pem_certificates

__all__ = ["Fetched", "Fetcher", "Sources"]

MAX_ANSWER: Final = 8 * 1024 * 1024  # bytes; a driver RIM is about 400 KiB
TIMEOUT: Final = 20.0  # seconds of silence in one request
PATIENCE: Final = 3  # times TIMEOUT, for one whole request: a source that drips must end too
_LABEL: Final = re.compile(r"[^A-Za-z0-9_.-]+")
_PRODUCT: Final = re.compile(r"[A-Za-z]{1,16}")
_RIM_ID: Final = re.compile(r"[A-Za-z0-9_.-]{1,128}")


@dataclass(frozen=True, slots=True)
class Sources:
    """Base addresses without a slash at the end."""

    intel: str = "https://api.trustedservices.intel.com"
    intel_root_crl: str = "https://certificates.trustedservices.intel.com/IntelSGXRootCA.der"
    amd: str = "https://kdsintf.amd.com"
    rim: str = "https://rim.attestation.nvidia.com"
    ocsp: str = "https://ocsp.ndis.nvidia.com"


@dataclass(frozen=True, slots=True)
class Fetched:
    """One file of a pack, and where it came from."""

    name: str
    data: bytes
    source: str


class Fetcher:
    """Asks the sources; raises `Unreachable` when one does not answer with 200, `MalformedError` for odd answers."""

    def __init__(self, client: httpx2.Client, sources: Sources, timeout: float = TIMEOUT) -> None:
        self._client = client
        self._sources = sources
        self._timeout = timeout

    def of(self, want: Want) -> list[Fetched]:
        """The files of one want."""
        if isinstance(want, IntelWant):
            return self.intel(want)
        if isinstance(want, AmdWant):
            return self.amd(want)
        return self.rim(want) if isinstance(want, RimWant) else self.ocsp(want)

    def intel(self, want: IntelWant) -> list[Fetched]:
        """The nine members that a quote of this machine type is appraised with, as one file."""
        base = self._sources.intel
        tcb_url = f"{base}/{want.tee}/certification/v4/tcb?fmspc={want.fmspc}"
        tcb = self._get(tcb_url)
        identity = self._get(f"{base}/{want.tee}/certification/v4/qe/identity")
        crl = self._get(f"{base}/sgx/certification/v4/pckcrl?ca={want.ca}&encoding=der")
        root = self._get(self._sources.intel_root_crl)
        tcb_text, tcb_signature = _signed(tcb.content, "tcbInfo")
        qe_text, qe_signature = _signed(identity.content, "enclaveIdentity")
        collateral = IntelCollateral(
            pck_crl_issuer_chain=_chain(crl, "SGX-PCK-CRL-Issuer-Chain"),
            root_ca_crl=_hex_or_der(root.content),
            pck_crl=_hex_or_der(crl.content),
            tcb_info_issuer_chain=_chain(tcb, "TCB-Info-Issuer-Chain", "SGX-TCB-Info-Issuer-Chain"),
            tcb_info=tcb_text,
            tcb_info_signature=tcb_signature,
            qe_identity_issuer_chain=_chain(identity, "SGX-Enclave-Identity-Issuer-Chain"),
            qe_identity=qe_text,
            qe_identity_signature=qe_signature,
        )
        IntelCollateral.parse(collateral.to_dict())  # what no reader would take is not stored
        return [Fetched(f"intel/{want.tee}-{want.fmspc}.json", collateral.to_json().encode("ascii"), tcb_url)]

    def amd(self, want: AmdWant) -> list[Fetched]:
        """The product's chain and CRL, and the VCEK where the report names it."""
        if not _PRODUCT.fullmatch(want.product):
            raise MalformedError("not a product line", code="product")
        base = f"{self._sources.amd}/vcek/v1/{want.product}"
        found = []
        if want.vcek is not None:
            url = f"{self._sources.amd}{want.vcek}"
            name = want.vcek.partition("?")[0].rsplit("/", 1)[-1][:32]
            data = _formed(self._get(url), parse_certificate, "certificate")
            found.append(Fetched(f"amd/{want.product}-vcek-{name}.der", data, url))
        chain = _formed(self._get(f"{base}/cert_chain"), _pem_chain, "certificate chain")
        found.append(Fetched(f"amd/{want.product}-chain.pem", chain, f"{base}/cert_chain"))
        crl = _formed(self._get(f"{base}/crl"), x509.load_der_x509_crl, "revocation list")
        found.append(Fetched(f"amd/{want.product}-crl.der", crl, f"{base}/crl"))
        return found

    def rim(self, want: RimWant) -> list[Fetched]:
        """One manifest."""
        if not _RIM_ID.fullmatch(want.id):
            raise MalformedError("not a name of a RIM", code="rim-name")
        url = f"{self._sources.rim}/v1/rim/{want.id}"
        value = load_object(self._get(url).content, limit=MAX_ANSWER, what="RIM answer")
        text = value.get("rim")
        try:
            data = base64.b64decode(text, validate=True) if isinstance(text, str) else b""
        except (ValueError, binascii.Error):
            data = b""
        if not data:
            raise MalformedError("the RIM service's answer holds no manifest", code="rim-answer")
        return [Fetched(f"nvidia/{want.id}.xml", data, url)]

    def ocsp(self, want: OcspWant) -> list[Fetched]:
        """The signed status of one certificate, to be stapled; it must be about that certificate."""
        url = self._sources.ocsp
        builder = ocsp.OCSPRequestBuilder().add_certificate(want.certificate, want.issuer, hashes.SHA384())
        answer = self._send("POST", url, builder.build().public_bytes(Encoding.DER))
        data = _formed(answer, ocsp.load_der_ocsp_response, "OCSP response")
        response = ocsp.load_der_ocsp_response(data)
        if response.response_status is not ocsp.OCSPResponseStatus.SUCCESSFUL:
            reason = response.response_status.name.lower().replace("_", " ")
            raise Unreachable(f"{url} does not answer for {want.name}: {reason}", code="no-answer")
        if [single.serial_number for single in response.responses] != [want.certificate.serial_number]:
            raise MalformedError(f"{url} answers for another certificate than {want.name}", code="ocsp-answer")
        return [Fetched(f"nvidia/ocsp-{_LABEL.sub('-', want.name)[:96]}.der", data, url)]

    def _get(self, url: str) -> httpx2.Response:
        return self._send("GET", url, None)

    def _send(self, method: str, url: str, body: bytes | None) -> httpx2.Response:
        headers = {"Accept-Encoding": "identity"}
        if body is not None:
            headers |= {"Content-Type": "application/ocsp-request", "Accept": "application/ocsp-response"}
        end = time.monotonic() + PATIENCE * self._timeout
        try:
            with self._client.stream(method, url, content=body, headers=headers, timeout=self._timeout) as answer:
                if answer.status_code != 200:
                    raise Unreachable(f"{url} answers with status {answer.status_code}", code="unreachable")
                if answer.headers.get("content-encoding", "identity").lower() != "identity":
                    raise MalformedError(f"{url} sends packed bytes that nobody asked for", code="content-encoding")
                data = bytearray()
                for piece in answer.iter_raw():
                    data += piece
                    if len(data) > MAX_ANSWER:
                        raise MalformedError(f"{url} answers with more than {MAX_ANSWER} bytes", code="too-large")
                    if time.monotonic() > end:
                        raise Unreachable(f"{url} takes too long to answer", code="unreachable")
                return httpx2.Response(200, headers=_plain(answer.headers), content=bytes(data))
        except httpx2.HTTPError as error:
            raise Unreachable(f"{url} does not answer: {type(error).__name__}", code="unreachable") from None


def _formed(answer: httpx2.Response, load: Callable[[bytes], object], what: str) -> bytes:
    try:
        load(answer.content)
    except Exception:  # certificate libraries raise more than ValueError on hostile bytes
        raise MalformedError(f"an answer is no {what}", code="collateral") from None
    return answer.content


def _pem_chain(data: bytes) -> list[AmdCertificate]:
    # AMD's certificates with serial number 0 are ones that the library will not load for ever.
    found = [parse_certificate(der) for der in pem_certificates(data.decode("ascii"))]
    if not found:
        raise MalformedError("no certificate", code="collateral")
    return found


def _plain(headers: httpx2.Headers) -> list[tuple[str, str]]:
    return [(k, v) for k, v in headers.items() if k.lower() not in ("content-encoding", "content-length")]


def _chain(answer: httpx2.Response, *names: str) -> str:
    for name in names:
        if value := answer.headers.get(name):
            return unquote(value)
    raise MalformedError(f"an answer lacks the header {names[0]}", code="collateral")


def _signed(data: bytes, member: str) -> tuple[str, bytes]:
    """The exact text under the signature, cut out of the answer, never written anew."""
    head, middle = f'{{"{member}":'.encode(), b',"signature":"'
    at = data.rfind(middle)
    if not data.startswith(head) or at < 0 or not data.rstrip().endswith(b'"}'):
        raise MalformedError(f"the answer is not a signed {member}", code="collateral")
    try:
        text = data[len(head) : at].decode("ascii")
        json.loads(text)
        return text, bytes.fromhex(data[at + len(middle) :].rstrip()[:-2].decode("ascii"))
    except ValueError:
        raise MalformedError(f"the answer is not a signed {member}", code="collateral") from None


def _hex_or_der(data: bytes) -> bytes:
    """DER; some caching services send it as hex."""
    if data[:1] == b"\x30" and not data.isalnum():
        return data
    try:
        return bytes.fromhex(data.decode("ascii").strip())
    except ValueError:
        return data
