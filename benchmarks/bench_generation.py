"""Generation at concurrency 64: Holdback, Inspect's `hf` provider, transformers' `generate`.

    python benchmarks/bench_generation.py | tail -1 | jq .speedup_vs_inspect_hf

Three workloads: short answers, free text, and free text behind five shots that all prompts share.
Lengths are unequal: one token in 32 ends a text, as the model draws them (greedily, so that all
contestants must give the same texts: checked), up to a limit. The same model, prompts, threads and
machine for all; float32. Loading is left out, tokenising is not. Inspect's provider is the real
one, through `get_model` with `max_connections` 64 and requests all sent at once; `generate` gets
batches of 64 sorted by length. Contestants take turns.

The speedup is the ratio of the sums over the workloads; each workload's own is beside it.
"""

from __future__ import annotations

import asyncio
import json
import os
import tempfile
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from inspect_ai.model import ChatMessageUser, GenerateConfig, get_model
from specimens import describe_machine, make_model, measure_seconds, write_text

from holdback.models.local import LocalModel
from holdback.models.protocol import Request

ROWS = 64
ENDS = 32
"""One token in so many ends a text."""
AGREEMENT = 0.97
"""Share of texts that must be equal: where two tokens are equally likely, rounding decides."""


def write_prompts(n: int, *, shots: int, seed: int) -> list[str]:
    """Write questions of 10 to 60 words behind the same shots."""
    rng = np.random.default_rng(seed)
    head = "".join(f"{write_text(60, rng)}.\n\n" for _ in range(shots))
    return [f"{head}{write_text(int(rng.integers(10, 60)), rng)}:" for _ in range(n)]


WORKLOADS: dict[str, tuple[list[str], int]] = {
    "short_answers": (write_prompts(128, shots=0, seed=1), 8),
    "free_text": (write_prompts(128, shots=0, seed=2), 128),
    "five_shots": (write_prompts(64, shots=5, seed=3), 128),
}
"""Prompts, and the longest answer in tokens."""


def choose_ends(model: LocalModel) -> list[int]:
    """Make one token in `ENDS` an end, here where every contestant looks for them."""
    rng = np.random.default_rng(4)
    vocabulary = len(model.tokenizer)
    ends = sorted(int(i) for i in rng.choice(np.arange(2, vocabulary), vocabulary // ENDS, False))
    model.weights.generation_config.eos_token_id = [1, *ends]
    model.weights.generation_config.pad_token_id = 1
    return [1, *ends]


def generate_ours(model: LocalModel, prompts: Sequence[str], limit: int) -> list[str]:
    requests = [Request(prompt=wrap(prompt), max_tokens=limit, seed=()) for prompt in prompts]
    return [one.text for one in model.generate(requests)]


def wrap(prompt: str) -> str:
    """What Inspect's provider makes of a user's message where there is no chat template."""
    return f"user: {prompt}\n"


@torch.inference_mode()
def generate_plainly(
    model: LocalModel, ends: set[int], prompts: Sequence[str], limit: int
) -> list[str]:
    texts = [wrap(prompt) for prompt in prompts]
    order = sorted(range(len(texts)), key=lambda i: -len(texts[i]))
    tokenizer = model.tokenizer
    tokenizer.pad_token, tokenizer.padding_side = tokenizer.eos_token, "left"
    answers = [""] * len(texts)
    for first in range(0, len(order), ROWS):
        rows = order[first : first + ROWS]
        inputs = tokenizer([texts[i] for i in rows], return_tensors="pt", padding=True)
        out = model.weights.generate(**inputs, do_sample=False, max_new_tokens=limit)
        for i, drawn in zip(rows, out[:, inputs["input_ids"].shape[1] :].tolist(), strict=True):
            answers[i] = tokenizer.decode(cut(drawn, ends))
    return answers


def cut(drawn: list[int], ends: set[int]) -> list[int]:
    """Leave out the first end and what follows."""
    at = next((i for i, token in enumerate(drawn) if token in ends), len(drawn))
    return drawn[:at]


def generate_inspect(inspect_model: Any, prompts: Sequence[str], limit: int) -> list[str]:
    """Send all requests at once; at most 64 are under way, as Inspect's connections have it."""
    config = GenerateConfig(max_tokens=limit, max_connections=ROWS)

    async def ask() -> list[Any]:
        return await asyncio.gather(
            *(
                inspect_model.generate([ChatMessageUser(content=prompt)], config=config)
                for prompt in prompts
            )
        )

    return [output.completion for output in asyncio.run(ask())]


def check(ours: Sequence[str], theirs: Sequence[str], *, tail: Callable[[str], str]) -> None:
    """The same texts, but where rounding decides."""
    same = np.mean([tail(a) == tail(b) for a, b in zip(ours, theirs, strict=True)])
    assert same >= AGREEMENT, f"only {same:.0%} of the texts agree"


def measure(size: str, workloads: Sequence[str]) -> dict[str, dict[str, float]]:
    """Seconds of each contestant on each workload."""
    model = make_model(size, tied=False)
    ends = set(choose_ends(model))
    results: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        model.weights.save_pretrained(folder)
        model.tokenizer.save_pretrained(folder)
        inspect_model = get_model(
            "hf/local", model_path=str(Path(folder)), device="cpu", do_sample=False, memoize=False
        )
    for name in workloads:
        prompts, limit = WORKLOADS[name]
        generate_ours(model, prompts[:4], 2)
        ours, texts = measure_seconds(lambda p=prompts, n=limit: generate_ours(model, p, n))
        plain, plain_texts = measure_seconds(
            lambda p=prompts, n=limit: generate_plainly(model, ends, p, n)
        )
        inspect, inspect_texts = measure_seconds(
            lambda p=prompts, n=limit: generate_inspect(inspect_model, p, n)
        )
        check(texts, plain_texts, tail=str)
        # Inspect's texts go on with the end token and padding, the special ones left out.
        starts = [b.startswith(a) for a, b in zip(texts, inspect_texts, strict=True)]
        assert np.mean(starts) >= AGREEMENT, f"only {np.mean(starts):.0%} of Inspect's texts agree"
        results[name] = {"holdback": ours, "inspect_hf": inspect, "generate": plain}
        print(
            f"{size} {name:14} {ours:8.2f}s {inspect:8.2f}s {plain:8.2f}s"
            f"  {inspect / ours:6.1f}x {plain / ours:6.1f}x",
            flush=True,
        )
    return results


def main() -> None:
    warnings.simplefilter("ignore")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    print(f"{'':19}{'holdback':>9}{'inspect':>10}{'generate':>10}  speedups")
    results = {
        "33M": measure("33M", list(WORKLOADS)),
        "11M": measure("11M", ["short_answers", "free_text"]),
    }
    main_times = results["33M"]

    def ratio(peer: str) -> float:
        return sum(t[peer] for t in main_times.values()) / sum(
            t["holdback"] for t in main_times.values()
        )

    print(
        json.dumps(
            {
                "speedup_vs_inspect_hf": ratio("inspect_hf"),
                "speedup_vs_generate": ratio("generate"),
                "by_workload": {
                    size: {
                        name: {
                            peer: times[peer] / times["holdback"]
                            for peer in ("inspect_hf", "generate")
                        }
                        for name, times in own.items()
                    }
                    for size, own in results.items()
                },
                "seconds": results,
                "machine": describe_machine("inspect_ai"),
            }
        )
    )


if __name__ == "__main__":
    main()
