# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the enclave's tests: the event loop, and the real model's weights."""

from __future__ import annotations

from pathlib import Path

import pytest

from teehouse_core.errors import TeehouseError


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
def model_path() -> Path:
    """SmolLM2-135M-Instruct, fetched as a user's machine fetches it."""
    weights = pytest.importorskip("teehouse.local.weights")
    catalogue = pytest.importorskip("teehouse.local.catalogue")
    try:
        return weights.fetch(catalogue.find_model(catalogue.DEFAULT_MODEL))
    except TeehouseError as exc:
        pytest.skip(f"REAL MODEL TESTS DID NOT RUN: the weights could not be fetched ({exc.code}: {exc.hint})")
