# SPDX-License-Identifier: Apache-2.0
"""The members `root` and `journal` of the configuration: which backend holds the root key, what keeps the journal.

    "root": {"kind": "auto"} | {"kind": "tpm"[, "device"]} | {"kind": "snp"}
          | {"kind": "pkcs11", "library", "token", "pin_file"[, "label"]} | {"kind": "simulated", "path"}
    "journal": {"kind": "sqlite", "path"} | {"kind": "ledger"}

`auto` takes what the platform has and never the SIMULATED file. All errors are `LocalError` with a hint.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from teehouse_core.errors import LocalError
from teehouse_enclave.keys.journal import Journal
from teehouse_enclave.keys.root import RootBackend

__all__ = ["measured_root", "open_backend", "open_journal"]

_KINDS: Final = {  # kind → (members it must have, members it may have)
    "auto": ((), ()),
    "tpm": ((), ("device",)),
    "snp": ((), ()),
    "pkcs11": (("library", "token", "pin_file"), ("label",)),
    "simulated": (("path",), ()),
}
_BY_PLATFORM: Final = {"tpm": "tpm", "az-snp-vtpm": "tpm", "az-tdx-vtpm": "tpm", "sev-snp": "snp"}
_MEASURED: Final = ("kind", "library", "token", "label")  # a library is code, and a token is who else has the root
MAX_PIN: Final = 256  # characters


def open_backend(raw: Mapping[str, Any], platform: str, platform_root: str = "/") -> RootBackend:
    """The backend that `raw` names, on a platform of this type. Opens devices; slow the first time."""
    given = _checked(raw, "root", _KINDS)
    kind = given["kind"]
    if kind == "auto":
        kind = _auto(platform)
    if kind == "simulated":
        from teehouse_enclave.keys.root_simulated import SimulatedBackend

        if platform != "simulated":
            hint = "use auto, or an HSM (kind pkcs11)"
            raise LocalError("a SIMULATED root on a real platform", code="root-simulated", hint=hint)
        return SimulatedBackend(given["path"])
    if kind == "snp":
        from teehouse_enclave.keys.root_snp import SnpBackend
        from teehouse_enclave.platform.sev_guest import SevDevice

        return SnpBackend(SevDevice(platform_root))
    if kind == "tpm":
        from teehouse_enclave.keys.root_tpm import TpmBackend
        from teehouse_enclave.platform.tpm import DEVICE

        return TpmBackend(given.get("device") or str(Path(platform_root) / DEVICE))
    return _pkcs11(given)


def measured_root(raw: Mapping[str, Any]) -> dict[str, str]:
    """What of `root` decides about keys, for the measured configuration: not where a file or a device lies."""
    given = _checked(raw, "root", _KINDS)
    return {name: given[name] for name in _MEASURED if name in given}


def open_journal(raw: Mapping[str, Any], *, ledger_url: str, ledger_token: str) -> Journal:
    """The journal that `raw` names."""
    given = _checked(raw, "journal", {"sqlite": (("path",), ()), "ledger": ((), ())})
    if given["kind"] == "sqlite":
        from teehouse_enclave.keys.journal_sqlite import SqliteJournal

        return SqliteJournal(given["path"])
    from teehouse_enclave.keys.journal_ledger import LedgerJournal

    return LedgerJournal(ledger_url, ledger_token)


def _auto(platform: str) -> str:
    kind = _BY_PLATFORM.get(platform)
    if kind is not None:
        return kind
    if platform == "tdx":
        hint = "TDX gives a guest no sealing key: use an HSM (kind pkcs11), or a virtual TPM of the platform (kind tpm)"
        raise LocalError("TDX cannot seal a root key", code="root-no-sealing", hint=hint)
    hint = 'name it: {"kind": "simulated", "path": …} protects nothing and is for trying out'
    raise LocalError(f"platform {platform} has nothing to seal a root key with", code="root-no-sealing", hint=hint)


def _pkcs11(given: Mapping[str, str]) -> RootBackend:
    try:
        from teehouse_enclave.keys.root_pkcs11 import Pkcs11Backend
    except ImportError:
        hint = "install teehouse-enclave[pkcs11]"
        raise LocalError("the binding to PKCS#11 is not installed", code="root-hsm", hint=hint) from None
    try:
        pin = Path(given["pin_file"]).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        raise LocalError("root.pin_file cannot be read", code="config-file") from None
    if not 0 < len(pin) <= MAX_PIN:
        raise LocalError("root.pin_file holds no PIN", code="config-file")
    return Pkcs11Backend(given["library"], given["token"], pin, label=given.get("label", "teehouse-root"))


def _checked(
    raw: Mapping[str, Any], what: str, kinds: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]]
) -> dict[str, str]:
    """Members by name; unknown, missing and non-text ones are refused."""
    kind = raw.get("kind")
    if not isinstance(kind, str) or kind not in kinds:
        raise LocalError(f"{what}.kind is unknown", code="config-value", hint=f"one of {', '.join(kinds)}")
    must, may = kinds[kind]
    if unknown := set(raw) - {"kind", *must, *may}:
        raise LocalError(f"unknown setting {what}.{sorted(unknown)[0]!r}", code="config-unknown")
    for name in must:
        if name not in raw:
            raise LocalError(f"{what}.{name} is missing", code="config-value")
    if not all(isinstance(value, str) and value and "\0" not in value for value in raw.values()):
        raise LocalError(f"a member of {what} is no text", code="config-value")
    return dict(raw)
