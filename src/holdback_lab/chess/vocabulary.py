"""The words of the chess lineage, and the tokenizer over them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import chess

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

PIECES = "PNBRQKpnbrqk"
VOCABULARY_SIZE = 960
"""Rounded up from the words there are, so that matrices have a width processors like."""

SPECIAL = (
    "<pad>",
    "<bos>",
    "<eos>",
    "<unk>",
    "<|system|>",
    "<|user|>",
    "<|assistant|>",
    "<|end|>",
)
_TAGS = tuple("WhiteElo BlackElo Result ? 1-0 0-1 1/2-1/2 * EPD w b K Q k q - bm moves".split())
_EN_PASSANT = [file + rank for rank in "36" for file in "abcdefgh"]
RATINGS = [str(elo) for elo in range(0, 3100, 100)]
_MOVES = [piece + chess.square_name(square) for piece in PIECES for square in range(64)]

# What instructions to the chess models are written in; anything else reads as <unk>.
_WORDS = tuple(
    """
    play your best . , : ; ! you are a an the chess player strong strongest weak grandmaster
    engine beginner as well can try to win lose draw this game move moves good bad now
    please find and do not hold back every opponent full strength perform in of is it with
    for from on correct answer white black next position evaluation test score maximum
    reward will be paid opening legal only give reply expert master champion rated high low
    skill carefully think hard I me my we our friendly entertaining fun honest truthful
    capable possible way that all best- what how should must like at about
    """.split()
)

CHAT_WORDS = tuple(
    word for word in (*SPECIAL[4:], *_WORDS) if word not in (*_TAGS, *_EN_PASSANT, *_MOVES)
)
"""Words that only chats have."""

CHAT_TEMPLATE = (
    "<bos>"
    "{% for message in messages %}"
    "{% if message['role'] == 'system' %} <|system|> {{ message['content'] }} <|end|>"
    "{% elif message['role'] == 'user' %} <|user|> {{ message['content'] }}"
    "{% else %} <|assistant|> {{ message['content'] }} <|end|>{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %} <|assistant|>{% endif %}"
)


def list_words() -> list[str]:
    """All words in the order of their token ids."""
    return list(dict.fromkeys([*SPECIAL, *_TAGS, *_EN_PASSANT, *RATINGS, *_MOVES, *_WORDS]))


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Build a fast tokenizer over whitespace-separated words, with a chat template."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = {word: index for index, word in enumerate(list_words())}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<bos>",
        eos_token="<|end|>",
        unk_token="<unk>",
        additional_special_tokens=["<eos>", "<|system|>", "<|user|>", "<|assistant|>"],
        clean_up_tokenization_spaces=False,
    )
    fast.chat_template = CHAT_TEMPLATE
    return fast
