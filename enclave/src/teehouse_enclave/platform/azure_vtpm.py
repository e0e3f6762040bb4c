# SPDX-License-Identifier: Apache-2.0
"""An Azure confidential machine: no report of the chip is to be had directly, so the vTPM speaks, and the chip for it.

Source: kinvolk/azure-cvm-tooling, the only public description. The paravisor leaves its HCL report in NV 0x01400001 and
the key whose public half that report names at 0x81000003. A TD quote, or the VCEK, comes from the machine's metadata
service on a link-local address.
"""

from __future__ import annotations

import base64
import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import httpx2

from teehouse_core.errors import LocalError, OperatorError, TeehouseError
from teehouse_core.evidence import tpm as form
from teehouse_core.evidence.amd_collateral import AmdCollateral, certificates_of
from teehouse_core.evidence.hcl import HclReport, parse_hcl
from teehouse_core.evidence.jsontext import b64_text
from teehouse_enclave.platform.base import PlatformEvidence
from teehouse_enclave.platform.tpm import DEVICE, as_pem, quote_evidence, read_log, require_unused_register
from teehouse_enclave.platform.tpm2 import Tpm, TpmError, Transport, open_transport
from teehouse_enclave.platform.workload import CollateralFile, WorkloadLog, check_report_data

__all__ = ["AZURE_ASSET_TAG", "AzureVtpmPlatform", "Fetch", "is_azure"]

HCL_INDEX: Final = 0x0140_0001
AK_HANDLE: Final = 0x8100_0003
AK_CERTIFICATE_INDEX: Final = 0x01C1_01D0
ASSET_TAG: Final = "sys/class/dmi/id/chassis_asset_tag"  # under the root
AZURE_ASSET_TAG: Final = "7783-7084-3265-9085-8269-3286-77"  # the same on every Azure machine

METADATA: Final = "http://169.254.169.254"  # link-local, plain by its nature; what it gives is signed by the chip maker
TD_QUOTE: Final = f"{METADATA}/acc/tdquote"
VCEK: Final = f"{METADATA}/metadata/THIM/amd/certification"
TIMEOUT: Final = 30.0  # seconds
MAX_ANSWER: Final = 256 * 1024  # bytes of one answer

Fetch = Callable[[str, bytes | None], bytes]
"""GET a metadata address, or POST JSON to it; the body of a 200 answer."""


def is_azure(root: str) -> bool:
    """Whether the machine's chassis says that Azure built it."""
    try:
        return (Path(root) / ASSET_TAG).read_text("ascii", "replace").strip() == AZURE_ASSET_TAG
    except OSError:
        return False


class AzureVtpmPlatform:
    """Implements `Platform`; its type is `az-snp-vtpm` or `az-tdx-vtpm`, as the HCL report says."""

    def __init__(
        self,
        root: str = "/",
        *,
        collateral: str | None = None,
        transport: Transport | None = None,
        fetch: Fetch | None = None,
    ) -> None:
        self._root = Path(root)
        self._tpm = Tpm(transport or open_transport(str(self._root / DEVICE)))
        self._fetch = fetch or _fetch
        self._collateral = CollateralFile(collateral)
        self._log = WorkloadLog()
        try:
            self._hcl = self._tpm.nv_read(HCL_INDEX)
            self.type = f"az-{'snp' if self._report().kind == 'sev-snp' else 'tdx'}-vtpm"
            require_unused_register(self._tpm)
        except BaseException:
            self._tpm.close()
            raise
        self._chip: dict[str, str] | None = None
        self._amd: dict[str, str] | None = None

    def extend(self, event: str, content: bytes) -> None:
        """Append to the log and extend PCR 15 of every bank with the digest's hash."""
        self._tpm.pcr_event(form.WORKLOAD_PCR, self._log.add(event, content))

    def workload_log(self) -> list[dict[str, str]]:
        return self._log.entries()

    def collect(self, report_data: bytes) -> PlatformEvidence:
        """A quote by the HCL's key, the HCL report, and the chip's own evidence for it."""
        check_report_data(report_data)
        raw, aux = quote_evidence(self._tpm, AK_HANDLE, report_data)
        collateral: dict[str, Any] = dict(self._collateral.load())
        if self._chip is None:
            self._chip = self._ask_chip()  # the same at each question: it speaks for the key, not for the nonce
        if self._amd is not None and "amd" not in collateral:
            collateral["amd"] = self._amd
        return PlatformEvidence(
            report=raw, event_log=read_log(self._root), aux={**aux, **self._chip}, collateral=collateral
        )

    def close(self) -> None:
        """Let go of the device; the key is persistent and stays."""
        self._tpm.close()

    def _report(self) -> HclReport:
        try:
            return parse_hcl(self._hcl)
        except TeehouseError as error:
            raise LocalError(f"the machine's HCL report does not parse: {error.message}", code="hcl") from error

    def _ask_chip(self) -> dict[str, str]:
        report, aux = self._report(), {"hcl": b64_text(self._hcl)}
        with contextlib.suppress(TpmError):  # older machines have none; the HCL report names the key all the same
            aux["ak_chain"] = as_pem(self._tpm.nv_read(AK_CERTIFICATE_INDEX))
        if report.kind == "tdx":
            # The service turns the TD report into a quote; whatever else it did would not verify.
            question = json.dumps({"report": _b64u(report.tee_report)}).encode("ascii")
            answer = _object(self._fetch(TD_QUOTE, question))
            aux["td_quote"] = b64_text(_unb64u(answer.get("quote")))
        else:
            answer = _object(self._fetch(VCEK, None))
            pem = f"{answer.get('vcekCert', '')}{answer.get('certificateChain', '')}"
            first, *rest = certificates_of(pem.encode("utf-8"))
            self._amd = AmdCollateral(first, tuple(rest)).to_dict()
        return aux


def _fetch(address: str, body: bytes | None) -> bytes:
    headers = {"Metadata": "true", "Content-Type": "application/json"}
    try:
        with httpx2.Client(timeout=TIMEOUT, trust_env=False, follow_redirects=False) as client:
            answer = client.request("GET" if body is None else "POST", address, headers=headers, content=body)
    except httpx2.HTTPError as error:
        raise OperatorError("the machine's metadata service does not answer", code="metadata") from error
    if answer.status_code != 200 or len(answer.content) > MAX_ANSWER:
        raise OperatorError(f"the machine's metadata service answers {answer.status_code}", code="metadata")
    return answer.content


def _object(raw: bytes) -> dict[str, Any]:
    try:
        value = json.loads(raw)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise OperatorError("the machine's metadata service answers no object", code="metadata")
    return value


def _b64u(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode("ascii").rstrip("=")


def _unb64u(text: Any) -> bytes:
    if not isinstance(text, str):
        raise OperatorError("the machine's metadata service gives no quote", code="metadata")
    try:
        return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except ValueError:
        raise OperatorError("the machine's metadata service gives no quote", code="metadata") from None
