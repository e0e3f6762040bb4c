# SPDX-License-Identifier: Apache-2.0
"""The parsed view of a report: every field of every part, with byte ranges; equal bytes give equal output.

`{"v":"parsed/1","type","size","sha256","fields":[…],"parts":[…]}`. A field of a binary part is
`{"path","start","end","value"}`, offsets into that part's bytes; a member of a JSON text is `{"path","value"}` with a
JSON pointer. A part says where it stands in its parent (`at`), how it is written there (`encoding`), and is of the same
shape again. Nothing is verified here, and nothing that does not parse is hidden: it has `problem` instead of fields.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from typing import Any, Final

from teehouse_core.errors import MalformedError, TeehouseError
from teehouse_core.evidence.bundle import MAX_BUNDLE, Bundle
from teehouse_core.evidence.detect import KINDS, detect, fields_of
from teehouse_core.evidence.jsontext import load_object, unb64_text
from teehouse_core.evidence.x509fields import pem_certificates

__all__ = ["VERSION", "differing_paths", "parse_artifact", "parse_report"]

VERSION: Final = "parsed/1"
MAX_VALUE: Final = 4096  # characters of a member shown as it is; longer ones are told by size and digest
MAX_PARTS: Final = 4096  # parts in one document, all levels together
MAX_DEPTH: Final = 6  # parts within parts
SMALLEST_PART: Final = 64  # bytes; shorter values hold no artifact
_PEM: Final = "-----BEGIN CERTIFICATE-----"


def parse_report(data: bytes) -> dict[str, Any]:
    """The parsed view of a bundle. Raises `MalformedError` when the bytes are no bundle."""
    Bundle.parse(data)  # whatever that refuses is not shown as if it were a report
    return {"v": VERSION, **_json_part("bundle", data, load_object(data, limit=MAX_BUNDLE, what="bundle"), [0], 0)}


def parse_artifact(data: bytes, kind: str | None = None) -> dict[str, Any]:
    """The parsed view of one artifact; its kind is found out when not given. Raises `MalformedError`, `LocalError`."""
    found = kind or detect(data)
    if found == "bundle":
        return parse_report(data)
    if found is None:
        raise MalformedError("this is none of the artifacts that are known here", code="kind-unknown")
    if found in KINDS:
        return {"v": VERSION, **_binary_part(found, data, fields_of(found, data), [0], 0)}
    if found == "pem":
        parts = _pem_parts(data.decode("utf-8", "replace"), [0], 0)
        return {"v": VERSION, **_head("pem", data), "fields": [], "parts": parts}
    return {"v": VERSION, **_json_part(found, data, load_object(data, limit=MAX_BUNDLE, what=found), [0], 0)}


def _head(kind: str, data: bytes) -> dict[str, Any]:
    return {"type": kind, "size": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def _binary_part(kind: str, data: bytes, fields: list[Any], count: list[int], depth: int) -> dict[str, Any]:
    parts: list[dict[str, Any]] = []
    for field in fields:
        if _PEM in field.value and depth < MAX_DEPTH:
            parts += [
                {"at": f"{field.path}/{n}", **part} for n, part in enumerate(_pem_parts(field.value, count, depth))
            ]
    return {**_head(kind, data), "fields": [field.to_json() for field in fields], "parts": parts}


def _json_part(kind: str, data: bytes, value: Any, count: list[int], depth: int) -> dict[str, Any]:
    fields: list[dict[str, Any]] = []
    parts: list[dict[str, Any]] = []
    _walk("", value, fields, parts, count, depth)
    return {**_head(kind, data), "fields": fields, "parts": parts}


def _walk(
    path: str, value: Any, fields: list[dict[str, Any]], parts: list[dict[str, Any]], count: list[int], depth: int
) -> None:
    if isinstance(value, dict):
        for name, item in value.items():
            _walk(f"{path}/{_escape(name)}", item, fields, parts, count, depth)
    elif isinstance(value, list):
        for number, item in enumerate(value):
            _walk(f"{path}/{number}", item, fields, parts, count, depth)
    elif isinstance(value, str) and (inner := _inner(value, count, depth)):
        parts += [{"at": path, **part} for part in inner]
    elif isinstance(value, str) and len(value) > MAX_VALUE:
        digest = hashlib.sha256(value.encode("utf-8")).hexdigest()
        fields.append({"path": path, "value": f"{len(value)} characters, sha256 {digest}"})
    else:
        fields.append({"path": path, "value": value})


def _inner(text: str, count: list[int], depth: int) -> list[dict[str, Any]]:
    """The artifacts that a text holds: PEM, JSON, or hex or base64 of a kind that has fields."""
    if depth >= MAX_DEPTH or len(text) < SMALLEST_PART:
        return []
    if _PEM in text:
        return _pem_parts(text, count, depth)
    if text[0] == "{":
        raw = text.encode("utf-8")
        try:
            value = load_object(raw, limit=MAX_BUNDLE, what="a text")
        except MalformedError:
            return []
        return [{"encoding": "text", **_json_part("json", raw, value, count, depth + 1)}] if _room(count) else []
    for encoding, raw in _decoded(text):
        kind = detect(raw) if len(raw) >= SMALLEST_PART else None
        if kind is not None and kind in KINDS and _room(count):
            return [{"encoding": encoding, **_try(kind, raw, count, depth)}]
    return []


def _try(kind: str, raw: bytes, count: list[int], depth: int) -> dict[str, Any]:
    try:
        return _binary_part(kind, raw, fields_of(kind, raw), count, depth + 1)
    except TeehouseError as error:
        return {**_head(kind, raw), "problem": error.code, "fields": [], "parts": []}


def _decoded(text: str) -> list[tuple[str, bytes]]:
    found: list[tuple[str, bytes]] = []
    if len(text) % 2 == 0 and not text.strip("0123456789abcdefABCDEF"):
        found.append(("hex", bytes.fromhex(text)))
    with contextlib.suppress(MalformedError, ValueError):
        found.append(("base64", unb64_text(text, limit=MAX_BUNDLE, what="a member")))
    return found


def _pem_parts(text: str, count: list[int], depth: int) -> list[dict[str, Any]]:
    try:
        ders = pem_certificates(text)
    except MalformedError as error:
        head = _head("pem", text.encode("utf-8"))
        return [{"encoding": "pem", **head, "problem": error.code, "fields": [], "parts": []}]
    return [{"encoding": "pem", **_try("certificate", raw, count, depth)} for raw in ders if _room(count)]


def _room(count: list[int]) -> bool:
    count[0] += 1
    return count[0] <= MAX_PARTS


def _escape(name: str) -> str:
    return name.replace("~", "~0").replace("/", "~1")  # RFC 6901


def differing_paths(left: Any, right: Any, *, limit: int = 1000) -> list[tuple[str, str, str]]:
    """Where two JSON values differ: (pointer, left, right) with short texts, at most `limit` of them."""
    found: list[tuple[str, str, str]] = []
    stack: list[tuple[str, Any, Any]] = [("", left, right)]
    missing = object()
    while stack and len(found) < limit:
        path, a, b = stack.pop()
        if isinstance(a, dict) and isinstance(b, dict):
            names = [*a, *(n for n in b if n not in a)]
            stack += [(f"{path}/{_escape(n)}", a.get(n, missing), b.get(n, missing)) for n in reversed(names)]
        elif isinstance(a, list) and isinstance(b, list):
            size = max(len(a), len(b))
            pairs = [(a[n] if n < len(a) else missing, b[n] if n < len(b) else missing) for n in range(size)]
            stack += [(f"{path}/{n}", *pairs[n]) for n in reversed(range(size))]
        elif type(a) is not type(b) or a != b:
            found.append((path, _short(a, missing), _short(b, missing)))
    return found


def _short(value: Any, missing: object) -> str:
    if value is missing:
        return "(absent)"
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 120 else text[:119] + "…"
