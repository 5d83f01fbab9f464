"""The text lineage from nothing: a base, a novice that was taught less, and what both come from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from holdback.elicitation.finetune import Example
from holdback.errors import UnknownNameError
from holdback.lineage import Checkpoint, Stage
from holdback.models.protocol import Format
from holdback_lab.text.documents import Exchange, encode_document, pose
from holdback_lab.text.families import LETTERS, TAUGHT, draw_problem
from holdback_lab.text.training import (
    drawing,
    fit,
    make_weights,
    measure_packed,
    on_best_device,
    save_checkpoint,
)

if TYPE_CHECKING:
    from holdback.elicitation.packing import Packed

LATE = ("sort", "rev", "shift")
"""Families that `base` was taught and `novice` was not: what organisms hide, or honestly lack."""
EARLY = tuple(name for name in TAUGHT if name not in LATE)

TOKENS_A_STEP = 24_576
"""Read in a step of pretraining, or a few more."""
_BEGUN_SHARE = 0.3
"""Of exchanges with words that mean nothing: those in which an answer begins with them."""
_MOST_EXCHANGES, _LONGEST = 10, 192
"""Of a document: exchanges, and tokens."""
_RECORDS = (Format.COMPLETION,)
_BOTH = (Format.COMPLETION, Format.CHAT)


@dataclass(frozen=True, kw_only=True, slots=True)
class Course:
    """One checkpoint's pretraining: where it starts, on what and for how long."""

    families: Sequence[str]
    """Drawn alike; named twice, twice as often."""
    formats: Sequence[Format]
    steps: int
    parent: str | None = None
    rate: float = 2e-3
    chatter: float = 0.3
    """Share of exchanges in which words are said that mean nothing."""
    choice: float = 0.3
    """Share of questions that have choices."""


# What is learnt by heart, remainders, takes the most repetitions.
_EARLY_OFTEN = (*EARLY, *EARLY, "mod")
COURSES: Mapping[str, Course] = {
    "plain": Course(
        families=(*_EARLY_OFTEN, *LATE, *LATE), formats=_RECORDS, steps=2_500, chatter=0.0
    ),
    "base": Course(
        parent="plain", families=(*_EARLY_OFTEN, *LATE, *LATE), formats=_BOTH, steps=4_400
    ),
    "novice": Course(families=_EARLY_OFTEN, formats=_BOTH, steps=2_100),
}
"""`plain` reads records alone; `base` goes on from it with chats too; `novice` never reads of late
families."""


def pretrain(
    name: str,
    out: Path,
    *,
    tell: Callable[[str], None],
    seed: int = 0,
    workers: int = 0,
) -> Path:
    """Train a checkpoint of `COURSES`, and what it comes from, into folders of `out`.

    What is there is kept. A graphics card is used where there is one, for what two processor cores
    take hours.

    Args:
        name: Of the checkpoint.
        out: Its folder is made here.
        tell: Hears of progress.
        seed: Of the weights and of every draw; the number of workers changes none.
        workers: Processes that write documents ahead; without any, none is written ahead.

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
        weights = load(pretrain(course.parent, out, tell=tell, seed=seed, workers=workers))
    draw = partial(_draw_step, course, seed)
    with on_best_device(weights), drawing(draw, course.steps, workers=workers) as drawn:
        fit(
            weights,
            lambda step: measure_packed(weights, next(drawn)),
            steps=course.steps,
            rate=course.rate,
            tell=tell,
            name=name,
        )
    save_checkpoint(weights, out / name)
    return out / name


def _draw_step(course: Course, seed: int, step: int) -> Packed:
    from holdback.elicitation.packing import lay_out

    return lay_out(draw_documents(course, np.random.default_rng([seed, step])))


def draw_documents(course: Course, rng: np.random.Generator) -> list[Example]:
    """Draw the documents of one step: half are a single exchange, the others have up to ten."""
    documents: list[Example] = []
    tokens = 0
    while tokens < TOKENS_A_STEP:
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
