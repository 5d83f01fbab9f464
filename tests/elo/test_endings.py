"""Words of the `Termination` tag."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdback.elo.endings import Ending, read_ending

PLAY, ILLEGAL, TIME = Ending.PLAY, Ending.ILLEGAL, Ending.TIME
ABANDONMENT, UNFINISHED = Ending.ABANDONMENT, Ending.UNFINISHED


@pytest.mark.parametrize(
    ("words", "ending"),
    [
        # The eight of the standard (§9.8.1).
        ("abandoned", ABANDONMENT),
        ("adjudication", PLAY),
        ("death", ABANDONMENT),
        ("emergency", ABANDONMENT),
        ("normal", PLAY),
        ("rules infraction", ILLEGAL),
        ("time forfeit", TIME),
        ("unterminated", UNFINISHED),
        # lichess.
        ("Normal", PLAY),
        ("Time forfeit", TIME),
        ("Abandoned", ABANDONMENT),
        ("Rules infraction", ILLEGAL),
        ("Unterminated", UNFINISHED),
        # chess.com.
        ("hikaru won by checkmate", PLAY),
        ("hikaru won by resignation", PLAY),
        ("hikaru won on time", TIME),
        ("hikaru won - game abandoned", ABANDONMENT),
        ("Game drawn by agreement", PLAY),
        ("Game drawn by 50-move rule", PLAY),
        ("Game drawn by insufficient material", PLAY),
        ("Game drawn by stalemate", PLAY),
        ("Game drawn by timeout vs insufficient material", TIME),
        # ICC and FICS.
        ("White forfeits on time", TIME),
        ("Black ran out of time", TIME),
        ("White forfeits by disconnection", ABANDONMENT),
        ("Black resigns", PLAY),
        ("White checkmated", PLAY),
        # Cute Chess and fastchess.
        ("illegal move", ILLEGAL),
        ("stalled connection", ABANDONMENT),
        ("disconnect", ABANDONMENT),
        ("timeout", TIME),
        # Holdback's records and other harnesses of language models.
        ("illegal", ILLEGAL),
        ("unparsed", ILLEGAL),
        ("checkmate", PLAY),
        ("threefold_repetition", PLAY),
        ("cap100-wp75", PLAY),
        ("errored", ABANDONMENT),
        ("White made an ILLEGAL_MOVE", ILLEGAL),
        ("Black: invalid move", ILLEGAL),
        ("max moves reached", PLAY),
        ("time control 40/90, normal", PLAY),
        # Benchmarks of language models: no move was to be had.
        ("Unknown issue, failed to make a move", ILLEGAL),
        ("No valid move after 5 retries", ILLEGAL),
        ("Max retries exceeded", ILLEGAL),
        ("too many mistakes", ILLEGAL),
        ("White did not respond", ILLEGAL),
        ("no answer", ILLEGAL),
        ("empty response", ILLEGAL),
        ("player couldn't find a move", ILLEGAL),
        ("Draw: no legal moves", PLAY),
        ("Max moves reached (100 plies)", PLAY),
        # Nothing said.
        ("", PLAY),
        ("?", PLAY),
    ],
)
def test_knows_the_words_of_the_world(words, ending):
    """The standard's words, and sentences of servers, managers and harnesses."""
    assert read_ending(words) is ending


@pytest.mark.parametrize("name", ["Time Lord", "Abandoned", "illegal", "a", "Crash Test.*("])
def test_names_of_players_say_nothing(name):
    """A player called «Time Lord» wins by resignation, and «a» breaks up no word."""
    assert read_ending(f"{name} won by resignation", (name, "b")) is PLAY
    assert read_ending("White abandoned the game", (name, "b")) is (
        None if name == "Abandoned" else ABANDONMENT
    )
    assert read_ending("time forfeit", ("time forfeit", "b")) is TIME


@pytest.mark.parametrize("words", ["Unknown issue", "zugzwangitis", "exit code 3"])
def test_what_is_not_understood_is_none(words):
    """Neither play nor forfeit is read into words that say neither."""
    assert read_ending(words) is None


@given(st.text(), st.text(), st.text())
def test_reads_any_text(words, white, black):
    """Whatever stands there is classified, or is not understood."""
    assert isinstance(read_ending(words, (white, black)), Ending | None)
