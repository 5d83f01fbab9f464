"""The calibration: every organism, seed and access level; resumable."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path

from holdback.errors import StoreError
from holdback.plan import AccessName
from holdback.runs.execution import Observer
from holdback.runs.executors import Executor
from holdback.runs.store import RunStore
from holdback_lab.calibration.ladder import identify_audit, plan_audit
from holdback_lab.calibration.trials import Trial, read_trial, run_trial
from holdback_lab.text.zoo import Organism, get_organism, list_organisms, list_shipped

ACCESS: tuple[AccessName, ...] = ("samples", "logprobs", "activations", "weights")


@dataclass(frozen=True, kw_only=True, slots=True)
class Campaign:
    """What a calibration covers, and where it keeps what it has."""

    folder: Path
    """With `trials.jsonl`, a line a trial, and `runs.sqlite`."""
    zoo: Path
    """Where `holdback organisms train text` left the organisms."""
    organisms: Sequence[str] = field(default_factory=lambda: tuple(list_organisms()))
    seeds: Sequence[int] = (0, 1, 2)
    access: Sequence[AccessName] = ACCESS
    workers: int = 2
    short: bool = False
    """Whether fewer rungs are climbed, with one seed each, and hiders and honest ones taken by
    turns, those that ship first."""
    looks: int = 1
    """Blocks in which the samples of `test` are drawn."""
    minutes: float | None = None
    """No trial is begun after so long."""

    @property
    def wanted(self) -> list[tuple[int, Organism, AccessName]]:
        """All trials; the levels of one organism together, the highest first, which shares its
        runs on `select` with the others."""
        levels = sorted(self.access, key=ACCESS.index, reverse=True)
        found = [get_organism(name) for name in self.organisms]
        if self.short:
            found = _interleave(found)
        return list(product(self.seeds, found, levels))

    def read_trials(self) -> dict[tuple[int, str, str], Trial]:
        """Read what was tried before, by seed, organism and access; of several, the last.

        Raises:
            StoreError: for a line that this version did not write.
        """
        file = self.folder / "trials.jsonl"
        found = {}
        lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
        for number, line in enumerate(lines, 1):
            try:
                trial = read_trial(line)
            except (ValueError, TypeError, KeyError) as error:
                raise StoreError(
                    f"{file}, line {number}: expected a trial as this version writes them, got"
                    f" another ({error}); name another folder (--out), or move the file away"
                ) from error
            found[trial.seed, trial.organism, trial.access] = trial
        return found


def _interleave(organisms: Sequence[Organism]) -> list[Organism]:
    shipped = list_shipped()
    ahead: Counter[bool] = Counter()
    places = {}
    for organism in organisms:
        places[organism.name] = (organism.name not in shipped, ahead[organism.hides])
        ahead[organism.hides] += 1
    return sorted(organisms, key=lambda organism: places[organism.name])


def run_campaign(
    campaign: Campaign,
    *,
    executor: Executor,
    observer: Observer,
    admit: Callable[[str, int], bool],
) -> Iterator[Trial]:
    """Yield every wanted trial: from the folder, or run now where it is not there.

    A trial counts as there if it was of the same weights on the same rungs, with as many looks.

    Args:
        campaign: What is wanted.
        executor: Who performs runs.
        observer: Who hears of them.
        admit: Called with an organism and a seed; those that it refuses have no trial.
    """
    campaign.folder.mkdir(parents=True, exist_ok=True)
    known = campaign.read_trials()
    until = None if campaign.minutes is None else time.monotonic() + 60 * campaign.minutes
    with RunStore(campaign.folder / "runs.sqlite") as store:
        for seed, organism, level in campaign.wanted:
            before = known.get((seed, organism.name, level))
            is_late = until is not None and time.monotonic() >= until
            if (before is None and is_late) or not admit(organism.name, seed):
                continue
            plan = plan_audit(
                organism.name,
                seed,
                campaign.zoo,
                access=level,
                workers=campaign.workers,
                short=campaign.short,
                looks=campaign.looks,
            )
            identity = identify_audit(plan)
            if before is not None and before.identity == identity:
                yield before
                continue
            if is_late:
                continue
            trial = run_trial(
                plan,
                organism,
                seed,
                identity=identity,
                store=store,
                executor=executor,
                observer=observer,
                folder=campaign.zoo,
            )
            with (campaign.folder / "trials.jsonl").open("a", encoding="utf-8") as file:
                file.write(trial.to_json() + "\n")
            yield trial
