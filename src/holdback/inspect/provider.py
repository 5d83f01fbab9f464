"""Inspect's way to Holdback's models: `holdback/<checkpoint>[?rung=…]`.

    inspect eval mytask.py --model "holdback/builtin:chess/chat?rung=noise&sigma=0.01&seed=0"

Inspect imports this module whenever it looks for a model, so nothing heavy is imported here. All
that sets a variant apart is in the model's name (`holdback.runs.variants`): by it Inspect
memoises models, caches answers and resumes evaluations.
"""

from __future__ import annotations

import asyncio
import weakref
import zlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, TypeVar

from inspect_ai.model import (
    ChatCompletionChoice,
    ChatMessage,
    GenerateConfig,
    Logprob,
    Logprobs,
    ModelAPI,
    ModelOutput,
    ModelUsage,
    StopReason,
    modelapi,
)
from inspect_ai.tool import ToolChoice, ToolFunction, ToolInfo

from holdback.errors import ConfigError, HoldbackError
from holdback.extensions import offered
from holdback.inspect.messages import read_messages, read_tools, write_answer
from holdback.models.protocol import ModelOffers

if TYPE_CHECKING:
    from holdback.inspect.gathering import Gatherer
    from holdback.inspect.tools import Schema
    from holdback.models.protocol import Generation, Model, Request
    from holdback.runs.variants import Variant

_MAX_TOKENS = 512
_CONNECTIONS = 64
_STOP_REASONS: Mapping[str, StopReason] = {
    "stop": "stop",
    "length": "max_tokens",
    "refused": "content_filter",
}
# What has no counterpart here, and the values that ask for nothing.
_UNSUPPORTED: Mapping[str, Sequence[Any]] = {
    "top_p": (1, 1.0),
    "top_k": (0, -1),
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "logit_bias": ({},),
    "best_of": (1,),
    "top_logprobs": (0,),
    "prompt_logprobs": (0,),
    "response_schema": (),
    "modalities": ([],),
    "reasoning_effort": ("none",),
    "reasoning_tokens": (0,),
}

Answered = TypeVar("Answered")


@modelapi(name="holdback")
def holdback() -> type[ModelAPI]:
    """Name the provider."""
    return HoldbackAPI


class EngineAPI(ModelAPI):
    """A model that Holdback has loaded, as Inspect asks it.

    Requests that come together are run in one call of the engine, in a thread of its own.

    Args:
        model: The model, with whatever technique is applied.
        model_name: Unique to the checkpoint, the rung and its seed.
        config: Inspect's.
        tells_prompt: Whether each output's metadata holds the rendered `prompt`.
    """

    def __init__(
        self,
        model: Model,
        model_name: str,
        *,
        config: GenerateConfig | None = None,
        tells_prompt: bool = False,
    ) -> None:
        super().__init__(model_name, config=config or GenerateConfig())
        self.lent: Any = model
        self.tells_prompt = tells_prompt
        self.refusal: HoldbackError | None = None
        """The first call that could not be put to the model, and why."""
        self._gatherer: Gatherer[tuple[Request, float | None], Generation] | None = None
        self._asked: Counter[tuple[int, str]] = Counter()

    @property
    def batches(self) -> list[int]:
        """Sizes of the engine's calls so far."""
        return [] if self._gatherer is None else list(self._gatherer.batches)

    async def generate(
        self,
        input: list[ChatMessage],
        tools: list[ToolInfo],
        tool_choice: ToolChoice,
        config: GenerateConfig,
    ) -> ModelOutput:
        """Answer a chat, with words or with calls of tools.

        Raises:
            ConfigError: for images and settings that cannot be honoured.
            CheckpointError: if the checkpoint cannot be asked so.
        """
        from holdback.inspect.conversations import render_conversation

        try:
            self._refuse(config)
            shown = read_tools(tools) if tool_choice != "none" else []
            begun = self._begin_call(tool_choice) if shown else ""
            answer = [{"role": "assistant", "content": begun}] if begun else []
            prompt = render_conversation(self.lent, [*read_messages(input), *answer], shown)
        except HoldbackError as error:
            self.refusal = self.refusal or error
            raise
        requests = self._make_requests(prompt, config)
        futures = [self._queue.submit((request, config.temperature)) for request in requests]
        generations = [await _wait_for(future) for future in futures]
        choices = [self._write_choice(g, begun, shown, config) for g in generations]
        return self._write_output(prompt, generations, choices)

    async def tokenize(self, text: str) -> list[int]:
        """Tokenise a text as the model reads it."""
        encode = offered(ModelOffers, self.lent, "encode")
        return await super().tokenize(text) if encode is None else list(encode(text))

    async def count_text_tokens(self, text: str) -> int:
        """Count a text's tokens; by Inspect's estimate where a provider keeps its tokenizer."""
        encode = offered(ModelOffers, self.lent, "encode")
        return await super().count_text_tokens(text) if encode is None else len(encode(text))

    def max_tokens(self) -> int | None:
        """Longest answer where nobody says."""
        return _MAX_TOKENS

    def max_connections(self) -> int:
        """Samples in flight, and so the largest batch, where nobody says."""
        return _CONNECTIONS

    def connection_key(self) -> str:
        """Variants do not wait for each other."""
        return self.model_name

    def close(self) -> None:
        """End the thread."""
        if self._gatherer is not None:
            self._gatherer.close()
            self._gatherer = None

    @property
    def _queue(self) -> Gatherer[tuple[Request, float | None], Generation]:
        if self._gatherer is None:
            from holdback.inspect.gathering import Gatherer

            self._gatherer = Gatherer(answer=self._run)
        return self._gatherer

    def _run(self, asked: Sequence[tuple[Request, float | None]]) -> list[Generation]:
        """Run a batch, one call for each temperature in it."""
        from holdback.inspect.conversations import generate_at

        answers: dict[int, Generation] = {}
        for temperature in dict.fromkeys(temperature for _, temperature in asked):
            places = [at for at, (_, own) in enumerate(asked) if own == temperature]
            drawn = generate_at(self.lent, [asked[at][0] for at in places], temperature)
            answers.update(zip(places, drawn, strict=True))
        return [answers[at] for at in range(len(asked))]

    def _make_requests(self, prompt: str, config: GenerateConfig) -> list[Request]:
        from holdback.models.protocol import Request

        seed = 0 if config.seed is None else config.seed
        requests = []
        for _ in range(config.num_choices or 1):
            # Epochs ask the same again: each time another draw, the same ones in every run.
            turn = self._asked[seed, prompt]
            self._asked[seed, prompt] += 1
            requests.append(
                Request(
                    prompt=prompt,
                    max_tokens=_MAX_TOKENS if config.max_tokens is None else config.max_tokens,
                    seed=(seed % 2**64, zlib.crc32(prompt.encode()), turn),
                    stop=tuple(config.stop_seqs or ()),
                )
            )
        return requests

    def _begin_call(self, tool_choice: ToolChoice) -> str:
        """Begin the answer where a call is demanded."""
        from holdback.inspect.tools import begin_call

        if isinstance(tool_choice, ToolFunction):
            return begin_call(self.lent, tool_choice.name)
        return begin_call(self.lent, None) if tool_choice == "any" else ""

    def _refuse(self, config: GenerateConfig) -> None:
        from holdback.inspect.conversations import check_decoding

        for name, harmless in _UNSUPPORTED.items():
            value = getattr(config, name)
            if value is not None and value not in harmless:
                raise ConfigError(
                    f"model holdback/{self.model_name}: expected max_tokens, temperature,"
                    f" stop_seqs, seed, logprobs or num_choices, got {name} = {value!r}, which it"
                    " cannot honour; leave it out"
                )
        if config.max_tokens is not None and config.max_tokens < 1:
            raise ConfigError(
                f"model holdback/{self.model_name}: expected max_tokens of at least 1, got"
                f" {config.max_tokens}"
            )
        check_decoding(self.lent, "Inspect")

    def _write_choice(
        self, generation: Generation, begun: str, tools: Sequence[Schema], config: GenerateConfig
    ) -> ChatCompletionChoice:
        reason = _STOP_REASONS[str(generation.stop_reason)]
        message = write_answer(
            self._complete(begun, generation.text),
            tools,
            model=self.model_name,
            is_whole=reason == "stop",
        )
        return ChatCompletionChoice(
            message=message,
            stop_reason="tool_calls" if message.tool_calls else reason,
            logprobs=_write_logprobs(self.lent, generation) if config.logprobs else None,
        )

    def _write_output(
        self,
        prompt: str,
        generations: Sequence[Generation],
        choices: list[ChatCompletionChoice],
    ) -> ModelOutput:
        encode = offered(ModelOffers, self.lent, "encode")
        read = 0 if encode is None else len(encode(prompt))
        written = sum(generation.tokens for generation in generations)
        return ModelOutput(
            model=self.model_name,
            choices=choices,
            usage=ModelUsage(input_tokens=read, output_tokens=written, total_tokens=read + written),
            metadata={"prompt": prompt} if self.tells_prompt else None,
        )

    def _complete(self, begun: str, text: str) -> str:
        """An answer with its beginning: scorers read answers, whoever wrote their first words."""
        if begun:
            text = begun + text
        prefill = self.lent.presentation.prefill
        if not prefill:
            return text
        joint = "" if text[:1].isspace() or not text else " "
        return f"{prefill}{joint}{text}"


make_engine_api: Callable[..., Any] = modelapi(name="holdback-lent")(EngineAPI)
"""Makes an `EngineAPI` that Inspect knows the provider of."""


class HoldbackAPI(EngineAPI):
    """`holdback/<checkpoint>[?rung=…]`, loaded when Inspect asks for the model.

    More keys may come as model arguments (`-M rung=noise -M sigma=0.01`); they join the name.
    """

    def __init__(
        self,
        model_name: str,
        base_url: str | None = None,
        api_key: str | None = None,
        config: GenerateConfig | None = None,
        **model_args: Any,
    ) -> None:
        from holdback.runs.variants import lend_variant, parse_reference

        extra = model_args if base_url is None else {**model_args, "base_url": base_url}
        self._stack = ExitStack()
        # Inspect does not close a model that it keeps for the next evaluation of the process.
        weakref.finalize(self, self._stack.close)
        try:
            self.variant: Variant = parse_reference(model_name, extra)
            model = self._stack.enter_context(lend_variant(self.variant))
            # A missing template is no sample's error: said before the task begins.
            if model.presentation.format == "chat":
                model.render_chat(({"role": "user", "content": "?"},), answer_next=True)
        except HoldbackError as error:
            raise _show(error) from None
        super().__init__(model, self.variant.name, config=config)

    def close(self) -> None:
        """End the thread, undo the technique, let go of the weights."""
        super().close()
        self._stack.close()
        self.lent = None


def _show(error: HoldbackError) -> HoldbackError:
    """Make an error one that Inspect's command prints as a line: Click does so with its own."""
    from click import ClickException

    kind = type(error)
    shown = type(kind.__name__, (ClickException, kind), {"__module__": kind.__module__})
    told: HoldbackError = shown(" ".join(str(error).split()))
    return told


async def _wait_for(future: Future[Answered]) -> Answered:
    """Wait for a thread's future without polling, on whichever loop Inspect runs."""
    import sniffio

    if sniffio.current_async_library() == "asyncio":
        return await asyncio.wrap_future(future)
    import anyio

    # Each waits in a thread of its own, so that a batch is as large as on asyncio.
    return await anyio.to_thread.run_sync(
        future.result, limiter=anyio.CapacityLimiter(1), abandon_on_cancel=True
    )


def _write_logprobs(model: Any, generation: Generation) -> Logprobs | None:
    """Give each sampled token its log-probability, at temperature 1.

    An engine gives numbers and the text; the tokens are read off the text, which tokenises to
    them except where sampling split a word otherwise: there the names of the tokens are left empty
    and the numbers stand.
    """
    if not generation.logprobs:
        return None
    names = [""] * len(generation.logprobs)
    decode = offered(ModelOffers, model, "decode")
    if decode is not None:
        pieces = [decode([token]) for token in model.encode(generation.text)]
        # One more number than tokens is that of the token that ended the text.
        if 0 <= len(names) - len(pieces) <= 1:
            names[: len(pieces)] = pieces
    return Logprobs(
        content=[
            Logprob(token=name, logprob=logprob)
            for name, logprob in zip(names, generation.logprobs, strict=True)
        ]
    )
