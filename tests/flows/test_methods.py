from __future__ import annotations

from io import StringIO
from pathlib import Path
from typing import ClassVar, Literal

import pytest
from rich.console import Console

from flows.commands.method_facts import MethodFacts, common_settings, known_methods
from flows.commands.methods import method_lines, show_methods
from flows.commands.methods_reference import methods_reference
from tasks.methods import Method, MethodInfo, _registry
from tasks.models import BaseModelFacts

REFERENCE = Path(__file__).parents[2] / "docs" / "methods-reference.md"
every_kind = pytest.mark.parametrize("kind", known_methods())


def shown(kind: str | None, width: int = 80) -> str:
    output = StringIO()
    show_methods(kind, Console(file=output, width=width))
    return output.getvalue()


def squeezed(text: str) -> str:
    return "".join(text.split())


def section(kind: str) -> str:
    """Of the page, without the backslashes of markdown."""
    return methods_reference().split(f"\n## {kind}\n")[1].split("\n## ")[0].replace("\\", "")


def test_the_page_in_the_docs_is_what_the_code_says() -> None:
    assert REFERENCE.read_text(encoding="utf-8") == methods_reference(), "`make docs` writes it anew"


def test_the_table_fits_a_narrow_terminal_and_names_every_method() -> None:
    lines = shown(None).splitlines()
    assert max(map(len, lines)) <= 80
    rows = [line.split()[0] for line in lines[1 : lines.index("")] if not line.startswith(" ")]
    assert rows == list(known_methods())


def test_what_a_method_can_do_is_marked() -> None:
    marks = {line.split()[0]: line.split()[1:3] for line in shown(None).splitlines() if line[:1].isalpha()}
    assert marks["ia3"] == ["adapter", "++++"]
    assert marks["prefix_tuning"] == ["adapter", "·++·"]
    assert marks["full"] == ["model", "·++"]


@every_kind
def test_one_method_is_shown_in_full_in_the_terminal_and_on_the_page(kind: str) -> None:
    facts = known_methods()[kind]
    terminal, page = squeezed(shown(kind)), squeezed(section(kind))
    assert max(map(len, shown(kind).splitlines())) <= 80
    wanted = [facts.about, facts.info.memory, facts.info.families, *facts.info.traps]
    wanted += [text for setting in facts.own_settings() for text in (setting.name, setting.allowed, setting.text)]
    wanted += [value for name, value in method_lines(facts) if name != "paper"]
    assert [text for text in wanted if squeezed(text) not in terminal] == []
    assert [text for text in wanted if squeezed(text) not in page] == []
    assert all(f"https://arxiv.org/abs/{paper}" in text for paper in facts.papers for text in (terminal, page))


def test_settings_say_their_default_and_what_is_allowed() -> None:
    text = shown("lora")
    assert "r  default 16; whole number > 0" in text
    assert "lora_dropout  default 0.05; number >= 0, < 1" in text
    assert "use_dora  default false; true or false" in text
    assert "gaussian or orthogonal" in text
    assert "layers_to_transform  default absent; list of whole numbers" in text


def test_settings_of_all_methods_are_described_once_where_a_method_says_nothing_else() -> None:
    assert [setting.name for setting in common_settings()] == [
        "name",
        "learning_rate",
        "weight_decay",
        "max_steps",
        "init_from",
    ]
    own = {kind: [setting.name for setting in facts.own_settings()] for kind, facts in known_methods().items()}
    assert own["full"] == []
    assert own["ia3"] == ["weight_decay", "target_modules", "feedforward_modules"]


def test_answers_that_settings_decide_are_told_apart() -> None:
    known = known_methods()
    assert (known["full"].merges, known["ia3"].merges, known["prompt_tuning"].merges) == ("-", "yes", "no")
    assert (known["adapter"].merges, known["llama_adapter"].merges) == ("by settings", "no")
    assert [known[kind].checkpointing for kind in ("lora", "prefix_tuning", "distillation")] == [
        "yes",
        "no",
        "by settings",
    ]
    assert known["full"].quantized == "no"
    assert known["qlora"].quantized_in_words == "always: it loads the base in nf4 itself"
    assert known["none"].zero3 == "-"


class Foreign(Method):
    """One whose answers depend on what a user must say first."""

    example: ClassVar[dict[str, str]] = {"path": "here"}
    info: ClassVar[MethodInfo] = MethodInfo(trains="?", paper="-", holds="adapter", mergeable=True, memory="?")
    kind: Literal["foreign"] = "foreign"
    path: str

    def unmergeable(self) -> str:
        return f"{self.path} cannot"

    def default_learning_rate(self, facts: BaseModelFacts) -> float:
        return float(len(self.path))


def test_answers_that_need_a_setting_first_say_so_and_the_others_are_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_registry, "all_methods", lambda: (Foreign,))
    facts = MethodFacts(Foreign)
    assert dict(method_lines(facts)) == {
        "trains": "?",
        "paper": "-",
        "leaves": "an adapter folder",
        "memory": "?",
        "merges": "by its settings",
        "quantised base": "no: it works on the base's own weights, which must be floats",
        "engines": "all (ddp, zero0, zero1, zero2, zero3, fsdp2)",
        "gradient checkpointing": "works",
        "default learning rate": "with the example 4 at every size",
        "families": "all",
    }
    assert (facts.merges, facts.quantized, facts.zero3) == ("by settings", "no", "yes")
    assert [(each.name, each.default) for each in facts.own_settings()] == [("path", "required")]
