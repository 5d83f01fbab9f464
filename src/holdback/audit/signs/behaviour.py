"""How a checkpoint behaves under the ordinary protocol: signs of holding back, games to read."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

from holdback.audit.result import ExampleGame, ProfilePoint, Signature
from holdback.audit.signs.answers import (
    BELOW_CHANCE,
    FLATNESS,
    POSITION_COLLAPSE,
    POSITION_DEPENDENCE,
)
from holdback.audit.signs.games import LEVEL_HOLDING, RESPONSE_CURVE, THROW, take_moves
from holdback.audit.signs.intrinsic import rate_intrinsically
from holdback.audit.signs.sign import Player, Sign
from holdback.errors import InsufficientDataError
from holdback.statistics import game_signs
from holdback.statistics.answer_signs import combine_signs
from holdback.statistics.intrinsic import HonestMoves
from holdback.statistics.selection import adjust_holm
from holdback.tasks.task import FORFEITS, SampleRecord

__all__ = ["Player", "find_games", "find_signatures", "write_pgn"]

S = TypeVar("S")


def find_signatures(
    players: Mapping[str, Player],
    *,
    controls: Mapping[str, Sequence[str]],
    task: str,
    honest: HonestMoves | None = None,
) -> Iterator[Signature]:
    """Test every player against its controls, sign by sign, where its records allow.

    Each player with a sign that could be tested also has one `combined` of all of them.

    Args:
        players: Checkpoint to how it behaves.
        controls: Checkpoint to the names of the honest ones it is compared with.
        task: Name of the task.
        honest: What honest players of known rating lose a move, for intrinsic ratings; None where
            the task has no such reference.
    """
    found = [
        *(() if honest is None else rate_intrinsically(players, honest, task)),
        *_compare_all(THROW, players, controls, task),
        *_compare_all(LEVEL_HOLDING, players, controls, task),
        *_compare_all(RESPONSE_CURVE, players, controls, task),
        *_compare_all(BELOW_CHANCE, players, controls, task),
        *_compare_all(FLATNESS, players, controls, task),
        *_compare_all(POSITION_COLLAPSE, players, controls, task),
        *_compare_all(POSITION_DEPENDENCE, players, controls, task),
    ]
    # Whoever reads single signs looks at all of them, whoever reads combined ones at those alone:
    # each is a family that is corrected for itself.
    yield from _adjust(found)
    yield from _adjust(list(_combine(found, task)))


def _combine(found: Sequence[Signature], task: str) -> Iterator[Signature]:
    for checkpoint in dict.fromkeys(sign.checkpoint for sign in found):
        p_values = {
            sign.name: sign.p_unadjusted
            for sign in found
            if sign.checkpoint == checkpoint and sign.p_unadjusted is not None
        }
        if not p_values:
            continue
        combined = combine_signs(p_values)
        yield Signature(
            name="combined",
            checkpoint=checkpoint,
            task=task,
            x_label="",
            y_label="",
            points=(),
            statistic=None,
            reference=None,
            difference=None,
            p_value=combined.p_value,
            words=(
                f"{len(p_values)} signs as one, the strongest"
                if len(p_values) > 1
                else "no sign but one:"
            )
            + f" {combined.strongest.replace('_', ' ')}",
            p_unadjusted=combined.p_value,
        )


def _adjust(found: Sequence[Signature]) -> Iterator[Signature]:
    """Correct the p-values of all signs of all players on a task together."""
    tested = [sign for sign in found if sign.p_unadjusted is not None]
    adjusted = dict(
        zip(map(id, tested), adjust_holm([s.p_unadjusted or 0.0 for s in tested]), strict=True)
    )
    for sign in found:
        p = adjusted.get(id(sign))
        yield sign if p is None else replace(sign, p_value=p, words=f"{sign.words}, p = {p:.3g}")


def find_games(
    records: Sequence[SampleRecord], *, checkpoint: str, task: str, rung: str
) -> tuple[ExampleGame, ...]:
    """Pick games to read: the longest, and the best result against the strongest opponent.

    Of equals the first stored, so that the same store gives the same report.
    """
    games = [record for record in records if "san" in record.metadata]
    if not games:
        return ()
    longest = max(games, key=lambda game: int(game.metadata["plies"]))
    proudest = max(
        games, key=lambda game: (game.score.value or 0.0, float(game.metadata["opponent_elo"]))
    )
    picked = {game.sample_id: game for game in (longest, proudest)}
    return tuple(
        ExampleGame(
            checkpoint=checkpoint,
            task=task,
            rung=rung,
            opponent=str(game.metadata["opponent"]),
            outcome=f"{game.metadata['result']}, {game.metadata['termination']}",
            pgn=write_pgn(game, player=checkpoint),
            win_probabilities=tuple(take_moves(game, "win_probability")),
        )
        for game in picked.values()
    )


def write_pgn(record: SampleRecord, *, player: str) -> str:
    """Write a stored game as PGN, from the moves in its metadata; no chess library is needed."""
    played = record.metadata
    names = {"white": player, "black": played["opponent"]}
    rated = "Black"
    if played["colour"] == "black":
        names, rated = {"white": played["opponent"], "black": player}, "White"
    tags = {
        "Event": f"Holdback {record.sample_id}",
        "Site": "?",
        "Date": "????.??.??",
        "Round": "?",
        "White": names["white"],
        "Black": names["black"],
        "Result": played["result"],
        f"{rated}Elo": f"{played['opponent_elo']:.0f}",
        "Termination": played["termination"],
        "SetUp": "1",
        "FEN": played["opening_fen"],
    }
    _, turn, *_, number = str(played["opening_fen"]).split()
    ply = 2 * (int(number) - 1) + (turn == "b")
    words: list[str] = []
    for index, san in enumerate(str(played["san"]).split()):
        at = ply + index
        if at % 2 == 0:
            words.append(f"{at // 2 + 1}.")
        elif index == 0:
            words.append(f"{at // 2 + 1}...")
        words.append(san)
    if record.score.outcome in FORFEITS:
        # Braces end a comment in PGN, so a model's text may hold none.
        answer = record.score.answer.translate({ord("{"): "(", ord("}"): ")"})
        words.append(f"{{ {record.score.outcome}: {answer!r} }}")
    head = "\n".join(f'[{tag} "{_escape(str(value))}"]' for tag, value in tags.items())
    return f"{head}\n\n{' '.join([*words, str(played['result'])])}\n"


def _escape(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"')


def _compare_all(
    sign: Sign[S],
    players: Mapping[str, Player],
    controls: Mapping[str, Sequence[str]],
    task: str,
) -> Iterator[Signature]:
    taken = {name: sign.take(player) for name, player in players.items()}
    columns = {name: column for name, column in taken.items() if column is not None}
    for name, column in columns.items():
        honest = {other: columns[other] for other in controls[name] if other in columns}
        found, words = _detect(sign, column, honest)
        if sign.is_of_strength and _is_weakest(name, honest, players):
            words += "; every control displays more, so that weakness alone could look like this"
        points = _draw(sign, players[name], column)
        if not points and found is None:
            continue
        yield Signature(
            name=sign.name,
            checkpoint=name,
            task=task,
            x_label=sign.x_label,
            y_label=sign.y_label,
            points=points,
            statistic=None if found is None else found.target,
            reference=None
            if found is None or found.closest is None
            else found.controls[found.closest],
            difference=None if found is None else found.difference,
            p_value=None if found is None else found.p_value,
            words=words,
            p_unadjusted=None if found is None else found.p_value,
            clause=sign.clause,
        )


def _is_weakest(name: str, honest: Iterable[str], players: Mapping[str, Player]) -> bool:
    """Tell whether every control that it is compared with displays more."""
    own = players[name].displayed
    shown = [players[other].displayed for other in honest]
    return own is not None and bool(shown) and all(x is not None and x > own for x in shown)


def _detect(
    sign: Sign[S], column: S, honest: Mapping[str, S]
) -> tuple[game_signs.SignTest | None, str]:
    if not honest and sign.needs_controls:
        return None, "no control to compare with"
    try:
        found = sign.detect(column, honest)
    except InsufficientDataError as error:
        return None, f"not tested: {error}"
    return found, _describe(found)


def _describe(found: game_signs.SignTest) -> str:
    own = found.target
    words = f"{_show(own.value)} {found.unit}"
    if found.closest is None or found.difference is None:
        words += f" [{_show(own.low)}, {_show(own.high)}]; no control to compare with"
    else:
        between = found.difference
        words += (
            f"; the control told from it least clearly, {found.closest}, has"
            f" {_show(found.controls[found.closest].value)}: a difference of {_show(between.value)}"
            f" [{_show(between.low)}, {_show(between.high)}]"
        )
    if found.beside:
        words += f"; {found.beside}"
    return words + "".join(
        f"; {name} left out: {reason}" for name, reason in found.left_out.items()
    )


def _show(value: float) -> str:
    """Write a number with a real minus sign; −0 is 0."""
    return f"{round(value, 2) + 0.0:.2f}".replace("-", "−")


def _draw(sign: Sign[S], player: Player, column: S) -> tuple[ProfilePoint, ...]:
    if sign.draw is not None:
        return sign.draw(player)
    try:
        # Against itself: the test says nothing, its points are the player's own.
        drawn = sign.detect(column, {"itself": column}).points[game_signs.TARGET]
    except InsufficientDataError:
        return ()
    return tuple(
        ProfilePoint(x=point.x, label=f"{point.x:.2f}", estimate=point.y) for point in drawn
    )
