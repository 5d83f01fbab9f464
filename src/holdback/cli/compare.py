"""`holdback compare` and `import`: logs and runs against each other, and into a store."""

from __future__ import annotations

import gc
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from holdback.cli.app import main, tell
from holdback.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from holdback.compare.comparison import Comparison, ComparisonReport, Source
    from holdback.compare.logs import LoggedSample, ReadOptions
    from holdback.compare.pairing import Pair
    from holdback.statistics.estimate import Estimate

_WIDTH = 100
_FEW = 3
"""Comparisons up to which examples are printed without being asked for."""
_QUESTION, _ANSWER = 200, 100
"""Characters of an example that are printed."""

Scores = Annotated[
    list[str] | None,
    typer.Option(
        "--score", metavar="NAME", help="Scorer or metric to read; repeat it for tasks that differ."
    ),
]
Cluster = Annotated[
    str | None,
    typer.Option(
        metavar="KEY", help="Metadata key of what samples share; `cluster`, else the question."
    ),
]
SkipUnscored = Annotated[
    bool, typer.Option("--skip-unscored", help="Leave samples without a score out, and count them.")
]


@main.command()
def compare(
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="A B [C …]",
            help="Inspect logs, lm-eval samples, folders of them, or STORE.sqlite#CHECKPOINT/RUNG.",
        ),
    ],
    *,
    margin: Annotated[
        float | None,
        typer.Option(
            help="Test equivalence: differences below this do not matter, in the score's unit"
            " (0.05 for 5 points of accuracy)."
        ),
    ] = None,
    score: Scores = None,
    cluster: Cluster = None,
    common: Annotated[
        bool, typer.Option("--common", help="Compare what two logs share if samples differ.")
    ] = False,
    skip_unscored: SkipUnscored = False,
    level: Annotated[float, typer.Option(help="1 - α of tests and intervals.")] = 0.95,
    examples: Annotated[
        int | None, typer.Option(min=0, help="Flips to show, each way; 2 of few comparisons.")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object, nothing else.")
    ] = False,
) -> None:
    """Compare B, C, … with A on the same samples, task by task."""
    if len(sources) < 2:
        raise ConfigError(f"expected two or more logs or runs to compare, got {len(sources)}")
    from holdback.compare.comparison import compare_sources
    from holdback.compare.pairing import MismatchError
    from holdback.compare.sources import read_sources

    options = _make_options(score, cluster, skip_unscored=skip_unscored)
    try:
        with _pause_collector():
            read = read_sources(sources, options, tell=tell)
            report = compare_sources(read, margin=margin, level=level, common=common)
    except MismatchError as error:
        if as_json:
            typer.echo(json.dumps({"error": str(error), "mismatched": error.mismatched}))
        raise
    if examples is None:
        examples = 2 if len(report.comparisons) <= _FEW else 0
    if as_json:
        typer.echo(json.dumps(_write_json(read, report, examples), allow_nan=False))
        return
    from rich.console import Console

    _print_report(report, Console(), examples=examples)


@main.command("import")
def import_results(
    logs: Annotated[
        list[str],
        typer.Argument(metavar="LOG…", help="Inspect logs, lm-eval samples, or folders of them."),
    ],
    *,
    store: Annotated[Path, typer.Option(help="The run store; made where there is none.")],
    score: Scores = None,
    cluster: Cluster = None,
    skip_unscored: SkipUnscored = False,
    partial: Annotated[
        bool, typer.Option("--partial", help="Take a log with samples missing as it is.")
    ] = False,
) -> None:
    """Store LOGs as runs: one a model, task, score and epoch; what is there stays."""
    from holdback.compare.importing import import_logs
    from holdback.compare.sources import read_log_files
    from holdback.report.visible import show_line
    from holdback.runs.store import RunStore

    options = _make_options(score, cluster, skip_unscored=skip_unscored)
    # All are read before the store is touched: a broken log changes nothing.
    read = [log for reference in logs for log in read_log_files(reference, options, tell=tell)]
    with RunStore(store) as opened:
        for done in import_logs(read, opened, partial=partial):
            spec = done.specs[0]
            what = f"{done.new_samples} samples" if done.new_samples else "nothing new"
            runs = f"{len(done.specs)} run{'s' if len(done.specs) > 1 else ''}"
            typer.echo(
                show_line(
                    f"{spec.checkpoint} · {spec.task} · {done.log.score}: {what} in {runs},"
                    f" {store}#{spec.checkpoint}/{spec.rung} or #{done.log_digest[:12]}"
                )
            )
            if done.log.shortfall:
                tell(show_line(f"holdback: {done.log.source}: {done.log.shortfall}"))


@contextmanager
def _pause_collector() -> Iterator[None]:
    """Stop looking for cycles among a million small objects, none of which is in one.

    Of two logs of 50,000 samples it takes 1.5 of 5 seconds.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def _make_options(
    scores: Sequence[str] | None, cluster: str | None, *, skip_unscored: bool
) -> ReadOptions:
    from holdback.compare.logs import ReadOptions

    return ReadOptions(scores=tuple(scores or ()), cluster=cluster, skip_unscored=skip_unscored)


def _write_json(
    sources: Sequence[Source], report: ComparisonReport, examples: int
) -> dict[str, object]:
    return {
        "sources": [
            {
                "name": source.name,
                "logs": [
                    {
                        "task": log.task,
                        "model": log.model,
                        "source": log.source,
                        "status": log.status,
                        "samples": len(log.samples),
                        "expected": log.expected,
                    }
                    for log in source.logs
                ],
            }
            for source in sources
        ],
        "comparisons": [c.to_dict(examples=examples) for c in report.comparisons],
        "notes": list(report.notes),
    }


def _print_report(report: ComparisonReport, console: Console, *, examples: int) -> None:
    from rich.text import Text

    from holdback.report.visible import show_line

    width = min(console.width, _WIDTH)
    first = report.comparisons[0]
    console.print(Text(f"Each against {show_line(first.first)} (A)"), width=width)
    console.print(_tabulate(report.comparisons), width=width)
    for comparison in report.comparisons:
        _print_details(comparison, console, width, examples=examples)
    for note in report.notes:
        console.print(Text(show_line(f"Note: {note}.")), width=width)


def _tabulate(comparisons: Sequence[Comparison]) -> Table:
    """Lay comparisons out so that 80 columns hold them: value above, interval below."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    from holdback.report.visible import show_line

    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("task, B, and what B is", overflow="fold", max_width=24)
    table.add_column("n", justify="right", no_wrap=True)
    for name in ("A and B", "B − A", "p, Holm; flips"):
        table.add_column(name, justify="right", no_wrap=True)
    for c in comparisons:
        digits = _count_digits(c)
        what = Text(c.verdict, style="" if c.verdict == "undecided" else "bold")
        table.add_row(
            Text(show_line(c.task)) + Text(f"\n{show_line(c.other)}\n", "dim") + what,
            str(c.difference.n),
            _write_line("A", c.first_score, digits)
            + Text("\n")
            + _write_line("B", c.other_score, digits),
            _write_cell(c.difference, digits),
            f"{_write_p(c.p_adjusted)}\n+{c.gained} −{c.lost}",
        )
    return table


def _write_line(letter: str, estimate: Estimate, digits: int) -> Text:
    from rich.text import Text

    from holdback.report.words import write_interval, write_value

    interval = Text(f" {write_interval(estimate, digits)}", style="dim")
    return Text(f"{letter} {write_value(estimate, digits)}") + interval


def _write_cell(estimate: Estimate, digits: int) -> Text:
    from rich.text import Text

    from holdback.report.words import write_interval, write_value

    interval = Text(f"\n{write_interval(estimate, digits)}", style="dim")
    return Text(write_value(estimate, digits, signed=True)) + interval


def _count_digits(comparison: Comparison) -> int:
    from holdback.verdict import count_digits

    half = (comparison.difference.high - comparison.difference.low) / 2
    return min(4, max(2, count_digits(half))) if half > 0 else 3


def _write_p(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def _print_details(comparison: Comparison, console: Console, width: int, *, examples: int) -> None:
    from rich.text import Text

    from holdback.report.visible import show_line

    console.print(Text(show_line(f"{comparison.task}: {comparison.other}"), style="bold"))
    for line in _write_details(comparison):
        console.print(Text(f"  {show_line(line)}"), width=width)
    for words, pairs in (
        ("B scores lower", comparison.examples_lost),
        ("B scores higher", comparison.examples_gained),
    ):
        for pair in pairs[:examples]:
            console.print(Text(f"  {words}: ", style="bold") + _write_example(pair), width=width)
            for letter, samples in (("A", pair.first), ("B", pair.other)):
                console.print(_write_answers(letter, samples), width=width)
    console.print()


def _write_details(comparison: Comparison) -> list[str]:
    from holdback.report.words import write_number

    digits = _count_digits(comparison)
    c, d = comparison, comparison.difference
    lines = [
        f"{c.score}: {d.n} pairs by {c.pairing.paired_by}, {d.n_clusters} clusters; {c.test}:"
        f" p {_write_p(c.p_value)} before Holm's correction",
    ]
    if c.routes:
        parts = ", ".join(
            f"{name} {write_number(route.difference, digits, signed=True)}"
            f" ({write_number(route.gained / d.n, digits, signed=True)}"
            f" −{write_number(route.lost / d.n, digits)})"
            for name, route in c.routes.items()
        )
        lines.append(f"the difference by what the worse answer was: {parts}")
    for letter, outcomes in (("A", c.first_outcomes), ("B", c.other_outcomes)):
        counts = ", ".join(f"{count} {name}" for name, count in outcomes.items())
        lines.append(f"outcomes of {letter}: {counts}")
    if c.margin is not None and c.equivalence_p_adjusted is not None:
        lines.append(
            f"equivalent within ±{c.margin:g}: TOST p {_write_p(c.equivalence_p_adjusted)} (Holm)"
        )
    detected = (
        f"no true difference would be found with 80% power: {d.n} pairs are too few"
        if c.detectable is None
        else f"a true difference of {write_number(c.detectable, digits)} would be found with 80%"
        " power"
    )
    lines.append(
        f"equivalence is shown from ±{write_number(c.equivalent_within, digits)} on; {detected}"
    )
    return [*lines, *c.notes]


def _write_example(pair: Pair) -> Text:
    from rich.text import Text

    sample = pair.first[0]
    return Text(
        f"{_clip(sample.sample_id, 40)}: {_clip(sample.question, _QUESTION)}"
        f" [target {_clip(sample.target, _ANSWER)}]"
    )


def _write_answers(letter: str, samples: Sequence[LoggedSample]) -> Text:
    from rich.text import Text

    told = "; ".join(
        f"{'no score' if s.value is None else f'{s.value:g}'}, {s.outcome}:"
        f" {_clip(s.answer, _ANSWER) or '(none)'}"
        for s in samples[:3]
    )
    more = f"; and {len(samples) - 3} epochs more" if len(samples) > 3 else ""
    return Text(f"    {letter}: {told}{more}")


def _clip(text: str, most: int) -> str:
    from holdback.report.visible import show_line

    words = show_line(" ".join(text.split()))
    return words if len(words) <= most else f"{words[: most - 1]}…"
