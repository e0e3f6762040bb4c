# SPDX-License-Identifier: Apache-2.0
"""JSON schemas a user sends for the answer's shape: only those the engine really enforces, within bounds.

llama.cpp turns a schema into a grammar. What it cannot turn, it either weakens in silence ("accepting any string") or
fails on after writing the grammar, which is the user's text, to the process's stderr. Both are avoided by refusing
such a schema here. `oneOf` is enforced as `anyOf`. What is not checked: that the answer is whole; one that ends for
"length" is a beginning of such JSON.
"""

from __future__ import annotations

import json
from typing import Any

from teehouse_enclave.engine.base import EngineError

__all__ = ["MAX_SCHEMA_BYTES", "check_schema"]

MAX_SCHEMA_BYTES = 16_384  # bytes of JSON; a grammar of this size takes about a second to compile, for all slots
MAX_REPEAT = 1000  # lengths and counts; llama.cpp's own ceiling for repetitions is 2000
_DEPTH = 32  # levels; the converter recurses

_TYPES = frozenset({"string", "number", "integer", "boolean", "null", "array", "object"})
_FORMATS = frozenset({"date", "time", "date-time", "uuid"})
_NOTES = frozenset({"$schema", "$id", "title", "description", "default", "examples", "$comment", "deprecated"})
_VALUES = frozenset({"const", "enum"})
_COUNTS = frozenset({"minLength", "maxLength", "minItems", "maxItems"})
_BOUNDS = frozenset({"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"})
_MAPS = frozenset({"properties", "$defs", "definitions"})
_LISTS = frozenset({"anyOf", "oneOf", "allOf", "prefixItems"})
_ONES = frozenset({"items", "additionalProperties"})


def check_schema(schema: object, param: str) -> None:
    """Raise EngineError 400 `schema_unsupported` unless every keyword is one that is enforced."""
    if not isinstance(schema, dict):
        raise EngineError(400, "invalid_type", "a JSON schema must be an object", param=param)
    if len(json.dumps(schema)) > MAX_SCHEMA_BYTES:
        raise _refused(f"a JSON schema may have {MAX_SCHEMA_BYTES} bytes", param)
    _walk(schema, param, _DEPTH)


def _walk(schema: Any, param: str, depth: int) -> None:
    if isinstance(schema, bool):
        return
    if not isinstance(schema, dict):
        raise _refused("a part of the JSON schema is not an object", param)
    if depth == 0:
        raise _refused(f"the JSON schema is nested deeper than {_DEPTH} levels", param)
    if _BOUNDS & schema.keys() and schema.get("type") != "integer":
        raise _refused("bounds in a JSON schema are enforced on integers only", param)
    for key, value in schema.items():
        if key in _NOTES or key == "required":
            continue
        if key in _MAPS:
            if not isinstance(value, dict):
                raise _refused(f"{key!r} of the JSON schema must be an object", param)
            for part in value.values():
                _walk(part, param, depth - 1)
        elif key in _LISTS:
            if not isinstance(value, list) or not value:
                raise _refused(f"{key!r} of the JSON schema must be a list", param)
            for part in value:
                _walk(part, param, depth - 1)
        elif key in _ONES:
            _walk(value, param, depth - 1)
        else:
            _check_keyword(key, value, param)


def _check_keyword(key: str, value: Any, param: str) -> None:
    if key == "type":
        types = value if isinstance(value, list) else [value]
        if not types or not all(isinstance(one, str) and one in _TYPES for one in types):
            raise _refused("the JSON schema has an unknown 'type'", param)
    elif key in _VALUES:
        if key == "enum" and (not isinstance(value, list) or not value):
            raise _refused("'enum' of the JSON schema must be a list", param)
    elif key in _COUNTS:
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MAX_REPEAT:
            raise _refused(f"{key!r} of the JSON schema must be from 0 to {MAX_REPEAT}", param)
    elif key in _BOUNDS:
        if isinstance(value, bool) or not isinstance(value, int | float) or abs(value) > 2**53:
            raise _refused(f"{key!r} of the JSON schema must be a number", param)
    elif key == "$ref":
        if not isinstance(value, str) or not value.startswith("#/"):
            raise _refused("'$ref' of the JSON schema must point into the same schema", param)
    elif key == "format":
        if value not in _FORMATS:
            raise _refused("the JSON schema has a 'format' this engine does not enforce", param)
    else:
        # `pattern` is among them: only part of regular expressions is converted, and the rest weakens in silence.
        raise _refused("the JSON schema uses a keyword this engine does not enforce", param)


def _refused(message: str, param: str) -> EngineError:
    return EngineError(400, "schema_unsupported", message, param=param)
