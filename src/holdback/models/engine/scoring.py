"""Log-probabilities of continuations, every shared token computed once.

The continuations of a question branch off one row, rows that begin alike (the same few shots)
continue one key/value cache, rows of about the same length go through the model together, and
logits are computed where something is asked. Nothing is read back before the end.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from holdback.errors import CheckpointError, ConfigError
from holdback.models.engine.passes import (
    find_context,
    heeds_masks,
    lay_masks,
    read_logits,
    read_plainly,
)
from holdback.models.engine.row_cache import PrefixCache
from holdback.models.engine.token_trees import Pair, Tokens, TokenTree, grow_trees, plan_prefixes
from holdback.models.protocol import Question, Scored

if TYPE_CHECKING:
    from holdback.models.local import LocalModel


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """How much goes through the model at once. Scores do not depend on it, beyond rounding."""

    rows: int
    tokens: int
    """Rows times the longest of them."""
    logits: int = 1 << 27
    """Numbers in a batch's logits: half a gigabyte."""

    @classmethod
    def of(cls, device: torch.device) -> Limits:
        """What a device works best with."""
        # On a processor, more at once only leaves its caches.
        if device.type == "cpu":
            return cls(rows=64, tokens=2048)
        return cls(rows=256, tokens=16384)


@torch.no_grad()
def score_questions(
    model: LocalModel, questions: Sequence[Question], limits: Limits | None = None
) -> list[tuple[Scored, ...]]:
    """Score each question's continuations; see `models.protocol.Model.score`.

    Raises:
        ConfigError: for a continuation without tokens, or a text longer than the model's context.
        CheckpointError: if the model gives no numbers.
    """
    limits = limits or Limits.of(model.weights.device)
    pairs = pair_tokens(model, questions)
    flat = [pair for own in pairs for pair in own]
    _check_lengths(model, flat)
    shared = heeds_masks(model.weights)
    trees: list[TokenTree] = []
    first = 0
    for own in pairs:
        owners = range(first, first + len(own))
        first += len(own)
        if shared:
            trees += grow_trees(own, owners)
        else:
            for pair, owner in zip(own, owners, strict=True):
                trees += grow_trees([pair], [owner])
    read = _read_shared if shared else _read_apart
    logprobs, greedy = _gather(model, len(flat), list(read(model, trees, limits)))
    scored = iter(
        Scored(logprob=float(logprob), tokens=len(pair.tokens) - pair.start, greedy=bool(likeliest))
        for pair, logprob, likeliest in zip(flat, logprobs, greedy, strict=True)
    )
    return [tuple(next(scored) for _ in own) for own in pairs]


def pair_tokens(model: LocalModel, questions: Sequence[Question]) -> list[list[Pair]]:
    """Tokenise each question's prompt with each of its continuations.

    As lm-eval does: together, split where the prompt's own tokens end, spaces at the prompt's end
    counted to the continuation; an empty prompt is the token that begins texts. Where a
    continuation melts into the prompt's last token, the two are tokenised apart.
    """
    texts: dict[str, int] = {}
    split: list[list[tuple[str, str]]] = []
    for question in questions:
        own = []
        for continuation in question.continuations:
            prompt = question.prompt.rstrip()
            rest = question.prompt[len(prompt) :] + continuation
            own.append((prompt, rest))
            for text in (prompt, prompt + rest):
                texts.setdefault(text, len(texts))
        split.append(own)
    encoded = model.encode_all(list(texts))
    return [
        [
            _pair(model, encoded[texts[prompt]], encoded[texts[prompt + rest]], rest)
            for prompt, rest in own
        ]
        for own in split
    ]


def _pair(model: LocalModel, prompt: list[int], whole: list[int], rest: str) -> Pair:
    if not prompt:
        prompt = [model.first_token]
        whole = prompt + whole
    if len(whole) <= len(prompt):
        whole = prompt + model.encode(rest)
    if len(whole) == len(prompt):
        raise ConfigError(
            f"expected a continuation with one token at least, got {rest!r}, which checkpoint"
            f" {model.name!r} reads as none; give every choice a text"
        )
    return Pair(tokens=np.array(whole, dtype=np.int32), start=len(prompt))


def _check_lengths(model: LocalModel, pairs: Sequence[Pair]) -> None:
    context = find_context(model.weights)
    longest = max((len(pair.tokens) - 1 for pair in pairs), default=0)
    if context is not None and longest > context:
        raise ConfigError(
            f"checkpoint {model.name!r} reads {context} tokens, got a prompt with"
            f" continuation of {longest}; use fewer shots or a shorter prompt"
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Reading:
    """What a pass said of its targets; tensors stay on the device."""

    owners: Tokens
    logprobs: torch.Tensor
    greedy: torch.Tensor


def _gather(
    model: LocalModel, n: int, readings: Sequence[_Reading]
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Add up targets by text: log-probabilities, and whether all were the likeliest."""
    logprobs: NDArray[np.float64] = np.zeros(n)
    missed = np.zeros(n, dtype=np.int64)
    if readings:
        owners = np.concatenate([reading.owners for reading in readings])
        parts = torch.cat([reading.logprobs for reading in readings]).double().cpu().numpy()
        greedy = torch.cat([reading.greedy for reading in readings]).cpu().numpy()
        logprobs = np.bincount(owners, parts, minlength=n).astype(np.float64)
        missed = np.bincount(owners, ~greedy, minlength=n)
    if np.isnan(logprobs).any():
        raise no_numbers(model)
    return logprobs, missed == 0


def no_numbers(model: LocalModel) -> CheckpointError:
    """What to say of a model whose logits are NaN."""
    return CheckpointError(
        f"checkpoint {model.name!r}: expected finite logits, got NaN, in {model.weights.dtype};"
        " check its weights, load it in float32, or lower the strength of a rung that changes them"
    )


def _read_shared(
    model: LocalModel, trees: Sequence[TokenTree], limits: Limits
) -> Iterator[_Reading]:
    device = model.weights.device
    for group in plan_prefixes([tree.tokens[: tree.free] for tree in trees]):
        prefix = None
        if group.length:
            tokens = torch.from_numpy(trees[group.rows[0]].tokens[: group.length])
            prefix = PrefixCache.read(model.weights, tokens.long().to(device))
        own = [trees[row] for row in group.rows]
        for batch in _batches(model, own, group.length, limits):
            yield _read_trees(model, batch, prefix)


def _batches(
    model: LocalModel, trees: Sequence[TokenTree], skipped: int, limits: Limits
) -> Iterator[list[TokenTree]]:
    """Cut rows of about the same length off, longest first, so that what does not fit shows."""
    vocabulary = _vocabulary(model)
    batch: list[TokenTree] = []
    width = asked = 0
    for tree in sorted(trees, key=lambda tree: -len(tree.tokens)):
        asked += len(tree.asked)
        full = (
            len(batch) >= limits.rows
            or (len(batch) + 1) * width > limits.tokens
            or asked * vocabulary > limits.logits
        )
        if batch and full:
            yield batch
            batch, asked = [], len(tree.asked)
        if not batch:
            width = len(tree.tokens) - skipped
        batch.append(tree)
    if batch:
        yield batch


def _vocabulary(model: LocalModel) -> int:
    return int(model.weights.get_input_embeddings().weight.shape[0])


def _read_trees(
    model: LocalModel, batch: Sequence[TokenTree], prefix: PrefixCache | None
) -> _Reading:
    skipped = 0 if prefix is None else prefix.length
    width = max(len(tree.tokens) for tree in batch) - skipped
    ids = np.zeros((len(batch), width), dtype=np.int64)
    places = np.empty((len(batch), width), dtype=np.int64)
    # Where a row is padded, positions go on: none lies outside the context, and nobody looks.
    places[:] = np.arange(skipped, skipped + width)
    for row, tree in enumerate(batch):
        n = len(tree.tokens) - skipped
        ids[row, :n] = tree.tokens[skipped:]
        places[row, :n] = tree.places[skipped:]
    asked, which, targets, owners = _ask(batch, width, skipped)
    device = model.weights.device
    positions = torch.from_numpy(places).to(device)
    inputs: dict[str, Any] = {
        "input_ids": torch.from_numpy(ids).to(device),
        "position_ids": positions,
        "use_cache": prefix is not None,
    }
    # A batch of plain rows needs no mask: no token looks ahead, to the padding least of all.
    if prefix is not None or any(len(tree.ancestors) for tree in batch):
        seen = torch.from_numpy(_see(batch, width, skipped)).to(device)
        keys = torch.cat(
            [torch.arange(skipped, device=device).expand(len(batch), -1), positions], 1
        )
        inputs["attention_mask"] = lay_masks(model.weights, seen, positions, keys)
        inputs["past_key_values"] = prefix
    logits = read_logits(model.weights, torch.from_numpy(asked).to(device), **inputs)
    return _weigh(logits, which, targets, owners)


def _ask(
    batch: Sequence[TokenTree], width: int, skipped: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], Tokens]:
    """Find the tokens whose logits are needed, each once.

    Returns:
        Their indices into the pass; which of them predicts each target; targets; targets' owners.
    """
    places = np.concatenate(
        [row * width + tree.asked.astype(np.int64) - skipped for row, tree in enumerate(batch)]
    )
    asked, which = np.unique(places, return_inverse=True)
    targets = np.concatenate([tree.targets for tree in batch]).astype(np.int64)
    return asked, which, targets, np.concatenate([tree.owners for tree in batch])


def _see(batch: Sequence[TokenTree], width: int, skipped: int) -> NDArray[np.bool_]:
    seen = np.ones((len(batch), width, skipped + width), dtype=bool)
    seen[:] = np.tri(width, skipped + width, skipped, dtype=bool)
    for row, tree in enumerate(batch):
        start, stop = tree.trunk - skipped, len(tree.tokens) - skipped
        seen[row, start:stop, tree.trunk : tree.trunk + stop - start] = tree.ancestors
    return seen


def _weigh(
    logits: torch.Tensor, which: NDArray[np.int64], targets: NDArray[np.int64], owners: Tokens
) -> _Reading:
    """Log-probabilities of the targets only: the softmax's sum, and one logit each."""
    logits = logits.float()
    at = torch.from_numpy(which).to(logits.device)
    wanted = torch.from_numpy(targets).to(logits.device)
    return _Reading(
        owners=owners,
        logprobs=logits[at, wanted] - logits.logsumexp(-1)[at],
        greedy=logits.argmax(-1)[at] == wanted,
    )


def _read_apart(
    model: LocalModel, trees: Sequence[TokenTree], limits: Limits
) -> Iterator[_Reading]:
    """Without sharing: whole texts, padded on the right, as any causal model reads them."""
    device = model.weights.device
    # Here a pass computes all logits.
    width = max(len(tree.tokens) for tree in trees) if trees else 1
    tokens = min(limits.tokens, max(width, limits.logits // _vocabulary(model)))
    for batch in _batches(
        model, trees, 0, Limits(rows=limits.rows, tokens=tokens, logits=limits.logits)
    ):
        longest = max(len(tree.tokens) for tree in batch)
        ids = np.zeros((len(batch), longest), dtype=np.int64)
        for row, tree in enumerate(batch):
            ids[row, : len(tree.tokens)] = tree.tokens
        asked, which, targets, owners = _ask(batch, longest, 0)
        logits = read_plainly(
            model.weights, torch.from_numpy(asked).to(device), torch.from_numpy(ids).to(device)
        )
        yield _weigh(logits, which, targets, owners)
