"""What the formats that hold whole conversations share: roles and their order."""

from __future__ import annotations

from typing import Any, Literal

from tasks.data.formats._base import RowError, text_of
from tasks.data.values import Turn

Role = Literal["system", "user", "assistant"]

_ROLES: dict[str, Role] = {
    "system": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "model": "assistant",
}


def turns_of(items: Any, field: str) -> tuple[Turn, ...]:
    """Turns from a list of `{role, content}` or `{from, value}`.

    Raises:
        RowError: naming the item that is wrong.
    """
    if items is None:
        raise RowError("missing_field", field)
    if not isinstance(items, list):
        raise RowError("wrong_type", f"{field} is {type(items).__name__}, not a list")
    if not items:
        raise RowError("empty_field", field)
    return tuple(_turn_of(item, f"{field}[{index}]") for index, item in enumerate(items))


def _turn_of(item: Any, place: str) -> Turn:
    if not isinstance(item, dict):
        raise RowError("wrong_type", f"{place} is {type(item).__name__}, not an object")
    speaker, words = ("from", "value") if "from" in item else ("role", "content")
    try:
        name = text_of(item, speaker)
        content = text_of(item, words)
    except RowError as error:
        raise RowError(error.reason, f"{place}.{error.detail}") from error
    role = _ROLES.get(name)
    if role is None:
        raise RowError("unsupported_role", f"{place}.{speaker}")
    return Turn(role=role, content=content)


def check_order(turns: tuple[Turn, ...]) -> tuple[Turn, ...]:
    """The turns, when they are (system,) then user and assistant in turn, the assistant last.

    Raises:
        RowError: `bad_role_order`.
    """
    spoken = turns[1:] if turns and turns[0].role == "system" else turns
    expected = ("user", "assistant")
    for index, turn in enumerate(spoken):
        if turn.role != expected[index % 2]:
            raise RowError("bad_role_order", f"turn {index + 1} is by {turn.role}, not by {expected[index % 2]}")
    if not spoken or spoken[-1].role != "assistant":
        raise RowError("bad_role_order", "the last turn is not by the assistant")
    return turns


def conversation(system: str, turns: tuple[Turn, ...]) -> tuple[Turn, ...]:
    """A checked conversation, led by the system message where there is one."""
    lead = (Turn(role="system", content=system),) if system.strip() else ()
    return check_order((*lead, *turns))
