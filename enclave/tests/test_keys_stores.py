# SPDX-License-Identifier: Apache-2.0
"""Which root backend and which journal a configuration gives, and what it never gives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from fake_kernel import FakeSevDriver

from teehouse_core.errors import LocalError, TeehouseError
from teehouse_enclave.keys.journal_ledger import LedgerJournal
from teehouse_enclave.keys.journal_sqlite import SqliteJournal
from teehouse_enclave.keys.stores import measured_root, open_backend, open_journal
from teehouse_enclave.platform import sev_guest
from teehouse_enclave.platform.base import InsecurePlatformWarning


def refused(raw: Any, platform: str = "simulated", root: str = "/") -> TeehouseError:
    with pytest.raises(TeehouseError) as caught:
        open_backend(raw, platform, root)
    return caught.value


def test_auto_is_never_simulated_and_tdx_has_none(tmp_path: Path) -> None:
    for platform in ("tdx", "simulated", "new"):
        assert refused({"kind": "auto"}, platform).code == "root-no-sealing"
    assert "pkcs11" in str(refused({"kind": "auto"}, "tdx").hint)
    assert refused({"kind": "auto"}, "sev-snp", str(tmp_path)).code == "sev-device"
    assert refused({"kind": "auto"}, "az-snp-vtpm", str(tmp_path)).code == "tpm-open"
    assert refused({"kind": "tpm", "device": str(tmp_path / "x")}, "tdx").code == "tpm-open"


def test_simulated_is_for_simulated_platforms(tmp_path: Path) -> None:
    raw = {"kind": "simulated", "path": str(tmp_path / "root")}
    for platform in ("tdx", "sev-snp", "tpm", "az-snp-vtpm"):
        assert refused(raw, platform).code == "root-simulated"
    with pytest.warns(InsecurePlatformWarning):
        assert open_backend(raw, "simulated").simulated


def test_snp_takes_the_devices_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev" / "sev-guest").touch()
    driver = FakeSevDriver(lambda _d, _v: b"")
    monkeypatch.setattr(sev_guest.SevDevice.__init__, "__kwdefaults__", {"ioctl": driver})
    assert open_backend({"kind": "auto"}, "sev-snp", str(tmp_path)).name == "snp"
    assert driver.asked == [0xC0205301]


@pytest.mark.parametrize(
    "raw",
    [
        {},
        {"kind": "paper"},
        {"kind": 1},
        {"kind": "auto", "path": "x"},
        {"kind": "simulated"},
        {"kind": "simulated", "path": ""},
        {"kind": "simulated", "path": 7},
        {"kind": "pkcs11", "library": "x", "token": "y"},
        {"kind": "pkcs11", "library": "x", "token": "y", "pin": "1234", "pin_file": "z"},
    ],
)
def test_bad_settings_are_named_without_their_values(raw: dict[str, Any]) -> None:
    error = refused(raw)
    assert error.code in ("config-value", "config-unknown")
    assert "1234" not in str(error)


def test_a_pin_comes_from_a_file(tmp_path: Path) -> None:
    pytest.importorskip("pkcs11")
    pin = tmp_path / "pin"
    raw = {"kind": "pkcs11", "library": str(tmp_path / "none.so"), "token": "t", "pin_file": str(pin)}
    assert refused(raw).code == "config-file"
    pin.write_text("\n")
    assert refused(raw).code == "config-file"
    pin.write_text("13572468\n")
    error = refused(raw)
    assert error.code == "root-hsm"
    assert "13572468" not in str(error) + str(error.hint)


def test_what_is_measured() -> None:
    raw = {"kind": "pkcs11", "library": "/l.so", "token": "t", "pin_file": "/p"}
    assert measured_root(raw) == {"kind": "pkcs11", "library": "/l.so", "token": "t"}
    assert measured_root({"kind": "simulated", "path": "/x"}) == {"kind": "simulated"}
    with pytest.raises(LocalError):
        measured_root({})


def test_journals(tmp_path: Path) -> None:
    where = {"ledger_url": "http://127.0.0.1:9", "ledger_token": "t"}
    one = open_journal({"kind": "sqlite", "path": str(tmp_path / "j.db")}, **where)
    two = open_journal({"kind": "ledger"}, **where)
    assert isinstance(one, SqliteJournal)
    assert isinstance(two, LedgerJournal)
    one.close()
    two.close()
    for raw in ({"kind": "ledger", "path": "x"}, {"kind": "sqlite"}, {}):
        with pytest.raises(LocalError):
            open_journal(raw, **where)
