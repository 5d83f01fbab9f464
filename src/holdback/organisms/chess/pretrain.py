"""Training the chess language models on documents: pretraining, and instruction tuning."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from holdback.organisms.chess.corpus import Corpus
from holdback.organisms.chess.documents import (
    Batch,
    build_targets,
    collate,
    write_chat,
    write_record,
)
from holdback.organisms.chess.vocabulary import VOCABULARY_SIZE, build_tokenizer

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM

_SAVE_SECONDS = 120


@dataclass(frozen=True, kw_only=True, slots=True)
class Shape:
    """Size of a Llama-architecture model."""

    width: int
    layers: int
    heads: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Course:
    """How long and on what a model is trained."""

    steps: int
    tokens_per_step: int
    chat_share: float
    """Share of documents in chat format; their answers come from strong players only."""
    uniform: float = 0.5
    """Weight of the uniform distribution over legal moves in the targets, at first."""
    uniform_end: float = 0.12
    """The same at the end; it falls linearly during the decay of the learning rate."""
    decay_share: float = 0.5
    """Last part of training, in which the learning rate falls linearly to 0."""
    warmup: int = 100
    matrix_rate: float = 4e-3
    """Learning rate of Muon, on the matrices inside the layers."""
    other_rate: float = 1.5e-3
    """Learning rate of AdamW, on embeddings and norms."""
    plies: tuple[int, ...] = (8, 16, 24)
    """Lengths that documents are cut to; one is drawn for each step."""
    strong_elo: int = 1800


def make_weights(shape: Shape, seed: int) -> LlamaForCausalLM:
    """Make an untrained model."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCABULARY_SIZE,
            hidden_size=shape.width,
            intermediate_size=int(shape.width * 8 / 3) // 32 * 32,
            num_hidden_layers=shape.layers,
            num_attention_heads=shape.heads,
            max_position_embeddings=512,
            tie_word_embeddings=True,
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=7,
        )
    )


def save_checkpoint(weights: Any, folder: Path) -> None:
    """Write weights in half precision, tokenizer and chat template in Hugging Face format."""
    import copy

    import torch

    copy.deepcopy(weights).to(torch.float16).save_pretrained(folder)
    build_tokenizer().save_pretrained(folder)


def draw_batch(corpus: Corpus, course: Course, rng: np.random.Generator) -> Batch:
    """Draw the documents of one step, all cut to about the same length."""
    plies = int(rng.choice(course.plies))
    documents, first, stride = [], [], []
    words = 0
    while words < course.tokens_per_step:
        game = int(rng.integers(corpus.games))
        start, stop = (int(p) for p in corpus.first_ply[game : game + 2])
        length = min(plies, stop - start)
        if length < 1:
            continue
        ply = int(rng.integers(start, stop - length + 1))
        if rng.random() < course.chat_share:
            colour = 0 if corpus.state[ply, 0] else 1
            if corpus.elo[game, colour] < course.strong_elo:
                continue
            document, step = write_chat(corpus, ply, length, rng), 2
        else:
            document, step = write_record(corpus, game, ply, length, rng), 1
        documents.append(document)
        first.append(ply)
        stride.append(step)
        words += len(document[0])
    return collate(documents, first, stride)


def train(
    weights: Any,
    corpus: Corpus,
    course: Course,
    *,
    out: Path,
    seed: int,
    tell: Callable[[str], None],
) -> None:
    """Train `weights` in place; a state in `out` is resumed from, and kept up to date.

    Matrices inside the layers are trained with Muon, the rest with AdamW; in bfloat16 autocast.
    Every step draws its documents from its own seed, so a resumed run sees what an uninterrupted
    one would have.
    """
    import torch

    optimizers = _make_optimizers(weights, course)
    rates = [[group["lr"] for group in optimizer.param_groups] for optimizer in optimizers]
    state_file = out / "training.pt"
    first_step = 0
    if state_file.exists():
        state = torch.load(state_file, weights_only=True)
        weights.load_state_dict(state["weights"])
        for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        first_step = state["step"]
        tell(f"{out.name}: going on from step {first_step:,} of {course.steps:,}")
    out.mkdir(parents=True, exist_ok=True)

    def save(step: int) -> None:
        state = {
            "weights": weights.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in optimizers],
            "step": step,
        }
        # A crash while writing must not cost the state before.
        torch.save(state, state_file.with_suffix(".new"))
        state_file.with_suffix(".new").replace(state_file)

    weights.train()
    started = saved_at = time.monotonic()
    losses: list[float] = []
    words = 0
    for step in range(first_step, course.steps):
        left = 1 - step / course.steps
        scale = min(1.0, (step + 1) / course.warmup, left / course.decay_share)
        for optimizer, initial in zip(optimizers, rates, strict=True):
            for group, rate in zip(optimizer.param_groups, initial, strict=True):
                group["lr"] = rate * scale
        share = min(1.0, left / course.decay_share)
        uniform = course.uniform_end + (course.uniform - course.uniform_end) * share
        batch = draw_batch(corpus, course, np.random.default_rng([seed, step]))
        loss = _move_loss(weights, batch, *build_targets(corpus, batch.plies, uniform))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        losses.append(float(loss.detach()))
        words += batch.tokens.size
        if time.monotonic() - saved_at > _SAVE_SECONDS:
            saved_at = time.monotonic()
            save(step + 1)
            seconds = saved_at - started
            remaining = seconds / (step + 1 - first_step) * (course.steps - step - 1)
            tell(
                f"{out.name}: step {step + 1:,} of {course.steps:,},"
                f" loss {np.mean(losses[-100:]):.3f}, {words / seconds:,.0f} words/s,"
                f" {remaining / 60:.0f} min to go"
            )
            _log(out, {"step": step + 1, "loss": float(np.mean(losses[-100:]))})
    save(course.steps)
    weights.eval()


def _make_optimizers(weights: Any, course: Course) -> list[Any]:
    import torch

    inside = [p for n, p in weights.named_parameters() if p.ndim == 2 and "embed" not in n]
    ids = {id(p) for p in inside}
    rest = [p for p in weights.parameters() if id(p) not in ids]
    return [
        torch.optim.Muon(
            inside, lr=course.matrix_rate, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"
        ),
        torch.optim.AdamW(rest, lr=course.other_rate, betas=(0.9, 0.98), weight_decay=0.0),
    ]


def _move_loss(weights: Any, batch: Batch, first: Any, second: Any) -> Any:
    """Cross-entropy of both words of every own move, in nats a move."""
    import torch

    device = weights.device
    tokens = torch.from_numpy(batch.tokens).to(device)
    with torch.autocast(device.type, torch.bfloat16):
        hidden = weights.base_model(input_ids=tokens, use_cache=False).last_hidden_state
        flat = hidden.reshape(-1, hidden.shape[-1])
        before = torch.from_numpy(batch.before_move).to(device)
        left = weights.lm_head(flat[before])
        # The last word of a document is never read again, so what precedes it may be the end.
        reached = weights.lm_head(flat[before + 1])
    loss = torch.zeros((), device=device)
    for logits, target in ((left, first), (reached, second)):
        logprobs = torch.log_softmax(logits.float(), dim=-1)
        loss = loss - (torch.from_numpy(target).to(device) * logprobs).sum(-1).mean()
    return loss


def _log(out: Path, entry: dict[str, float]) -> None:
    with (out / "log.jsonl").open("a") as file:
        file.write(json.dumps(entry) + "\n")


def hold_out(corpus: Corpus, games: int) -> tuple[Corpus, Corpus]:
    """Split off the last games, for learning curves. Arrays are shared, not copied."""
    from dataclasses import replace

    cut = corpus.games - games
    if cut < 1:
        raise ValueError(f"cannot hold {games} of {corpus.games} games out")

    def part(numbers: slice) -> Corpus:
        plies = slice(numbers.start, None if numbers.stop is None else numbers.stop + 1)
        return replace(
            corpus,
            first_ply=corpus.first_ply[plies],
            elo=corpus.elo[numbers],
            result=corpus.result[numbers],
        )

    return part(slice(0, cut)), part(slice(cut, None))


def measure_legality(
    weights: Any, corpus: Corpus, course: Course, *, batches: int, seed: int
) -> Iterator[tuple[float, float]]:
    """Share of legal most probable words, of both words of a move, a batch at a time."""
    import torch

    for number in range(batches):
        batch = draw_batch(corpus, course, np.random.default_rng([seed, number]))
        legal = build_targets(corpus, batch.plies, 1.0)
        # No move played: what is not legal must have no weight.
        with torch.no_grad():
            tokens = torch.from_numpy(batch.tokens)
            hidden = weights.base_model(input_ids=tokens, use_cache=False).last_hidden_state
            flat = hidden.reshape(-1, hidden.shape[-1])
            shares = []
            for offset, target in enumerate(legal):
                top = weights.lm_head(flat[batch.before_move + offset]).argmax(-1).numpy()
                shares.append(float((target[np.arange(len(top)), top] > 0).mean()))
        if not math.isnan(shares[0]):
            yield shares[0], shares[1]
