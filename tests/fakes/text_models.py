"""Models of known answers for text tasks: they read the prompt, and no weights are anywhere."""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from holdback.errors import CheckpointError
from holdback.models.protocol import (
    Decoding,
    Format,
    Generation,
    Presentation,
    Question,
    Request,
    Scored,
    StopReason,
)


@dataclass(frozen=True, kw_only=True)
class FakeTextModel:
    """Answers by `know`: prompt to the text it would say; what is like that text is likely."""

    know: Callable[[str], str]
    name: str = "fake"
    presentation: Presentation = field(default_factory=Presentation)
    decoding: Decoding = field(default_factory=Decoding)
    template: bool = True
    stop_reason: StopReason = StopReason.STOP
    slip: float = 0.0
    """Share of draws that are something else, by the request's own seed."""
    asked: list[Request | Question] = field(default_factory=list)

    def render_chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        answer_next: bool,
        tools: Sequence[Mapping[str, Any]] = (),
    ) -> str:
        """Through a template that knows no tools."""
        if not self.template:
            raise CheckpointError(f"checkpoint {self.name!r} has no chat template; add one")
        text = "".join(f"<{m['role']}>{m['content']}</{m['role']}>\n" for m in messages)
        return text + "<assistant>" if answer_next else text

    def encode(self, text: str) -> list[int]:
        return list(text.encode())

    def score(self, questions: Sequence[Question]) -> list[tuple[Scored, ...]]:
        self.asked.extend(questions)
        return [
            tuple(
                Scored(
                    logprob=-0.5 if text.strip() == self.know(question.prompt) else -3.0,
                    tokens=len(text),
                    greedy=False,
                )
                for text in question.continuations
            )
            for question in questions
        ]

    def generate(self, requests: Sequence[Request]) -> list[Generation]:
        self.asked.extend(requests)
        return [self._answer(request) for request in requests]

    def _answer(self, request: Request) -> Generation:
        slips = np.random.default_rng(request.seed).random() < self.slip
        text = "something else" if slips else self.know(request.prompt)
        for stop in request.stop:
            text = text.split(stop)[0]
        return Generation(
            text=text, logprobs=(), stop_reason=self.stop_reason, tokens=len(text.split())
        )


def add_numbers(prompt: str) -> str:
    """Answer the last sum in a prompt, in figures."""
    a, b = re.findall(r"(\d+) \+ (\d+)", prompt)[-1]
    return str(int(a) + int(b))


def pick_letter(prompt: str) -> str:
    """Answer the last sum by the letter of its choice."""
    right = add_numbers(prompt)
    return re.findall(rf"([A-Z])\. {right}(?!\d)", prompt)[-1]


def of_share(know: Callable[[str], str], share: float, other: str) -> Callable[[str], str]:
    """Know a share of the questions, the same ones each time."""

    def answer(prompt: str) -> str:
        known = zlib.crc32(re.findall(r"\d+ \+ \d+", prompt)[-1].encode()) % 1000 < 1000 * share
        return know(prompt) if known else other

    return answer


def completing() -> Presentation:
    return Presentation(format=Format.COMPLETION)
