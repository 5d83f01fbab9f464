"""A technique: the model proposes instructions for itself, and the best on `train` is kept."""

from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np

from holdback.elicitation.technique import Access
from holdback.models.protocol import Request

ASK = "Write one short instruction that helps to answer questions such as this one: {question}"


@dataclass(frozen=True, kw_only=True)
class PromptSearch:
    """Asks for instructions, tries each on the same exercises, and lends the best."""

    proposals: int = 4
    exercises: int = 16
    access = Access.SAMPLES
    draws = True
    asks_model = True

    @contextmanager
    def apply(self, model, task, rng):
        """Lend the model under the instruction with which it does best."""
        seed = int(rng.integers(2**31))
        example = task.demonstrate("correct", 1, rng)[0][0]["content"]
        chat = [{"role": "user", "content": ASK.format(question=example)}]
        prompt = model.render_chat(chat, answer_next=True)
        asked = [Request(prompt=prompt, max_tokens=40, seed=(n,)) for n in range(self.proposals)]
        said = [answer.text.strip() for answer in model.generate(asked)]
        presented = [replace(model.presentation, instruction=text or None) for text in ["", *said]]
        tried = [replace(model, presentation=each) for each in presented]
        yield max(tried, key=lambda candidate: self._score(candidate, task, seed))

    def _score(self, model, task, seed):
        drawn = task.draw_exercises(model, self.exercises, np.random.default_rng(seed))
        asked = [Request(prompt=e.prompt, max_tokens=e.max_tokens, seed=(seed,)) for e in drawn]
        return sum(e.reward(a) for e, a in zip(drawn, model.generate(asked), strict=True))
