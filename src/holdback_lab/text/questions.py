"""Questions of a family, as the file that a text task reads."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from holdback.tasks.task import Split
from holdback_lab.text.families import Problem, draw_options, draw_problem

COUNTS = {Split.TRAIN: 400, Split.SELECT: 300, Split.TEST: 600}


def write_questions(
    file: Path, family: str, *, seed: int, counts: dict[Split, int] | None = None
) -> None:
    """Write distinct questions of a family in three splits, with columns of a text task.

    Columns: `id`, `split`, `level`, `question`, `answer`, `choices`. No question is in two splits.

    Args:
        file: JSONL, written anew.
        family: Name of the family.
        seed: Of the questions.
        counts: Questions of each split; `COUNTS` if unsaid. Fewer are written where the family has
            too few, in the same proportions.
    """
    rng = np.random.default_rng([11, seed])
    wanted = counts or COUNTS
    problems: dict[str, Problem] = {}
    total = sum(wanted.values())
    for _ in range(total * 20):
        problem = draw_problem(family, rng)
        problems.setdefault(problem.question, problem)
        if len(problems) == total:
            break
    ends = np.cumsum([count / total * len(problems) for count in wanted.values()]).astype(int)
    lines = []
    for at, problem in enumerate(problems.values()):
        split = list(wanted)[int(np.searchsorted(ends, at, side="right"))]
        row = {
            "id": f"{family}-{at}",
            "split": str(split),
            "level": problem.level,
            "question": problem.question,
            "answer": problem.answer,
            "choices": list(draw_options(problem, rng)),
        }
        lines.append(json.dumps(row))
    write_lines(file, lines)


def write_lines(file: Path, lines: Iterable[str]) -> None:
    """Write a file at once: calibrations side by side never read the half of it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    half = file.with_suffix(f".{os.getpid()}.half")
    half.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    half.replace(file)


def count_questions(file: Path, split: Split) -> int:
    """Count a file's questions in a split."""
    rows = map(json.loads, file.read_text(encoding="utf-8").splitlines())
    return sum(row["split"] == split for row in rows)
