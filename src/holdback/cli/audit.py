"""`holdback audit`, `plan` and `report`."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, Annotated

import typer

from holdback.cli.app import CAPPED, FAILED, main
from holdback.errors import ConfigError
from holdback.shipped import find_audits

if TYPE_CHECKING:
    from rich.console import Console

    from holdback.audit import AuditResult
    from holdback.plan import AuditPlan
    from holdback.runs.forecast import Forecast
    from holdback.runs.resolve import Resolved
    from holdback.runs.timing import Application, Timing
    from holdback.tasks.task import Prompt


class Access(StrEnum):
    """What techniques may touch, least first."""

    SAMPLES = "samples"
    LOGPROBS = "logprobs"
    ACTIVATIONS = "activations"
    WEIGHTS = "weights"


AuditName = Annotated[str, typer.Argument(metavar="AUDIT", help="An audit file, or `chess`.")]
Quick = Annotated[bool, typer.Option("--quick", help="Leave out what [quick] in AUDIT says.")]
Limit = Annotated[
    Access | None, typer.Option("--access", help="Climb no rung that needs more than this.")
]
AsJson = Annotated[
    bool, typer.Option("--json", help="Print one JSON object with the findings, nothing else.")
]
Offline = Annotated[
    bool, typer.Option("--offline", help="Touch no network but this machine's own servers.")
]
Qualify = Annotated[
    bool | None,
    typer.Option(
        "--qualify/--no-qualify",
        help="Plant a secret in a copy of what nothing is found in; [qualify] in AUDIT if unsaid.",
    ),
]
Report = Annotated[
    Path | None,
    typer.Option("--out", help="Where the report goes; runs/<audit>.html (-quick.html) if unsaid."),
]


@main.command()
def audit(
    name: AuditName,
    *,
    quick: Quick = False,
    store: Annotated[
        Path | None,
        typer.Option(help="Records, runs/<audit>.sqlite if unsaid; what is there is not rerun."),
    ] = None,
    out: Report = None,
    as_json: AsJson = False,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Processes; [budget] in AUDIT says otherwise.")
    ] = None,
    access: Limit = None,
    qualify: Qualify = None,
    offline: Offline = False,
    max_samples: Annotated[
        int | None, typer.Option(min=1, help="Stop after so many new samples (code 3).")
    ] = None,
    max_tokens: Annotated[
        int | None, typer.Option(min=1, help="Ask nothing that could take more tokens (code 3).")
    ] = None,
    max_minutes: Annotated[
        float | None, typer.Option(min=0, help="Stop after so much wall time (code 3).")
    ] = None,
) -> None:
    """Run every checkpoint, task and rung that AUDIT names, and say what is held back."""
    plan = _load(name, quick=quick, access=access, qualify=qualify, offline=offline)
    from rich.console import Console

    from holdback.api import find_store, perform
    from holdback.runs.allowance import Allowance
    from holdback.runs.progress import RunProgress

    allowance = Allowance(samples=max_samples, tokens=max_tokens, minutes=max_minutes)
    records = store or find_store(plan)
    # The report of a whole audit is not to be replaced by a quick look at a part of it.
    page = records.with_name(f"{records.stem}-quick.html" if quick else f"{records.stem}.html")
    page = _require_writable(out or page)
    aside = Console(stderr=True)

    @contextmanager
    def watch(resolved: Resolved) -> Iterator[RunProgress]:
        for remark in resolved.remarks:
            _tell(aside, remark)
        with RunProgress(aside, f"audit {plan.name}") as progress:
            yield progress

    result = perform(
        plan,
        store=records,
        workers=workers,
        # How it is printed is no part of what is reproduced.
        command=shlex.join(["holdback", *(word for word in sys.argv[1:] if word != "--json")]),
        allowance=allowance,
        watch=watch,
    ).result
    _present(result, page, aside, as_json=as_json)
    if result.failed:
        first = result.failed[0]
        words = f"failed runs: {len(result.failed)}, first {first.label}: {first.reason}"
        hint = "once the cause is gone, the same command tries them again"
        typer.echo(f"holdback: {words}; {hint}", err=True)
    if allowance.reached:
        words = f"stopped at {allowance.reached}; all that was done is stored"
        typer.echo(f"holdback: {words}, and the same command without it goes on", err=True)
        raise typer.Exit(CAPPED)
    if result.failed:
        raise typer.Exit(FAILED)


@main.command("plan")
def show_plan(
    name: AuditName,
    *,
    quick: Quick = False,
    access: Limit = None,
    qualify: Qualify = None,
    offline: Offline = False,
    show_prompts: Annotated[
        bool, typer.Option("--show-prompts", help="Print the first prompt of every rung.")
    ] = False,
    timed: Annotated[
        bool, typer.Option("--time", help="Ask a few samples to measure this machine's speed.")
    ] = False,
) -> None:
    """Say what an audit would run, how long it takes and what it could see; run nothing."""
    plan = _load(name, quick=quick, access=access, qualify=qualify, offline=offline)
    from rich.console import Console

    from holdback.audit import prepare
    from holdback.runs.forecast import forecast

    resolved = prepare(plan)
    console = Console()
    if show_prompts:
        _print_prompts(resolved, console)
    timings: list[Timing] = []
    applications: list[Application] = []
    if timed:
        from holdback.runs.timing import apply_timings, time_tasks, time_techniques

        timings = time_tasks(resolved)
        applications = time_techniques(resolved)
        timed_plan = apply_timings(resolved.plan, timings, applications)
        resolved = replace(resolved, plan=timed_plan)
    _print_forecast(resolved, forecast(resolved), console)
    for remark in resolved.remarks:
        _tell(console, remark)
    for timing in timings:
        _tell(
            console,
            f"{timing.task}: timed here on {timing.checkpoint}: {timing.samples_per_second:.3g}"
            f" samples/s over {timing.samples} samples",
        )
    for done in applications:
        _tell_application(done, console)
    # Local tokenizers take seconds to load, so they are not asked where nobody pays.
    _print_tokens(resolved, console, priced=not (show_prompts or timed))
    if not (show_prompts or timed):
        _tell(console, "--time adds tokens and this machine's own speed, --show-prompts prompts")


def _tell_application(done: Application, console: Console) -> None:
    """Say how long a technique takes to apply, where it takes a while, or that it is left out."""
    rungs, place = ", ".join(done.rungs), f"on {done.checkpoint}"
    if done.seconds is None:
        _tell(
            console,
            f"{rungs}: the time to apply it is left out, could not be {place}: {done.reason}",
        )
    elif done.seconds >= 0.1:
        _tell(console, f"{rungs}: applied once here {place}: {done.seconds:.2g} s")


@main.command()
def report(
    source: Annotated[
        str,
        typer.Argument(
            metavar="STORE", help="A store of run records, an audit file, or an audit's name."
        ),
    ],
    out: Report = None,
    as_json: AsJson = False,
) -> None:
    """Make the report of an audit again, from its stored records alone."""
    from rich.console import Console

    from holdback.audit import read_result
    from holdback.runs.store import RunStore

    records = _find_store(source)
    page = _require_writable(out or records.with_suffix(".html"))
    with RunStore(records, create=False) as opened:
        opened.verify()
        result = read_result(opened)
    _present(result, page, Console(stderr=True), as_json=as_json)


def _find_store(source: str) -> Path:
    """Find the records of a store's path, of an audit file, or of an audit's name."""
    from holdback.api import find_store

    path = Path(source)
    if path.suffix == ".toml" or (source in find_audits() and not path.is_file()):
        return find_store(_load(source))
    # An audit of one's own is known by the name in its file, as its store is.
    named = Path("runs") / f"{source}.sqlite"
    return named if not path.is_file() and named.is_file() else path


def _require_writable(page: Path) -> Path:
    """Refuse a place where no report can be written, before hours are spent on it.

    Raises:
        ConfigError: saying what is in the way.
    """
    try:
        if page.is_dir():
            raise IsADirectoryError("it is a folder")
        page.parent.mkdir(parents=True, exist_ok=True)
        if page.exists():
            with page.open("ab"):
                pass
        else:
            with TemporaryFile(dir=page.parent):
                pass
    except OSError as error:
        raise ConfigError(
            f"expected a file that the report can be written to, got {page}: {error}; name another"
            " by --out"
        ) from error
    return page


def _load(
    name: str,
    *,
    quick: bool = False,
    access: Access | None = None,
    qualify: bool | None = None,
    offline: bool = False,
) -> AuditPlan:
    if offline:
        from holdback.models.hub import go_offline

        go_offline()
    from holdback.api import find_plan

    plan = find_plan(name)
    if quick:
        plan = plan.quickened()
    if qualify is not None:
        plan = replace(plan, qualify=replace(plan.qualify, enabled=qualify))
    return plan if access is None else replace(plan, access=access.value)


def _present(result: AuditResult, path: Path, aside: Console, *, as_json: bool) -> None:
    """Print findings and write the report; with `as_json` stdout has one object and no more."""
    from holdback.report.page import render_report
    from holdback.report.terminal import print_findings

    render_report(result, path)
    if as_json:
        typer.echo(json.dumps(result.to_dict(), allow_nan=False))
        aside.print(f"Report: {path}", soft_wrap=True, markup=False, highlight=False)
    else:
        print_findings(
            result.findings,
            signs=result.signatures,
            level=result.plan.level,
            remarks=result.remarks,
            report=path,
        )


def _print_forecast(resolved: Resolved, expected: Forecast, console: Console) -> None:
    from rich import box
    from rich.table import Table

    from holdback.audit.reading import write_skipped
    from holdback.report.words import write_duration

    plan = resolved.plan
    table = Table("task", "rung", "split", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for column in ("runs", "samples", "minutes"):
        table.add_column(column, justify="right")
    for row in expected.rows:
        table.add_row(
            row.task,
            row.rung,
            str(row.split),
            str(row.runs),
            str(row.samples),
            f"{row.minutes:.1f}" if row.minutes >= 0.1 else f"{row.minutes:.3f}",
        )
    console.print(table)
    workers = plan.budget.workers
    lines = [
        f"{expected.runs} runs, {expected.samples} samples, about"
        f" {write_duration(60 * expected.minutes)} on"
        f" {workers} worker{'s' if workers > 1 else ''}, counted with the costliest rung on test"
    ]
    if plan.rounds > 1:
        lines.append(
            f"rungs race on select in {plan.rounds} rounds: fewer samples where one is left behind"
        )
    for name, task in plan.tasks.items():
        if task.choose_on is not None:
            lines.append(f"{name}: its rung is chosen on {task.choose_on}")
    if expected.secrets is not None:
        added = expected.secrets
        lines.append(
            f"planted secrets, at most: {added.runs} runs, {added.samples} samples, about"
            f" {added.minutes:.0f} min more, and the planting; --no-qualify leaves them out"
        )
    if plan.budget.minutes is not None and expected.minutes > plan.budget.minutes:
        lines.append(
            f"more than the budget of {plan.budget.minutes:g} min: ask for fewer samples or rungs,"
            " as --quick does"
        )
    for name, gap in expected.detectable.items():
        margin = plan.tasks[name].margin
        if gap is None:
            lines.append(f"{name}: no spread is given, so no smallest detectable gap")
        else:
            lines.append(
                f"{name}: smallest detectable gap {gap:.3g} beyond a control's (margin {margin:g})"
            )
    lines += [f"code of your own, run as it stands: {name}" for name in resolved.own_code]
    lines += [*write_skipped(expected.skipped), *expected.remarks]
    for line in lines:
        _tell(console, line)


def _print_prompts(resolved: Resolved, console: Console) -> None:
    """Print what each rung asks first; what a template wrote moves no cursor."""
    from holdback.report.visible import show_invisible
    from holdback.runs.preview import Previewer

    first_shown: dict[Prompt, str] = {}
    for shown in Previewer(resolved).show():
        where = f"{shown.checkpoint} · {shown.task} · {shown.rung}"
        prompt = shown.prompt
        if prompt is None:
            _tell(console, f"── {where}: no prompt to show: {shown.reason}\n")
            continue
        if prompt in first_shown:
            # Rungs that change weights or decoding ask the same; once is enough to read.
            _tell(console, f"── {where} · as {first_shown[prompt]}\n")
            continue
        first_shown[prompt] = where
        size = (
            "no token ids here" if prompt.token_ids is None else f"{len(prompt.token_ids)} tokens"
        )
        _tell(console, f"── {where} · {prompt.sample_id} · {size}")
        _tell(console, show_invisible(prompt.text))
        if prompt.token_ids is not None:
            _tell(console, f"{list(prompt.token_ids)}")
        for continuation in prompt.continuations:
            _tell(console, f"  compared: {show_invisible(continuation)}")
        _tell(console, "")


def _print_tokens(resolved: Resolved, console: Console, *, priced: bool) -> None:
    """Print the most tokens that checkpoints could be asked for, with `priced` endpoints alone."""
    from holdback.runs.preview import bound_checkpoints, list_readers

    names = list_readers(resolved.lineage, priced=priced)
    bounds = bound_checkpoints(resolved, names) if names else {}
    for checkpoint, tokens in bounds.items():
        if tokens is None:
            _tell(console, f"{checkpoint}: tokens unknown: a task or a rung does not say")
        else:
            _tell(console, f"{checkpoint}: at most {tokens:,} tokens, read and generated")


def _tell(console: Console, line: str) -> None:
    console.print(line, soft_wrap=True, markup=False, highlight=False)
