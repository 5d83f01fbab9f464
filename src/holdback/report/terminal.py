"""Findings as a table that fits a terminal of 80 or of 100 columns."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from holdback.audit.result import Signature
from holdback.report.visible import show_line
from holdback.report.words import (
    VERDICT_WORDS,
    by_role,
    find_telling_sign,
    write_interval,
    write_reasons,
    write_sign,
    write_value,
)
from holdback.statistics.estimate import Estimate
from holdback.verdict import Finding, Role, Verdict, count_digits

_WIDTH = 100
_NUMBERS = ("displayed", "elicited", "gap", "difference")

_STYLES = {
    Verdict.HELD_BACK: "bold red",
    Verdict.NONE_FOUND: "green",
    Verdict.INCONCLUSIVE: "yellow",
}


def print_findings(
    findings: Sequence[Finding],
    *,
    signs: Sequence[Signature] = (),
    level: float = 0.95,
    remarks: Sequence[str] = (),
    report: Path | None = None,
    console: Console | None = None,
) -> None:
    """Print findings as a table, why targets stay undecided, and where the report lies.

    Args:
        findings: In the order of the rows.
        signs: What checkpoints' displayed behaviour shows; those that hold are said.
        level: At which they are to hold.
        remarks: What else limits them, such as checkpoints that could not climb.
        report: The page that was written, if one was.
        console: Where to print; standard output by default.
    """
    console = console or Console()
    width = min(console.width, _WIDTH)
    for task in dict.fromkeys(finding.task for finding in findings):
        console.print(_table([f for f in findings if f.task == task], width), width=width)
    for finding in findings:
        if finding.role is not Role.TARGET:
            continue
        if finding.verdict is Verdict.INCONCLUSIVE and finding.reasons:
            console.print(_explain(finding), width=width)
        sign = find_telling_sign(signs, finding, level)
        if sign is not None:
            console.print(_point_out(finding, sign), width=width)
    for remark in remarks:
        console.print(Text(show_line(f"Note: {remark}.")), width=width)
    if report is not None:
        # Soft-wrapped, so that a long path can still be selected in one piece.
        console.print(Text(f"Report: {show_line(str(report))}"), soft_wrap=True)


def _table(findings: Sequence[Finding], width: int) -> Table:
    """Lay out the findings on one task: value above, interval below.

    The control's gap is the gap less the difference and has no column; the control's name stands
    below the difference. Where that is too wide the verdict stands below the checkpoint's name.
    """
    first = findings[0]
    wide = width >= _WIDTH
    table = Table(
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        title=Text(f"{show_line(first.task)}, in {show_line(first.unit)}", style="bold"),
        title_justify="left",
        title_style="",
    )
    table.add_column("checkpoint", overflow="fold", max_width=24)
    for name in _NUMBERS:
        table.add_column(name, justify="right", overflow="fold", max_width=15)
    if wide:
        table.add_column("verdict and rung", overflow="fold")
    parts = by_role(findings)
    for role, part in parts.items():
        table.add_section()
        if len(parts) > 1:
            table.add_row(Text(role, style="dim italic"))
        for finding in part:
            table.add_row(*_write_row(finding, wide=wide))
    return table


def _write_row(finding: Finding, *, wide: bool) -> list[Text]:
    digits = count_digits(finding.margin)
    checkpoint = Text(show_line(finding.checkpoint))
    verdict = Text(VERDICT_WORDS[finding.verdict], style=_STYLES[finding.verdict])
    if finding.group is not None:
        verdict += Text(f" on {show_line(finding.group)}")
    verdict += Text(f"\n{show_line(finding.rung)}", style="dim")
    difference = _cell(finding.difference_of_gaps, digits, signed=True)
    if finding.control is not None:
        difference += Text(f"\nto {show_line(finding.control)}", style="dim")
    return [
        checkpoint if wide else checkpoint + Text("\n") + verdict,
        _cell(finding.displayed, digits),
        _cell(finding.elicited, digits),
        _cell(finding.gap, digits, signed=True),
        difference,
        *([verdict] if wide else []),
    ]


def _cell(estimate: Estimate | None, digits: int, *, signed: bool = False) -> Text:
    if estimate is None:
        return Text("none", style="dim")
    value = Text(write_value(estimate, digits, signed=signed))
    return value + Text(f"\n{write_interval(estimate, digits)}", style="dim")


def _point_out(finding: Finding, sign: Signature) -> Text:
    where = f"{finding.checkpoint} on {finding.task}"
    proved = finding.verdict is Verdict.HELD_BACK
    so = "its behaviour alone says so too" if proved else "its behaviour gives it away"
    return Text(show_line(f"{where}: {so}: {write_sign(sign)}."))


def _explain(finding: Finding) -> Text:
    where = f"{finding.checkpoint} on {finding.task}"
    return Text(show_line(f"{where}: inconclusive: {write_reasons(finding)}."))
