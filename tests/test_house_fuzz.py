# SPDX-License-Identifier: Apache-2.0
"""What fuzzing has found worth keeping stays harmless: the kept inputs, replayed without a fuzzer."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.util
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from teehouse_core.appraise.artifacts.nvidia import load_chain
from teehouse_core.errors import MalformedError, TeehouseError
from teehouse_core.evidence.nvidia_cert import parse_identity
from teehouse_core.evidence.x509fields import certificate_fields

FUZZ = Path(__file__).resolve().parent.parent / "fuzz"
CORPUS = FUZZ / "corpus"
NAMES = sorted(path.name for path in CORPUS.iterdir() if path.is_dir())
MAX_TARGET, MAX_ALL = 200_000, 4_000_000  # bytes

sys.path.append(str(FUZZ))

from forge_snp import tlv  # noqa: E402
from teehouse_fuzz import scenes, seeds  # noqa: E402
from teehouse_fuzz.targets import MAX_INPUT, TARGETS  # noqa: E402


@pytest.fixture(scope="module")
def run() -> ModuleType:
    spec = importlib.util.spec_from_file_location("fuzz_run", FUZZ / "run.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["fuzz_run"] = module
    spec.loader.exec_module(module)
    return module


@functools.cache
def forged() -> dict[str, list[bytes]]:
    return seeds.forged()


@contextlib.contextmanager
def only_ours() -> Iterator[None]:
    """Our own errors are what a parser is for; a library's opinion about odd certificates is no crash."""
    with warnings.catch_warnings(), contextlib.suppress(TeehouseError):
        warnings.simplefilter("ignore")
        yield


def test_every_target_has_a_corpus_and_seeds() -> None:
    assert set(NAMES) == set(TARGETS) == set(MAX_INPUT)
    assert all(forged()[name] for name in NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_kept_inputs_give_only_our_errors(name: str) -> None:
    inputs = sorted((CORPUS / name).iterdir())
    assert inputs
    for path in inputs:
        with only_ours():
            TARGETS[name](path.read_bytes())


@pytest.mark.parametrize("name", NAMES)
def test_seeds_give_only_our_errors(name: str) -> None:
    for data in forged()[name]:
        with only_ours():
            TARGETS[name](data)


@pytest.mark.filterwarnings("ignore:Parsed a serial number")
def test_what_was_found_stays_mended() -> None:
    """Certificates that a library reads as far as it is asked: an empty key, a point on no curve, a negative number."""
    when, oid = tlv(0x17, b"260101000000Z"), tlv(0x30, tlv(6, b"\x2a\x03"))
    tbs = tlv(0x30, tlv(2, b"\1"), oid, tlv(0x30), tlv(0x30, when, when), tlv(0x30), tlv(0x30))
    with pytest.raises(MalformedError):
        certificate_fields(tlv(0x30, tbs, oid, tlv(3, b"\0")))

    chain = [c.public_bytes(Encoding.DER) for c in scenes.device_chain()]
    number = tlv(2, scenes.device_chain()[1].serial_number.to_bytes(9, "big"))
    for old, new in ((b"\x03\x62\x00\x04", b"\x03\x62\x00\x09"), (number, number[:2] + b"\x81" + number[3:])):
        assert old in chain[1]
        spoilt = load_chain(chain[0] + chain[1].replace(old, new))
        with pytest.raises(MalformedError):
            parse_identity(spoilt)


def test_corpora_are_small_and_named_by_their_content() -> None:
    sizes = {name: sum(path.stat().st_size for path in (CORPUS / name).iterdir()) for name in NAMES}
    assert max(sizes.values()) <= MAX_TARGET
    assert sum(sizes.values()) <= MAX_ALL
    for path in CORPUS.glob("*/*"):
        assert path.name == hashlib.sha256(path.read_bytes()).hexdigest()[:40]


def test_no_kept_input_is_taken_from_a_vendor(run: ModuleType) -> None:
    files = [path.read_bytes() for path in seeds.vendor_files()]
    if not files:
        pytest.skip("missing shared vectors: nothing to compare the corpora with")
    digests = {hashlib.sha256(data).digest() for data in files}
    own = [data for inputs in forged().values() for data in inputs]
    vendor = run.Vendor(files, own)
    assert vendor.shares(max(files, key=len))
    for path in CORPUS.glob("*/*"):
        data = path.read_bytes()
        assert hashlib.sha256(data).digest() not in digests
        assert not vendor.shares(data), path


def test_edits_reach_what_they_name() -> None:
    """The scenes that inputs edit are accepted as they are, and refused once an edit changes what is signed."""
    for number, scene in enumerate(scenes.scenes()):
        assert scene.appraise().result == "accepted", scene.name
        same, untouched = scenes.edited(bytes([number]))
        assert not scenes.changes_meaning(same, untouched)
        _, changed = scenes.edited(bytes([number, 0, 60, 0, 2, 0xA5, 0x5A]))
        assert changed != untouched


def test_a_broken_promise_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """The targets can fail: a parser that raises anything else, and an edited bundle that is accepted."""

    def crash(data: bytes) -> None:
        raise IndexError(len(data))

    monkeypatch.setattr("teehouse_core.evidence.snp.parse_report", crash)
    with pytest.raises(IndexError), only_ours():
        TARGETS["snp-report"](b"")
    monkeypatch.setattr(scenes, "changes_meaning", lambda *_: True)
    with pytest.raises(AssertionError, match="was accepted"), only_ours():
        TARGETS["appraise-edited"](b"\0")
