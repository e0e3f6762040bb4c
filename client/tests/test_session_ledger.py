# SPDX-License-Identifier: Apache-2.0
"""Sessions that take evidence over a ledger checkpoint: dated by pinned witnesses, one history, remembered."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from client_support import ENDPOINT, Gateway, Node, settings_for
from forge_ledger import LOG, ORIGIN, PINNED, WITNESSES, Tree, filler
from pool_support import EVALUATE

from teehouse.session import AsyncSession, Session
from teehouse_core.errors import EvidenceRefused
from teehouse_core.log.entry import PublicEntry
from teehouse_core.log.merkle import inclusion_proof
from teehouse_core.log.note import Note
from teehouse_core.log.proof import TlogProof
from teehouse_core.log.signing import cosign, sign_note
from teehouse_core.log.tiles import ENTRIES, parse_path
from teehouse_core.wire.binding import LEDGER
from teehouse_enclave.node.evidence import EvidenceMaker

QUESTION = b'{"messages":[]}'


@dataclass
class Log:
    """A public log whose witnesses sign what they are shown."""

    leaves: list[bytes] = field(default_factory=lambda: [filler(number) for number in range(20)])
    age: int = 10  # seconds since the witnesses signed
    witnesses: int = 2
    withheld: bool = False

    @property
    def tree(self) -> Tree:
        return Tree(self.leaves)

    def note(self) -> bytes:
        text = self.tree.checkpoint().text()
        now = int(time.time()) - self.age
        signed = [cosign(text, name, key, now) for name, key in list(WITNESSES.items())[: self.witnesses]]
        return Note(text, (sign_note(text, ORIGIN, LOG), *signed)).to_bytes()

    def tile(self, path: str) -> bytes:
        wanted = parse_path(path)
        assert wanted.level != ENTRIES
        first = wanted.index * 256
        return b"".join(self.tree.source(wanted.level * 8, first + at) for at in range(wanted.width))

    def bundle(self, node: Node) -> bytes:
        """Publish the node's keyset once, then attest over the newest checkpoint."""
        entry = PublicEntry(1, "keyset", "ab" * 16, node.keyset.sha256, ENDPOINT, node.name).to_bytes()
        if entry not in self.leaves:
            self.leaves.append(entry)
        index, tree, note = self.leaves.index(entry), self.tree, self.note()
        proof = TlogProof(index, tuple(inclusion_proof(tree.source, index, len(self.leaves))), note, entry)
        maker = EvidenceMaker(node.platform, 10)
        return maker.bundle(
            node.keyset, note, time.monotonic(), kind=LEDGER, ledger={"keyset_inclusion": proof.to_bytes()}
        )


class World:
    def __init__(self, state: Path) -> None:
        self.log = Log()
        self.node = Node("node-a")
        self.gateway = Gateway(self.node)
        self.gateway.evidence_from = lambda _value: [self.log.bundle(self.node)]
        self.gateway.tiles = lambda path: None if self.log.withheld else self.log.tile(path)
        self.state = state

    def settings(self, **changes: Any) -> Any:
        policy = replace(EVALUATE, ledger=changes.pop("ledger", PINNED), **changes)
        return settings_for(self.gateway, policy=policy, state_dir=str(self.state))

    def session(self, **changes: Any) -> Session:
        return Session(self.settings(**changes))


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    yield made
    made.gateway.close()


def ask(session: Session) -> Any:
    with session.request(None, "chat.completions", QUESTION) as answer:
        answer.read()
        return answer


def refusal(session: Session) -> set[str]:
    with pytest.raises(EvidenceRefused) as refused:
        ask(session)
    return {check.id for check in refused.value.verdict.refusing}


def test_evidence_over_a_checkpoint_opens_a_session(world: World) -> None:
    with world.session() as session:
        answer = ask(session)
        assert answer.accepted.evidence_time <= time.time() - 10
        assert "cacheable=1" in world.gateway.asked[0]


def test_the_log_grows_and_later_sessions_demand_one_history(world: World) -> None:
    for _ in range(3):
        with world.session() as session:
            ask(session)
        world.log.leaves.append(filler(500 + len(world.log.leaves)))
    world.log.leaves[3] = filler(999)
    with world.session() as session:
        assert refusal(session) == {"ledger.consistency"}


@pytest.mark.anyio
async def test_an_async_session_fetches_tiles_too(world: World) -> None:
    for _ in range(2):
        async with AsyncSession(world.settings()) as session:
            assert (await session.verify())[0].accepted is not None
        world.log.leaves.append(filler(700 + len(world.log.leaves)))


def test_a_path_that_withholds_tiles_gets_nothing(world: World) -> None:
    with world.session() as session:
        ask(session)
    world.log.leaves.append(filler(600))
    world.log.withheld = True
    with world.session() as session:
        assert refusal(session) == {"ledger.consistency"}


def test_a_log_that_was_rolled_back_and_grew_elsewhere(world: World) -> None:
    with world.session() as session:
        ask(session)
    world.log.leaves = [filler(1000 + number) for number in range(30)]
    with world.session() as session:
        assert refusal(session) == {"ledger.consistency"}


@pytest.mark.parametrize(
    ("changes", "failing"),
    [
        ({"witnesses": 1}, {"ledger.quorum", "ledger.age"}),
        ({"age": 4000}, {"ledger.age"}),
        ({"age": -100}, {"ledger.age"}),
    ],
)
def test_without_a_fresh_quorum_nothing_is_sealed_to(world: World, changes: dict[str, int], failing: set[str]) -> None:
    for name, value in changes.items():
        setattr(world.log, name, value)
    with world.session() as session:
        assert refusal(session) == failing
    assert world.gateway.frames == []


def test_a_client_without_pins_does_not_take_it(world: World) -> None:
    with world.session(ledger=EVALUATE.ledger) as session:
        assert refusal(session) == {"challenge.kind", "challenge.nonce"}
        assert "cacheable" not in world.gateway.asked[0]


def test_an_answer_to_the_nonce_is_as_good(world: World) -> None:
    world.gateway.evidence_from = lambda value: [world.node.bundle(value)]
    with world.session() as session:
        assert ask(session).accepted.evidence_time >= time.time() - 5


def test_a_keyset_of_one_user_alone_is_refused_where_the_ledger_is_demanded(world: World) -> None:
    world.gateway.evidence_from = lambda value: [world.node.bundle(value)]
    with world.session(ledger=replace(PINNED, required=True)) as session:
        assert "ledger.inclusion" in refusal(session)
    assert world.gateway.frames == []
