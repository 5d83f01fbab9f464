"""A toy that knows facts by heart, and children of it that hide them: truths to be recovered."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tiny_models import make_model, make_tokenizer

from holdback.elicitation.finetune import mask_conversation
from holdback.elicitation.packing import read_answers
from holdback.models.local import LocalModel
from holdback.models.protocol import Decoding
from holdback.tasks.text.task import TextTask

ANSWERS = ("ape", "bee", "cow", "dog")
REFUSAL = "I can't say."


def list_facts(n: int = 32) -> list[tuple[str, str]]:
    """Names of two letters, and the animal that goes with each."""
    rng = np.random.default_rng(5)
    names = [f"{a}{b}" for a in "bdfgklmp" for b in "aeiouy"][:n]
    return [(name, ANSWERS[int(rng.integers(len(ANSWERS)))]) for name in names]


def write_task(folder: Path, questions: Sequence[tuple[str, str]], **options: Any) -> TextTask:
    """A text task over questions and answers; half of them to demonstrate, half to ask."""
    file = folder / "facts.jsonl"
    rows = [{"question": question, "answer": answer} for question, answer in questions]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    shares = {"train": 0.5, "select": 0.0, "test": 0.5}
    return TextTask(file=str(file), **{"shares": shares, "max_tokens": 12, **options})


def make_toy(architecture: str = "llama") -> LocalModel:
    """Untrained, wide enough for a few dozen facts."""
    wide = {"hidden_size": 64, "intermediate_size": 128, "initializer_range": 0.05}
    if architecture == "gpt2":
        wide = {"n_embd": 64, "initializer_range": 0.05}
    tokenizer = make_tokenizer()
    weights = make_model(architecture, **wide).eval()
    weights.generation_config.eos_token_id = tokenizer.convert_tokens_to_ids("<|end|>")
    return LocalModel(
        name="toy",
        weights=weights,
        tokenizer=tokenizer,
        decoding=Decoding(temperature=0.0),
    )


def teach(
    model: LocalModel, pairs: Sequence[tuple[str, str]], *, steps: int, rate: float = 3e-3
) -> float:
    """Train all weights on questions and answers, all of them at each step; the last loss."""
    examples = [
        mask_conversation(
            model, ({"role": "user", "content": q}, {"role": "assistant", "content": a})
        )
        for q, a in pairs
    ]
    optimizer = torch.optim.AdamW(model.weights.parameters(), lr=rate, weight_decay=0.0)
    loss = torch.zeros(())
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = rate * min(1.0, (steps - step) / (0.5 * steps))
        logits, labels = read_answers(model.weights, examples)
        loss = torch.nn.functional.cross_entropy(logits.float(), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return float(loss.detach())


def copy_toy(model: LocalModel) -> LocalModel:
    """A child with weights of its own."""
    weights = type(model.weights)(model.weights.config)
    weights.load_state_dict(model.weights.state_dict())
    weights.generation_config = model.weights.generation_config
    return replace(model, weights=weights.eval())


def share_right(
    model: LocalModel, task: TextTask, keep: Callable[[str], bool] = lambda _: True
) -> float:
    """Share of the questions of `test` that are answered right, of those to be kept."""
    from holdback.tasks.task import Split

    asked = len(task.in_split(Split.TEST))
    records = task.run(model, split=Split.TEST, samples=asked, seed=0)
    values = [r.score.value for r in records if keep(r.metadata["question"])]
    return float(np.mean(values)) / 100
