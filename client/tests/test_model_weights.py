# SPDX-License-Identifier: Apache-2.0
"""`teehouse model`: encrypted, killed and gone on with, manipulated, decrypted, taken over from another tool."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tarfile
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from teehouse.cli import exits
from teehouse.cli.main import main
from teehouse.models.decrypt import Sealed, check_model, decrypt_model
from teehouse.models.encrypt import STATE_NAME, encrypt_model, source_files
from teehouse.models.keys import fingerprint, new_data_key, new_publisher_key, publisher_pk, read_data_key
from teehouse.models.legacy import baseline_of, import_model
from teehouse.models.work import folder_lock
from teehouse_core.errors import LocalError, RefusedError, TeehouseError
from teehouse_core.weights.errors import WeightsError
from teehouse_core.weights.plan import HEADER_SIZE, TAG_SIZE
from teehouse_core.weights.signing import MANIFEST_NAME

KEY = bytes(range(32))
PUBLISHER = Ed25519PrivateKey.from_private_bytes(bytes(32))
PK = PUBLISHER.public_key().public_bytes_raw()
CHUNK, PARTS = 4096, 4
SIZES = {"config.json": 77, "empty": 0, "shards/a.bin": 16_384, "shards/b.bin": 150_001, "z.bin": 40_960}


def tree(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    for name, size in SIZES.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(secrets.token_bytes(size))
    return folder


def encrypt(source: Path, out: Path, **more: Any) -> Any:
    given: dict[str, Any] = {"data_key": KEY, "publisher": PUBLISHER, "chunk_size": CHUNK, "part_chunks": PARTS}
    return encrypt_model(source, out, model="m", **(given | more))


def reopen(folder: Path, key: bytes = KEY) -> Sealed:
    return Sealed.open(folder, data_key=key, publishers={PK})


def test_round_trip(source: Path, tmp_path: Path) -> None:
    moved: list[tuple[int, int]] = []
    manifest = encrypt(source, tmp_path / "out", progress=lambda *now: moved.append(now), jobs=3)
    assert {file.name: file.size for file in manifest.files} == SIZES
    total = sum(SIZES.values())
    assert all(0 <= done <= total == whole for done, whole in moved)
    check_model(reopen(tmp_path / "out"))
    decrypt_model(reopen(tmp_path / "out"), tmp_path / "back")
    assert tree(tmp_path / "back") == tree(source)
    assert not [path for path in (tmp_path / "back").rglob("*") if path.is_file() and path.stat().st_mode & 0o077]
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {MANIFEST_NAME, *(part.object for part in manifest.parts())}
    for again in (lambda: encrypt(source, tmp_path / "out"), lambda: decrypt_model(reopen(tmp_path / "out"), source)):
        with pytest.raises(LocalError) as caught:
            again()
        assert caught.value.code == "output-exists"


def test_no_plaintext_is_left(source: Path, tmp_path: Path) -> None:
    encrypt(source, tmp_path / "out")
    pieces = [(source / name).read_bytes()[100:132] for name, size in SIZES.items() if size > 200]
    for path in (tmp_path / "out").iterdir():
        data = path.read_bytes()
        assert not any(piece in data for piece in pieces)
        assert KEY not in data
        assert KEY.hex().encode() not in data


# ── killed ───────────────────────────────────────────────────────────────────────────────────────────────────────

WORKER = textwrap.dedent("""
    import os, signal, sys, threading
    from pathlib import Path
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from teehouse.models.decrypt import Sealed, decrypt_model
    from teehouse.models.encrypt import encrypt_model

    what, source, out, limit = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4])
    publisher = Ed25519PrivateKey.from_private_bytes(bytes(32))
    key, steps, lock = bytes(range(32)), [0], threading.Lock()

    def step(event, args):
        # every file that is opened for work, renamed or removed in the output is a place to die at
        if event in ("open", "os.rename", "os.remove", "os.mkdir") and str(args[0]).startswith(str(out)):
            with lock:
                steps[0] += 1
                if steps[0] == limit:
                    os.kill(os.getpid(), signal.SIGKILL)

    print("begun", flush=True)
    sys.addaudithook(step)
    if what == "encrypt":
        encrypt_model(source, out, model="m", data_key=key, publisher=publisher, chunk_size=4096, part_chunks=4)
    else:
        pk = publisher.public_key().public_bytes_raw()
        decrypt_model(Sealed.open(source, data_key=key, publishers={pk}), out)
    print(steps[0])
""")


def work(what: str, source: Path, out: Path, limit: int = 0, seconds: float | None = None) -> int | None:
    """Steps that a whole run took, or None when it was killed: at step `limit`, or after `seconds`."""
    command = [sys.executable, "-c", WORKER, what, str(source), str(out), str(limit)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == "begun\n"
        if seconds is not None:
            time.sleep(seconds)
            process.kill()
        said, wrong = process.communicate(timeout=60)
    if process.returncode == -signal.SIGKILL:
        return None
    assert process.returncode == 0, wrong
    return int(said)


def is_whole(out: Path) -> bool:
    """Whether a run came to its end, killed after it or not."""
    names = {path.name for path in out.iterdir()} if out.exists() else set()
    return bool(names) and not names & {STATE_NAME, STATE_NAME + ".new", ".unfinished"}


@pytest.mark.slow
@pytest.mark.parametrize("what", ["encrypt", "decrypt"])
def test_killed_at_any_step_it_goes_on(what: str, source: Path, tmp_path: Path) -> None:
    plain = source
    if what == "decrypt":
        encrypt(source, tmp_path / "sealed")
        source = tmp_path / "sealed"
    steps = work(what, source, tmp_path / "whole")
    assert steps is not None
    assert steps > 20
    places = sorted({1, 2, 3, steps - 2, steps - 1, steps, *range(5, steps - 2, steps // 8)})
    for place in places:
        out = tmp_path / f"at-{place}"
        assert work(what, source, out, place) is None
        for again in (max(2, place // 2), 0):  # killed once more on the way, then not
            if not is_whole(out):
                work(what, source, out, again)
        assert is_whole(out)
        if what == "encrypt":
            decrypt_model(reopen(out), tmp_path / f"back-{place}")
            out = tmp_path / f"back-{place}"
        assert tree(out) == tree(plain)


@pytest.mark.slow
def test_killed_at_any_time_it_goes_on(tmp_path: Path) -> None:
    source, out = tmp_path / "big.bin", tmp_path / "out"
    source.write_bytes(secrets.token_bytes(6_000_000))
    kept: dict[str, bytes] = {}
    kills = 0
    while kills < 12 and not is_whole(out) and work("encrypt", source, out, seconds=0.02 + 0.02 * kills) is None:
        kills += 1
        now = {path.name: path.read_bytes() for path in out.glob("*.thw")} if out.exists() else {}
        assert all(now[name] == data for name, data in kept.items())  # what was finished is never written again
        kept = now
    assert kills >= 2
    if not is_whole(out):
        work("encrypt", source, out)
    decrypt_model(reopen(out), tmp_path / "back")
    assert (tmp_path / "back" / "big.bin").read_bytes() == source.read_bytes()


def test_a_part_begun_again_has_another_key(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A salt is never used twice: whoever saw an earlier attempt learns nothing from a nonce's second use."""
    seen: list[bytes] = []
    out = tmp_path / "out"
    real = os.replace

    class DiedError(Exception):
        pass

    def die(*_: Any) -> None:
        seen.extend(path.read_bytes()[:HEADER_SIZE] for path in out.glob("*.new"))
        raise DiedError

    monkeypatch.setattr("teehouse.models.encrypt._settle", die)
    for _ in range(3):
        with pytest.raises(DiedError):
            encrypt(source / "z.bin", out, jobs=1)
    monkeypatch.undo()
    assert real is os.replace
    encrypt(source / "z.bin", out, jobs=1)
    seen += [path.read_bytes()[:HEADER_SIZE] for path in out.glob("*.thw")]
    assert len(seen) > 4
    assert len({header[-32:] for header in seen}) == len(set(seen)) == len(seen)


def test_a_beginning_of_something_else_is_refused(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr("teehouse.models.encrypt.Encryption.finish", lambda _self: None)
        encrypt(source, out)
    for other in ({"data_key": bytes(32)}, {"part_chunks": 5}):
        with pytest.raises(LocalError) as caught:
            encrypt(source, out, **other)
        assert caught.value.code == "unfinished-other"
    (source / "z.bin").write_bytes(b"changed")
    with pytest.raises(LocalError) as caught:
        encrypt(source, out)
    assert caught.value.code == "unfinished-other"
    with pytest.raises(WeightsError) as weights:
        reopen(out)
    assert weights.value.code == "no-manifest"
    with folder_lock(out), pytest.raises(LocalError) as caught:
        encrypt(source, out)
    assert caught.value.code == "folder-in-use"


def test_a_damaged_beginning_is_mended(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a crash left is opened before it counts: parts when encrypting, the file's digest when decrypting."""
    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr("teehouse.models.encrypt.Encryption.done", lambda *_: None)
        with pytest.raises(KeyError):
            encrypt(source, out)
    part = max(out.glob("*.thw"), key=lambda path: path.stat().st_size)
    damaged = bytearray(part.read_bytes())
    damaged[-40] ^= 1
    part.write_bytes(damaged)
    manifest = encrypt(source, out)
    check_model(reopen(out))

    back = tmp_path / "back"
    drafts = back / ".unfinished"
    drafts.mkdir(parents=True)
    (drafts / "manifest").write_text(manifest.sha256)
    (drafts / "00003").write_bytes(bytes(CHUNK * PARTS * 2 + 5))
    decrypt_model(reopen(out), back)
    assert tree(back) == tree(source)


def test_a_source_that_changes_is_noticed(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layout, files = source_files(source)
    (source / "z.bin").write_bytes(b"other")
    with monkeypatch.context() as patch:
        patch.setattr("teehouse.models.encrypt.source_files", lambda _path: (layout, files))
        with pytest.raises(LocalError) as caught:
            encrypt(source, tmp_path / "out", jobs=1)
    assert caught.value.code == "source-changed"
    assert not (tmp_path / "out" / MANIFEST_NAME).exists()
    (source / "z.bin").write_bytes(secrets.token_bytes(SIZES["z.bin"]))  # as large as before
    with pytest.raises(LocalError) as caught:
        files[-1].check()
    assert caught.value.code == "source-changed"


def test_full_disk_is_said_and_gone_on_after(source: Path, tmp_path: Path) -> None:
    """The third part of each file finds no room."""
    code = textwrap.dedent("""
        import errno, sys
        from pathlib import Path
        import teehouse.models.encrypt as module
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
        from teehouse_core.errors import LocalError
        real = module._write_all
        def write(file, view):
            if int(Path(file.name).name.split("-")[1][:5]) > 2:
                raise OSError(errno.ENOSPC, "No space left on device")
            real(file, view)
        module._write_all = write
        try:
            module.encrypt_model(Path(sys.argv[1]), Path(sys.argv[2]), model="m", data_key=bytes(range(32)),
                publisher=Ed25519PrivateKey.from_private_bytes(bytes(32)), chunk_size=4096, part_chunks=4)
        except LocalError as error:
            print(error.code)
    """)
    command = [sys.executable, "-c", code, str(source), str(tmp_path / "out")]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "disk-full\n"
    encrypt(source, tmp_path / "out")
    check_model(reopen(tmp_path / "out"))


def test_memory_is_bounded(tmp_path: Path) -> None:
    """300 MB through a process that may have 200 MB of data beside what it has at start."""
    source = tmp_path / "big"
    with source.open("wb") as file:
        file.truncate(300_000_000)
    code = textwrap.dedent("""
        import resource, sys
        from pathlib import Path
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
        from teehouse.models.decrypt import Sealed, decrypt_model
        from teehouse.models.encrypt import encrypt_model
        key = Ed25519PrivateKey.from_private_bytes(bytes(32))
        begun = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        out = Path(sys.argv[2])
        encrypt_model(Path(sys.argv[1]), out, model="m", data_key=bytes(32), publisher=key)
        sealed = Sealed.open(out, data_key=bytes(32), publishers={key.public_key().public_bytes_raw()})
        decrypt_model(sealed, Path(sys.argv[3]))
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - begun)
    """)
    command = [sys.executable, "-c", code, str(source), str(tmp_path / "out"), str(tmp_path / "back")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(done.stdout) < 100_000  # KiB


# ── manipulated ──────────────────────────────────────────────────────────────────────────────────────────────────

PART, SIZE = "00003-00001.thw", CHUNK + TAG_SIZE


def _rewrite(change: Callable[[bytes], bytes], name: str = PART) -> Callable[[Path, Path], None]:
    return lambda folder, _other: (folder / name).write_bytes(change((folder / name).read_bytes())) and None


def _swap(folder: Path, _other: Path) -> None:
    (folder / PART).rename(folder / "x")
    (folder / "00003-00002.thw").rename(folder / PART)
    (folder / "x").rename(folder / "00003-00002.thw")


@pytest.mark.parametrize(
    ("manipulate", "code", "chunk"),
    [
        (_rewrite(lambda data: data[:-1]), "truncated-part", 7),
        (_rewrite(lambda data: data + b"x"), "part-too-long", None),
        (lambda folder, _: (folder / PART).unlink(), "missing-part", None),
        (lambda folder, other: shutil.copy(other / PART, folder / PART), "other-encryption", None),
        (_swap, "wrong-part", None),
        (lambda folder, _: shutil.copy(folder / "00003-00002.thw", folder / PART), "wrong-part", None),
        (lambda folder, _: shutil.copy(folder / PART, folder / "00009-00000.thw"), "extra-part", None),
        (_rewrite(lambda d: d[:64] + d[64 + SIZE :] + d[64 : 64 + SIZE]), "chunk-refused", 4),
        (_rewrite(lambda d: d[:200] + bytes([d[200] ^ 1]) + d[201:]), "chunk-refused", 4),
        (_rewrite(lambda d: bytes(len(d))), "not-a-part", None),
    ],
)
def test_manipulated_parts_are_refused_by_name(
    manipulate: Callable[[Path, Path], Any], code: str, chunk: int | None, source: Path, tmp_path: Path
) -> None:
    encrypt(source, tmp_path / "out")
    encrypt(source, tmp_path / "other")
    manipulate(tmp_path / "out", tmp_path / "other")
    for use in (check_model, lambda sealed: decrypt_model(sealed, tmp_path / "back")):
        with pytest.raises(WeightsError) as caught:
            use(reopen(tmp_path / "out"))
        assert (caught.value.code, caught.value.chunk) == (code, chunk)
        assert caught.value.part == ("00009-00000.thw" if code == "extra-part" else PART)
    assert not (tmp_path / "back" / "shards" / "b.bin").exists()


# ── the other tool's format ──────────────────────────────────────────────────────────────────────────────────────

PIECE = 50_000  # bytes; theirs are 2 GiB


def make_pieces(folder: Path, source: Path, key: bytes = KEY) -> dict[str, str]:
    """As the existing encrypter does it: directory → tar → pieces, each `iv ‖ ciphertext ‖ tag`."""
    folder.mkdir()
    tar = folder / "x.tar"
    with tarfile.open(tar, "w") as archive:
        archive.add(source, arcname=source.name)
    data = tar.read_bytes()
    tar.unlink()
    for number, at in enumerate(range(0, len(data), PIECE)):
        iv = secrets.token_bytes(12)
        sealed = AESGCM(key).encrypt(iv, data[at : at + PIECE], None)
        (folder / f"enc-part-{number:05d}").write_bytes(iv + sealed)
    return tree(source)


def take_over(source: Path, out: Path, baseline: str | None, **more: Any) -> Any:
    given: dict[str, Any] = {"old_key": KEY, "data_key": bytes(32), "publisher": PUBLISHER}
    given |= {"chunk_size": CHUNK, "part_chunks": PARTS}
    return import_model(source, out, model="m", baseline=baseline, **(given | more))


def test_import(source: Path, tmp_path: Path) -> None:
    digests = make_pieces(tmp_path / "enc-m", source)
    acc = b""
    for name in sorted(digests):
        acc = hashlib.sha256(acc + hashlib.sha256((source / name).read_bytes()).digest()).digest()
    assert baseline_of(digests) == acc.hex()
    manifest = take_over(tmp_path / "enc-m", tmp_path / "out", acc.hex())
    assert {file.name: file.sha256 for file in manifest.files} == digests
    assert manifest.weights_sha256 == encrypt(source, tmp_path / "direct").weights_sha256
    decrypt_model(reopen(tmp_path / "out", bytes(32)), tmp_path / "back")
    assert tree(tmp_path / "back") == digests


def test_import_of_a_single_file(source: Path, tmp_path: Path) -> None:
    """Theirs encrypts one and cannot decrypt it."""
    make_pieces(tmp_path / "enc-m", source / "z.bin")
    manifest = take_over(tmp_path / "enc-m", tmp_path / "out", None)
    assert manifest.layout == "file"
    assert manifest.weights_sha256 == hashlib.sha256((source / "z.bin").read_bytes()).hexdigest()


def test_import_goes_on(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    digests = make_pieces(tmp_path / "enc-m", source)
    calls = [0]
    real = __import__("teehouse.models.encrypt", fromlist=["_settle"])._settle

    def die(draft: Path, place: Path) -> None:
        calls[0] += 1
        if calls[0] == 9:
            raise RuntimeError("killed")
        real(draft, place)

    with monkeypatch.context() as patch:
        patch.setattr("teehouse.models.encrypt._settle", die)
        with pytest.raises(RuntimeError):
            take_over(tmp_path / "enc-m", tmp_path / "out", baseline_of(digests))
    kept = {path.name: path.read_bytes() for path in (tmp_path / "out").glob("*.thw")}
    assert kept
    take_over(tmp_path / "enc-m", tmp_path / "out", baseline_of(digests))
    assert all((tmp_path / "out" / name).read_bytes() == data for name, data in kept.items())
    decrypt_model(reopen(tmp_path / "out", bytes(32)), tmp_path / "back")
    assert tree(tmp_path / "back") == digests


def _piece(folder: Path, number: int) -> Path:
    return folder / f"enc-part-{number:05d}"


def _last(folder: Path) -> Path:
    return max(folder.glob("enc-part-*"))


def _exchange(folder: Path) -> None:
    one, two = _piece(folder, 1), _piece(folder, 2)
    a, b = one.read_bytes(), two.read_bytes()
    one.write_bytes(b)
    two.write_bytes(a)


@pytest.mark.parametrize(
    ("manipulate", "codes"),
    [
        (lambda folder: _piece(folder, 2).unlink(), {"missing-part"}),
        (lambda folder: _piece(folder, 0).unlink(), {"tar-form", "piece-size", "baseline-mismatch"}),
        (lambda folder: _last(folder).unlink(), {"tar-truncated", "tar-form"}),
        (lambda folder: _piece(folder, 1).write_bytes(_piece(folder, 1).read_bytes()[:-1]), {"piece-size"}),
        (lambda folder: shutil.copy(_piece(folder, 0), _piece(folder, 1)), {"baseline-mismatch", "tar-form"}),
        (_exchange, {"baseline-mismatch", "tar-form"}),
        (lambda folder: _last(folder).write_bytes(_last(folder).read_bytes() + b"x"), {"piece-refused"}),
        (
            lambda folder: _piece(folder, 1).write_bytes(b"\0" * 99 + _piece(folder, 1).read_bytes()[99:]),
            {"piece-refused"},
        ),
        (lambda folder: [path.unlink() for path in folder.iterdir()], {"model-missing"}),
    ],
)
def test_import_refuses(manipulate: Callable[[Path], Any], codes: set[str], source: Path, tmp_path: Path) -> None:
    digests = make_pieces(tmp_path / "enc-m", source)
    manipulate(tmp_path / "enc-m")
    with pytest.raises(TeehouseError) as caught:
        take_over(tmp_path / "enc-m", tmp_path / "out", baseline_of(digests))
    assert caught.value.code in codes
    assert not (tmp_path / "out" / MANIFEST_NAME).exists()


def test_import_under_the_wrong_key_or_baseline(source: Path, tmp_path: Path) -> None:
    digests = make_pieces(tmp_path / "enc-m", source)
    with pytest.raises(WeightsError) as caught:
        take_over(tmp_path / "enc-m", tmp_path / "out", None, old_key=bytes(32))
    assert (caught.value.code, caught.value.part) == ("piece-refused", "enc-part-00000")
    with pytest.raises(RefusedError) as refused:
        take_over(tmp_path / "enc-m", tmp_path / "out", "0" * 64)
    assert refused.value.code == "baseline-mismatch"
    assert baseline_of(digests) in (refused.value.hint or "")


@pytest.mark.parametrize(("tail", "code"), [(b"", "tar-truncated"), (bytes(2048) + b"more", "tar-form")])
def test_import_wants_the_tars_own_end(tail: bytes, code: str, source: Path, tmp_path: Path) -> None:
    """Pieces that are missing after a file's border leave a tar that libraries take for whole."""
    tar = tmp_path / "x.tar"
    with tarfile.open(tar, "w") as archive:
        archive.add(source, arcname="m")
        end = archive.offset
    folder = tmp_path / "enc-m"
    folder.mkdir()
    (folder / "enc-part-00000").write_bytes(
        bytes(12) + AESGCM(KEY).encrypt(bytes(12), tar.read_bytes()[:end] + tail, None)
    )
    with pytest.raises(WeightsError) as caught:
        take_over(folder, tmp_path / "out", None)
    assert caught.value.code == code


def test_import_takes_no_links(tmp_path: Path) -> None:
    source = tmp_path / "m"
    source.mkdir()
    (source / "a").write_bytes(b"1")
    (source / "b").symlink_to("/etc/passwd")
    make_pieces(tmp_path / "enc-m", source)
    with pytest.raises(WeightsError) as caught:
        take_over(tmp_path / "enc-m", tmp_path / "out", None)
    assert caught.value.code == "tar-form"


# ── keys and the command ─────────────────────────────────────────────────────────────────────────────────────────


def test_key_files(tmp_path: Path) -> None:
    key = new_data_key(tmp_path / "raw")
    assert (tmp_path / "raw").stat().st_mode & 0o777 == 0o600
    import base64

    for name, text in (
        ("hex", key.hex() + "\n"),
        ("b64", base64.b64encode(key).decode()),
        ("url", base64.urlsafe_b64encode(key).decode().rstrip("=") + "\n"),
    ):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o600)
        assert read_data_key(tmp_path / name) == key
    assert read_data_key(tmp_path / "raw") == key
    sign = new_publisher_key(tmp_path / "sign")
    assert publisher_pk(str(tmp_path / "sign")) == publisher_pk(fingerprint(sign))
    (tmp_path / "hex").chmod(0o640)
    (tmp_path / "bad").write_text("no key")
    (tmp_path / "bad").chmod(0o600)
    for name, code in (("hex", "key-file-open"), ("bad", "key-file-form"), ("none", "key-file")):
        with pytest.raises(LocalError) as caught:
            read_data_key(tmp_path / name)
        assert caught.value.code == code
    with pytest.raises(LocalError) as caught:
        new_data_key(tmp_path / "raw")
    assert caught.value.code == "key-file-exists"
    with pytest.raises(LocalError):
        publisher_pk("nobody")


def test_the_command(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def run(*arguments: str | Path) -> tuple[int, dict[str, Any]]:
        code = main(["model", *map(str, arguments), "--json"])
        return code, json.loads(capsys.readouterr().out)

    dk, sk, out = tmp_path / "dk", tmp_path / "sk", tmp_path / "out"
    made = ["--new-key", dk, "--new-sign-key", sk]
    where = ["--tks", "tks.example", "--tenant", "t", "--ring", "weights", "--key", "m"]
    code, said = run("encrypt", source, "-o", out, *made, *where, "--name", "m", "--chunk-size", "4096",
                     "--part-size", "16384")  # fmt: skip
    assert code == exits.OK
    assert said["key"] == {"tks": "tks.example", "tenant": "t", "ring": "weights", "key": "m", "version": "1"}
    assert len(said["files"]) == len(SIZES)
    publisher = said["publisher"]
    assert run("inspect", out)[1]["state"] == "publisher not checked"
    code, said = run("inspect", out, "--publisher", publisher, "--key-file", dk)
    assert (code, said["state"], said["opened"]) == (exits.OK, "publisher accepted", True)
    code, said = run("decrypt", out, "-o", tmp_path / "back", "--key-file", dk, "--publisher", publisher)
    assert code == exits.OK
    assert tree(tmp_path / "back") == tree(source)

    stranger = fingerprint(Ed25519PrivateKey.generate())
    code, said = run("inspect", out, "--publisher", stranger)
    assert (code, said["error"]["code"]) == (exits.REFUSED, "publisher-unknown")
    code, said = run("decrypt", out, "-o", tmp_path / "b2", "--key-file", dk)
    assert (code, said["error"]["code"]) == (exits.USAGE, "publisher-missing")
    code, said = run("encrypt", source, "-o", tmp_path / "o2", *made)
    assert (code, said["error"]["code"]) == (exits.USAGE, "key-file-exists")
    code, said = run("encrypt", source, "-o", tmp_path / "o2", "--key-file", dk, "--sign-key", sk, "--ring", "r")
    assert (code, said["error"]["code"]) == (exits.USAGE, "key-reference")
    (out / PART).unlink()
    code, said = run("inspect", out)
    assert (code, said["error"]["code"]) == (exits.MALFORMED, "missing-part")

    digests = make_pieces(tmp_path / "enc-m", source, read_data_key(dk))
    base = ["import", tmp_path / "enc-m", "-o", tmp_path / "o3", "--key-file", dk, "--sign-key", sk]
    assert run(*base)[1]["error"]["code"] == "baseline-missing"
    code, said = run(*base, "--baseline", baseline_of(digests))
    assert (code, said["model"]) == (exits.OK, "m")
    assert main(["model", "inspect", str(tmp_path / "o3")]) == exits.OK
    assert "publisher not checked" in capsys.readouterr().out
