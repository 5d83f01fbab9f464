"""What becomes of answers that are no moves, by why they are none."""

from __future__ import annotations

from dataclasses import dataclass, replace

import chess
import pytest
from chess_players import ScriptedModel, choose_nonsense, say

from holdback.errors import EndpointError
from holdback.models.protocol import Decoding, Format, Generation, Presentation, StopReason
from holdback.tasks.chess.games import ChessGames
from holdback.tasks.chess.match import Pairing, iterate_games, play_games
from holdback.tasks.chess.notations import SAN, WORDS
from holdback.tasks.chess.opponents import get_opponent
from holdback.tasks.chess.prompts import draw_moves, render_prompt
from holdback.tasks.task import FORFEITS, Outcome, Split


@dataclass(frozen=True, kw_only=True)
class SayingModel(ScriptedModel):
    """Always says one thing."""

    said: Generation

    def generate(self, requests):
        return [self.said for _ in requests]


def answer(said, *, notation=WORDS, format=Format.CHAT, **decoding):
    model = SayingModel(
        choose=choose_nonsense,
        said=said,
        decoding=Decoding(**decoding),
        presentation=Presentation(format=format),
    )
    return draw_moves(model, [chess.Board()], seeds=[(0,)], notation=notation)[0]


CASES = [
    (say("I resign"), Outcome.UNPARSED),
    (say("Ka1 Kh8"), Outcome.ILLEGAL),
    (say("I can't help", stop_reason=StopReason.REFUSED), Outcome.REFUSED),
    (say("Pe", stop_reason=StopReason.LENGTH), Outcome.TRUNCATED),
    # As long as a move is: with more tokens it would be no move either.
    (say("Let me", stop_reason=StopReason.LENGTH), Outcome.UNPARSED),
    # A move that is none here is one, however the answer went on.
    (say("Ka1 Kh8 and", stop_reason=StopReason.LENGTH), Outcome.ILLEGAL),
    (say("<think>Pe2 Pe4? No.</think>I resign"), Outcome.UNPARSED),
    (say("<think>Ka1 Kh8", stop_reason=StopReason.LENGTH), Outcome.TRUNCATED),
    (say("", error="the engine died"), Outcome.ERRORED),
]


@pytest.mark.parametrize(("said", "outcome"), CASES)
def test_failures_are_told_apart(said, outcome):
    """Refused, cut off, unreadable and illegal answers are not the same; errors are nobody's."""
    given = answer(said, tries=2)

    assert given.move is None
    assert given.tries == 2
    assert given.failure is outcome


def test_an_answer_is_cut_off_where_a_move_could_still_come():
    """In a sentence of a chat it can; behind a record, which never ends, its place is filled."""
    cut = say("The pawn goes", stop_reason=StopReason.LENGTH)

    assert answer(cut, notation=SAN).failure is Outcome.TRUNCATED
    assert answer(cut, notation=SAN, format=Format.COMPLETION).failure is Outcome.UNPARSED


def test_a_legal_move_counts_however_the_answer_ended():
    """Two words of a longer answer that was cut off are still a move."""
    given = answer(say("Pe2 Pe4 because", stop_reason=StopReason.LENGTH))

    assert (given.move, given.failure) == (chess.Move.from_uci("e2e4"), None)


@pytest.mark.parametrize(("said", "outcome"), CASES)
def test_games_end_by_them(pool, said, outcome):
    """All lose and are counted apart as forfeits, but an error, which counts nowhere."""
    model = SayingModel(choose=choose_nonsense, said=said)
    pairing = Pairing(
        opening=chess.Board().fen(),
        colour=chess.WHITE,
        opponent=get_opponent("random"),
        seed=(0,),
    )

    (game,) = play_games(model, [pairing], pool=pool, evaluation_nodes=None)

    assert game.termination == outcome
    assert game.score == (None if outcome is Outcome.ERRORED else 0.0)
    assert (outcome in FORFEITS) == (outcome is not Outcome.ERRORED)


def test_a_refused_game_is_recorded_as_refused():
    """The outcome and what was said stay in the record."""
    refusal = CASES[2][0]
    model = SayingModel(choose=choose_nonsense, said=refusal)
    task = ChessGames(opponents=("random",), processes=1, evaluation_nodes=None)

    records = list(task.run(model, split=Split.SELECT, samples=2, seed=0))

    assert [record.score.outcome for record in records] == [Outcome.REFUSED] * 2
    assert [record.score.answer for record in records] == ["I can't help"] * 2


def test_games_that_are_over_outlive_a_failure(pool):
    """A provider that gives up in the middle takes no finished game along, and none is invented."""
    calls = []

    @dataclass(frozen=True, kw_only=True)
    class FailingModel(ScriptedModel):
        def generate(self, requests):
            calls.append(len(requests))
            if len(calls) > 1:
                raise EndpointError("gone")
            # The first game's answer ends it, the second's does not.
            return [say("I resign"), say("Pe2 Pe4")]

    model = FailingModel(choose=choose_nonsense, decoding=Decoding(tries=1))
    pairings = [
        Pairing(
            opening=chess.Board().fen(),
            colour=chess.WHITE,
            opponent=get_opponent("random"),
            seed=(n,),
        )
        for n in range(2)
    ]
    games = iterate_games(model, pairings, pool=pool)

    at, game = next(games)
    assert (at, game.termination) == (0, "unparsed")
    with pytest.raises(EndpointError, match="gone"):
        next(games)


def test_a_player_with_a_notation_of_its_own_is_asked_in_it():
    """An engine reads positions: no template or header comes between."""

    @dataclass(frozen=True, kw_only=True)
    class Reader(ScriptedModel):
        def render_board(self, board):
            return board.fen()

    reader = Reader(choose=choose_nonsense)

    assert render_prompt(reader, chess.Board()) == chess.STARTING_FEN
    shown = replace(reader, presentation=replace(reader.presentation, instruction="x"))
    assert render_prompt(shown, chess.Board()) == chess.STARTING_FEN
