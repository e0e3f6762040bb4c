# SPDX-License-Identifier: Apache-2.0
"""The demo, part by part. Raises `DemoFailed` when anything it claims is not so."""

from __future__ import annotations

import dataclasses
import json
import time
from dataclasses import dataclass, field
from typing import Any, Final

from rich.console import Console
from rich.text import Text

from teehouse.cli.asking import Answer, ask, chat_body
from teehouse.cli.output import Output, safe
from teehouse.cli.verdicts import checks_grid, legend, node_line, refusals, summary_line
from teehouse.cli.wrap import WordWrap
from teehouse.demo import show
from teehouse.demo.attacks import ATTACKS, Outcome, play, play_honest
from teehouse.demo.tap import ByteTap
from teehouse.demo.windows import search
from teehouse.session.sync import Session
from teehouse.settings import Settings
from teehouse.verify.nodes import refuse_set
from teehouse_core.appraise.verdict import Verdict
from teehouse_core.errors import TeehouseError
from teehouse_core.wire.frame import RequestFrame

__all__ = ["DEFAULT_QUESTION", "DemoFailed", "DemoResult", "Live", "run_demo", "show_sealed"]

DEFAULT_QUESTION: Final = "My doctor says I have high blood pressure. What should I eat less of?"
ANSWER_TOKENS: Final = 128  # longest answer of the demo, so that it ends within seconds on two cores
ATTACK_TOKENS: Final = 12
TEMPERATURE: Final = 0.0


class DemoFailed(TeehouseError):  # noqa: N818  an outcome
    """Something the demo claims is not so: the platform must not be trusted, not even as a toy."""

    default_code = "demo-failed"


@dataclass(slots=True)
class DemoResult:
    """What happened, JSON-ready."""

    endpoint: str = ""
    model: str = ""
    tier: str = ""
    nodes: list[dict[str, Any]] = field(default_factory=list)
    captured: dict[str, Any] = field(default_factory=dict)
    answer: dict[str, Any] = field(default_factory=dict)
    receipt: dict[str, Any] | None = None
    attacks: list[dict[str, Any]] = field(default_factory=list)
    seconds: float = 0.0

    def to_json(self) -> dict[str, Any]:
        return {"version": 1, "result": "ok", **{name: getattr(self, name) for name in self.__slots__}}


def run_demo(settings: Settings, endpoint: str, question: str, out: Output) -> DemoResult:
    """Play all five parts against a running platform. Raises `DemoFailed`, or what a part raises."""
    began = time.monotonic()
    result = DemoResult(endpoint=endpoint)
    console = out.talk if out.as_json else out.data
    with ByteTap(settings.need_base_url()) as tap, Session(dataclasses.replace(settings, base_url=tap.url)) as session:
        verdict = _evidence(session, endpoint, result, console)
        result.model, result.tier = verdict.keyset.model.name, verdict.tier
        body = _body(question, result.model, ANSWER_TOKENS)
        tap.clear()
        live = Live(console, tap, question)
        answer = ask(session, endpoint, body, live.piece)
        live.end()
        _told(answer, result, console)
        _captured(tap, question, body, answer, result, console)
        _receipt(answer, result, console)
    _attacks(settings, endpoint, _body(question, result.model, ATTACK_TOKENS), result, console)
    result.seconds = round(time.monotonic() - began, 2)
    return result


def _body(question: str, model: str, tokens: int) -> bytes:
    messages = [{"role": "user", "content": question}]
    return chat_body(messages, model=model, max_tokens=tokens, temperature=TEMPERATURE)


def _evidence(session: Session, endpoint: str, result: DemoResult, console: Console) -> Verdict:
    """(a) Every check on every node; nothing is sent to a node that is not accepted."""
    console.print(show.part("a", "what the nodes prove about themselves, appraised here"))
    nodes = session.verify(endpoint, fresh=True)
    for node in nodes:
        verdict = node.verdict
        states = [check.state for check in verdict.checks]
        counts = {state: states.count(state) for state in ("passed", "failed", "skipped", "not-applicable")}
        result.nodes.append(
            {"node": verdict.claims["node"], "result": verdict.result, "tier": verdict.tier, "checks": counts}
        )
    accepted = [node for node in nodes if node.accepted is not None]
    if len(accepted) != len(nodes) or not accepted:
        refused = next((node for node in nodes if node.accepted is None), None)
        if refused is not None:
            console.print(refusals(refused.verdict.refusing))
        raise refuse_set([node for node in nodes if node.accepted is None])
    first = accepted[0].verdict
    console.print(node_line(first))
    console.print(checks_grid(first, console.width))
    console.print(legend())
    console.print(summary_line(first))
    for node in accepted[1:]:
        line = Text.assemble(("and ", "dim"), safe(str(node.verdict.claims["node"])), ": ", summary_line(node.verdict))
        console.print(line)
    return first


class Live:
    """Parts (b) and (c) as they happen: the sealed bytes when the first text is back, then the text."""

    def __init__(self, console: Console, tap: ByteTap, question: str) -> None:
        self._console, self._tap, self._question = console, tap, question
        self._wrap = WordWrap(self._write, console.width)
        self._begun = False

    def piece(self, text: str) -> None:
        """Take authenticated text."""
        if not self._begun:
            self._begun = True
            self._console.print(show.part("b", "your text, and what the gateway saw of it"))
            show_sealed(self._console, self._question, self._tap.sent)
            self._console.print(show.part("c", "the answer, opened here as it comes"))
        self._wrap.feed(safe(text))

    def end(self) -> None:
        """The answer is whole."""
        self._wrap.end()

    def _write(self, text: str) -> None:
        self._console.print(Text(text, style="title"), end="", soft_wrap=True)


def show_sealed(console: Console, question: str, sent: bytes) -> None:
    """The question beside the captured bytes of its sealed body. Raises `DemoFailed` when they are not there."""
    _, found, after = sent.partition(b"\r\n\r\n")  # one HTTP request head, then the frame
    if not found:
        raise DemoFailed("the captured bytes hold no request", code="demo-capture")
    frame = RequestFrame.parse(after)
    header = frame.header
    told = (
        f"endpoint {header.endpoint}, {header.op}, {len(header.candidates)} candidates, "
        f"{header.body_len} sealed bytes, account {header.account}"
    )
    console.print(show.side_by_side(console, question, bytes(frame.body), told, len(sent) - header.body_len))


def _told(answer: Answer, result: DemoResult, console: Console) -> None:
    """(c) How fast it was."""
    usage = answer.record.receipt.usage if answer.record is not None else None
    speed = answer.tokens_per_second
    result.answer = {
        "text": answer.text,
        "finish": answer.finish,
        "first_token_seconds": round(answer.first_token, 4),
        "total_seconds": round(answer.total, 4),
        "tokens_per_second": round(speed, 1) if speed is not None else None,
        "node": answer.node,
    }
    parts = [f"time to first token {answer.first_token * 1000:.0f} ms"]
    if usage is not None:
        parts.append(f"{usage.output_tokens} tokens in {answer.total:.2f} s")
    if speed is not None:
        parts.append(f"{speed:,.0f} tokens/s")
    console.print(Text.assemble(("✓ ", "good"), (" · ".join(parts), ""), (f" · from {safe(answer.node)}", "dim")))


def _captured(tap: ByteTap, question: str, body: bytes, answer: Answer, result: DemoResult, console: Console) -> None:
    """(b) No piece of question or answer is in what passed the gateway; and the search itself is shown to work."""
    captured = tap.sent + tap.received
    result.captured = {"sent": len(tap.sent), "received": len(tap.received)}
    for what, text, unsealed in (
        ("your text", question, body),
        ("the answer", answer.text, json.dumps(answer.text).encode()),
    ):
        found, control = search(text, captured), search(text, unsealed).found
        name = "question" if what == "your text" else "answer"
        result.captured[name] = {"windows": found.windows, "found": found.found, "control": control}
        console.print(show.window_line(found, what, control))
        if found.found:
            raise DemoFailed(f"a piece of {what} was found in the captured bytes", code="demo-leak")
        if found.windows and not control:
            raise DemoFailed("the search finds nothing even in unsealed text", code="demo-search")


def _receipt(answer: Answer, result: DemoResult, console: Console) -> None:
    """(d) The receipt: a record exists only if every check of PROTOCOL §7 held."""
    console.print(show.part("d", "the receipt, checked before the answer counted as whole"))
    if answer.record is None:
        raise DemoFailed("the answer came without a receipt", code="demo-receipt")
    result.receipt = answer.record.to_json()
    console.print(show.receipt_table(answer.record, answer.node))


def _attacks(settings: Settings, endpoint: str, body: bytes, result: DemoResult, console: Console) -> None:
    """(e) Three lies, each of which must be refused for its own reason."""
    console.print(show.part("e", "attacks, played for real by a relay that lies"))
    play_honest(settings, endpoint, body)
    console.print(Text.assemble(("✓ ", "good"), "the same relay, telling the truth: answered"))
    outcomes: list[Outcome] = []
    for attack in ATTACKS:
        outcome = play(attack, settings, endpoint, body)
        outcomes.append(outcome)
        result.attacks.append(
            {
                "name": attack.name,
                "refused": outcome.refused,
                "code": outcome.code,
                "detail": outcome.detail,
                "shown_bytes": outcome.shown,
            }
        )
        console.print(show.attack_line(outcome))
    passed = [outcome.attack.name for outcome in outcomes if not outcome.refused]
    if passed:
        raise DemoFailed(
            f"NOT REFUSED: {', '.join(passed)}",
            code="demo-attack-passed",
            hint="do not use this build; please report it, see SECURITY.md",
        )
    if result.tier == "simulated":
        console.print(
            Text(
                "On SIMULATED hardware anybody could also forge the quote itself; only real hardware prevents that.",
                style="warn",
            )
        )
