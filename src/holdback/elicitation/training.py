"""Training an adapter on examples, and what makes it quick where models are small."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from holdback.elicitation.finetune import Example
from holdback.elicitation.low_rank import Adapters, adapted
from holdback.elicitation.packing import quick_attention, read_answers
from holdback.elicitation.shelf import describe_training, keep, take
from holdback.errors import CheckpointError
from holdback.models.engine.passes import heeds_masks


def train_adapter(
    weights: Any,
    examples: Sequence[Example],
    *,
    rank: int,
    learning_rate: float,
    steps: int,
    batch_size: int,
    rng: np.random.Generator,
) -> None:
    """Train a LoRA on examples and merge it into `weights`, in place.

    The adapter's start and any dropout come from torch's own stream, which is seeded for them and
    then goes on as if nothing had been drawn from it. Where there is a shelf (`shelving`), the same
    adapter is not trained again.

    Raises:
        CheckpointError: if the adapter changed nothing: a wrong loss mask trains nothing.
    """
    settings = {
        "rank": rank,
        "learning_rate": learning_rate,
        "steps": steps,
        "batch_size": batch_size,
        "precision": str(choose_precision(weights)),
    }
    key = describe_training(weights, examples, settings, rng)
    with adapting(weights, rank=rank, rng=rng) as (adapters, precision):
        if (before := take(key, rng)) is not None:
            adapters.flat.data.copy_(before)
            return
        trained = [adapters.flat]
        optimizer = torch.optim.AdamW(trained, lr=learning_rate, weight_decay=0.0, fused=True)
        weights.train()
        try:
            for step, batch in enumerate(_batches(len(examples), steps, batch_size, rng)):
                for group in optimizer.param_groups:
                    group["lr"] = learning_rate * (1 - step / steps)
                adapters.sum_up(precision)
                loss = _measure_loss(weights, [examples[i] for i in batch])
                if loss is None:
                    continue
                torch.autograd.backward(loss)
                torch.nn.utils.clip_grad_norm_(trained, 1.0)
                optimizer.step()
                optimizer.zero_grad(set_to_none=False)
        finally:
            weights.eval()
        if not adapters.moved:
            raise CheckpointError(
                "fine-tuning left the adapter at zero: no answer token carries a label; check"
                " that the demonstrations have assistant messages"
            )
        keep(key, adapters.flat.data, rng)


@contextmanager
def adapting(
    weights: Any, *, rank: int, rng: np.random.Generator
) -> Iterator[tuple[Adapters, torch.dtype]]:
    """Let the body train a LoRA of scale 2; on exit its sum stays in the weights.

    Gives the adapter, and the precision that passes are to be run in. Torch's own stream is seeded
    for the body, and then goes on as if nothing had been drawn from it.
    """
    device = weights.device
    # Tried out before the layers change.
    heeds_masks(weights)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(int(rng.integers(2**31)))
        # Whoever borrows a model may do so under no_grad.
        with (
            torch.enable_grad(),
            quick_attention(weights),
            adapted(weights, rank=rank, scale=2.0) as adapters,
            _lowered(weights, precision := choose_precision(weights)),
        ):
            yield adapters, precision


@contextmanager
def _lowered(weights: Any, precision: torch.dtype) -> Iterator[None]:
    """Let the body compute in a lower precision; what it was rounded from comes back after it."""
    kept = [(tensor, tensor.data) for tensor in weights.parameters()]
    for tensor, exact in kept:
        tensor.data = exact.to(precision)
    try:
        yield
    finally:
        for tensor, exact in kept:
            tensor.data = exact


def _measure_loss(weights: Any, examples: Sequence[Example]) -> torch.Tensor | None:
    """Mean over all labels, in nats; None where there are none."""
    logits, labels = read_answers(weights, examples)
    return torch.nn.functional.cross_entropy(logits.float(), labels) if len(labels) else None


def choose_precision(weights: Any) -> torch.dtype:
    """bfloat16 where the machine multiplies it faster, else what the weights are in.

    Adapters, their gradients and the loss stay in float32.
    """
    # Recurrent states want their own precision.
    if weights.dtype != torch.float32 or not heeds_masks(weights):
        return weights.dtype  # type: ignore[no-any-return]
    kind = weights.device.type
    quick = (kind == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)) or (
        kind == "cpu" and torch.cpu._is_avx512_bf16_supported()
    )
    return torch.bfloat16 if quick else torch.float32


def _batches(n: int, steps: int, batch_size: int, rng: np.random.Generator) -> Iterator[list[int]]:
    """Draw batches epoch by epoch, every example once before any comes again."""
    queue: list[int] = []
    for _ in range(steps):
        batch: list[int] = []
        while len(batch) < min(batch_size, n):
            if not queue:
                queue = [int(i) for i in rng.permutation(n)]
            batch.append(queue.pop())
        yield batch
