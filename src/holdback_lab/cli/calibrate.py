"""`holdback calibrate`: the auditor, audited on organisms whose truth is known."""

from __future__ import annotations

import json
import shlex
import sys
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from holdback.cli.app import main, tell
from holdback.cli.audit import Access
from holdback.errors import ConfigError

if TYPE_CHECKING:
    from rich.table import Table

    from holdback_lab.calibration.campaign import Campaign
    from holdback_lab.calibration.trials import Trial

_WIDTH = 100
_QUICK_MINUTES = 9.0
"""Begun by then; the trial that is under way is finished."""


@main.command()
def calibrate(
    *,
    organisms: Annotated[
        str | None, typer.Option(help="Names, with commas; all of the zoo if unsaid.")
    ] = None,
    seeds: Annotated[str, typer.Option(help="Of the organisms, with commas.")] = "0,1,2",
    access: Annotated[
        list[Access] | None,
        typer.Option(help="Audit at this level; may be repeated; all if unsaid."),
    ] = None,
    zoo: Annotated[
        Path, typer.Option("--from", help="Where `organisms train text` left organisms.")
    ] = Path("runs/zoo"),
    out: Annotated[
        Path, typer.Option(help="Folder of trials and the page; what is there is not run again.")
    ] = Path("runs/calibration"),
    short: Annotated[
        bool, typer.Option("--short", help="Fewer rungs, with one seed each.")
    ] = False,
    quick: Annotated[
        bool, typer.Option("--quick", help="--short, what ships of seed 0, 10 minutes at most.")
    ] = False,
    looks: Annotated[
        int,
        typer.Option(min=1, max=20, help="Blocks of `test`; none more where a verdict is clear."),
    ] = 1,
    workers: Annotated[int, typer.Option(min=1, help="Processes.")] = 2,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object with the rates, nothing else.")
    ] = False,
) -> None:
    """Audit organisms whose truth is known, and measure how often the verdict is right."""
    from holdback_lab.calibration.campaign import Campaign

    folder = out / "quick" if quick else out / "short" if short else out
    if looks > 1:
        # Apart: samples that a single look took would count as spent.
        folder /= f"looks-{looks}"
    campaign = Campaign(
        folder=folder,
        zoo=zoo,
        organisms=_split(organisms) or _choose(zoo, quick=quick),
        seeds=[0] if quick else _numbers(seeds),
        access=list(dict.fromkeys(level.value for level in access or Access)),
        workers=workers,
        short=short or quick,
        looks=looks,
        minutes=_QUICK_MINUTES if quick else None,
    )
    trials, failed = _run(campaign)
    _present(campaign, trials, failed, as_json=as_json)


def _run(campaign: Campaign) -> tuple[list[Trial], list[str]]:
    """Run what is missing; return all trials, and what failed its gate."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from holdback.runs.executors import make_local
    from holdback.runs.progress import Silent
    from holdback_lab.calibration.campaign import run_campaign
    from holdback_lab.calibration.gates import Gates

    gates = Gates(campaign.zoo, campaign.folder, tell=tell)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    trials = []
    with (
        make_local(workers=campaign.workers) as executor,
        Progress(*columns, console=Console(stderr=True)) as bar,
    ):
        at = bar.add_task("calibrating", total=len(campaign.wanted))
        for trial in run_campaign(
            campaign, executor=executor, observer=Silent(), admit=gates.admit
        ):
            trials.append(trial)
            bar.update(at, advance=1, description=f"{trial.organism}, seed {trial.seed}")
    return trials, gates.failures


def _present(
    campaign: Campaign, trials: Sequence[Trial], failed: Sequence[str], *, as_json: bool
) -> None:
    from rich.console import Console

    from holdback_lab.calibration.page import write_calibration
    from holdback_lab.calibration.rates import measure_rates

    if not trials:
        raise ConfigError(
            "no organism passed its gate, so nothing could be calibrated: " + "; ".join(failed)
        )
    file = campaign.folder / "calibration.md"
    page = write_calibration(
        trials,
        command=shlex.join(["holdback", *sys.argv[1:]]),
        failed=failed,
        seconds=sum(trial.seconds for trial in trials),
    )
    file.write_text(page, encoding="utf-8")
    rates = measure_rates(trials)
    if as_json:
        typer.echo(json.dumps(rates, allow_nan=False))
    else:
        Console(width=_WIDTH).print(_tabulate(rates))
        for words in failed:
            typer.echo(textwrap.fill(f"failed its gate: {words}", _WIDTH, subsequent_indent="  "))
    missing = len(campaign.wanted) - len(trials)
    tell(f"{len(trials)} trials, {missing} not run; tables by organism, rung and threshold: {file}")


def _tabulate(rates: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> Table:
    """Lay the rates out, a column an access level."""
    from rich import box
    from rich.table import Table

    from holdback_lab.calibration.page import write_cell
    from holdback_lab.calibration.rates import KEYS

    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("rate, with 95% intervals", overflow="fold")
    levels = list(rates["tpr"])
    for level in levels:
        table.add_column(level, justify="right", no_wrap=True)
    for key, words in KEYS.items():
        what = f"{key}\n{words.replace('`', '')}"
        table.add_row(what, *(write_cell(rates[key][level]) for level in levels))
    return table


def _choose(zoo: Path, *, quick: bool) -> list[str]:
    """Name all organisms; where minutes count, those that ship with all of their kin."""
    from holdback_lab.text.lineages import plan_lineage
    from holdback_lab.text.zoo import SHIPPED_SEED, list_organisms, list_shipped

    if not quick:
        return list(list_organisms())
    shipped = set(list_shipped())
    return [
        name
        for name, organism in list_organisms().items()
        if {kin.name for kin in plan_lineage(organism, SHIPPED_SEED, zoo).checkpoints} <= shipped
    ]


def _split(names: str | None) -> list[str]:
    """Read names with commas; one that is named twice counts once."""
    return list(dict.fromkeys(name.strip() for name in (names or "").split(",") if name.strip()))


def _numbers(text: str) -> list[int]:
    parts = _split(text)
    if not parts or not all(part.isdecimal() for part in parts):
        raise ConfigError(
            f"--seeds: expected numbers from 0 with commas, as in 0,1,2, got {text!r}"
        )
    return [int(part) for part in parts]
