"""Figures hold what they were given and are well-formed XML."""

from __future__ import annotations

import math
import xml.etree.ElementTree as ET

from hypothesis import given
from hypothesis import strategies as st

from holdback.report.drawing import choose_ticks, draw_bar, fit_scale, span_values
from holdback.report.figures import (
    LadderRow,
    draw_ladder,
    draw_outcomes,
    draw_overview,
    draw_recovery,
)
from holdback.statistics.estimate import Estimate

ends = st.floats(-1e6, 1e6) | st.sampled_from([-math.inf, math.inf])


@st.composite
def estimates(draw):
    low, value, high = sorted(draw(st.tuples(ends, ends, ends)))
    return Estimate(value=value, low=low, high=high, n=9, n_clusters=3, method="drawn")


@given(st.lists(st.none() | estimates(), min_size=1, max_size=6))
def test_any_estimates_make_a_well_formed_ladder(drawn):
    """Infinite and missing estimates neither break the figure nor leave its canvas."""
    rows = [
        LadderRow(name=f"rung {i} <&>", select=e, test=None, control=e, chosen=i == 0)
        for i, e in enumerate(drawn)
    ]

    figure = ET.fromstring(draw_ladder(rows, title="t", unit="Elo", digits=0, control="sham"))

    for element in figure.iter():
        for name in ("x", "x1", "x2", "cx"):
            assert -10 <= float(element.get(name, 0)) <= 410


def find_chance(figure):
    """Where the line of chance stands, and what the legend says of it."""
    root = ET.fromstring(figure)
    lines = [e for e in root.iter() if e.get("class") == "chance"]
    keys = [e.text for e in root.iter() if e.get("class") == "key" and "chance" in e.text]
    return [(float(e.get("x1")), float(e.get("x2"))) for e in lines], keys


def test_the_level_of_chance_is_drawn_where_a_task_has_one(result):
    """A dashed line with its value in the legend, inside the axis even where nothing is near it."""
    estimate = Estimate(value=80, low=70, high=90, n=9, n_clusters=9, method="drawn")
    rows = [LadderRow(name="a", select=estimate, test=estimate, control=None, chosen=True)]
    options = {"title": "t", "unit": "points", "digits": 0}
    findings = [f for f in result.findings if f.task == result.findings[0].task]

    ladder, plain = (draw_ladder(rows, control=None, chance=c, **options) for c in (25.0, None))
    overview = draw_overview(findings, chance=25.0, **options)

    for figure in (ladder, overview):
        # The key's own line, and the one in the figure, which stands upright and left of the bar.
        lines, keys = find_chance(figure)
        assert keys == ["chance 25"]
        ((left, right),) = [line for line in lines if line[0] == line[1]]
        assert 10 <= left == right <= 410
        assert "chance 25 points" in figure
    bar = draw_bar(
        estimate, fit_scale([estimate], start=10, end=396, include=[25]), 0, "circle s0", ""
    )
    assert find_chance(ladder)[0][-1][0] < min(
        float(e.get("x1")) for e in ET.fromstring(f"<g>{bar}</g>").iter("line")
    )
    assert find_chance(plain) == ([], [])


def test_an_undetermined_estimate_is_not_drawn():
    """A difference of two infinite ratings has no place on an axis."""
    nothing = Estimate(
        value=math.nan, low=-math.inf, high=math.inf, n=9, n_clusters=3, method="difference"
    )

    assert draw_bar(nothing, span_values([0, 1], start=0, end=1), 0, "circle s0", "tip") == ""


def test_an_open_end_is_an_arrow_not_a_mark():
    """All games lost: no dot claims a rating."""
    lost = Estimate(value=-math.inf, low=-math.inf, high=312, n=9, n_clusters=3, method="bound")
    figure = draw_bar(lost, fit_scale([lost], start=0, end=100), 0, "circle s0", "tip")

    assert "<circle" not in figure
    assert "<polyline" in figure


def test_recovery_shows_every_seed(result):
    """No seed is averaged away: each point's mark is in the figure, with its name."""
    curve = next(c for c in result.curves if c.checkpoint == "entertainer")
    figure = draw_recovery(curve, [], title="t", digits=0)

    for point in curve.points:
        assert f"{point.demonstrations} demonstrations, seed {point.seed}:" in figure


def test_outcome_shares_fill_the_bar():
    """Widths add up to the bar's, and an outcome of no known name is drawn too."""
    figure = ET.fromstring(draw_outcomes({"displayed": {"correct": 3, "odd": 1}}, title="t"))
    widths = [
        float(e.get("width")) for e in figure.iter() if e.tag == "rect" and e.get("height") == "20"
    ]

    assert sum(widths) == 380
    assert len(widths) == 2


@given(st.floats(-1e6, 1e6), st.floats(1e-3, 1e6))
def test_ticks_are_few_and_inside(low, width):
    """An axis has between one and eleven ticks, all on it."""
    ticks = choose_ticks(low, low + width, 5)

    assert 1 <= len(ticks) <= 11
    assert all(low - 1e-6 * width <= tick <= low + width * (1 + 1e-6) for tick in ticks)
