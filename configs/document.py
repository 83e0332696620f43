"""A YAML file as plain data in which every key knows where it stands.

YAML 1.2's numbers (`1e-3` is a number, `010` is ten), YAML 1.1's `yes` and `no`, merge keys, and nothing else: no
tags, no dates. Size, depth, aliases and nodes are bounded, so that no file can keep the command line busy.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import yaml

from configs.wording import key_text, nearest, shown
from tasks.foundation.errors import ConfigError

KeyPath = tuple[str | int, ...]
"""`methods[2].r` as ("methods", 2, "r")."""

_MAX_BYTES = 256 * 1024
_MAX_DEPTH = 20
_MAX_ALIASES = 100
_MAX_NODES = 20_000
_TAG = "tag:yaml.org,2002:"
_UNREADABLE: dict[type[Exception], str] = {
    FileNotFoundError: "no such file",
    NotADirectoryError: "no such file",
    IsADirectoryError: "is a folder, not an experiment file",
    PermissionError: "may not be read",
}
_SCALARS: dict[str, Callable[[str], Any]] = {
    "str": str,
    "null": lambda text: None,
    "bool": lambda text: text.lower() in {"true", "yes", "on"},
    "int": lambda text: _whole_number(text),
    "float": lambda text: float(re.sub(r"(?i)\.(inf|nan)", r"\1", text)),
}


@dataclass(frozen=True)
class Document:
    """An experiment as it was written: nested mappings and lists of plain values."""

    file: str
    data: dict[str, Any]
    origins: Mapping[KeyPath, str]
    """Where each key stands: `a.yaml:12`, or `override training.max_steps=5`."""

    def where(self, path: KeyPath) -> str:
        """`a.yaml:12: methods[2].r`; a key that is not there is placed at the section that should hold it."""
        parents = (path[:length] for length in range(len(path), -1, -1))
        origin = next((self.origins[parent] for parent in parents if parent in self.origins), self.file)
        return f"{origin}: {key_text(path)}" if path else origin


class _Loader(yaml.SafeLoader):
    """Composes nodes only; the constructors of PyYAML are not used."""

    _depth = 0
    _aliases = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
        self._aliases += self.check_event(yaml.AliasEvent)
        if self._aliases > _MAX_ALIASES:
            raise yaml.MarkedYAMLError(problem=f"more than {_MAX_ALIASES} aliases", problem_mark=mark)
        if self._depth >= _MAX_DEPTH:
            raise yaml.MarkedYAMLError(problem=f"nested more than {_MAX_DEPTH} levels deep", problem_mark=mark)
        self._depth += 1
        try:
            return super().compose_node(parent, index)
        finally:
            self._depth -= 1


_Loader.yaml_implicit_resolvers = {}
for _name, _pattern, _first in (
    ("bool", r"(?i:yes|no|true|false|on|off)", "yYnNtTfFoO"),
    ("int", r"[-+]?[0-9](_?[0-9])*", "-+0123456789"),
    ("float", r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(?i:inf)|\.(?i:nan)", "-+.0123456789"),
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("merge", r"<<", "<"),
):
    _Loader.add_implicit_resolver(f"{_TAG}{_name}", re.compile(rf"(?:{_pattern})\Z"), list(_first))


def read_document(path: Path) -> Document:
    """Read an experiment file.

    Raises:
        ConfigError: naming the line: missing, too large, not UTF-8, not YAML, not a mapping, a key twice.
    """
    file = str(path)
    reader = _Reader(file)
    root = _compose(_read_text(path), file)
    if root is None:
        fix = "Start from configs/experiments/template.yaml or `tuneline init`"
        raise ConfigError("the file is empty", where=file, fix=fix)
    data = reader.read(root)
    if not isinstance(data, dict):
        what = f"the file holds {shown(data)}"
        raise ConfigError(what, where=f"{file}:1", allowed="a mapping with the keys model, data and methods")
    return Document(file, data, reader.origins)


def read_value(text: str, origin: str) -> Any:
    """One value as it would stand in the file: `8`, `1e-3`, `[0, 1]`, `{kind: lora}`.

    Raises:
        ConfigError: with `origin` as the place.
    """
    try:
        root = _compose(text, origin)
        return None if root is None else _Reader(origin).read(root)
    except ConfigError as error:
        fix = error.fix or "Quote a value that holds YAML's own characters: 'key=\"value\"'"
        raise ConfigError(error.what, where=origin, allowed=error.allowed, fix=fix) from error


def _whole_number(text: str) -> int:
    """An integer of at most 64 bits: more is always a mistake, and breaks what reads it later."""
    number = int(text.replace("_", ""))
    if not -(2**63) <= number < 2**63:
        raise ValueError(text)
    return number


def _read_text(path: Path) -> str:
    where = str(path) if str(path).isprintable() else shown(str(path))
    try:
        with path.open("rb") as file:
            raw = file.read(_MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        what = _UNREADABLE.get(type(error), f"cannot be read ({type(error).__name__})")
        raise ConfigError(what, where=where, fix=_suggest_file(path)) from error
    if len(raw) > _MAX_BYTES:
        raise ConfigError("is too large for an experiment file", where=where, allowed=f"{_MAX_BYTES // 1024} KiB")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        what = f"the byte 0x{raw[error.start]:02x} is not UTF-8"
        raise ConfigError(what, where=f"{where}:{line}", fix="Save the file as UTF-8") from error


def _suggest_file(path: Path) -> str:
    try:
        folder = path if path.is_dir() else path.parent
        names = sorted(entry.name for entry in folder.iterdir() if entry.suffix in {".yaml", ".yml"})
        close = nearest(path.name, names)
    except (OSError, ValueError):
        close = ""
    return f"Did you mean {folder / close}?" if close else "Name an experiment file; `tuneline init` writes one"


def _compose(text: str, file: str) -> yaml.Node | None:
    try:
        loader = _Loader(text)
        try:
            return loader.get_single_node()
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = file if mark is None else f"{file}:{mark.line + 1}"
        raise ConfigError(*_plain_syntax(error), where=where) from error
    except yaml.reader.ReaderError as error:
        line = text[: error.position].count("\n") + 1
        what = f"the character {text[error.position]!a} is not allowed in YAML"
        raise ConfigError(what, where=f"{file}:{line}", fix="Remove it") from error
    except ValueError as error:
        raise ConfigError("not YAML: a number or an escape that cannot exist", where=file) from error


def _plain_syntax(error: yaml.MarkedYAMLError) -> tuple[str]:
    problem = error.problem or error.context or "broken"
    if "'\\t'" in problem:
        return ("a tab; YAML indents with spaces",)
    if "but found another document" in problem:
        return ("a second document starts (---); an experiment file holds one",)
    column = f" (column {error.problem_mark.column + 1})" if error.problem_mark else ""
    return (f"not valid YAML{column}: {problem}",)


class _Reader:
    """Nodes to plain values; remembers where each key stands."""

    def __init__(self, origin: str) -> None:
        self.origin = origin
        self.origins: dict[KeyPath, str] = {}
        self._nodes = 0

    def read(self, node: yaml.Node, path: KeyPath = ()) -> Any:
        self._nodes += 1
        if self._nodes > _MAX_NODES:
            self._refuse(node, path, f"the aliases expand to more than {_MAX_NODES} values")
        if len(path) > _MAX_DEPTH:
            self._refuse(node, path, "refers to itself, or is nested too deep")
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path)
        if isinstance(node, yaml.SequenceNode):
            return [self._child(part, part, (*path, index)) for index, part in enumerate(node.value)]
        return self._scalar(node, path)

    def _child(self, key: yaml.Node, value: yaml.Node, path: KeyPath) -> Any:
        self.origins[path] = f"{self.origin}:{key.start_mark.line + 1}"
        return self.read(value, path)

    def _mapping(self, node: yaml.MappingNode, path: KeyPath) -> dict[str, Any]:
        merged: dict[str, Any] = {}
        own: dict[str, Any] = {}
        lines: dict[str, int] = {}
        for key, value in node.value:
            if key.tag == f"{_TAG}merge":
                for part in self._merge_parts(value, path):
                    merged = {**self.read(part, path), **merged}
                continue
            name, line = self._key(key, path), key.start_mark.line + 1
            if name in own:
                self._refuse(
                    key, (*path, name), f"stands twice, in lines {lines[name]} and {line}", fix="Keep one of them"
                )
            lines[name] = line
            own[name] = self._child(key, value, (*path, name))
        return {**merged, **own}

    def _merge_parts(self, node: yaml.Node, path: KeyPath) -> Iterator[yaml.Node]:
        parts = node.value if isinstance(node, yaml.SequenceNode) else [node]
        for part in parts:
            if not isinstance(part, yaml.MappingNode):
                self._refuse(part, path, "<< needs a mapping, or a list of mappings")
            yield part

    def _key(self, node: yaml.Node, path: KeyPath) -> str:
        if not isinstance(node, yaml.ScalarNode):
            self._refuse(node, path, "a key must be plain text, not a list or a mapping")
        return str(node.value)

    def _scalar(self, node: yaml.Node, path: KeyPath) -> Any:
        read = _SCALARS.get(node.tag.removeprefix(_TAG))
        if read is None:
            self._refuse(node, path, f"the tag {shown(node.tag)} is not allowed", fix="Write a plain value")
        try:
            return read(str(node.value))
        except ValueError:
            self._refuse(node, path, f"{shown(str(node.value))} is not a number that can be read")

    def _refuse(self, node: yaml.Node, path: KeyPath, what: str, fix: str = "") -> NoReturn:
        origin = f"{self.origin}:{node.start_mark.line + 1}"
        raise ConfigError(what, where=f"{origin}: {key_text(path)}" if path else origin, fix=fix)
