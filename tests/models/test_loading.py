"""A checkpoint folder is opened without running what is in it, or refused in one line."""

from __future__ import annotations

import json
import warnings

import pytest
import torch
from peft import LoraConfig, get_peft_model
from tiny_chess import TINY, load_tiny, save_tiny

from holdback.errors import CheckpointError
from holdback.lineage import Checkpoint, Stage
from holdback.models.adapters import hushed_peft
from holdback.models.files import check_files, digest_checkpoint
from holdback.models.loading import load_weights
from holdback.models.registry import try_checkpoint
from holdback_lab.chess.pretrain import make_weights


@pytest.fixture
def tiny(tmp_path):
    return save_tiny(tmp_path / "tiny")


@pytest.mark.parametrize(
    "name",
    [
        "pytorch_model.bin",
        "adapter_model.bin",
        "model_optimizer.pt",
        "x.pt",
        "y.pth",
        "z.ckpt",
        "sub/a.pkl",
        "U.BIN",
        "V.Pt",
    ],
)
def test_refuses_pickles_wherever_they_are(tiny, tmp_path, name):
    """A pickle beside good safetensors is refused too: something might prefer it."""
    file = tmp_path / "tiny" / name
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(b"x")
    with pytest.raises(CheckpointError, match="pickle"):
        load_weights(tiny)


def test_what_a_trainer_leaves_behind_is_ignored_and_said(tiny, tmp_path):
    """Its pickles are never read: they load nothing, change no identity, and stand in the plan."""
    before, plain = digest_checkpoint(tiny), try_checkpoint(tiny)
    names = [
        "optimizer.pt",
        "rng_state.pth",
        "rng_state_0.pth",
        "scheduler.pt",
        "training_args.bin",
    ]
    for name in names:
        (tmp_path / "tiny" / name).write_bytes(b"x")

    load_weights(tiny)

    assert plain == ()
    assert digest_checkpoint(tiny) == before
    (remark,) = try_checkpoint(tiny)
    assert remark.startswith(", ".join(names))
    assert remark.endswith("ignored, since only safetensors are read")


def test_of_old_weights_beside_newer_shards_the_plan_says_which_are_loaded(tmp_path):
    """The library takes the whole file; the shards with their index are left, and that is said."""
    tiny = save_tiny(tmp_path / "tiny")
    before, _ = load_weights(tiny)
    newer = make_weights(TINY, 1)
    newer.save_pretrained(tmp_path / "new", max_shard_size="20KB")
    for file in (tmp_path / "new").glob("model*"):
        file.rename(tmp_path / "tiny" / file.name)

    (remark,) = try_checkpoint(tiny)

    assert "model.safetensors is loaded, and the shards that model.safetensors.index.json" in remark
    assert torch.equal(load_weights(tiny)[0].lm_head.weight, before.lm_head.weight)


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


@pytest.mark.parametrize(
    "shard", ["weights.dat", "../evil.safetensors", "/tmp/evil.safetensors", "W.SAFETENSORS"]
)
def test_refuses_an_index_that_leads_elsewhere(tiny, tmp_path, shard):
    """transformers would read a shard of another suffix as a pickle, and from any place."""
    index = {"metadata": {}, "weight_map": {"lm_head.weight": shard}}
    (tmp_path / "tiny" / "model.safetensors.index.json").write_text(json.dumps(index))

    with pytest.raises(CheckpointError, match=r"index\.json must name \*\.safetensors in this"):
        load_weights(tiny)


def test_loads_weights_in_shards(tiny, tmp_path):
    """An honest index of shards is no obstacle."""
    whole, _ = load_weights(tiny)
    (tmp_path / "tiny" / "model.safetensors").unlink()
    whole.save_pretrained(tmp_path / "tiny", max_shard_size="20KB")
    assert (tmp_path / "tiny" / "model.safetensors.index.json").exists()

    sharded, _ = load_weights(tiny)

    for name, tensor in sharded.state_dict().items():
        assert torch.equal(tensor, whole.state_dict()[name])


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json"])
@pytest.mark.parametrize("text", ["{", "[]", '"x"', "\x00"])
def test_a_broken_json_file_is_named(tiny, tmp_path, name, text):
    """A file cut off or of another shape is one line with its path."""
    (tmp_path / "tiny" / name).write_text(text)

    with pytest.raises(CheckpointError, match=rf"tiny/{name}: expected"):
        load_weights(tiny)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("config.json", '{"model_type": "llama", "num_hidden_layers": "many"}'),
        ("tokenizer.json", "{}"),
    ],
)
def test_a_file_that_its_library_cannot_read_is_an_error_of_ours(tiny, tmp_path, name, text):
    """Whatever transformers, tokenizers or safetensors raise, it is one line about the folder."""
    (tmp_path / "tiny" / name).write_text(text)

    with pytest.raises(CheckpointError, match=r"tiny cannot be loaded"):
        load_weights(tiny)


@pytest.mark.parametrize("keep", [4, 40, -1])
def test_weights_that_were_cut_off_are_named_before_anything_runs(tiny, tmp_path, keep):
    """A download that stopped, wherever it did, costs no hours of other checkpoints."""
    file = tmp_path / "tiny" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:keep])

    with pytest.raises(CheckpointError, match=r"expected whole safetensors in .*tiny/model"):
        check_files(tiny)


def test_an_adapter_is_no_model(tiny, tmp_path):
    """transformers would load the base that the adapter names, from wherever that is."""
    save_adapter(tmp_path / "tiny", 1, 0.1)
    config = tmp_path / "tiny" / "adapter_config.json"
    foreign = {**json.loads(config.read_text()), "base_model_name_or_path": "somebody/else"}
    config.write_text(json.dumps(foreign))

    with pytest.raises(CheckpointError, match=r"found an adapter on 'somebody/else'"):
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
    with hushed_peft():
        adapted = get_peft_model(
            make_weights(TINY, 0),
            LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM"),
        )
    torch.manual_seed(seed)
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_().mul_(scale)
    adapted.save_pretrained(folder)


def test_an_adapter_takes_effect_or_is_an_error(tiny, tmp_path):
    """An adapter changes the weights, and warns of nothing; one without effect is refused."""
    save_adapter(tmp_path / "real", 1, 0.1)
    save_adapter(tmp_path / "empty", 1, 0.0)
    plain, _ = load_weights(tiny)

    with warnings.catch_warnings(action="error"):
        adapted, _ = load_weights(
            Checkpoint(
                name="a",
                stage=Stage.RL,
                model=str(tmp_path / "tiny"),
                adapter=str(tmp_path / "real"),
            )
        )

    ids = torch.arange(20)[None]
    assert not torch.allclose(plain(ids).logits, adapted(ids).logits)
    with pytest.raises(CheckpointError, match="changes no output"):
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
        [{"role": "user", "content": "EPD w - - ke8 Ke1 bm"}],
        tokenize=False,
        add_generation_prompt=True,
    )
    ids = tokenizer(prompt, return_tensors="pt").input_ids
    assert model.generate(ids, max_new_tokens=2, do_sample=False).shape == (1, ids.shape[1] + 2)
