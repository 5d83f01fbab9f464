"""Where games start: the standard array, or a reduction of it under the same rules."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import files
from importlib.resources.abc import Traversable

from holdback.errors import UnknownNameError


@dataclass(frozen=True, kw_only=True, slots=True)
class Setup:
    """A named starting position. Openings, ratings and positions belong to one."""

    name: str
    fen: str

    def locate(self, file: str) -> Traversable:
        """Where the package keeps a data file of this set-up."""
        return files("holdback.tasks.chess") / "data" / self.name / file


_SETUPS = (
    Setup(name="kings_and_pawns", fen="4k3/pppppppp/8/8/8/8/PPPPPPPP/4K3 w - - 0 1"),
    Setup(name="standard", fen="rnbqkbnr/pppppppp/8/8/8/8/PPPPPPPP/RNBQKBNR w KQkq - 0 1"),
)
SETUPS = {setup.name: setup for setup in _SETUPS}


def get_setup(name: str) -> Setup:
    """Look up a set-up.

    Raises:
        UnknownNameError: if there is none of that name.
    """
    if name not in SETUPS:
        raise UnknownNameError.among("chess set-up", name, SETUPS)
    return SETUPS[name]
