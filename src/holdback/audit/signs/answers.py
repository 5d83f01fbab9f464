"""Signs of a solver of questions, from the metadata that an answer's record carries.

`choices` and `order` as shown, `target` and, where the file says so, `level`. Refused, unparsed and
truncated answers are left out: form, not skill, and no wrong answer either.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from string import ascii_uppercase

from holdback.audit.result import ProfilePoint
from holdback.audit.signs.sign import Player, Sign
from holdback.statistics.answer_signs import (
    Difficulties,
    Guesses,
    Positions,
    detect_below_chance,
    detect_flatness,
    detect_position_collapse,
    detect_position_dependence,
)
from holdback.statistics.means import clustered_mean
from holdback.tasks.task import Outcome, SampleRecord

_ANSWERED = (Outcome.CORRECT, Outcome.WRONG)


def _take_guesses(player: Player) -> Guesses | None:
    answers = [
        (_is_right(record), chance, record.cluster)
        for record in _read_answers(player)
        if (chance := _read_chance(record)) > 0
    ]
    if not answers:
        return None
    correct, chances, clusters = zip(*answers, strict=True)
    return Guesses(correct=correct, chance=chances, clusters=clusters)


def _take_difficulties(player: Player) -> Difficulties | None:
    answers = [
        (_is_right(record), float(record.metadata["level"]), _read_chance(record), record.cluster)
        for record in _read_answers(player)
        if "level" in record.metadata
    ]
    if not answers:
        return None
    correct, levels, chances, clusters = zip(*answers, strict=True)
    return Difficulties(correct=correct, level=levels, chance=chances, clusters=clusters)


def _take_positions(player: Player) -> Positions | None:
    lettered = _read_lettered(player)
    if not lettered:
        return None
    chosen, right = zip(*map(_read_places, lettered), strict=True)
    return Positions(
        chosen=chosen,
        right=right,
        choices=[len(record.metadata["choices"]) for record in lettered],
        clusters=[record.cluster for record in lettered],
    )


def _read_answers(player: Player) -> list[SampleRecord]:
    return [
        record
        for record in player.records
        if record.score.outcome in _ANSWERED and "target" in record.metadata
    ]


def _read_lettered(player: Player) -> list[SampleRecord]:
    """Read answers by letter; none where choices stand in the file's order, which may favour."""
    lettered = [record for record in _read_answers(player) if _is_lettered(record)]
    shuffled = any(list(r.metadata["order"]) != sorted(r.metadata["order"]) for r in lettered)
    return lettered if shuffled else []


def _read_places(record: SampleRecord) -> tuple[int, int]:
    """Where the answer stands, and where the right choice does."""
    letters = record.score.answer, record.metadata["target"][0]
    return ascii_uppercase.index(letters[0]), ascii_uppercase.index(letters[1])


def _is_right(record: SampleRecord) -> float:
    return float(record.score.outcome is Outcome.CORRECT)


def _read_chance(record: SampleRecord) -> float:
    """Chance of a guess: one of so many, where the answer was one of the choices; else none."""
    chosen = _is_lettered(record) or "logprobs" in record.metadata
    return 1 / len(record.metadata["choices"]) if chosen else 0.0


def _is_lettered(record: SampleRecord) -> bool:
    shown = record.metadata.get("choices", ())
    letters = list(ascii_uppercase[: len(shown)])
    return (
        "order" in record.metadata
        and record.score.answer in letters
        and list(record.metadata["target"])[:1] in [[letter] for letter in letters]
    )


def _draw_nothing(player: Player) -> tuple[ProfilePoint, ...]:
    return ()


def _draw_levels(player: Player) -> tuple[ProfilePoint, ...]:
    """Share right by level, drawn at ceiling and floor as well."""
    rows = [
        (float(record.metadata["level"]), _is_right(record), record.cluster)
        for record in _read_answers(player)
        if "level" in record.metadata
    ]
    return _draw_means(rows, lambda level: f"{level:g}")


def _draw_errors(player: Player) -> tuple[ProfilePoint, ...]:
    """Share of errors at each position."""
    lettered = _read_lettered(player)
    width = max((len(record.metadata["choices"]) for record in lettered), default=0)
    rows = [
        (float(position), float(chosen == position), record.cluster)
        for position in range(width)
        for record in lettered
        for chosen, right in [_read_places(record)]
        if chosen != right
    ]
    return _draw_means(rows, _name_position)


def _draw_places(player: Player) -> tuple[ProfilePoint, ...]:
    """Share right by where the right choice stands."""
    rows = [
        (float(_read_places(record)[1]), _is_right(record), record.cluster)
        for record in _read_lettered(player)
    ]
    return _draw_means(rows, _name_position)


def _name_position(position: float) -> str:
    return ascii_uppercase[int(position)]


def _draw_means(
    rows: Sequence[tuple[float, float, str]], label: Callable[[float], str]
) -> tuple[ProfilePoint, ...]:
    """Mean by x, where two clusters or more give it an interval."""
    points = []
    for x in sorted({row[0] for row in rows}):
        group = [row for row in rows if row[0] == x]
        mean = clustered_mean(
            [value for _, value, _ in group], [name for *_, name in group], support=(0.0, 1.0)
        )
        if mean.n_clusters >= 2:
            points.append(ProfilePoint(x=x, label=label(x), estimate=mean.estimate()))
    return tuple(points)


BELOW_CHANCE = Sign(
    name="below_chance",
    clause="it is right less often than by guessing",
    x_label="",
    y_label="share right",
    take=_take_guesses,
    detect=detect_below_chance,
    draw=_draw_nothing,
    needs_controls=False,
)
FLATNESS = Sign(
    name="flat_in_difficulty",
    clause="it is right as often on hard questions as on easy ones",
    x_label="difficulty",
    y_label="share right",
    take=_take_difficulties,
    detect=detect_flatness,
    draw=_draw_levels,
)
POSITION_COLLAPSE = Sign(
    name="position_collapse",
    clause="its errors gather at one position",
    x_label="position, A = 0",
    y_label="share of errors",
    take=_take_positions,
    detect=detect_position_collapse,
    draw=_draw_errors,
)
POSITION_DEPENDENCE = Sign(
    name="position_dependence",
    clause="whether it is right hangs on where the right choice stands",
    x_label="position of the right choice, A = 0",
    y_label="share right",
    take=_take_positions,
    detect=detect_position_dependence,
    draw=_draw_places,
)
