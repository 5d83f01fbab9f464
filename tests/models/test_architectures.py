"""Any causal LM that transformers loads: tiny ones, random, through the id that users write."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_models import ARCHITECTURES, make_model, save_adapter, save_model

import holdback.elicitation.finetune
import holdback.elicitation.noise  # noqa: F401  (registers its technique)
from holdback.elicitation.technique import make_technique
from holdback.errors import CheckpointError
from holdback.lineage import Checkpoint, Stage
from holdback.models.loading import load_weights
from holdback.models.protocol import Decoding, Request
from holdback.models.registry import identify_checkpoint, load_checkpoint
from holdback.plan import Rung
from holdback.tasks.chess.games import ChessGames
from holdback.tasks.chess.positions import ChessPositions
from holdback.tasks.task import Split

RUNGS = {
    "noise": Rung(name="noise", technique="weight_noise", parameters={"sigma": 0.05}),
    "finetune": Rung(
        name="finetune",
        technique="finetune",
        parameters={"demonstrator": "strong", "n": 1, "rank": 4, "steps": 1},
    ),
}


@pytest.fixture(scope="module", params=ARCHITECTURES)
def checkpoint(request, tmp_path_factory) -> Checkpoint:
    folder = save_model(tmp_path_factory.mktemp("models") / request.param, request.param)
    return Checkpoint(name=request.param, stage=Stage.SFT, model=f"hf/{folder}")


@pytest.fixture(scope="module")
def model(checkpoint):
    return load_checkpoint(checkpoint)


def continue_plainly(model, text: str, tokens: int) -> tuple[str, float]:
    """Greedy continuation and its log-probability from whole forward passes, no cache."""
    ids, total = list(model.encode(text)), 0.0
    start = len(ids)
    with torch.no_grad():
        for _ in range(tokens):
            logits = model.weights(torch.tensor([ids]), use_cache=False).logits[0, -1]
            logprobs = torch.log_softmax(logits.double(), -1)
            ids.append(int(logprobs.argmax()))
            total += float(logprobs.max())
    return model.tokenizer.decode(ids[start:]), total


def test_answers_are_plain_forward_passes(model):
    """Texts of unequal length in a batch get what the whole text alone gets.

    Gemma's soft caps and windows and Mistral's window, both shorter than the texts, are heeded.
    """
    texts = ["<bos>EPD w - - ke8 Ke1 bm", "<bos>" + "EPD w - - ke8 Ke1 Pe2 bm " * 3, "<bos>Pe4"]
    greedy = replace(model, decoding=Decoding(temperature=0))
    for _ in range(3):
        answers = greedy.generate([Request(prompt=t, max_tokens=3, seed=(0,)) for t in texts])
        for prompt, answer in zip(texts, answers, strict=True):
            text, logprob = continue_plainly(model, prompt, 3)
            if "<eos>" not in text:
                assert answer.text == text
                assert sum(answer.logprobs) == pytest.approx(logprob, abs=1e-4)
        texts = [text + " Pe2 Pe4" * (row + 1) for row, text in enumerate(texts)]


@pytest.mark.parametrize("name", RUNGS)
def test_weight_techniques_take_effect_and_restore(model, name):
    """Noise and a fine-tuned adapter change outputs; afterwards every bit is what it was."""
    before = {n: t.clone() for n, t in model.weights.state_dict().items()}
    ids = torch.arange(40)[None]
    with torch.no_grad():
        plain = model.weights(ids).logits
        rng = np.random.default_rng(0)
        with make_technique(RUNGS[name]).apply(model, ChessGames(), rng) as lent:
            elicited = lent.weights(ids).logits
        again = model.weights(ids).logits

    after = model.weights.state_dict()
    assert not torch.equal(plain, elicited)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[n], after[n]) for n in before)
    assert torch.equal(plain, again)


def test_a_chess_task_runs(model):
    """A whole task, from rendering to scores, and the first samples keep what they were asked."""
    task = ChessPositions()

    records = list(task.run(model, split=Split.SELECT, samples=5, seed=1))
    prompts = task.preview(model, split=Split.SELECT, samples=5, seed=1)

    assert len(records) == 5
    assert [record.sample_id for record in records] == [prompt.sample_id for prompt in prompts]
    for record, prompt in zip(records[:3], prompts, strict=False):
        assert record.metadata["prompt"] == prompt.text
        assert record.metadata["prompt_token_ids"] == list(prompt.token_ids)
    assert "prompt" not in records[3].metadata
    # One beginning of text, from the template: tokenising adds none.
    assert prompts[0].token_ids.count(model.tokenizer.bos_token_id) == 1


def test_merged_and_unmerged_adapters_agree(checkpoint, tmp_path):
    """The merged weights give the logits of PEFT's own unmerged model within 1e-4."""
    from dataclasses import replace

    from peft import PeftModel

    from holdback.models.adapters import hushed_peft

    folder = save_adapter(tmp_path / "adapter", checkpoint.name)
    merged, _ = load_weights(replace(checkpoint, adapter=str(folder)))
    plain, _ = load_weights(checkpoint)
    with hushed_peft():
        unmerged = PeftModel.from_pretrained(make_model(checkpoint.name), folder).eval()

    ids = torch.arange(60).reshape(2, 30)
    with torch.no_grad():
        expected = unmerged(ids).logits
        assert torch.allclose(merged(ids).logits, expected, atol=1e-4)
        assert (plain(ids).logits - expected).abs().max() > 0.01


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "auto", "float32"])
def test_the_number_format_is_the_one_asked_for(tmp_path, dtype):
    """`auto` is the format that the weights were saved in; other formats are other checkpoints."""
    folder = tmp_path / "half"
    make_model("llama").to(torch.bfloat16).save_pretrained(folder)
    from tiny_models import make_tokenizer

    make_tokenizer().save_pretrained(folder)
    plain = Checkpoint(name="m", stage=Stage.SFT, model=f"hf/{folder}")
    asked = Checkpoint(name="m", stage=Stage.SFT, model=f"hf/{folder}", dtype=dtype)

    weights, _ = load_weights(asked)

    expected = torch.bfloat16 if dtype == "auto" else getattr(torch, dtype)
    assert {tensor.dtype for tensor in weights.parameters()} == {expected}
    same = identify_checkpoint(plain) == identify_checkpoint(asked)
    assert same == (dtype == "float32")


def test_a_device_that_is_not_here_is_named(checkpoint):
    """One line with the devices that are, before anything is loaded."""
    from dataclasses import replace

    absent = replace(checkpoint, device=f"cuda:{torch.cuda.device_count() + 7}")
    with pytest.raises(CheckpointError, match=r"expected a device of this machine \(cpu.*cuda:"):
        identify_checkpoint(absent)
    assert load_weights(replace(checkpoint, device="auto"))[0].device.type in ("cpu", "cuda", "mps")
