# SPDX-License-Identifier: Apache-2.0
"""The command line in this process: the same entry, arguments and exit codes, without a second for each start."""

from __future__ import annotations

import contextlib
import io
import json
from typing import Any

import pytest

from teehouse.cli.main import main


def call(*arguments: object, stdin: str = "") -> tuple[int, str, str]:
    """One run: exit code, stdout, stderr."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        patch.setattr("sys.stdin", io.StringIO(stdin))
        code = main([str(part) for part in arguments])
    return code, out.getvalue(), err.getvalue()


def done(*arguments: object) -> dict[str, Any]:
    """The JSON of a run that must end well."""
    code, out, err = call(*arguments, "--json")
    assert code == 0, out + err
    return dict(json.loads(out))
