"""`holdback audit`, `plan` and `report`."""

from __future__ import annotations

import json
import shlex
import sys
from dataclasses import replace
from enum import StrEnum
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from holdback.cli.app import FAILED, main
from holdback.errors import UnknownNameError

if TYPE_CHECKING:
    from rich.console import Console

    from holdback.audit import AuditResult
    from holdback.plan import AuditPlan
    from holdback.runs.planning import Forecast


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
) -> None:
    """Run every checkpoint, task and rung that AUDIT names, and say what is held back."""
    plan = _load(name, quick=quick, access=access)
    from rich.console import Console

    from holdback.audit import prepare, run_audit
    from holdback.runs.execution import make_executor
    from holdback.runs.progress import RunProgress
    from holdback.runs.store import RunStore

    prepared = prepare(plan)
    records = store or _default_store(plan)
    aside = Console(stderr=True)
    with RunStore(records) as opened:
        opened.verify()
        with (
            make_executor(workers or plan.budget.workers) as executor,
            RunProgress(aside, f"audit {plan.name}") as progress,
        ):
            result = run_audit(
                prepared,
                store=opened,
                executor=executor,
                observer=progress,
                command=shlex.join(["holdback", *sys.argv[1:]]),
            )
    # The report of a whole audit is not to be replaced by a quick look at a part of it.
    page = records.with_name(f"{records.stem}-quick.html" if quick else f"{records.stem}.html")
    _present(result, out or page, aside, as_json=as_json)
    if result.failed:
        first = result.failed[0]
        words = f"{len(result.failed)} runs failed, first {first.label}: {first.reason}"
        typer.echo(f"holdback: {words}; the same command tries them again", err=True)
        raise typer.Exit(FAILED)


@main.command("plan")
def show_plan(name: AuditName, quick: Quick = False, access: Limit = None) -> None:
    """Say what an audit would run, how long it takes and what it could see; run nothing."""
    plan = _load(name, quick=quick, access=access)
    from rich.console import Console

    from holdback.audit import prepare
    from holdback.runs.planning import forecast

    _print_forecast(plan, forecast(plan, prepare(plan).ladder), Console())


@main.command()
def report(
    source: Annotated[
        str, typer.Argument(metavar="STORE", help="A store of run records, or an audit's name.")
    ],
    out: Report = None,
    as_json: AsJson = False,
) -> None:
    """Make the report of an audit again, from its stored records alone."""
    from rich.console import Console

    from holdback.audit import read_result
    from holdback.runs.store import RunStore

    records = Path(source)
    if not records.is_file() or records.suffix == ".toml":
        records = _default_store(_load(source)) if _is_audit(source) else records
    with RunStore(records, create=False) as opened:
        opened.verify()
        result = read_result(opened)
    _present(result, out or records.with_suffix(".html"), Console(stderr=True), as_json=as_json)


def _shipped() -> dict[str, Any]:
    folder = resources.files("holdback") / "audits"
    return {
        file.name.removesuffix(".toml"): file
        for file in folder.iterdir()
        if file.name.endswith(".toml")
    }


def _is_audit(name: str) -> bool:
    return name in _shipped() or name.endswith(".toml")


def _load(name: str, *, quick: bool = False, access: Access | None = None) -> AuditPlan:
    from holdback.plan import load_plan, parse_plan

    shipped = _shipped()
    if Path(name).is_file() or name.endswith(".toml"):
        plan = load_plan(Path(name))
    elif name in shipped:
        text = shipped[name].read_text(encoding="utf-8")
        plan = parse_plan(text, source=f"audit {name!r}", folder=Path.cwd())
    else:
        raise UnknownNameError.among("audit file or shipped audit", name, shipped)
    if quick:
        plan = plan.quickened()
    return plan if access is None else replace(plan, access=access.value)


def _default_store(plan: AuditPlan) -> Path:
    return Path("runs") / f"{plan.name}.sqlite"


def _present(result: AuditResult, path: Path, aside: Console, *, as_json: bool) -> None:
    """Print findings and write the report; with `as_json` stdout has one object and no more."""
    from holdback.report.page import render_report
    from holdback.report.terminal import print_findings

    render_report(result, path)
    if as_json:
        findings = [finding.to_dict() for finding in result.findings]
        typer.echo(json.dumps({"findings": findings}, allow_nan=False))
        aside.print(f"Report: {path}", soft_wrap=True, markup=False, highlight=False)
    else:
        print_findings(result.findings, report=path)


def _print_forecast(plan: AuditPlan, expected: Forecast, console: Console) -> None:
    from rich import box
    from rich.table import Table

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
            f"{row.minutes:.1f}",
        )
    console.print(table)
    workers = plan.budget.workers
    lines = [
        f"{expected.runs} runs, {expected.samples} samples, about {expected.minutes:.0f} min on"
        f" {workers} worker{'s' if workers > 1 else ''}, counted with the costliest rung on test"
    ]
    if plan.budget.minutes is not None and expected.minutes > plan.budget.minutes:
        lines.append(
            f"more than the budget of {plan.budget.minutes:g} min: ask for fewer samples or rungs,"
            " as --quick does"
        )
    for task, gap in expected.detectable.items():
        margin = plan.tasks[task].margin
        if gap is None:
            lines.append(f"{task}: no spread is given, so no smallest detectable gap")
        else:
            lines.append(f"{task}: smallest detectable gap {gap:.3g} (margin {margin:g})")
    for line in lines:
        console.print(line, soft_wrap=True, markup=False, highlight=False)
