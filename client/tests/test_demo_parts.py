# SPDX-License-Identifier: Apache-2.0
"""The demo's own claims can fail: its search finds, its liar lies, its verdict on attacks is strict."""

from __future__ import annotations

import base64
import io
import json
import socket
import threading

import pytest
from rich.console import Console

from teehouse.cli.output import THEME
from teehouse.demo import attacks, run
from teehouse.demo.attacks import ATTACKS, Outcome
from teehouse.demo.liar import PREFIX, cut_final_record, flip_bit
from teehouse.demo.tap import ByteTap
from teehouse.demo.windows import search
from teehouse.settings import Settings
from teehouse_core.errors import EvidenceRefused, MalformedError, TruncatedStream

TEXT = "the patient asked not to be named — 不要写名字"


@pytest.mark.parametrize(
    "encode",
    [
        str.encode,
        lambda text: json.dumps(text).encode(),
        lambda text: text.encode().hex().encode(),
        lambda text: text.encode("utf-16-le"),
        lambda text: base64.b64encode(text.encode()),
        lambda text: base64.b64encode(b"x" + text.encode()),
        lambda text: base64.urlsafe_b64encode(b"xy" + text.encode()),
    ],
)
def test_the_search_finds_a_text_in_each_encoding(encode) -> None:
    assert search(TEXT, b"\x00\x01" + encode(TEXT) + b"\xff").found
    assert search(TEXT, encode(TEXT)[10:40]).found


def test_the_search_finds_nothing_where_nothing_is() -> None:
    found = search(TEXT, bytes(range(256)) * 100)
    assert found.found == 0
    assert found.windows > 100
    assert search("short", b"short").windows == 0


def _answer(*lengths: int) -> bytes:
    records = b"".join(
        bytes([number == len(lengths) - 1]) + size.to_bytes(4, "big") + bytes([number]) * size
        for number, size in enumerate(lengths)
    )
    return bytes(PREFIX) + records


@pytest.mark.parametrize("piece", [1, 7, 10_000])
def test_one_bit_is_flipped_wherever_the_pieces_end(piece: int) -> None:
    whole = _answer(144, 272, 144)
    lied = b"".join(flip_bit(whole[i : i + piece] for i in range(0, len(whole), piece)))
    different = [i for i, (a, b) in enumerate(zip(whole, lied, strict=True)) if a != b]
    assert len(different) == 1
    assert PREFIX + 5 + 144 + 5 <= different[0] < PREFIX + 5 + 144 + 5 + 272  # inside the second record's ciphertext
    assert bin(whole[different[0]] ^ lied[different[0]]).count("1") == 1


def test_the_last_record_is_cut_off_whole() -> None:
    assert b"".join(cut_final_record([_answer(144, 272, 144)])) == _answer(144, 272, 144)[: -(144 + 5)]


def test_the_tap_copies_every_byte_both_ways() -> None:
    server = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        peer, _ = server.accept()
        with peer:
            while data := peer.recv(4096):
                peer.sendall(data.upper())

    thread = threading.Thread(target=serve)
    thread.start()
    with ByteTap(f"http://127.0.0.1:{server.getsockname()[1]}") as tap:
        host, port = tap.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port))) as client:
            client.sendall(b"hello")
            assert client.recv(100) == b"HELLO"
        thread.join(5)
        assert (tap.sent, tap.received) == (b"hello", b"HELLO")
    server.close()


class _Session:
    """Stands in for a session whose verification is broken: it takes every answer for whole, or fails oddly."""

    error: Exception | None = None

    def __init__(self, _settings: Settings) -> None:
        pass

    def __enter__(self) -> _Session:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def request(self, *_: object) -> _Session:
        if self.error is not None:
            raise self.error
        return self

    def __iter__(self):
        return iter([b"a lie"])


@pytest.fixture
def settings(tmp_path) -> Settings:
    return Settings.load(
        environ={"TEEHOUSE_CACHE_DIR": str(tmp_path)}, base_url="http://127.0.0.1:9", policy="evaluate"
    )


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
@pytest.mark.parametrize("error", [None, MalformedError(), TruncatedStream(), EvidenceRefused()])
def test_an_attack_counts_as_refused_only_for_its_own_reason(
    attack: attacks.Attack, error: Exception | None, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The liar is never reached here, so even the right class of error proves nothing."""
    monkeypatch.setattr(_Session, "error", error)
    monkeypatch.setattr(attacks, "Session", _Session)
    outcome = attacks.play(attack, settings, "ep-1", b"{}")
    assert not outcome.refused
    if error is None:
        assert outcome.shown == 5
        assert "NOT REFUSED" in outcome.detail


def test_the_demo_fails_loudly_when_an_attack_passes(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    def lenient(attack, *_: object) -> Outcome:
        return Outcome(attack, attack.name != "swap-key", "none", "NOT REFUSED: taken for whole", 9)

    monkeypatch.setattr(run, "play", lenient)
    monkeypatch.setattr(run, "play_honest", lambda *_: None)
    console = Console(theme=THEME, width=100, record=True, file=io.StringIO())
    result = run.DemoResult(tier="simulated")
    with pytest.raises(run.DemoFailed) as caught:
        run._attacks(settings, "ep-1", b"{}", result, console)
    assert caught.value.code == "demo-attack-passed"
    assert "swap-key" in caught.value.message
    assert [a["refused"] for a in result.attacks] == [True, False, True]
    assert "NOT REFUSED" in console.export_text()


def test_the_demo_fails_when_a_piece_of_the_text_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    class Leaky:
        sent = b"POST / HTTP/1.1\r\n\r\n" + TEXT.encode()
        received = b""

    from teehouse.cli.asking import Answer

    console = Console(theme=THEME, file=io.StringIO())
    with pytest.raises(run.DemoFailed) as caught:
        run._captured(Leaky(), TEXT, TEXT.encode(), Answer(text="fine"), run.DemoResult(), console)
    assert caught.value.code == "demo-leak"
    assert TEXT not in caught.value.message
