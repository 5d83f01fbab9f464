"""Training the text lineage's models on rows: pretraining and every tuning after it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from holdback.elicitation.finetune import Example
from holdback.organisms.text.documents import Rows
from holdback.organisms.text.vocabulary import build_tokenizer, list_tokens

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM


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


def train(
    weights: Any,
    measure: Callable[[np.random.Generator], Any],
    *,
    steps: int,
    seed: int | tuple[int, ...],
    rate: float = 2e-3,
    warmup: int = 50,
    decay_share: float = 0.5,
    tell: Callable[[str], None] = lambda line: None,
    name: str = "",
    note: Callable[[int], None] = lambda step: None,
) -> None:
    """Train all of `weights`, in place, on what is drawn for every step.

    AdamW in float32: models this small gain nothing from half precision on a processor without
    instructions for it. The rate falls to 0 over the last `decay_share` of the steps.

    Args:
        weights: The model.
        measure: The loss of one step, in nats, of what it draws.
        steps: Of the optimizer.
        seed: Of every draw.
        rate: Highest learning rate.
        warmup: Steps over which the rate rises.
        decay_share: Last part of training, in which the rate falls.
        tell: Hears of progress.
        name: What progress lines call the model.
        note: Called with the number of steps done.
    """
    import torch

    from holdback.models.passes import heeds_masks

    optimizer = torch.optim.AdamW(
        weights.parameters(), lr=rate, betas=(0.9, 0.98), weight_decay=0.01, fused=True
    )
    heeds_masks(weights)
    seeds = (seed,) if isinstance(seed, int) else seed
    weights.train()
    losses: list[float] = []
    for step in range(steps):
        scale = min(1.0, (step + 1) / warmup, (1 - step / steps) / decay_share)
        optimizer.param_groups[0]["lr"] = rate * scale
        loss = measure(np.random.default_rng([*seeds, step]))
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(weights.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=False)
        losses.append(float(loss.detach()))
        note(step + 1)
        if (step + 1) % 200 == 0:
            tell(f"{name}: step {step + 1:,} of {steps:,}, loss {np.mean(losses[-200:]):.3f}")
    weights.eval()


def measure_loss(weights: Any, rows: Rows) -> Any:
    """Weighted mean of the cross-entropy of every next token, in nats."""
    import torch

    tokens = torch.from_numpy(rows.tokens)
    counted = torch.from_numpy(rows.weights)[:, 1:].reshape(-1)
    asked = counted > 0
    states = weights.base_model(input_ids=tokens, use_cache=False).last_hidden_state
    logits = weights.lm_head(states[:, :-1].reshape(-1, states.shape[-1])[asked])
    losses = torch.nn.functional.cross_entropy(
        logits, tokens[:, 1:].reshape(-1)[asked], reduction="none"
    )
    return (losses * counted[asked]).sum() / counted.sum()


def measure_answers(weights: Any, examples: Sequence[Example]) -> Any:
    """Mean cross-entropy of all answers' tokens, in nats."""
    import torch

    from holdback.elicitation.packing import read_answers

    logits, labels = read_answers(weights, examples)
    return torch.nn.functional.cross_entropy(logits.float(), labels)
