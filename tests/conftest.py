# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the whole-platform tests: one echo platform for all, one real-model platform for those that ask."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from support_lying import LyingOutside, lying_outside
from support_platform import Platform, running_platform


@pytest.fixture(scope="session")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    """Two nodes with the echo engine behind a gateway."""
    with running_platform(tmp_path_factory.mktemp("echo"), "--engine", "echo", "--nodes", "2") as running:
        yield running


@pytest.fixture(scope="session")
def outside(platform: Platform) -> Iterator[LyingOutside]:
    """A lying gateway in front of the honest one; tests set `lie`."""
    with lying_outside(platform.gateway) as lying:
        yield lying


@pytest.fixture(scope="session")
def model_platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    """Two nodes with the real small language model."""
    with running_platform(tmp_path_factory.mktemp("model"), "--nodes", "2") as running:
        yield running


@pytest.fixture(params=["echo", pytest.param("llamacpp", marks=pytest.mark.model)])
def either(request: pytest.FixtureRequest) -> Platform:
    """Each test that takes this runs on the echo engine and on the real model."""
    found: Platform = request.getfixturevalue("platform" if request.param == "echo" else "model_platform")
    return found


@pytest.fixture(scope="session")
def paced_platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    """Two echo nodes that write fifty words a second, so that there is a middle of a stream."""
    root = tmp_path_factory.mktemp("paced-echo")
    with running_platform(root, "--engine", "echo", "--nodes", "2", "--pace", "50") as running:
        yield running
