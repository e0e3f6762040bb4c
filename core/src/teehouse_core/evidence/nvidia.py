# SPDX-License-Identifier: Apache-2.0
"""Parse the attestation report of an NVIDIA GPU or NVSwitch into frozen values.

A report is the SPDM 1.1 request GET_MEASUREMENTS (37 bytes) followed by its response MEASUREMENTS (DMTF DSP0274): the
measurement blocks, the responder's nonce, NVIDIA's opaque data and an ECDSA P-384 signature over everything before it.
The same form serves Hopper, Blackwell and LS10 switches; they differ in the number of blocks and in the opaque fields.
This module checks shape only; it verifies no signature and believes nothing it reads (`appraise.checks_nvidia`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

from teehouse_core.errors import MalformedError
from teehouse_core.evidence.fields import Field

__all__ = [
    "MAX_REPORT",
    "REQUEST_SIZE",
    "SIGNATURE_SIZE",
    "GpuReport",
    "Measurement",
    "Opaque",
    "fields",
    "parse_report",
]

MAX_REPORT: Final = 64 * 1024  # bytes; the largest genuine report seen has 4,274
REQUEST_SIZE: Final = 37  # bytes: four of header, 32 of nonce, one of slot
NONCE_SIZE: Final = 32  # bytes
SIGNATURE_SIZE: Final = 96  # bytes, raw r ‖ s over P-384
DIGEST_SIZE: Final = 48  # bytes, SHA-384
MAX_BLOCKS: Final = 128  # measurement blocks; GPUs have 64, LS10 switches 31
MAX_OPAQUE: Final = 4096  # bytes; genuine ones are under 600

SPDM_VERSION: Final = 0x11  # 1.1
GET_MEASUREMENTS: Final = 0xE0
MEASUREMENTS: Final = 0x60
SIGNED: Final = 0x01  # request attribute: sign the response
ALL_BLOCKS: Final = 0xFF
MAX_SLOT: Final = 7  # SPDM has eight certificate slots
DMTF_FORMAT: Final = 0x01  # measurement specification of a block
PDI_SIZE: Final = 8  # bytes of a per-device identifier
SWITCH_GPUS: Final = 8  # GPU identifiers at the start of an LS10's topology; a port map follows
COUNT_SIZE: Final = 4  # bytes of one counter


class Opaque:
    """Types of NVIDIA's opaque fields, by number; `NAMES` has every published one."""

    DRIVER_VERSION: Final = 3
    VBIOS_VERSION: Final = 6
    NVDEC0_STATUS: Final = 11
    BOARD_ID: Final = 14
    CHIP_SKU: Final = 15
    PROJECT: Final = 17
    PROJECT_SKU: Final = 18
    FWID: Final = 20
    PPCIE_STATUS: Final = 21
    PDI: Final = 22  # on a GPU: the switch at each link; on a switch: its own
    LOCK_STATUS: Final = 25
    SWITCH_GPU_PDIS: Final = 26
    DATA_VERSION: Final = 34
    CHIP_INFO: Final = 35
    FEATURE_FLAG: Final = 36

    NAMES: Final[Mapping[int, str]] = MappingProxyType(
        {
            1: "cert_issuer_name",
            2: "cert_authority_key_identifier",
            3: "driver_version",
            4: "gpu_info",
            5: "sku",
            6: "vbios_version",
            7: "manufacturer_id",
            8: "tamper_detection",
            9: "smc",
            10: "vpr",
            11: "nvdec0_status",
            12: "measurement_counts",
            13: "cpr_info",
            14: "board_id",
            15: "chip_sku",
            16: "chip_sku_mod",
            17: "project",
            18: "project_sku",
            19: "project_sku_mod",
            20: "fwid",
            21: "protected_pcie_status",
            22: "pdi",
            23: "floorswept_ports",
            24: "position_id",
            25: "switch_lock_status",
            26: "switch_gpu_pdis",
            32: "gpu_link_conn",
            33: "sys_enable_status",
            34: "opaque_data_version",
            35: "chip_info",
            36: "feature_flag",
        }
    )


_TEXTS: Final = frozenset({3, 15, 16, 17, 18, 19, 35})  # NUL-terminated ASCII
NVDEC0_DISABLED: Final = 0x55
PPCIE_ON, PPCIE_OFF = 0xAA, 0x55
LOCKED: Final = 1
_MODES: Final = {0: "SPT", 1: "MPT", 2: "PPCIE"}  # feature flag: single or multi-GPU passthrough, protected PCIe


@dataclass(frozen=True, slots=True)
class Measurement:
    """One block: `index` from 1 on, `kind` the DMTF value type, `digest` 48 bytes, `start` its offset in the report."""

    index: int
    kind: int
    digest: bytes
    start: int


@dataclass(frozen=True, slots=True)
class GpuReport:
    """One whole report. `opaque` maps a field's number to its bytes; the properties read the ones that checks need."""

    raw: bytes = field(repr=False)
    request_nonce: bytes  # 32, the caller's
    slot: int
    measurements: tuple[Measurement, ...] = field(repr=False)
    response_nonce: bytes  # 32, the device's own
    opaque: Mapping[int, bytes] = field(repr=False)
    signature: bytes = field(repr=False)  # 96, r ‖ s

    @property
    def signed(self) -> bytes:
        """What the signature covers: request and response up to the signature."""
        return self.raw[:-SIGNATURE_SIZE]

    @property
    def driver_version(self) -> str | None:
        """For example `590.48.01`; None on a switch. Raises `MalformedError` when it is no text."""
        return self.text(Opaque.DRIVER_VERSION)

    @property
    def vbios_version(self) -> str | None:
        """For example `96.00.5E.00.01`: five bytes on a GPU (`00 5e 00 96 01 …`), the text itself on a switch."""
        value = self.opaque.get(Opaque.VBIOS_VERSION)
        if value is None:
            return None
        if len(value) == 8 and not any(value[5:]):
            return ".".join(f"{byte:02X}" for byte in (value[3], value[2], value[1], value[0], value[4]))
        return _text(value).upper()

    @property
    def mode(self) -> str:
        """`SPT`, `MPT`, `PPCIE`, or `unreported` by drivers that do not say. Raises `MalformedError` for another flag.

        Drivers before the feature flag say it in the protected-PCIe status alone.
        """
        flag, status = self.number(Opaque.FEATURE_FLAG), self.ppcie
        if flag is not None:
            if flag not in _MODES:
                raise MalformedError(f"unknown feature flag {flag}", code="gpu-mode")
            return _MODES[flag]
        return "unreported" if status is None else "PPCIE" if status else "SPT"

    @property
    def ppcie(self) -> bool | None:
        """Whether protected PCIe is on, None when the report does not say. Raises `MalformedError` otherwise."""
        status = self.number(Opaque.PPCIE_STATUS)
        if status not in (None, PPCIE_ON, PPCIE_OFF):
            raise MalformedError(f"unknown protected-PCIe status {status:#x}", code="gpu-mode")
        return None if status is None else status == PPCIE_ON

    @property
    def nvdec0_disabled(self) -> bool:
        return self.number(Opaque.NVDEC0_STATUS) == NVDEC0_DISABLED

    @property
    def link_switches(self) -> tuple[bytes, ...]:
        """On a GPU: the identifiers of the switches at its links, in a switch's own byte order, unused links left out.

        A GPU writes them in the other byte order than the switches do.
        """
        return tuple(pdi[::-1] for pdi in _pdis(self.opaque.get(Opaque.PDI, b"")) if any(pdi))

    @property
    def own_pdi(self) -> bytes | None:
        """On a switch: its own identifier, 8 bytes."""
        value = self.opaque.get(Opaque.PDI)
        return value if value is not None and len(value) == PDI_SIZE else None

    @property
    def switch_gpus(self) -> tuple[bytes, ...]:
        """On a switch: the identifiers of the GPUs behind its ports, unused entries left out."""
        value = self.opaque.get(Opaque.SWITCH_GPU_PDIS, b"")[: SWITCH_GPUS * PDI_SIZE]
        return tuple(pdi for pdi in _pdis(value) if any(pdi) and pdi != b"\xff" * PDI_SIZE)

    def text(self, number: int) -> str | None:
        """An opaque text without its NULs. Raises `MalformedError` (`gpu-opaque`) when it is not printable ASCII."""
        value = self.opaque.get(number)
        return None if value is None else _text(value)

    def number(self, number: int) -> int | None:
        """An opaque number of one or two bytes, little-endian. Raises `MalformedError` (`gpu-opaque`)."""
        value = self.opaque.get(number)
        if value is None:
            return None
        if not 1 <= len(value) <= 2:
            raise MalformedError(f"opaque field {number} is no small number", code="gpu-opaque")
        return int.from_bytes(value, "little")

    def measurement(self, index: int) -> bytes | None:
        """The digest of block `index` (from 1 on), or None when there is no such block."""
        return self.measurements[index - 1].digest if 1 <= index <= len(self.measurements) else None


def parse_report(data: bytes) -> GpuReport:
    """Parse one report; every byte belongs to a field, indices run from 1 without a gap, no opaque field stands twice.

    Verifies nothing. Raises `MalformedError` (codes `gpu-too-large`, `gpu-truncated`, `gpu-trailing-bytes`,
    `gpu-request`, `gpu-response`, `gpu-block`, `gpu-opaque`).
    """
    return _parse(data, None)


def fields(raw: bytes) -> list[Field]:
    """Every field of a report with its byte range, in order. Raises `MalformedError` as `parse_report` does."""
    found: list[Field] = []
    _parse(raw, found)
    return found


def _parse(data: bytes, found: list[Field] | None) -> GpuReport:
    if len(data) > MAX_REPORT:
        raise MalformedError(f"report is larger than {MAX_REPORT} bytes", code="gpu-too-large")
    r = _Cursor(data, found)
    head = (r.uint(1, "request.version"), r.uint(1, "request.code"), r.uint(1, "request.param1"))
    if (*head, r.uint(1, "request.param2")) != (SPDM_VERSION, GET_MEASUREMENTS, SIGNED, ALL_BLOCKS):
        hint = "a report starts with the SPDM 1.1 request for all measurements, signed (11 e0 01 ff)"
        raise MalformedError("not an SPDM 1.1 GET_MEASUREMENTS request", code="gpu-request", hint=hint)
    request_nonce = r.take(NONCE_SIZE, "request.nonce")
    if (slot := r.uint(1, "request.slot")) > MAX_SLOT:
        raise MalformedError(f"certificate slot {slot}", code="gpu-request")

    if (r.uint(1, "response.version"), r.uint(1, "response.code")) != (SPDM_VERSION, MEASUREMENTS):
        raise MalformedError("not an SPDM 1.1 MEASUREMENTS response", code="gpu-response")
    r.take(2, "response.params")
    blocks = r.uint(1, "response.block_count")
    end = r.uint(3, "response.record_length") + r.at
    if not 1 <= blocks <= MAX_BLOCKS:
        raise MalformedError(f"{blocks} measurement blocks", code="gpu-block")
    measurements = tuple(_block(r, index) for index in range(1, blocks + 1))
    if r.at != end:
        raise MalformedError("the measurement record's length is not that of its blocks", code="gpu-block")
    response_nonce = r.take(NONCE_SIZE, "response.nonce")
    size = r.uint(2, "response.opaque_length")
    if size > MAX_OPAQUE:
        raise MalformedError(f"opaque data of {size} bytes", code="gpu-opaque")
    opaque = _opaque(r, r.at + size)
    signature = r.take(SIGNATURE_SIZE, "response.signature")
    if left := len(data) - r.at:
        raise MalformedError(f"{left} bytes after the report", code="gpu-trailing-bytes")
    return GpuReport(data, request_nonce, slot, measurements, response_nonce, MappingProxyType(opaque), signature)


def _block(r: _Cursor, index: int) -> Measurement:
    start, path = r.at, f"measurements.{index}"
    if r.uint(1, f"{path}.index") != index:
        raise MalformedError(f"measurement block {index} has another index", code="gpu-block")
    if r.uint(1, f"{path}.specification") != DMTF_FORMAT:
        raise MalformedError(f"measurement block {index} is not in DMTF form", code="gpu-block")
    size = r.uint(2, f"{path}.size")
    kind = r.uint(1, f"{path}.kind")
    if (r.uint(2, f"{path}.value_size"), size) != (DIGEST_SIZE, DIGEST_SIZE + 3):
        raise MalformedError(f"measurement block {index} holds no SHA-384 digest", code="gpu-block")
    return Measurement(index, kind, r.take(DIGEST_SIZE, f"{path}.digest"), start)


def _opaque(r: _Cursor, end: int) -> dict[int, bytes]:
    found: dict[int, bytes] = {}
    while r.at < end:
        name = Opaque.NAMES.get(r.peek(2), f"unknown_{r.peek(2)}")
        number = r.uint(2, f"opaque.{name}.type")
        size = r.uint(2, f"opaque.{name}.size")
        if number in found or r.at + size > end:
            raise MalformedError("an opaque field stands twice or runs over the end", code="gpu-opaque")
        found[number] = r.take(size, f"opaque.{name}.value", text=number in _TEXTS)
    return found


def _text(value: bytes) -> str:
    text = value.rstrip(b"\0")
    if len(text) > 64 or not text.isascii() or not text.decode("ascii").isprintable():
        raise MalformedError("an opaque field is no short text", code="gpu-opaque")
    return text.decode("ascii")


def _pdis(value: bytes) -> tuple[bytes, ...]:
    if len(value) % PDI_SIZE:
        raise MalformedError("a list of device identifiers has a wrong size", code="gpu-opaque")
    return tuple(value[at : at + PDI_SIZE] for at in range(0, len(value), PDI_SIZE))


class _Cursor:
    """Reads forward, never past the end; names each piece in `found` when there is such a list."""

    __slots__ = ("_data", "_found", "at")

    def __init__(self, data: bytes, found: list[Field] | None) -> None:
        self._data = data
        self._found = found
        self.at = 0

    def take(self, size: int, path: str, *, text: bool = False) -> bytes:
        start, end = self.at, self.at + size
        if end > len(self._data):
            raise MalformedError(f"report ends {end - len(self._data)} bytes early", code="gpu-truncated")
        piece, self.at = self._data[start:end], end
        if self._found is not None and size:
            shown = piece.rstrip(b"\0").decode("ascii", "backslashreplace") if text else piece.hex()
            self._found.append(Field(path, start, end, shown))
        return piece

    def uint(self, size: int, path: str) -> int:
        value = int.from_bytes(self.take(size, path), "little")
        if self._found is not None:
            last = self._found[-1]
            self._found[-1] = Field(last.path, last.start, last.end, str(value))
        return value

    def peek(self, size: int) -> int:
        return int.from_bytes(self._data[self.at : self.at + size], "little")
