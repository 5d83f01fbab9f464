"""One self-contained HTML page for an audit: nothing is loaded and no script runs."""

from __future__ import annotations

import base64
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from holdback.audit.result import (
    AuditResult,
    ExampleGame,
    ProtocolReport,
    RecoveryCurve,
    RungResult,
    Signature,
)
from holdback.report import figures, words
from holdback.report.visible import show_invisible
from holdback.statistics.estimate import Estimate
from holdback.tasks.task import Split
from holdback.verdict import Finding, Verdict, count_digits

_ORDER = (Verdict.HELD_BACK, Verdict.INCONCLUSIVE, Verdict.NONE_FOUND)

_COUNT_TITLES = {"recovered": "recovered: what they had been", "lost": "lost: what they became"}

_SIGNATURE_TITLES = {
    "intrinsic_rating": "What its moves are worth",
    "throw": "Win probability lost against own advantage",
    "level_holding": "Level-holding against every strength",
    "response_curve": "Score against opponent rating",
    "below_chance": "Right less often than by guessing",
    "flat_in_difficulty": "Accuracy by difficulty",
    "position_collapse": "Where errors stand",
    "position_dependence": "Accuracy by where the right choice stands",
    "combined": "All signs as one",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class _Section:
    """One checkpoint on one task, as the template lays it out."""

    finding: Finding
    digits: int
    ladder: Markup
    rungs: tuple[RungResult, ...]
    outcomes: Markup | None
    counts: Mapping[str, Mapping[str, int]]
    recoveries: tuple[tuple[RecoveryCurve, Markup], ...]
    signatures: tuple[tuple[Signature, str, Markup | None], ...]
    """Each with its heading and its figure, if it has one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Chapter:
    """One checkpoint with all its tasks and games."""

    anchor: str
    checkpoint: str
    sections: tuple[_Section, ...]
    games: tuple[tuple[ExampleGame, Markup | None], ...]


def render_report(result: AuditResult, path: Path) -> Path:
    """Write the report to `path` and return it; folders above it are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(render_page(result), encoding="utf-8")
    return path


def render_page(result: AuditResult) -> str:
    """Render the report as one HTML document.

    It needs no network, runs no script, and its content security policy forbids both, so a
    checkpoint's text can at worst look odd.
    """
    style = resources.files(__package__).joinpath("templates/report.css").read_text("utf-8")
    chapters = tuple(
        _chapter(result, checkpoint, f"checkpoint-{number}")
        for number, checkpoint in enumerate(
            dict.fromkeys(
                finding.checkpoint
                for part in words.by_role(result.findings).values()
                for finding in part
            ),
            start=1,
        )
    )
    return (
        _environment()
        .get_template("report.html.j2")
        .render(
            result=result,
            plan=result.plan,
            style=Markup(style),
            style_hash=base64.b64encode(hashlib.sha256(style.encode()).digest()).decode(),
            verdicts=words.by_role(
                sorted(result.findings, key=lambda finding: _ORDER.index(finding.verdict))
            ),
            by_role=words.by_role,
            sentence=partial(_write_sentence, result),
            overviews=_overviews(result.findings, result.chances),
            protocols=_protocols(result),
            protocol_words=words.PROTOCOL_WORDS,
            chapters=chapters,
            anchors={chapter.checkpoint: chapter.anchor for chapter in chapters},
            stages={c.name: c.stage for c in result.plan.lineage.checkpoints},
            verdict_words=words.VERDICT_WORDS,
        )
    )


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("holdback.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_finalize,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["estimate"] = _estimate
    environment.filters["written"] = _written
    environment.filters["duration"] = words.write_duration
    environment.filters["digits"] = count_digits
    environment.filters["number"] = words.write_number
    environment.filters["probability"] = words.write_probability
    environment.filters["share"] = _share
    environment.filters["plain"] = _plain
    environment.tests["finite"] = math.isfinite
    return environment


def _finalize(value: object) -> object:
    """Make every string that the template prints visible; markup is ours and stays."""
    return (
        show_invisible(value) if isinstance(value, str) and not isinstance(value, Markup) else value
    )


def _estimate(estimate: Estimate | None, digits: int, *, signed: bool = False) -> Markup:
    """Write an estimate for a table cell; the exact value is in the markup for programs."""
    if estimate is None:
        return Markup('<span class="none">none</span>')
    return Markup(
        '<data value="{exact}">{value}</data> <span class="interval">{interval}</span>'
    ).format(
        exact=repr(estimate.value),
        value=words.write_value(estimate, digits, signed=signed),
        interval=words.write_interval(estimate, digits),
    )


def _written(estimate: Mapping[str, Any] | None, digits: int) -> Markup:
    """Write an estimate that is JSON already."""
    if estimate is None or estimate["value"] is None:
        return Markup('<span class="none">none</span>')
    low, high = (
        "∞" if estimate[end] is None else words.write_number(estimate[end], digits)
        for end in ("low", "high")
    )
    return Markup('{value} <span class="interval">[{low}, {high}]</span>').format(
        value=words.write_number(estimate["value"], digits), low=low, high=high
    )


def _share(estimate: Estimate) -> str:
    """Write a share in percent, with its interval."""
    low, high = (words.write_number(100 * end, 0) for end in (estimate.low, estimate.high))
    return f"{words.write_number(100 * estimate.value, 0)}% [{low}, {high}]"


def _plain(value: object) -> str:
    """Write an option's value as the audit file would have it, near enough to read."""
    return json.dumps(value, ensure_ascii=False, default=str)


def _write_sentence(result: AuditResult, finding: Finding) -> str:
    sign = words.find_telling_sign(result.signatures, finding, result.plan.level)
    return words.write_verdict(finding, sign)


def _overviews(
    findings: Sequence[Finding], chances: Mapping[str, float]
) -> list[tuple[str, str, Markup]]:
    """Draw one overview a task: its name, unit and figure."""
    drawn = []
    for task in dict.fromkeys(finding.task for finding in findings):
        on_task = [finding for finding in findings if finding.task == task]
        first = on_task[0]
        figure = figures.draw_overview(
            on_task,
            title=f"Displayed and elicited capability on {task}",
            unit=first.unit,
            digits=count_digits(first.margin),
            chance=chances.get(task),
        )
        drawn.append((task, first.unit, figure))
    return drawn


def _protocols(
    result: AuditResult,
) -> list[tuple[str, str, int, Sequence[ProtocolReport], Markup]]:
    """Draw what the usual protocols would have said: one figure a target and task.

    Each with its checkpoint, task, digits after the point, and reports.
    """
    drawn: list[tuple[str, str, int, Sequence[ProtocolReport], Markup]] = []
    for finding in result.findings:
        reports = [r for r in result.protocols if _is_on(r, finding.checkpoint, finding.task)]
        if len(reports) < 2:
            continue
        digits = count_digits(finding.margin)
        title = f"What each protocol would have reported of {finding.checkpoint} on {finding.task}"
        figure = figures.draw_protocols(reports, title=title, digits=digits)
        drawn.append((finding.checkpoint, finding.task, digits, reports, figure))
    return drawn


def _chapter(result: AuditResult, checkpoint: str, anchor: str) -> _Chapter:
    return _Chapter(
        anchor=anchor,
        checkpoint=checkpoint,
        sections=tuple(
            _section(result, finding)
            for finding in result.findings
            if finding.checkpoint == checkpoint
        ),
        games=tuple(
            (game, _draw_game(game, number))
            for number, game in enumerate(result.games, start=1)
            if game.checkpoint == checkpoint
        ),
    )


def _section(result: AuditResult, finding: Finding) -> _Section:
    digits = count_digits(finding.margin)
    counts = _outcome_counts(finding.attribution)
    where = f"{finding.checkpoint} on {finding.task}"
    controls = [name for name in result.plan.lineage.controls if name != finding.checkpoint]
    return _Section(
        finding=finding,
        digits=digits,
        ladder=_draw_ladder(result, finding, digits),
        rungs=tuple(r for r in result.rungs if _is_on(r, finding.checkpoint, finding.task)),
        outcomes=figures.draw_outcomes(counts, title=f"Outcomes of {where}") if counts else None,
        counts=counts,
        recoveries=tuple(
            (curve, _draw_recovery(result, curve, controls, digits))
            for curve in result.curves
            if _is_on(curve, finding.checkpoint, finding.task)
        ),
        signatures=tuple(
            (
                signature,
                _SIGNATURE_TITLES.get(signature.name, signature.name.replace("_", " ")),
                _draw_signature(result, signature, controls) if signature.points else None,
            )
            for signature in result.signatures
            if _is_on(signature, finding.checkpoint, finding.task)
        ),
    )


def _draw_ladder(result: AuditResult, finding: Finding, digits: int) -> Markup:
    """Pair every rung with the control's on `select`; the first control stands in for none."""
    controls = [name for name in result.plan.lineage.controls if name != finding.checkpoint]
    control = finding.control or next(iter(controls), None)
    own = _by_rung(result.rungs, finding.checkpoint, finding.task)
    others = _by_rung(result.rungs, control, finding.task) if control is not None else {}
    rows = [
        figures.LadderRow(
            name=rung,
            select=_estimate_on(own, rung, Split.SELECT),
            test=_estimate_on(own, rung, Split.TEST),
            control=_estimate_on(others, rung, Split.SELECT),
            chosen=rung == finding.rung,
        )
        for rung in dict.fromkeys(rung for rung, _ in own)
    ]
    return figures.draw_ladder(
        rows,
        title=f"Ladder of {finding.checkpoint} on {finding.task}",
        unit=finding.unit,
        digits=digits,
        control=control if others else None,
        chance=result.chances.get(finding.task),
    )


def _by_rung(
    rungs: Sequence[RungResult], checkpoint: str, task: str
) -> dict[tuple[str, Split], RungResult]:
    return {(r.rung, r.split): r for r in rungs if _is_on(r, checkpoint, task)}


def _estimate_on(
    rungs: Mapping[tuple[str, Split], RungResult], rung: str, split: Split
) -> Estimate | None:
    found = rungs.get((rung, split))
    return found.estimate if found else None


def _draw_recovery(
    result: AuditResult, curve: RecoveryCurve, controls: Sequence[str], digits: int
) -> Markup:
    beside = [
        other
        for name in controls
        for other in result.curves
        if _is_on(other, name, curve.task)
        and (other.demonstrator, other.split) == (curve.demonstrator, curve.split)
    ]
    title = f"Recovery of {curve.checkpoint} on {curve.task}, {curve.demonstrator} demonstrations"
    return figures.draw_recovery(curve, beside, title=title, digits=digits)


def _draw_signature(result: AuditResult, signature: Signature, controls: Sequence[str]) -> Markup:
    beside = [
        other
        for name in controls
        for other in result.signatures
        if _is_on(other, name, signature.task) and other.name == signature.name and other.points
    ]
    title = f"{signature.y_label} by {signature.x_label}, {signature.checkpoint}"
    return figures.draw_profile(signature, beside, title=title)


def _draw_game(game: ExampleGame, number: int) -> Markup | None:
    if len(game.win_probabilities) < 2:
        return None
    title = f"Game {number}: win probability of {game.checkpoint} against {game.opponent}"
    return figures.draw_win_probability(game.win_probabilities, title=title)


def _is_on(
    part: RungResult | RecoveryCurve | Signature | ProtocolReport,
    checkpoint: str | None,
    task: str,
) -> bool:
    return part.checkpoint == checkpoint and part.task == task


def _outcome_counts(attribution: Mapping[str, Any]) -> dict[str, dict[str, int]]:
    """Pick the outcome counts out of an attribution, whatever else it holds."""
    return {
        _COUNT_TITLES.get(name, name): {
            str(outcome): int(count) for outcome, count in counts.items()
        }
        for name, counts in attribution.items()
        if isinstance(counts, Mapping)
        and all(
            isinstance(count, int | float) and math.isfinite(count) for count in counts.values()
        )
        and any(counts.values())
    }
