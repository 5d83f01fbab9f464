"""`holdback elo`: the rating of a player in any PGN."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from holdback.cli.app import main

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from holdback.elo.rating import OpponentRow, PgnRating

_WIDTH = 100
_ROWS = 30
"""Opponents in the table; JSON has all of them."""
_WORDS = 8
"""Words that are not understood in the notes; JSON has all of them."""


@main.command()
def elo(
    games: Annotated[Path, typer.Argument(metavar="GAMES.pgn", help="The games, in PGN.")],
    *,
    ratings: Annotated[Path, typer.Option(help="TOML file with a table [ratings]: player = Elo.")],
    player: Annotated[
        str | None,
        typer.Option(help="Whose Elo; if unsaid, the one without a rating who is in every game."),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object, nothing else.")
    ] = False,
    skip_broken: Annotated[
        bool, typer.Option("--skip-broken", help="Leave broken games out, and count them.")
    ] = False,
    skip_unrated: Annotated[
        bool,
        typer.Option("--skip-unrated", help="Leave opponents without a rating out, and count."),
    ] = False,
    encoding: Annotated[
        str, typer.Option(help="Of GAMES.pgn; latin-1 for many old collections.")
    ] = "utf-8",
) -> None:
    """Rate a player of GAMES.pgn against opponents of known rating."""
    from holdback.elo.rating import rate_pgn
    from holdback.elo.ratings import load_ratings

    rating = rate_pgn(
        games,
        load_ratings(ratings),
        player=player,
        encoding=encoding,
        skip_broken=skip_broken,
        skip_unrated=skip_unrated,
    )
    if as_json:
        typer.echo(json.dumps(rating.to_dict(), allow_nan=False))
        return
    from rich.console import Console

    _print_rating(rating, Console())


def _print_rating(rating: PgnRating, console: Console) -> None:
    from rich.text import Text

    from holdback.report.visible import show_line

    width = min(console.width, _WIDTH)
    console.print(_write_headline(rating), width=width)
    if rating.opponents:
        console.print(_tabulate(rating), width=width)
    for line in _write_notes(rating):
        console.print(Text(show_line(line)), width=width)


def _write_headline(rating: PgnRating) -> Text:
    from rich.text import Text

    from holdback.report.visible import show_line
    from holdback.report.words import write_estimate

    head = Text(f"{show_line(rating.player)}: ", style="bold")
    if rating.elo is None:
        return head + Text("skill not measured", style="bold yellow")
    level = f"{rating.elo.level:.0%}"
    return head + Text(f"{write_estimate(rating.elo, 0, 'Elo')} ({level})", style="bold")


def _tabulate(rating: PgnRating) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_footer=True)
    table.add_column("opponent", "all", overflow="fold", max_width=40)
    table.add_column("Elo", justify="right")
    shown = rating.opponents[:_ROWS]
    totals = (rating.wins, rating.draws, rating.losses, rating.forfeits)
    for name, total in zip(("won", "drawn", "lost", "forfeited"), totals, strict=True):
        table.add_column(name, str(total), justify="right")
    points = rating.wins + rating.draws / 2
    table.add_column("points", f"{points:g}", justify="right")
    table.add_column("expected", justify="right")
    for row in shown:
        table.add_row(*_write_row(row))
    if len(rating.opponents) > len(shown):
        table.add_row(f"and {len(rating.opponents) - len(shown)} more: see --json")
    return table


def _write_row(row: OpponentRow) -> tuple[str | Text, ...]:
    from rich.text import Text

    from holdback.report.visible import show_line

    return (
        Text(show_line(row.name)),
        f"{row.elo:.0f}",
        *map(str, (row.wins, row.draws, row.losses, row.forfeits)),
        f"{row.wins + row.draws / 2:g}",
        "" if row.expected is None else f"{row.expected:.1f}",
    )


def _write_notes(rating: PgnRating) -> list[str]:
    """Say what the table rests on, and what stands in it apart."""
    from holdback.report.words import write_estimate, write_number, write_probability

    notes = []
    if rating.reason is not None:
        notes.append(f"Not measured: {rating.reason}.")
    if rating.at_least is not None and math.isfinite(rating.at_least):
        bound = write_number(rating.at_least, 0)
        notes.append(f"At least {bound} Elo (95%, one-sided) if every forfeit counts as a loss.")
    if rating.forfeits:
        by = ", ".join(f"{ending.value} {n}" for ending, n in rating.forfeits_by.items())
        notes.append(f"Lost by forfeit, apart from the rating: {by}.")
    if rating.elo is not None and rating.elo_with_forfeits is not None:
        notes.append(
            f"Forfeits counted as losses: {write_estimate(rating.elo_with_forfeits, 0, 'Elo')}."
        )
    if rating.misfit.p_value is not None and rating.misfit.slope is not None:
        slope = write_estimate(rating.misfit.slope, 2)
        p = write_probability(rating.misfit.p_value)
        notes.append(f"Response curve: slope {slope}, 1 is Elo's; misfit p {p}.")
    elif rating.elo is not None:
        notes.append(f"No response curve: {rating.misfit.reason}.")
    if rating.elo is not None:
        untagged = rating.clustered_by == "game"
        told = "openings are not tagged" if untagged else f"by {rating.clustered_by}"
        notes.append(
            f"{rating.elo.n} games decided by play, {rating.clusters} independent ({told});"
            " opponents' ratings taken as exact."
        )
    if rating.elo is not None and rating.repeats:
        notes.append(
            f"{rating.repeats} games repeat another move for move and are one observation with it."
        )
    left_out = {
        "won by the opponent's forfeit": rating.wins_by_forfeit,
        "drawn by forfeit": rating.draws_by_forfeit,
        "unfinished": rating.unfinished,
        "broken": rating.broken,
        "against opponents without a rating": rating.unrated,
    }
    counted = [f"{n} {what}" for what, n in left_out.items() if n]
    if counted:
        notes.append(f"Games left out: {', '.join(counted)}.")
    if rating.unread:
        words = ", ".join(f"{words!r} ({n})" for words, n in list(rating.unread.items())[:_WORDS])
        more = len(rating.unread) - _WORDS
        notes.append(
            f"Termination not understood, counted as played: {words}"
            f"{f' and {more} more: see --json' if more > 0 else ''}."
        )
    return notes
