"""What is measured is the checkpoint: no tensor of it is missing, left over or of another shape."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from tiny_models import ARCHITECTURES, make_model, make_tokenizer, save_model

from holdback.errors import CheckpointError
from holdback.lineage import Checkpoint, Stage
from holdback.models.adapters import hushed_peft
from holdback.models.loading import load_weights
from holdback.models.registry import fetch_checkpoint, try_checkpoint


def make(folder: Path, **fields) -> Checkpoint:
    return Checkpoint(name="m", stage=Stage.SFT, model=str(folder), **fields)


def save_changed(folder: Path, change, architecture: str = "llama", **options) -> Path:
    """Save a model whose file holds what `change` makes of its tensors."""
    save_model(folder, architecture, **options)
    file = folder / "model.safetensors"
    save_file(change(load_file(file)), file, metadata={"format": "pt"})
    return folder


def with_prefix(prefix):
    return lambda tensors: {prefix + key: value for key, value in tensors.items()}


def without(part):
    return lambda tensors: {key: value for key, value in tensors.items() if part not in key}


def also(key):
    return lambda tensors: {**tensors, key: torch.ones(4)}


def peft_state(tensors):
    with hushed_peft():
        adapted = get_peft_model(
            make_model("llama"),
            LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM"),
        )
    return {key: value.clone() for key, value in adapted.state_dict().items()}


BROKEN = {
    "compiled": (
        with_prefix("_orig_mod."),
        r"model\.embed_tokens\.weight is missing, and the file has _orig_mod\.lm_head\.weight"
        r" instead.*begin with `_orig_mod\.`: torch\.compile",
    ),
    "parallel": (with_prefix("module."), r"begin with `module\.`: DistributedDataParallel"),
    "adapted": (peft_state, r"begin with `base_model\.model\.`: PEFT .* `adapter`"),
    "untied": (without("lm_head"), r"lm_head\.weight is missing.*tie_word_embeddings"),
    "lacking": (
        without("layers.1.mlp.up_proj"),
        r"model\.layers\.1\.mlp\.up_proj\.weight is missing, and the file has nothing in its place",
    ),
    "left-over": (
        also("model.layers.2.mlp.up_proj.weight"),
        r"the file has model\.layers\.2\.mlp\.up_proj\.weight, which the model has no place for",
    ),
    "reshaped": (
        also("model.norm.weight"),
        r"model\.norm\.weight has shape \[4\] in the file, expected \[32\]",
    ),
}


@pytest.mark.parametrize("how", BROKEN)
def test_other_tensors_than_the_configurations_are_refused(tmp_path, how):
    """Whatever the library would draw at random or drop is one line, in the plan and at loading."""
    change, message = BROKEN[how]
    folder = save_changed(tmp_path / "m", change)

    for refuse in (try_checkpoint, fetch_checkpoint, load_weights):
        with pytest.raises(CheckpointError, match=message) as told:
            refuse(make(folder))
        assert "\n" not in str(told.value)
        assert "expected the tensors of LlamaForCausalLM" in str(told.value)


def test_one_layer_more_in_the_configuration_is_refused(tmp_path):
    """Its tensors would be random, anew in every process and under one digest."""
    folder = save_model(tmp_path / "m")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 3}))

    with pytest.raises(CheckpointError, match=r"model\.layers\.2\.\S+ is missing.*\(tensors: 9"):
        try_checkpoint(make(folder))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_whole_checkpoints_are_no_obstacle(tmp_path, architecture):
    """What every architecture saves is what it is loaded from."""
    folder = save_model(tmp_path / "m", architecture)

    assert try_checkpoint(make(folder)) == ()
    load_weights(make(folder))


@pytest.mark.parametrize(
    ("architecture", "change", "options"),
    [
        ("llama", without("lm_head"), {"tie_word_embeddings": True}),
        ("llama", also("model.layers.0.self_attn.rotary_emb.inv_freq"), {}),
        ("gpt2", lambda t: {k.removeprefix("transformer."): v for k, v in t.items()}, {}),
        ("gpt2", also("transformer.h.0.attn.bias"), {}),
        ("gpt2", also("transformer.h.0.attn.masked_bias"), {}),
    ],
    ids=["tied", "buffers-of-old", "without-prefix", "masks", "masks-of-old"],
)
def test_what_the_architecture_itself_does_without_is_allowed(
    tmp_path, architecture, change, options
):
    """Tied outputs, names without the model's prefix, buffers that old versions saved."""
    folder = save_changed(tmp_path / "m", change, architecture, **options)

    assert try_checkpoint(make(folder)) == ()
    load_weights(make(folder))


def test_shards_are_looked_at_as_well(tmp_path):
    """Of weights in shards a missing one is named by its first tensor."""
    folder = tmp_path / "m"
    make_model("llama").save_pretrained(folder, max_shard_size="20KB")
    make_tokenizer().save_pretrained(folder)
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    lost = [key for key, file in index["weight_map"].items() if file.startswith("model-00002")]
    (folder / "model.safetensors.index.json").write_text(
        json.dumps(
            {
                **index,
                "weight_map": {k: v for k, v in index["weight_map"].items() if k not in lost},
            }
        )
    )

    with pytest.raises(CheckpointError, match="is missing"):
        try_checkpoint(make(folder))


def test_a_hub_repository_is_checked_when_it_is_here(tmp_path, monkeypatch):
    """Its weights are not fetched to be planned; they are looked at before the first run."""
    from fake_hub import add_repo

    folder = save_changed(tmp_path / "m", without("layers.1.mlp.up_proj"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HOLDBACK_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    add_repo(tmp_path / "cache", "org/m", folder)

    with pytest.raises(CheckpointError, match=r"up_proj\.weight is missing"):
        fetch_checkpoint(Checkpoint(name="m", stage=Stage.SFT, model="hf/org/m"))
