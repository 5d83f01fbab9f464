"""What the benchmarks measure on: models, a tokenizer and texts, all made on the spot from seeds.

Speed does not depend on what weights are worth, so nothing is downloaded. Llama architecture, with
a byte-level BPE trained on the same invented language that the prompts are written in.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Callable
from functools import cache
from importlib.metadata import version
from time import perf_counter
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from holdback.models.local import LocalModel
from holdback.models.protocol import Decoding

VOCABULARY = 16_000
SIZES = {"33M": (512, 8), "11M": (288, 7)}
"""Width and layers."""


@cache
def list_words() -> list[str]:
    """20,000 invented words of one to four syllables."""
    rng = np.random.default_rng(0)
    syllables = [a + b for a in "bdfghklmnprstvz" for b in ("a", "e", "i", "o", "un", "ar", "il")]
    drawn = ("".join(rng.choice(syllables, rng.integers(1, 5))) for _ in range(60_000))
    return list(dict.fromkeys(drawn))[:20_000]


def write_text(words: int, rng: np.random.Generator) -> str:
    """Write words, common ones more often, as Zipf's law has it."""
    ranks = np.minimum(rng.zipf(1.2, words), 20_000) - 1
    return " ".join(list_words()[rank] for rank in ranks)


@cache
def train_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE; adds no special tokens."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    rng = np.random.default_rng(1)
    letters = ["Question: A. B. C. D. Answer: A, B, C, D"] * 50
    bpe.train_from_iterator([write_text(200, rng) for _ in range(2_000)] + letters, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=bpe, bos_token="<s>", eos_token="</s>")


def make_model(size: str, *, tied: bool = True) -> LocalModel:
    """Make an untrained Llama in float32, which answers greedily.

    Tied to its embeddings, an untrained head repeats the last token for ever.
    """
    width, layers = SIZES[size]
    torch.manual_seed(0)
    weights = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=width,
            intermediate_size=width * 8 // 3 // 32 * 32,
            num_hidden_layers=layers,
            num_attention_heads=width // 32,
            max_position_embeddings=2048,
            tie_word_embeddings=tied,
            bos_token_id=0,
            eos_token_id=1,
            pad_token_id=1,
            # Distributions with some bite, as those of trained models are.
            initializer_range=0.05,
        )
    )
    return LocalModel(
        name=size,
        weights=weights.eval(),
        tokenizer=train_tokenizer(),
        decoding=Decoding(temperature=0.0),
    )


def measure_seconds(body: Callable[[], Any]) -> tuple[float, Any]:
    """Wall time of one call, and what it returned."""
    started = perf_counter()
    result = body()
    return perf_counter() - started, result


def describe_machine(*packages: str) -> dict[str, Any]:
    """Cores, threads, and the versions of what was measured."""
    return {
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        **{name: version(name) for name in ("torch", "transformers", "tokenizers", *packages)},
    }
