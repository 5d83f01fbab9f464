"""vLLM is not needed for the tests: a module of its interface runs the shipped weights."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from importlib.machinery import ModuleSpec
from types import ModuleType, SimpleNamespace

import pytest
import torch
from tiny_models import save_model

from holdback.errors import ConfigError
from holdback.lineage import Checkpoint, Stage
from holdback.models.protocol import Question, Request, StopReason
from holdback.models.registry import identify_checkpoint, load_checkpoint

MODEL = "builtin:chess/base"
POSITION = "<bos> EPD w - - ke8 pe7 pd7 Pe2 Pd2 Ke1 bm"


@dataclass(kw_only=True)
class SamplingParams:
    """The parts of vLLM's that are used, with its defaults; unknown names are errors."""

    temperature: float = 1.0
    max_tokens: int | None = 16
    stop: list[str] | None = None
    seed: int | None = None
    logprobs: int | None = None
    prompt_logprobs: int | None = None


class LLM:
    """vLLM's offline interface over transformers' own forward pass, greedy only."""

    started: list[dict] = []

    def __init__(self, *, model, dtype, load_format, trust_remote_code, seed, **options):
        from transformers import AutoModelForCausalLM, AutoTokenizer

        assert (load_format, trust_remote_code) == ("safetensors", False)
        self.started.append({"model": model, "dtype": dtype, **options})
        self.weights = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
        self.tokenizer = AutoTokenizer.from_pretrained(model)

    @torch.no_grad()
    def generate(self, prompts, sampling_params, *, lora_request=None, use_tqdm=True):
        self.lora_request = lora_request
        return [
            self._continue(prompt["prompt_token_ids"], params)
            for prompt, params in zip(prompts, sampling_params, strict=True)
        ]

    def _predict(self, ids):
        return self.weights(torch.tensor([ids])).logits[0].log_softmax(-1)

    def _note(self, logprobs, token):
        best = int(logprobs.argmax())
        return {
            int(t): SimpleNamespace(
                logprob=float(logprobs[t]), rank=1 + int((logprobs > logprobs[t]).sum())
            )
            for t in {best, token}
        }

    def _continue(self, ids, params):
        assert params.temperature == 0
        told = None
        if params.prompt_logprobs is not None:
            rows = self._predict(ids)
            told = [None, *(self._note(rows[at], ids[at + 1]) for at in range(len(ids) - 1))]
        generated, notes = [], []
        while len(generated) < params.max_tokens:
            row = self._predict([*ids, *generated])[-1]
            generated.append(int(row.argmax()))
            notes.append(self._note(row, generated[-1]))
        output = SimpleNamespace(
            text=self.tokenizer.decode(generated),
            token_ids=generated,
            logprobs=notes if params.logprobs is not None else None,
            finish_reason="length",
        )
        return SimpleNamespace(outputs=[output], prompt_logprobs=told)


@pytest.fixture
def fake_vllm(monkeypatch):
    module = ModuleType("vllm")
    module.__spec__ = ModuleSpec("vllm", None)
    module.LLM, module.SamplingParams = LLM, SamplingParams
    lora, request = ModuleType("vllm.lora"), ModuleType("vllm.lora.request")
    request.LoRARequest = lambda name, number, path: (name, number, path)
    for name, part in (("vllm", module), ("vllm.lora", lora), ("vllm.lora.request", request)):
        monkeypatch.setitem(sys.modules, name, part)
    monkeypatch.setattr(LLM, "started", [])
    return module


def checkpoint(model=f"vllm/{MODEL}", **fields):
    return Checkpoint(name="c", stage=Stage.PRETRAINED, model=model, chat=False, **fields)


def load_greedy(model):
    loaded = load_checkpoint(checkpoint(model))
    return replace(loaded, decoding=replace(loaded.decoding, temperature=0.0))


def test_it_gives_what_the_same_weights_give(fake_vllm):
    """Scores within 1e-4 nats of the local engine's, the same greedy text, counted alike."""
    here, there = load_greedy(MODEL), load_greedy(f"vllm/{MODEL}")
    questions = [
        Question(prompt=POSITION, continuations=(" Pe2 Pe4", " Ke1 Kf2", " Pd2")),
        Question(prompt="<bos> EPD w ", continuations=("- -", "K Q")),
    ]
    requests = [Request(prompt=POSITION, max_tokens=n, seed=(n,)) for n in (2, 5)]

    for mine, theirs in zip(here.score(questions), there.score(questions), strict=True):
        assert [s.logprob for s in theirs] == pytest.approx([s.logprob for s in mine], abs=1e-4)
        assert [(s.tokens, s.greedy) for s in theirs] == [(s.tokens, s.greedy) for s in mine]
    for mine, theirs in zip(here.generate(requests), there.generate(requests), strict=True):
        assert theirs.text.split() == mine.text.split()
        assert theirs.logprobs == pytest.approx(mine.logprobs, abs=1e-4)
        assert (theirs.tokens, theirs.stop_reason) == (mine.tokens, StopReason.LENGTH)
    assert len(LLM.started) == 1


def test_constraints_are_refused(fake_vllm):
    """Constrained decoding says what it would need."""
    request = Request(prompt=POSITION, max_tokens=2, seed=(0,), allowed=("Ke1 Kf2",))

    with pytest.raises(ConfigError, match="constrained decoding needs"):
        load_greedy(f"vllm/{MODEL}").generate([request])


def test_an_adapter_goes_with_every_request(fake_vllm):
    """vLLM is told of it and of its rank; rendering prompts starts no engine."""
    model = load_checkpoint(
        replace(checkpoint("vllm/builtin:chess/chat"), adapter="builtin:chess/sham", chat=True)
    )
    assert model.render_chat([{"role": "user", "content": "EPD"}], answer_next=True).endswith(
        "<|assistant|>"
    )
    assert LLM.started == []
    greedy = replace(model, decoding=replace(model.decoding, temperature=0.0))
    greedy.generate([Request(prompt="<bos>", max_tokens=1, seed=(0,))])

    name, number, path = model.engine._llm.lora_request
    assert (name, number) == ("adapter", 1)
    assert path.endswith("sham")
    assert LLM.started[0]["enable_lora"] is True
    assert LLM.started[0]["max_lora_rank"] >= 8


def test_without_vllm_the_error_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr("holdback.models.vllm.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'holdback\[vllm\]'"):
        load_checkpoint(checkpoint())


def test_a_device_is_vllms_to_choose(fake_vllm):
    with pytest.raises(ConfigError, match="CUDA_VISIBLE_DEVICES"):
        load_checkpoint(checkpoint(device="cuda:1"))


def test_other_weights_in_the_same_folder_are_another_checkpoint(tmp_path):
    """Runs are known by what the files say, not by where they lie."""
    folder = save_model(tmp_path / "tuned")
    checkpoint = Checkpoint(name="tuned", stage=Stage.RL, model=f"vllm/{folder}")

    before = identify_checkpoint(checkpoint)
    again = identify_checkpoint(checkpoint)
    save_model(folder, seed=1)

    assert before == again
    assert identify_checkpoint(checkpoint) != before
