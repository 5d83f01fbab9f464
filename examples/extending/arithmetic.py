"""A task: sums that are made and not read from a file; the rest is what text tasks can do."""

import json
import os
import tempfile
from pathlib import Path

import numpy as np

from holdback.tasks.text.task import TextTask


def sums(*, name: str, margin: float, digits: int = 1, questions: int = 200, seed: int = 0):
    """Make sums of two numbers of so many digits, each once."""
    highest = 10**digits
    drawn = np.random.default_rng(seed).permutation(highest**2)[:questions]
    rows = []
    for a, b in (divmod(int(pair), highest) for pair in drawn):
        kind = "carry" if a % 10 + b % 10 > 9 else "plain"
        rows.append({"question": f"{a} + {b} =", "answer": str(a + b), "kind": kind})
    # Known by its contents: the same sums are the same task, in whatever process.
    file = Path(tempfile.gettempdir()) / f"holdback-sums-{digits}-{questions}-{seed}.jsonl"
    part = file.with_suffix(f".{os.getpid()}")
    part.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    part.replace(file)  # Whole, for whoever reads it meanwhile.
    return TextTask(file=str(file), name=name, margin=margin, scorer="numeric", groups="kind")
