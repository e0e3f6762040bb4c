# SPDX-License-Identifier: Apache-2.0
"""Confidential-computing evidence of this machine's NVIDIA GPUs, through NVML (extra `teehouse-enclave[nvml]`).

Each report carries the node's nonce, so it speaks for this keyset and this challenge. NVSwitches are asked through
NVIDIA's NSCQ, a C library without a Python binding: their evidence is not collected here.
"""

from __future__ import annotations

import importlib
from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from teehouse_core.errors import LocalError, OperatorError
from teehouse_core.evidence.bundle import device_entry
from teehouse_core.wire import binding

__all__ = ["CollectedDevice", "NvmlDevices"]

NONCE: Final = 32  # bytes
MAX_DEVICES: Final = 64
_ARCHITECTURES: Final = {9: "HOPPER", 10: "BLACKWELL"}

CollectedDevice = tuple[int, bytes, bytes, dict[str, str]]
"""Type, report and DER chain as the devices digest takes them, and the bundle's member."""


class NvmlDevices:
    """The GPUs of this machine. `nvml` is the module `pynvml`, or a test's fake of the library."""

    def __init__(self, nvml: Any = None) -> None:
        if nvml is None:
            try:
                nvml = importlib.import_module("pynvml")
            except ImportError as error:
                hint = "pip install 'teehouse-enclave[nvml]'"
                raise LocalError("the GPU library is not installed", code="nvml-missing", hint=hint) from error
        self._nvml = nvml
        try:
            nvml.nvmlInit()
            state = nvml.nvmlSystemGetConfComputeState()
        except nvml.NVMLError as error:
            raise LocalError(f"the GPU driver refuses: {error}", code="nvml") from error
        if not state.ccFeature:
            hint = "the GPU must run in confidential-computing mode, which the host sets before the guest starts"
            raise LocalError("confidential computing is off on the GPU", code="nvml-cc-off", hint=hint)
        if state.devToolsMode:
            raise LocalError("the GPU runs in devtools mode, in which its memory can be read", code="nvml-devtools")

    def collect(self, nonce: bytes) -> list[CollectedDevice]:
        """One entry per GPU over 32 bytes. Raises `OperatorError` (`nvml`) when a GPU gives no report."""
        if len(nonce) != NONCE:
            raise LocalError(f"a device nonce has {NONCE} bytes", code="nonce-size")
        nvml = self._nvml
        try:
            count = nvml.nvmlDeviceGetCount()
            if count > MAX_DEVICES:
                raise LocalError(f"{count} GPUs are more than a bundle carries", code="nvml-count")
            return [self._one(nvml.nvmlDeviceGetHandleByIndex(index), nonce) for index in range(count)]
        except nvml.NVMLError as error:
            raise OperatorError(f"a GPU gives no report: {error}", code="nvml") from error

    def _one(self, handle: Any, nonce: bytes) -> CollectedDevice:
        nvml = self._nvml
        found = nvml.nvmlDeviceGetConfComputeGpuAttestationReport(handle, nonce)
        report = bytes(found.attestationReport)[: found.attestationReportSize]
        chain = nvml.nvmlDeviceGetConfComputeGpuCertificate(handle)
        pem = bytes(chain.attestationCertChain)[: chain.attestationCertChainSize].rstrip(b"\0")
        arch = _ARCHITECTURES.get(nvml.nvmlDeviceGetArchitecture(handle), "UNKNOWN")
        try:
            der = b"".join(c.public_bytes(Encoding.DER) for c in x509.load_pem_x509_certificates(pem))
        except ValueError as error:
            raise OperatorError("a GPU's certificate chain does not parse", code="nvml") from error
        entry = device_entry("nvidia-gpu", arch, report, pem.decode("ascii"))
        return binding.GPU, report, der, entry
