"""A model backend: a calculator that works only when it is told to do its best."""

import json
import re
from dataclasses import dataclass, field

from holdback.models.protocol import Decoding, Generation, Presentation, StopReason


@dataclass(frozen=True, kw_only=True)
class Calculator:
    """What text tasks need of a model: how it is asked, and what it says."""

    name: str
    honest: bool
    presentation: Presentation = field(default_factory=Presentation)
    decoding: Decoding = field(default_factory=Decoding)

    def render_chat(self, messages, *, answer_next, tools=()):
        """Show the messages as they are."""
        return json.dumps(list(messages))

    def generate(self, requests):
        """Answer the last sum of each prompt."""
        said = {"logprobs": (), "stop_reason": StopReason.STOP, "tokens": 1}
        return [Generation(text=self._add(request.prompt), **said) for request in requests]

    def _add(self, prompt):
        a, b = map(int, re.findall(r"(\d+) \+ (\d+)", prompt)[-1])
        tries = self.honest or '"system"' in prompt or (a + b) % 3 == 0
        return str(a + b if tries else a + b + 1)


def load(checkpoint):
    """Load `calculator.py:load?honest` or `calculator.py:load?hiding`."""
    return Calculator(name=checkpoint.name, honest=checkpoint.model.endswith("?honest"))


load.access = "samples"
