# SPDX-License-Identifier: Apache-2.0
"""What every test of the workspace shares: the event loop that runs them, and no silent skips in CI.

A test that cannot run because the machine lacks something skips with one of `MISSING_PREFIXES`, so a person without
root still gets a useful run. With `CI=true` such a skip is a failure: a green run there has started everything. The
last two prefixes are what the model fixture of the enclave says, and `pytest.importorskip` of a package of ours.
"""

from __future__ import annotations

import os
from collections.abc import Generator

import pytest

MISSING_PREFIXES = (
    "missing program:",
    "missing model:",
    "missing package:",
    "missing shared vectors:",
    "REAL MODEL TESTS DID NOT RUN",
    "could not import 'teehouse",
)


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """Tests run on the loop that the product runs on."""
    return "asyncio"


def _in_ci() -> bool:
    return os.environ.get("CI", "").lower() in {"1", "true", "yes"}


def _missing(report: pytest.TestReport | pytest.CollectReport) -> str | None:
    """The reason of a skip that CI does not allow, or None."""
    if not report.skipped or hasattr(report, "wasxfail") or not isinstance(report.longrepr, tuple):
        return None
    reason = report.longrepr[2].removeprefix("Skipped: ")
    return reason if reason.startswith(MISSING_PREFIXES) else None


def _refuse_in_ci(report: pytest.TestReport | pytest.CollectReport) -> None:
    if _in_ci() and (reason := _missing(report)) is not None:
        report.outcome = "failed"
        report.longrepr = f"skipped in CI, where nothing may be missing: {reason}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    _refuse_in_ci(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    _refuse_in_ci(report)
    return report
