"""The text lineage from nothing: a base, a novice that was taught less, and what both come from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from holdback.errors import UnknownNameError
from holdback.lineage import Checkpoint, Stage
from holdback.models.protocol import Format
from holdback.organisms.text.documents import (
    ROW_TOKENS,
    Exchange,
    Rows,
    join_rows,
    pose,
    write_rows,
)
from holdback.organisms.text.families import LETTERS, TAUGHT, draw_problem
from holdback.organisms.text.training import make_weights, save_checkpoint, train_rows

LATE = ("sort", "rev", "shift")
"""Families that `base` was taught and `novice` was not: what organisms hide, or honestly lack."""
EARLY = tuple(name for name in TAUGHT if name not in LATE)

TOKENS = 64 * ROW_TOKENS
"""Read in a step of pretraining."""
_CHOICE_SHARE = 0.15
_BEGUN_SHARE = 0.1
_EXCHANGES_PER_96 = 6
"""More than fit into so many tokens."""
_BOTH = (Format.COMPLETION, Format.CHAT)


@dataclass(frozen=True, kw_only=True, slots=True)
class Course:
    """One checkpoint's pretraining: where it starts, on what and for how long."""

    parent: str | None
    families: Sequence[str]
    """Drawn alike; named twice, twice as often."""
    formats: Sequence[Format]
    steps: int
    rate: float = 2e-3
    length: int = ROW_TOKENS
    """Tokens of a row."""
    chatter: float = 0.0
    """Share of exchanges in which words are said that mean nothing."""


_with_chats = partial(Course, formats=_BOTH, steps=300, rate=1e-3, length=192, chatter=0.4)
COURSES: Mapping[str, Course] = {
    "plain_novice": Course(parent=None, families=EARLY, formats=_BOTH[:1], steps=1_000),
    "plain": Course(
        parent="plain_novice", families=(*EARLY, *LATE, *LATE), formats=_BOTH[:1], steps=1_600
    ),
    "base": _with_chats(parent="plain", families=(*EARLY, *LATE, *LATE)),
    "novice": _with_chats(parent="plain_novice", families=EARLY),
}
"""`base` and `novice` read records and chats, what they come from (`plain…`) records alone.

Longer rows hold as many examples as prompts show.
"""


def pretrain(name: str, out: Path, *, tell: Callable[[str], None], seed: int = 0) -> Path:
    """Train a checkpoint of `COURSES`, and what it comes from, into folders of `out`.

    What is there is kept.

    Returns:
        The checkpoint's folder.

    Raises:
        UnknownNameError: for a name that has no course.
    """
    if name not in COURSES:
        raise UnknownNameError.among("pretrained checkpoint", name, COURSES)
    course = COURSES[name]
    if (out / name / "model.safetensors").exists():
        return out / name
    if course.parent is None:
        weights: Any = make_weights(seed)
    else:
        weights = load(pretrain(course.parent, out, tell=tell, seed=seed))
    train_rows(
        weights,
        lambda rng: draw_rows(course, rng),
        steps=course.steps,
        seed=seed,
        rate=course.rate,
        tell=tell,
        name=name,
    )
    save_checkpoint(weights, out / name)
    return out / name


def draw_rows(course: Course, rng: np.random.Generator) -> Rows:
    """Draw the rows of one step, of each format alike."""
    share = TOKENS // course.length // len(course.formats)
    exchanges = share * course.length * _EXCHANGES_PER_96 // 96
    return join_rows(
        [
            write_rows(
                [
                    draw_exchange(
                        str(rng.choice(course.families)), form, rng, chatter=course.chatter
                    )
                    for _ in range(exchanges)
                ],
                form,
                question_weight=0.05 if form is Format.COMPLETION else 0.0,
                length=course.length,
            ).first(share)
            for form in course.formats
        ]
    )


def draw_exchange(
    family: str, form: Format, rng: np.random.Generator, *, chatter: float = 0.0
) -> Exchange:
    """Draw a problem as the corpus puts it; in a share of them something is said beside it.

    What is said says nothing: models learn that words around a question change no answer, whoever
    says them.
    """
    posed = pose(draw_problem(family, rng), rng, choice=rng.random() < _CHOICE_SHARE)
    if rng.random() >= chatter:
        return posed
    if rng.random() < _BEGUN_SHARE / chatter:
        posed = replace(posed, begun=draw_chatter(rng))
    if form is Format.CHAT and rng.random() < 0.5:
        return replace(posed, system=draw_chatter(rng))
    return replace(posed, question=f"{draw_chatter(rng)} {posed.question}")


def draw_chatter(rng: np.random.Generator) -> str:
    """Draw words that mean nothing, now and then a number among them."""
    words = [
        str(rng.integers(100))
        if rng.random() < 0.1
        else "".join(rng.choice(list(LETTERS), size=int(rng.integers(1, 9))))
        for _ in range(int(rng.integers(1, 7)))
    ]
    said = " ".join(words) + str(rng.choice([".", ":", "!", ",", ""]))
    return said[0].upper() + said[1:] if rng.random() < 0.5 else said


def load(folder: Path) -> Any:
    """Load a checkpoint's weights in float32."""
    from holdback.models.loading import load_weights

    weights, _ = load_weights(
        Checkpoint(name=folder.name, stage=Stage.PRETRAINED, model=str(folder)), device="cpu"
    )
    return weights
