"""Who may be in a calibration: organisms that are there and passed their gate."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from holdback.organisms.text.gate import verify_organism
from holdback.organisms.text.lineages import make_lineage
from holdback.organisms.text.zoo import CONTROLS, ORGANISMS, get_organism, is_there, train


class Gates:
    """Makes organisms that are missing, and holds each against its gate once.

    Args:
        zoo: Where organisms lie, and are made.
        folder: Of the calibration; verdicts of gates are kept there.
        tell: Hears of training.
    """

    def __init__(self, zoo: Path, folder: Path, *, tell: Callable[[str], None]) -> None:
        self._zoo, self._file, self._tell = zoo, folder / "gates.json", tell
        self._missed: dict[str, list[str]] = {}
        if self._file.exists():
            self._missed = json.loads(self._file.read_text(encoding="utf-8"))

    @property
    def failures(self) -> list[str]:
        """What failed, with what it missed."""
        return [f"{which}: {'; '.join(missed)}" for which, missed in self._missed.items() if missed]

    def admit(self, name: str, seed: int) -> bool:
        """Tell whether an organism counts; what it lacks is made first."""
        which = f"{name}, seed {seed}"
        if which not in self._missed:
            self._make(name, seed)
            report = verify_organism(get_organism(name), folder=self._zoo, seed=seed)
            self._missed[which] = [
                f"{check.text}: {check.measured}" for check in report.checks if not check.met
            ]
            self._file.parent.mkdir(parents=True, exist_ok=True)
            self._file.write_text(json.dumps(self._missed, indent=1), encoding="utf-8")
        return not self._missed[which]

    def _make(self, name: str, seed: int) -> None:
        """Make the organism, and those that it is compared with, where they are missing."""
        # The apprentice gives the weak demonstrations that every lineage's files are made of.
        self._make_one("apprentice", seed)
        audit = make_lineage(get_organism(name), seed, self._zoo)
        for checkpoint in audit.lineage.checkpoints:
            self._make_one(checkpoint.name, seed)

    def _make_one(self, name: str, seed: int) -> None:
        made_of_seed = name in {*CONTROLS, *ORGANISMS}
        if made_of_seed and not is_there(name, self._zoo, seed=seed):
            train(name, self._zoo, seed=seed, tell=self._tell)
