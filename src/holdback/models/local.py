"""A transformers causal LM on this machine, and its step-synchronous sessions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from holdback.errors import CheckpointError
from holdback.lineage import Checkpoint
from holdback.models.loading import load_weights
from holdback.models.protocol import Decoding, Format, Output, Presentation
from holdback.models.row_cache import RowCache

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast


@dataclass(frozen=True, kw_only=True)
class LocalModel:
    """Weights and tokenizer, with the way in which they are asked.

    Techniques that only ask differently make a copy with `dataclasses.replace`; the copies share
    the weights.
    """

    name: str
    weights: PreTrainedModel
    tokenizer: PreTrainedTokenizerFast
    presentation: Presentation = field(default_factory=Presentation)
    decoding: Decoding = field(default_factory=Decoding)

    def render_chat(self, messages: Sequence[Mapping[str, str]], *, answer_next: bool) -> str:
        """Render messages through the checkpoint's own chat template."""
        if not self.tokenizer.chat_template:
            raise CheckpointError(
                f"checkpoint {self.name!r} has no chat template; ask it in completion format or"
                " add one to its tokenizer_config.json"
            )
        return str(
            self.tokenizer.apply_chat_template(
                [dict(message) for message in messages],
                tokenize=False,
                add_generation_prompt=answer_next,
            )
        )

    def encode(self, text: str) -> list[int]:
        """Tokenise a text as it stands: no special token is added."""
        # The fast tokenizer behind the wrapper, which costs ten times as long for a move.
        return list(self.tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).ids)

    def can_read(self, text: str) -> bool:
        """Tell whether the tokenizer has tokens for all of a text, none of them «unknown»."""
        return self.tokenizer.unk_token_id not in self.encode(text)

    def open_sessions(self, texts: Sequence[str]) -> LocalSessions:
        """Start one session a text, each with its own row of the key/value cache."""
        return LocalSessions(self, texts)

    @contextmanager
    def preserved(self) -> Iterator[None]:
        """Let the body change the weights in place; on exit they are bit for bit what they were."""
        before = {
            name: tensor.detach().to("cpu", copy=True)
            for name, tensor in self.weights.state_dict().items()
        }
        try:
            yield
        finally:
            with torch.no_grad():
                for name, tensor in self.weights.state_dict().items():
                    tensor.copy_(before[name])


def load_model(checkpoint: Checkpoint, *, device: str = "cpu") -> LocalModel:
    """Load a checkpoint under its ordinary protocol: its own format, no help."""
    weights, tokenizer = load_weights(checkpoint, device=device)
    return LocalModel(
        name=checkpoint.name,
        weights=weights,
        tokenizer=tokenizer,
        presentation=Presentation(format=Format.CHAT if checkpoint.chat else Format.COMPLETION),
    )


class LocalSessions:
    """Texts that only grow, in lock step, each with its own row of one key/value cache.

    See `models.protocol.Sessions` for the contract.
    """

    def __init__(self, model: LocalModel, texts: Sequence[str]) -> None:
        self._model = model
        self._weights = model.weights
        self._cache = RowCache(model.weights.config, rows=len(texts))
        self._pending = {row: model.encode(text) for row, text in enumerate(texts)}
        self._logits: dict[int, torch.Tensor] = {}
        self._ends = set(_end_tokens(model))

    def extend(self, texts: Mapping[int, str]) -> None:
        """Append to the named rows; the tokens are computed with the next proposal."""
        for row, text in texts.items():
            self._pending.setdefault(row, []).extend(self._model.encode(text))

    def close(self, rows: Sequence[int]) -> None:
        """Drop finished rows and free their place in the cache."""
        for row in rows:
            self._cache.drop(row)
            self._pending.pop(row, None)
            self._logits.pop(row, None)

    @torch.no_grad()
    def propose(
        self,
        rows: Sequence[int],
        *,
        decoding: Decoding,
        rngs: Sequence[np.random.Generator],
        max_tokens: int,
        allowed: Sequence[Sequence[str]] | None = None,
    ) -> list[Output]:
        """Draw one continuation for each of `rows`, without appending it."""
        self._read_pending(rows)
        outputs: list[Output | None] = [None] * len(rows)
        for batch in _rounds(rows):
            drawn = self._draw(
                [rows[i] for i in batch],
                decoding.temperature,
                [rngs[i] for i in batch],
                max_tokens,
                None if allowed is None else [allowed[i] for i in batch],
            )
            for i, output in zip(batch, drawn, strict=True):
                outputs[i] = output
        return [output for output in outputs if output is not None]

    def _read_pending(self, rows: Sequence[int]) -> None:
        waiting = [row for row in dict.fromkeys(rows) if self._pending.get(row)]
        if not waiting:
            return
        tokens = [self._pending.pop(row) for row in waiting]
        logits = self._forward(waiting, tokens)
        self._cache.commit(waiting, [len(part) for part in tokens])
        self._logits.update(zip(waiting, logits, strict=True))

    def _draw(
        self,
        rows: list[int],
        temperature: float,
        rngs: Sequence[np.random.Generator],
        max_tokens: int,
        allowed: Sequence[Sequence[str]] | None,
    ) -> list[Output]:
        choices = None
        if allowed is not None:
            choices = [[tuple(self._model.encode(text)) for text in texts] for texts in allowed]
        drawn: list[list[int]] = [[] for _ in rows]
        logprobs = np.zeros(len(rows))
        logits = torch.stack([self._logits[row] for row in rows])
        active = list(range(len(rows)))
        for step in range(max_tokens):
            if choices is not None:
                _mask_logits(logits, [_next_tokens(choices[i], drawn[i]) for i in active])
            tokens, gained = _sample(logits, temperature, [rngs[i] for i in active])
            for i, token, logprob in zip(active, tokens, gained, strict=True):
                drawn[i].append(token)
                logprobs[i] += logprob
            active = [
                i
                for i in active
                if drawn[i][-1] not in self._ends
                and (choices is None or tuple(drawn[i]) not in choices[i])
            ]
            if not active or step + 1 == max_tokens:
                break
            # Uncommitted tokens sit behind the row's end and are overwritten by what follows.
            logits = self._forward([rows[i] for i in active], [drawn[i] for i in active])
        return [
            Output(text=self._decode(tokens), logprob=float(logprob))
            for tokens, logprob in zip(drawn, logprobs, strict=True)
        ]

    def _decode(self, tokens: list[int]) -> str:
        kept = tokens[:-1] if tokens and tokens[-1] in self._ends else tokens
        return str(self._model.tokenizer.decode(kept))

    def _forward(self, rows: list[int], tokens: Sequence[Sequence[int]]) -> torch.Tensor:
        """Run new tokens behind each row's committed text; logits of the last, (rows, vocab)."""
        device = self._weights.device
        width = max(len(part) for part in tokens)
        ids = torch.zeros(len(rows), width, dtype=torch.long)
        for i, part in enumerate(tokens):
            ids[i, : len(part)] = torch.tensor(part)
        positions, mask = self._cache.begin(rows, width)
        hidden = self._weights.base_model(
            input_ids=ids.to(device),
            position_ids=positions.to(device),
            attention_mask=mask.to(device),
            past_key_values=self._cache,
            use_cache=True,
        ).last_hidden_state
        last = torch.tensor([len(part) - 1 for part in tokens], device=device)
        picked = hidden[torch.arange(len(rows), device=device), last]
        head: Any = self._weights.get_output_embeddings()
        return head(picked).float().cpu()  # type: ignore[no-any-return]


def _rounds(rows: Sequence[int]) -> list[list[int]]:
    """Indices of `rows` in batches that name no row twice: draws of one row share its cache."""
    batches: list[list[int]] = []
    seen: dict[int, int] = {}
    for index, row in enumerate(rows):
        turn = seen.get(row, 0)
        seen[row] = turn + 1
        if turn == len(batches):
            batches.append([])
        batches[turn].append(index)
    return batches


def _end_tokens(model: LocalModel) -> list[int]:
    ends = getattr(model.weights.generation_config, "eos_token_id", None)
    listed = [] if ends is None else [ends] if isinstance(ends, int) else list(ends)
    if model.tokenizer.eos_token_id is not None:
        listed.append(int(model.tokenizer.eos_token_id))
    return listed


def _next_tokens(choices: Sequence[tuple[int, ...]], drawn: Sequence[int]) -> set[int]:
    prefix = tuple(drawn)
    return {
        choice[len(prefix)]
        for choice in choices
        if len(choice) > len(prefix) and choice[: len(prefix)] == prefix
    }


def _mask_logits(logits: torch.Tensor, allowed: Sequence[set[int]]) -> None:
    for row, tokens in zip(logits, allowed, strict=True):
        keep = torch.tensor(sorted(tokens), dtype=torch.long)
        kept = row[keep].clone()
        row.fill_(-torch.inf)
        row[keep] = kept


def _sample(
    logits: torch.Tensor, temperature: float, rngs: Sequence[np.random.Generator]
) -> tuple[list[int], list[float]]:
    """Draw a token a row by inverse transform, so that a row's draw needs only its own rng."""
    logprobs = torch.log_softmax(logits.double(), dim=-1).numpy()
    if temperature == 0:
        tokens = logprobs.argmax(axis=1)
    else:
        scaled = torch.softmax(logits.double() / temperature, dim=-1).numpy()
        draws = np.array([rng.random() for rng in rngs])
        tokens = (scaled.cumsum(axis=1) < draws[:, None] * scaled.sum(axis=1)[:, None]).sum(axis=1)
    tokens = np.minimum(tokens, logits.shape[1] - 1)
    gained = logprobs[np.arange(len(tokens)), tokens]
    return [int(token) for token in tokens], [float(part) for part in gained]
