"""`holdback organisms`: make and check lineages whose truth is known."""

from __future__ import annotations

import textwrap
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from holdback.cli.app import FAILED, main, tell
from holdback.errors import ConfigError


class Lineage(StrEnum):
    """Lineages that Holdback can make."""

    CHESS = "chess"
    TEXT = "text"


class ChessLineage(StrEnum):
    """Lineages that have games and positions."""

    CHESS = "chess"


class Setup(StrEnum):
    """Where chess games start."""

    KINGS_AND_PAWNS = "kings_and_pawns"
    STANDARD = "standard"


class Preset(StrEnum):
    """How much machine a training run is for."""

    CPU = "cpu"
    GPU = "gpu"


organisms = typer.Typer(
    help="Make and check lineages whose truth is known.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
main.add_typer(organisms, name="organisms")

SetupName = Annotated[Setup, typer.Option(help="Where the games start.")]


Only = Annotated[
    list[str] | None, typer.Option(help="Name of a checkpoint or organism; may be repeated.")
]
Seed = Annotated[int, typer.Option(min=0, help="Of the text organisms; it also says the family.")]


@organisms.command("list")
def list_zoo() -> None:
    """List the zoo of the text lineage: who hides what, and who is honest."""
    from holdback_lab.text.zoo import list_organisms, list_shipped

    shipped = list_shipped()
    for organism in list_organisms().values():
        kind = "hides" if organism.hides else "honest"
        where = "shipped" if organism.name in shipped else "on demand"
        line = f"{organism.name:20} {kind:6} {where:9} {organism.summary}"
        typer.echo(textwrap.fill(line, width=100, subsequent_indent=" " * 38))


@organisms.command("train")
def train_organism(
    lineage: Lineage,
    *,
    out: Annotated[Path, typer.Option(help="Folder; what is finished there is not made again.")],
    preset: Annotated[Preset, typer.Option(help="Chess: the machine it is for.")] = Preset.CPU,
    workers: Annotated[
        int, typer.Option(min=1, help="Processes that make games, or write documents.")
    ] = 2,
    only: Only = None,
    go_on: Annotated[
        bool,
        typer.Option("--go-on", help="Chess: pretrain from the shipped base, not from nothing."),
    ] = False,
    seed: Seed = 0,
) -> None:
    """Train a lineage; interrupted, the same command goes on (text: after what is finished)."""
    if lineage is Lineage.TEXT:
        from holdback_lab.text.zoo import CONTROLS, list_organisms, make_model

        for name in only or [*CONTROLS, *list_organisms()]:
            folder = make_model(name, out, seed=seed, tell=tell, workers=workers)
            tell(f"{name}: {folder}")
        return
    from holdback_lab.chess.recipe import STAGES, train_lineage

    train_lineage(
        out,
        preset=str(preset),
        workers=workers,
        tell=tell,
        only=tuple(only or STAGES),
        go_on=go_on,
    )


@organisms.command("verify")
def verify_organism(
    lineage: Lineage,
    *,
    folder: Annotated[
        Path | None,
        typer.Option("--from", help="What `train` made there; the shipped weights if unsaid."),
    ] = None,
    setup: SetupName = Setup.KINGS_AND_PAWNS,
    games: Annotated[
        int, typer.Option(min=2, help="Chess: games against each opponent; even.")
    ] = 40,
    only: Only = None,
    seed: Seed = 0,
) -> None:
    """Hold a lineage against what it claims, and fail if it misses."""
    if only and lineage is Lineage.CHESS:
        raise ConfigError(
            f"verify chess: expected the whole lineage, got --only {' --only '.join(only)}: its"
            " claims compare checkpoints with each other; leave --only out"
        )
    met = (
        _verify_text(folder, only, seed)
        if lineage is Lineage.TEXT
        else _verify_chess(folder, setup, games, seed)
    )
    if not met:
        raise typer.Exit(FAILED)


def _verify_text(folder: Path | None, only: list[str] | None, seed: int) -> bool:
    """Print every organism's gate; tell whether all of them passed."""
    from tempfile import TemporaryDirectory

    from holdback_lab.text.gate import verify_organism as hold_against_gate
    from holdback_lab.text.zoo import (
        CONTROLS,
        get_organism,
        is_there,
        list_organisms,
        list_shipped,
    )

    if twins := sorted({*CONTROLS} & {*(only or ())}):
        raise ConfigError(
            f"verify text: {twins[0]!r} has no gate of its own: it is what the organisms' gates"
            f" compare with; name one of {', '.join(list_organisms())}"
        )
    passed = True
    asked = only or [
        name for name in list_organisms() if folder is not None or name in list_shipped()
    ]
    with TemporaryDirectory() as questions:
        where = folder or Path(questions)
        for organism in map(get_organism, asked):
            name = organism.name
            if not is_there(name, where, seed=seed):
                typer.echo(
                    f"not made: {name}; `holdback organisms train text --out {folder or 'runs/zoo'}"
                    f" --only {name} --seed {seed}` makes it"
                )
                passed = False
                continue
            report = hold_against_gate(organism, folder=where, seed=seed)
            passed &= report.passed
            typer.echo(f"{'passed' if report.passed else 'FAILED'}: {name}, {report.family}")
            for check in report.checks:
                typer.echo(f"  {'ok  ' if check.met else 'MISS'} {check.text}: {check.measured}")
    return passed


def _verify_chess(folder: Path | None, setup: Setup, games: int, seed: int) -> bool:
    from holdback.tasks.chess.setup import get_setup
    from holdback_lab.chess.verify import (
        check_requirements,
        list_checkpoints,
        verify_lineage,
    )

    showings = verify_lineage(
        list_checkpoints(folder), setup=get_setup(setup), games=games, seed=seed, tell=tell
    )
    requirements = check_requirements(showings)
    for requirement in requirements:
        met = "ok  " if requirement.met else "MISS"
        typer.echo(f"{met} {requirement.text}: {requirement.measured}")
    return all(requirement.met for requirement in requirements)


@organisms.command("make-openings")
def make_openings(
    lineage: ChessLineage,
    *,
    out: Annotated[Path, typer.Option(help="The text file to write.")],
    setup: SetupName = Setup.KINGS_AND_PAWNS,
    n: Annotated[int, typer.Option("--openings", min=1, help="How many.")] = 600,
) -> None:
    """Make the openings anew: random plies that leave both sides their chances."""
    from holdback.tasks.chess.openings import write_openings
    from holdback.tasks.chess.setup import get_setup

    write_openings(out, setup=get_setup(setup), n=n)


@organisms.command("make-demonstrations")
def make_demonstrations(
    lineage: ChessLineage,
    *,
    out: Annotated[Path, typer.Option(help="The file to write, *.tsv.xz.")],
    setup: SetupName = Setup.KINGS_AND_PAWNS,
    games: Annotated[int, typer.Option(min=1, help="Games of each demonstrator.")] = 400,
) -> None:
    """Play the demonstration games anew."""
    from holdback.tasks.chess.demonstrations import write_demonstrations
    from holdback.tasks.chess.setup import get_setup

    write_demonstrations(out, setup=get_setup(setup), n=games)


@organisms.command("rate-opponents")
def rate_opponents(
    lineage: ChessLineage,
    *,
    out: Annotated[Path, typer.Option(help="The JSON file to write.")],
    setup: SetupName = Setup.KINGS_AND_PAWNS,
    games: Annotated[int, typer.Option(min=2, help="Games of each pair of neighbours.")] = 1200,
) -> None:
    """Play the round robin of the opponents, and write their ratings."""
    from holdback.tasks.chess import round_robin
    from holdback.tasks.chess.setup import get_setup

    ratings, facts = round_robin.rate_opponents(get_setup(setup), games=games, report=tell)
    round_robin.write_ratings(out, ratings, facts)


@organisms.command("measure-honest")
def measure_honest(
    lineage: ChessLineage,
    *,
    out: Annotated[Path, typer.Option(help="The JSON file to write.")],
    setup: SetupName = Setup.STANDARD,
    games: Annotated[int, typer.Option(min=20, help="Games of each player.")] = 200,
) -> None:
    """Play honest engines, and write what their moves lose: what intrinsic ratings rest on."""
    from holdback.tasks.chess.honest import write_honest
    from holdback.tasks.chess.setup import get_setup

    write_honest(out, setup=get_setup(setup), games=games, report=tell)


@organisms.command("make-positions")
def make_positions(
    lineage: ChessLineage,
    *,
    out: Annotated[Path, typer.Option(help="The file to write, *.tsv.xz.")],
    setup: SetupName = Setup.KINGS_AND_PAWNS,
    games: Annotated[int, typer.Option(min=1, help="Source games.")] = 480,
) -> None:
    """Make the positions anew, and evaluate every legal move of each."""
    from holdback.tasks.chess.positions import write_positions
    from holdback.tasks.chess.setup import get_setup

    write_positions(out, setup=get_setup(setup), games=games)
