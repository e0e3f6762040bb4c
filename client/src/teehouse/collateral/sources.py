# SPDX-License-Identifier: Apache-2.0
"""The vendors' services over HTTP: Intel PCS v4 (or a PCCS), AMD KDS, NVIDIA RIM and OCSP. Addresses are settings.

What comes is stored as it came and verified by nobody here; whoever appraises with it checks every signature and date.
Bounded: each answer has a size limit, each request a time limit, redirects are not followed.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final
from urllib.parse import unquote

import httpx2
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp

from teehouse.collateral.wanted import AmdWant, IntelWant, RimWant, Want
from teehouse.session.errors import Unreachable
from teehouse_core.errors import MalformedError
from teehouse_core.evidence.collateral import IntelCollateral
from teehouse_core.evidence.jsontext import load_object

__all__ = ["Fetched", "Fetcher", "Sources"]

MAX_ANSWER: Final = 8 * 1024 * 1024  # bytes; a driver RIM is about 400 KiB
TIMEOUT: Final = 20.0  # seconds for one request
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

    def __init__(self, client: httpx2.Client, sources: Sources) -> None:
        self._client = client
        self._sources = sources

    def of(self, want: Want) -> list[Fetched]:
        """The files of one want."""
        if isinstance(want, IntelWant):
            return self.intel(want)
        return self.amd(want) if isinstance(want, AmdWant) else self.rim(want)

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
            found.append(Fetched(f"amd/{want.product}-vcek-{name}.der", self._get(url).content, url))
        for name, path in (("chain.pem", "cert_chain"), ("crl.der", "crl")):
            url = f"{base}/{path}"
            found.append(Fetched(f"amd/{want.product}-{name}", self._get(url).content, url))
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

    def ocsp(self, chain: Sequence[x509.Certificate], label: str) -> list[Fetched]:
        """Signed statuses of every certificate of `chain` (leaf first) but the root, to be stapled."""
        found = []
        for number in range(len(chain) - 1):
            builder = ocsp.OCSPRequestBuilder().add_certificate(chain[number], chain[number + 1], hashes.SHA384())
            body = builder.build().public_bytes(Encoding.DER)
            answer = self._send("POST", self._sources.ocsp, body)
            found.append(Fetched(f"nvidia/{label}-ocsp-{number}.der", answer.content, self._sources.ocsp))
        return found

    def _get(self, url: str) -> httpx2.Response:
        return self._send("GET", url, None)

    def _send(self, method: str, url: str, body: bytes | None) -> httpx2.Response:
        headers = {"Content-Type": "application/ocsp-request"} if body is not None else {}
        try:
            with self._client.stream(method, url, content=body, headers=headers, timeout=TIMEOUT) as answer:
                if answer.status_code != 200:
                    raise Unreachable(f"{url} answers with status {answer.status_code}", code="unreachable")
                data = bytearray()
                for piece in answer.iter_bytes():
                    data += piece
                    if len(data) > MAX_ANSWER:
                        raise MalformedError(f"{url} answers with more than {MAX_ANSWER} bytes", code="too-large")
                return httpx2.Response(200, headers=_plain(answer.headers), content=bytes(data))
        except httpx2.HTTPError as error:
            raise Unreachable(f"{url} does not answer: {type(error).__name__}", code="unreachable") from None


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
