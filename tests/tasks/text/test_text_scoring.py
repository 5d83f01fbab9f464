"""Answers are read and compared as people would, and refusals are told from answers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdback.models.protocol import Generation, StopReason
from holdback.tasks.task import Outcome
from holdback.tasks.text.scoring import (
    Scorer,
    choose_by_vote,
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
    ],
)
def test_letters_are_read(text, letter):
    """From the start, or from what the text calls its answer; never from inside a word."""
    assert read_answer(text, Scorer.CHOICE, letters="ABCD") == letter


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
