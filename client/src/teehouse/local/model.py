# SPDX-License-Identifier: Apache-2.0
"""Which model the nodes run: echo, a name of the catalogue, or a GGUF file; and its digest, computed here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from teehouse.local.catalogue import DEFAULT_MODEL
from teehouse.local.events import Reporter
from teehouse.local.options import UpOptions
from teehouse.local.reference import ECHO_WEIGHTS_SHA256, file_sha256
from teehouse.local.weights import locate

__all__ = ["ModelChoice", "choose_model"]

CONTEXT = 2048  # tokens of one request for a file that no catalogue describes
PARALLEL = 4  # requests at a time and node; the rest wait


@dataclass(frozen=True, slots=True)
class ModelChoice:
    """`engine` is the node's engine setting, `weights_sha256` what the policy pins, `note` for people."""

    name: str
    weights_sha256: str
    engine: dict[str, Any]
    note: str = ""


def choose_model(options: UpOptions, say: Reporter) -> ModelChoice:
    """Resolve, fetching if need be. Raises what `teehouse.local.weights.locate` raises."""
    if options.engine == "echo":
        engine: dict[str, Any] = {"kind": "echo", "name": "echo"}
        if options.pace:
            engine["pace"] = float(options.pace)
        return ModelChoice(
            "echo", ECHO_WEIGHTS_SHA256, engine, "the echo engine is no model: it repeats what it is told"
        )
    wish = options.model or DEFAULT_MODEL
    say.begin("weights", f"weights of {wish}")
    weights = locate(wish, progress=lambda _stage, done, total: say.move("weights", done, total))
    model = weights.model
    digest = model.weights_sha256 if model is not None else file_sha256(weights.path)
    engine = {"context": CONTEXT, "parallel": PARALLEL, **weights.engine_spec(), "weights_sha256": digest}
    say.end("weights", f"weights of {weights.name}, sha256 {digest[:16]}…")
    note = model.notes if model is not None else ""
    if model is not None and model.adapter is not None:
        note = f"{note}; {model.adapter.label}"
    return ModelChoice(weights.name, digest, engine, note)
