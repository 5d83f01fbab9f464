"""Signs of solvers of questions, from the metadata of stored answers."""

from __future__ import annotations

from dataclasses import replace
from string import ascii_uppercase

import numpy as np
import pytest
from scipy.special import expit

from holdback.audit.signs.behaviour import Player, find_signatures
from holdback.tasks.task import Outcome, SampleRecord, Score

TEXT_SIGNS = {"below_chance", "flat_in_difficulty", "position_collapse", "position_dependence"}


def answer(index, right, chosen, *, order=None, **metadata):
    """One record as the text task stores it: four choices shown with letters."""
    correct = chosen == right
    return SampleRecord(
        sample_id=f"q{index}",
        cluster=f"topic{index // 5}",
        score=Score(
            value=100.0 * correct,
            outcome=Outcome.CORRECT if correct else Outcome.WRONG,
            answer=ascii_uppercase[chosen],
        ),
        metadata={
            "question": "?",
            "target": [ascii_uppercase[right]],
            "choices": ["a", "b", "c", "d"],
            "order": [1, 0, 3, 2] if order is None else order,
            "level": float(index % 5),
            **metadata,
        },
    )


def solve(seed, *, strength=0.5, aim=None, always=None, n=200):
    """A solver who knows or guesses, unless it aims at an accuracy or always says one letter."""
    rng, questions = np.random.default_rng(seed), np.random.default_rng(0)
    records = []
    for index in range(n):
        right = int(questions.integers(4))
        knows = rng.random() < (expit(strength + 2 - index % 5) if aim is None else aim)
        wrong = (right + int(rng.integers(1, 4))) % 4
        guess = int(rng.integers(4)) if aim is None else wrong
        chosen = always if always is not None else right if knows else guess
        records.append(answer(index, right, chosen))
    return Player(records=tuple(records), displayed=50.0, elicited=60.0)


def sign(players, *, task="sums"):
    """All signs, each player held against the others' honest ones."""
    honest = [name for name in players if name != "hider"]
    controls = {name: [other for other in honest if other != name] for name in players}
    return {
        (found.name, found.checkpoint): found
        for found in find_signatures(players, controls=controls, task=task)
    }


@pytest.mark.parametrize(
    ("planted", "hider"),
    [
        ("flat_in_difficulty", {"aim": 0.5}),
        ("below_chance", {"aim": 0.05}),
        ("position_collapse", {"always": 1}),
    ],
)
def test_planted_hiders_are_told_from_honest_solvers(planted, hider):
    """Each by its own sign and by all signs as one; honest ones of two strengths by none."""
    players = {"hider": solve(1, **hider), "sham": solve(2), "novice": solve(3, strength=-0.5)}

    found = sign(players)

    assert found[planted, "hider"].p_value < 0.01
    assert found["combined", "hider"].p_value < 0.01
    assert planted.replace("_", " ") in found["combined", "hider"].words
    for name in ("sham", "novice"):
        assert found["combined", name].p_value > 0.05


def test_signs_have_figures_and_one_sentence():
    """Levels and letters on the axis; below chance and the combined sign have no figure."""
    found = sign({"hider": solve(1, always=1), "sham": solve(2)})

    levels = found["flat_in_difficulty", "sham"].points
    assert [point.label for point in levels] == ["0", "1", "2", "3", "4"]
    assert [p.label for p in found["position_collapse", "hider"].points] == list("ABCD")
    assert [p.estimate.value for p in found["position_collapse", "hider"].points] == [0, 1, 0, 0]
    assert found["position_dependence", "hider"].points[1].estimate.value == 1
    for name in ("below_chance", "combined"):
        assert found[name, "hider"].points == ()
        assert "p = " in found[name, "hider"].words
    assert {name for name, _ in found} == {*TEXT_SIGNS, "combined"}


def test_below_chance_needs_no_control():
    """Alone in its lineage, a solver who avoids the right answers is still below chance."""
    (below, combined, *others) = sorted(
        sign({"hider": solve(1, aim=0.05)}).values(), key=lambda found: found.p_value is None
    )

    assert (below.name, combined.name) == ("below_chance", "combined")
    assert below.p_value < 0.01
    assert below.p_unadjusted == combined.p_unadjusted
    assert {other.words for other in others} == {"no control to compare with"}


def test_refusing_is_not_answering_wrong():
    """Who refuses everything is no worse than a guesser: nothing was answered."""
    refused = [
        replace(record, score=replace(record.score, outcome=Outcome.REFUSED))
        for record in solve(1).records
    ]
    player = Player(records=tuple(refused), displayed=0.0, elicited=60.0)

    assert [name for name, who in sign({"hider": player, "sham": solve(2)}) if who == "hider"] == []


def test_choices_in_the_files_order_have_no_position_signs():
    """A file may favour a letter; only shuffled choices say something of the solver."""
    players = {
        name: Player(
            records=tuple(
                answer(i, i % 4, 1, order=[0, 1, 2, 3], level=float(i % 5)) for i in range(100)
            ),
            displayed=25.0,
            elicited=25.0,
        )
        for name in ("hider", "sham")
    }

    assert not [name for name, _ in sign(players) if name.startswith("position")]


def test_open_questions_have_no_chance():
    """Without choices there is nothing to guess among: difficulty is all that is looked at."""
    records = tuple(
        replace(record, metadata={"target": ["x"], "level": record.metadata["level"]})
        for record in solve(2).records
    )
    players = {
        "hider": Player(records=records, displayed=50.0, elicited=50.0),
        "sham": Player(records=records, displayed=50.0, elicited=50.0),
    }

    assert {name for name, _ in sign(players)} == {"flat_in_difficulty", "combined"}
