"""Tools as texts: how a model is shown them, and how its calls are read.

A chat template that knows tools shows them as the model was trained on them. Where there is none,
or it does not, the widespread prompt of Hermes (and Qwen) does: schemas in `<tools>`, calls in
`<tool_call>`, answers in `<tool_response>`
(github.com/NousResearch/Hermes-Function-Calling).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

from holdback.errors import ConfigError
from holdback.models.protocol import Format

Message = Mapping[str, Any]
"""`role` and `content`; an assistant's may have `tool_calls`, a tool's has `tool_call_id`."""
Schema = Mapping[str, Any]
"""A function with its `name`, `description` and `parameters`, as OpenAI's interface has them."""

_INSTRUCTION = """\
# Tools

You may call one or more functions to assist with the user query.

You are provided with function signatures within <tools></tools> XML tags:
<tools>
{schemas}
</tools>

For each function call, return a json object with function name and arguments within \
<tool_call></tool_call> XML tags:
<tool_call>
{{"name": <function-name>, "arguments": <args-json-object>}}
</tool_call>"""
_OPENER = '<tool_call>\n{"name": "'

_PROBE: Schema = {
    "type": "function",
    "function": {
        "name": "probe_tool",
        "description": "probe description",
        "parameters": {
            "type": "object",
            "properties": {"probe_key": {"type": "string", "description": "probe words"}},
            "required": ["probe_key"],
        },
    },
}
_PROBED: Sequence[Message] = [
    {"role": "user", "content": "probe question"},
    {
        "role": "assistant",
        "content": "",
        "tool_calls": [
            {
                # Mistral's templates want nine letters or digits.
                "id": "probe0001",
                "type": "function",
                "function": {"name": "probe_tool", "arguments": {"probe_key": "probe value"}},
            }
        ],
    },
    {"role": "tool", "name": "probe_tool", "tool_call_id": "probe0001", "content": "probe answer"},
]


@dataclass(frozen=True, kw_only=True, slots=True)
class Call:
    """A call of a tool, as a model wrote it."""

    name: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    error: str = ""
    """Why it cannot be carried out; the model is told."""


def shows_tools(model: Any) -> bool:
    """Tell whether a model's own template shows tools, calls and their answers.

    It is tried: many templates leave out in silence what they do not know. Never in the completion
    format.
    """
    asked, told = _try_template(model)
    shown = "probe_tool" in asked and "probe description" in asked
    order = r"probe question.*probe_tool.*probe value.*probe answer"
    return shown and re.search(order, told, re.DOTALL) is not None


def begin_call(model: Any, name: str | None) -> str:
    """Begin an answer that must be a call, in the syntax that the model is shown.

    Args:
        model: Whose template is tried.
        name: The tool to call; None for any.

    Raises:
        ConfigError: if the beginning cannot be told from what the template renders.
    """
    begun = _OPENER
    if shows_tools(model):
        asked, told = _try_template(model)
        begun = told[len(asked) :].partition("probe_tool")[0]
        if not told.startswith(asked):
            raise ConfigError(
                f"model {model.name!r}: expected an answer that can be begun, so that it must be a"
                " call of a tool, got a template (or an endpoint) that does not say how; use"
                " tool_choice auto"
            )
    return begun + (name or "")


def _try_template(model: Any) -> tuple[str, str]:
    """Render a question with a tool, and the same with a call and its answer; empty if refused."""
    if model.presentation.format is not Format.CHAT:
        return "", ""
    try:
        return (
            model.render_chat(_PROBED[:1], answer_next=True, tools=[_PROBE]),
            model.render_chat(_PROBED, answer_next=True, tools=[_PROBE]),
        )
    # Blind: a template runs code of its own, and raises whatever it likes on what it rejects.
    except Exception:
        return "", ""


def spell_out(messages: Sequence[Message], tools: Sequence[Schema]) -> list[Message]:
    """Write tools, calls and answers into texts, for a template that has no words for them.

    Answers are the user's, and what is the user's in a row is one message: many templates want the
    roles to take turns.
    """
    told: list[Message] = []
    for role, group in groupby(messages, key=_find_speaker):
        text = "\n\n".join(_write_text(message) for message in group)
        told.append({"role": role, "content": text})
    if not tools:
        return told
    shown = _INSTRUCTION.format(schemas="\n".join(json.dumps(tool) for tool in tools))
    if told[0]["role"] == "system":
        return [{"role": "system", "content": f"{told[0]['content']}\n\n{shown}"}, *told[1:]]
    return [{"role": "system", "content": shown}, *told]


def read_calls(text: str, tools: Sequence[Schema]) -> tuple[str, list[Call]]:
    """Read a model's answer: its words, and the calls in it.

    Read are the syntaxes of Hermes and Qwen, Qwen's coders, Llama 3 and Mistral, whichever the
    template taught. A call that was begun and cannot be read is a call with an error, whose words
    stay in the text.

    Args:
        text: All that the model said.
        tools: Those that it was shown.

    Returns:
        The text without the calls, and the calls in order.
    """
    functions = {tool["function"]["name"]: tool["function"] for tool in tools}
    # What a model thinks of calling, it has not called.
    start = _find_end_of_thoughts(text, functions)
    said = text[start:]
    words, calls, end = text[:start], [], 0
    for found in _MARKER.finditer(said):
        read = _read_marked(found, functions)
        kept = found[0] if any(call.error for call in read) else ""
        words, end = words + said[end : found.start()] + kept, found.end()
        calls += read
    if calls:
        return (words + said[end:]).strip(), calls
    bare = _read_bare(said, functions)
    return (text, []) if bare is None else (words, bare)


def _find_end_of_thoughts(text: str, functions: Mapping[str, Schema]) -> int:
    """Find where thoughts end: behind the last such tag that is not a word of a call's own JSON."""
    spans = [
        found.span()
        for found in _MARKER.finditer(text)
        if not any(call.error for call in _read_marked(found, functions))
    ]
    ends = [found.end() for found in re.finditer(re.escape(_END_OF_THOUGHTS), text)]
    outside = [end for end in ends if not any(first < end < last for first, last in spans)]
    return max(outside, default=0)


_MARKER = re.compile(
    r"<tool_call>(?P<hermes>.*?)(?:</tool_call>|\Z)"
    r"|\[TOOL_CALLS\]\s*(?P<mistral>.*?)(?=\[TOOL_CALLS\]|\Z)"
    r"|<function=(?P<name>[^>\s]+)>(?P<function>.*?)(?:</function>|\Z)",
    re.DOTALL,
)
_NAMED = re.compile(r"\s*<function=(?P<name>[^>\s]+)>")
_PARAMETER = re.compile(r"<parameter=([^>\s]+)>(.*?)(?:</parameter>|(?=<parameter=)|\Z)", re.DOTALL)
_MISTRAL_NAMED = re.compile(r"\s*(?P<name>[\w.-]+)\s*(?:\[CALL_ID\]\w+)?\s*(?:\[ARGS\])?\s*(?=\{)")
_PYTHON_TAG = "<|python_tag|>"
_END_OF_THOUGHTS = "</think>"


def _read_marked(found: re.Match[str], functions: Mapping[str, Schema]) -> list[Call]:
    """Read what stands behind a marker: a name and its arguments, or JSON that has both."""
    if found["name"] is not None:
        return [_read_named(found["name"], found["function"], functions)]
    inside = found["mistral"] if found["hermes"] is None else found["hermes"]
    named = (_MISTRAL_NAMED if found["hermes"] is None else _NAMED).match(inside)
    if named is None:
        return _read_objects(inside)
    rest = inside[named.end() :].partition("</function>")[0]
    return [_read_named(named["name"], rest, functions)]


def _read_bare(text: str, functions: Mapping[str, Schema]) -> list[Call] | None:
    """Read an answer that is nothing but calls, without a marker: Llama's, or Mistral's decoded."""
    inside = text.strip().removeprefix(_PYTHON_TAG).strip()
    calls: list[Call] = []
    while inside.startswith(("{", "[")):
        try:
            value, end = json.JSONDecoder(strict=False).raw_decode(inside)
        except ValueError:
            return None
        objects = value if isinstance(value, list) else [value]
        # Not every JSON is a call: the answer may be one.
        if not all(_names_tool(item, functions) for item in objects):
            return None
        calls += [_read_object(item) for item in objects]
        # Several are apart by a line or a semicolon.
        inside = inside[end:].lstrip().removeprefix(";").lstrip()
    return calls if calls and not inside else None


def _names_tool(value: Any, functions: Mapping[str, Schema]) -> bool:
    return (
        isinstance(value, Mapping)
        and value.get("name") in functions
        and ("arguments" in value or "parameters" in value)
    )


def _read_objects(text: str) -> list[Call]:
    """Read one JSON object, or a list of them, each a call."""
    try:
        value, _ = json.JSONDecoder(strict=False).raw_decode(text.strip())
    except ValueError as error:
        return [Call(name="unknown", error=_explain(text, str(error)))]
    return [_read_object(item) for item in (value if isinstance(value, list) else [value])]


def _read_object(value: Any) -> Call:
    name = value.get("name") if isinstance(value, Mapping) else None
    if not isinstance(name, str) or not name:
        return Call(name="unknown", error=_explain(json.dumps(value), "it names no function"))
    arguments = value.get("arguments", value.get("parameters"))
    return _make_call(name, arguments)


def _read_named(name: str, inside: str, functions: Mapping[str, Schema]) -> Call:
    """Read arguments behind a name: a JSON object, or Qwen's `<parameter=key>value</parameter>`."""
    if pairs := _PARAMETER.findall(inside):
        properties = functions.get(name, {}).get("parameters", {}).get("properties", {})
        return Call(
            name=name,
            arguments={key: _read_value(value, properties.get(key, {})) for key, value in pairs},
        )
    try:
        value = json.JSONDecoder(strict=False).raw_decode(inside.strip() or "{}")[0]
    except ValueError as error:
        return Call(name=name, error=_explain(inside, str(error)))
    return _make_call(name, value)


def _make_call(name: str, arguments: Any) -> Call:
    if isinstance(arguments, str):
        # Some write the object as a string, as OpenAI's interface does.
        try:
            arguments = json.loads(arguments, strict=False) if arguments.strip() else {}
        except ValueError as error:
            return Call(name=name, error=_explain(arguments, str(error)))
    if arguments is None:
        arguments = {}
    if not isinstance(arguments, Mapping):
        return Call(name=name, error=_explain(json.dumps(arguments), "it is no JSON object"))
    return Call(name=name, arguments=dict(arguments))


def _read_value(text: str, schema: Mapping[str, Any]) -> Any:
    """Read a value that is written without quotes: a string where the schema says so."""
    text = text.removeprefix("\n").removesuffix("\n")
    if schema.get("type") == "string":
        return text
    try:
        return json.loads(text)
    except ValueError:
        return text


def _find_speaker(message: Message) -> str:
    return "user" if message["role"] == "tool" else str(message["role"])


def _write_text(message: Message) -> str:
    text = str(message["content"])
    if message["role"] == "tool":
        return f"<tool_response>\n{text}\n</tool_response>"
    calls = [call["function"] for call in message.get("tool_calls") or ()]
    said = [json.dumps({key: call[key] for key in ("name", "arguments")}) for call in calls]
    return "\n".join(filter(None, [text, *(f"<tool_call>\n{s}\n</tool_call>" for s in said)]))


def _explain(text: str, why: str) -> str:
    return (
        'expected a call as JSON, {"name": …, "arguments": {…}}, got'
        f" {' '.join(text.split())[:200]!r}: {why}"
    )
