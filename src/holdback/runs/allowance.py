"""What one command may still spend: samples, tokens, minutes."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import accumulate

from holdback.errors import ConfigError
from holdback.runs.preview import Previewer
from holdback.runs.records import RunSpec
from holdback.runs.resolve import Resolved
from holdback.tasks.task import SampleRecord


class Allowance:
    """Hard caps on what a command spends, counted down as its runs are granted.

    Samples and tokens are granted before they are spent, so neither cap is ever passed: a run that
    would is cut short, and goes on with the next command. Tokens are bounds (`bound_prompt`), of
    prompts read and answers generated; what techniques read to train on is not among them. Time is
    looked at between blocks of samples.

    Args:
        samples: New samples, at most; None for no cap.
        tokens: Likewise.
        minutes: Wall time from here on.
    """

    def __init__(
        self,
        *,
        samples: int | None = None,
        tokens: int | None = None,
        minutes: float | None = None,
    ) -> None:
        self._samples = samples
        self._tokens = tokens
        self._minutes = minutes
        self._options = {"samples": f"--max-samples {samples}", "tokens": f"--max-tokens {tokens}"}
        self._started = time.monotonic()
        self.reached: str = ""
        """The option whose cap stopped something; empty while none has."""

    def is_over(self) -> bool:
        """Tell whether the time is up."""
        if self._minutes is None:
            return False
        over = time.monotonic() - self._started >= 60 * self._minutes
        if over and not self.reached:
            self.reached = f"--max-minutes {self._minutes:g}"
        return over

    def grant(
        self,
        specs: Sequence[RunSpec],
        *,
        resolved: Resolved,
        done: Mapping[str, Sequence[SampleRecord]],
    ) -> list[RunSpec]:
        """Cut runs down to what is left, in their order; those that get nothing are left out.

        Args:
            specs: Runs to be done.
            resolved: The plan whose runs they are.
            done: Digest of a run to what is stored of it.

        Raises:
            ConfigError: under a cap on tokens, for a task or a technique that does not say what it
                asks.
        """
        previewer = None if self._tokens is None else Previewer(resolved)
        granted = []
        for spec in specs:
            stored = done.get(spec.digest, ())
            missing = spec.samples - len(stored)
            allowed = missing
            if self._samples is not None:
                allowed = self._limit(allowed, self._samples, "samples")
            if previewer is not None and self._tokens is not None:
                bounds = previewer.bound_tokens(spec, stored)
                if bounds is None:
                    raise ConfigError(
                        f"--max-tokens: the tokens of {spec.label} cannot be bounded, since its"
                        " task or its technique does not say what it asks; use --max-samples"
                    )
                affordable = sum(total <= self._tokens for total in accumulate(bounds[:allowed]))
                allowed = self._limit(allowed, affordable, "tokens")
                self._tokens -= sum(bounds[:allowed])
            if self._samples is not None:
                self._samples -= allowed
            if allowed:
                granted.append(replace(spec, samples=len(stored) + allowed))
        return granted

    def _limit(self, wanted: int, left: int, cap: str) -> int:
        if left < wanted and not self.reached:
            self.reached = self._options[cap]
        return min(wanted, left)
