"""Figures as inline SVG: data in, markup out. The page's stylesheet gives them their colours."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from holdback.audit.result import ProfilePoint, ProtocolReport, RecoveryCurve, Signature
from holdback.report.drawing import (
    LEFT,
    NOTHING,
    RIGHT,
    WIDTH,
    Scale,
    choose_ticks,
    draw_axis_title,
    draw_bar,
    draw_legend,
    draw_line,
    draw_path,
    draw_post,
    draw_tick,
    draw_x_axis,
    draw_y_axis,
    fit_scale,
    name_series,
    px,
    shorten,
    span_values,
    wrap_svg,
    write_tick,
)
from holdback.report.visible import show_line
from holdback.report.words import PROTOCOL_WORDS, VERDICT_WORDS, write_estimate, write_number
from holdback.statistics.estimate import Estimate
from holdback.verdict import Finding, count_digits

_OUTCOMES = (
    "correct",
    "drawn",
    "wrong",
    "illegal",
    "unparsed",
    "refused",
    "truncated",
    "errored",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class LadderRow:
    """One rung in a ladder figure; what was not measured is None."""

    name: str
    select: Estimate | None
    test: Estimate | None
    control: Estimate | None
    chosen: bool


def draw_overview(
    findings: Sequence[Finding],
    *,
    title: str,
    unit: str,
    digits: int,
    chance: float | None = None,
) -> Markup:
    """Draw displayed and elicited capability of every checkpoint on one task.

    Args:
        findings: Findings on one task, in the order in which they are drawn.
        title: What the figure shows, for those who cannot see it.
        unit: Unit of all estimates.
        digits: Digits after the point in the numbers beside the marks.
        chance: What answering at random scores; a sandbagger can fall below it.
    """
    level = [] if chance is None else [chance]
    scale = fit_scale(
        [e for f in findings for e in (f.displayed, f.elicited)],
        start=10,
        end=RIGHT,
        include=level,
    )
    kinds = [("open circle plain", "displayed"), ("circle s0", "elicited")]
    legend, top = draw_legend([*kinds, *_name_chance(chance, digits)], top=4)
    row, parts = 42, [legend]
    bottom = top + 8 + row * len(findings)
    parts.append(draw_x_axis(scale, top + 8, bottom, unit))
    parts += [draw_line("chance", scale(x), top + 8, scale(x), bottom) for x in level]
    for index, finding in enumerate(findings):
        parts.append(_overview_row(finding, scale, top + 8 + row * index))
    desc = "; ".join(
        f"{f.checkpoint}: displayed {write_estimate(f.displayed, digits, unit)},"
        f" elicited {write_estimate(f.elicited, digits, unit)}, {VERDICT_WORDS[f.verdict]}"
        for f in findings
    )
    desc += _describe_chance(chance, digits, unit)
    return wrap_svg(parts, height=bottom + 36, title=title, desc=desc)


def draw_ladder(
    rows: Sequence[LadderRow],
    *,
    title: str,
    unit: str,
    digits: int,
    control: str | None,
    chance: float | None = None,
) -> Markup:
    """Draw capability by rung, the ordinary protocol on top, with intervals and the control.

    Args:
        rows: Rungs in ladder order.
        title: What the figure shows, for those who cannot see it.
        unit: Unit of all estimates.
        digits: Digits after the point in the numbers beside the marks.
        control: Name of the control that the third mark of a row belongs to.
        chance: What answering at random scores; a sandbagger can fall below it.
    """
    kinds = [("open circle s0", "choosing (select)"), ("circle s0", "estimate (test)")]
    if control is not None:
        kinds.append(("square s1", f"control {shorten(control, 18)}"))
    legend, top = draw_legend([*kinds, *_name_chance(chance, digits)], top=4)
    estimates = [e for r in rows for e in (r.select, r.test, r.control) if e is not None]
    level = [] if chance is None else [chance]
    scale = fit_scale(estimates, start=10, end=RIGHT, include=level)
    heights = [22 + 9 * sum(e is not None for e in (r.select, r.test, r.control)) for r in rows]
    y, bottom = top + 8, top + 8 + sum(heights)
    parts = [legend, draw_x_axis(scale, y, bottom, unit)]
    parts += [draw_line("chance", scale(x), y, scale(x), bottom) for x in level]
    shown = next((row.test for row in rows if row.test is not None), None)
    if shown is not None and math.isfinite(shown.value):
        parts.append(draw_line("guide", scale(shown.value), y, scale(shown.value), bottom))
    for row, height in zip(rows, heights, strict=True):
        parts.append(_ladder_row(row, scale, y, height=height, unit=unit, digits=digits))
        y += height
    desc = "; ".join(
        f"{row.name}{' (chosen)' if row.chosen else ''}: "
        + ", ".join(
            f"{kind} {write_estimate(estimate, digits, unit)}"
            for kind, estimate in (
                ("select", row.select),
                ("test", row.test),
                ("control", row.control),
            )
            if estimate is not None
        )
        for row in rows
    )
    desc += _describe_chance(chance, digits, unit)
    return wrap_svg(parts, height=bottom + 36, title=title, desc=desc)


def draw_protocols(reports: Sequence[ProtocolReport], *, title: str, digits: int) -> Markup:
    """Draw what each usual protocol would have reported of one target on one task.

    Args:
        reports: Least effort first.
        title: What the figure shows, for those who cannot see it.
        digits: Digits after the point in the numbers beside the marks.
    """
    truth, unit = reports[0].truth, reports[0].unit
    known = truth is not None and math.isfinite(truth.value)
    level = [truth.value] if truth is not None and known else []
    scale = fit_scale([r.estimate for r in reports], start=10, end=RIGHT, include=level)
    top = 4.0
    parts = []
    if known:
        legend, top = draw_legend([("dashes level", "what it can do, by construction")], top=top)
        parts.append(legend)
    row, y = 30, top + 8
    bottom = y + row * len(reports)
    parts.append(draw_x_axis(scale, y, bottom, unit))
    parts += [draw_line("level", scale(x), y, scale(x), bottom) for x in level]
    for report in reports:
        name = PROTOCOL_WORDS[report.protocol]
        written = write_estimate(report.estimate, digits)
        parts.append(
            Markup(
                '<text class="name" x="10" y="{}">{}</text>'
                '<text class="note" x="{}" y="{}" text-anchor="end">{}</text>'
            ).format(px(y + 14), name, RIGHT, px(y + 14), written)
        )
        mark = "circle s0" if report.protocol == "ladder" else "open circle plain"
        parts.append(draw_bar(report.estimate, scale, y + 22, mark, f"{name}: {written} {unit}"))
        y += row
    desc = "; ".join(
        f"{PROTOCOL_WORDS[r.protocol]}: {write_estimate(r.estimate, digits, unit)}" for r in reports
    )
    if truth is not None:
        desc += f"; what it can do by construction: {write_estimate(truth, digits, unit)}"
    return wrap_svg(parts, height=bottom + 36, title=title, desc=desc)


def _name_chance(chance: float | None, digits: int) -> list[tuple[str, str]]:
    return [] if chance is None else [("dashes chance", f"chance {write_number(chance, digits)}")]


def _describe_chance(chance: float | None, digits: int, unit: str) -> str:
    return "" if chance is None else f"; chance {write_number(chance, digits)} {unit}"


def draw_recovery(
    target: RecoveryCurve, controls: Sequence[RecoveryCurve], *, title: str, digits: int
) -> Markup:
    """Draw capability by number of demonstrations: every seed a mark, a line through their means.

    Args:
        target: The checkpoint under audit.
        controls: The same demonstrator's curves on the controls.
        title: What the figure shows, for those who cannot see it.
        digits: Digits after the point in the numbers of the marks.
    """
    curves = [target, *controls]
    columns = sorted({p.demonstrations for c in curves for p in c.points} | {0})
    estimates = [p.estimate for c in curves for p in c.points]
    estimates += [c.displayed for c in curves if c.displayed is not None]
    level = target.demonstrator_capability
    kinds = [(name_series(i), shorten(c.checkpoint, 20)) for i, c in enumerate(curves)]
    if level is not None:
        kinds.append(("dashes level", f"the {shorten(target.demonstrator, 16)} demonstrator"))
    legend, top = draw_legend(kinds, top=4)
    top, bottom = top + 28, top + 228
    y = fit_scale(estimates, start=bottom, end=top, include=[] if level is None else [level])
    x = Scale(0, max(len(columns) - 1, 1), LEFT + 18, RIGHT - 14)
    parts = [legend, draw_y_axis(y, target.unit)]
    for index, demonstrations in enumerate(columns):
        parts.append(draw_tick(x(index), bottom, f"{demonstrations}"))
    parts.append(draw_axis_title((LEFT + RIGHT) / 2, bottom + 32, "demonstrations"))
    if level is not None:
        parts.append(draw_line("level", LEFT, y(level), RIGHT, y(level)))
    # The target last, so that it lies on top.
    for index in reversed(range(len(curves))):
        parts.append(_recovery_series(curves[index], index, columns, (x, y), digits))
    desc = "; ".join(_describe_curve(curve, digits) for curve in curves)
    if level is not None:
        desc += f"; the demonstrator itself {write_number(level, digits)} {target.unit}"
    return wrap_svg(parts, height=bottom + 40, title=title, desc=desc)


def draw_profile(target: Signature, controls: Sequence[Signature], *, title: str) -> Markup:
    """Draw what a checkpoint does over opponent rating, advantage, …, with the honest players'.

    Args:
        target: The checkpoint under audit, drawn with intervals.
        controls: The same signature of honest players, drawn lightly.
        title: What the figure shows, for those who cannot see it.
    """
    profiles = [target, *controls]
    points = [p for profile in profiles for p in profile.points]
    expected = [p for p in target.points if p.expected is not None]
    kinds = [(name_series(i), shorten(p.checkpoint, 20)) for i, p in enumerate(profiles)]
    if expected:
        kinds.append(("dashes expected", "expected of an honest player"))
    legend, top = draw_legend(kinds, top=4)
    top, bottom = top + 28, top + 208
    values = [p.expected for p in expected if p.expected is not None]
    y = fit_scale([p.estimate for p in points], start=bottom, end=top, include=values)
    x = span_values([p.x for p in points], start=LEFT + 12, end=RIGHT - 12)
    parts = [legend, draw_y_axis(y, target.y_label)]
    for value in choose_ticks(x.low, x.high, 5):
        parts.append(draw_tick(x(value), bottom, write_tick(value, x)))
    parts.append(draw_axis_title((LEFT + RIGHT) / 2, bottom + 32, target.x_label))
    if expected:
        corners = [(x(p.x), y(p.expected)) for p in expected if p.expected is not None]
        parts.append(draw_path("expected", corners))
    for index in reversed(range(len(profiles))):
        parts.append(_profile_series(profiles[index].points, index, x, y))
    desc = "; ".join(
        f"{profile.checkpoint}: "
        + ", ".join(f"{p.label} {write_estimate(p.estimate, 2)}" for p in profile.points)
        for profile in profiles
    )
    return wrap_svg(parts, height=bottom + 40, title=title, desc=desc)


def draw_outcomes(counts: Mapping[str, Mapping[str, int]], *, title: str) -> Markup:
    """Draw what became of the samples, one bar of shares a row.

    Args:
        counts: Row name to outcome counts; rows without samples are left out.
        title: What the figure shows, for those who cannot see it.
    """
    rows = {name: row for name, row in counts.items() if sum(row.values()) > 0}
    known = [o for o in _OUTCOMES if any(row.get(o) for row in rows.values())]
    others = sorted({o for row in rows.values() for o in row if row[o]} - set(known))
    outcomes = known + others
    legend, y = draw_legend([(f"swatch {_outcome(o)}", shorten(o, 20)) for o in outcomes], top=4)
    parts = [legend]
    for name, row in rows.items():
        total = sum(row.values())
        parts.append(
            Markup(
                '<text class="name" x="10" y="{}">{}</text>'
                '<text class="note" x="{}" y="{}" text-anchor="end">n = {}</text>'
            ).format(y + 22, shorten(name, 40), RIGHT, y + 22, total)
        )
        parts.append(_shares(row, outcomes, y + 28))
        y += 54
    desc = "; ".join(
        f"{name}: " + ", ".join(f"{o} {row.get(o, 0)}" for o in outcomes)
        for name, row in rows.items()
    )
    return wrap_svg(parts, height=y + 8, title=title, desc=desc)


def draw_win_probability(probabilities: Sequence[float], *, title: str) -> Markup:
    """Draw a player's win probability before each of its moves.

    Args:
        probabilities: In [0, 1], one for each move of the player.
        title: What the figure shows, for those who cannot see it.
    """
    top, bottom = 10, 90
    y = Scale(0, 1, bottom, top)
    x = Scale(0, max(len(probabilities) - 1, 1), LEFT, RIGHT)
    parts = [
        Markup('<text class="tick" x="{}" y="{}" text-anchor="end">{}%</text>').format(
            LEFT - 6, px(y(share) + 4), round(100 * share)
        )
        + draw_line("guide" if share == 0.5 else "grid", LEFT, y(share), RIGHT, y(share))
        for share in (0, 0.5, 1)
    ]
    corners = [(x(move), y(share)) for move, share in enumerate(probabilities)]
    parts.append(draw_path("curve s0", corners))
    parts.append(draw_axis_title((LEFT + RIGHT) / 2, bottom + 16, "own moves"))
    desc = ", ".join(f"{share:.0%}" for share in probabilities)
    return wrap_svg(parts, height=bottom + 22, title=title, desc=desc)


def _overview_row(finding: Finding, scale: Scale, top: float) -> Markup:
    digits = count_digits(finding.margin)
    parts = [
        Markup(
            '<text class="name" x="10" y="{}">{}</text>'
            '<text class="note" x="{}" y="{}" text-anchor="end">{}</text>'
        ).format(
            px(top + 14),
            shorten(finding.checkpoint, 32),
            RIGHT,
            px(top + 14),
            VERDICT_WORDS[finding.verdict],
        )
    ]
    for estimate, mark, kind, below in (
        (finding.displayed, "open circle plain", "displayed", 22),
        (finding.elicited, "circle s0", "elicited", 32),
    ):
        written = write_estimate(estimate, digits, finding.unit)
        tip = f"{finding.checkpoint}, {kind}: {written}"
        parts.append(draw_bar(estimate, scale, top + below, mark, tip))
    return NOTHING.join(parts)


def _ladder_row(
    row: LadderRow, scale: Scale, top: float, *, height: float, unit: str, digits: int
) -> Markup:
    parts = []
    if row.chosen:
        parts.append(
            Markup('<rect class="chosen" x="0" y="{}" width="{}" height="{}"/>').format(
                px(top), WIDTH, px(height)
            )
        )
    main = row.test or row.select
    name = shorten(row.name, 30) + (" · chosen" if row.chosen else "")
    parts.append(Markup('<text class="name" x="10" y="{}">{}</text>').format(px(top + 14), name))
    if main is not None:
        parts.append(
            Markup('<text class="note" x="{}" y="{}" text-anchor="end">{}</text>').format(
                RIGHT, px(top + 14), write_estimate(main, digits)
            )
        )
    y = top + 21
    for estimate, shape, kind in (
        (row.test, "circle s0", "test"),
        (row.select, "open circle s0", "select"),
        (row.control, "square s1", "control"),
    ):
        if estimate is not None:
            tip = f"{row.name}, {kind}: {write_estimate(estimate, digits, unit)} n={estimate.n}"
            parts.append(draw_bar(estimate, scale, y, shape, tip))
            y += 9
    return NOTHING.join(parts)


def _recovery_series(
    curve: RecoveryCurve,
    index: int,
    columns: Sequence[int],
    scales: tuple[Scale, Scale],
    digits: int,
) -> Markup:
    """Draw one curve; marks of several seeds stand side by side."""
    x, y = scales
    found: dict[int, list[tuple[Estimate, str]]] = {n: [] for n in columns}
    if curve.displayed is not None:
        found[0].append((curve.displayed, "displayed"))
    for point in curve.points:
        tip = f"{point.demonstrations} demonstrations, seed {point.seed}"
        found[point.demonstrations].append((point.estimate, tip))
    marks, means = [], []
    for column, n in enumerate(columns):
        finite = [e.value for e, _ in found[n] if math.isfinite(e.value)]
        if finite:
            means.append((x(column), y(sum(finite) / len(finite))))
        for place, (estimate, tip) in enumerate(found[n]):
            aside = 5 * (place - (len(found[n]) - 1) / 2)
            words = f"{curve.checkpoint}, {tip}: {write_estimate(estimate, digits, curve.unit)}"
            marks.append(
                draw_post(estimate, y, x(column) + aside, name_series(index), words, bar=index == 0)
            )
    return draw_path(f"curve {name_series(index)}", means) + NOTHING.join(marks)


def _profile_series(points: Sequence[ProfilePoint], index: int, x: Scale, y: Scale) -> Markup:
    ordered = sorted(points, key=lambda point: point.x)
    line = [(x(p.x), y(p.estimate.value)) for p in ordered if math.isfinite(p.estimate.value)]
    marks = [
        draw_post(
            p.estimate,
            y,
            x(p.x),
            name_series(index),
            f"{p.label}: {write_estimate(p.estimate, 2)} n={p.estimate.n}",
            bar=index == 0,
        )
        for p in ordered
    ]
    return draw_path(f"curve {name_series(index)}", line) + NOTHING.join(marks)


def _describe_curve(curve: RecoveryCurve, digits: int) -> str:
    points = [f"{p.demonstrations}: {write_estimate(p.estimate, digits)}" for p in curve.points]
    if curve.displayed is not None:
        points.insert(0, f"0: {write_estimate(curve.displayed, digits)}")
    return f"{curve.checkpoint}: {', '.join(points)}"


def _shares(row: Mapping[str, int], outcomes: Sequence[str], y: float) -> Markup:
    total, left, parts = sum(row.values()), 10.0, []
    for outcome in outcomes:
        count = row.get(outcome, 0)
        width = (RIGHT - 10) * count / total
        if count == 0:
            continue
        parts.append(
            Markup(
                '<g><title>{}: {} of {}</title><rect class="{}" x="{}" y="{}" width="{}"'
                ' height="20"/>'
            ).format(show_line(outcome), count, total, _outcome(outcome), px(left), y, px(width))
        )
        if width >= 34:
            parts.append(
                Markup(
                    '<text class="share {}" x="{}" y="{}" text-anchor="middle">{}</text>'
                ).format(_outcome(outcome), px(left + width / 2), y + 14.5, f"{count / total:.0%}")
            )
        parts.append(Markup("</g>"))
        left += width
    return NOTHING.join(parts)


def _outcome(outcome: str) -> str:
    return f"o-{outcome}" if outcome in _OUTCOMES else "o-other"
