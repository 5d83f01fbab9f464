"""An adapter is measured as it was trained, or refused for the reason that it has."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PrefixTuningConfig, PromptTuningConfig, get_peft_model
from tiny_models import TEMPLATE, make_model, make_tokenizer, save_adapter, save_model
from tokenizers import AddedToken

from holdback.errors import CheckpointError
from holdback.lineage import Checkpoint, Stage
from holdback.models.adapters import hushed_peft
from holdback.models.files import check_files
from holdback.models.loading import load_weights
from holdback.models.registry import load_prompter, try_checkpoint

OWN = TEMPLATE.replace("<|end|>", "<|end|>\n")
ASKED = ({"role": "user", "content": "who?"},)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("adapters") / "base")


def make(base: Path, adapter: Path) -> Checkpoint:
    return Checkpoint(name="m", stage=Stage.RL, model=str(base), adapter=str(adapter))


def save_trained(folder: Path, config, *, model=None, embeddings="auto") -> Path:
    """Save an adapter all of whose tensors were moved."""
    with hushed_peft(), warnings.catch_warnings(action="ignore"):
        adapted = get_peft_model(model or make_model("llama"), config)
    noise = torch.Generator().manual_seed(7)
    for parameter in adapted.parameters():
        if parameter.requires_grad:
            parameter.data.add_(torch.randn(parameter.shape, generator=noise) * 0.2)
    with warnings.catch_warnings(action="ignore"):
        adapted.save_pretrained(folder, save_embedding_layers=embeddings)
    return folder


def lora(**options) -> LoraConfig:
    options = {"target_modules": ["q_proj"], **options}
    return LoraConfig(r=2, task_type="CAUSAL_LM", **options)


def grow(n: int = 2):
    """A tokenizer with added tokens that its template writes, and a model of its size."""
    tokenizer = make_tokenizer(template=OWN.replace("<|assistant|>", "<|new1|>"))
    added = [AddedToken(f"<|new{i}|>", special=True, normalized=False) for i in range(n)]
    tokenizer.add_tokens(added, special_tokens=True)
    model = make_model("llama")
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    return tokenizer, model


def test_an_adapters_own_tokenizer_and_template_are_used(base, tmp_path):
    """Asked under its base's template a tuned adapter would look as if it hid something."""
    adapter = save_adapter(tmp_path / "lora")
    plain = load_prompter(make(base, adapter)).render_chat(ASKED, answer_next=True)
    assert try_checkpoint(make(base, adapter)) == ()
    make_tokenizer(template=OWN).save_pretrained(adapter)

    text = load_prompter(make(base, adapter)).render_chat(ASKED, answer_next=True)

    assert text == plain.replace("<|end|>", "<|end|>\n")
    assert load_weights(make(base, adapter))[1].chat_template == OWN
    (remark,) = try_checkpoint(make(base, adapter))
    assert remark.startswith(f"tokenizer and chat template: taken from its adapter, {adapter}")


def test_an_adapters_template_alone_is_used_with_the_tokenizer_of_its_base(base, tmp_path):
    """Only `chat_template.jinja` lies beside the adapter: it is the adapter's format."""
    adapter = save_adapter(tmp_path / "lora")
    (adapter / "chat_template.jinja").write_text(OWN)

    assert "<|end|>\n" in load_prompter(make(base, adapter)).render_chat(ASKED, answer_next=True)
    (remark,) = try_checkpoint(make(base, adapter))
    assert remark.startswith("chat template: taken from its adapter")


def test_an_adapters_tokenizer_may_be_the_only_one(tmp_path):
    """A base without a tokenizer is asked with the adapter's."""
    make_model("llama").save_pretrained(tmp_path / "bare")
    adapter = save_adapter(tmp_path / "lora")
    make_tokenizer().save_pretrained(adapter)

    load_weights(make(tmp_path / "bare", adapter))


def test_an_adapters_tokenizer_with_another_vocabulary_is_refused(base, tmp_path):
    """Its ids would mean other tokens to the base: one line, in the plan too."""
    from tiny_text import train_tokenizer

    adapter = save_adapter(tmp_path / "lora")
    train_tokenizer().save_pretrained(adapter)

    for refuse in (try_checkpoint, load_weights):
        with pytest.raises(
            CheckpointError, match=r"the\s+vocabulary of its base, got id (\d+|None) for"
        ):
            refuse(make(base, adapter))


@pytest.mark.parametrize(
    "options",
    [
        {"modules_to_save": ["embed_tokens", "lm_head"]},
        {"target_modules": ["q_proj", "embed_tokens", "lm_head"]},
    ],
    ids=["saved", "targeted"],
)
@pytest.mark.parametrize("embeddings", ["auto", True])
def test_an_adapter_with_added_tokens_loads_where_it_holds_their_embeddings(
    base, tmp_path, options, embeddings
):
    """The vocabulary grows as it did in training, by as much as the plan says."""
    tokenizer, model = grow()
    adapter = save_trained(tmp_path / "lora", lora(**options), model=model, embeddings=embeddings)
    tokenizer.save_pretrained(adapter)

    weights, loaded = load_weights(make(base, adapter))

    assert weights.get_input_embeddings().weight.shape[0] == len(tokenizer) == len(loaded)
    assert any(
        "vocabulary has grown by 2 tokens" in remark
        for remark in try_checkpoint(make(base, adapter))
    )


def test_added_tokens_without_embeddings_for_both_sides_are_named(base, tmp_path):
    """Half of the new embeddings would be drawn at random."""
    _, model = grow()
    adapter = save_trained(tmp_path / "lora", lora(modules_to_save=["embed_tokens"]), model=model)
    lacking = adapter / "adapter_model.safetensors"
    from safetensors.torch import load_file, save_file

    save_file(
        {key: value for key, value in load_file(lacking).items() if "lm_head" not in key},
        lacking,
        metadata={"format": "pt"},
    )

    for refuse in (try_checkpoint, load_weights):
        with pytest.raises(
            CheckpointError, match=r"has grown by 2 tokens, to \d+, and holds no output embeddings"
        ):
            refuse(make(base, adapter))


def test_an_adapter_for_another_base_is_found_by_the_plan(base, tmp_path):
    """Shapes and names are compared with the files' headers, before anything runs."""
    for name, options in (("wide", {"hidden_size": 64}), ("deep", {"num_hidden_layers": 3})):
        adapter = save_adapter(tmp_path / name, **options)
        with pytest.raises(CheckpointError, match="it was made for another base"):
            try_checkpoint(make(base, adapter))


def test_an_adapter_on_tied_embeddings_names_the_tie(tmp_path):
    """Merging into one tensor changes both ends of the model; no number format is to blame."""
    tied = save_model(tmp_path / "tied", tie_word_embeddings=True)
    model = make_model("llama", tie_word_embeddings=True)
    adapter = save_trained(tmp_path / "lora", lora(target_modules=["lm_head"]), model=model)

    with pytest.raises(CheckpointError, match=r"it changes lm_head, .*embeddings are tied") as told:
        load_weights(make(tied, adapter))
    assert "number format" not in str(told.value)


@pytest.mark.parametrize("kind", [PromptTuningConfig, PrefixTuningConfig])
def test_learnt_prompts_are_refused_by_the_plan(base, tmp_path, kind):
    """They are no change of the weights; the line names the types that are taken."""
    config = kind(task_type="CAUSAL_LM", num_virtual_tokens=3)
    with hushed_peft():
        get_peft_model(make_model("llama"), config).save_pretrained(tmp_path / "prompt")

    with pytest.raises(CheckpointError, match=r"of PEFT type '\w+_TUNING', expected .*LORA"):
        check_files(make(base, tmp_path / "prompt"))


def test_added_tokens_whose_embeddings_were_not_saved_are_named(base, tmp_path):
    """The base has no place for what the template writes: how many, and how to save them."""
    tokenizer, _ = grow()
    adapter = save_adapter(tmp_path / "lora")
    tokenizer.save_pretrained(adapter)

    with pytest.raises(
        CheckpointError,
        match=r"writes '<\|new1\|>', token \d+, .* grown by 2, and their embeddings",
    ):
        try_checkpoint(make(base, adapter))


@pytest.mark.parametrize("template", [TEMPLATE, None], ids=["chat", "no-template"])
def test_an_adapter_of_one_tokens_embedding_has_an_effect(base, tmp_path, template):
    """No random token is that one: a rendered chat, and what it trained, are asked too."""
    plain = save_model(tmp_path / "base", template=template)
    end = make_tokenizer().convert_tokens_to_ids("<|end|>")
    for name, config in {
        "tokens": lora(trainable_token_indices=[end], target_modules=["q_proj"]),
        "saved": lora(modules_to_save=["embed_tokens"]),
    }.items():
        with hushed_peft():
            adapted = get_peft_model(make_model("llama"), config)
        for key, parameter in adapted.named_parameters():
            if "token_adapter" in key and parameter.requires_grad:
                parameter.data.add_(0.3)
            if "modules_to_save" in key:
                parameter.data[end].add_(0.3)
        adapted.save_pretrained(tmp_path / name)
        if name == "saved" and template is None:
            # Nothing says which token it is, and nothing of the model would write it.
            continue

        load_weights(
            Checkpoint(
                name="m",
                stage=Stage.RL,
                model=str(plain),
                adapter=str(tmp_path / name),
                chat=template is not None,
            )
        )
