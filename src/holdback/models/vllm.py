"""Weights on this machine's GPUs, run by vLLM: `vllm/<folder-or-repo>`, with the extra `vllm`.

Prompts are rendered and tokenised as local weights' are and handed over as tokens, so that nothing
is added to them, and continuations are split off as they are there.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from holdback.errors import ConfigError
from holdback.ids import parse_weights
from holdback.lineage import Checkpoint
from holdback.models.engine.scoring import pair_tokens
from holdback.models.files import check_files, digest_checkpoint, resolve_folder
from holdback.models.loading import load_tokenizer
from holdback.models.local import LocalModel
from holdback.models.protocol import (
    Decoding,
    Format,
    Generation,
    Presentation,
    Question,
    Request,
    Scored,
    StopReason,
    refuse_constraints,
)


@dataclass(frozen=True, kw_only=True)
class VllmModel:
    """A model that vLLM runs; copies by `dataclasses.replace` share the engine."""

    name: str
    prompter: LocalModel
    """The same checkpoint without weights: its tokenizer and template."""
    engine: Engine
    presentation: Presentation = field(default_factory=Presentation)
    decoding: Decoding = field(default_factory=Decoding)

    @property
    def tokenizer(self) -> Any:
        """The checkpoint's own."""
        return self.prompter.tokenizer

    def render_chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        answer_next: bool,
        tools: Sequence[Mapping[str, Any]] = (),
    ) -> str:
        """Render messages through the checkpoint's own chat template."""
        return self.prompter.render_chat(messages, answer_next=answer_next, tools=tools)

    def render_opening(
        self, messages: Sequence[Mapping[str, Any]], *, tools: Sequence[Mapping[str, Any]] = ()
    ) -> str:
        """Render messages up to where an answer begins that is to follow at once, unthought."""
        return self.prompter.render_opening(messages, tools=tools)

    @property
    def answer_spaces(self) -> str:
        """What the chat template writes between `render_opening` and an answer."""
        return self.prompter.answer_spaces

    def encode(self, text: str) -> list[int]:
        """Tokenise a text as it stands: no special token is added."""
        return self.prompter.encode(text)

    def can_read(self, text: str) -> bool:
        """Tell whether the tokenizer has tokens for all of a text, none of them «unknown»."""
        return self.prompter.can_read(text)

    def generate(self, requests: Sequence[Request]) -> list[Generation]:
        """Continue each request's prompt at the model's temperature.

        vLLM keeps what prompts share in its own prefix cache.

        Raises:
            ConfigError: for constrained decoding.
        """
        refuse_constraints(self.name, requests)
        settings = [
            {
                "temperature": self.decoding.temperature,
                "max_tokens": request.max_tokens,
                "stop": list(request.stop) or None,
                "seed": int(np.random.SeedSequence(request.seed).generate_state(1)[0]),
                # Of the sampled token alone.
                "logprobs": 0,
            }
            for request in requests
        ]
        outputs = self.engine.run([self.encode(request.prompt) for request in requests], settings)
        return [_read_generation(output.outputs[0]) for output in outputs]

    def score(self, questions: Sequence[Question]) -> list[tuple[Scored, ...]]:
        """Score each question's continuations by the log-probabilities of prompts.

        Raises:
            ConfigError: for a continuation without tokens.
        """
        pairs = pair_tokens(self.prompter, questions)
        flat = [pair for own in pairs for pair in own]
        # vLLM generates one token at least; it is not looked at.
        settings = [{"temperature": 0.0, "max_tokens": 1, "prompt_logprobs": 1}] * len(flat)
        outputs = self.engine.run([pair.tokens.tolist() for pair in flat], settings)
        scored = iter(
            _read_score(output.prompt_logprobs[pair.start :], pair.tokens[pair.start :].tolist())
            for pair, output in zip(flat, outputs, strict=True)
        )
        return [tuple(next(scored) for _ in own) for own in pairs]


@dataclass(frozen=True)
class Engine:
    """vLLM's engine, started when first asked: rendering prompts needs no GPU."""

    options: Mapping[str, Any]
    """Of `vllm.LLM`."""
    adapter: str | None = None
    """Folder of a PEFT adapter."""

    def run(self, prompts: Sequence[Sequence[int]], settings: Sequence[Mapping[str, Any]]) -> Any:
        """Let vLLM continue tokens; its `RequestOutput` for each, in order."""
        if not prompts:
            return []
        from vllm import SamplingParams

        return self._llm.generate(
            [{"prompt_token_ids": list(prompt)} for prompt in prompts],
            [SamplingParams(**own) for own in settings],
            lora_request=self._adapter_request,
            use_tqdm=False,
        )

    @cached_property
    def _llm(self) -> Any:
        from vllm import LLM

        return LLM(**self.options)

    @cached_property
    def _adapter_request(self) -> Any:
        if self.adapter is None:
            return None
        from vllm.lora.request import LoRARequest

        return LoRARequest("adapter", 1, self.adapter)


def load_vllm(checkpoint: Checkpoint) -> VllmModel:
    """Load the checkpoint `vllm/<folder-or-repo>` names; the engine starts when first asked.

    Raises:
        ConfigError: without vLLM, or for a device, which vLLM chooses itself.
        CheckpointError: if files are missing or unsafe.
    """
    if find_spec("vllm") is None:
        raise ConfigError(
            f"checkpoint {checkpoint.name!r}: {checkpoint.model!r} needs vLLM, which is not"
            " installed: pip install 'holdback[vllm]' (Linux with a GPU), or write hf/… for the"
            " local engine"
        )
    if checkpoint.device is not None:
        raise ConfigError(
            f"checkpoint {checkpoint.name!r}: expected no `device` with vllm/, got"
            f" {checkpoint.device!r}; choose GPUs by CUDA_VISIBLE_DEVICES"
        )
    # Safe files only, and the same folder for weights and tokenizer.
    local = refer_locally(checkpoint)
    check_files(local)
    folder = resolve_folder(local.model, revision=local.revision)
    options: dict[str, Any] = {
        "model": str(folder),
        "dtype": checkpoint.dtype or "auto",
        "load_format": "safetensors",
        "trust_remote_code": False,
        # Sampling follows the requests' own seeds.
        "seed": 0,
    }
    adapter = None
    if local.adapter is not None:
        adapter = str(resolve_folder(local.adapter))
        options |= {"enable_lora": True, "max_lora_rank": _read_rank(adapter)}
    nothing: Any = None
    presentation = Presentation(format=Format.CHAT if checkpoint.chat else Format.COMPLETION)
    return VllmModel(
        name=checkpoint.name,
        prompter=LocalModel(
            name=checkpoint.name,
            weights=nothing,
            tokenizer=load_tokenizer(local),
            presentation=presentation,
        ),
        engine=Engine(options, adapter),
        presentation=presentation,
    )


def identify_weights(checkpoint: Checkpoint) -> str:
    """Say what the weights are beyond their path: the contents of the files, or the commit."""
    return digest_checkpoint(refer_locally(checkpoint))


# How `models.registry.identify_checkpoint` finds it.
load_vllm.identify = identify_weights  # type: ignore[attr-defined]


def refer_locally(checkpoint: Checkpoint) -> Checkpoint:
    """Name the weights of `vllm/<folder-or-repo>` as those of this machine's own engine."""
    return replace(checkpoint, model=str(parse_weights(checkpoint.model)))


def _read_rank(adapter: str) -> int:
    """Read an adapter's rank, rounded up to one that vLLM has kernels for."""
    rank = int(json.loads((Path(adapter) / "adapter_config.json").read_text())["r"])
    return next((size for size in (8, 16, 32, 64, 128, 256) if rank <= size), rank)


def _read_generation(output: Any) -> Generation:
    logprobs = [
        float(at[token].logprob)
        for at, token in zip(output.logprobs or (), output.token_ids, strict=False)
    ]
    reason = StopReason.LENGTH if output.finish_reason == "length" else StopReason.STOP
    return Generation(
        text=str(output.text),
        logprobs=tuple(logprobs),
        stop_reason=reason,
        tokens=len(output.token_ids),
    )


def _read_score(places: Sequence[Mapping[int, Any]], tokens: Sequence[int]) -> Scored:
    found = [at[token] for at, token in zip(places, tokens, strict=True)]
    return Scored(
        logprob=float(sum(entry.logprob for entry in found)),
        tokens=len(found),
        greedy=all(entry.rank == 1 for entry in found),
    )
