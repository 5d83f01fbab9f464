"""How far the runs are, on a terminal or in a log."""

from __future__ import annotations

import time
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from holdback.runs.jobs import Capped, Ended, Event, Scored, Started
from holdback.runs.records import RunSpec
from holdback.runs.store import Status

_LOG_SECONDS = 15.0


class RunProgress:
    """An `Observer` that shows runs done, samples a second and the expected end.

    A bar on a terminal; elsewhere a line every quarter of a minute.
    """

    def __init__(self, console: Console, title: str) -> None:
        self._console = console
        self._title = self._name = title
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[runs]} runs"),
            _Rate(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task(title, total=None, runs="0/0")
        self._step = 0
        self._causes: set[str] = set()
        self._runs = self._done_runs = 0
        self._samples = self._done_samples = self._before = 0
        self._started = self._logged = time.monotonic()

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._bar.stop()

    def expect(self, specs: Sequence[RunSpec], *, stored: int) -> None:
        """Take the total of the next step: what is chosen in one is measured in another."""
        if specs:
            self._step += 1
            splits = "+".join(dict.fromkeys(str(spec.split) for spec in specs))
            self._name = f"{self._title}, step {self._step} ({splits})"
        self._runs, self._done_runs = len(specs), 0
        self._samples = sum(spec.samples for spec in specs)
        self._done_samples = self._before = stored
        self._started = self._logged = time.monotonic()
        self._bar.reset(
            self._task, total=max(1, self._samples), completed=stored, description=self._name
        )
        self._show()

    def note(self, spec: RunSpec, event: Event) -> None:
        """Advance, and name what failed or was skipped."""
        match event:
            case Started() | Capped():
                return
            case Scored(records=records):
                self._done_samples += len(records)
            case Ended(status=status, reason=reason):
                self._done_runs += 1
                if status is Status.FAILED:
                    # What fails a checkpoint fails each of its runs: the cause is told once.
                    told = "as before" if reason in self._causes else reason
                    self._causes.add(reason)
                    # Text, not markup: a reason may hold square brackets.
                    words = Text(f"failed: {spec.label}: {told}", style="red")
                    self._console.print(words, soft_wrap=True)
                elif status is Status.SKIPPED:
                    self._console.print(Text(f"skipped: {spec.label}: {reason}", style="dim"))
        self._show()

    def _show(self) -> None:
        runs = f"{self._done_runs}/{self._runs}"
        self._bar.update(self._task, completed=self._done_samples, runs=runs)
        now = time.monotonic()
        last = self._done_runs == self._runs > 0
        if self._console.is_terminal or not (last or now - self._logged > _LOG_SECONDS):
            return
        self._logged = now
        rate = (self._done_samples - self._before) / max(now - self._started, 1e-9)
        left = (self._samples - self._done_samples) / rate if rate > 0 else float("inf")
        # The first runs train or load, and say nothing about those that only ask.
        known = self._done_samples - self._before >= 0.05 * self._samples
        end = f", about {left / 60:.1f} min left of this step" if known and not last else ""
        self._console.print(
            f"{self._name}: {runs} runs, {self._done_samples}/{self._samples} samples,"
            f" {rate:.1f} samples/s{end}",
            highlight=False,
            soft_wrap=True,
        )


class Silent:
    """An `Observer` that shows nothing."""

    def expect(self, specs: Sequence[RunSpec], *, stored: int) -> None:
        """Ignore the total."""

    def note(self, spec: RunSpec, event: Event) -> None:
        """Ignore the event."""


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("–" if speed is None else f"{speed:.1f} samples/s")
