"""lm-eval's requests get the numbers that lm-eval's own `hf` model gives for the same weights."""

from __future__ import annotations

import pytest
from lm_eval.api.instance import Instance
from lm_eval.api.registry import get_model
from lm_eval.models.huggingface import HFLM
from tiny_text import SENTENCES, make_text_model

from holdback.errors import ConfigError
from holdback.lm_eval import HoldbackLM, find_limit

PAIRS = [
    ("Question: which of these towns? Answer:", " the second"),
    ("Question: which of these towns? Answer:", " none of these"),
    ("Question: which of these towns? Answer: ", "nine"),
    ("", "The quick brown fox"),
    ("A. one\nB. two\n\n", "C"),
]


def ask(kind, *args, idx=0):
    return Instance(request_type=kind, doc={}, arguments=args, idx=idx)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny")
    model = make_text_model()
    model.weights.save_pretrained(folder)
    model.tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def ours(checkpoint):
    return HoldbackLM(f"{checkpoint}?chat=false")


@pytest.fixture(scope="module")
def theirs(checkpoint):
    return HFLM(pretrained=str(checkpoint), device="cpu", dtype="float32", batch_size=4)


def test_registered_under_its_name():
    """`--model holdback` finds it."""
    assert get_model("holdback") is HoldbackLM


def test_loglikelihoods_are_those_of_hf(ours, theirs):
    """Contexts, trailing spaces, the empty context and greediness, to 1e-4."""
    requests = [ask("loglikelihood", *pair, idx=i) for i, pair in enumerate(PAIRS)]

    expected = theirs.loglikelihood(requests, disable_tqdm=True)
    got = ours.loglikelihood(requests)

    assert [logprob for logprob, _ in got] == pytest.approx(
        [logprob for logprob, _ in expected], abs=1e-4
    )
    assert [greedy for _, greedy in got] == [greedy for _, greedy in expected]


def test_rolling_loglikelihood_of_a_text_that_fits_is_that_of_hf(ours, theirs):
    """Conditioned on the token that begins texts."""
    requests = [ask("loglikelihood_rolling", text) for text in SENTENCES]

    expected = theirs.loglikelihood_rolling(requests, disable_tqdm=True)

    assert ours.loglikelihood_rolling(requests) == pytest.approx(expected, abs=1e-3)


def test_windows_of_a_long_text_score_each_token_once(ours):
    """Their texts joined are the text, their tokens are its tokens, and each fits."""
    text = " ".join(SENTENCES * 12)
    limit = find_limit(ours.lent)
    windows = list(ours._cut_windows(text))
    tokens = [len(ours.lent.encode(window.continuations[0])) for window in windows]

    assert limit is not None
    assert len(ours.lent.encode(text)) > 2 * limit
    assert "".join(window.continuations[0] for window in windows) == text
    assert sum(tokens) == len(ours.lent.encode(text))
    assert all(
        len(ours.lent.encode(window.prompt + window.continuations[0])) <= limit
        for window in windows
    )
    assert ours.loglikelihood_rolling([ask("loglikelihood_rolling", text)])[0] < 0


def test_greedy_generation_is_that_of_hf(ours, theirs):
    """To the token, and up to the stop string."""
    options = {"until": ["e"], "max_gen_toks": 12, "do_sample": False}
    requests = [ask("generate_until", text, dict(options)) for text in SENTENCES]

    expected = theirs.generate_until(requests, disable_tqdm=True)

    assert ours.generate_until(requests) == expected


def test_repeated_samples_differ_and_can_be_repeated(checkpoint):
    """With a temperature each repeat is another draw, the same ones in every run."""
    options = {"until": [], "max_gen_toks": 12, "do_sample": True, "temperature": 1.0}
    requests = [ask("generate_until", SENTENCES[0], dict(options)) for _ in range(3)]

    first, second = (HoldbackLM(f"{checkpoint}?chat=false").generate_until(requests) for _ in "ab")

    assert first == second
    assert len(set(first)) == 3


def test_a_rung_is_in_the_numbers_and_in_the_name(checkpoint, ours):
    """Noise moves every score, its seed moves it elsewhere, and names tell them apart."""
    requests = [ask("loglikelihood", *PAIRS[0])]
    noisy = HoldbackLM(str(checkpoint), chat=False, rung="noise", sigma=0.1, seed=1)
    other = HoldbackLM(f"{checkpoint}?chat=false&rung=noise&sigma=0.1&seed=2")

    scores = {m.tokenizer_name: m.loglikelihood(requests)[0][0] for m in (ours, noisy, other)}

    assert len(set(scores.values())) == len(scores) == 3
    assert noisy.get_model_info()["parameters"] == {"sigma": 0.1}


def test_no_template_is_forced_on_a_base_model(checkpoint, ours):
    """Completion format refuses --apply_chat_template; chat format without a template too."""
    with pytest.raises(ConfigError, match="no template is forced"):
        ours.apply_chat_template([{"role": "user", "content": "q"}])
    with pytest.raises(Exception, match="no chat template"):
        HoldbackLM(str(checkpoint)).apply_chat_template([{"role": "user", "content": "q"}])


@pytest.mark.parametrize(
    ("options", "message"),
    [({"top_p": 0.5}, "top_p = 0.5"), ({"num_beams": 4}, "num_beams = 4")],
)
def test_settings_that_cannot_be_honoured_are_refused(ours, options, message):
    """Rather than ignored."""
    with pytest.raises(ConfigError, match=message):
        ours.generate_until([ask("generate_until", "q", options)])


def test_a_majority_is_refused(checkpoint):
    """lm-eval asks for texts, and does not say which of them agree."""
    with pytest.raises(ConfigError, match="a majority needs to know"):
        HoldbackLM(f"{checkpoint}?chat=false&rung=majority&votes=3")
