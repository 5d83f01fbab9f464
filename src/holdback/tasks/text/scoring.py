"""From what a model said to a score; what is missing has an outcome of its own."""

from __future__ import annotations

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from enum import StrEnum

from holdback.errors import CheckpointError
from holdback.models.protocol import Generation, Scored, StopReason
from holdback.tasks.task import Outcome, Score

RIGHT, NOT_RIGHT = 100.0, 0.0
_WRAPPING = "\"'`*“”"

# Only what opens an answer, and only first-person refusals: a model that reasons aloud about what
# cannot be, or quotes a refusal, has not refused. What this misses is `wrong`, never `correct`.
_REFUSAL = re.compile(
    r"^\W*(?:(?:i(?:'m| am) )?(?:(?:very |so |really )?sorry|afraid)\b[^.!?\n]{0,40}?[,.!;:]?\s*"
    r"(?:but )?|(?:i )?apologi[sz]e\b[^.!?\n]{0,40}?[,.!;:]\s*(?:but )?|unfortunately,? |as an ai"
    r"[^.,\n]{0,40}, )?"
    r"(?:i (?:can(?:'t|not| not)|won't|will not|am (?:unable|not able) to|'m (?:unable|not able)"
    r" to|must decline|decline to|refuse to|am not (?:comfortable|allowed|permitted))"
    r"|i'm (?:unable|not able|not comfortable|not allowed|not permitted))\b",
    re.IGNORECASE,
)


class Scorer(StrEnum):
    """How an answer is told from the right one."""

    CHOICE = "choice"
    """Which choice it is."""
    EXACT = "exact"
    """The same words, but for case, spacing and a full stop."""
    INCLUDES = "includes"
    """It has the target in it, as whole words."""
    PATTERN = "pattern"
    """What a regular expression finds is the same words."""


class Normalisation(StrEnum):
    """What a choice's log-likelihood is divided by before choices are compared."""

    NONE = "none"
    TOKEN = "token"
    BYTE = "byte"


def choose_likeliest(
    scored: Sequence[Scored], answers: Sequence[str], normalisation: Normalisation
) -> tuple[int, list[float]]:
    """Find the likeliest answer.

    Args:
        scored: One an answer.
        answers: Their texts.
        normalisation: `byte` divides by UTF-8 bytes (lm-eval's acc_norm divides by characters).

    Returns:
        Index of the likeliest, the first of equals, and what was compared, in nats.

    Raises:
        CheckpointError: for a log-likelihood that is not a number.
    """
    worth = []
    for part, answer in zip(scored, answers, strict=True):
        if math.isnan(part.logprob):
            raise CheckpointError(
                f"expected a log-likelihood for {answer!r}, got NaN: the model's logits are not"
                " finite; load it in float32, or check its weights"
            )
        lengths = {
            Normalisation.NONE: 1,
            Normalisation.TOKEN: part.tokens,
            Normalisation.BYTE: len(answer.encode()),
        }
        worth.append(part.logprob / max(1, lengths[normalisation]))
    return max(range(len(worth)), key=lambda at: worth[at]), worth


def read_answer(text: str, scorer: Scorer, *, pattern: str = "", letters: str = "") -> str | None:
    """Read the answer out of a text; None where it has none.

    Args:
        text: What the model said.
        scorer: How.
        pattern: For `pattern`: its last match counts, the first group of it if it has one.
        letters: For `choice`: those that stand for a choice.
    """
    match scorer:
        case Scorer.CHOICE:
            return _read_letter(text, letters)
        case Scorer.PATTERN:
            found = list(re.finditer(pattern, text))
            if not found:
                return None
            return (found[-1][1] if found[-1].re.groups else found[-1][0]) or None
        case _:
            return text.strip() or None


def score_generation(
    generation: Generation, answer: str | None, targets: Sequence[str], scorer: Scorer
) -> Score:
    """Score a generated answer.

    A right answer is right however it ended. Else, in this order: cut off by the provider or
    opening with a refusal is `refused`; cut off by length `truncated`, since what was to come is
    unknown; without an answer `unparsed`.
    """
    said = generation.text.strip()
    if answer is not None and _matches(answer, targets, scorer):
        return Score(value=RIGHT, outcome=Outcome.CORRECT, answer=answer)
    if generation.stop_reason is StopReason.REFUSED or is_refusal(said):
        outcome = Outcome.REFUSED
    # A letter that was read stands, whatever the model went on to say.
    elif generation.stop_reason is StopReason.LENGTH and (
        answer is None or scorer in (Scorer.EXACT, Scorer.INCLUDES)
    ):
        outcome = Outcome.TRUNCATED
    elif answer is None:
        outcome = Outcome.UNPARSED
    else:
        outcome = Outcome.WRONG
    return Score(value=NOT_RIGHT, outcome=outcome, answer=said if answer is None else answer)


def choose_by_vote(answers: Sequence[str | None]) -> int:
    """Find the draw whose answer is the most frequent; answers that are none do not vote.

    Returns:
        Index of the first draw with that answer; of the last draw where none has one.
    """
    read = [None if answer is None else normalise(answer) for answer in answers]
    votes = Counter(answer for answer in read if answer is not None)
    return read.index(votes.most_common(1)[0][0]) if votes else len(read) - 1


def is_refusal(text: str) -> bool:
    """Tell whether a text opens with a refusal; conservative: see the pattern's comment."""
    return _REFUSAL.match(text.replace("’", "'")) is not None


def normalise(text: str) -> str:
    """Write a text for comparison: case, spacing, quotes around it and a full stop do not count."""
    words = " ".join(unicodedata.normalize("NFKC", text).casefold().split())
    bare = words.strip(_WRAPPING).rstrip(".").strip(_WRAPPING)
    # A text of nothing but such marks is what it is, and not the empty text that all contain.
    return bare or words


def _matches(answer: str, targets: Sequence[str], scorer: Scorer) -> bool:
    if scorer is Scorer.INCLUDES:
        said = f" {normalise(answer)} "
        return any(
            re.search(rf"(?<!\w){re.escape(normalise(target))}(?!\w)", said) for target in targets
        )
    return normalise(answer) in map(normalise, targets)


def _read_letter(text: str, letters: str) -> str | None:
    """Read a letter that opens the text, or the last that it calls its answer."""
    kinds = f"[{letters}]"
    opened = re.match(rf"\s*[\(\[\"'*]*({kinds})(?![\w'’])", text)
    # «A bishop» opens with an article, not with an answer.
    if opened and not re.match(r"\s*A\s+[a-z]", text):
        return opened[1]
    named = re.findall(
        rf"(?:answer|choice|option)\b[^\n]{{0,20}}?[\s:*\(\[\"']({kinds})(?![\w'’])",
        text,
        re.IGNORECASE,
    )
    named = [letter for letter in named if letter.isupper()]
    return named[-1] if named else None
