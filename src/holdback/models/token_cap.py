"""One cap on the tokens of a whole command, over all its checkpoints and worker processes."""

from __future__ import annotations

import os
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from holdback.errors import ConfigError, LimitReachedError

CAP = "HOLDBACK_MAX_TOKENS"
_FILE = "HOLDBACK_TOKENS_FILE"
"""Environment variable by which worker processes find the ledger of their command."""


class TokenLedger:
    """Tokens used and reserved so far, in a small SQLite file that processes share.

    Args:
        cap: Most tokens, used and reserved together; None for no cap.
        file: Where they are written down; in memory where nobody shares them.
    """

    def __init__(self, cap: int | None, file: str = ":memory:") -> None:
        self.cap = cap
        # Requests may be sent from a thread with a loop of its own.
        self._db = sqlite3.connect(file, timeout=60, isolation_level=None, check_same_thread=False)
        self._db.execute("CREATE TABLE IF NOT EXISTS ledger (tokens INTEGER, reserved INTEGER)")

    def reserve(self, tokens: int, *, where: str) -> None:
        """Set tokens aside for a request.

        Raises:
            LimitReachedError: if the cap would be passed; nothing is set aside then.
        """
        if self.cap is None:
            return
        self._db.execute("BEGIN IMMEDIATE")
        used, reserved = self._db.execute(
            "SELECT coalesce(sum(tokens), 0), coalesce(sum(reserved), 0) FROM ledger"
        ).fetchone()
        if used + reserved + tokens > self.cap:
            self._db.execute("ROLLBACK")
            raise LimitReachedError(
                f"{where}: expected to stay below the cap of {self.cap} tokens, {used} are used and"
                f" the next requests may take {reserved + tokens}; raise the cap ({CAP}) and run"
                " the same command again: what was stored is kept"
            )
        self._db.execute("INSERT INTO ledger VALUES (0, ?)", (tokens,))
        self._db.execute("COMMIT")

    def settle(self, reserved: int, used: int) -> None:
        """Give back what was set aside for a request, and write down what it took."""
        if self.cap is not None:
            self._db.execute("INSERT INTO ledger VALUES (?, ?)", (used, -reserved))


def open_ledger() -> TokenLedger:
    """Open this command's ledger, with the cap of the environment.

    Raises:
        ConfigError: for a cap that is no number.
    """
    return TokenLedger(read_bound(CAP), os.environ.get(_FILE, ":memory:"))


@contextmanager
def sharing_ledger() -> Iterator[None]:
    """Let all that the body starts, worker processes included, share one ledger."""
    if os.environ.get(_FILE) or not os.environ.get(CAP):
        yield
        return
    with tempfile.TemporaryDirectory(prefix="holdback-") as folder:
        os.environ[_FILE] = str(Path(folder) / "tokens.sqlite")
        try:
            yield
        finally:
            del os.environ[_FILE]


def read_bound(variable: str) -> int | None:
    """Read a whole number from 1 out of the environment; None where there is none.

    Raises:
        ConfigError: for anything else.
    """
    value = os.environ.get(variable, "").strip()
    if not value:
        return None
    if not value.isdecimal() or int(value) < 1:
        raise ConfigError(f"{variable}: expected a whole number from 1, got {value!r}; correct it")
    return int(value)
