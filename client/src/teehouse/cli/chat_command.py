# SPDX-License-Identifier: Apache-2.0
"""`teehouse chat`: talk with a verified node; text on stdout, everything about it on stderr."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.text import Text

from teehouse.cli import exits
from teehouse.cli.options import ApiKeyFile, Dir, Endpoint, Gateway, Json, PolicyOption, load_settings
from teehouse.cli.output import Output, safe, say_error, simulated_badge
from teehouse.cli.wrap import WordWrap
from teehouse_core.errors import LocalError, TeehouseError

__all__ = ["chat", "receipt_line"]

_HELP = "/receipt the last receipt · /clear forget the conversation · /quit"


def chat(
    message: Annotated[
        str | None,
        typer.Option("--message", "-m", metavar="TEXT", help="Ask this and end; without it, a conversation."),
    ] = None,
    system: Annotated[str | None, typer.Option("--system", metavar="TEXT", help="The system message.")] = None,
    image: Annotated[
        list[Path] | None, typer.Option("--image", metavar="FILE", help="A picture for the first message; repeatable.")
    ] = None,
    max_tokens: Annotated[int | None, typer.Option("--max-tokens", metavar="N", min=1, help="Longest answer.")] = None,
    temperature: Annotated[
        float | None, typer.Option("--temperature", metavar="T", min=0.0, max=2.0, help="0 is greedy.")
    ] = None,
    endpoint: Endpoint = None,
    gateway: Gateway = None,
    policy: PolicyOption = None,
    api_key_file: ApiKeyFile = None,
    directory: Dir = None,
    as_json: Json = False,
) -> int:
    """Chat with a model inside a verified machine; each answer comes with a checked receipt.

    With no options it uses the platform that `teehouse up` started.
    """
    from teehouse.cli.asking import image_part
    from teehouse.session.sync import Session

    out = Output(as_json=as_json)
    if message is None and not sys.stdin.isatty():
        message = sys.stdin.read().strip() or None
        if message is None:
            raise LocalError("nothing to ask", code="usage", hint="give -m TEXT, or text on stdin")
    if message is None and as_json:
        raise LocalError("--json needs one question", code="usage", hint="give -m TEXT")
    settings = load_settings(
        base_url=gateway, endpoint=endpoint, policy=policy, api_key_file=api_key_file, directory=directory
    )
    name = settings.need_endpoint()
    pictures = [image_part(path) for path in image or []]
    history: list[dict[str, Any]] = [{"role": "system", "content": system}] if system else []
    with Session(settings) as session:
        talk = _Talk(session, name, out, history, pictures, {"max_tokens": max_tokens, "temperature": temperature})
        talk.greet()
        if message is not None:
            talk.turn(message)
            return exits.OK
        return _converse(talk, out)


class _Talk:
    """One conversation."""

    def __init__(
        self,
        session: Any,
        endpoint: str,
        out: Output,
        history: list[dict[str, Any]],
        pictures: list[dict[str, Any]],
        options: dict[str, Any],
    ) -> None:
        self._session, self._endpoint, self._out = session, endpoint, out
        self._history, self._start = history, list(history)
        self._pictures, self._options = pictures, options
        self._model = ""

    def greet(self) -> None:
        """Verify first, so that a refusal comes before anything is typed."""
        from teehouse.verify.nodes import refuse_set

        nodes = self._session.verify(self._endpoint)
        accepted = [node.accepted for node in nodes if node.accepted is not None]
        if not accepted:
            raise refuse_set(nodes)
        self._model = accepted[0].keyset.model.name
        line = Text.assemble(
            ("✓ ", "good"),
            f"{len(accepted)} of {len(nodes)} nodes accepted  ",
            simulated_badge(accepted[0].tier),
            (f"  {safe(self._model)}", "dim"),
        )
        self._out.say(line)

    def turn(self, text: str) -> None:
        """One question, one streamed answer."""
        from teehouse.cli.asking import ask, chat_body

        content: Any = text
        if self._pictures:
            content, self._pictures = [{"type": "text", "text": text}, *self._pictures], []
        messages = [*self._history, {"role": "user", "content": content}]
        body = chat_body(messages, model=self._model, **self._options)
        terminal = sys.stdout.isatty()
        wrap = WordWrap(_write, self._out.data.width) if terminal else None

        def stream(piece: str) -> None:
            if self._out.as_json:
                return
            if wrap is not None:
                wrap.feed(safe(piece))  # to a terminal nothing that could move its cursor
            else:
                _write(piece)  # to a pipe the text as it is

        answer = ask(self._session, self._endpoint, body, stream)
        if self._out.as_json:
            record = answer.record.to_json() if answer.record is not None else None
            document = {
                "endpoint": self._endpoint,
                "node": answer.node,
                "content": answer.text,
                "finish": answer.finish,
                "first_token_seconds": round(answer.first_token, 4),
                "total_seconds": round(answer.total, 4),
                "receipt": record,
            }
            self._out.json(document)
        else:
            if wrap is not None:
                wrap.end()
            else:
                _write("\n")
            self._out.say(receipt_line(answer))
        self._history[:] = [*messages, {"role": "assistant", "content": answer.text}]

    def clear(self) -> None:
        """Begin anew."""
        self._history[:] = self._start

    def show_receipt(self) -> None:
        """The last receipt in full."""
        record = self._session.last_receipt
        if record is not None:
            self._out.json(record.to_json())


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def receipt_line(answer: Any) -> Text:
    """`✓ receipt checked  12 in, 34 out · first token 0.08 s · 97 tok/s  SIMULATED`: fits 80 columns."""
    record = answer.record
    if record is None:
        return Text.assemble(("✗ ", "bad"), "no receipt")
    usage = record.receipt.usage
    parts = [f"{usage.input_tokens} in, {usage.output_tokens} out", f"first token {answer.first_token:.2f} s"]
    speed = answer.tokens_per_second
    if speed is not None:
        parts.append(f"{speed:.0f} tok/s")
    return Text.assemble(
        ("✓ ", "good"),
        "receipt checked  ",
        (" · ".join(parts), "dim"),
        "  ",
        simulated_badge(record.tier),
        ("  cut at the limit" if answer.finish == "length" else "", "dim"),
    )


def _converse(talk: _Talk, out: Output) -> int:
    import contextlib

    with contextlib.suppress(ImportError):
        import readline  # noqa: F401  arrow keys and history in input(); kept in memory only
    out.say(Text(_HELP, style="dim"))
    while True:
        try:
            out.say(Text("you ", style="key"), end="")
            text = input().strip()
        except (EOFError, KeyboardInterrupt):
            out.say()
            return exits.OK
        if text in ("/quit", "/exit"):
            return exits.OK
        if text == "/clear":
            talk.clear()
        elif text == "/receipt":
            talk.show_receipt()
        elif text.startswith("/"):
            out.say(Text(_HELP, style="dim"))
        elif text:
            try:
                talk.turn(text)
            except TeehouseError as error:
                out.say()
                say_error(out.talk, error)
            except KeyboardInterrupt:
                out.say(Text("\ncut off; the node stopped", style="dim"))
