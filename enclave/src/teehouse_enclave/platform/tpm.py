# SPDX-License-Identifier: Apache-2.0
"""A TPM 2.0 without a TEE underneath: measured boot, and the host is trusted. Its evidence has the tier `vtpm`.

The workload log goes into PCR 15, which must be zero at start: what somebody else measured there before would make
every report unreadable. The attestation key is a primary key of the endorsement hierarchy, so it stays the same from
start to start and a policy can name it; Google's virtual machines bring a template and a certificate for it.
"""

from __future__ import annotations

import contextlib
import hashlib
from pathlib import Path
from typing import Final

from teehouse_core.errors import LocalError, OperatorError, TeehouseError
from teehouse_core.evidence import tpm as form
from teehouse_core.evidence.jsontext import b64_text
from teehouse_enclave.platform.base import PlatformEvidence
from teehouse_enclave.platform.tpm2 import AK_TEMPLATE, RH_ENDORSEMENT, Tpm, TpmError, Transport, open_transport
from teehouse_enclave.platform.workload import WorkloadLog, check_report_data

__all__ = ["DEVICE", "EVENT_LOG", "QUOTED", "TpmPlatform", "as_pem", "quote_evidence", "read_log"]
__all__ += ["require_unused_register"]

DEVICE: Final = "dev/tpmrm0"  # under the root: the kernel's resource manager, or a socket in a test
EVENT_LOG: Final = "sys/kernel/security/tpm0/binary_bios_measurements"
QUOTED: Final = (*range(10), *range(11, 16))
"""Registers in every quote: all that cannot be reset, without PCR 10, which the kernel's own measurements (IMA) move
at any moment."""
MAX_LOG: Final = 4 * 1024 * 1024  # bytes of the firmware's log
ATTEMPTS: Final = 5  # times that registers may move between reading and quoting them
GCE_CERTIFICATE: Final = 0x01C1_0002  # NV indices of Google Compute Engine, ECC (go-tpm-tools client/handles.go)
GCE_TEMPLATE: Final = 0x01C1_0003


class TpmPlatform:
    """Implements `Platform` over `root`/dev/tpmrm0. `transport` replaces the device, `ak_chain` is PEM or DER."""

    type = "tpm"

    def __init__(self, root: str = "/", *, transport: Transport | None = None, ak_chain: bytes | None = None) -> None:
        self._root = Path(root)
        self._tpm = Tpm(transport or open_transport(str(self._root / DEVICE)))
        self._log = WorkloadLog()
        try:
            require_unused_register(self._tpm)
            self._key, self._public, self._chain = self._make_key(ak_chain)
        except BaseException:
            self._tpm.close()
            raise

    @property
    def attestation_key_sha256(self) -> str:
        """How a policy names this machine's key (`tpm.attestation_keys`)."""
        return form.spki_sha256(form.parse_public(self._public).key)

    def extend(self, event: str, content: bytes) -> None:
        """Append to the log and extend PCR 15 of every bank with the digest's hash."""
        self._tpm.pcr_event(form.WORKLOAD_PCR, self._log.add(event, content))

    def workload_log(self) -> list[dict[str, str]]:
        return self._log.entries()

    def collect(self, report_data: bytes) -> PlatformEvidence:
        """A quote over SHA-256(report data), with its registers, key and firmware log."""
        check_report_data(report_data)
        evidence, aux = quote_evidence(self._tpm, self._key, report_data)
        aux["ak"] = b64_text(self._public)
        if self._chain is not None:
            aux["ak_chain"] = self._chain
        return PlatformEvidence(report=evidence, event_log=read_log(self._root), aux=aux)

    def close(self) -> None:
        """Free the key and the device; a machine without a resource manager would run out of places."""
        with contextlib.suppress(TeehouseError):
            self._tpm.flush(self._key)
        self._tpm.close()

    def _make_key(self, ak_chain: bytes | None) -> tuple[int, bytes, str | None]:
        if ak_chain is not None:
            handle, public = self._tpm.create_primary(RH_ENDORSEMENT)
            return handle, public, as_pem(ak_chain)
        try:
            template, certificate = self._tpm.nv_read(GCE_TEMPLATE), self._tpm.nv_read(GCE_CERTIFICATE)
        except TpmError:
            handle, public = self._tpm.create_primary(RH_ENDORSEMENT, AK_TEMPLATE)
            return handle, public, None
        handle, public = self._tpm.create_primary(RH_ENDORSEMENT, template)
        return handle, public, as_pem(certificate)


def require_unused_register(tpm: Tpm) -> None:
    """Raises `LocalError` (`tpm-register`) when somebody measured into PCR 15 before."""
    if tpm.pcr_read((form.WORKLOAD_PCR,))[form.WORKLOAD_PCR] != bytes(32):
        hint = "restart the machine: a register starts at zero only then, and one node measures into it once"
        raise LocalError(f"PCR {form.WORKLOAD_PCR} is in use already", code="tpm-register", hint=hint)


def quote_evidence(tpm: Tpm, key: int, report_data: bytes) -> tuple[bytes, dict[str, str]]:
    """TPMS_ATTEST, and the `aux` members that every quote needs. Raises `OperatorError` (`tpm-registers`)."""
    wanted = hashlib.sha256(report_data).digest()
    for _ in range(ATTEMPTS):
        values = {"sha256": tpm.pcr_read(QUOTED)}
        raw, signature = tpm.quote(key, wanted, QUOTED)
        quote = form.parse_quote(raw)
        # A register may move between the two commands; a Verifier would then refuse values that nobody quoted.
        if form.pcr_digest(quote.selections, values, form.parse_signature(signature).hash) == quote.pcr_digest:
            return raw, {"signature": b64_text(signature), "pcrs": form.encode_pcrs(values)}
    raise OperatorError("the TPM's registers do not hold still", code="tpm-registers")


def read_log(root: Path) -> bytes | None:
    """The firmware's event log, or None where the kernel offers none (securityfs not mounted, or no permission)."""
    try:
        data = (root / EVENT_LOG).read_bytes()
    except OSError:
        return None
    return data if 0 < len(data) <= MAX_LOG else None


def as_pem(certificates: bytes) -> str:
    """Certificates as the text that `aux` carries; DER from an NV index keeps its padding, which Verifiers note."""
    if b"-----BEGIN" in certificates:
        return certificates.decode("ascii", "replace")
    text = b64_text(certificates)
    lines = "\n".join(text[i : i + 64] for i in range(0, len(text), 64))
    return f"-----BEGIN CERTIFICATE-----\n{lines}\n-----END CERTIFICATE-----\n"
