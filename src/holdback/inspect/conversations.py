"""Chats of other programs, put to a model as its presentation says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from holdback.errors import ConfigError, EndpointError
from holdback.inspect.tools import Message, Schema, shows_tools, spell_out
from holdback.models.protocol import Format, Generation, Model, Request
from holdback.tasks.text.prompts import begin_text, check_beginning, render_chat


def render_conversation(
    model: Model, messages: Sequence[Message], tools: Sequence[Schema] = ()
) -> str:
    """Render a chat that `model` is to answer.

    The presentation's instruction stands before the system message, its examples before the first
    question, its prefill at the end. A last message of the assistant's is an answer that has been
    begun. In the completion format the messages' texts follow each other, a blank line between
    them, and no template is used. Tools are shown by the template where it knows them, and else in
    words.

    Args:
        model: Whose presentation and template are used.
        messages: At least one.
        tools: That it may call.

    Raises:
        CheckpointError: in chat format, if the checkpoint has no chat template.
    """
    presentation = model.presentation
    shown, begun, known = list(messages), "", tuple[Schema, ...]()
    if tools or any(message["role"] == "tool" for message in messages):
        if shows_tools(model):
            known = tuple(tools)
        else:
            shown = spell_out(messages, tools)
    if shown[-1]["role"] == "assistant":
        begun = shown.pop()["content"].rstrip()
    if presentation.instruction is not None and presentation.format is Format.CHAT:
        shown = _instruct(shown, presentation.instruction)
    system = [message for message in shown if message["role"] == "system"]
    rest = [message for message in shown if message["role"] != "system"]
    shots = [dict(message) for shot in presentation.shots for message in shot]
    for message in shots:
        if message["role"] == "assistant" and presentation.prefill:
            message["content"] = f"{presentation.prefill} {message['content']}"
    shown = [*system, *shots, *rest]
    started = " ".join(filter(None, [presentation.prefill, begun]))
    if presentation.format is Format.CHAT:
        text = render_chat(model, shown, begun=started, tools=known)
    else:
        header = "".join(f"{key}: {value}\n" for key, value in presentation.header.items())
        body = "\n\n".join(message["content"] for message in shown)
        text = begin_text(model) + header + body
        text += f" {started}" if started else ""
    check_beginning(model, text)
    return text


def generate_at(
    model: Any, requests: Sequence[Request], temperature: float | None
) -> list[Generation]:
    """Generate at the temperature that a program asks for; at a rung's where it sets one.

    Raises:
        EndpointError: if the service stopped answering.
    """
    if model.decoding.keeps_temperature:
        temperature = None
    if temperature is not None and temperature != model.decoding.temperature:
        model = replace(model, decoding=replace(model.decoding, temperature=temperature))
    generations: list[Generation] = model.generate(requests)
    if lost := [generation.error for generation in generations if generation.error]:
        raise EndpointError(lost[0])
    return generations


def check_decoding(model: Model, program: str) -> None:
    """Refuse rungs that only a task of Holdback's can carry out, rather than not carrying them out.

    Raises:
        ConfigError: for a vote, or for constrained decoding.
    """
    if model.decoding.votes > 1:
        raise ConfigError(
            f"model {model.name!r}: a majority needs to know which answers agree, and {program}"
            " asks for texts; ask for epochs with its reducer `mode`, or run the task by `holdback"
            " audit`"
        )
    if model.decoding.constrained:
        raise ConfigError(
            f"model {model.name!r}: constrained decoding needs a task's list of answers, which"
            f" {program} does not pass on; run the task by `holdback audit`"
        )


def _instruct(messages: Sequence[Message], instruction: str) -> list[Message]:
    if messages and messages[0]["role"] == "system":
        first = {"role": "system", "content": f"{instruction}\n\n{messages[0]['content']}"}
        return [first, *messages[1:]]
    return [{"role": "system", "content": instruction}, *messages]
