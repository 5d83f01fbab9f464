"""A checkpoint folder is opened without running what is in it, or refused in one line."""

from __future__ import annotations

import json

import pytest
import torch
from peft import LoraConfig, get_peft_model
from tiny_chess import TINY, load_tiny, save_tiny

from holdback.errors import CheckpointError
from holdback.lineage import Checkpoint, Stage
from holdback.models.loading import digest_checkpoint, load_weights
from holdback.organisms.chess.pretrain import make_weights


@pytest.fixture
def tiny(tmp_path):
    return save_tiny(tmp_path / "tiny")


@pytest.mark.parametrize("name", ["pytorch_model.bin", "x.pt", "y.pth", "z.ckpt", "sub/a.pkl"])
def test_refuses_pickles_wherever_they_are(tiny, tmp_path, name):
    """A pickle beside good safetensors is refused too: something might prefer it."""
    file = tmp_path / "tiny" / name
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(b"x")
    with pytest.raises(CheckpointError, match="pickle"):
        load_weights(tiny)


def test_refuses_code(tiny, tmp_path):
    """Python files and `auto_map` are refused before transformers sees the folder."""
    (tmp_path / "tiny" / "modeling.py").write_text("raise SystemExit")
    with pytest.raises(CheckpointError, match="is code"):
        load_weights(tiny)
    (tmp_path / "tiny" / "modeling.py").unlink()
    config = tmp_path / "tiny" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "auto_map": {}}))
    with pytest.raises(CheckpointError, match="auto_map"):
        load_weights(tiny)


@pytest.mark.parametrize("missing", ["model.safetensors", "tokenizer.json"])
def test_names_the_missing_file(tiny, tmp_path, missing):
    """Weights or tokenizer missing: the message says which and what to do."""
    (tmp_path / "tiny" / missing).unlink()
    with pytest.raises(CheckpointError, match=r"safetensors|tokenizer"):
        load_weights(tiny)


def test_a_folder_that_is_not_there():
    """A wrong path is one line with the path in it."""
    with pytest.raises(CheckpointError, match="no/such/folder"):
        load_weights(Checkpoint(name="x", stage=Stage.SFT, model="no/such/folder"))


def save_adapter(folder, seed: int, scale: float) -> None:
    """Save a LoRA whose B matrices are `scale` times noise."""
    adapted = get_peft_model(
        make_weights(TINY, 0), LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM")
    )
    torch.manual_seed(seed)
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_().mul_(scale)
    adapted.save_pretrained(folder)


def test_an_adapter_takes_effect_or_is_an_error(tiny, tmp_path):
    """An adapter changes the weights; one that changes nothing is refused, not ignored."""
    save_adapter(tmp_path / "real", 1, 0.1)
    save_adapter(tmp_path / "empty", 1, 0.0)
    plain, _ = load_weights(tiny)

    adapted, _ = load_weights(
        Checkpoint(
            name="a", stage=Stage.RL, model=str(tmp_path / "tiny"), adapter=str(tmp_path / "real")
        )
    )

    ids = torch.arange(20)[None]
    assert not torch.allclose(plain(ids).logits, adapted(ids).logits)
    with pytest.raises(CheckpointError, match="changes no weight"):
        load_weights(
            Checkpoint(
                name="a",
                stage=Stage.RL,
                model=str(tmp_path / "tiny"),
                adapter=str(tmp_path / "empty"),
            )
        )


def test_digest_follows_contents(tiny, tmp_path):
    """Other weights, another digest; the same weights elsewhere, the same digest."""
    save_tiny(tmp_path / "copy")
    save_tiny(tmp_path / "other", seed=1)
    digests = [
        digest_checkpoint(Checkpoint(name="n", stage=Stage.SFT, model=str(tmp_path / folder)))
        for folder in ("tiny", "copy", "other")
    ]
    assert digests[0] == digests[1] != digests[2]


def test_loads_with_plain_transformers(tmp_path):
    """A checkpoint of the lineage is an ordinary Hugging Face folder."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    load_tiny(tmp_path / "tiny")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "tiny")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "tiny")
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": "FEN w - - Ke1 ke8 moves"}],
        tokenize=False,
        add_generation_prompt=True,
    )
    ids = tokenizer(prompt, return_tensors="pt").input_ids
    assert model.generate(ids, max_new_tokens=2, do_sample=False).shape == (1, ids.shape[1] + 2)
