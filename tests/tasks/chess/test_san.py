"""Moves as people write them are read as python-chess means them, and only where they are meant."""

from __future__ import annotations

import io
import json

import chess
import chess.pgn
import numpy as np
import pytest
from chess_players import ScriptedModel, choose_nonsense
from hypothesis import given
from hypothesis import strategies as st
from test_notation import positions

from holdback.errors import UnknownNameError
from holdback.models.protocol import Format, Presentation
from holdback.tasks.chess.games import ChessGames
from holdback.tasks.chess.notations import SAN
from holdback.tasks.chess.positions import ChessPositions
from holdback.tasks.chess.prompts import render_prompt
from holdback.tasks.chess.san import find_move, names_move, write_question, write_record
from holdback.tasks.task import Outcome, Split

# White: knights on b1 and f3, both able to reach d2; a pawn on e7 that may promote.
BOARD = chess.Board("3q3k/4P3/8/8/8/5N2/8/1N2K2R w K - 0 1")


@pytest.mark.parametrize(
    ("text", "uci"),
    [
        ("Nd4", "f3d4"),
        ("f3d4", "f3d4"),
        ("Nd4!", "f3d4"),
        ("12. Nd4", "f3d4"),
        ("12...Nd4", "f3d4"),
        ("**Nd4**", "f3d4"),
        ("`Nd4`.", "f3d4"),
        ("The best move is Nd4.", "f3d4"),
        ("I would play 1. Nd4, and after Qxe7 Nc6 wins.", "f3d4"),
        ("Nh4 looks natural.", "f3h4"),
        ("Nh4 and Nd4 come to mind, so:\n\n**Nd4**", "f3h4"),
        ("There are Nh4 and Ne5 here.\nI play Nd4 at once", "f3d4"),
        ("Looking at Nh4 and Ne5, I settle on:\n\n**1. Nd4**", "f3d4"),
        ("My knight on f3 goes to d4: Nd4", "f3d4"),
        (r"\boxed{Nd4}", "f3d4"),
        ("Nbd2", "b1d2"),
        ("N1d2", "b1d2"),
        ("Nb1-d2", "b1d2"),
        ("e8=Q+", "e7e8q"),
        ("e8Q", "e7e8q"),
        ("e8(N)", "e7e8n"),
        ("exd8=Q#", "e7d8q"),
        ("ed8=R", "e7d8r"),
        ("e7d8q", "e7d8q"),
        ("O-O", "e1g1"),
        ("0-0!", "e1g1"),
        ("e1g1", "e1g1"),
        ("I castle: O-O", "e1g1"),
    ],
)
def test_moves_are_read_leniently(text, uci):
    """Marks, numbers, markup, coordinates and a sentence around it change no move."""
    assert find_move(BOARD, text) == chess.Move.from_uci(uci)


@pytest.mark.parametrize(
    "text",
    [
        "Nd2",  # either knight
        "Nd5",  # neither
        "Qd1",
        "e8",  # a pawn that has to become something
        "O-O-O",
        "Either Nh4 or Ne5.",
        "a1a8",
    ],
)
def test_what_cannot_be_played_for_certain_is_illegal(text):
    """It is a move, so the answer was read; it is none of this position's, or not one alone."""
    assert find_move(BOARD, text) is None
    assert names_move(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "I resign.",
        "The pawn on e7 and the knight on f3 are strong.",
        "From e2 to e4",
        "Position 8/8/8/8/8/8/8/8 is empty",
        "It is 1-0.",
        "--",
        "0000",
        "Section 4a3b",
        "Ne10",
    ],
)
def test_what_is_no_move_is_none(text):
    """Squares that are talked about, results and other words are not moves."""
    assert find_move(BOARD, text) is None
    assert not names_move(text)


@given(positions(), st.data())
def test_every_legal_move_is_read_back(board, data):
    """Both colours, all kinds, in both notations, plain and in a sentence."""
    move = data.draw(st.sampled_from(list(board.legal_moves)))
    number = f"{board.fullmove_number}{'.' if board.turn else '...'}"

    for written in (board.san(move), board.lan(move), move.uci()):
        for text in (written, f" {written}\n", f"{number} {written}", f"My move is **{written}**."):
            assert find_move(board, text) == move, text


@given(st.text(alphabet="NKQRBabcdefgh12345678xO0-=+#. \n*", max_size=30))
def test_reading_san_never_fails(text):
    """Whatever a model writes is a legal move or None, and what is read is named."""
    move = find_move(BOARD, text)

    assert move is None or (move in BOARD.legal_moves and names_move(text))


def play(*moves, fen=chess.STARTING_FEN):
    board = chess.Board(fen)
    for move in moves:
        board.push_san(move)
    return board


@given(positions())
def test_a_record_is_pgn_that_leads_to_the_position(board):
    """python-chess reads it back: same position, and its next move continues it."""
    record = write_record(board, {"elo": "2400"})

    game = chess.pgn.read_game(io.StringIO(record))

    assert game.errors == []
    assert game.end().board().fen() == board.fen()
    assert game.headers["WhiteElo" if board.turn else "BlackElo"] == "2400"
    for move in board.legal_moves:
        longer = chess.pgn.read_game(
            io.StringIO(record + SAN.write_answer(board, move, Format.COMPLETION))
        )
        assert longer.end().move == move
        break


def test_a_record_says_who_is_who():
    """Ratings and results are the mover's, whatever its colour."""
    white, black = play("e4", "e5"), play("e4")
    header = {"WhiteElo": "2400", "BlackElo": "1000", "Result": "1-0"}

    assert write_record(white, header) == (
        '[WhiteElo "2400"]\n[BlackElo "1000"]\n[Result "1-0"]\n\n1. e4 e5 2.'
    )
    assert write_record(black, header) == (
        '[BlackElo "2400"]\n[WhiteElo "1000"]\n[Result "0-1"]\n\n1. e4'
    )


def test_a_question_says_all_there_is_to_know():
    """Side, position and the moves before, with where they started where that is unusual."""
    assert write_question(play("e4")) == (
        "You are playing a game of chess as Black.\n"
        "Position (FEN): rnbqkbnr/pppppppp/8/8/4P3/8/PPPP1PPP/RNBQKBNR b KQkq - 0 1\n"
        "Moves so far: 1. e4\n"
        "It is Black's turn. Answer with one move in standard algebraic notation, and nothing else."
    )
    fen = "4k3/pppppppp/8/8/8/8/PPPPPPPP/4K3 w - - 0 1"
    assert f"Moves so far, from {fen}: 1. e4 d5" in write_question(play("e4", "d5", fen=fen))
    assert "Moves so far" not in write_question(chess.Board(fen))


class SanModel(ScriptedModel):
    """Reads the FEN out of the question and answers in a sentence."""

    def answer(self, request):
        assert request.max_tokens == 64
        fen = request.prompt.split("Position (FEN): ")[1].split("\n")[0]
        return self.choose(chess.Board(fen), np.random.default_rng(request.seed))


def say_random_move(board, rng):
    moves = list(board.legal_moves)
    return f"I'd play {board.san(moves[int(rng.integers(len(moves)))])}!"


def test_random_san_scores_what_random_words_do():
    """A player of random moves scores chance on positions, in whatever notation it answers."""
    task = ChessPositions(notation="san", setup="standard")
    model = SanModel(choose=say_random_move)

    records = list(task.run(model, split=Split.TEST, samples=300, seed=0))

    estimate = task.measure(records).estimate(level=0.999)
    assert estimate.low < task.chance < estimate.high
    assert {record.score.outcome for record in records} == {Outcome.CORRECT, Outcome.WRONG}


def test_whole_games_are_played_in_san():
    """Both colours to the end, and what the model was asked stays in the record."""
    task = ChessGames(
        notation="san", opponents=("random",), processes=1, max_plies=20, evaluation_nodes=None
    )
    model = SanModel(choose=say_random_move)

    records = list(task.run(model, split=Split.SELECT, samples=4, seed=0))

    assert all(record.metadata["plies"] >= 19 for record in records)
    assert "standard algebraic notation" in records[0].metadata["prompt"]


@pytest.mark.parametrize(
    ("text", "outcome"),
    [
        ("I'm sorry, but I can't help with that.", Outcome.REFUSED),
        ("Let us talk of something else.", Outcome.UNPARSED),
        ("I castle long: O-O-O!", Outcome.ILLEGAL),
    ],
)
def test_san_failures_are_told_apart(text, outcome):
    """Refused in plain words, no move, and a move of no such position."""
    task = ChessPositions(notation="san")

    (record,) = task.run(
        SanModel(choose=lambda board, rng: text), split=Split.SELECT, samples=1, seed=0
    )

    assert record.score.outcome is outcome
    assert record.score.answer == text


def test_completion_asks_with_pgn():
    """A base model is given a record to continue, not a question."""
    model = ScriptedModel(
        choose=choose_nonsense, presentation=Presentation(format=Format.COMPLETION)
    )

    assert render_prompt(model, play("e4", "e5"), SAN) == "\n1. e4 e5 2."


def test_demonstrations_are_in_san():
    """What fine-tuning teaches is what is asked, and the moves are the same in both notations."""
    san = ChessPositions(notation="san").demonstrate("strong", 2, np.random.default_rng(0))
    words = ChessPositions().demonstrate("strong", 2, np.random.default_rng(0))

    assert len(san) == len(words)
    for question, answer in san:
        board = chess.Board(question["content"].split("Position (FEN): ")[1].split("\n")[0])
        assert board.parse_san(answer["content"]) in board.legal_moves
    assert "EPD" not in json.dumps(san)


def test_an_unknown_notation_is_answered_with_the_known():
    """A typo in an audit file."""
    with pytest.raises(UnknownNameError, match=r"chess notation 'sna'. Did you mean 'san'"):
        ChessPositions(notation="sna")
