# SPDX-License-Identifier: Apache-2.0
"""The closed table of operations (PROTOCOL §3.3): what `op` in the header may say, and the inner path it stands for."""

from __future__ import annotations

__all__ = ["OPS", "op_of_path"]

OPS: dict[str, str] = {
    "chat.completions": "/v1/chat/completions",
    "completions": "/v1/completions",
    "responses": "/v1/responses",
    "embeddings": "/v1/embeddings",
}


def op_of_path(path: str) -> str | None:
    """The operation whose inner path is `path`, or None."""
    return next((op for op, inner in OPS.items() if inner == path), None)
