"""What figures are drawn with: scales, marks, axes and legends in SVG.

The canvas is 400 units wide, so that text keeps its size from a telephone to a printed page.
Colours come from classes that the page's stylesheet fills (light, dark, print; the palette of Okabe
and Ito); shapes and dashes say the same again without colour. Nothing is clamped: an open end of an
interval is an arrow. Whatever is formatted into `Markup` is escaped by it.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from holdback.report.visible import show_line
from holdback.report.words import write_number
from holdback.statistics.estimate import Estimate

WIDTH = 400
LEFT, RIGHT = 46, 390
"""Edges of the plotting area where a y axis stands at its left."""
NOTHING = Markup()

_SHAPES = ("circle", "square", "diamond", "triangle", "cross")


@dataclass(frozen=True, slots=True)
class Scale:
    """A linear scale from values to canvas units; infinities land on its ends."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        """Give the canvas coordinate of a value."""
        share = (min(max(value, self.low), self.high) - self.low) / (self.high - self.low)
        return self.start + share * (self.end - self.start)


def name_series(index: int) -> str:
    """Class names of a series' marks: 0 is the checkpoint under audit, the others its controls.

    More series than there are shapes share the last one.
    """
    index = min(index, len(_SHAPES) - 1)
    return f"{_SHAPES[index]} s{index}"


def draw_bar(estimate: Estimate, scale: Scale, y: float, mark: str, tip: str) -> Markup:
    """Draw an interval along x, its value as a mark, open ends as arrows; else nothing."""
    if not estimate.determined:
        return NOTHING
    low, high = scale(estimate.low), scale(estimate.high)
    parts = [draw_line(f"bar {mark}", low, y, high, y)]
    if math.isinf(estimate.low):
        parts.append(_draw_arrow(mark, low, y, -1, 0))
    if math.isinf(estimate.high):
        parts.append(_draw_arrow(mark, high, y, 1, 0))
    if math.isfinite(estimate.value):
        parts.append(draw_mark(mark, scale(estimate.value), y))
    else:
        bound = high if estimate.value < 0 else low
        parts.append(draw_line(f"bar {mark}", bound, y - 4, bound, y + 4))
    return Markup("<g><title>{}</title>{}</g>").format(show_line(tip), NOTHING.join(parts))


def draw_post(
    estimate: Estimate, scale: Scale, x: float, mark: str, tip: str, *, bar: bool
) -> Markup:
    """Draw an interval along y, its value as a mark, open ends as arrows; else nothing."""
    if not estimate.determined:
        return NOTHING
    low, high = scale(estimate.low), scale(estimate.high)
    parts = []
    if bar or not math.isfinite(estimate.value):
        parts.append(draw_line(f"bar {mark}", x, low, x, high))
        if math.isinf(estimate.low):
            parts.append(_draw_arrow(mark, x, low, 0, 1))
        if math.isinf(estimate.high):
            parts.append(_draw_arrow(mark, x, high, 0, -1))
    if math.isfinite(estimate.value):
        parts.append(draw_mark(mark, x, scale(estimate.value)))
    else:
        bound = high if estimate.value < 0 else low
        parts.append(draw_line(f"bar {mark}", x - 4, bound, x + 4, bound))
    return Markup("<g><title>{}</title>{}</g>").format(show_line(tip), NOTHING.join(parts))


def draw_mark(mark: str, x: float, y: float) -> Markup:
    """Draw the shape that `mark` names, about 8 units across."""
    if "circle" in mark:
        return Markup('<circle class="mark {}" cx="{}" cy="{}" r="4"/>').format(mark, px(x), px(y))
    corners: dict[str, list[tuple[float, float]]] = {
        "square": [(-3.5, -3.5), (3.5, -3.5), (3.5, 3.5), (-3.5, 3.5)],
        "diamond": [(0, -5), (5, 0), (0, 5), (-5, 0)],
        "triangle": [(0, -4.5), (4.5, 3.5), (-4.5, 3.5)],
        "cross": [(-4, -4), (4, 4), (0, 0), (-4, 4), (4, -4), (0, 0)],
    }
    shape = next(name for name in corners if name in mark)
    path = " ".join(f"{px(x + dx)},{px(y + dy)}" for dx, dy in corners[shape])
    return Markup('<polygon class="mark {}" points="{}"/>').format(mark, path)


def _draw_arrow(mark: str, x: float, y: float, dx: int, dy: int) -> Markup:
    """Draw the head of an arrow whose tip lies at (x, y), pointing along (dx, dy)."""
    back = [(x - 6 * dx + side * 4 * dy, y - 6 * dy + side * 4 * dx) for side in (-1, 1)]
    path = " ".join(f"{px(a)},{px(b)}" for a, b in [back[0], (x, y), back[1]])
    return Markup('<polyline class="bar {}" points="{}"/>').format(mark, path)


def draw_legend(kinds: Sequence[tuple[str, str]], *, top: float) -> tuple[Markup, float]:
    """Draw a legend that wraps at the canvas's edge; return it with the y below it."""
    x, y, parts = 10.0, top + 8, []
    for mark, label in kinds:
        width = 26 + 6.3 * len(label)
        if x > 10 and x + width > WIDTH:
            x, y = 10.0, y + 18
        if mark.startswith("dashes "):
            parts.append(draw_line(mark.removeprefix("dashes "), x - 2, y, x + 14, y))
        elif mark.startswith("swatch "):
            parts.append(
                Markup('<rect class="{}" x="{}" y="{}" width="11" height="11"/>').format(
                    mark.removeprefix("swatch "), px(x), px(y - 5.5)
                )
            )
        else:
            parts.append(draw_line(f"bar {mark}", x - 2, y, x + 14, y) + draw_mark(mark, x + 6, y))
        parts.append(
            Markup('<text class="key" x="{}" y="{}">{}</text>').format(px(x + 19), y + 4, label)
        )
        x += width + 10
    return NOTHING.join(parts), y + 8


def draw_x_axis(scale: Scale, top: float, bottom: float, unit: str) -> Markup:
    """Draw grid lines, ticks and, below them, the unit."""
    parts = []
    for value in choose_ticks(scale.low, scale.high, 5):
        x = scale(value)
        parts.append(
            draw_line("grid", x, top, x, bottom) + draw_tick(x, bottom, write_tick(value, scale))
        )
    parts.append(draw_axis_title((scale.start + scale.end) / 2, bottom + 30, unit))
    return NOTHING.join(parts)


def draw_y_axis(scale: Scale, label: str) -> Markup:
    """Draw grid, ticks and, above them, what the axis counts."""
    parts = [
        Markup('<text class="title" x="2" y="{}">{}</text>').format(
            px(scale.end - 10), shorten(label, 60)
        )
    ]
    for value in choose_ticks(scale.low, scale.high, 5):
        y = scale(value)
        parts.append(
            draw_line("grid", LEFT, y, RIGHT, y)
            + Markup('<text class="tick" x="{}" y="{}" text-anchor="end">{}</text>').format(
                LEFT - 6, px(y + 4), write_tick(value, scale)
            )
        )
    return NOTHING.join(parts)


def draw_tick(x: float, bottom: float, label: str) -> Markup:
    """Write a tick's label below the plotting area, which ends at `bottom`."""
    return Markup('<text class="tick" x="{}" y="{}" text-anchor="middle">{}</text>').format(
        px(x), px(bottom + 15), label
    )


def draw_axis_title(x: float, y: float, label: str) -> Markup:
    """Write what an axis counts, centred on `x`."""
    return Markup('<text class="title" x="{}" y="{}" text-anchor="middle">{}</text>').format(
        px(x), px(y), shorten(label, 60)
    )


def draw_line(kind: str, x1: float, y1: float, x2: float, y2: float) -> Markup:
    """Draw a straight line of the class `kind`."""
    return Markup('<line class="{}" x1="{}" y1="{}" x2="{}" y2="{}"/>').format(
        kind, *map(px, (x1, y1, x2, y2))
    )


def draw_path(kind: str, corners: Sequence[tuple[float, float]]) -> Markup:
    """Draw a line through `corners`; nothing where there are fewer than two."""
    if len(corners) < 2:
        return NOTHING
    path = " ".join(f"{px(x)},{px(y)}" for x, y in corners)
    return Markup('<polyline class="{}" points="{}"/>').format(kind, path)


def wrap_svg(parts: Iterable[Markup], *, height: float, title: str, desc: str) -> Markup:
    """Make a figure of its parts; `desc` says in words what it shows."""
    # Identifiers that depend on the content alone, so that the same data give the same file.
    key = hashlib.sha256(f"{title}\n{desc}".encode(errors="replace")).hexdigest()[:12]
    return Markup(
        '<svg viewBox="0 0 {width} {height}" role="img" aria-labelledby="t{key} d{key}">'
        '<title id="t{key}">{title}</title><desc id="d{key}">{desc}</desc>{body}</svg>'
    ).format(
        width=WIDTH,
        height=px(height),
        key=key,
        title=show_line(title),
        desc=show_line(desc),
        body=NOTHING.join(parts),
    )


def fit_scale(
    estimates: Sequence[Estimate],
    *,
    start: float,
    end: float,
    include: Sequence[float] = (),
) -> Scale:
    """Span all finite ends of the intervals; leave room for an arrow where one is infinite."""
    ends = [end for e in estimates for end in (e.low, e.value, e.high)]
    scale = span_values([*ends, *include], start=start, end=end)
    reach = 0.12 * (scale.high - scale.low)
    return Scale(
        scale.low - reach * (-math.inf in ends), scale.high + reach * (math.inf in ends), start, end
    )


def span_values(values: Sequence[float], *, start: float, end: float) -> Scale:
    """Span the finite of `values` with a little air on both sides."""
    finite = [value for value in values if math.isfinite(value)] or [0.0]
    low, high = min(finite), max(finite)
    # One value alone still needs an axis around it.
    pad = 0.05 * (high - low) or max(abs(low) * 0.1, 0.5)
    return Scale(low - pad, high + pad, start, end)


def choose_ticks(low: float, high: float, count: int) -> list[float]:
    """Round values between `low` and `high`, about `count` of them, in steps of 1, 2 or 5."""
    raw = (high - low) / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= raw)
    first = math.ceil(low / step)
    return [index * step for index in range(first, math.floor(high / step) + 1)]


def write_tick(value: float, scale: Scale) -> str:
    """Write a tick with the digits that its scale calls for."""
    digits = max(0, -math.floor(math.log10((scale.high - scale.low) / 5)))
    return write_number(value, digits)


def shorten(text: str, length: int) -> str:
    """Cut `text` to `length` characters, invisible ones made visible."""
    text = show_line(text)
    return text if len(text) <= length else f"{text[: length - 1]}…"


def px(value: float) -> str:
    """Write a canvas coordinate in tenths, which keeps the file small and the same everywhere."""
    return f"{value:.1f}".removesuffix(".0")
