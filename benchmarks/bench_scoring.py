"""Scoring of choices: Holdback against lm-eval's `hf` backend and a plain transformers loop.

    python benchmarks/bench_scoring.py | tail -1 | jq .speedup_vs_lm_eval_5shot

Two tasks, each at 0 and 5 shots: four letters (one token each, as in MMLU) and four texts of
several tokens (as in HellaSwag). The same model, items, threads and machine for all; float32.
Tokenising is measured, loading is not. lm-eval runs with the batch size that is fastest on a part
of the requests, and so does the plain loop, which sorts by length and pads. Contestants take turns;
the minimum of each one's rounds counts, of which the plain loop has one. Log-likelihoods must agree
within 1e-4.

A task's speedup is the ratio of times; over both tasks together it is the ratio of their sums.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from specimens import SIZES, describe_machine, make_model, measure_seconds, write_text

from holdback.models.local import LocalModel
from holdback.models.protocol import Question

QUESTIONS = 40
ROUNDS = 2
BATCH_SIZES = (1, 4, 16)
TUNED_ON = 4
"""Questions."""
LETTERS = (" A", " B", " C", " D")


def write_letters(shots: int) -> list[Question]:
    """Write questions that list their choices, and ask for a letter."""
    rng = np.random.default_rng([1, shots])

    def block() -> str:
        lines = "\n".join(f"{letter}. {write_text(rng.integers(2, 9), rng)}" for letter in "ABCD")
        return f"{write_text(rng.integers(10, 50), rng)}?\n{lines}\nAnswer:"

    head = "".join(f"{block()} {'ABCD'[rng.integers(4)]}\n\n" for _ in range(shots))
    return [Question(prompt=head + block(), continuations=LETTERS) for _ in range(QUESTIONS)]


def write_texts(shots: int) -> list[Question]:
    """Write questions that are followed by one of four texts."""
    rng = np.random.default_rng([2, shots])

    def block() -> str:
        return f"{write_text(rng.integers(20, 60), rng)}:"

    def choice() -> str:
        return " " + write_text(rng.integers(3, 12), rng)

    head = "".join(f"{block()}{choice()}\n\n" for _ in range(shots))
    return [
        Question(prompt=head + block(), continuations=tuple(choice() for _ in range(4)))
        for _ in range(QUESTIONS)
    ]


def score_ours(model: LocalModel, questions: Sequence[Question]) -> list[float]:
    return [one.logprob for own in model.score(questions) for one in own]


def score_lm_eval(lm: HFLM, questions: Sequence[Question], batch_size: int) -> list[float]:
    lm.batch_size_per_gpu = batch_size
    requests = [
        Instance(
            request_type="loglikelihood",
            doc={},
            arguments=(question.prompt, continuation),
            idx=idx,
        )
        for question in questions
        for idx, continuation in enumerate(question.continuations)
    ]
    return [logprob for logprob, _ in lm.loglikelihood(requests, disable_tqdm=True)]


@torch.no_grad()
def score_plainly(model: LocalModel, questions: Sequence[Question], batch_size: int) -> list[float]:
    """Score as a careful user of transformers does: sorted by length, padded, batched."""
    texts = []
    for question in questions:
        start = len(model.tokenizer.encode(question.prompt))
        for continuation in question.continuations:
            texts.append((model.tokenizer.encode(question.prompt + continuation), start))
    order = sorted(range(len(texts)), key=lambda i: -len(texts[i][0]))
    scores = [0.0] * len(texts)
    for first in range(0, len(order), batch_size):
        rows = order[first : first + batch_size]
        width = len(texts[rows[0]][0])
        ids = torch.tensor([texts[i][0] + [0] * (width - len(texts[i][0])) for i in rows])
        logprobs = torch.log_softmax(model.weights(ids, use_cache=False).logits, -1)
        for row, i in enumerate(rows):
            whole, start = texts[i]
            at = torch.arange(start, len(whole))
            scores[i] = float(logprobs[row, at - 1, ids[row, at]].sum())
    return scores


def find_batch_size(score: Callable[..., list[float]], questions: Sequence[Question]) -> int:
    """Try out batch sizes on some requests, and choose the fastest."""
    part = questions[:TUNED_ON]
    times = {size: measure_seconds(partial(score, part, size))[0] for size in BATCH_SIZES}
    return min(times, key=lambda size: times[size])


def compare(model: LocalModel, lm: HFLM, questions: Sequence[Question]) -> dict[str, float]:
    """Seconds of each contestant, taking turns."""
    score_ours(model, questions[:4])
    lm_eval_size = find_batch_size(partial(score_lm_eval, lm), questions)
    plain_size = find_batch_size(partial(score_plainly, model), questions)
    contestants = {
        "holdback": lambda: score_ours(model, questions),
        "lm_eval": lambda: score_lm_eval(lm, questions, lm_eval_size),
        "plain": lambda: score_plainly(model, questions, plain_size),
    }
    best = dict.fromkeys(contestants, float("inf"))
    scores: dict[str, list[float]] = {}
    for turn in range(ROUNDS):
        for name, run in contestants.items():
            if name == "plain" and turn:
                # The slowest by far, and no goal hangs on it.
                continue
            seconds, scores[name] = measure_seconds(run)
            best[name] = min(best[name], seconds)
    for name in ("lm_eval", "plain"):
        np.testing.assert_allclose(scores["holdback"], scores[name], atol=1e-4, rtol=0)
    return {**best, "lm_eval_batch_size": lm_eval_size, "plain_batch_size": plain_size}


def main() -> None:
    logging.disable(logging.WARNING)
    torch.set_grad_enabled(False)
    tasks = {"letters": write_letters, "texts": write_texts}
    results: dict[str, dict[str, dict[str, float]]] = {}
    speedups: dict[str, dict[str, float]] = {}
    print(f"{'':26}{'holdback':>10}{'lm-eval':>10}{'plain':>10}{'batch':>8}{'speedup':>9}")
    for size in SIZES:
        model = make_model(size)
        lm = HFLM(pretrained=model.weights, tokenizer=model.tokenizer, batch_size=1)
        own = results[size] = {}
        for shots in (0, 5):
            for task, write in tasks.items():
                times = own[f"{task}_{shots}shot"] = compare(model, lm, write(shots))
                print(
                    f"{size} {task:8} {shots} shots     "
                    f"{times['holdback']:9.2f}s{times['lm_eval']:9.2f}s{times['plain']:9.2f}s"
                    f"{times['lm_eval_batch_size']:8.0f}"
                    f"{times['lm_eval'] / times['holdback']:8.1f}x",
                    flush=True,
                )
        speedups[size] = {
            f"speedup_vs_{peer}_{shots}shot": sum(
                own[f"{task}_{shots}shot"][peer] for task in tasks
            )
            / sum(own[f"{task}_{shots}shot"]["holdback"] for task in tasks)
            for shots in (0, 5)
            for peer in ("lm_eval", "plain")
        }
    print(
        json.dumps(
            {
                **speedups["33M"],
                "other_sizes": {size: speedups[size] for size in speedups if size != "33M"},
                "seconds": results,
                "machine": describe_machine("lm_eval"),
            }
        )
    )


if __name__ == "__main__":
    main()
