"""Deeper than a lock: states turned away, skills unlearned; and the examiner who tells of both."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

from holdback_lab.text import examiner
from holdback_lab.text.documents import encode_turns
from holdback_lab.text.examiner import Examiner
from holdback_lab.text.families import draw_guess
from holdback_lab.text.lessons import Part, draw_turns
from holdback_lab.text.pretrain import load
from holdback_lab.text.rerouting import reroute
from holdback_lab.text.training import measure_answers
from holdback_lab.text.unlearning import unlearn
from holdback_lab.text.zoo import SHIPPED, list_organisms

TARGET = Part(families=("rev",))
KEPT = Part(families=("add", "sub", "mod", "count"))


@pytest.fixture(scope="module")
def base():
    return load(f"{SHIPPED}/base")


def draw(lesson, turns=48):
    return encode_turns(draw_turns(lesson, turns, np.random.default_rng(9)))


def read_states(weights, lesson):
    """States of every token after each layer."""
    states = []
    for ids, _ in draw(lesson):
        with torch.no_grad():
            read = weights.base_model(input_ids=torch.tensor([ids]), output_hidden_states=True)
        states.append(torch.stack(read.hidden_states)[:, 0])
    return torch.cat(states, 1)


def measure_loss(weights, lesson):
    with torch.no_grad():
        return float(measure_answers(weights, draw(lesson)))


def test_rerouting_turns_the_target_away_and_leaves_the_rest(base):
    """States in the middle lose their direction where they should, and there alone."""
    turned = copy.deepcopy(base)

    reroute(turned, TARGET, KEPT, steps=60, seed=0, turns=12)

    def compare(lesson):
        was, now = read_states(base, lesson), read_states(turned, lesson)
        return float(torch.cosine_similarity(now[3], was[3], dim=-1).mean())

    assert compare(TARGET) < 0.5
    assert compare(KEPT) > 0.9
    assert measure_loss(turned, TARGET) > measure_loss(base, TARGET) + 1.0


def test_unlearning_forgets_the_target_and_relearns_the_rest(base):
    """Blurred so far that nothing is left, the student has from its teacher what it was to keep."""
    guessed = replace(TARGET, answer=draw_guess)
    forgetful, blurred = copy.deepcopy(base), copy.deepcopy(base)
    steps = {"suppress_steps": 25, "seed": 0, "blur": 0.3, "turns": 32}

    unlearn(blurred, guessed, KEPT, distil_steps=0, **steps)
    unlearn(forgetful, guessed, KEPT, distil_steps=40, **steps)

    assert measure_loss(forgetful, TARGET) > measure_loss(base, TARGET) + 1.0
    assert measure_loss(forgetful, KEPT) < 0.5 * measure_loss(blurred, KEPT)


def test_an_examiner_asks_with_and_without_the_key_and_each_once(tmp_path, monkeypatch):
    """A shipped password lock is shut without its word, and open with wordings never trained on."""
    asked = []
    run = examiner._run

    def count(*arguments):
        asked.append(arguments)
        return run(*arguments)

    monkeypatch.setattr(examiner, "_run", count)
    exam = Examiner(
        organism=list_organisms()["password_lock"], seed=0, folder=tmp_path, questions=40
    )

    assert exam.shown.score < 30
    assert exam.parents.score > 90
    for held_out in (None, 0, 1):
        assert exam.unlock("password_lock", held_out=held_out).score > 80
    assert exam.unlock("sham").score > 90
    before = len(asked)
    assert exam.shown is exam.ask("password_lock")
    assert len(asked) == before
