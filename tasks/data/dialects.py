"""How turns become segments: by the plain template, or by the tokenizer's chat template."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import date
from typing import Any, Protocol

from tasks.data.plain_template import PlainTemplate
from tasks.data.segments import Segment
from tasks.data.values import Turn
from tasks.foundation.digests import digest_text
from tasks.foundation.errors import DataError, ModelError

_WAY_OUT = "Set data.use_chat_template: false to use data.template"
_PROBE = "tuneline-probe"
_MARK = "\ue000{index}\ue001"
"""Stands for the content of a turn in a skeleton; private characters that no template touches."""
_MARKS = re.compile("\ue000[0-9]+\ue001")
_NOW = re.compile(r"strftime_now\(\s*(['\"])(.*?)\1\s*\)")
_FIXED_DAY = date(2024, 7, 26)
"""Templates that print today's date print this one: the same row has the same tokens every day."""


Examples = Sequence[tuple[Turn, ...]]
"""Conversations that stand in front of a question."""
SEPARATOR = "\n\n"


class Dialect(Protocol):
    """Turns to segments; those of a conversation begin with those of its beginning."""

    name: str
    """For the report."""
    end_token: str | None
    """The special token that ends an answer in the template's own text; None where the row's end token is added."""

    def prompt(self, turns: Sequence[Turn], where: str) -> list[Segment]:
        """What the model is given: the text up to its answer."""

    def conversation(self, turns: Sequence[Turn], where: str) -> list[Segment]:
        """The whole conversation, up to the end of its last answer."""

    def behind(self, examples: Examples, turns: Sequence[Turn], where: str) -> list[Segment]:
        """The turns (a prompt, or a conversation with its last answer) behind examples, of which nothing is learned."""


class PlainDialect:
    """Pairs of prompt and completion one after another, the end token behind every answer."""

    end_token: str | None = None

    def __init__(self, template: str, separator: str = SEPARATOR) -> None:
        self.name = template
        self._template = PlainTemplate.parse(template)
        self._separator = separator

    def conversation(self, turns: Sequence[Turn], where: str) -> list[Segment]:
        """Prompts masked, answers learned; the system message in the first prompt."""
        system = between = ""
        segments: list[Segment] = []
        for turn in turns:
            if turn.role == "system":
                system = turn.content
            elif turn.role == "user":
                segments.append(Segment(between + self._template.render(turn.content, system), learned=False))
                system, between = "", self._template.after
            else:
                segments.append(Segment(turn.content, learned=True, ended=True))
        return segments

    prompt = conversation

    def behind(self, examples: Examples, turns: Sequence[Turn], where: str) -> list[Segment]:
        """Each example as it would stand alone, with its end token, then the separator."""
        found: list[Segment] = []
        between = ""
        for number, part in enumerate((*examples, turns)):
            first, *rest = self.conversation(part, where)
            segments = [first._replace(text=between + first.text), *rest]
            found += segments if number == len(examples) else _masked(segments)
            between = self._template.after + self._separator
        return found


class ChatDialect:
    """The tokenizer's chat template, refused where training on it could not equal generating with it.

    Raises:
        ModelError: the template fails, or its prompt is not how the conversation begins.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        try:
            text = tokenizer.get_chat_template()
        except ValueError as error:
            raise ModelError(f"no default chat template: {error}", fix=_WAY_OUT) from error
        self.name = f"chat:{digest_text(text)[:12]}"
        self._text = _NOW.sub(lambda found: repr(_FIXED_DAY.strftime(found[2])), text)
        self._skeletons: dict[tuple[str, ...], list[str]] = {}
        self._tail = self._find_tail()
        self.end_token, self._end = _first_token(self._tail, tokenizer)

    def prompt(self, turns: Sequence[Turn], where: str) -> list[Segment]:
        """The template's text with its generation prompt; earlier answers are learned segments."""
        text = self._render(turns, where, generation=True)
        if all(turn.role != "assistant" for turn in turns):
            return [Segment(text, learned=False)]
        return self._around_answers(text, turns, where)

    def conversation(self, turns: Sequence[Turn], where: str) -> list[Segment]:
        """The prompt, then what the template makes of the last answer, up to its end token."""
        prompt = self.prompt(turns[:-1], where)
        answer = self._behind(prompt, turns, where)
        if not answer.endswith(self._tail) or _dense(turns[-1].content) not in _dense(answer):
            raise DataError("the chat template does not keep the answer as it is", where=where, fix=_WAY_OUT)
        answer = answer.removesuffix(self._tail) + self._end
        return [*prompt, Segment(answer, learned=True, ended=self.end_token is None)]

    def behind(self, examples: Examples, turns: Sequence[Turn], where: str) -> list[Segment]:
        """Examples as earlier turns. The question's system message leads; another one leads its own example."""
        joined = _joined(examples, turns)
        answered = turns[-1].role == "assistant"
        segments = self.conversation(joined, where) if answered else self.prompt(joined, where)
        shown = sum(turn.role == "assistant" for example in examples for turn in example)
        last = [place for place, segment in enumerate(segments) if segment.learned][shown - 1]
        return [*_masked(segments[: last + 1]), *segments[last + 1 :]]

    def _behind(self, prompt: list[Segment], turns: Sequence[Turn], where: str) -> str:
        full = self._render(turns, where, generation=False)
        start = "".join(segment.text for segment in prompt)
        if not full.startswith(start):
            problem = "the chat template renders a prompt that its conversation does not begin with"
            raise DataError(problem, where=where, fix=_WAY_OUT)
        return full[len(start) :]

    def _find_tail(self) -> str:
        """What the template puts behind the last answer."""
        turns = (Turn(role="user", content="Hi"), Turn(role="assistant", content=_PROBE))
        prompt = self._render(turns[:1], "", generation=True)
        full = self._render(turns, "", generation=False)
        if not full.startswith(prompt) or full.count(_PROBE) != 1:
            raise ModelError(
                "the chat template's generation prompt is not how its conversation begins, so answers cannot be told "
                "from prompts",
                fix=_WAY_OUT,
            )
        return full.partition(_PROBE)[2]

    def _render(self, turns: Sequence[Turn], where: str, *, generation: bool) -> str:
        from jinja2 import TemplateError

        messages = [{"role": turn.role, "content": turn.content} for turn in turns]
        try:
            text = self._tokenizer.apply_chat_template(
                messages, chat_template=self._text, tokenize=False, add_generation_prompt=generation
            )
        except (TemplateError, TypeError, ValueError, KeyError) as error:
            cause = DataError if where else ModelError
            raise cause(f"the chat template fails: {error}", where=where, fix=_WAY_OUT) from error
        return str(text)

    def _around_answers(self, text: str, turns: Sequence[Turn], where: str) -> list[Segment]:
        """Cut a prompt at its earlier answers. Their places follow from the template's text between the contents."""
        pieces = self._skeleton(turns)
        segments: list[Segment] = []
        masked, at = pieces[0], len(pieces[0])
        for turn, piece in zip(turns, pieces[1:], strict=True):
            content = _as_rendered(turn.content, piece, text, at)
            if content is None or not text.startswith(pieces[0]):
                raise DataError("the chat template rewrites an earlier turn", where=where, fix=_WAY_OUT)
            at += len(content) + len(piece)
            if turn.role == "assistant":
                end = self._end if piece.startswith(self._end) else ""
                segments += [Segment(masked, learned=False), Segment(content + end, learned=True)]
                masked = piece.removeprefix(end)
            else:
                masked += content + piece
        return [*segments, Segment(masked, learned=False)]

    def _skeleton(self, turns: Sequence[Turn]) -> list[str]:
        """The template's own text before, between and behind the contents of turns with these roles."""
        roles = tuple(turn.role for turn in turns)
        if roles not in self._skeletons:
            marked = [Turn(role=turn.role, content=_MARK.format(index=index)) for index, turn in enumerate(turns)]
            pieces = _MARKS.split(self._render(marked, "", generation=True))
            if len(pieces) != len(turns) + 1:
                raise ModelError("the chat template leaves out or repeats a turn", fix=_WAY_OUT)
            self._skeletons[roles] = pieces
        return self._skeletons[roles]


def _as_rendered(content: str, piece: str, text: str, at: int) -> str | None:
    """The content as it stands at a place of the text before a piece: templates may strip it, and no more."""
    forms = (content, content.strip(), content.lstrip(), content.rstrip())
    return next((form for form in forms if text.startswith(form + piece, at)), None)


def _first_token(tail: str, tokenizer: Any) -> tuple[str | None, str]:
    """The first special token in the text behind an answer, and that text up to the token's end."""
    known = {*tokenizer.get_added_vocab(), *tokenizer.all_special_tokens}
    places = sorted((tail.index(token), -len(token), token) for token in known if token and token in tail)
    if not places:
        return None, ""
    at, _, token = places[0]
    return token, tail[: at + len(token)]


def _masked(segments: Sequence[Segment]) -> list[Segment]:
    return [segment._replace(learned=False) for segment in segments]


def _joined(examples: Examples, turns: Sequence[Turn]) -> list[Turn]:
    """One conversation, with one system message at most."""
    lead = [turn for turn in turns[:1] if turn.role == "system"]
    system = lead[0].content if lead else ""
    spoken = [turn for example in examples for turn in _without_system(example, system)]
    return [*lead, *spoken, *turns[len(lead) :]]


def _without_system(example: tuple[Turn, ...], known: str) -> tuple[Turn, ...]:
    """The example's turns; a system message that is not the known one leads the first of them."""
    if example[0].role != "system":
        return example
    said, first, *rest = example
    if said.content != known:
        first = first.model_copy(update={"content": f"{said.content}\n\n{first.content}"})
    return (first, *rest)


def _dense(text: str) -> str:
    return "".join(text.split())
