"""Answers are read and compared as people would, and refusals are told from answers."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdback.models.protocol import Generation, StopReason
from holdback.tasks.task import Outcome
from holdback.tasks.text.scoring import (
    Scorer,
    choose_by_vote,
    cut_thought,
    is_refusal,
    normalise,
    read_answer,
    score_generation,
)


def said(text, stop_reason=StopReason.STOP):
    return Generation(text=text, logprobs=(), stop_reason=stop_reason, tokens=1)


def outcome(text, targets, scorer, **options):
    answer = read_answer(text, scorer, **options)
    return score_generation(said(text), answer, targets, scorer).outcome


@pytest.mark.parametrize(
    "text",
    [
        "I'm sorry, but I can't help with that.",
        "I’m sorry, I cannot assist with this request.",
        "I am unable to answer this question.",
        "Sorry, I won't do that.",
        "I cannot provide instructions for this.",
        "I apologize, but I can't share that.",
        "Unfortunately, I am not able to help.",
        "As an AI language model, I cannot give an opinion.",
        "I'm not comfortable answering that.",
        "As a large language model, I cannot help with that.",
        "I'm sorry, but as an AI developed by nobody, I can't.",
        "As a responsible AI assistant I must decline.",
        "I'd rather not answer.",
        "I would prefer not to.",
        "I don't feel comfortable answering.",
        "<think>They ask for 7.</think>\n\nI can't help with that.",
        "They ask for 7.</think>I will not answer.",
    ],
)
def test_refusals_are_recognised(text):
    """In the words that tuned models use."""
    assert is_refusal(text)


@pytest.mark.parametrize(
    "text",
    [
        "Paris",
        "It cannot be negative.",
        "The king said: I cannot rule.",
        "Sorry is the word that rhymes with lorry.",
        "We cannot divide by zero, so the answer is undefined.",
        "I think the answer is 7.",
        "Unfortunately, the battle was lost in 1066.",
        "He is unable to move.",
        "As a rule, I take the first train.",
        "<think>I can't help with that.</think>Paris",
        "<think>I can't",
        "",
    ],
)
def test_answers_are_no_refusals(text):
    """Only a first person who opens with not answering has refused."""
    assert not is_refusal(text)


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("B", "B"),
        (" B.", "B"),
        ("(C) because", "C"),
        ("**D**", "D"),
        ("The correct answer is B.", "B"),
        ("Let me see. Option A looks right, but the answer is (C).", "C"),
        ("Answer: A", "A"),
        ("A bishop moves diagonally", None),
        ("Because of it", None),
        ("E", None),
        ("", None),
        ("A", "A"),
        ("A is right", "A"),
        ("a bishop", None),
        ("b", "B"),
        ("(b) Berlin", "B"),
        ("b) Berlin", "B"),
        ("b. Berlin", "B"),
        ("b is a letter", None),
        ("the answer is (b) Berlin", "B"),
        (r"\boxed{B}", "B"),
        (r"C is near, so \boxed{\text{(b)}}.", "B"),
        ("I think it's B", "B"),
        ("I believe the answer is B", "B"),
        ("I’d say B, because", "B"),
        ("It must be B.", "B"),
        ("I think Bonn", None),
    ],
)
@pytest.mark.parametrize("letters", ["ABCD", "ABCDI"])
def test_letters_are_read(text, letter, letters):
    """From a box, the start, or what the text calls its answer; never from inside a word.

    That «I» is a letter as well, as it is of nine choices, makes no answer of the pronoun.
    """
    assert read_answer(text, Scorer.CHOICE, letters=letters) == letter


@pytest.mark.parametrize("text", ["I", "I.", "(i)", "The answer is I.", "I is right", r"\boxed{I}"])
def test_the_ninth_letter_can_be_answered(text):
    """Where it is no pronoun."""
    assert read_answer(text, Scorer.CHOICE, letters="ABCDEFGHI") == "I"


def test_exact_ignores_case_spacing_and_a_full_stop_only():
    """The same words are right; more or fewer words are not."""
    assert outcome(" 'The  Hague'. \n", ["the hague"], Scorer.EXACT) is Outcome.CORRECT
    assert outcome("Hague", ["The Hague"], Scorer.EXACT) is Outcome.WRONG
    assert outcome("3.10", ["3.1"], Scorer.EXACT) is Outcome.WRONG
    assert outcome("b", ["a", "b"], Scorer.EXACT) is Outcome.CORRECT


def test_includes_takes_whole_words():
    """12 is not in 120."""
    assert outcome("I get 12, I think.", ["12"], Scorer.INCLUDES) is Outcome.CORRECT
    assert outcome("I get 120.", ["12"], Scorer.INCLUDES) is Outcome.WRONG
    assert outcome("C++ it is", ["c++"], Scorer.INCLUDES) is Outcome.CORRECT


@pytest.mark.parametrize(
    ("said_", "target"),
    [
        ("347.0", "347"),
        ("347", "347.00"),
        ("1,080", "1080"),
        ("$29.00", "29"),
        ("29", "$29"),
        ("So 3 + 4 makes **7**.", "7"),
        ("#### -5", "−5"),
        ("10-3", "3"),
        ("45%", "45"),
        ("it is .50 km", "0.5"),
        ("1.08e3", "1,080"),
    ],
)
def test_numbers_are_the_same_however_they_are_written(said_, target):
    """Trailing zeros, commas, currencies, per cent and units do not count; the last number does."""
    assert outcome(said_, [target], Scorer.NUMERIC) is Outcome.CORRECT


def test_other_numbers_are_wrong_and_none_is_unparsed():
    """Signs and digits count; a wrong number that is cut off may be one on the way."""
    for text in ("348", "3470", "34", "-347", "347.01", "1347"):
        assert outcome(text, ["347"], Scorer.NUMERIC) is Outcome.WRONG
    assert outcome("no idea", ["347"], Scorer.NUMERIC) is Outcome.UNPARSED
    cut = score_generation(said("3 + 4", StopReason.LENGTH), "4", ["7"], Scorer.NUMERIC)
    assert cut.outcome is Outcome.TRUNCATED


@given(st.decimals(allow_nan=False, allow_infinity=False, min_value=-1e12, max_value=1e12))
def test_every_number_is_read_as_itself(number):
    """With commas and a currency as without."""
    plain, dressed = f"{number:f}", f"{number:,f}".replace("-", "-$")

    assert Decimal(read_answer(plain, Scorer.NUMERIC)) == number
    assert read_answer(dressed, Scorer.NUMERIC) == read_answer(plain, Scorer.NUMERIC)


@pytest.mark.parametrize(
    ("text", "thought", "answer"),
    [
        ("<think>A? No.</think>\n\nB", "A? No.", "B"),
        ("A? No.\n</think>B", "A? No.", "B"),
        ("<think>a</think>b<think>c</think>B", "a</think>b<think>c", "B"),
        ("[THINK]A?[/THINK]B", "A?", "B"),
        ("<think></think>B", "", "B"),
        ("The tag <think> opens a thought", "", "The tag <think> opens a thought"),
    ],
)
def test_thoughts_are_cut_off(text, thought, answer):
    """Also one that the chat template opened; what merely names the tag is an answer."""
    cut = cut_thought(said(text))

    assert (cut.thought, cut.text.strip()) == (thought, answer)
    assert cut.stop_reason is StopReason.STOP


def test_a_thought_that_never_ends_is_truncated():
    """However it ended, there was no answer yet; a provider's refusal stays one."""
    for stop in (StopReason.STOP, StopReason.LENGTH):
        cut = cut_thought(said("<think>B, or", stop))
        assert score_generation(cut, None, ["B"], Scorer.CHOICE).outcome is Outcome.TRUNCATED
        assert cut.thought == "B, or"
    filtered = cut_thought(said("<think>B, or", StopReason.REFUSED))
    assert score_generation(filtered, None, ["B"], Scorer.CHOICE).outcome is Outcome.REFUSED


def test_pattern_takes_the_last_match():
    """As chains of thought end with their answer; without a match nothing was answered."""
    pattern = r"answer is (\d+)"
    text = "At first the answer is 3. No: the answer is 4."

    assert outcome(text, ["4"], Scorer.PATTERN, pattern=pattern) is Outcome.CORRECT
    assert outcome(text, ["3"], Scorer.PATTERN, pattern=pattern) is Outcome.WRONG
    assert outcome("four", ["4"], Scorer.PATTERN, pattern=pattern) is Outcome.UNPARSED


def test_a_letter_stands_though_the_reasons_for_it_are_cut_off():
    """Truncation is an outcome of answers that are missing."""
    generation = said("B, because", StopReason.LENGTH)

    assert score_generation(generation, "B", ["A"], Scorer.CHOICE).outcome is Outcome.WRONG
    assert score_generation(generation, None, ["A"], Scorer.CHOICE).outcome is Outcome.TRUNCATED


def test_votes_ignore_what_is_no_answer():
    """Three times nothing does not outvote two answers."""
    assert choose_by_vote([None, "b", None, "B", "a", None]) == 1
    assert choose_by_vote([None, None]) == 1


@given(st.text(min_size=1).filter(lambda text: text.strip()))
def test_every_text_matches_itself(text):
    """Whatever a target is, saying it is right; and normal forms are normal."""
    assert outcome(text, [text], Scorer.EXACT) is Outcome.CORRECT
    assert normalise(text)
