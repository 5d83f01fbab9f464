"""What becomes of answers that are no moves, by why they are none."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import chess
import numpy as np
import pytest
from chess_players import ScriptedModel, choose_nonsense

from holdback.errors import EndpointError
from holdback.models.protocol import Decoding, Output, StopReason
from holdback.tasks.chess.games import ChessGames
from holdback.tasks.chess.match import Pairing, iterate_games, play_games
from holdback.tasks.chess.opponents import get_opponent
from holdback.tasks.chess.prompts import draw_moves, render_prompt
from holdback.tasks.task import FORFEITS, Outcome, Split


@dataclass
class SaidSessions:
    """Sessions that always give one output."""

    output: Output

    def propose(self, rows, *, decoding, rngs, max_tokens, allowed=None):
        return [self.output for _ in rows]


@dataclass(frozen=True, kw_only=True)
class SayingModel(ScriptedModel):
    output: Output

    def open_sessions(self, texts):
        return SaidSessions(self.output)


def say(text, **fields):
    return Output(text=text, logprob=math.nan, **fields)


CASES = [
    (say("I resign"), Outcome.UNPARSED),
    (say("Ka1 Kh8"), Outcome.ILLEGAL),
    (say("I can't help", stop_reason=StopReason.REFUSED), Outcome.REFUSED),
    (say("Let me think", stop_reason=StopReason.LENGTH), Outcome.TRUNCATED),
    # A move that is none here is one, however the answer went on.
    (say("Ka1 Kh8 and", stop_reason=StopReason.LENGTH), Outcome.ILLEGAL),
    (say("<think>Pe2 Pe4? No.</think>I resign"), Outcome.UNPARSED),
    (say("<think>Ka1 Kh8", stop_reason=StopReason.LENGTH), Outcome.TRUNCATED),
    (say("", error="the engine died"), Outcome.ERRORED),
]


@pytest.mark.parametrize(("output", "outcome"), CASES)
def test_failures_are_told_apart(output, outcome):
    """Refused, cut off, unreadable and illegal answers are not the same; errors are nobody's."""
    (answer,) = draw_moves(
        SaidSessions(output),
        [chess.Board()],
        decoding=Decoding(tries=2),
        max_tokens=2,
        rngs=[np.random.default_rng(0)],
    )

    assert answer.move is None
    assert answer.tries == 2
    assert answer.failure is outcome


def test_a_legal_move_counts_however_the_answer_ended():
    """Two words of a longer answer that was cut off are still a move."""
    (answer,) = draw_moves(
        SaidSessions(say("Pe2 Pe4 because", stop_reason=StopReason.LENGTH)),
        [chess.Board()],
        decoding=Decoding(),
        max_tokens=2,
        rngs=[np.random.default_rng(0)],
    )

    assert answer.move == chess.Move.from_uci("e2e4")


@pytest.mark.parametrize(("output", "outcome"), CASES)
def test_games_end_by_them(pool, output, outcome):
    """All lose and are counted apart as forfeits, but an error, which counts nowhere."""
    model = SayingModel(choose=choose_nonsense, output=output)
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
    model = SayingModel(choose=choose_nonsense, output=refusal)
    task = ChessGames(opponents=("random",), processes=1, evaluation_nodes=None)

    records = list(task.run(model, split=Split.SELECT, samples=2, seed=0))

    assert [record.score.outcome for record in records] == [Outcome.REFUSED] * 2
    assert [record.score.answer for record in records] == ["I can't help"] * 2


def test_games_that_are_over_outlive_a_failure(pool):
    """A provider that gives up in the middle takes no finished game along, and none is invented."""
    calls = []

    class FailingSessions(SaidSessions):
        def propose(self, rows, *, decoding, rngs, max_tokens, allowed=None):
            calls.append(len(rows))
            if len(calls) > 1:
                raise EndpointError("gone")
            # The first game's answer ends it, the second's does not.
            return [say("I resign"), say("Pe2 Pe4")]

    @dataclass(frozen=True, kw_only=True)
    class FailingModel(ScriptedModel):
        def open_sessions(self, texts):
            return FailingSessions(say(""))

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
