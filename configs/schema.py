"""Which keys an experiment has at a place: what messages suggest and what the template is held against."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, get_args

from pydantic import BaseModel

from configs.aliases import ADVICE, ALIASES, METHOD
from configs.document import KeyPath
from configs.wording import key_text, listed, nearest
from tasks.launch import Launcher, all_launchers
from tasks.methods import Method, all_methods

_EVERYDAY_WORDS = frozenset({"name", "path", "id", "type"})
"""Mean something only inside the section of their target."""


def method_kinds() -> dict[str, type[Method]]:
    """Every method by its kind, in the order of discovery."""
    return {str(method.model_fields["kind"].default): method for method in all_methods()}


def model_at(root: type[BaseModel], path: KeyPath, data: Any) -> type[BaseModel] | None:
    """The settings that stand at a path, or None where there are none. `data` tells which method or launcher it is."""
    model: type[BaseModel] | None = root
    for part in path:
        data = _child(data, part)
        if isinstance(part, int):
            if model is Method:
                model = _method_of(data)
            continue
        model = (
            None if model is None or part not in model.model_fields else _model_in(model.model_fields[part].annotation)
        )
        if model is Launcher:
            model = _launcher_of(data)
    return model


def _child(data: Any, part: str | int) -> Any:
    try:
        return data[part]
    except (KeyError, IndexError, TypeError):
        return None


def _method_of(entry: Any) -> type[Method]:
    kind = entry.get("kind") if isinstance(entry, Mapping) else None
    return method_kinds().get(kind, Method) if isinstance(kind, str) else Method


def _launcher_of(section: Any) -> type[Launcher]:
    name = section.get("launcher", "local") if isinstance(section, Mapping) else None
    return all_launchers().get(name, Launcher) if isinstance(name, str) else Launcher


def launchers_with(key: str) -> tuple[str, ...]:
    """The launchers that have a key, where not all of them have it."""
    if key in Launcher.model_fields:
        return ()
    return tuple(name for name, launcher in all_launchers().items() if key in launcher.model_fields)


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """The settings class inside `tuple[X, ...]`, `X | None` and the like."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((model for part in get_args(annotation) if (model := _model_in(part))), None)


def key_paths(root: type[BaseModel], prefix: KeyPath = ()) -> Iterator[KeyPath]:
    """Every key below a settings class, sections before their keys; of launchers the keys that all of them have.

    Methods and sources are not entered.
    """
    for name, field in root.model_fields.items():
        yield (*prefix, name)
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from key_paths(field.annotation, (*prefix, name))


def suggest_key(root: type[BaseModel], path: KeyPath, data: Any) -> str:
    """What to do about an unknown key: the name used here, the section it belongs to, or the nearest spelling."""
    *parent, name = path
    section = model_at(root, tuple(parent), data)
    own = tuple(section.model_fields) if section else ()
    word = str(name).lower().replace("-", "_").lstrip("_")
    targets = [tuple(target.rsplit(".", 1)) for target in ALIASES.get(word, "").split()]
    for target in targets:
        if target[-1] in own:
            return f"Use {target[-1]}"
    in_method = section is not None and issubclass(section, Method)
    if targets and word not in _EVERYDAY_WORDS and not (in_method and targets[0][0] == METHOD):
        return _target(*targets[0])
    if word in ADVICE:
        return ADVICE[word]
    if launchers_with(str(name)):
        in_launcher = section is not None and issubclass(section, Launcher)
        return _of_a_launcher(str(name)) if in_launcher else _target("distributed", str(name))
    if close := nearest(str(name), own):
        return f"Did you mean {close}?"
    return _in_other_section(root, str(name), tuple(parent))


def _target(section: str, name: str) -> str:
    if section == METHOD:
        return _inside_a_method(name)
    if section == "distributed" and launchers_with(name):
        return f"Use {section}.{name}. {_of_a_launcher(name)}"
    return f"Use {section}.{name}"


def _keys_of_single_launchers() -> list[str]:
    known = {key for launcher in all_launchers().values() for key in launcher.model_fields}
    return sorted(known - set(Launcher.model_fields))


def _of_a_launcher(name: str) -> str:
    return f"{name} belongs to launcher: {listed(launchers_with(name))}"


def _inside_a_method(name: str) -> str:
    return f"Use {name} inside the entry of methods that it belongs to"


def _in_other_section(root: type[BaseModel], name: str, parent: KeyPath) -> str:
    """`Did you mean training.max_steps?` for a key that stands in the wrong section."""
    by_name: dict[str, KeyPath] = {}
    for path in key_paths(root):
        if path[:-1] != parent:
            by_name.setdefault(str(path[-1]), path)
    if close := nearest(name, by_name):
        return f"Did you mean {key_text(by_name[close])}?"
    if close := nearest(name, _keys_of_single_launchers()):
        return _of_a_launcher(close) if parent == ("distributed",) else _target("distributed", close)
    in_methods = any(name in method.model_fields for method in all_methods())
    return _inside_a_method(name) if in_methods and parent[:1] != ("methods",) else ""
