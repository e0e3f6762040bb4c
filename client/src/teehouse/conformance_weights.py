# SPDX-License-Identifier: Apache-2.0
"""The stage `weights` of `teehouse-conformance`: a whole encrypted model, opened (spec/08-weights.md)."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import Any

from teehouse.conformance_input import InputError, as_bytes, take, take_all
from teehouse_core.weights.whole import open_model

__all__ = ["WEIGHTS_STAGES"]


def _weights(given: Mapping[str, Any]) -> dict[str, Any]:
    objects = given.get("objects")
    if type(objects) is not dict:
        raise InputError("objects: expected an object")
    manifest, files = open_model(
        {name: as_bytes(value, name) for name, value in objects.items()},
        publishers=take_all(given, "publishers"),
        data_key=take(given, "data_key"),
    )
    return {
        "id": manifest.id,
        "weights_sha256": manifest.weights_sha256,
        "key": manifest.key.to_json(),
        "files": {name: hashlib.sha256(data).hexdigest() for name, data in files.items()},
    }


WEIGHTS_STAGES: dict[str, Callable[[Mapping[str, Any]], dict[str, Any]]] = {"weights": _weights}
