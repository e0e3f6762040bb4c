# SPDX-License-Identifier: Apache-2.0
"""What a vector of evidence is, how it is written, and how the committed ones are proven.

A maker gives `Evidence`: everything about a vector that is not made of signatures, and a function that forges the rest
under TEST or SIMULATED roots. Signatures are random, so the committed files are the authority: `check` proves that each
one is a maker's and gets its verdict, `write` forges only those that are missing or say something else.

Large parts that several vectors have in common stand once in `shared/`, named by their digest.
"""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import json
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "spec" / "vectors" / "evidence"
SHARED = FOLDER / "shared"
UNREACHABLE = FOLDER / "UNREACHABLE.json"
MAX_TOTAL = 12 * 1024 * 1024  # bytes of the whole folder
MIN_SHARED = 400  # bytes; a smaller part is not worth a file

sys.path.insert(0, str(ROOT / "core" / "tests"))  # the forges

from teehouse.conformance import decide  # noqa: E402
from teehouse_core.appraise.catalogue import CATALOGUE  # noqa: E402
from teehouse_core.appraise.policy import PRESETS, Policy  # noqa: E402

LITERAL = re.compile(rb'"((?:[^"\\]|\\.){%d,})"' % MIN_SHARED)


@dataclass(frozen=True)
class Evidence:
    """`fixed` are the input's members that need no forging, `forge` gives the others, in which bytes are bytes.

    `expect` is `accept`, `malformed` or `reject/<check id>`; `also` names the checks that then refuse as well: they
    look at what the first one showed to be missing.
    """

    id: str
    family: str
    stage: str
    description: str
    expect: str
    policy: Policy
    now: int
    forge: Callable[[], dict[str, Any]]
    fixed: Mapping[str, Any] = field(default_factory=dict)
    also: tuple[str, ...] = ()

    def head(self) -> dict[str, Any]:
        """Everything that does not depend on the forge."""
        head: dict[str, Any] = {"id": self.id, "stage": self.stage, "description": self.description}
        head["expect"] = self.expect
        if self.also:
            head["also"] = list(self.also)
        head["input"] = {"now": self.now, "policy": policy_json(self.policy), **encode(dict(self.fixed))}
        return head

    @property
    def name(self) -> str:
        return f"{self.family}/{self.id}.json"


def slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def sentence(what: str, thing: str) -> str:
    return f"{what}: {thing}. Everything else is right."


def policy_json(policy: Policy) -> dict[str, Any]:
    """The policy as a file would say it: the nearest preset, and what differs. Its name is nobody's business here."""
    found = []
    for preset in PRESETS:
        base = dataclasses.replace(Policy.preset(preset), name=policy.name)
        changes = _changes(base.to_json(), policy.to_json())
        found.append({"base": preset, **changes})
    best = min(found, key=lambda value: (len(json.dumps(value)), PRESETS.index(value["base"])))
    again = Policy.load(json.dumps(best), "json")
    if dataclasses.replace(again, name=policy.name) != policy:
        raise ValueError(f"policy does not read back: {best}")
    return best


def _changes(base: Mapping[str, Any], value: Mapping[str, Any]) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for name, item in value.items():
        if item == base[name]:
            continue
        out[name] = _changes(base[name], item) if isinstance(item, dict) else item
    return out


def encode(value: Any) -> Any:
    """Bytes as the conformance command takes them."""
    if isinstance(value, bytes):
        return base64.urlsafe_b64encode(value).rstrip(b"=").decode()
    if isinstance(value, dict):
        return {name: encode(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [encode(item) for item in value]
    return value


class Shelf:
    """Parts that stand in more than one vector, by digest."""

    def __init__(self) -> None:
        self.known = {path.stem: path.name for path in sorted(SHARED.glob("*"))} if SHARED.exists() else {}
        self.seen: Counter[str] = Counter()
        self.made: dict[str, bytes] = {}

    def count(self, value: Any) -> None:
        """Remember the parts of one vector, each once."""
        for digest in {_digest(part) for blob in _blobs(value) for part in _parts(blob)}:
            self.seen[digest] += 1

    def put(self, value: Any) -> Any:
        """The same input with its shared parts as references and its other bytes encoded."""
        if isinstance(value, bytes):
            return self._bytes(value)
        if isinstance(value, dict):
            return {name: self.put(item) for name, item in value.items()}
        if isinstance(value, list | tuple):
            return [self.put(item) for item in value]
        return value

    def _bytes(self, blob: bytes) -> Any:
        if self._is_shared(blob):
            return self._reference(blob)
        if not _is_text(blob):
            return encode(blob)
        pieces: list[Any] = []
        at = 0
        for match in LITERAL.finditer(blob):
            if self._is_shared(match[1]):
                pieces += [blob[at : match.start(1)], self._reference(match[1])]
                at = match.end(1)
        pieces.append(blob[at:])
        texts = [{"text": p.decode()} if isinstance(p, bytes) else p for p in pieces if p]
        return texts if len(texts) != 1 else texts[0]

    def _is_shared(self, part: bytes) -> bool:
        digest = _digest(part)
        return len(part) >= MIN_SHARED and (digest in self.known or self.seen[digest] > 1)

    def _reference(self, part: bytes) -> dict[str, str]:
        name = _digest(part) + (".txt" if _is_text(part) else ".bin")
        self.made[name] = part
        return {"shared": name}


def _digest(part: bytes) -> str:
    return hashlib.sha256(part).hexdigest()[:24]


def _is_text(blob: bytes) -> bool:
    return blob.isascii() and b"\0" not in blob


def _blobs(value: Any) -> Iterator[bytes]:
    if isinstance(value, bytes):
        yield value
    elif isinstance(value, dict | list | tuple):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _blobs(item)


def _parts(blob: bytes) -> Iterator[bytes]:
    if len(blob) >= MIN_SHARED:
        yield blob
    if _is_text(blob):
        yield from (match[1] for match in LITERAL.finditer(blob))


def resolve(value: Any) -> Any:
    """An input with its references replaced by what they stand for: what the conformance command takes."""
    if isinstance(value, dict):
        if set(value) == {"shared"}:
            part = (SHARED / value["shared"]).read_bytes()
            return {"text": part.decode()} if _is_text(part) else encode(part)
        return {name: resolve(item) for name, item in value.items()}
    if isinstance(value, list):
        return [resolve(item) for item in value]
    return value


def references(value: Any) -> Iterator[str]:
    """The names of every shared part in an input."""
    if isinstance(value, dict) and set(value) == {"shared"}:
        yield value["shared"]
    elif isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from references(item)


def problem(vector: Mapping[str, Any]) -> str | None:
    """What is wrong with a committed vector's verdict, or None."""
    verdict = decide(vector["stage"], resolve(vector["input"]))
    if vector["expect"] in ("accept", "malformed"):
        return None if verdict["result"] == vector["expect"] else f"got {verdict}"
    expected = {vector["expect"].removeprefix("reject/"), *vector.get("also", ())}
    if verdict["result"] != "reject" or f"reject/{verdict['code']}" != vector["expect"]:
        return f"got {verdict['result']}/{verdict.get('code')} {verdict.get('refusing')}"
    if verdict["code"] in CATALOGUE and set(verdict["refusing"]) != expected:
        return f"refusing {verdict['refusing']}"
    return None


def load() -> dict[str, dict[str, Any]]:
    """Every committed vector by its path below the folder."""
    paths = [path for path in sorted(FOLDER.glob("*/*.json")) if path.parent != SHARED]
    return {path.relative_to(FOLDER).as_posix(): json.loads(path.read_text()) for path in paths}


def _same(document: Mapping[str, Any], vector: Evidence) -> bool:
    """Whether a committed vector says what its maker says, whatever was forged."""
    head = vector.head()
    fixed, given = head.pop("input"), document["input"]
    rest = {name: value for name, value in document.items() if name != "input"}
    return rest == head and all(given.get(name) == value for name, value in fixed.items())


def check(vectors: Iterable[Evidence], unreachable: Mapping[str, str]) -> list[str]:
    """Findings about the committed files."""
    wanted = {vector.name: vector for vector in vectors}
    there = load()
    wrong = [f"evidence/{name}: no maker makes it" for name in sorted(there.keys() - wanted.keys())]
    wrong += [f"evidence/{name}: not there" for name in sorted(wanted.keys() - there.keys())]
    for name in sorted(there.keys() & wanted.keys()):
        if not _same(there[name], wanted[name]):
            wrong.append(f"evidence/{name}: differs from what its maker says")
        elif said := problem(there[name]):
            wrong.append(f"evidence/{name}: expected {there[name]['expect']}, {said}")
    used = {name for document in there.values() for name in references(document["input"])}
    kept = {path.name for path in SHARED.glob("*")}
    wrong += [f"evidence/shared/{name}: no vector names it" for name in sorted(kept - used)]
    if not UNREACHABLE.exists() or json.loads(UNREACHABLE.read_text()) != dict(unreachable):
        wrong.append("evidence/UNREACHABLE.json: differs from what is made")
    wrong += uncovered(there.values(), unreachable)
    total = sum(path.stat().st_size for path in FOLDER.rglob("*") if path.is_file())
    if total > MAX_TOTAL:
        wrong.append(f"evidence: {total} bytes, over {MAX_TOTAL}")
    return wrong


def uncovered(there: Iterable[Mapping[str, Any]], unreachable: Mapping[str, str]) -> list[str]:
    """Ids of the catalogue that no vector shows as its only failure and that are not said to be unreachable."""
    alone = {v["expect"].removeprefix("reject/") for v in there if v["expect"].startswith("reject/")}
    wrong = [
        f"evidence: no vector shows {check_id}" for check_id in CATALOGUE if check_id not in alone | {*unreachable}
    ]
    return wrong + [f"evidence: {check_id} is reachable after all" for check_id in unreachable if check_id in alone]


def write(vectors: Iterable[Evidence], unreachable: Mapping[str, str], *, fresh: bool) -> list[str]:
    """Make the folder hold exactly the vectors; with `fresh` forge every one anew. Findings: forged ones gone wrong."""
    wanted = {vector.name: vector for vector in vectors}
    there = {} if fresh else load()
    kept = {n: d for n, d in there.items() if n in wanted and _same(d, wanted[n]) and not problem(d)}
    forged = {name: vector.forge() for name, vector in wanted.items() if name not in kept}
    shelf = Shelf()
    if fresh:
        shelf.known.clear()
    for value in forged.values():
        shelf.count(value)
    documents = dict(kept)
    for name, value in forged.items():
        document = wanted[name].head()
        document["input"] |= shelf.put(value)
        documents[name] = document
    SHARED.mkdir(parents=True, exist_ok=True)
    for name, part in shelf.made.items():
        (SHARED / name).write_bytes(part)
    for path in [*FOLDER.glob("*/*.json")]:
        if path.relative_to(FOLDER).as_posix() not in documents:
            path.unlink()
    for name, document in documents.items():
        (FOLDER / name).parent.mkdir(parents=True, exist_ok=True)
        if name not in kept:
            (FOLDER / name).write_text(json.dumps(document, indent=1, ensure_ascii=True) + "\n")
    used = {name for document in documents.values() for name in references(document["input"])}
    for path in SHARED.glob("*"):
        if path.name not in used:
            path.unlink()
    UNREACHABLE.write_text(json.dumps(dict(unreachable), indent=1, ensure_ascii=True) + "\n")
    return [
        f"evidence/{n}: expected {documents[n]['expect']}, {said}" for n in forged if (said := problem(documents[n]))
    ]
