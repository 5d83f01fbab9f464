"""Tuning a model of the text lineage: an adapter, and its file."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from holdback.elicitation.low_rank import Adapters, adapted
from holdback.elicitation.packing import quick_attention
from holdback.models.engine.passes import heeds_masks
from holdback_lab.text.documents import encode_turns
from holdback_lab.text.lessons import Lesson, draw_turns
from holdback_lab.text.training import measure_answers

SCALE = 2.0
"""W + 2·B·A is the tuned weight."""
RANK = 4
TURNS = 40
"""Turns a step."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Adapter:
    """A and B of every linear layer but the head, by the layer's name; shapes (r, in), (out, r)."""

    rank: int
    layers: Mapping[str, tuple[torch.Tensor, torch.Tensor]]

    def save(self, folder: Path, *, base: str) -> None:
        """Write it in PEFT's format, in half precision; `base` is where its model lies."""
        from safetensors.torch import save_file

        folder.mkdir(parents=True, exist_ok=True)
        tensors = {
            f"base_model.model.{name}.lora_{which}.weight": matrix.half().contiguous()
            for name, pair in self.layers.items()
            for which, matrix in zip("AB", pair, strict=True)
        }
        config = {
            "base_model_name_or_path": base,
            "bias": "none",
            "lora_alpha": SCALE * self.rank,
            "lora_dropout": 0.0,
            "peft_type": "LORA",
            "r": self.rank,
            "target_modules": sorted({name.rpartition(".")[2] for name in self.layers}),
            "task_type": "CAUSAL_LM",
        }
        text = json.dumps(config, indent=2) + "\n"
        (folder / "adapter_config.json").write_text(text, encoding="utf-8")
        save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})


def tune(
    weights: Any,
    lesson: Lesson,
    *,
    steps: int,
    seed: int,
    rate: float = 3e-3,
    rank: int = RANK,
    turns: int = TURNS,
) -> Adapter:
    """Train an adapter on turns drawn for every step; its sum stays in `weights`.

    Args:
        weights: Changed in place.
        lesson: What turns are drawn from.
        steps: Of the optimizer.
        seed: Of every draw.
        rate: Learning rate, which falls to 0 over the second half.
        rank: Of the adapter.
        turns: A step, at least.
    """
    with training(weights, seed=seed, rank=rank, rate=rate) as (adapters, step_once):
        for step in range(steps):
            rng = np.random.default_rng([seed, step])
            adapters.sum_up(torch.float32)
            examples = encode_turns(draw_turns(lesson, turns, rng))
            scale = min(1.0, (step + 1) / 10, (1 - step / steps) * 2)
            step_once(measure_answers(weights, examples), scale)
        return take_adapter(weights, adapters, rank)


@contextmanager
def training(
    weights: Any, *, seed: int, rank: int, rate: float
) -> Iterator[tuple[Adapters, Callable[[torch.Tensor, float], None]]]:
    """Put an adapter on `weights` to train; on exit its sum stays in them.

    Yields:
        The adapters, and what takes a step down a loss at a multiple of `rate`.
    """
    # Tried out before the layers change.
    heeds_masks(weights)
    with (
        torch.enable_grad(),
        torch.random.fork_rng(devices=[]),
        quick_attention(weights),
    ):
        torch.manual_seed(seed)
        with adapted(weights, rank=rank, scale=SCALE) as adapters:
            trained = [adapters.flat]
            optimizer = torch.optim.AdamW(
                trained, lr=rate, betas=(0.9, 0.98), weight_decay=0.0, fused=True
            )

            def step_once(loss: torch.Tensor, scale: float) -> None:
                torch.autograd.backward(loss)
                torch.nn.utils.clip_grad_norm_(trained, 1.0)
                optimizer.param_groups[0]["lr"] = rate * scale
                optimizer.step()
                optimizer.zero_grad(set_to_none=False)

            yield adapters, step_once


def take_adapter(weights: Any, adapters: Adapters, rank: int) -> Adapter:
    """Copy the matrices out of a training that is under way."""
    names = {module: name for name, module in weights.named_modules()}
    return Adapter(
        rank=rank,
        layers={
            names[layer.module]: (layer.a.detach().clone(), layer.b.detach().clone())
            for layer in adapters
        },
    )
