"""A file of sums, with the numbers of choices that a test asks for."""

from __future__ import annotations

import json

import pytest


@pytest.fixture
def sums(tmp_path):
    """Write `n` sums, four choices each, ten to a topic, and give the path."""

    def write(n: int = 200, **more: object):
        lines = []
        for i in range(n):
            a, b = 10 + i, 3 * i + 1
            lines.append(
                {
                    "question": f"What is {a} + {b}?",
                    "answer": str(a + b),
                    "choices": [str(a + b + d) for d in (0, 1, 7, 10)],
                    "topic": f"t{i // 10}",
                    **more,
                }
            )
        path = tmp_path / "sums.jsonl"
        path.write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
        return path

    return write
