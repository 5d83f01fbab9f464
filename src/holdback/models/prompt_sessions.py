"""Sessions over a model that only continues whole prompts, such as one behind an endpoint."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np

from holdback.errors import ConfigError
from holdback.models.protocol import Decoding, Generation, Output, Request


class Continues(Protocol):
    """A model that continues prompts."""

    @property
    def name(self) -> str:
        """The checkpoint's name."""
        ...

    def continue_prompts(
        self, requests: Sequence[Request], *, temperature: float
    ) -> list[Generation]:
        """Continue each request's prompt."""
        ...


class PromptSessions:
    """Texts that only grow, each sent whole every time; see `models.protocol.Sessions`."""

    def __init__(self, model: Continues, texts: Sequence[str]) -> None:
        self._model = model
        self._texts = dict(enumerate(texts))

    def extend(self, texts: Mapping[int, str]) -> None:
        """Append to the named rows."""
        for row, text in texts.items():
            self._texts[row] += text

    def close(self, rows: Sequence[int]) -> None:
        """Forget rows that are finished."""
        for row in rows:
            self._texts.pop(row, None)

    def propose(
        self,
        rows: Sequence[int],
        *,
        decoding: Decoding,
        rngs: Sequence[np.random.Generator],
        max_tokens: int,
        allowed: Sequence[Sequence[str]] | None = None,
    ) -> list[Output]:
        """Draw one continuation for each of `rows`, all at once.

        Raises:
            ConfigError: for constrained decoding, which needs the weights here.
        """
        if allowed is not None:
            raise ConfigError(
                f"checkpoint {self._model.name!r}: constrained decoding needs the model's"
                " log-probabilities at every step, which whole answers do not give; load the"
                " weights (hf/…), or climb the rung on other checkpoints only (`checkpoints` of"
                " its [[ladder]])"
            )
        requests = [
            Request(
                prompt=self._texts[row],
                max_tokens=max_tokens,
                seed=(int(rng.integers(2**31)),),
            )
            for row, rng in zip(rows, rngs, strict=True)
        ]
        generated = self._model.continue_prompts(requests, temperature=decoding.temperature)
        return [
            Output(
                text=generation.text,
                logprob=math.fsum(generation.logprobs) if generation.logprobs else math.nan,
                stop_reason=generation.stop_reason,
                error=generation.error,
            )
            for generation in generated
        ]
