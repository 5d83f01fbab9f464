"""Tiny untrained models of the architectures that people bring, saved as anybody saves theirs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}"
    "<|end|>{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
_SPECIAL = ["<bos>", "<eos>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>"]
_SHAPE: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 2048,
}
# Windows shorter than a chess prompt, so that a session that forgets about them is found out.
ARCHITECTURES: dict[str, Callable[[], Any]] = {
    "llama": lambda: transformers.LlamaConfig(**_SHAPE),
    "gpt2": lambda: transformers.GPT2Config(n_embd=32, n_layer=2, n_head=4, n_positions=2048),
    "qwen2": lambda: transformers.Qwen2Config(**_SHAPE),
    "qwen3": lambda: transformers.Qwen3Config(**_SHAPE, head_dim=8),
    "gemma2": lambda: transformers.Gemma2Config(
        **_SHAPE, head_dim=8, sliding_window=16, final_logit_softcapping=2.0
    ),
    "mistral": lambda: transformers.MistralConfig(**_SHAPE, head_dim=8, sliding_window=16),
}


def make_tokenizer(*, template: str | None = TEMPLATE) -> PreTrainedTokenizerFast:
    """A byte-level tokenizer, so that it reads every text, with a chat template that appends."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=_SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(["EPD w - - ke8 Ke1 bm Pe2 Pe4 the right answer is"], trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<bos>", eos_token="<eos>")
    fast.chat_template = template
    return fast


def make_model(architecture: str, *, seed: int = 0, **changes: Any) -> Any:
    """Untrained weights, large enough that every part of them shows in the outputs."""
    tokenizer = make_tokenizer()
    config = ARCHITECTURES[architecture]()
    for name, value in {
        "vocab_size": len(tokenizer),
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.eos_token_id,
        "initializer_range": 0.2,
        **changes,
    }.items():
        setattr(config, name, value)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return transformers.AutoModelForCausalLM.from_config(config)


def save_model(
    folder: Path, architecture: str = "llama", *, template: str | None = TEMPLATE, **options: Any
) -> Path:
    """Save weights and tokenizer in Hugging Face format."""
    make_model(architecture, **options).save_pretrained(folder)
    make_tokenizer(template=template).save_pretrained(folder)
    return folder


def save_adapter(
    folder: Path, architecture: str = "llama", *, scale: float = 0.2, **options: Any
) -> Path:
    """Save a LoRA for such a model whose B matrices are `scale` times noise."""
    from peft import LoraConfig, get_peft_model

    from holdback.models.adapters import hushed_peft

    config = LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM")
    with hushed_peft():
        adapted = get_peft_model(make_model(architecture, **options), config)
    noise = torch.Generator().manual_seed(7)
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(generator=noise).mul_(scale)
    adapted.save_pretrained(folder)
    return folder
