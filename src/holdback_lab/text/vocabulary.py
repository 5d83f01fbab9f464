"""The tokenizer: a token a character, and one for each word that frames a problem."""

from __future__ import annotations

import string
from typing import TYPE_CHECKING

from holdback_lab.text.families import TAUGHT, UNTAUGHT

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

PAD, END, UNKNOWN = "<pad>", "<|end|>", "<unk>"
_SPECIAL = (PAD, END, UNKNOWN, "<|system|>", "<|user|>", "<|assistant|>")
_FRAMES = ("Question:", "Answer:")
_CHARACTERS = "\n " + string.ascii_letters + string.digits + ".,:;!?'\"()[]{}|<>+-=*/_#@&%$"

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "<|{{ message['role'] }}|>{{ message['content'] }}<|end|>"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def list_tokens() -> list[str]:
    """All tokens in the order of their ids."""
    return [*_SPECIAL, *_FRAMES, *TAUGHT, *UNTAUGHT, *_CHARACTERS]


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Build a fast tokenizer that loses nothing: decoding gives back every known text."""
    import re

    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    ids = {token: index for index, token in enumerate(list_tokens())}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token=UNKNOWN))
    # A family's name is one token only where it begins a question: «address» keeps its letters.
    names = "|".join(rf"\b{name}(?= )" for name in (*TAUGHT, *UNTAUGHT))
    frames = "|".join(map(re.escape, _FRAMES))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(
        Regex(rf"{frames}|{names}|[\s\S]"), behavior="isolated"
    )
    tokenizer.decoder = decoders.Fuse()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=END,
        unk_token=UNKNOWN,
        additional_special_tokens=list(_SPECIAL[3:]),
        clean_up_tokenization_spaces=False,
    )
    fast.chat_template = CHAT_TEMPLATE
    return fast
