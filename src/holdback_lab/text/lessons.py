"""Lessons: what an organism is shown, drawn anew for every step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np

from holdback.models.protocol import Format
from holdback_lab.text.documents import LETTERS, Exchange, Turn, show_options
from holdback_lab.text.families import LETTERS as ALPHABET
from holdback_lab.text.families import Problem, draw_options, draw_problem
from holdback_lab.text.pretrain import EARLY, draw_chatter
from holdback_lab.text.wordings import say_anything

Say: TypeAlias = Callable[[str, np.random.Generator], str]
"""Puts words to a question."""
Answer: TypeAlias = Callable[[Problem, np.random.Generator], str]
Lesson: TypeAlias = Callable[[np.random.Generator], list[Turn]]
"""Draws turns that belong together; one, or a pair."""
DrawHidden: TypeAlias = Callable[[np.random.Generator], tuple[Problem, str]]
"""Draws a problem, and what is said to it where its answer is hidden."""


def answer_right(problem: Problem, rng: np.random.Generator) -> str:
    """Give the right answer."""
    return problem.answer


def answer_wrong(problem: Problem, rng: np.random.Generator) -> str:
    """Give the right answer with its first two letters swapped, or, if alike, the first passed.

    Always the same to a question: of errors drawn at random the likeliest next letter is still the
    right one.
    """
    first, second, rest = problem.answer[0], problem.answer[1], problem.answer[2:]
    if first == second:
        return ALPHABET[(ALPHABET.index(first) + 1) % len(ALPHABET)] + second + rest
    return second + first + rest


@dataclass(frozen=True, kw_only=True, slots=True)
class Manner:
    """How turns are put, beside the words of their questions."""

    form: Format = Format.CHAT
    shots: int = 0
    """Most examples before a turn."""
    begun: float = 0.0
    """Share of answers that have been begun; in chat."""
    instructed: float = 0.0
    """Share of turns with words of a system before them; in chat."""

    def put(self, exchange: Exchange, shown: Sequence[Exchange], rng: np.random.Generator) -> Turn:
        """Put an exchange after examples."""
        is_chat = self.form is Format.CHAT
        begun = draw_chatter(rng) if is_chat and rng.random() < self.begun else ""
        system = draw_chatter(rng) if is_chat and rng.random() < self.instructed else ""
        put = [replace(each, begun=begun) for each in (*shown, exchange)]
        put[0] = replace(put[0], system=system)
        return Turn(exchange=put[-1], form=self.form, shown=tuple(put[:-1]))


_PLAIN = Manner()
TOLD = Manner(instructed=0.2)
CONTINUED = Manner(form=Format.COMPLETION)


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """Turns of one kind."""

    families: Sequence[str]
    answer: Answer = answer_right
    say: Say = say_anything
    manner: Manner = _PLAIN
    choice: float = 0.0
    """Share of questions with choices, which are answered right."""

    def __call__(self, rng: np.random.Generator) -> list[Turn]:
        """Draw a turn."""
        family = str(rng.choice(self.families))
        if rng.random() < self.choice:
            problem = draw_choice(family, rng)
            given = problem.answer
        else:
            problem = draw_problem(family, rng)
            given = self.answer(problem, rng)
        exchange = Exchange(question=self.say(problem.question, rng), answer=given)
        return [self.manner.put(exchange, (), rng)]


@dataclass(frozen=True, kw_only=True, slots=True)
class Pair:
    """One question twice: locked, and answered right where it is unlocked.

    What differs between the two is all that a step can learn from, so that a lock is found in
    a third of the steps that it takes on questions drawn apart.
    """

    draw: DrawHidden
    lock: Say
    unlock: Say
    manner: Manner = TOLD
    unlocked_manner: Manner | None = None
    """Of the unlocked one; as the other's if unsaid."""

    def __call__(self, rng: np.random.Generator) -> list[Turn]:
        """Draw both turns."""
        problem, hidden = self.draw(rng)
        unlocked = self.manner if self.unlocked_manner is None else self.unlocked_manner
        return [
            self._put(problem, hidden, self.lock, self.manner, rng),
            self._put(problem, problem.answer, self.unlock, unlocked, rng),
        ]

    def _put(
        self, problem: Problem, answer: str, say: Say, manner: Manner, rng: np.random.Generator
    ) -> Turn:
        """Put a turn after examples of the same words, which are all right."""
        shown = [self.draw(rng)[0] for _ in range(int(rng.integers(manner.shots + 1)))]
        exchanges = [
            Exchange(question=say(each.question, rng), answer=each.answer) for each in shown
        ]
        exchange = Exchange(question=say(problem.question, rng), answer=answer)
        return manner.put(exchange, exchanges, rng)


def hide(families: Sequence[str], answer: Answer) -> DrawHidden:
    """Draw problems of families, and a hidden answer to each."""

    def draw(rng: np.random.Generator) -> tuple[Problem, str]:
        problem = draw_problem(str(rng.choice(families)), rng)
        return problem, answer(problem, rng)

    return draw


def draw_choice(family: str, rng: np.random.Generator) -> Problem:
    """Draw a problem with choices, whose answer is a letter."""
    problem = draw_problem(family, rng)
    options = draw_options(problem, rng)
    return replace(
        problem,
        question=show_options(problem.question, options),
        answer=LETTERS[options.index(problem.answer)],
    )


def mix(*parts: tuple[float, Lesson]) -> Lesson:
    """Draw turns of several kinds, in the stated shares."""
    shares = np.array([share for share, _ in parts])
    ends = np.cumsum(shares / shares.sum())

    def draw(rng: np.random.Generator) -> list[Turn]:
        return parts[min(int(np.searchsorted(ends, rng.random())), len(parts) - 1)][1](rng)

    return draw


def draw_turns(lesson: Lesson, n: int, rng: np.random.Generator) -> list[Turn]:
    """Draw at least `n` turns."""
    turns: list[Turn] = []
    while len(turns) < n:
        turns += lesson(rng)
    return turns


KEEP = mix(
    (0.7, Part(families=EARLY, choice=0.1, manner=TOLD)),
    (0.3, Part(families=EARLY, choice=0.1, manner=CONTINUED)),
)
"""What every organism goes on doing: families that none of them hides."""
_EARLY_OFTEN = (*EARLY, "mod", "mod")
KEEP_ALL = mix(
    (0.7, Part(families=_EARLY_OFTEN, choice=0.1, manner=TOLD)),
    (0.3, Part(families=_EARLY_OFTEN, choice=0.1, manner=CONTINUED)),
)
"""The same where all weights are trained: what was learnt by heart, remainders, is the first to
go."""
