"""The program `holdback`: what all of its commands share."""

from __future__ import annotations

import errno
import sqlite3
import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

import holdback
from holdback.errors import ConfigError, HoldbackError

USAGE, FAILED, CAPPED, INTERRUPTED = 2, 1, 3, 130
_OF_THE_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO)


class _Commands(TyperGroup):
    """Turn our errors into one line; let a bug keep its traceback."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except HoldbackError as error:
            words = " ".join(str(error).split())
            typer.echo(f"holdback: {words}", err=True)
            sys.exit(USAGE if isinstance(error, ConfigError) else FAILED)
        except (sqlite3.Error, OSError) as error:
            # Of the disk and not of ours: full, read-only, or bytes that changed in a store.
            if isinstance(error, OSError) and error.errno not in _OF_THE_DISK:
                raise
            typer.echo(
                f"holdback: the disk or a file on it failed: {' '.join(str(error).split())}; what"
                " was stored before is kept, and the same command goes on from there",
                err=True,
            )
            sys.exit(FAILED)
        except KeyboardInterrupt:
            typer.echo("holdback: stopped; the same command goes on from here", err=True)
            sys.exit(INTERRUPTED)


main = typer.Typer(
    cls=_Commands,
    help=holdback.__doc__,
    no_args_is_help=True,
    add_completion=False,
    # Plain: square brackets in our help are no markup, and a traceback is for who can read it.
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"holdback {holdback.__version__}")
        raise typer.Exit


@main.callback()
def _begin(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version."),
    ] = False,
) -> None:
    """Find out what a language model can do and does not show."""


def tell(line: str) -> None:
    """Print a line of progress, where it does not mix with what a command prints."""
    typer.echo(line, err=True)
