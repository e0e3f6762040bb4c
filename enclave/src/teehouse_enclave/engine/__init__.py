# SPDX-License-Identifier: Apache-2.0
"""Engines: what answers a chat request inside the TEE. `make_engine` is the only door."""

from __future__ import annotations

from teehouse_enclave.engine.base import Engine, EngineError, EngineInfo
from teehouse_enclave.engine.digest import weights_digest
from teehouse_enclave.engine.spec import EngineSpec

__all__ = ["Engine", "EngineError", "EngineInfo", "EngineSpec", "make_engine", "weights_digest"]


def make_engine(spec: EngineSpec) -> Engine:
    """The engine a spec names, not yet started. Raises LocalError, also when its optional package is missing."""
    # Imported on demand: a node measures and loads only the engine it runs.
    if spec.kind == "llamacpp":
        from teehouse_enclave.engine.llamacpp import LlamaCppEngine

        return LlamaCppEngine(spec)
    if spec.kind == "openai-upstream":
        from teehouse_enclave.engine.openai_upstream import OpenAIUpstreamEngine

        return OpenAIUpstreamEngine(spec)
    from teehouse_enclave.engine.echo import EchoEngine

    return EchoEngine(spec)
