"""pydantic's errors in plain words: file, line, key, what was found, what is allowed, what to do."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from pydantic import BaseModel, ValidationError

from configs.document import Document, KeyPath
from configs.rules import BrokenRule, BrokenRulesError
from configs.schema import model_at, suggest_key
from configs.wording import listed, nearest, shown
from tasks.foundation.errors import ConfigError

_BOUNDS = {"gt": "above", "ge": "at least", "lt": "below", "le": "at most"}
_EXPECTED = {
    "string": "text",
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "finite": "a finite number",
    "tuple": "a list",
    "dict": "a mapping",
    "model": "a mapping",
}
_OF_A_RULE = re.compile(r"(\w+): (.+)", re.DOTALL)


class _Finding(NamedTuple):
    """One error of pydantic, with its place as the user knows it."""

    path: KeyPath
    kind: str
    input: Any
    context: Mapping[str, Any]
    in_union: bool


def explain(error: ValidationError, root: type[BaseModel], document: Document) -> list[ConfigError]:
    """All problems, section by section, without the noise of union branches."""
    found = [_finding(details, document.data) for details in error.errors(include_url=False)]
    findings = _without_branch_noise([finding for finding in found if not _is_short_of_bad_entries(finding)])
    problems = [rule for finding in findings for rule in _rules(finding, root, document.data)]
    return [_error(rule, document) for rule in problems]


def _error(rule: BrokenRule, document: Document) -> ConfigError:
    return ConfigError(rule.what, where=document.where(rule.path), allowed=rule.allowed, fix=rule.fix)


def _finding(details: Mapping[str, Any], data: Any) -> _Finding:
    """The names of union branches are taken out of the place: they are no keys of the file."""
    path: list[str | int] = []
    loc, in_union = details["loc"], False
    for position, part in enumerate(loc):
        is_last = position == len(loc) - 1
        if _holds(data, part):
            data = data[part]
        elif not (is_last and details["type"] in {"missing", "extra_forbidden"}):
            in_union = True
            continue
        path.append(part)
    return _Finding(tuple(path), details["type"], details["input"], details.get("ctx", {}), in_union)


def _holds(data: Any, part: str | int) -> bool:
    if isinstance(data, Mapping):
        return part in data
    return isinstance(data, (list, tuple)) and isinstance(part, int) and part < len(data)


def _without_branch_noise(findings: Sequence[_Finding]) -> Iterator[_Finding]:
    """Of a union's branches keep the one that got furthest; where none got anywhere, one finding for all."""
    places: dict[KeyPath, list[_Finding]] = {}
    for finding in findings:
        places.setdefault(finding.path, []).append(finding)
    for path, here in places.items():
        branches = [finding for finding in here if finding.in_union]
        deeper = any(other[: len(path)] == path and len(other) > len(path) for other in places)
        yield from (finding for finding in here if not finding.in_union)
        if not branches or (deeper and all(_is_wrong_type(finding) for finding in branches)):
            continue
        furthest = [finding for finding in branches if not _is_wrong_type(finding)] or branches
        if len(furthest) == 1 or not _is_wrong_type(furthest[0]):
            yield furthest[0]
        else:
            yield furthest[0]._replace(kind="union", context={"kinds": [finding.kind for finding in furthest]})


def _is_short_of_bad_entries(finding: _Finding) -> bool:
    """pydantic counts only good entries: a list whose one entry is wrong would be called too short as well."""
    return finding.kind == "too_short" and len(finding.input) >= finding.context["min_length"]


def _is_wrong_type(finding: _Finding) -> bool:
    return finding.kind.endswith("_type")


def _rules(finding: _Finding, root: type[BaseModel], data: Any) -> Iterable[BrokenRule]:
    cause = finding.context.get("error")
    if isinstance(cause, BrokenRulesError):
        return [rule.model_copy(update={"path": (*finding.path, *rule.path)}) for rule in cause.rules]
    if finding.kind == "extra_forbidden":
        return [_unknown_key(finding, root, data)]
    if finding.kind == "missing":
        return [_missing_key(finding, root, data)]
    if finding.kind == "value_error":
        return [_own_rule(str(cause), finding, root, data)]
    return [_wrong_value(finding)]


def _unknown_key(finding: _Finding, root: type[BaseModel], data: Any) -> BrokenRule:
    section = model_at(root, finding.path[:-1], data)
    fix = suggest_key(root, finding.path, data)
    allowed = "" if fix or section is None else listed(section.model_fields)
    return BrokenRule(path=finding.path, what="unknown key", allowed=allowed, fix=fix)


def _missing_key(finding: _Finding, root: type[BaseModel], data: Any) -> BrokenRule:
    section = model_at(root, finding.path[:-1], data)
    field = section.model_fields.get(str(finding.path[-1])) if section else None
    words = " ".join((field.description or "").split()) if field else ""
    return BrokenRule(path=finding.path, what="is missing", allowed=words.rstrip("."), fix="Add it")


def _own_rule(text: str, finding: _Finding, root: type[BaseModel], data: Any) -> BrokenRule:
    """A section's own rule; one that starts with a key of the section is placed at that key."""
    section = model_at(root, finding.path, data)
    match = _OF_A_RULE.fullmatch(text)
    if section and match and match[1] in section.model_fields:
        return BrokenRule(path=(*finding.path, match[1]), what=match[2])
    return BrokenRule(path=finding.path, what=text or "is not valid")


def _wrong_value(finding: _Finding) -> BrokenRule:
    allowed, fix = _allowed(finding), _fix(finding)
    return BrokenRule(path=finding.path, what=_what(finding), allowed=allowed, fix=fix)


def _what(finding: _Finding) -> str:
    if finding.input is None:
        return "has no value"
    if finding.kind == "string_too_long":
        return f"{shown(finding.input)} is too long"
    return f"{shown(finding.input)} does not fit"


def _allowed(finding: _Finding) -> str:
    context, family = finding.context, finding.kind.split("_")[0]
    if finding.kind == "literal_error":
        return listed(_choices(finding))
    if finding.kind == "union":
        return " or ".join(dict.fromkeys(_EXPECTED.get(kind.split("_")[0], kind) for kind in context["kinds"]))
    if finding.kind == "string_pattern_mismatch":
        return _pattern_words(str(context["pattern"]))
    if finding.kind in {"too_short", "too_long", "string_too_short", "string_too_long"}:
        return _length_words(context)
    bounds = [f"{words} {context[key]:g}" for key, words in _BOUNDS.items() if key in context]
    return bounds[0] if bounds else _EXPECTED.get(family, finding.kind.replace("_", " "))


def _choices(finding: _Finding) -> list[str]:
    """`'auto', 'fp32' or True` as YAML writes them."""
    words = re.split(r", | or ", str(finding.context["expected"]))
    return [word.lower() if word in {"True", "False"} else word.strip("'") for word in words]


def _pattern_words(pattern: str) -> str:
    known = {
        r"^[0-9a-f]{40}$": "the 40 hex digits (0-9, a-f) of a commit",
        r"^[a-z0-9][a-z0-9._-]*$": "lower-case letters, digits, '.', '_' and '-', a letter or digit first",
    }
    return known.get(pattern, f"text like {pattern}")


def _length_words(context: Mapping[str, Any]) -> str:
    if "min_length" in context:
        return f"at least {context['min_length']}"
    return f"at most {context['max_length']} characters"


def _fix(finding: _Finding) -> str:
    got = finding.input
    if finding.kind == "literal_error":
        close = nearest(got, _choices(finding)) if isinstance(got, str) else ""
        return f"Did you mean {close}?" if close else ""
    if finding.kind == "string_type" and isinstance(got, bool):
        return "YAML reads yes, no, on and off as true and false: write it in quotes"
    if finding.kind == "string_type" and isinstance(got, (int, float)):
        return "Write it in quotes"
    if finding.kind == "model_type" and isinstance(got, str) and finding.path[-2:-1] in {("train",), ("eval",)}:
        return f"Write {{path: {got}}}" if got.isprintable() else "Write {path: …}"
    if finding.kind == "tuple_type" and isinstance(got, (str, int)):
        return f"Write [{got}]" if str(got).isprintable() and len(str(got)) < 60 else "Write a list: [ … ]"
    if finding.kind == "union" and isinstance(got, dict):
        return "Put the mapping in a list: [{…}]"
    return ""
