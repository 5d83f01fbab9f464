"""Who may be in a calibration: organisms that are there and passed their gate."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from holdback_lab.calibration.ladder import identify_audit, plan_audit
from holdback_lab.text.gate import verify_organism
from holdback_lab.text.lineages import (
    find_weak_demonstrations,
    make_lineage,
    plan_lineage,
)
from holdback_lab.text.pretrain import COURSES
from holdback_lab.text.zoo import CONTROLS, get_organism, is_there, list_organisms, make_model

_MAKES = (
    "`holdback organisms train text --out {} --only {}` makes it, in an hour or two on two cores"
)


class Gates:
    """Makes organisms that are missing, and holds each against its gate once.

    Once a set of weights, its kin's included: an organism that was made anew is held against it
    anew. What is found is written as a line, so that calibrations that share a folder do not undo
    each other's.

    What has to be pretrained is not made here, for that takes hours; without it, an organism fails.

    Args:
        zoo: Where organisms lie, and are made.
        folder: Of the calibration; verdicts of gates are kept there.
        tell: Hears of training.
    """

    def __init__(self, zoo: Path, folder: Path, *, tell: Callable[[str], None]) -> None:
        self._zoo, self._file, self._tell = zoo, folder / "gates.jsonl", tell
        self._missed: dict[tuple[str, int], list[str]] = {}
        self._lacking: dict[tuple[str, int], list[str]] = {}

    @property
    def failures(self) -> list[str]:
        """What failed of those asked for, with what it missed."""
        missed = {**self._missed, **self._lacking}
        return [
            f"{name}, seed {seed}: {'; '.join(told)}"
            for (name, seed), told in missed.items()
            if told
        ]

    def admit(self, name: str, seed: int) -> bool:
        """Tell whether an organism counts; what it lacks is made first."""
        which = (name, seed)
        if which in self._lacking:
            return False
        if which not in self._missed:
            lacking = [root for root in self._list_roots(name, seed) if not self._has(root, seed)]
            if lacking:
                # Not kept: it may be there when this calibration goes on.
                self._lacking[which] = [
                    f"no {root}: {_MAKES.format(self._zoo, root)}" for root in lacking
                ]
                return False
            self._make(name, seed)
            self._missed[which] = self._verify(name, seed)
        return not self._missed[which]

    def _verify(self, name: str, seed: int) -> list[str]:
        """Say what an organism misses; known from before where its weights are the same."""
        plan = plan_audit(name, seed, self._zoo)
        weights = identify_audit(replace(plan, ladder=plan.ladder[:1]))
        lines = self._file.read_text(encoding="utf-8").splitlines() if self._file.exists() else []
        for gate in map(json.loads, lines):
            if (gate["organism"], gate["seed"], gate["weights"]) == (name, seed, weights):
                return list(gate["missed"])
        report = verify_organism(get_organism(name), folder=self._zoo, seed=seed)
        missed = [f"{check.text}: {check.measured}" for check in report.checks if not check.met]
        gate = {"organism": name, "seed": seed, "weights": weights, "missed": missed}
        self._file.parent.mkdir(parents=True, exist_ok=True)
        with self._file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(gate) + "\n")
        return missed

    def _list_roots(self, name: str, seed: int) -> list[str]:
        """Name the pretrained models that an organism and its kin rest on."""
        checkpoints = plan_lineage(get_organism(name), seed, self._zoo).checkpoints
        kin = {checkpoint.name for checkpoint in checkpoints} | {get_organism(name).parent}
        return sorted(kin & set(COURSES))

    def _has(self, name: str, seed: int) -> bool:
        return is_there(name, self._zoo, seed=seed)

    def _make(self, name: str, seed: int) -> None:
        """Make the organism, and those that it is compared with, where they are missing."""
        if find_weak_demonstrations(get_organism(name), seed) is None:
            # The apprentice gives the weak demonstrations of every lineage's files.
            self._make_one("apprentice", seed)
        audit = make_lineage(get_organism(name), seed, self._zoo)
        for checkpoint in audit.lineage.checkpoints:
            self._make_one(checkpoint.name, seed)

    def _make_one(self, name: str, seed: int) -> None:
        made_of_seed = name in {*CONTROLS, *list_organisms()}
        if made_of_seed and not self._has(name, seed):
            make_model(name, self._zoo, seed=seed, tell=self._tell)
