"""Training the chess language models on documents: pretraining, and instruction tuning."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from holdback.elicitation.training import choose_precision
from holdback_lab.chess.corpus import Positions, join_positions
from holdback_lab.chess.documents import Batch, collate, write_chat, write_record
from holdback_lab.chess.vocabulary import (
    CHAT_WORDS,
    VOCABULARY_SIZE,
    build_tokenizer,
    list_words,
)

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM

_SAVE_SECONDS = 120
_SCORED_ROWS = 64


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
    rows: int
    """Positions a step."""
    chat_share: float = 0.0
    """Share of documents in chat format."""
    uniform: float = 0.5
    """Weight of the uniform distribution over legal moves in the targets, at first."""
    uniform_end: float = 0.05
    """The same at the end; it falls linearly during the decay of the learning rate."""
    decay_share: float = 0.5
    """Last part of training, in which the learning rate falls linearly to 0."""
    warmup: int = 100
    matrix_rate: float = 4e-3
    """Learning rate of Muon, on the matrices inside the layers."""
    other_rate: float = 1.5e-3
    """Learning rate of AdamW, on embeddings and norms."""
    part: int = 64
    """Positions that go through the model at once, all about equally long."""
    compiled: bool = False
    """Compile the model, which takes half a minute and a C++ compiler; on a processor it then
    learns half as fast again."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """Positions, and how often they are drawn."""

    positions: Positions
    share: float
    """In proportion to the other sources'."""
    rules_only: bool = False
    """Learn which moves are legal, and nothing about which of them is better."""


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


def forget_chat_words(weights: Any, seed: int) -> None:
    """Start the embeddings of words that only chats have anew, in place.

    Pretraining never wrote them, and pushed them far from everything as what never comes; tuning
    would spend its first hundred steps on bringing them back. The word after which a chat's answer
    comes starts as the word after which a record's does.
    """
    import torch

    rows = [index for index, word in enumerate(list_words()) if word in CHAT_WORDS]
    embeddings = weights.get_input_embeddings().weight
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        drawn = torch.randn(len(rows), embeddings.shape[1], generator=generator)
        embeddings[rows] = 0.02 * drawn.to(embeddings)
        embeddings[list_words().index("<|assistant|>")] = embeddings[list_words().index("bm")]


def draw_batches(
    sources: Sequence[Source], course: Course, uniform: float, rng: np.random.Generator
) -> list[Batch]:
    """Draw the documents of one step, in batches of about equal length.

    Sources share batches, so that many small ones do not make many small passes.
    """
    # A small corpus may have no position of a rare kind.
    filled = [source for source in sources if len(source.positions)]
    whole = sum(source.share for source in filled)
    batches: list[Batch] = []
    for rules_only in (False, True):
        drawn = []
        for source in filled:
            if source.rules_only == rules_only:
                rows = round(course.rows * source.share / whole)
                drawn.append(source.positions.take(rng.integers(len(source.positions), size=rows)))
        if sum(map(len, drawn)):
            weight = 1.0 if rules_only else uniform
            batches += _write_batches(
                join_positions(drawn), course, weight, rng, rules_only=rules_only
            )
    return batches


def _write_batches(
    positions: Positions,
    course: Course,
    uniform: float,
    rng: np.random.Generator,
    *,
    rules_only: bool,
) -> Iterator[Batch]:
    documents = []
    for at in range(len(positions)):
        write = write_chat if rng.random() < course.chat_share else write_record
        documents.append(write(positions, at, rng))
    documents.sort(key=lambda document: len(document.prompt))
    parts = max(1, round(len(positions) / course.part))
    for start, stop in pairwise(np.linspace(0, len(positions), parts + 1).astype(int)):
        yield collate(positions, documents[start:stop], uniform, rng, rules_only=rules_only)


def train(
    weights: Any,
    sources: Sequence[Source],
    course: Course,
    *,
    out: Path,
    seed: int,
    tell: Callable[[str], None],
    held_out: Positions | None = None,
    until: int | None = None,
) -> None:
    """Train `weights` in place; a state in `out` is resumed from, and kept up to date.

    Matrices inside the layers are trained with Muon, the rest with AdamW; in bfloat16 where the
    machine is quicker at it.
    Every step draws its documents from its own seed, so a resumed run sees what an uninterrupted
    one would have. The learning curve is written to `log.jsonl`; with `held_out`, the share of
    legal answers there goes into it. With `until` it stops after that step, as though it had been
    interrupted there.
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
    read = _choose_pass(weights, course)
    started = saved_at = time.monotonic()
    losses: list[float] = []
    last = course.steps if until is None else until
    for step in range(first_step, last):
        left = 1 - step / course.steps
        scale = min(1.0, (step + 1) / course.warmup, left / course.decay_share)
        for optimizer, initial in zip(optimizers, rates, strict=True):
            for group, rate in zip(optimizer.param_groups, initial, strict=True):
                group["lr"] = rate * scale
        share = min(1.0, left / course.decay_share)
        uniform = course.uniform_end + (course.uniform - course.uniform_end) * share
        total = 0.0
        with quick_attention(weights):
            for batch in draw_batches(
                sources, course, uniform, np.random.default_rng([seed, step])
            ):
                loss = _answer_loss(weights, batch, read) / course.rows
                loss.backward()
                total += float(loss.detach())
        torch.nn.utils.clip_grad_norm_(weights.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        losses.append(total)
        if time.monotonic() - saved_at > _SAVE_SECONDS:
            saved_at = time.monotonic()
            save(step + 1)
            entry = {"step": step + 1.0, "loss": float(np.mean(losses[-100:]))}
            if held_out is not None:
                entry["legal"], entry["legal_pieces"] = measure_legality(weights, held_out)
            with (out / "log.jsonl").open("a") as file:
                file.write(json.dumps(entry) + "\n")
            remaining = (saved_at - started) / (step + 1 - first_step) * (last - step - 1)
            tell(f"{out.name}: {_in_words(entry, course)}, {remaining / 60:.0f} min to go")
    save(max(first_step, last))
    weights.eval()


def _in_words(entry: Mapping[str, float], course: Course) -> str:
    words = f"step {entry['step']:,.0f} of {course.steps:,}, loss {entry['loss']:.3f}"
    return words + (f", legal {entry['legal']:.1%}" if "legal" in entry else "")


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


@contextmanager
def quick_attention(weights: Any) -> Iterator[None]:
    """On a processor, do without the fused attention kernel: half of a step was its backward.

    Without it masks must be weights to add (`as_bias`): truth values would be added as 0 and 1.
    """
    fused = weights.config._attn_implementation
    if weights.device.type == "cpu":
        weights.set_attn_implementation("eager")
    try:
        yield
    finally:
        weights.set_attn_implementation(fused)


def as_bias(seen: Any) -> Any:
    """Weights to add to attention's scores for a mask of what is seen: 0, or as good as -∞."""
    import torch

    return torch.zeros(seen.shape, device=seen.device).masked_fill(~seen, -1e9)


def cast_down(weights: Any) -> AbstractContextManager[Any]:
    """Multiply in bfloat16 where the machine is quicker at it; elsewhere it is emulated."""
    return _autocast(weights.device.type, quick=_is_quicker_in_bfloat16(weights))


def _is_quicker_in_bfloat16(weights: Any) -> bool:
    import torch

    return choose_precision(weights) == torch.bfloat16


def _autocast(kind: str, *, quick: bool) -> AbstractContextManager[Any]:
    import torch

    return torch.autocast(kind, torch.bfloat16, enabled=quick)


_Pass: TypeAlias = Callable[[Any, Any, Any], Any]
"""From tokens, places and what is seen to the last layer's states."""


def _choose_pass(weights: Any, course: Course) -> _Pass:
    """Choose how the model is run in training."""
    import torch

    read = partial(_read, weights, _is_quicker_in_bfloat16(weights))
    if not course.compiled or not any(map(shutil.which, ("g++", "clang++"))):
        return read
    compiled: _Pass = torch.compile(read, dynamic=True)
    return compiled


def _read(weights: Any, quick: bool, tokens: Any, places: Any, seen: Any) -> Any:
    # What the machine prefers is no part of what is compiled.
    with _autocast(tokens.device.type, quick=quick):
        return weights.base_model(
            input_ids=tokens, position_ids=places, attention_mask=as_bias(seen), use_cache=False
        ).last_hidden_state


def _answer_loss(weights: Any, batch: Batch, read: _Pass | None = None) -> Any:
    """Weighted loss of everything that is asked, in nats, summed.

    The cross-entropy; or, for rules alone, minus the log of the probability of what is legal.
    """
    import torch

    shares = torch.from_numpy(batch.weights).to(weights.device)
    return (shares * _answer_losses(weights, batch, read)).sum()


def _answer_losses(weights: Any, batch: Batch, read: _Pass | None = None) -> Any:
    import torch

    logprobs = torch.log_softmax(_predict(weights, batch, read).float(), dim=-1)
    targets = torch.from_numpy(batch.targets).to(weights.device)
    if batch.rules_only:
        return -logprobs.masked_fill(targets == 0, -torch.inf).logsumexp(-1)
    return -(targets * logprobs).sum(-1)


def _predict(weights: Any, batch: Batch, read: _Pass | None = None) -> Any:
    """Logits of everything that is asked, shape (targets, VOCABULARY_SIZE)."""
    import torch

    device = weights.device
    tokens, places, seen, asked = (
        torch.from_numpy(array).to(device)
        for array in (batch.tokens, batch.places, batch.seen, batch.asked)
    )
    read = read or partial(_read, weights, _is_quicker_in_bfloat16(weights))
    states = read(tokens, places, seen)
    with cast_down(weights):
        return weights.lm_head(states.reshape(-1, states.shape[-1])[asked])


def find_hardest(weights: Any, positions: Positions, keep: int, seed: int = 0) -> Positions:
    """Keep the positions in which most of what the model might answer is illegal.

    Args:
        weights: The model; asked in completion format.
        positions: All of them are asked.
        keep: How many to keep.
        seed: Of the records' tags.
    """
    import torch

    was_training = weights.training
    weights.eval()
    rng = np.random.default_rng(seed)
    documents = [write_record(positions, at, rng) for at in range(len(positions))]
    documents.sort(key=lambda document: len(document.prompt))
    losses = np.zeros(len(positions))
    for start in range(0, len(documents), _SCORED_ROWS):
        part = documents[start : start + _SCORED_ROWS]
        batch = collate(positions, part, 1.0, rng, rules_only=True)
        with torch.no_grad():
            asked = batch.weights * _answer_losses(weights, batch).cpu().numpy()
        rows = batch.asked // batch.tokens.shape[1]
        at = [document.position for document in part]
        losses[at] = np.bincount(rows, asked, minlength=len(part))
    weights.train(was_training)
    return positions.take(np.sort(np.argsort(-losses, kind="stable")[:keep]))


def measure_legality(weights: Any, positions: Positions, seed: int = 0) -> tuple[float, float]:
    """Share of legal likeliest words, of a move's first word and of every own piece's second.

    Args:
        weights: The model; asked in completion format.
        positions: All of them are asked.
        seed: Of the records' tags.
    """
    import torch

    was_training = weights.training
    weights.eval()
    rng = np.random.default_rng(seed)
    documents = [write_record(positions, at, rng) for at in range(len(positions))]
    # With all weight on the uniform distribution, targets are the legal words.
    batch = collate(positions, documents, 1.0, rng)
    with torch.no_grad():
        likeliest = _predict(weights, batch).argmax(-1).cpu().numpy()
    weights.train(was_training)
    legal = batch.targets[np.arange(len(likeliest)), likeliest] > 0
    width = batch.tokens.shape[1]
    ends = [row * width + len(document.prompt) - 1 for row, document in enumerate(documents)]
    first = np.isin(batch.asked, ends)
    return float(legal[first].mean()), float(legal[~first].mean())
