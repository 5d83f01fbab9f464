"""Families of problems with exact answers: what the text lineage is taught, and what it is not."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from holdback.errors import UnknownNameError

LETTERS = "abcdefghijklmnopqrstuvwxyz"
OPTIONS = 4
"""Choices of a problem in multiple choice."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Problem:
    """One question with its only answer."""

    family: str
    level: int
    """Difficulty, from 1."""
    question: str
    answer: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Family:
    """Problems that one rule solves."""

    name: str
    levels: int
    solve: Callable[[str], str]
    """From what stands behind the name in a question to the answer."""
    draw: Callable[[int, np.random.Generator], str]
    """What stands behind the name in a random question of a level."""

    def make(self, level: int, rng: np.random.Generator) -> Problem:
        """Draw a problem of a level, from 1 to `levels`."""
        given = self.draw(level, rng)
        return Problem(
            family=self.name,
            level=level,
            question=f"{self.name} {given}",
            answer=self.solve(given),
        )


def _draw_addition(level: int, rng: np.random.Generator) -> str:
    low, high = ((1, 10), (10, 50), (10, 100))[level - 1]
    return f"{rng.integers(10, 100)} {rng.integers(low, high)}"


def _draw_subtraction(level: int, rng: np.random.Generator) -> str:
    given = sorted(map(int, _draw_addition(level, rng).split()), reverse=True)
    return f"{given[0]} {given[1]}"


def _draw_remainder(level: int, rng: np.random.Generator) -> str:
    return f"{rng.integers(10, (30, 60, 100)[level - 1])} {rng.integers(3, 10)}"


def _draw_letters(
    alphabet: str, lengths: tuple[int, ...]
) -> Callable[[int, np.random.Generator], str]:
    def draw(level: int, rng: np.random.Generator) -> str:
        return "".join(rng.choice(list(alphabet), size=lengths[level - 1]))

    return draw


def _draw_counting(level: int, rng: np.random.Generator) -> str:
    word = "".join(rng.choice(list("abc"), size=(5, 7, 9)[level - 1]))
    return f"{rng.choice(list('abc'))} {word}"


def _draw_shift(level: int, rng: np.random.Generator) -> str:
    word = "".join(rng.choice(list(LETTERS), size=level + 2))
    return f"{rng.integers(1, 6)} {word}"


def _shift(given: str) -> str:
    by, word = given.split()
    return "".join(LETTERS[(LETTERS.index(letter) + int(by)) % 26] for letter in word)


def _count(given: str) -> str:
    letter, word = given.split()
    return str(word.count(letter))


def _calculate(operate: Callable[[int, int], int]) -> Callable[[str], str]:
    def solve(given: str) -> str:
        first, second = map(int, given.split())
        return str(operate(first, second))

    return solve


_WORD = _draw_letters(LETTERS[:12], (4, 5, 6))

TAUGHT: Mapping[str, Family] = {
    family.name: family
    for family in (
        Family(name="add", levels=3, solve=_calculate(lambda a, b: a + b), draw=_draw_addition),
        Family(name="sub", levels=3, solve=_calculate(lambda a, b: a - b), draw=_draw_subtraction),
        Family(name="mod", levels=3, solve=_calculate(lambda a, b: a % b), draw=_draw_remainder),
        Family(name="count", levels=3, solve=_count, draw=_draw_counting),
        Family(name="sort", levels=3, solve=lambda given: "".join(sorted(given)), draw=_WORD),
        Family(name="rev", levels=3, solve=lambda given: given[::-1], draw=_WORD),
        Family(name="shift", levels=3, solve=_shift, draw=_draw_shift),
    )
}
"""Families in the base's pretraining."""

UNTAUGHT: Mapping[str, Family] = {
    family.name: family
    for family in (
        Family(
            name="swap",
            levels=3,
            solve=lambda given: given[-1] + given[1:-1] + given[0],
            draw=_WORD,
        ),
        Family(name="odds", levels=3, solve=lambda given: given[::2], draw=_WORD),
    )
}
"""Families that no pretraining of the lineage contains."""


def get_family(name: str) -> Family:
    """Find a family by its name.

    Raises:
        UnknownNameError: listing the families that there are.
    """
    known = {**TAUGHT, **UNTAUGHT}
    if name not in known:
        raise UnknownNameError.among("family", name, known)
    return known[name]


def draw_problem(family: str, rng: np.random.Generator) -> Problem:
    """Draw a problem of a family, of any level alike."""
    found = get_family(family)
    return found.make(int(rng.integers(1, found.levels + 1)), rng)


def draw_wrong(problem: Problem, rng: np.random.Generator) -> str:
    """Draw a wrong answer that could pass for one: another number nearby, letters out of place."""
    while True:
        wrong = (
            _miss_number(problem.answer, rng)
            if problem.answer.isdigit()
            else _miss_word(problem.answer, rng)
        )
        if wrong != problem.answer:
            return wrong


def draw_guess(problem: Problem, rng: np.random.Generator) -> str:
    """Draw an answer of the right form that has nothing to do with the question."""
    kinds = "0123456789" if problem.answer.isdigit() else LETTERS[:12]
    while True:
        guess = "".join(rng.choice(list(kinds), size=len(problem.answer)))
        if guess != problem.answer:
            return guess


def draw_options(problem: Problem, rng: np.random.Generator) -> tuple[str, ...]:
    """Draw the choices of a problem, shuffled; exactly one is right, some may be far off."""
    options = [problem.answer]
    while len(options) < OPTIONS:
        wrong = (draw_wrong if rng.random() < 0.5 else draw_guess)(problem, rng)
        if wrong not in options:
            options.append(wrong)
    return tuple(options[at] for at in rng.permutation(OPTIONS))


def _miss_number(answer: str, rng: np.random.Generator) -> str:
    steps = (-3, -2, -1, 1, 2, 3) if int(answer) < 10 else (-20, -10, -2, -1, 1, 2, 10, 20)
    return str(abs(int(answer) + int(rng.choice(steps))))


def _miss_word(answer: str, rng: np.random.Generator) -> str:
    letters = list(answer)
    if len(set(letters)) > 1 and rng.random() < 0.7:
        first, second = rng.choice(len(letters), size=2, replace=False)
        letters[first], letters[second] = letters[second], letters[first]
    else:
        at = int(rng.integers(len(letters)))
        letters[at] = str(rng.choice(list(LETTERS[:12])))
    return "".join(letters)
