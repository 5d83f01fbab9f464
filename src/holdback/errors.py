"""Every error that Holdback raises on purpose.

    HoldbackError
    ├── ConfigError            an audit file, lineage or option that cannot be used
    │   └── UnknownNameError   a name that nothing answers to, with the nearest one
    ├── CheckpointError        weights, tokenizer or template missing, unsafe or unusable
    ├── NotApplicableError     a technique with nothing to work on here, which is no failure
    │   └── UnsayableError     words that a chat template rejects; a CheckpointError as well
    ├── EndpointError          a model's provider that refuses, fails or answers nonsense
    │   └── LimitReachedError  a cap on what a provider may be asked for is reached
    ├── EngineError            a chess engine missing, silent or dead
    ├── PgnError               a PGN file without games, or with a broken one
    ├── LogError               an evaluation log that cannot be read, or does not pair with another
    ├── InsufficientDataError  too few observations for the statistic asked for
    └── StoreError             a run store of another version, or one that was altered

A message says what was expected, what came, where, and the fix. All survive pickling, because
executors send them between processes.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class HoldbackError(Exception):
    """Base of all expected errors; the command line prints these as one line."""


class ConfigError(HoldbackError, ValueError):
    """An audit file, lineage or option that cannot be used as it stands."""


class UnknownNameError(ConfigError, LookupError):
    """A name that nothing answers to."""

    @classmethod
    def among(cls, kind: str, name: str, known: Iterable[str]) -> UnknownNameError:
        """Build the message from the names that would have worked."""
        names = sorted(known)
        close = difflib.get_close_matches(name, names, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        return cls(f"unknown {kind} {name!r}.{hint} Known: {', '.join(names)}.")


class CheckpointError(HoldbackError):
    """A checkpoint whose files are missing, unsafe or unusable."""


class NotApplicableError(HoldbackError):
    """A technique that has nothing to work on here: its run is skipped, and none has failed."""


class UnsayableError(CheckpointError, NotApplicableError):
    """Words that a checkpoint's chat template rejects: a rung that needs them is skipped."""


class EndpointError(HoldbackError):
    """A model's provider that refuses, keeps failing, or answers what cannot be read."""


class LimitReachedError(EndpointError):
    """A cap on what a provider may be asked for is reached; what it answered is kept."""


class SamplesLostError(HoldbackError):
    """A run most of whose samples could not be scored, through no doing of the model's."""


class EngineError(HoldbackError):
    """A chess engine that is missing, silent or dead."""


class PgnError(HoldbackError):
    """A PGN file without games, or a game in it that is broken."""


class LogError(HoldbackError):
    """An evaluation log that cannot be read, or that does not pair with another."""


class EmptyLogError(LogError):
    """A log of an evaluation that ended before a sample was scored."""


class InsufficientDataError(HoldbackError, ValueError):
    """Too few observations for the statistic asked for."""


class StoreError(HoldbackError):
    """A run store of another version, or one that was altered."""
