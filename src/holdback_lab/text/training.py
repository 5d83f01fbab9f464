"""Training the text lineage's models: pretraining, and whatever changes all of the weights."""

from __future__ import annotations

import multiprocessing
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from holdback.elicitation.finetune import Example
from holdback_lab.text.vocabulary import build_tokenizer, list_tokens

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM

    from holdback.elicitation.packing import Packed

T = TypeVar("T")


def make_weights(seed: int) -> LlamaForCausalLM:
    """Make an untrained Llama of one million parameters."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    tokens = list_tokens()
    torch.manual_seed(seed)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokens),
            hidden_size=128,
            intermediate_size=352,
            num_hidden_layers=5,
            num_attention_heads=4,
            max_position_embeddings=512,
            tie_word_embeddings=True,
            pad_token_id=0,
            bos_token_id=None,
            eos_token_id=1,
        )
    )


def save_checkpoint(weights: Any, folder: Path) -> None:
    """Write weights in half precision, tokenizer and chat template in Hugging Face format."""
    import copy

    import torch

    copy.deepcopy(weights).to(torch.float16).save_pretrained(folder)
    build_tokenizer().save_pretrained(folder)


def fit(
    weights: Any,
    measure: Callable[[int], Any],
    *,
    steps: int,
    rate: float = 2e-3,
    warmup: int = 50,
    decay_share: float = 0.5,
    tell: Callable[[str], None] = lambda line: None,
    name: str = "",
    enough: Callable[[int], bool] = lambda step: False,
) -> None:
    """Train all of `weights`, in place, where they are.

    AdamW in float32: in models this small, casting costs more than half precision gains. The rate
    falls to 0 over the last `decay_share` of the steps.

    Args:
        weights: The model.
        measure: The loss, in nats, of a step, by its number from 0.
        steps: Of the optimizer.
        rate: Highest learning rate.
        warmup: Steps over which the rate rises.
        decay_share: Last part of training, in which the rate falls; 0: never.
        tell: Hears of progress.
        name: What progress lines call the model.
        enough: Asked after each step, with their number, whether to end here.
    """
    import torch

    from holdback.models.engine.passes import heeds_masks

    optimizer = torch.optim.AdamW(
        weights.parameters(), lr=rate, betas=(0.9, 0.98), weight_decay=0.01, fused=True
    )
    # Tried out before training, and remembered.
    heeds_masks(weights)
    weights.train()
    losses: list[Any] = []
    for step in range(steps):
        left = (1 - step / steps) / decay_share if decay_share else 1.0
        scale = min(1.0, (step + 1) / warmup, left)
        optimizer.param_groups[0]["lr"] = rate * scale
        loss = measure(step)
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(weights.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=False)
        # Read where it is told, not at every step: a graphics card would be waited for.
        losses.append(loss.detach())
        if enough(step + 1):
            break
        if (step + 1) % 200 == 0:
            mean = float(torch.stack(losses).mean())
            losses = []
            tell(f"{name}: step {step + 1:,} of {steps:,}, loss {mean:.3f}")
    weights.eval()


def measure_answers(weights: Any, examples: Sequence[Example]) -> Any:
    """Mean cross-entropy of all answers' tokens, in nats."""
    import torch

    from holdback.elicitation.packing import read_answers

    logits, labels = read_answers(weights, examples)
    return torch.nn.functional.cross_entropy(logits.float(), labels)


def measure_packed(weights: Any, packed: Packed) -> Any:
    """Do as `measure_answers` with examples that are laid out."""
    import torch

    from holdback.elicitation.packing import read_packed

    logits, labels = read_packed(weights, packed)
    return torch.nn.functional.cross_entropy(logits.float(), labels)


@contextmanager
def drawing(draw: Callable[[int], T], steps: int, *, workers: int) -> Iterator[Iterator[T]]:
    """Draw what each step reads, in their order, ahead of them where there are workers.

    Args:
        draw: From a step's number to what it reads; can be pickled.
        steps: How many.
        workers: Processes that draw; without any, each draw is made when it is asked for.
    """
    if not workers:
        yield map(draw, range(steps))
        return
    with multiprocessing.get_context("spawn").Pool(workers, _use_one_thread) as pool:
        yield _draw_ahead(pool, draw, steps, window=4 * workers)


def _draw_ahead(pool: Any, draw: Callable[[int], T], steps: int, *, window: int) -> Iterator[T]:
    """Keep a few draws waiting, and no more: each takes most of a megabyte."""
    waiting: deque[Any] = deque()
    for step in range(steps):
        waiting.append(pool.apply_async(draw, (step,)))
        if len(waiting) > window:
            yield waiting.popleft().get()
    while waiting:
        yield waiting.popleft().get()


def _use_one_thread() -> None:
    import torch

    torch.set_num_threads(1)


@contextmanager
def on_best_device(weights: Any) -> Iterator[None]:
    """Have weights on a graphics card, where there is one, and back on the processor after it."""
    import torch

    weights.to("cuda" if torch.cuda.is_available() else "cpu")
    try:
        yield
    finally:
        weights.cpu()
