import pytest
from pydantic import ValidationError

from tasks.data.plain_template import PlainTemplate
from tasks.data.settings import DataSettings


@pytest.mark.parametrize(
    ("template", "complaint"),
    [
        ("{prompt}", "{completion} is missing"),
        ("{completion}", "{prompt} is missing"),
        ("{prompt}{prompt}{completion}", "{prompt} stands 2 times"),
        ("{completion}{prompt}", "{prompt} stands behind"),
        ("{prompt}{completion}{system}", "{system} stands behind"),
        ("{instruction}{prompt}{completion}", "unknown placeholder {instruction}"),
    ],
)
def test_a_template_that_cannot_be_used_is_refused_in_the_settings(template: str, complaint: str) -> None:
    with pytest.raises(ValidationError, match="template") as refused:
        DataSettings(train="a.csv", template=template)
    assert complaint in str(refused.value)


def test_values_that_look_like_placeholders_are_not_filled_again() -> None:
    template = PlainTemplate.parse("Q: {prompt} S: {system} A: {completion}")
    assert template.render("{system}", "{prompt}") == "Q: {system} S: {prompt} A: "


def test_braces_without_a_single_word_are_text() -> None:
    assert PlainTemplate.parse('{"q": {prompt}} {completion}').render("x", "") == '{"q": x} '


def test_a_system_message_leads_the_prompt_where_the_template_has_no_place_for_it() -> None:
    assert PlainTemplate.parse("{prompt}={completion}").render("hi", "Be brief.") == "Be brief.\n\nhi="
