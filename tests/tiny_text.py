"""Tiny untrained text models of several architectures, with a tokenizer trained on the spot."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    PreTrainedTokenizerFast,
)

from holdback.models.local import LocalModel
from holdback.models.protocol import Decoding

SENTENCES = [
    "Question: which of these towns lies on the river? Answer: the second of them.",
    "The quick brown fox jumps over the lazy dog, and the dog sleeps on.",
    "In which year was the bridge over the lake built? It was built in 1874.",
    "A. one hundred and twelve B. forty-seven C. nine D. none of these",
]

_SIZE = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    # Large enough that a token that is seen or not changes the scores in the first digits.
    "initializer_range": 0.2,
}
_HEAD = {"head_dim": 8, "query_pre_attn_scalar": 8}
_GPT2 = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 256, "initializer_range": 0.2}
_MAMBA = {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 4, "initializer_range": 0.2}
_NARROW = {"sliding_window": 12}

ARCHITECTURES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", _SIZE),
    "gpt2": ("gpt2", _GPT2),
    "qwen2": ("qwen2", _SIZE),
    "qwen3": ("qwen3", {**_SIZE, "head_dim": 8}),
    "gemma2": ("gemma2", {**_SIZE, **_HEAD, **_NARROW, "final_logit_softcapping": 2.0}),
    "gemma3": ("gemma3_text", {**_SIZE, **_HEAD, **_NARROW, "num_hidden_layers": 6}),
    "mistral": ("mistral", _SIZE),
    "mistral-window": ("mistral", {**_SIZE, **_NARROW}),
    "mamba": ("mamba", _MAMBA),
}


@cache
def train_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE of 400 tokens, as GPT-2's and Llama 3's are."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(SENTENCES, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=bpe, bos_token="<s>", eos_token="</s>")


def make_text_model(
    architecture: str = "llama", *, seed: int = 0, temperature: float = 0.0
) -> LocalModel:
    """An untrained model in float32, with weights large enough to have opinions."""
    tokenizer = train_tokenizer()
    kind, options = ARCHITECTURES[architecture]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        config = AutoConfig.for_model(
            kind, vocab_size=len(tokenizer), bos_token_id=0, eos_token_id=1, pad_token_id=1
        ).__class__(
            vocab_size=len(tokenizer), bos_token_id=0, eos_token_id=1, pad_token_id=1, **options
        )
        weights = AutoModelForCausalLM.from_config(config).float().eval()
    return LocalModel(
        name=architecture,
        weights=weights,
        tokenizer=tokenizer,
        decoding=Decoding(temperature=temperature),
    )
