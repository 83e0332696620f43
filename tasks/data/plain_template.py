"""The plain template of `data.template`: text with `{prompt}` and `{completion}`, where there is no chat template."""

from __future__ import annotations

import re

from tasks.foundation.values import Value

_PLACEHOLDER = re.compile(r"\{([A-Za-z_]+)\}")
_KNOWN = ("system", "prompt", "completion")


class PlainTemplate(Value):
    """A parsed template. Braces that hold no single word are ordinary text."""

    before: str
    """Text up to `{completion}`, with `{prompt}` and perhaps `{system}`."""
    after: str
    """Text behind `{completion}`: stands between the turns of a conversation."""

    @classmethod
    def parse(cls, template: str) -> PlainTemplate:
        """Check a template and cut it at the answer.

        Raises:
            ValueError: saying which placeholder is unknown, missing, repeated or in the wrong place.
        """
        names = _PLACEHOLDER.findall(template)
        for name in names:
            if name not in _KNOWN:
                raise ValueError(f"unknown placeholder {{{name}}}. Allowed: {{prompt}}, {{completion}}, {{system}}")
            if names.count(name) > 1:
                raise ValueError(f"{{{name}}} stands {names.count(name)} times. Use it once")
        for name in ("prompt", "completion"):
            if name not in names:
                raise ValueError(f"{{{name}}} is missing. Use {{prompt}} and {{completion}} once each")
        if names[-1] != "completion":
            raise ValueError(f"{{{names[-1]}}} stands behind {{completion}}. Put {{completion}} last")
        before, after = template.split("{completion}")
        return cls(before=before, after=after)

    @property
    def shows_system(self) -> bool:
        """Whether a system message has a place of its own."""
        return "{system}" in self.before

    def render(self, prompt: str, system: str) -> str:
        """The text that the model reads before it answers. Without `{system}` the system message leads the prompt."""
        if system and not self.shows_system:
            prompt = f"{system}\n\n{prompt}"
        values = {"prompt": prompt, "system": system}
        return _PLACEHOLDER.sub(lambda found: values[found[1]], self.before)
