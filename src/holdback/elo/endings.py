"""What the `Termination` tag of a PGN says about how a game ended.

The standard has eight words for it, servers and tournament managers write sentences of their own
(«White forfeits on time», «won by disqualification»). Four things matter for a rating: whether the
game was decided by play, and if not, whether by the rules, by the clock or by absence.

Source: Edwards (1994), «Portable Game Notation Specification», §9.8.1; words of lichess, chess.com,
ICC, Cute Chess and fastchess, and of Holdback's own records.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from enum import StrEnum


class Ending(StrEnum):
    """How a game came to its result."""

    PLAY = "play"
    """Mate, resignation, agreement, the rules of draws, adjudication; or nothing is said."""
    ILLEGAL = "illegal move"
    """A move that the rules forbid or nobody can read, none at all, or a breach of the rules."""
    TIME = "time"
    ABANDONMENT = "abandonment"
    """Left, disconnected, crashed, did not appear, died."""
    UNFINISHED = "unfinished"

    @property
    def forfeit(self) -> bool:
        """Whether something else than play decided."""
        return self in (Ending.ILLEGAL, Ending.TIME, Ending.ABANDONMENT)


_STANDARD = {
    "abandoned": Ending.ABANDONMENT,
    "adjudication": Ending.PLAY,
    "death": Ending.ABANDONMENT,
    "emergency": Ending.ABANDONMENT,
    "normal": Ending.PLAY,
    "rules infraction": Ending.ILLEGAL,
    "time forfeit": Ending.TIME,
    "unterminated": Ending.UNFINISHED,
}

# In this order: «abandoned on time» is the clock's, «timeout vs insufficient material» as well.
_WORDS = (
    (
        Ending.UNFINISHED,
        r"unterminated|unfinished|not (yet )?(finished|terminated|over)|in progress|ongoing"
        r"|abort|interrupt|adjourn|\*",
    ),
    (
        Ending.ILLEGAL,
        r"illegal|invalid|unparse|unread|rules? (infraction|violation)|infraction|disqualif|cheat"
        r"|fair play|\bwrong (move|action)|\brefus|\btruncated|hallucinat|\bgave up\b"
        r"|\bno (valid|playable|parsable|parseable|readable) move|\bretr(y|ies)\b|\battempts?\b"
        r"|\bmistakes\b|\b(no|empty|blank) (answer|response|reply)"
        r"|\bno move\b|(\bnot|n['’]t|\bfail(s|ed|ure|ing)? to) (make|give|return|produce|provide"
        r"|generate|play|choose|output|find|move|answer|respond|reply)\b",
    ),
    (
        Ending.TIME,
        # Neither «time control» nor «real time» is the clock's verdict.
        r"(?<!real )\btimes?\b(?! ?control)|time[ -]?out|\btimed[ -]out|\bflag|\bclock\b|overstep",
    ),
    (
        Ending.ABANDONMENT,
        r"abandon|forfeit|disconnect|connection|\bstall(ed|s|ing)?\b|crash|default|walk ?over"
        r"|no[ -]show|not (show|appear|start)|\bleft\b|\bquits?\b|\bdied?\b|\bdeath\b|emergency"
        r"|\berror|exception|unresponsive",
    ),
)
_PLAYED = re.compile(
    r"\bnormal|\bmated?\b|check ?mate|stale ?mate|resign|\bdr[ae]wn?\b|agree|repetition|threefold"
    r"|fivefold|\bmoves?\b|\bply|\bplies\b|fifty|seventy|material|adjudicat|bare king|concede"
    r"|king of the hill|three[ -]?check|variant|score|tablebase|\btb\b|syzygy|\bcap\d|\bpoints\b"
    r"|claim|won by play|game over|completed|finished"
)
_PATTERNS = tuple((ending, re.compile(words)) for ending, words in _WORDS)


def read_ending(termination: str, players: Iterable[str] = ()) -> Ending | None:
    """Classify what a `Termination` tag says.

    Args:
        termination: Its value; empty or `?` where there is none.
        players: Names in the game, which sentences repeat: «Overtime won by resignation».

    Returns:
        The ending, `PLAY` where nothing is said; None for words that are not understood.
    """
    text = _simplify(termination)
    if text in ("", "?", "-"):
        return Ending.PLAY
    if text in _STANDARD:
        return _STANDARD[text]
    for name in sorted(map(_simplify, players), key=len, reverse=True):
        if name:
            text = re.sub(rf"(?<!\w){re.escape(name)}(?!\w)", "", text)
    for ending, pattern in _PATTERNS:
        if pattern.search(text):
            return ending
    return Ending.PLAY if _PLAYED.search(text) else None


def _simplify(text: str) -> str:
    return " ".join(text.replace("_", " ").casefold().split())
