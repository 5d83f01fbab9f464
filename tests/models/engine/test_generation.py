"""What is generated for a request depends on it alone, and equals plain forward passes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_text import ARCHITECTURES, SENTENCES, make_text_model

from holdback.errors import CheckpointError, ConfigError
from holdback.models.engine.generation import draw_tokens, generate_texts
from holdback.models.engine.scoring import Limits
from holdback.models.protocol import Decoding, Request, StopReason

SHOTS = "\n\n".join(SENTENCES) + "\n\n"


def make_requests(n: int = 20) -> list[Request]:
    """Prompts of unequal length, most of them behind the same shots, with unequal lengths to go."""
    return [
        Request(
            prompt=(SHOTS if i % 4 else "") + SENTENCES[i % 4][: 10 + 2 * i],
            max_tokens=1 + (7 * i) % 24,
            seed=(5, i),
        )
        for i in range(n)
    ]


def continue_plainly(model, request: Request) -> tuple[list[int], list[float]]:
    """Greedy tokens and their log-probabilities from whole forward passes."""
    ids = model.encode(request.prompt)
    logprobs: list[float] = []
    drawn: list[int] = []
    while len(drawn) < request.max_tokens and not (set(drawn) & model.end_tokens):
        with torch.no_grad():
            logits = model.weights(input_ids=torch.tensor([ids + drawn]), use_cache=False).logits
        ranked = torch.log_softmax(logits[0, -1].double(), -1)
        drawn.append(int(ranked.argmax()))
        logprobs.append(float(ranked.max()))
    return drawn, logprobs


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_greedy_continuations_equal_plain_passes(architecture):
    """For every architecture, as rows enter behind a shared beginning and leave one by one."""
    model = make_text_model(architecture)
    requests = make_requests()

    generations = generate_texts(model, requests, Limits(rows=6, tokens=200))

    for request, generation in zip(requests, generations, strict=True):
        drawn, logprobs = continue_plainly(model, request)
        ended = drawn[-1] in model.end_tokens
        assert generation.text == model.decode(drawn[:-1] if ended else drawn)
        assert generation.stop_reason is (StopReason.STOP if ended else StopReason.LENGTH)
        assert generation.tokens == len(drawn)
        np.testing.assert_allclose(generation.logprobs, logprobs, atol=1e-4)


def test_a_draw_depends_on_its_own_request_only():
    """Alone, or in batches of any size and company, a request gives the same text."""
    model = make_text_model(temperature=1.0)
    requests = make_requests()
    together = model.generate(requests)

    for rows in (1, 8, 64):
        again = generate_texts(model, requests[::-1], Limits(rows=rows, tokens=300))[::-1]
        assert [one.text for one in again] == [one.text for one in together]
        for one, other in zip(again, together, strict=True):
            np.testing.assert_allclose(one.logprobs, other.logprobs, atol=1e-4)

    other = model.generate([replace(request, seed=(6,)) for request in requests])
    assert [one.text for one in other] != [one.text for one in together]


def test_a_stop_string_ends_the_text_across_tokens():
    """At its first occurrence, whichever tokens it is made of; it is no part of the text."""
    model = make_text_model(temperature=1.0)
    free = Request(prompt=SENTENCES[0], max_tokens=60, seed=(3,))
    whole = model.generate([free])[0]
    stop = whole.text[20:24]
    assert len(model.encode(stop)) > 1

    (cut,) = model.generate([replace(free, stop=("never said", stop))])

    assert cut.text == whole.text[: whole.text.index(stop)]
    assert cut.stop_reason is StopReason.STOP
    assert cut.tokens < whole.tokens
    np.testing.assert_allclose(cut.logprobs, whole.logprobs[: cut.tokens], atol=1e-4)


def test_the_context_ends_a_text():
    """At the model's last position, as LENGTH; a prompt that fills it is one clear line."""
    model = make_text_model(temperature=1.0)
    model.weights.generation_config.eos_token_id = None
    ids = model.encode(SHOTS * 4)
    prompt = model.decode(ids[:250])
    assert len(model.encode(prompt)) == 250

    (cut,) = model.generate([Request(prompt=prompt, max_tokens=100, seed=(0,))])

    assert cut.stop_reason is StopReason.LENGTH
    assert cut.tokens <= 6
    with pytest.raises(ConfigError, match="no room for an answer"):
        model.generate([Request(prompt=SHOTS * 4, max_tokens=1, seed=(0,))])
    with pytest.raises(ConfigError, match="max_tokens of 1 at least, got 0"):
        model.generate([Request(prompt="x", max_tokens=0, seed=(0,))])


def test_a_model_that_gives_no_numbers_is_named():
    """NaN logits are an error that says what to do, never a text."""
    model = make_text_model(temperature=1.0)
    with torch.no_grad():
        model.weights.model.norm.weight.fill_(torch.nan)

    with pytest.raises(CheckpointError, match=r"'llama': expected finite logits, got NaN"):
        model.generate(make_requests(2))


def test_rows_leave_as_they_finish():
    """The passes cost what is generated, not rows times the longest."""
    model = make_text_model()
    computed = []
    handle = model.weights.get_input_embeddings().register_forward_hook(
        lambda _, args, __: computed.append(args[0].numel())
    )
    lengths = [1] * 15 + [40]
    requests = [Request(prompt="The quick", max_tokens=n, seed=()) for n in lengths]

    generated = sum(one.tokens for one in model.generate(requests))

    handle.remove()
    prompts = len(requests) * len(model.encode("The quick"))
    assert sum(computed) <= prompts + generated + 2 * 2 * 12


@given(
    st.integers(1, 700),
    st.lists(st.floats(0, 1, exclude_max=True), min_size=1, max_size=5),
    st.floats(0.3, 2.0),
    st.integers(0, 1000),
)
def test_draws_invert_the_summed_chances(vocabulary, draws, temperature, seed):
    """As one sum over the whole vocabulary would, and never an impossible token."""
    rng = np.random.default_rng(seed)
    logits = torch.from_numpy(rng.normal(size=(len(draws), vocabulary)) * 3)
    logits[:, rng.random(vocabulary) < 0.5] = -torch.inf
    logits[:, rng.integers(vocabulary)] = 0.0

    tokens, logprobs = draw_tokens(logits, temperature, np.array(draws))

    chances = torch.softmax(logits / temperature, -1).numpy()
    ends = chances.cumsum(-1)
    for row, (token, draw) in enumerate(zip(tokens, draws, strict=True)):
        assert chances[row, token] > 0
        assert ends[row, token] - chances[row, token] <= draw * ends[row, -1] + 1e-9
        assert ends[row, token] >= draw * ends[row, -1] - 1e-9
        assert logprobs[row] == pytest.approx(float(torch.log_softmax(logits, -1)[row, token]))


def test_no_requests_no_texts():
    """Nothing asked, nothing answered."""
    assert make_text_model().generate([]) == []
    assert make_text_model().score([]) == []
    assert replace(make_text_model(), decoding=Decoding()).generate([]) == []
