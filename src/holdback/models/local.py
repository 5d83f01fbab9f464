"""A transformers causal LM on this machine: its texts, its tokens and the engine that runs it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch

from holdback.errors import CheckpointError, UnsayableError
from holdback.lineage import Checkpoint
from holdback.models.engine.generation import generate_texts
from holdback.models.engine.scoring import score_questions
from holdback.models.loading import load_weights
from holdback.models.protocol import (
    Decoding,
    Format,
    Generation,
    Model,
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
