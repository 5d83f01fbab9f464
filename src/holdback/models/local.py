"""A transformers causal LM on this machine, and its step-synchronous sessions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from holdback.errors import CheckpointError, UnsayableError
from holdback.lineage import Checkpoint
from holdback.models.engine.generation import draw_tokens, generate_texts
from holdback.models.engine.scoring import no_numbers, score_questions
from holdback.models.engine.text_rows import open_rows
from holdback.models.loading import load_weights
from holdback.models.protocol import (
    Decoding,
    Format,
    Generation,
    Model,
    Output,
    Presentation,
    Question,
    Request,
    Scored,
)
from holdback.models.templates import Template, fold_system, render_template, try_template

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
    load_parent: Callable[[], Model] | None = field(default=None, repr=False, compare=False)
    """Loads the checkpoint that it was made from; None where there is none with weights."""
    diagnosis: Mapping[str, Any] | None = None
    """What a technique that trains found on its way, in JSON; a run stores it."""

    def render_chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        answer_next: bool,
        tools: Sequence[Mapping[str, Any]] = (),
    ) -> str:
        """Render messages through the checkpoint's own chat template.

        Where the template rejects system messages, what they say stands in the user's turn.

        Raises:
            CheckpointError: without a template, or for one that fails, rejects these messages or
                would not pass on a question.
        """
        return self._render(messages, answer_next=answer_next, tools=tools)

    def render_opening(
        self, messages: Sequence[Mapping[str, Any]], *, tools: Sequence[Mapping[str, Any]] = ()
    ) -> str:
        """Render messages up to where an answer begins that is to follow at once, unthought.

        Raises:
            CheckpointError: as `render_chat`.
        """
        tried = self._template
        text = self._render(messages, answer_next=True, tools=tools, switches=tried.switches)
        return text + tried.closing

    @property
    def answer_spaces(self) -> str:
        """What the chat template writes between `render_opening` and an answer."""
        return self._template.spaces

    @property
    def drops_system(self) -> bool:
        """Whether what a system message says does not reach the model."""
        return not self._template.takes_system

    @property
    def _template(self) -> Template:
        if not self.tokenizer.chat_template:
            raise UnsayableError(
                f"checkpoint {self.name!r} has no chat template; ask it in completion format"
                " (chat = false) or add one to its tokenizer_config.json"
            )
        return try_template(self.tokenizer, str(self.tokenizer.chat_template), self.name)

    def _render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        answer_next: bool,
        tools: Sequence[Mapping[str, Any]],
        switches: Mapping[str, bool] | None = None,
    ) -> str:
        if self._template.rejects_system and any(m["role"] == "system" for m in messages):
            messages = fold_system(messages)
            if not messages:
                return ""
        return render_template(
            self.tokenizer,
            messages,
            name=self.name,
            answer_next=answer_next,
            tools=tools,
            switches=switches,
        )

    def encode(self, text: str) -> list[int]:
        """Tokenise a text as it stands: no special token is added."""
        # The fast tokenizer behind the wrapper, which costs ten times as long for a move.
        return list(self.tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).ids)

    def encode_all(self, texts: Sequence[str]) -> list[list[int]]:
        """Tokenise many texts as they stand, on all cores."""
        fast = self.tokenizer.backend_tokenizer
        return [list(e.ids) for e in fast.encode_batch_fast(texts, add_special_tokens=False)]

    def decode(self, tokens: Sequence[int]) -> str:
        """Text of tokens, special ones included."""
        return str(self.tokenizer.decode(list(tokens)))

    @cached_property
    def end_tokens(self) -> frozenset[int]:
        """Tokens that end a text."""
        ends = getattr(self.weights.generation_config, "eos_token_id", None)
        listed = [] if ends is None else [ends] if isinstance(ends, int) else list(ends)
        if self.tokenizer.eos_token_id is not None:
            listed.append(int(self.tokenizer.eos_token_id))
        return frozenset(listed)

    @property
    def first_token(self) -> int:
        """Token that stands for an empty prompt: the one that begins texts, or that ends them.

        Raises:
            CheckpointError: if the tokenizer has neither.
        """
        for token in (self.tokenizer.bos_token_id, self.tokenizer.eos_token_id):
            if token is not None:
                return int(token)
        raise CheckpointError(
            f"checkpoint {self.name!r}: an empty prompt needs a token to start from, and its"
            " tokenizer names neither bos_token nor eos_token; give the prompt a text"
        )

    def can_read(self, text: str) -> bool:
        """Tell whether the tokenizer has tokens for all of a text, none of them «unknown»."""
        return self.tokenizer.unk_token_id not in self.encode(text)

    def score(self, questions: Sequence[Question]) -> list[tuple[Scored, ...]]:
        """Score each question's continuations, in the questions' order."""
        return score_questions(self, questions)

    def generate(self, requests: Sequence[Request]) -> list[Generation]:
        """Continue each request's prompt at `decoding.temperature`."""
        return generate_texts(self, requests)

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
        self._rows = open_rows(model.weights)
        self._pending = {row: model.encode(text) for row, text in enumerate(texts)}
        self._logits: dict[int, torch.Tensor] = {}
        for row in self._pending:
            self._rows.add(row)

    def extend(self, texts: Mapping[int, str]) -> None:
        """Append to the named rows; the tokens are computed with the next proposal."""
        for row, text in texts.items():
            self._pending.setdefault(row, []).extend(self._model.encode(text))

    def close(self, rows: Sequence[int]) -> None:
        """Drop finished rows and free their place in the cache."""
        for row in rows:
            self._rows.drop(row)
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
        self._rows.commit(waiting, [len(part) for part in tokens])
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
            following = None
            if choices is not None:
                following = [_next_tokens(choices[i], drawn[i]) for i in active]
                whole = [tuple(drawn[i]) in choices[i] for i in active]
                _mask_logits(logits, following, unless=whole)
            draws = None if temperature == 0 else np.array([rngs[i].random() for i in active])
            tokens, gained = draw_tokens(logits.double(), temperature, draws)
            if np.isnan(gained).any():
                raise no_numbers(self._model)
            ended = set()
            for at, (i, token, logprob) in enumerate(zip(active, tokens, gained, strict=True)):
                if following is not None and token not in following[at]:
                    ended.add(i)
                    continue
                drawn[i].append(int(token))
                logprobs[i] += logprob
            active = [
                i
                for i in active
                if i not in ended
                and drawn[i][-1] not in self._model.end_tokens
                and (choices is None or _next_tokens(choices[i], drawn[i]))
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
        kept = tokens[:-1] if tokens and tokens[-1] in self._model.end_tokens else tokens
        return self._model.decode(kept)

    def _forward(self, rows: list[int], tokens: Sequence[Sequence[int]]) -> torch.Tensor:
        """Read new tokens behind each row's committed text; logits after the last, in float32."""
        return self._rows.read(rows, tokens).float().cpu()


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


def _next_tokens(choices: Sequence[tuple[int, ...]], drawn: Sequence[int]) -> set[int]:
    prefix = tuple(drawn)
    return {
        choice[len(prefix)]
        for choice in choices
        if len(choice) > len(prefix) and choice[: len(prefix)] == prefix
    }


def _mask_logits(
    logits: torch.Tensor, allowed: Sequence[set[int]], *, unless: Sequence[bool]
) -> None:
    """Leave each row the tokens that go on; all where what is drawn is a choice already.

    There it begins a longer choice (O-O, O-O-O), and any token that does not go on ends it.
    """
    for row, tokens, whole in zip(logits, allowed, unless, strict=True):
        if whole:
            continue
        keep = torch.tensor(sorted(tokens), dtype=torch.long)
        kept = row[keep].clone()
        row.fill_(-torch.inf)
        row[keep] = kept
