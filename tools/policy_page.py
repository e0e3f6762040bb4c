# SPDX-License-Identifier: Apache-2.0
"""The page of the policy's fields: names, values and presets from the code, meanings from `docs/policy.toml`.

What a field takes is what its reader answers to a wrong value; what a preset says is `Policy.to_json`. A field without
a meaning, a meaning without a field, and a check that does not exist are errors. Written by `check_pages.py`.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from teehouse_core.appraise.catalogue import CATALOGUE
from teehouse_core.appraise.policy import PRESETS, Policy
from teehouse_core.errors import LocalError

SOURCE: Final = "docs/policy.toml"
PAGE: Final = "policy-fields"
SECTIONS: Final = (
    "",
    "references",
    "gpu",
    "snp",
    "tpm",
    "key_service",
    "pool",
    "ledger",
)  # tables of the policy file; "" is its top level

HEADS: Final = {
    "en": ("field", "takes", "preset", "what it decides"),
    "zh": ("字段", "取值（出错时提示的原文）", "预置策略", "决定什么"),
}
NONE: Final = {"en": "none", "zh": "无"}
CHECKS: Final = {"en": " Checks: ", "zh": "检查项："}


def load_meanings(root: Path) -> dict[str, Any]:
    """The table file. Raises `ValueError` with the reason."""
    try:
        value = tomllib.loads((root / SOURCE).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{SOURCE}: {error}") from None
    return value


def policy_problems(meanings: Mapping[str, Any]) -> Iterator[str]:
    """Fields and meanings that stand on one side only, and checks that do not exist."""
    fields = set(_fields())
    described = {name for name in meanings if name != "page"}
    for name in sorted(fields - described):
        yield f"policy field {name} has no entry in {SOURCE}"
    for name in sorted(described - fields):
        yield f"{SOURCE} describes {name}, which is no policy field"
    for name in sorted(described):
        if not all(isinstance(meanings[name].get(language), str) for language in HEADS):
            yield f"{SOURCE}: {name} is not told in both languages"
        for check_id in meanings[name].get("checks", ()):
            if not any(known == check_id or known.startswith(check_id.removesuffix("*")) for known in CATALOGUE):
                yield f"{SOURCE}: {name} names {check_id}, which is no check"


def policy_page(meanings: Mapping[str, Any], language: str, mark: str) -> str:
    """The whole page in one language."""
    texts = meanings["page"][language]
    presets = {name: _flat(Policy.preset(name).to_json()) for name in PRESETS}
    lines = [mark, f"# {texts['title']}", "", texts["intro"].strip()]
    for section in SECTIONS:
        told = texts.get(section or "top", {})
        lines += ["", f"## {told['title']}", "", told["intro"].strip(), ""]
        lines += [f"| {' | '.join(HEADS[language])} |", "| --- | --- | --- | --- |"]
        for name in _fields():
            if name.rpartition(".")[0] != section or name not in meanings:
                continue
            meaning = meanings[name]
            text = meaning[language].strip()
            if checks := meaning.get("checks"):
                links = ", ".join(f"[`{c}`](checks/{c}.md)" if c in CATALOGUE else f"`{c}`" for c in checks)
                text += f"{CHECKS[language]}{links}"
            cells = (f"`{name}`", _takes(name), _presets(presets, name, language), text)
            lines.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    return "\n".join(lines) + "\n"


def _flat(policy: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in policy.items():
        if isinstance(value, dict):
            found.update({f"{name}.{member}": item for member, item in value.items()})
        else:
            found[name] = value
    return found


def _fields() -> tuple[str, ...]:
    return tuple(_flat(Policy().to_json()))


def _takes(name: str) -> str:
    section, _, member = name.rpartition(".")
    wrong: Any = {"no": "field takes this"}
    try:
        Policy.load(json.dumps({section: {member: wrong}} if section else {member: wrong}), "json")
    except LocalError as error:
        want = str(error.hint).removeprefix(f"{name} is ")
        words = want.removeprefix("a list of ").removesuffix(", each once").split(" or ")
        return f"a list of {', '.join(f'`{word}`' for word in words)}" if len(words) > 3 else want
    return ""


def _presets(presets: Mapping[str, Mapping[str, Any]], name: str, language: str) -> str:
    default = presets["standard"][name]
    shown = [f"standard: {_show(default, language)}"]
    shown += [
        f"{p}: {_show(presets[p][name], language)}" for p in ("strict", "evaluate") if presets[p][name] != default
    ]
    return "<br>".join(shown) if len(shown) > 1 else _show(default, language)


def _show(value: Any, language: str) -> str:
    if isinstance(value, list):
        return (
            ", ".join(f"`{json.dumps(item) if isinstance(item, dict) else item}`" for item in value) or NONE[language]
        )
    return f"`{json.dumps(value)}`" if value != "" else NONE[language]
