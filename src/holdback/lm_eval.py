"""Holdback's models for lm-eval: `--model holdback`, with any rung applied.

    python -m holdback.lm_eval run --model holdback \\
        --model_args "checkpoint=builtin:chess/chat,rung=noise,sigma=0.01" --tasks …

lm-eval finds models that are part of it or that were imported; it has no entry points. So this
module, run as a program, registers the model and hands everything over to lm-eval. In a program of
one's own, importing it is enough: `lm_eval.simple_evaluate(model="holdback", model_args=…)`.
"""

from __future__ import annotations

import sys
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from lm_eval.api.registry import register_model

from holdback.errors import ConfigError, HoldbackError
from holdback.extensions import offered
from holdback.inspect.conversations import (
    check_decoding,
    generate_at,
    render_conversation,
)
from holdback.models.protocol import Format, ModelOffers, Question, Request, Scored
from holdback.runs.variants import lend_variant, parse_reference
from holdback.tasks.text.prompts import begin_text

_MAX_TOKENS = 256
_LENGTHS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
_TAKEN = ("until", "do_sample", "temperature", *_LENGTHS)
# What has no counterpart here, with values that ask for nothing.
_HARMLESS: Mapping[str, Sequence[Any]] = {"top_p": (1, 1.0), "top_k": (0, -1, None), "seed": ()}


@register_model("holdback")
class HoldbackLM(LM):  # type: ignore[misc]
    """A checkpoint, by reference, with whatever technique it names.

    Texts are tokenised as lm-eval's `hf` does: the tokenizer's own beginning of text first where it
    adds one, and spaces that end a context counted to the continuation.

    Args:
        checkpoint: As in `holdback.runs.variants`; may hold `?rung=…` itself.
        batch_size: Taken and not needed: the engine makes its own batches.
        max_batch_size: As `batch_size`.
        device: Of local weights; `cuda:0`, lm-eval's own word where nobody says, is the processor
            on a machine without one, as it is for its `hf`.
        **options: More keys of the reference, `rung=noise,sigma=0.01,seed=0`.
    """

    def __init__(
        self,
        checkpoint: str = "",
        batch_size: Any = None,
        max_batch_size: Any = None,
        device: str | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        if not checkpoint:
            given = ", ".join(options) or "nothing"
            raise ConfigError(
                "--model holdback: expected checkpoint=… in --model_args, as in"
                f" checkpoint=builtin:chess/chat,rung=noise,sigma=0.01; got {given}"
            )
        device = _find_device(device)
        extra = options if device is None else {**options, "device": device}
        self.variant = parse_reference(str(checkpoint), extra)
        self._stack = ExitStack()
        self.lent: Any = self._stack.enter_context(lend_variant(self.variant))
        check_decoding(self.lent, "lm-eval")
        self._asked: Counter[tuple[str, str]] = Counter()

    def close(self) -> None:
        """Undo the technique and let go of the weights."""
        self._stack.close()
        self.lent = None

    def loglikelihood(
        self, requests: Sequence[Instance], disable_tqdm: bool = False
    ) -> list[tuple[float, bool]]:
        """Score continuations; those of one context are one question to the engine."""
        pairs = [_split_pair(*request.args) for request in requests]
        contexts = list(dict.fromkeys(context for context, _ in pairs))
        wanted: dict[str, list[str]] = {context: [] for context in contexts}
        for context, continuation in pairs:
            if continuation not in wanted[context]:
                wanted[context].append(continuation)
        scored = self.lent.score(
            [
                Question(prompt=self._begin(context), continuations=tuple(wanted[context]))
                for context in contexts
            ]
        )
        known = {
            (context, continuation): part
            for context, parts in zip(contexts, scored, strict=True)
            for continuation, part in zip(wanted[context], parts, strict=True)
        }
        answers = [_answer(known[pair]) for pair in pairs]
        for request, answer in zip(requests, answers, strict=True):
            self.cache_hook.add_partial("loglikelihood", request.args, answer)
        return answers

    def loglikelihood_rolling(
        self, requests: Sequence[Instance], disable_tqdm: bool = False
    ) -> list[float]:
        """Score whole texts; what exceeds the model's context in windows, each token once.

        Windows follow each other, the token before each its context, as lm-eval's own windows of
        one token of context; the last is as long as the others would be, if what it scores is not.
        """
        answers = []
        for request in requests:
            (text,) = request.args
            windows = list(self._cut_windows(text))
            scored = self.lent.score(windows) if windows else []
            answers.append(float(sum(part.logprob for (part,) in scored)))
            self.cache_hook.add_partial("loglikelihood_rolling", (text,), answers[-1])
        return answers

    def generate_until(self, requests: Sequence[Instance], disable_tqdm: bool = False) -> list[str]:
        """Generate; greedily, unless `do_sample` says otherwise."""
        asked = [self._make_request(*request.args) for request in requests]
        answers: dict[int, str] = {}
        for temperature in dict.fromkeys(temperature for _, temperature in asked):
            places = [at for at, (_, own) in enumerate(asked) if own == temperature]
            drawn = generate_at(self.lent, [asked[at][0] for at in places], temperature)
            answers.update((at, part.text) for at, part in zip(places, drawn, strict=True))
        for at, request in enumerate(requests):
            self.cache_hook.add_partial("generate_until", request.args, answers[at])
        return [answers[at] for at in range(len(requests))]

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """Render a chat through the checkpoint's own template, with the rung's words in it.

        Raises:
            CheckpointError: if it has none.
            ConfigError: if the checkpoint is asked in the completion format.
        """
        if self.lent.presentation.format is not Format.CHAT:
            raise ConfigError(
                f"model {self.variant.name!r}: expected the chat format for --apply_chat_template,"
                " got completion: no template is forced on it; leave --apply_chat_template out"
            )
        if not add_generation_prompt and chat_history[-1]["role"] != "assistant":
            text: str = self.lent.render_chat(chat_history, answer_next=False)
            return text
        return render_conversation(self.lent, chat_history)

    @property
    def tokenizer_name(self) -> str:
        """Name of the variant: lm-eval's caches of requests tell tokenizers and templates by it."""
        return self.variant.name.replace("/", "__")

    def chat_template(self, chat_template: bool | str = False) -> str:
        """Template that chats are rendered through; empty where none is asked for."""
        tokenizer = offered(ModelOffers, self.lent, "tokenizer")
        return str(getattr(tokenizer, "chat_template", None) or "") if chat_template else ""

    def get_model_info(self) -> dict[str, Any]:
        """Say which variant this is, for lm-eval's results file."""
        rung = self.variant.rung
        return {
            "holdback": self.variant.name,
            "rung": rung.name,
            "technique": rung.technique,
            "parameters": dict(rung.parameters),
            "seed": self.variant.seed,
        }

    def _begin(self, context: str) -> str:
        """Put in front what the tokenizer puts there, and what the rung says outside a template."""
        begin = begin_text(self.lent)
        if begin and context.startswith(begin):
            # Rendered by the chat template, which writes it itself.
            return context
        presentation = self.lent.presentation
        # Of a template's text nobody can tell here; where there is none the format is completion.
        if presentation.format is Format.COMPLETION and context:
            shown = [{"role": "user", "content": context}]
            return render_conversation(self.lent, shown)
        return begin + context

    def _cut_windows(self, text: str) -> Iterator[Question]:
        if not text:
            return
        begin = begin_text(self.lent)
        starts = self._find_starts(text)
        for at, start in enumerate(starts):
            end = starts[at + 1] if at + 1 < len(starts) else len(text)
            before = begin if start == 0 else _last_word(text[:start])
            yield Question(prompt=before, continuations=(text[start:end],))

    def _find_starts(self, text: str) -> list[int]:
        """Places to cut a text at: before words, so that its parts tokenise as the whole does."""
        limit = find_limit(self.lent)
        if limit is None or len(self.lent.encode(text)) < limit:
            return [0]
        fast = self.lent.tokenizer.backend_tokenizer
        offsets = [start for start, _ in fast.encode(text, add_special_tokens=False).offsets]
        # Room for the word before, which is a window's context.
        room = limit - max(8, limit // 8)
        starts, taken = [0], 0
        last_word = None
        for index, start in enumerate(offsets):
            if index > taken and start > starts[-1] and _begins_word(text, start):
                last_word = index
            if index - taken >= room:
                cut = index if last_word is None or last_word <= taken else last_word
                starts.append(offsets[cut])
                taken, last_word = cut, None
        return starts

    def _make_request(
        self, context: str, options: Mapping[str, Any]
    ) -> tuple[Request, float | None]:
        for name, value in options.items():
            if name not in _TAKEN and value not in _HARMLESS.get(name, ()):
                raise ConfigError(
                    f"model {self.variant.name!r}: expected {', '.join(_TAKEN)} among the task's"
                    f" generation_kwargs, got {name} = {value!r}, which it cannot honour"
                )
        until = options.get("until") or []
        stop = tuple([until] if isinstance(until, str) else until)
        given = (options[name] for name in _LENGTHS if options.get(name) is not None)
        temperature = float(options.get("temperature") or 0.0)
        greedy = not options.get("do_sample", temperature > 0)
        key = (context, repr(sorted(options.items(), key=str)))
        # Repeats of a task ask the same again: each time another draw.
        turn = self._asked[key]
        self._asked[key] += 1
        request = Request(
            prompt=self._begin(context),
            max_tokens=int(next(given, _MAX_TOKENS)),
            seed=(self.variant.seed, zlib.crc32(context.encode()), turn),
            stop=tuple(part for part in stop if part),
        )
        return request, 0.0 if greedy else temperature or 1.0


def find_limit(model: Any) -> int | None:
    """Longest text in tokens that local weights read; None where nobody says."""
    weights = offered(ModelOffers, model, "weights")
    if weights is None:
        return None
    from holdback.models.engine.passes import find_context

    return find_context(weights)


def main() -> None:
    """Run lm-eval's own command line, with `--model holdback` among its models."""
    from lm_eval.__main__ import cli_evaluate

    try:
        cli_evaluate()
    except HoldbackError as error:
        print(f"holdback: {' '.join(str(error).split())}", file=sys.stderr)
        raise SystemExit(1) from None


def _find_device(device: str | None) -> str | None:
    if device is None or not device.startswith("cuda"):
        return device
    import torch

    return device if torch.cuda.is_available() else None


def _split_pair(context: str, continuation: str) -> tuple[str, str]:
    """Count spaces that end a context to the continuation, as lm-eval does: tokens begin so."""
    bare = context.rstrip()
    if not bare:
        return context, continuation
    return bare, context[len(bare) :] + continuation


def _answer(scored: Scored) -> tuple[float, bool]:
    return scored.logprob, scored.greedy


def _begins_word(text: str, at: int) -> bool:
    return text[at].isspace() and not text[at - 1].isspace()


def _last_word(text: str) -> str:
    """The last word with the space before it: tokens of its own, whatever was before."""
    bare = text.rstrip()
    start = max(bare.rfind(" "), bare.rfind("\n"), 0)
    return text[start:]


if __name__ == "__main__":
    main()
