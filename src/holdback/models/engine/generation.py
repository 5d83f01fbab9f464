"""Generation with continuous batching: rows leave as they finish, and waiting requests enter.

Every row has its own length, its own generator and its own part of the cache, so what is drawn for
a request does not depend on who else is in the batch.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from holdback.errors import ConfigError
from holdback.models.engine.constrained import ChoiceTree, grow_choices, mask_logits
from holdback.models.engine.passes import find_context, heeds_masks
from holdback.models.engine.row_cache import PrefixCache
from holdback.models.engine.scoring import Limits, no_numbers
from holdback.models.engine.text_rows import open_rows
from holdback.models.engine.token_trees import plan_prefixes
from holdback.models.protocol import Generation, Request, StopReason

if TYPE_CHECKING:
    from holdback.models.local import LocalModel

_ENTER_TOGETHER = 8
"""Rows that must be free before the next requests enter: a pass for each would cost too much."""
_BLOCK = 256
_TAIL_TOKENS = 8
"""Tokens looked through for a stop string, beside one for each of its bytes."""


@torch.no_grad()
def generate_texts(
    model: LocalModel, requests: Sequence[Request], limits: Limits | None = None
) -> list[Generation]:
    """Continue each request's prompt; see `models.protocol.Model.generate`.

    Raises:
        ConfigError: for a prompt that leaves no room in the model's context, or for `allowed`
            without any continuation.
        CheckpointError: if the model gives no numbers.
    """
    limits = limits or Limits.of(model.weights.device)
    read = _tokenise(model, (request.prompt for request in requests))
    choices = _tokenise(model, (text for request in requests for text in request.allowed or ()))
    texts = [_Text.start(model, request, read[request.prompt], choices) for request in requests]
    _Desk(model, limits).serve(texts)
    return [text.finish(model) for text in texts]


def _tokenise(model: LocalModel, texts: Iterable[str]) -> dict[str, list[int]]:
    """Tokens of each text, which is read once however often it is there."""
    distinct = list(dict.fromkeys(texts))
    return dict(zip(distinct, model.encode_all(distinct), strict=True))


@dataclass(kw_only=True, slots=True)
class _Text:
    """A request under way."""

    request: Request
    prompt: list[int]
    room: int
    """Tokens that may still come."""
    rng: np.random.Generator
    drawn: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    place: ChoiceTree | None = None
    """Among the choices, where only these may be drawn."""
    stopped: bool = False
    """By an end token, a stop string or the end of a choice, not for want of room."""

    @classmethod
    def start(
        cls,
        model: LocalModel,
        request: Request,
        prompt: list[int],
        choices: Mapping[str, Sequence[int]],
    ) -> _Text:
        prompt = prompt or [model.first_token]
        context = find_context(model.weights)
        if request.max_tokens < 1:
            raise ConfigError(
                f"expected max_tokens of 1 at least, got {request.max_tokens}; raise it"
            )
        if context is not None and len(prompt) >= context:
            raise ConfigError(
                f"checkpoint {model.name!r} reads {context} tokens, got a prompt of {len(prompt)},"
                " which leaves no room for an answer; use fewer shots or a shorter prompt"
            )
        place = None
        if request.allowed is not None:
            if not request.allowed:
                raise ConfigError("constrained decoding: expected allowed continuations, got none")
            place = grow_choices(choices[text] for text in request.allowed)
        return cls(
            request=request,
            prompt=prompt,
            room=min(request.max_tokens, (context or 1 << 62) - len(prompt)),
            rng=np.random.default_rng(request.seed),
            place=place,
        )

    def take(self, token: int, logprob: float, model: LocalModel) -> bool:
        """Append a token; tell whether the text has ended."""
        if self.place is not None:
            if token not in self.place.following:
                # Only behind a whole choice can it be drawn, and it is no part of that.
                self.stopped = True
                return True
            self.place = self.place.following[token]
        self.drawn.append(token)
        self.logprobs.append(logprob)
        chosen = self.place is not None and not self.place.following
        self.stopped = chosen or token in model.end_tokens or self._ends_in_stop(model)
        return self.stopped or len(self.drawn) == self.room

    def _ends_in_stop(self, model: LocalModel) -> bool:
        if not self.request.stop:
            return False
        # A token is a byte at least, so the end of the text is enough to see it come.
        tail = max(len(stop.encode()) for stop in self.request.stop) + _TAIL_TOKENS
        text = model.decode(self.drawn[-tail:])
        return any(stop in text for stop in self.request.stop)

    def finish(self, model: LocalModel) -> Generation:
        ended = bool(self.drawn) and self.drawn[-1] in model.end_tokens
        text = model.decode(self.drawn[:-1] if ended else self.drawn)
        cuts = [at for stop in self.request.stop if (at := text.find(stop)) >= 0]
        return Generation(
            text=text[: min(cuts)] if cuts else text,
            logprobs=tuple(self.logprobs),
            stop_reason=StopReason.STOP if self.stopped else StopReason.LENGTH,
            tokens=len(self.drawn),
            token_ids=tuple(self.drawn),
        )


class _Desk:
    """Serves texts, as many at a time as there are rows."""

    def __init__(self, model: LocalModel, limits: Limits) -> None:
        self._model = model
        self._limits = limits
        self._rows = open_rows(model.weights)
        self._active: dict[int, _Text] = {}

    def serve(self, texts: Sequence[_Text]) -> None:
        waiting = deque(self._queue(texts))
        while waiting or self._active:
            free = self._limits.rows - len(self._active)
            if waiting and (free >= min(_ENTER_TOGETHER, self._limits.rows) or not self._active):
                entering = [waiting.popleft() for _ in range(min(free, len(waiting)))]
                for batch in self._cut(entering):
                    self._enter(batch)
            if self._active:
                self._step()

    def _queue(self, texts: Sequence[_Text]) -> Iterator[tuple[int, _Text, _Beginning | None]]:
        """Those whose prompts begin alike one after the other, with what they share."""
        beginnings = [np.array(text.prompt[:-1], dtype=np.int32) for text in texts]
        if not texts or not heeds_masks(self._model.weights):
            yield from ((row, text, None) for row, text in enumerate(texts))
            return
        for group in plan_prefixes(beginnings):
            shared = None
            if group.length:
                shared = _Beginning(self._model, texts[group.rows[0]].prompt[: group.length])
            yield from ((row, texts[row], shared) for row in group.rows)

    def _cut(
        self, entering: list[tuple[int, _Text, _Beginning | None]]
    ) -> Iterator[list[tuple[int, _Text, _Beginning | None]]]:
        """Prompts of about the same length together, no more than a pass should hold."""

        def new(entry: tuple[int, _Text, _Beginning | None]) -> int:
            _, text, shared = entry
            return len(text.prompt) - (len(shared.tokens) if shared else 0)

        batch: list[tuple[int, _Text, _Beginning | None]] = []
        prompts: set[str] = set()
        for entry in sorted(entering, key=lambda entry: -new(entry)):
            prompts.add(entry[1].request.prompt)
            if batch and len(prompts) * new(batch[0]) > self._limits.tokens:
                yield batch
                batch, prompts = [], {entry[1].request.prompt}
            batch.append(entry)
        if batch:
            yield batch

    def _enter(self, batch: Sequence[tuple[int, _Text, _Beginning | None]]) -> None:
        """Read each prompt once, for all that is drawn from it."""
        new: dict[int, list[int]] = {}
        source: dict[int, int] = {}
        reader: dict[str, int] = {}
        for row, text, shared in batch:
            self._active[row] = text
            source[row] = reader.setdefault(text.request.prompt, row)
            if source[row] == row:
                self._rows.add(row, None if shared is None else shared.read())
                new[row] = text.prompt[0 if shared is None else len(shared.tokens) :]
        logits = self._read(list(new), list(new.values()))
        if len(new) < len(batch):
            copies = [row for row in source if row not in new]
            self._rows.fork([source[row] for row in copies], copies)
            at = {row: index for index, row in enumerate(new)}
            logits = logits[[at[row] for row in source.values()]]
        self._draw(list(source), logits)

    def _step(self) -> None:
        rows = list(self._active)
        self._draw(rows, self._read(rows, [self._active[row].drawn[-1:] for row in rows]))

    def _read(self, rows: list[int], new: Sequence[Sequence[int]]) -> torch.Tensor:
        logits = self._rows.read(rows, new)
        self._rows.commit(rows, [len(part) for part in new])
        return logits.float()

    def _draw(self, rows: list[int], logits: torch.Tensor) -> None:
        temperature = self._model.decoding.temperature
        texts = [self._active[row] for row in rows]
        if any(text.place for text in texts):
            logits = mask_logits(logits, [text.place for text in texts])
        draws = None if temperature == 0 else np.array([text.rng.random() for text in texts])
        tokens, logprobs = draw_tokens(logits, temperature, draws)
        if np.isnan(logprobs).any():
            raise no_numbers(self._model)
        ended = [
            row
            for row, text, token, logprob in zip(
                rows, texts, tokens.tolist(), logprobs.tolist(), strict=True
            )
            if text.take(token, logprob, self._model)
        ]
        # The last first: rows that end together then move none of each other.
        for row in reversed(ended):
            del self._active[row]
            self._rows.drop(row)


class _Beginning:
    """What prompts share, read when the first of them enters."""

    def __init__(self, model: LocalModel, tokens: list[int]) -> None:
        self._weights = model.weights
        self.tokens = tokens
        self._cache: PrefixCache | None = None

    def read(self) -> PrefixCache:
        if self._cache is None:
            tokens = torch.tensor(self.tokens, device=self._weights.device)
            self._cache = PrefixCache.read(self._weights, tokens)
        return self._cache


def draw_tokens(
    logits: torch.Tensor, temperature: float, draws: NDArray[np.float64] | None
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Draw a token a row by inverse transform, so that a row's draw needs one number of its own.

    The sum that is inverted is built from blocks of the vocabulary, in double precision: as exact
    as one over all of it, and a fifth of the time at 32,000 tokens.

    Args:
        logits: Shape (rows, vocabulary).
        temperature: Divides the logits; 0 takes the likeliest.
        draws: One number in [0, 1) a row; None at temperature 0.

    Returns:
        Tokens, shape (rows,), and their log-probabilities at temperature 1, in nats; NaN where
        logits are.
    """
    if draws is None:
        tokens = logits.argmax(-1)
    else:
        tokens = _invert(torch.softmax(logits / temperature, -1), torch.from_numpy(draws))
    picked = logits.gather(-1, tokens[:, None])[:, 0] - logits.logsumexp(-1)
    return tokens.cpu().numpy(), picked.double().cpu().numpy()


def _invert(chances: torch.Tensor, draws: torch.Tensor) -> torch.Tensor:
    """Index of the first token at which the summed chances exceed each row's share of their sum."""
    rows, vocabulary = chances.shape
    chances = torch.nn.functional.pad(chances, (0, -vocabulary % _BLOCK))
    blocks = chances.view(rows, -1, _BLOCK)
    ends = blocks.sum(-1, dtype=torch.float64).cumsum(-1)
    wanted = draws.to(chances.device)[:, None] * ends[:, -1:]
    block = torch.searchsorted(ends, wanted, right=True).clamp_(max=ends.shape[1] - 1)
    before = torch.where(block > 0, ends.gather(1, (block - 1).clamp(min=0)), 0.0)
    every = torch.arange(rows, device=chances.device)
    inside = blocks[every, block[:, 0]].double().cumsum(-1)
    # Rounding may leave more than the block has: then its last possible token it is.
    passed = torch.minimum((inside <= wanted - before).sum(-1), (inside < inside[:, -1:]).sum(-1))
    return (block[:, 0] * _BLOCK + passed).clamp_(max=vocabulary - 1)
