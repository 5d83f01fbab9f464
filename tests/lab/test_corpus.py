"""Positions hold what was played and what it is worth, and stopping costs nothing."""

from __future__ import annotations

import chess
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdback.tasks.chess.engine import ALL_MOVES, MATE_CENTIPAWNS, Search, write_uci_position
from holdback.tasks.chess.notation import write_move
from holdback_lab.chess.corpus import (
    RESULTS,
    STRONG_MIX,
    TEACHER_ELO,
    WEAK_MIX,
    choose_softly,
    crowd,
    draw_ending,
    encode_boards,
    generate_games,
    price_endings,
    price_positions,
    read_games,
    read_positions,
    read_priced,
    write_positions,
)
from holdback_lab.chess.vocabulary import PIECES, list_words

WORDS = list_words()
START = "4k3/pppppppp/8/8/8/8/PPPPPPPP/4K3 w - - 0 1"
prices = st.lists(st.integers(-2000, 2000) | st.integers(8100, 8863), min_size=1, max_size=40)


def list_moves(positions, at):
    """The moves of a position in words, with their shares."""
    rows = slice(positions.first_legal[at], positions.first_legal[at + 1])
    words = [" ".join(WORDS[i] for i in move) for move in positions.legal[rows]]
    assert len(words) == len(set(words))
    return dict(zip(words, positions.shares[rows].tolist(), strict=True))


def assert_same(one, other):
    for name in ("boards", "state", "legal", "first_legal", "shares", "elo", "result"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name), name)


def test_generation_resumes_to_the_same_games(tmp_path):
    """Stopped and continued, the corpus is what one call would have written."""
    options = {"start": START, "seed": 1, "mix": WEAK_MIX, "workers": 1}
    generate_games(tmp_path / "once", games=5, **options)
    generate_games(tmp_path / "twice", games=2, **options)
    generate_games(tmp_path / "twice", games=5, **options)
    assert (tmp_path / "once").read_text() == (tmp_path / "twice").read_text()


def test_games_are_read_as_they_were_played(corpus):
    """Every position in turn: its legal moves, all weight on the one played, tags of its mover."""
    ratings = {(player.random_share, player.nodes): player.elo for player, _ in STRONG_MIX}
    at = 0
    for board, move, line in corpus.replay():
        moves = list_moves(corpus.played, at)
        assert set(moves) == {write_move(board, legal) for legal in board.legal_moves}
        assert {words for words, share in moves.items() if share} == {write_move(board, move)}
        white, black = (ratings[float(line[c]), int(line[c + 1])] for c in (0, 2))
        assert corpus.played.elo[at].tolist() == ([white, black] if board.turn else [black, white])
        mirrored = {"1-0": "0-1", "0-1": "1-0"}.get(line[4], line[4])
        assert RESULTS[corpus.played.result[at]] == (line[4] if board.turn else mirrored)
        at += 1
    assert at == len(corpus.played) > 100


def test_games_are_read_from_their_cache_the_second_time(corpus):
    """The arrays beside the text are the same positions."""
    again = read_games(corpus.text, start=chess.STARTING_FEN, mix=STRONG_MIX, workers=1)

    assert_same(again, corpus.played)


def test_priced_positions_are_those_of_the_games(corpus, pool):
    """All with a choice, none twice; their moves are the legal ones, weighted by Stockfish."""
    boards = {}
    for board, _, _ in corpus.replay():
        if board.legal_moves.count() > 1:
            boards.setdefault(board.epd(), board)
    searches = [
        Search(position=write_uci_position(board), nodes=corpus.nodes, lines=ALL_MOVES)
        for board in boards.values()
    ]
    expected = []
    for board, answer in zip(boards.values(), pool.analyse(searches), strict=True):
        worth = {line.move: line.centipawns for line in answer.lines}
        if set(worth) == set(board.legal_moves):
            shares = choose_softly(np.array(list(worth.values())))
            expected.append(
                {write_move(board, m): share for m, share in zip(worth, shares, strict=True)}
            )

    assert len(corpus.priced) == len(expected) > 0.8 * len(boards)
    for at, shares in enumerate(expected):
        assert list_moves(corpus.priced, at) == pytest.approx(shares, abs=1e-6)
    assert (corpus.priced.elo == [TEACHER_ELO, -1]).all()
    assert (corpus.priced.result == -1).all()


def test_pricing_resumes_where_it_stopped(tmp_path, monkeypatch):
    """What is lost is priced again as it was; what is there is left alone."""
    monkeypatch.setattr("holdback_lab.chess.corpus._CHUNK_GAMES", 2)
    games, out = tmp_path / "games.tsv", tmp_path / "priced"
    generate_games(games, start=START, games=5, seed=2, mix=WEAK_MIX, workers=1)
    options = {"start": START, "nodes": 200, "workers": 1}
    price_positions(games, out, **options)
    whole = read_priced(out)
    first, lost, last = sorted(out.iterdir())
    kept = {file: file.stat().st_mtime_ns for file in (first, last)}
    lost.unlink()

    price_positions(games, out, **options)

    assert sorted(out.iterdir()) == [first, lost, last]
    assert {file: file.stat().st_mtime_ns for file in kept} == kept
    assert_same(read_priced(out), whole)


def test_endings_can_be_played_and_have_officers():
    """Legal positions with a choice, White to move; most of them with a queen, some in check."""
    boards = [draw_ending(np.random.default_rng([3, number])) for number in range(300)]

    for board in boards:
        assert board.is_valid(), board.fen()
        assert board.turn
        assert board.legal_moves.count() > 1
        assert board.queens | board.rooks | board.bishops | board.knights
    assert np.mean([bool(board.queens) for board in boards]) > 0.5
    assert 0.1 < np.mean([board.is_check() for board in boards]) < 0.5
    assert len({board.board_fen() for board in boards}) == len(boards)


def test_endings_are_priced_once_and_the_same_again(tmp_path, monkeypatch):
    """A lost file comes back as it was; every position has a whole teacher."""
    monkeypatch.setattr("holdback_lab.chess.corpus._CHUNK_ENDINGS", 10)
    options = {"positions": 30, "seed": 4, "nodes": 600, "workers": 1}
    price_endings(tmp_path, **options)
    whole = read_priced(tmp_path)
    sorted(tmp_path.iterdir())[1].unlink()
    price_endings(tmp_path, **options)

    assert_same(read_priced(tmp_path), whole)
    assert 25 <= len(whole) <= 30
    assert (whole.elo == [TEACHER_ELO, -1]).all()
    for at in range(len(whole)):
        assert sum(list_moves(whole, at).values()) == pytest.approx(1, abs=1e-3)


def test_one_position_of_so_many_is_priced(tmp_path):
    """As many fewer, all of them the games' own, from both sides of a game's moves."""
    text = tmp_path / "games.tsv"
    generate_games(text, start=START, games=6, seed=2, mix=WEAK_MIX, workers=1)
    for every in (1, 3):
        price_positions(text, tmp_path / str(every), start=START, nodes=200, workers=1, every=every)

    all_of_them, some = (read_priced(tmp_path / str(every)) for every in (1, 3))

    assert len(all_of_them) / 4 < len(some) < len(all_of_them) / 2
    known = {board.tobytes() for board in all_of_them.boards}
    assert all(board.tobytes() in known for board in some.boards)


def test_a_corpus_that_grew_is_read_and_priced_as_one_made_at_once(tmp_path, monkeypatch):
    """No cached game hides new ones: the last file, which was not full, is priced again."""
    monkeypatch.setattr("holdback_lab.chess.corpus._CHUNK_GAMES", 2)
    written = {"start": START, "seed": 2, "mix": WEAK_MIX, "workers": 1}
    priced = {"start": START, "nodes": 200, "workers": 1}
    grown, once = tmp_path / "grown.tsv", tmp_path / "once.tsv"

    def read_all(text, out):
        price_positions(text, out, **priced)
        return read_games(text, start=START, mix=WEAK_MIX, workers=1), read_priced(out)

    generate_games(grown, games=3, **written)
    few, _ = read_all(grown, tmp_path / "grown")
    full, _ = sorted((tmp_path / "grown").iterdir())
    kept = full.stat().st_mtime_ns
    generate_games(grown, games=7, **written)
    generate_games(once, games=7, **written)

    parts = read_all(grown, tmp_path / "grown")

    assert full.stat().st_mtime_ns == kept
    assert len(parts[0]) > len(few)
    for one, other in zip(parts, read_all(once, tmp_path / "once"), strict=True):
        assert_same(one, other)


def test_split_off_positions_are_the_last(corpus):
    """Both parts together are the whole, moves included."""
    whole = corpus.played
    kept, held_out = whole.split_off(30)

    assert (len(kept), len(held_out)) == (len(whole) - 30, 30)
    for part, first in ((kept, 0), (held_out, len(kept))):
        np.testing.assert_array_equal(part.boards, whole.boards[first : first + len(part)])
        for at in range(len(part)):
            assert list_moves(part, at) == list_moves(whole, first + at)
    with pytest.raises(ValueError, match="cannot hold"):
        whole.split_off(len(whole))


def mate_in(plies):
    return MATE_CENTIPAWNS - plies if plies % 2 else plies - MATE_CENTIPAWNS


def test_the_nearer_mate_is_preferred_and_the_later_put_up_with():
    """Mate in one above mate in three, either above material; the loser holds out."""
    won = choose_softly(np.array([mate_in(1), mate_in(5), 800, 0]))
    assert (np.diff(won) < 0).all()
    assert won[0] > 2 * won[1]

    lost = choose_softly(np.array([mate_in(10), mate_in(6), mate_in(2)]))
    assert (np.diff(lost) < 0).all()
    assert choose_softly(np.array([-800, mate_in(10)]))[0] > 0.99


def test_a_pawn_matters_most_near_equality():
    """Half a pawn decides a level game, and hardly one that is won anyway; equals are equal."""
    level = choose_softly(np.array([50, 0]))
    won = choose_softly(np.array([1550, 1500]))

    assert level[0] > 0.9
    assert 0.5 < won[0] < 0.6
    np.testing.assert_allclose(choose_softly(np.array([30] * 4)), 0.25)


def test_choosing_softly_is_the_softmax_it_claims():
    """By hand: 100 and 0 centipawns are worth 1/4 and 0, over 0.04."""
    odds = np.exp(0.25 / 0.04)

    np.testing.assert_allclose(
        choose_softly(np.array([0, 100])), [1 / (1 + odds), odds / (1 + odds)]
    )


@given(prices, st.booleans())
def test_a_better_price_is_never_chosen_less_often(centipawns, lost):
    """Shares are a distribution that rises with the price, from either side."""
    signed = np.sort(np.array(centipawns) * (-1 if lost else 1))

    shares = choose_softly(signed)

    assert shares.sum() == pytest.approx(1)
    assert (np.diff(shares) >= 0).all()
    assert (shares[signed == signed[-1]] > 0).all()


def test_positions_are_taken_with_their_own_moves(corpus):
    """In any order and more than once, each with its legal moves and their shares."""
    whole = corpus.priced
    numbers = np.array([5, 0, 5, len(whole) - 1])

    taken = whole.take(numbers)

    assert len(taken) == 4
    for new, old in enumerate(numbers):
        mine = slice(int(taken.first_legal[new]), int(taken.first_legal[new + 1]))
        theirs = slice(int(whole.first_legal[old]), int(whole.first_legal[old + 1]))
        np.testing.assert_array_equal(taken.legal[mine], whole.legal[theirs])
        np.testing.assert_array_equal(taken.shares[mine], whole.shares[theirs])
        np.testing.assert_array_equal(taken.boards[new], whole.boards[old])


def test_officers_are_everything_but_kings_and_pawns(corpus):
    """Counted by hand on the boards: knights to queens of either side."""
    officers = [1 + PIECES.index(symbol) for symbol in "NBRQnbrq"]
    expected = [bool(np.isin(board, officers).any()) for board in corpus.priced.boards]

    found = corpus.priced.with_officers()

    assert len(found) == sum(expected) > 0
    assert np.isin(found.boards, officers).any(axis=1).all()


def test_checks_are_those_of_the_rules(tmp_path):
    """Of two positions with a queen, the one whose side to move must answer her."""
    played = tmp_path / "mates.tsv"
    played.write_text("0.0\t1\t0.0\t1\t*\te2e4 e7e5 d1h5 g8f6 h5f7 e8f7\n")
    positions = read_games(played, start=chess.STARTING_FEN, mix=STRONG_MIX, workers=1)

    found = positions.with_checks()

    # Black's king is attacked once, by the queen on f7.
    assert len(found) == 1
    np.testing.assert_array_equal(found.boards[0], positions.boards[5])


def test_boards_are_encoded_with_all_their_moves(tmp_path):
    """Forced moves and Black's positions as well; written and read they are the same."""
    forced = chess.Board("7k/6Q1/8/8/8/8/8/K7 b - - 0 1")
    boards = [chess.Board(), forced, chess.Board(START.replace(" w ", " b "))]

    positions = encode_boards(boards)

    for at, board in enumerate(boards):
        moves = list_moves(positions, at)
        assert set(moves) == {write_move(board, move) for move in board.legal_moves}
        assert list(moves.values()) == pytest.approx([1 / len(moves)] * len(moves))
    for number, part in enumerate((positions.take(np.array([0])), positions.split_off(2)[1])):
        write_positions(tmp_path / f"{number}.npz", part)
    read = read_positions([tmp_path / "0.npz", tmp_path / "1.npz"])
    assert_same(read, positions)


def test_crowded_positions_are_legal_and_full_of_officers(corpus):
    """Only pawns change, into officers or nothing; every position can be played from."""
    source = corpus.priced
    pawns = [1 + PIECES.index(symbol) for symbol in "Pp"]
    officers = [1 + PIECES.index(symbol) for symbol in "NBRQnbrq"]

    found = crowd(source, 200, seed=3)

    assert len(found) == 200
    assert np.isin(found.boards, officers).sum(axis=1).mean() > 2 + (
        np.isin(source.boards, officers).sum(axis=1).mean()
    )
    originals = np.where(np.isin(source.boards, pawns), 0, source.boards)
    for at in range(len(found)):
        board = found.boards[at]
        # Somewhere there is the position that it was made of: what was no pawn stands as it stood.
        assert ((originals == 0) | (originals == board)).all(axis=1).any()
        moves = list_moves(found, at)
        assert len(moves) > 1
        assert list(moves.values()) == pytest.approx([1 / len(moves)] * len(moves))
    assert_same(crowd(source, 200, seed=3), found)
