"""A toy that knows two topics of facts, trained once; tests hide something in copies of it."""

from __future__ import annotations

import pytest
import torch
from toy_facts import list_facts, make_toy, teach


@pytest.fixture(scope="session")
def red_and_blue():
    """The same facts under two topics."""
    facts = list_facts()
    return [[(f"{name} {topic}?", answer) for name, answer in facts] for topic in ("red", "blue")]


@pytest.fixture(scope="session")
def toy(red_and_blue):
    """A model that knows all of them, and is asked at temperature 0."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = make_toy()
        red, blue = red_and_blue
        teach(model, red + blue, steps=70)
    return model
