"""A graphics card, where there is one, answers as the processor does."""

import numpy as np
import pytest
import torch

from holdback.lineage import Checkpoint, Stage
from holdback.models.local import load_model
from holdback.models.protocol import Format, Request
from holdback_lab.text.documents import Exchange, write_parts
from holdback_lab.text.families import TAUGHT, draw_problem

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a graphics card")


def test_generation_is_the_processors():
    """The same texts, and log-probabilities of their tokens within 1e-4 nats."""
    rng = np.random.default_rng(0)
    problems = [draw_problem(str(rng.choice(list(TAUGHT))), rng) for _ in range(200)]
    prompts = [
        write_parts(Exchange(question=problem.question, answer=""), Format.CHAT)[0]
        for problem in problems
    ]
    requests = [
        Request(prompt=prompt, max_tokens=10, seed=(1, at)) for at, prompt in enumerate(prompts)
    ]

    ours, theirs = (answer_on(device, requests) for device in ("cpu", "cuda"))

    assert [answer.text for answer in theirs] == [answer.text for answer in ours]
    for answer, other in zip(ours, theirs, strict=True):
        assert other.logprobs == pytest.approx(answer.logprobs, abs=1e-4)


def answer_on(device, requests):
    where = Checkpoint(
        name="base", stage=Stage.PRETRAINED, model="builtin:text/base", device=device
    )
    return load_model(where).generate(requests)
