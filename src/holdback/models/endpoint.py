"""A model behind an OpenAI-compatible endpoint: OpenAI, vLLM, SGLang, llama.cpp, Ollama, others.

The chat format goes to `/chat/completions`, the completion format to `/completions`. A rendered
chat is the JSON of its messages, so that it can be shown and stored like any prompt; text behind
the JSON is how the answer has to begin (prefill).
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import numpy as np

from holdback.errors import (
    CheckpointError,
    ConfigError,
    EndpointError,
    HoldbackError,
    LimitReachedError,
)
from holdback.ids import parse_id
from holdback.lineage import Checkpoint
from holdback.models.connection import Body, Connection, RejectedError, Usage
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
from holdback.models.token_cap import open_ledger, read_bound

T = TypeVar("T")

CHAT, COMPLETIONS = "/chat/completions", "/completions"

_STOP_REASONS = {
    "length": StopReason.LENGTH,
    "max_tokens": StopReason.LENGTH,
    "content_filter": StopReason.REFUSED,
}
# How providers say, by a status of 400, that their filter took offence at the prompt, or that it
# leaves no room for an answer.
_FILTERED = re.compile(r"content[_ ]?(filter|policy)|ResponsibleAIPolicyViolation")
_TOO_LONG = re.compile(r"context[_ ](length|window|size)|exceeds? .*context", re.IGNORECASE)

# What servers may not take, and the name they have for it where there is one. Some models have a
# temperature of their own and no other: it is then what their ordinary protocol is.
_OPTIONAL: Mapping[str, str | None] = {
    "logprobs": None,
    "seed": None,
    "temperature": None,
    "max_tokens": "max_completion_tokens",
}
_MOST_STOP_STRINGS = 4


@dataclass(frozen=True, kw_only=True)
class EndpointModel:
    """A model that answers over HTTP; copies by `dataclasses.replace` share the connection."""

    name: str
    model: str
    """As the server knows it."""
    connection: Connection
    presentation: Presentation = field(default_factory=Presentation)
    decoding: Decoding = field(default_factory=Decoding)

    @property
    def usage(self) -> Usage:
        """Requests, tokens and retries so far."""
        return self.connection.usage

    def render_chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        answer_next: bool,
        tools: Sequence[Mapping[str, Any]] = (),
    ) -> str:
        """Write messages as JSON, which is what is sent; the server applies its own template."""
        sent: Any = [_write_message(message) for message in messages]
        if tools:
            sent = {"messages": sent, "tools": list(tools)}
        return json.dumps(sent, ensure_ascii=False)

    def generate(self, requests: Sequence[Request]) -> list[Generation]:
        """Continue each request's prompt at the model's temperature, many at a time.

        Raises:
            EndpointError: if the endpoint keeps failing, rejects a request, or does not continue an
                answer that a prompt begins.
            LimitReachedError: at a cap on tokens.
            ConfigError: for constrained decoding.
        """
        refuse_constraints(self.name, requests)
        path = CHAT if self.presentation.format is Format.CHAT else COMPLETIONS
        bodies = [self._write_body(request) for request in requests]
        if path == CHAT and any("continue_final_message" in body for body in bodies):
            self._check_prefill()
        read = _read_chat if path == CHAT else _read_completion
        generated = self._send(path, bodies, read, rescue=_rescue_outcome, lose=_lose)
        return [
            _cut(generation, request.stop)
            for generation, request in zip(generated, requests, strict=True)
        ]

    def score(self, questions: Sequence[Question]) -> list[tuple[Scored, ...]]:
        """Score each question's continuations by echoing them, where the endpoint can do that.

        A continuation's tokens are those that spell the text's end; where the prompt's last token
        reaches into it, the prompt's own tokens are counted by echoing it alone, and split off.

        Raises:
            ConfigError: in the chat format: chat endpoints give no log-probabilities of a prompt.
            EndpointError: if the endpoint gives none for completions either.
        """
        if self.presentation.format is Format.CHAT:
            raise ConfigError(
                f"checkpoint {self.name!r}: a chat endpoint gives no log-probabilities of what it"
                " is told, so choices cannot be scored; let it answer in words, or ask in the"
                " completion format"
            )
        texts = [
            _split(q.prompt, continuation) for q in questions for continuation in q.continuations
        ]
        echoes = self._echo([prompt + rest for prompt, rest in texts])
        starts = [echo.find_start(rest) for echo, (_, rest) in zip(echoes, texts, strict=True)]
        melted = sorted(
            {prompt for (prompt, _), (_, exact) in zip(texts, starts, strict=True) if not exact}
            - {""}
        )
        alone = {
            prompt: len(echo.tokens)
            for prompt, echo in zip(melted, self._echo(melted), strict=True)
        }
        scored = []
        for echo, (prompt, _), (start, exact) in zip(echoes, texts, starts, strict=True):
            own = start if exact else alone.get(prompt, start)
            # Wholly inside the prompt's last token: then that token tells the choices apart.
            at = own if own < len(echo.tokens) else start
            scored.append(echo.score(at, self.connection.address))
        each = iter(scored)
        return [tuple(next(each) for _ in question.continuations) for question in questions]

    def _write_body(self, request: Request) -> dict[str, Any]:
        body: dict[str, Any] = {
            "model": self.model,
            "temperature": self.decoding.temperature,
            "max_tokens": request.max_tokens,
            # Servers take whole numbers of 31 bits, most of them.
            "seed": int(np.random.SeedSequence(request.seed).generate_state(1)[0]) % 2**31,
        }
        if request.stop:
            # More than OpenAI takes are looked for here, in what comes back.
            body["stop"] = list(request.stop[:_MOST_STOP_STRINGS])
        if self.presentation.format is Format.CHAT:
            return {**body, **_write_messages(request.prompt, self.name), "logprobs": True}
        return {**body, "prompt": request.prompt, "logprobs": 0}

    def _echo(self, texts: Sequence[str]) -> list[_Echo]:
        bodies = [
            {
                "model": self.model,
                "prompt": text,
                "echo": True,
                # Of the likeliest token as well, to see which is greedy.
                "logprobs": 1,
                # Not 0, which not all take; the token is cut off again.
                "max_tokens": 1,
                "temperature": 0,
            }
            for text in texts
        ]
        echoes = self._send(COMPLETIONS, bodies, self._read_echo)
        return [echo.cut_to(text) for echo, text in zip(echoes, texts, strict=True)]

    def _read_echo(self, reply: Mapping[str, Any]) -> _Echo:
        choice = reply["choices"][0]
        kept = choice.get("logprobs")
        if not kept or not kept.get("tokens"):
            raise EndpointError(self._explain_no_echo())
        likeliest = kept.get("top_logprobs") or [None] * len(kept["tokens"])
        return _Echo(
            tokens=tuple(str(token) for token in kept["tokens"]),
            logprobs=tuple(kept["token_logprobs"]),
            best=tuple(max(top.values()) if top else None for top in likeliest),
            prompt_tokens=_count_prompt(reply),
        )

    def _explain_no_echo(self) -> str:
        return (
            f"{self.connection.address}: expected log-probabilities of a prompt (`echo` with"
            " `logprobs`), got none: this endpoint cannot score choices; let the model answer in"
            " words, or serve it with vLLM or load the weights (hf/…)"
        )

    def _send(
        self,
        path: str,
        bodies: Sequence[Mapping[str, Any]],
        read: Callable[[Mapping[str, Any]], T],
        *,
        rescue: Callable[[RejectedError], T | None] = lambda error: None,
        lose: Callable[[HoldbackError], T] | None = None,
    ) -> list[T]:
        """Send bodies, without the fields that this server turned out not to take."""
        done: list[T] = []
        # One ahead of the rest: what it says about fields holds for all.
        for part in (bodies[:1], bodies[1:]):
            while True:
                adapted = [self._adapt(body) for body in part]
                try:
                    done += self.connection.post_all(path, adapted, read, rescue=rescue, lose=lose)
                    break
                except RejectedError as error:
                    self._learn(error, part[0])
                except (EndpointError, LimitReachedError) as error:
                    # What the one ahead was answered is kept.
                    if lose is None or not done:
                        raise
                    done += [lose(error) for _ in part]
                    break
        return done

    def _adapt(self, body: Mapping[str, Any]) -> Body:
        fields = dict(body)
        for name in self.usage.adapted:
            if name in fields:
                value, other = fields.pop(name), _OPTIONAL[name]
                if other is not None:
                    fields[other] = value
        asked = body.get("prompt") or json.dumps(body.get("messages", ""))
        # About four letters a token in English; the server's own count replaces it.
        expected = len(asked) // 4 + int(body.get("max_tokens", 0))
        return Body(fields=fields, expected_tokens=expected)

    def _learn(self, error: RejectedError, body: Mapping[str, Any]) -> None:
        """Note a field that the server rejects and that an answer does not hang on, or raise."""
        if error.status in (400, 403, 422):
            for name, other in _OPTIONAL.items():
                named = re.search(rf"\b{name}\b", error.reply) is not None
                # `echo` is nothing without its log-probabilities.
                needed = name == "logprobs" and "echo" in body
                if named and name in body and name not in self.usage.adapted and not needed:
                    self.usage.adapted[name] = f"sent as {other}" if other else "left out"
                    return
        raise error

    def _check_prefill(self) -> None:
        """Make sure, once, that the server goes on from a final message of the assistant's.

        One that ignores the two fields for it would close the message and begin another one, and
        its prompt then is longer: so the prompt's tokens are compared with and without the fields.

        Raises:
            EndpointError: if it does not, or does not say.
        """
        if self.connection.continues_messages:
            return
        body = {
            "model": self.model,
            "messages": [
                {"role": "user", "content": "Question"},
                {"role": "assistant", "content": "Answer"},
            ],
            "max_tokens": 1,
            "temperature": 0,
        }
        read = _count_prompt
        try:
            closed, continued = (
                self._send(CHAT, [{**body, **extra}], read)[0] for extra in ({}, _CONTINUE)
            )
        except RejectedError as error:
            raise EndpointError(self._explain_no_prefill(error.reply)) from error
        if not 0 < continued < closed:
            raise EndpointError(
                self._explain_no_prefill(
                    f"a prompt of {continued} tokens with it, {closed} without"
                )
            )
        self.connection.continues_messages = True

    def _explain_no_prefill(self, got: str) -> str:
        return (
            f"{self.connection.address}: expected a server that continues an answer begun for the"
            f" model (`continue_final_message`, as vLLM and SGLang), got {got}; serve the model"
            " with one of these, or ask in the completion format"
        )


def load_endpoint(checkpoint: Checkpoint) -> EndpointModel:
    """Reach for a model by `openai/<name>` or `openai-api/<service>/<name>`; nothing is sent yet.

    Address and key are read as Inspect does: OPENAI_BASE_URL and OPENAI_API_KEY, or
    <SERVICE>_BASE_URL and <SERVICE>_API_KEY. HOLDBACK_MAX_CONNECTIONS (16) bounds what is under way
    at once, HOLDBACK_MAX_TOKENS what all endpoints of a command may use together.

    Raises:
        ConfigError: for a name without a service, a service without an address, or a bound that is
            no number.
    """
    from holdback.models.registry import find_base_url, name_variables

    parsed = parse_id(checkpoint.model)
    prefix = name_variables(parsed)
    _require_httpx()
    return EndpointModel(
        name=checkpoint.name,
        model=parsed.model,
        connection=Connection(
            find_base_url(checkpoint),
            key=os.environ.get(f"{prefix}_API_KEY", "").strip() or None,
            key_variable=f"{prefix}_API_KEY",
            url_variable=f"{prefix}_BASE_URL",
            max_connections=read_bound("HOLDBACK_MAX_CONNECTIONS") or 16,
            ledger=open_ledger(),
        ),
        presentation=Presentation(format=Format.CHAT if checkpoint.chat else Format.COMPLETION),
    )


_CONTINUE = {"continue_final_message": True, "add_generation_prompt": False}


@dataclass(frozen=True, kw_only=True, slots=True)
class _Echo:
    """A text's tokens as the server sees them, with their log-probabilities in nats."""

    tokens: tuple[str, ...]
    logprobs: tuple[float | None, ...]
    """None for the first token of a text, which nothing predicts."""
    best: tuple[float | None, ...]
    """Of the likeliest token in each place; None where it is not told."""
    prompt_tokens: int
    """As the server counts them; it may or may not list the one that begins texts."""

    def cut_to(self, text: str) -> _Echo:
        """Cut off what was generated behind the text."""
        listed = len(self.tokens)
        ends = [end for end in (self.prompt_tokens, listed - 1, listed) if 0 < end <= listed]
        tail = text[-20:]
        spelled = (end for end in ends if "".join(self.tokens[:end]).endswith(tail))
        # Letters of several tokens are spelled by none of them: then the server's count.
        end = next(spelled, ends[0])
        return replace(
            self, tokens=self.tokens[:end], logprobs=self.logprobs[:end], best=self.best[:end]
        )

    def find_start(self, rest: str) -> tuple[int, bool]:
        """Where the tokens that spell the end of the text start, and whether they spell just that.

        Counted from the end, since a beginning of text may have been added in front.
        """
        spelled = ""
        for at in range(len(self.tokens) - 1, -1, -1):
            spelled = self.tokens[at] + spelled
            if len(spelled) >= len(rest):
                return at, spelled == rest
        return 0, False

    def score(self, start: int, address: str) -> Scored:
        logprobs = self.logprobs[start:]
        if not logprobs or any(logprob is None for logprob in logprobs):
            raise EndpointError(
                f"{address}: expected a log-probability for each token of a continuation, got"
                f" {list(logprobs)!r:.80}; a text's first token has none, so give it a prompt"
            )
        known = [float(logprob) for logprob in logprobs if logprob is not None]
        greedy = all(
            best is not None and logprob >= best - 1e-6
            for logprob, best in zip(known, self.best[start:], strict=True)
        )
        return Scored(logprob=float(sum(known)), tokens=len(known), greedy=greedy)


def _split(prompt: str, continuation: str) -> tuple[str, str]:
    """Count spaces at a prompt's end to its continuation, as local scoring and lm-eval do."""
    kept = prompt.rstrip()
    return kept, prompt[len(kept) :] + continuation


def _write_messages(prompt: str, name: str) -> dict[str, Any]:
    """Parse a rendered chat; text behind it, or a last message of the assistant's, is continued."""
    try:
        sent, end = json.JSONDecoder().raw_decode(prompt)
        messages = sent["messages"] if isinstance(sent, dict) else sent
        last = messages[-1]["role"]
    except (ValueError, LookupError, TypeError) as error:
        raise CheckpointError(
            f"checkpoint {name!r}: expected a chat as `render_chat` writes it, the JSON of its"
            f" messages, got {prompt[:60]!r}; ask text to be continued in the completion format"
            " (chat = false)"
        ) from error
    if begun := prompt[end:]:
        if last == "assistant":
            messages[-1]["content"] += begun
        else:
            messages.append({"role": "assistant", "content": begun})
        last = "assistant"
    tools = {"tools": sent["tools"]} if sent is not messages else {}
    return {"messages": messages, **tools, **(_CONTINUE if last == "assistant" else {})}


def _write_message(message: Mapping[str, Any]) -> dict[str, Any]:
    """Write a message as OpenAI's interface takes it: arguments of calls are a string."""
    sent = dict(message)
    if calls := message.get("tool_calls"):
        sent["tool_calls"] = [
            {
                **call,
                "function": {
                    **call["function"],
                    "arguments": json.dumps(call["function"]["arguments"]),
                },
            }
            for call in calls
        ]
    return sent


def _read_chat(reply: Mapping[str, Any]) -> Generation:
    choice = reply["choices"][0]
    message = choice["message"]
    refusal, content = message.get("refusal"), message.get("content")
    if isinstance(content, list):
        # In parts, of which those of text are the answer; others may be thoughts.
        texts = [part for part in content if part.get("type", "text") in ("text", "output_text")]
        content = "".join(part.get("text") or "" for part in texts)
    logprobs = (choice.get("logprobs") or {}).get("content") or ()
    calls = [_read_call(call["function"]) for call in message.get("tool_calls") or ()]
    generation = _make_generation(
        reply,
        text="\n".join(filter(None, [str(content or refusal or ""), *calls])),
        logprobs=[token["logprob"] for token in logprobs],
        reason="content_filter" if refusal else choice.get("finish_reason"),
    )
    # As vLLM, DeepSeek and llama.cpp call it, and as Ollama and OpenRouter do.
    thought = message.get("reasoning_content") or message.get("reasoning")
    return replace(generation, thought=str(thought or ""))


def _read_call(function: Mapping[str, Any]) -> str:
    """Write a call of a tool, which servers tell apart, back into the answer's text."""
    name, arguments = json.dumps(str(function["name"])), function["arguments"] or "{}"
    return f'<tool_call>\n{{"name": {name}, "arguments": {arguments}}}\n</tool_call>'


def _read_completion(reply: Mapping[str, Any]) -> Generation:
    choice = reply["choices"][0]
    return _make_generation(
        reply,
        text=str(choice["text"]),
        logprobs=(choice.get("logprobs") or {}).get("token_logprobs") or (),
        reason=choice.get("finish_reason"),
    )


def _make_generation(
    reply: Mapping[str, Any], *, text: str, logprobs: Sequence[float], reason: str | None
) -> Generation:
    tokens = (reply.get("usage") or {}).get("completion_tokens")
    return Generation(
        text=text,
        logprobs=tuple(float(logprob) for logprob in logprobs),
        stop_reason=_STOP_REASONS.get(reason or "", StopReason.STOP),
        tokens=int(tokens if tokens is not None else len(logprobs)),
    )


def _count_prompt(reply: Mapping[str, Any]) -> int:
    return int((reply.get("usage") or {}).get("prompt_tokens") or 0)


def _rescue_outcome(error: RejectedError) -> Generation | None:
    """Make an outcome of a prompt that the provider's filter rejects, or its context."""
    if error.status not in (400, 413):
        return None
    if _FILTERED.search(error.reply):
        reason = StopReason.REFUSED
    elif _TOO_LONG.search(error.reply):
        reason = StopReason.LENGTH
    else:
        return None
    return Generation(text="", logprobs=(), stop_reason=reason, tokens=0)


def _lose(error: HoldbackError) -> Generation:
    """Stand in for an answer that never came."""
    return Generation(text="", logprobs=(), stop_reason=StopReason.STOP, tokens=0, error=str(error))


def _cut(generation: Generation, stop: Sequence[str]) -> Generation:
    """End a text before the first stop string: servers look for a few of them, some keep it."""
    found = [at for text in stop if (at := generation.text.find(text)) >= 0]
    if not found:
        return generation
    return replace(generation, text=generation.text[: min(found)], stop_reason=StopReason.STOP)


def _require_httpx() -> None:
    from importlib.util import find_spec

    if find_spec("httpx") is None:
        raise ConfigError(
            "models behind endpoints need httpx, which is not installed: pip install"
            " 'holdback[openai]'"
        )
