"""`holdback export`: runs of a store as Inspect logs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from holdback.cli.app import main
from holdback.errors import ConfigError


@main.command()
def export(
    store: Annotated[Path, typer.Argument(metavar="STORE", help="A store of run records.")],
    *,
    out: Annotated[Path, typer.Option(help="Folder; a log that is there is written anew.")],
    run: Annotated[
        list[str] | None,
        typer.Option(
            help="Part of a run's label (checkpoint · task · rung · split · seed N), or the"
            " beginning of its digest; may be repeated. All runs if unsaid."
        ),
    ] = None,
) -> None:
    """Write runs as Inspect logs, one game or item a sample; open them with `inspect view`."""
    try:
        from holdback.inspect.export import export_runs
    except ModuleNotFoundError as error:
        if error.name is None or not error.name.startswith("inspect_ai"):
            raise
        raise ConfigError(
            "export needs Inspect, which is not installed; `pip install 'holdback[inspect]'`"
        ) from error
    from holdback.runs.store import RunStore

    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"--out: expected a folder for logs, got {out}: {error}") from error
    with RunStore(store, create=False) as opened:
        opened.verify()
        paths = export_runs(opened, out, runs=run or ())
    typer.echo(f"{len(paths)} logs in {out}; open them with: inspect view --log-dir {out}")
