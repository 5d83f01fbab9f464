"""Inspect's messages and tools, as a model that Holdback lends is asked, and what it answers."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Any

from inspect_ai.model import ChatMessage, ChatMessageAssistant, ChatMessageTool, ContentText
from inspect_ai.tool import ToolCall, ToolInfo

from holdback.errors import ConfigError
from holdback.inspect.tools import Message, Schema, read_calls


def read_messages(messages: Sequence[ChatMessage]) -> list[Message]:
    """Read a chat as roles and texts, with the calls of tools in it.

    A call that could not be read is in its message's own words; its answer, which says so, is the
    user's.

    Raises:
        ConfigError: for anything but text.
    """
    names: dict[str, str] = {}
    read: list[Message] = []
    for message in messages:
        if isinstance(message, ChatMessageAssistant):
            calls = [call for call in message.tool_calls or () if call.parse_error is None]
            # Ids that depend on nothing but the order: some templates write them into the prompt,
            # and Mistral's want nine letters or digits.
            names |= {call.id: f"call{len(names) + i:05d}" for i, call in enumerate(calls)}
            read.append(_read_assistant(message, calls, names))
        elif isinstance(message, ChatMessageTool):
            read.append(_read_answer(message, names))
        else:
            read.append({"role": message.role, "content": _read_text(message)})
    return read


def read_tools(tools: Sequence[ToolInfo]) -> list[Schema]:
    """Read tools as the schemas that chat templates and endpoints take."""
    return [
        {
            "type": "function",
            "function": {
                "name": tool.name,
                "description": tool.description,
                "parameters": tool.parameters.model_dump(exclude_none=True),
            },
        }
        for tool in tools
    ]


def write_answer(
    text: str, tools: Sequence[Schema], *, model: str, is_whole: bool
) -> ChatMessageAssistant:
    """Write what a model said as Inspect's message, its calls of tools told apart.

    Args:
        text: All that it said.
        tools: That it was shown.
        model: Its name.
        is_whole: Whether it ended by itself; a call that was cut off is none.
    """
    words, calls = read_calls(text, tools) if tools else (text, [])
    if not is_whole:
        calls = [call for call in calls if not call.error]
    return ChatMessageAssistant(
        content=words,
        tool_calls=[
            ToolCall(
                id=uuid.uuid4().hex,
                function=call.name,
                arguments=dict(call.arguments),
                parse_error=call.error or None,
            )
            for call in calls
        ]
        or None,
        model=model,
        source="generate",
    )


def _read_assistant(
    message: ChatMessageAssistant, calls: Sequence[ToolCall], names: dict[str, str]
) -> Message:
    read: dict[str, Any] = {"role": "assistant", "content": _read_text(message)}
    if calls:
        read["tool_calls"] = [
            {
                "id": names[call.id],
                "type": "function",
                "function": {"name": call.function, "arguments": dict(call.arguments)},
            }
            for call in calls
        ]
    return read


def _read_answer(message: ChatMessageTool, names: dict[str, str]) -> Message:
    text = message.error.message if message.error is not None else _read_text(message)
    if message.tool_call_id not in names:
        return {"role": "user", "content": text}
    return {
        "role": "tool",
        "name": message.function or "",
        "tool_call_id": names[message.tool_call_id],
        "content": text,
    }


def _read_text(message: ChatMessage) -> str:
    content = message.content
    if not isinstance(content, str):
        others = sorted({part.type for part in content if not isinstance(part, ContentText)})
        # Its own reasoning is not put to a model again; see Inspect's `reasoning_history`.
        if others and others != ["reasoning"]:
            raise ConfigError(f"expected text, got {', '.join(others)}: holdback/ models read text")
    return message.text
