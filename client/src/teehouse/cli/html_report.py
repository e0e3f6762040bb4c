# SPDX-License-Identifier: Apache-2.0
"""A verdict as one HTML file: no script, no other file, nothing fetched; reads on a screen and on paper.

Every text is escaped, since most of them were written by whoever is being judged. Each check says what it is about and
why, in the words of its page in the documentation; for a check that refuses this is open, on paper too.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from teehouse.cli.check_titles import GROUPS, texts_of, title_of
from teehouse.cli.html_style import STYLE
from teehouse.cli.offline import stamp
from teehouse_core.appraise.policy import Policy

__all__ = ["page"]

MAX_FIELDS: Final = 4000  # rows of parsed fields on one page
MAX_SHOWN: Final = 600  # characters of one value on the page; the parsed view has all of it

_LINK: Final = re.compile(r"\[([^\]]*)\]\([^)]*\)")
_CODE: Final = re.compile(r"`([^`]*)`")
_MARKS: Final = {
    "passed": ("✓", "passed"),
    "failed": ("✗", "failed"),
    "skipped": ("◌", "not made"),
    "not-applicable": ("–", "not applicable"),
}
_RESULTS: Final = {
    "accepted": ("✓", "Accepted", "No required check failed or was left out."),
    "refused": ("✗", "Refused", "At least one required check failed or could not be made."),
    "unsupported": ("◌", "Not supported", "This version cannot tell. Nothing was accepted."),
}
_TIERS: Final = {
    "hardware": "a processor vendor's root vouches for the machine",
    "vtpm": "measured boot on a virtual TPM; the host is trusted",
    "simulated": "a root whose private key is public: nothing is protected",
    "none": "no root vouches for anything here",
}


def page(
    document: Mapping[str, Any], *, subject: str, policy: Policy, at: int, parsed: Mapping[str, Any] | None = None
) -> str:
    """The page of one verdict (`to_json()` of a `Verdict` or `ArtifactVerdict`).

    `subject` names what was appraised (a file, a node); `at` is the appraisal time in Unix seconds; `parsed` adds the
    fields of the evidence itself.
    """
    checks: Sequence[Mapping[str, Any]] = document["checks"]
    refusing = [c for c in checks if c["required"] and c["state"] in ("failed", "skipped")]
    result, tier = str(document["result"]), str(document["tier"])
    mark, word, meaning = _RESULTS.get(result, ("◌", result, ""))
    body = [
        f'<header class="{_e(result)}"><p class="brand">Teehouse · attestation report</p>',
        f'<h1><span class="mark" aria-hidden="true">{mark}</span> {_e(word)}</h1>',
        f"<p>{_e(meaning)}</p>",
        _banner(tier, policy),
        _facts(
            [
                ("Subject", subject),
                ("Appraised at", stamp(at)),
                ("Tier", f"{tier}: {_TIERS.get(tier, '')}"),
                ("Policy", policy.name),
                ("Checks", _counts(checks)),
                ("Policy sha256", policy.digest),
            ]
        ),
        "</header><main>",
    ]
    if refusing:
        body.append(
            f'<section class="why"><h2>Why it is refused</h2><ol>{"".join(map(_reason, refusing))}</ol></section>'
        )
    body.append(_policy(policy))
    body += [_group(group, about, checks) for group, about in GROUPS.items()]
    body.append(_claims(document["claims"]))
    if parsed is not None:
        body.append(_parsed(parsed))
    body.append(
        "</main><footer><p>This page was made offline from the evidence and the policy named above. It proves nothing "
        "by itself: whoever has the evidence can recompute it with <code>teehouse report verify</code> or "
        "<code>teehouse evidence verify</code>, at the same time and under the same policy.</p></footer>"
    )
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        f"<title>{_e(word)}: {_e(subject)}</title><style>{STYLE}</style></head><body>{''.join(body)}</body></html>\n"
    )


def _e(value: object) -> str:
    text = value if isinstance(value, str) else str(value)
    shown = text if len(text) <= MAX_SHOWN else text[: MAX_SHOWN - 1] + "…"
    safe = "".join(c if c.isprintable() or c in "\n\t" else "\N{REPLACEMENT CHARACTER}" for c in shown)
    return html.escape(safe, quote=True)


def _about(check_id: object, *, shown: bool) -> str:
    """What the check is, folded where there is no reason to read it."""
    texts = texts_of(str(check_id))
    if not texts:
        return ""
    rows = "".join(
        f"<p><b>{name}</b> {_prose(texts[key])}</p>"
        for name, key in (("What.", "what"), ("Why.", "why"), ("Without it.", "attacker"))
    )
    where = f'<p class="where">docs: checks/{_e(check_id)}.md</p>'
    return f"<details{' open' if shown else ''}><summary>what this checks</summary>{rows}{where}</details>"


def _prose(text: str) -> str:
    """One paragraph of our own Markdown: code and links' words, nothing else."""
    plain = _LINK.sub(r"\1", text)
    return _CODE.sub(r"<code>\1</code>", html.escape(plain, quote=True))


def _title(check_id: object) -> str:
    words = title_of(str(check_id))
    return _e(words[:1].upper() + words[1:])


def _value(value: str) -> str:
    """Long runs of zero bytes are told, not shown."""
    if len(value) >= 32 and not value.strip("0"):
        return f"{len(value) // 2} zero bytes"
    return value


def _banner(tier: str, policy: Policy) -> str:
    if tier == "simulated":
        return '<p class="amber">⚠ SIMULATED evidence. It protects nothing and proves nothing.</p>'
    if policy.simulated_allowed:
        return '<p class="amber">⚠ This policy accepts SIMULATED evidence too, which would protect nothing.</p>'
    return ""


def _facts(rows: Iterable[tuple[str, object]]) -> str:
    cells = "".join(f"<div><dt>{_e(name)}</dt><dd>{_e(value)}</dd></div>" for name, value in rows)
    return f'<dl class="facts">{cells}</dl>'


def _counts(checks: Sequence[Mapping[str, Any]]) -> str:
    told = []
    for state, (_, word) in _MARKS.items():
        if number := sum(c["state"] == state for c in checks):
            told.append(f"{number} {word}")
    return ", ".join(told) or "none"


def _reason(check: Mapping[str, Any]) -> str:
    rows = "".join(
        f"<div><dt>{name}</dt><dd>{_e(check[key])}</dd></div>"
        for name, key in (("came", "claimed"), ("expected", "expected"), ("from", "source"), ("clause", "clause"))
        if check[key]
    )
    _, word = _MARKS.get(str(check["state"]), ("", str(check["state"])))
    return (
        f'<li><h3>{_title(check["id"])} <a href="#{_e(check["id"])}"><code>{_e(check["id"])}</code></a></h3>'
        f"<p><strong>{_e(word.capitalize())}:</strong> {_e(check['hint'])}</p><dl>{rows}</dl>"
        f"{_about(check['id'], shown=True)}</li>"
    )


def _claims(claims: Mapping[str, Any]) -> str:
    rows: list[tuple[str, str]] = []
    _flatten("", {k: v for k, v in claims.items() if k not in ("policy", "policy_sha256")}, rows)
    body = "".join(f'<tr><th scope="row">{_e(name)}</th><td>{_e(_value(value))}</td></tr>' for name, value in rows)
    return (
        f"<section><h2>What it says</h2><table class='claims'><tbody>{body}</tbody></table></section>" if rows else ""
    )


def _flatten(prefix: str, value: Any, rows: list[tuple[str, str]]) -> None:
    if isinstance(value, Mapping):
        for name, item in value.items():
            _flatten(f"{prefix}.{name}" if prefix else str(name), item, rows)
    elif isinstance(value, list) and all(isinstance(item, str | int) for item in value):
        rows.append((prefix, ", ".join(map(str, value)) or "none"))
    elif isinstance(value, list):
        for number, item in enumerate(value):
            _flatten(f"{prefix}.{number}", item, rows)
    else:
        rows.append((prefix, str(value)))


def _policy(policy: Policy) -> str:
    """Every field in which the policy is not `standard`: that is where it was loosened or tightened."""
    base, mine = Policy.preset("standard").to_json(), policy.to_json()
    rows = [(name, base.get(name), value) for name, value in mine.items() if name != "name" and value != base.get(name)]
    if not rows:
        return "<section><h2>Policy</h2><p>As the preset <em>standard</em>, field by field.</p></section>"
    cells = "".join(
        f'<tr><th scope="row">{_e(name)}</th><td>{_e(_short(value))}</td><td>{_e(_short(was))}</td></tr>'
        for name, was, value in rows
    )
    return (
        "<section><h2>Policy</h2><p>Where it is not the preset <em>standard</em>:</p><table><thead><tr><th>field</th>"
        f'<th>here</th><th>standard</th></tr></thead><tbody class="amber-rows">{cells}</tbody></table></section>'
    )


def _short(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    if isinstance(value, Mapping):
        return ", ".join(f"{name}: {_short(item)}" for name, item in value.items() if item) or "none"
    return str(value)


def _group(group: str, about: str, checks: Sequence[Mapping[str, Any]]) -> str:
    mine = [c for c in checks if c["group"] == group]
    if not mine or all(c["state"] == "not-applicable" for c in mine):
        return ""
    rows = []
    for check in mine:
        mark, word = _MARKS.get(str(check["state"]), ("?", str(check["state"])))
        refuses = check["required"] and check["state"] in ("failed", "skipped")
        optional = "" if check["required"] else " <small>optional</small>"
        detail = check["claimed"] if check["state"] == "passed" else check["hint"] or check["claimed"]
        shown = f'<span aria-hidden="true">{mark}</span> {_e(word)}'
        name = f"<strong>{_title(check['id'])}</strong>{optional}<br><code>{_e(check['id'])}</code>"
        name += _about(check["id"], shown=False)
        rows.append(
            f'<tr id="{_e(check["id"])}" class="{_e(check["state"])}{" refuses" if refuses else ""}">'
            f'<td class="state">{shown}</td><td>{name}</td><td>{_e(detail)}</td>'
            f'<td class="clause">{_e(check["clause"])}</td></tr>'
        )
    head = "<thead><tr><th>state</th><th>check</th><th>what came</th><th>clause</th></tr></thead>"
    name = "GPU" if group == "gpu" else group.capitalize()
    return (
        f"<section><h2>{_e(name)} <small>{_e(about)}</small></h2>"
        f"<table class='checks'>{head}<tbody>{''.join(rows)}</tbody></table></section>"
    )


def _parsed(parsed: Mapping[str, Any]) -> str:
    left = [MAX_FIELDS]
    tables = "".join(_part(part, left) for part in _parts(parsed))
    return f'<section class="fields"><h2>Evidence, field by field</h2>{tables}</section>'


def _parts(part: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    found: list[Mapping[str, Any]] = [part]
    for inner in part.get("parts", []):
        found += _parts(inner)
    return found


def _part(part: Mapping[str, Any], left: list[int]) -> str:
    fields = part["fields"][: max(0, left[0])]
    left[0] -= len(fields)
    if not fields:
        return ""
    rows = "".join(
        f'<tr><td>{_range(f)}</td><th scope="row">{_e(f["path"])}</th><td>{_e(_value(str(f["value"])))}</td></tr>'
        for f in fields
    )
    place = f" at {_e(part['at'])}" if "at" in part else ""
    return (
        f"<h3>{_e(part['type'])}{place} <small>{_e(part['size'])} bytes, sha256 {_e(part['sha256'])}</small></h3>"
        f"<table class='bytes'><tbody>{rows}</tbody></table>"
    )


def _range(field: Mapping[str, Any]) -> str:
    return f"{field['start']:#06x}–{field['end']:#06x}" if "start" in field else ""
