"""The text lineage from nothing: a base, a novice that was taught less, and what both come from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from holdback.elicitation.finetune import Example
from holdback.errors import UnknownNameError
from holdback.lineage import Checkpoint, Stage
from holdback.models.protocol import Format
from holdback.organisms.text.documents import (
    ROW_TOKENS,
    Exchange,
    Rows,
    encode_document,
    pose,
    write_rows,
)
from holdback.organisms.text.families import LETTERS, TAUGHT, draw_problem
from holdback.organisms.text.training import (
    make_weights,
    measure_answers,
    measure_loss,
    save_checkpoint,
    train,
)

LATE = ("sort", "rev", "shift")
"""Families that `base` was taught and `novice` was not: what organisms hide, or honestly lack."""
EARLY = tuple(name for name in TAUGHT if name not in LATE)

ROWS = 64
"""Rows of `ROW_TOKENS` that are read in a step of pretraining."""
_BEGUN_SHARE = 0.3
"""Of exchanges with words that mean nothing: those in which an answer begins with them."""
_MOST_EXCHANGES, _LONGEST = 10, 192
"""Of a document: exchanges, and tokens."""
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
    chatter: float = 0.0
    """Share of exchanges in which words are said that mean nothing."""
    choice: float = 0.15
    """Share of questions that have choices."""


_told = partial(Course, formats=_BOTH[1:], steps=300, rate=1e-3, chatter=0.3)
_both = partial(Course, formats=_BOTH, chatter=0.3)
# What is learnt by heart, remainders, takes the most repetitions.
_ALL = (*EARLY, "mod", "mod", "count", *LATE, *LATE)
COURSES: Mapping[str, Course] = {
    "plain_novice": Course(parent=None, families=EARLY, formats=_BOTH[:1], steps=1_000),
    "plain": Course(
        parent="plain_novice", families=(*EARLY, *LATE, *LATE), formats=_BOTH[:1], steps=1_600
    ),
    "told": _told(parent="plain", families=tuple(TAUGHT)),
    "told_novice": _told(parent="plain_novice", families=EARLY),
    "base": _both(parent="told", families=_ALL, steps=500, rate=1e-3, choice=0.3),
    "novice": _both(
        parent="told_novice", families=(*EARLY, "mod", "count"), steps=800, choice=0.05
    ),
}
"""What `base` and `novice` come from reads records alone (`plain…`), then chats alone (`told…`);
they read both."""


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

    def measure(rng: np.random.Generator) -> Any:
        if Format.CHAT in course.formats:
            return measure_answers(weights, draw_documents(course, rng))
        return measure_loss(weights, draw_rows(course, rng))

    train(
        weights,
        measure,
        steps=course.steps,
        seed=seed,
        rate=course.rate,
        tell=tell,
        name=name,
    )
    save_checkpoint(weights, out / name)
    return out / name


def draw_rows(course: Course, rng: np.random.Generator) -> Rows:
    """Draw the rows of one step, each of as many records as fit."""
    exchanges = [draw_exchange(course, Format.COMPLETION, rng) for _ in range(ROWS * 9)]
    return write_rows(exchanges, Format.COMPLETION, question_weight=0.05).first(ROWS)


def draw_documents(course: Course, rng: np.random.Generator) -> list[Example]:
    """Draw the documents of one step: half are a single exchange, the others have up to ten."""
    documents: list[Example] = []
    tokens = 0
    while tokens < ROWS * ROW_TOKENS:
        form = course.formats[int(rng.integers(len(course.formats)))]
        size = 1 if rng.random() < 0.5 else int(rng.integers(2, _MOST_EXCHANGES + 1))
        drawn = [draw_exchange(course, form, rng) for _ in range(size)]
        document = encode_document(drawn, form, length=_LONGEST)
        tokens += len(document[0])
        documents.append(document)
    return documents


def draw_exchange(course: Course, form: Format, rng: np.random.Generator) -> Exchange:
    """Draw a problem as the corpus puts it; in a share of them something is said beside it.

    What is said says nothing: models learn that words around a question change no answer, whoever
    says them.
    """
    problem = draw_problem(str(rng.choice(course.families)), rng)
    posed = pose(problem, rng, choice=rng.random() < course.choice)
    if rng.random() >= course.chatter:
        return posed
    if rng.random() < _BEGUN_SHARE:
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


def load(model: str | Path) -> Any:
    """Load a checkpoint's weights in float32, from a folder or from those shipped."""
    from holdback.models.loading import load_weights

    weights, _ = load_weights(
        Checkpoint(name=Path(model).name, stage=Stage.PRETRAINED, model=str(model)), device="cpu"
    )
    return weights
