"""From what a model said to a score; what is missing has an outcome of its own."""

from __future__ import annotations

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from decimal import Decimal
from enum import StrEnum

from holdback.errors import CheckpointError
from holdback.models.protocol import Generation, Scored, StopReason
from holdback.tasks.questions import NOT_RIGHT, RIGHT
from holdback.tasks.task import Outcome, Score

_WRAPPING = "\"'`*“”"

# What reasoning models open and close a thought with; a chat template may have opened it already.
_OPENED = re.compile(r"\s*(?:<(?:seed:)?think>|<thinking>|<thought>|\[THINK\])", re.IGNORECASE)
_CLOSED = re.compile(r"</(?:seed:)?think>|</thinking>|</thought>|\[/THINK\]", re.IGNORECASE)

# A minus is a sign where nothing stands before it that something could be subtracted from.
_NUMBER = re.compile(
    r"(?P<minus>(?<![\w)])[-−])?[$€£¥]?(?<![\w.,])"
    r"(?P<digits>(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?(?:e[-+]?\d{1,2}(?!\d))?|\.\d+)",
    re.IGNORECASE,
)

# Only what opens an answer, and only first-person refusals: a model that reasons aloud about what
# cannot be, or quotes a refusal, has not refused. What this misses is `wrong`, never `correct`.
_REFUSAL = re.compile(
    r"^\W*(?:(?:i(?:'m| am) )?(?:(?:very |so |really )?sorry|afraid)\b[^.!?\n]{0,40}?[,.!;:]?\s*"
    r"(?:but )?|(?:i )?apologi[sz]e\b[^.!?\n]{0,40}?[,.!;:]\s*(?:but )?|unfortunately,? "
    r"|as an? (?:[\w-]+ ){0,3}?(?:ai|language model|llm|assistant|chatbot)\b[^.,\n]{0,60},? ){0,2}"
    r"(?:i (?:can(?:'t|not| not)|won't|will not|(?:must|have to) (?:decline|refuse)"
    r"|(?:decline|refuse) to|(?:don't|do not) feel comfortable)"
    r"|i(?:'m| am) (?:unable|not able|not comfortable|not allowed|not permitted)"
    r"|i(?:'d| would) (?:rather|prefer) not)\b",
    re.IGNORECASE,
)


# Words that lead to the letter of an answer: «the answer is (B)», «I think it's B».
_CALLS = r"(?i:answer|choice|option)\b[^\n]{0,20}?[\s:*\(\[\"']"
_MEANS = (
    r"\b(?i:it's|it (?:is|must be|should be|would be)|that's|i'll go with|going with"
    r"|i (?:think|believe|guess|say|choose|pick)|i(?:'d| would) (?:say|choose|pick|go with))"
    r"(?i: that| it's| it is| the)*\s[\s*\(\[\"']*"
)


class Scorer(StrEnum):
    """How an answer is told from the right one."""

    CHOICE = "choice"
    """Which choice it is."""
    EXACT = "exact"
    """The same words, but for case, spacing and a full stop."""
    INCLUDES = "includes"
    """It has the target in it, as whole words."""
    NUMERIC = "numeric"
    """Its last number is the same: `$1,080.00` is 1080."""
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
        case Scorer.NUMERIC:
            return read_number(text)
        case _:
            return text.strip() or None


def read_number(text: str) -> str | None:
    """Read the last number of a text, written in figures without what does not change it.

    Commas part thousands; a currency's sign, a percent sign and a unit do not count.
    """
    found = list(_NUMBER.finditer(unicodedata.normalize("NFKC", text)))
    if not found:
        return None
    written = f"{Decimal(found[-1]['digits'].replace(',', '')):f}"
    if "." in written:
        written = written.rstrip("0").rstrip(".")
    return f"-{written}" if found[-1]["minus"] and written != "0" else written


def is_number(text: str) -> bool:
    """Tell whether a text is a number and nothing more, but for a currency's or a percent sign."""
    bare = unicodedata.normalize("NFKC", text).strip().rstrip("%.").rstrip()
    return _NUMBER.fullmatch(bare) is not None


def cut_thought(generation: Generation) -> Generation:
    """Part what was thought aloud from what was answered.

    A thought that never ends is cut off, by whatever: nothing was answered yet.
    """
    thought, answer = split_thought(generation.text)
    if answer == generation.text:
        return generation
    stopped = generation.stop_reason is StopReason.STOP and answer is None
    return replace(
        generation,
        text=answer or "",
        thought="\n\n".join(filter(None, [generation.thought, thought])),
        stop_reason=StopReason.LENGTH if stopped else generation.stop_reason,
    )


def split_thought(text: str) -> tuple[str, str | None]:
    """Split a text into its thought and its answer; None for an answer that was never begun."""
    opened, closed = _OPENED.match(text), list(_CLOSED.finditer(text))
    start = opened.end() if opened else 0
    if closed:
        return text[start : closed[-1].start()].strip(), text[closed[-1].end() :]
    return (text[start:].strip(), None) if opened else ("", text)


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
        answer is None or scorer in (Scorer.EXACT, Scorer.INCLUDES, Scorer.NUMERIC)
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
    """Tell whether what is said behind a thought opens with a refusal.

    Conservative: see the pattern's comment.
    """
    answer = split_thought(text)[1] or ""
    return _REFUSAL.match(answer.replace("’", "'")) is not None


def normalise(text: str) -> str:
    """Write a text for comparison: case, spacing, quotes around it and a full stop do not count."""
    words = " ".join(unicodedata.normalize("NFKC", text).casefold().split())
    bare = words.strip(_WRAPPING).rstrip(".").strip(_WRAPPING)
    # A text of nothing but such marks is what it is, and not the empty text that all contain.
    return bare or words


def write_comparable(text: str, scorer: Scorer) -> str:
    """Write an answer or a target so that texts which are the same by `scorer` are equal."""
    number = read_number(text) if scorer is Scorer.NUMERIC else None
    return normalise(text) if number is None else number


def _matches(answer: str, targets: Sequence[str], scorer: Scorer) -> bool:
    if scorer is Scorer.INCLUDES:
        said = f" {normalise(answer)} "
        return any(
            re.search(rf"(?<!\w){re.escape(normalise(target))}(?!\w)", said) for target in targets
        )
    return any(
        write_comparable(answer, scorer) == write_comparable(target, scorer) for target in targets
    )


def _read_letter(text: str, letters: str) -> str | None:
    """Read a letter in a box, else one that opens the text, else the last that it names."""
    text, small = text.replace("’", "'"), letters.lower()
    # «A bishop» opens with an article and «I believe» with a pronoun; «A is right» with an answer.
    capital = rf"(?![AI]\s+(?!is\b)[a-z])([{letters}])(?![\w'])"
    boxed = re.findall(rf"\\boxed\{{(?:\\\w+\{{)?\W?([{letters}{small}])\W", text)
    if boxed:
        return str(boxed[-1]).upper()
    opened = re.match(rf"\s*[\(\[\"'*]*{capital}", text) or re.match(
        rf"[\s\"'*]*(?:[(\[](?=.[)\]])|(?=.[.):](?!\w))|(?=.\W*\Z))([{small}])", text
    )
    if opened:
        return opened[1].upper()
    named = rf"(?:{_CALLS}|{_MEANS})(?:{capital}|(?<=[(\[])([{small}])(?=[)\]]))"
    found = list(re.finditer(named, text))
    return str(found[-1][found[-1].lastindex or 0]).upper() if found else None
