"""Tools as texts: whatever the template's syntax, what is called is what is read back."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from inspect_ai.model import ChatMessageAssistant, ChatMessageTool, ChatMessageUser
from inspect_ai.tool import ToolCall, ToolCallError, ToolInfo, ToolParam, ToolParams
from tiny_models import make_model, make_tokenizer
from tool_templates import HERMES, IGNORING, KNOWING, LLAMA3, MISTRAL, PLAIN

from holdback.errors import CheckpointError, ConfigError
from holdback.inspect.conversations import render_conversation
from holdback.inspect.messages import read_messages, read_tools, write_answer
from holdback.inspect.tools import Call, begin_call, read_calls, shows_tools
from holdback.models.endpoint import EndpointModel
from holdback.models.local import LocalModel
from holdback.models.protocol import Format, Presentation

TOOLS = read_tools(
    [
        ToolInfo(
            name="look_up",
            description="Look up a word.",
            parameters=ToolParams(
                properties={
                    "word": ToolParam(type="string", description="The word."),
                    "times": ToolParam(type="integer", description="How often."),
                },
                required=["word"],
            ),
        )
    ]
)
CALLED = ToolCall(id="a-long-id", function="look_up", arguments={"word": "4711", "times": 2})
CHAT = [
    ChatMessageUser(content="What is the word?"),
    ChatMessageAssistant(content="", tool_calls=[CALLED]),
    ChatMessageTool(content="It is tern.", tool_call_id="a-long-id", function="look_up"),
]


@pytest.fixture(scope="module")
def weights():
    return make_model("llama")


@pytest.fixture
def lend(weights):
    def lend(template):
        return LocalModel(name="tiny", weights=weights, tokenizer=make_tokenizer(template=template))

    return lend


@pytest.mark.parametrize("family", KNOWING)
def test_a_template_that_knows_tools_writes_what_is_read_back(family, lend):
    """Question, schema, call and answer are in the prompt; the call in it is read as made."""
    model = lend(KNOWING[family])
    messages = read_messages(CHAT)

    asked = render_conversation(model, messages[:1], TOOLS)
    told = render_conversation(model, messages, TOOLS)
    written = told[len(asked) :] if told.startswith(asked) else told
    written = written.split("It is tern.")[0]
    for end in ("<|im_end|>", "<|eot_id|>", "</s>"):
        written = written.split(end)[0]

    assert shows_tools(model)
    assert "Look up a word." in asked
    assert asked.count("What is the word?") == 1
    assert "It is tern." in told
    assert read_calls(written, TOOLS) == ("", [Call(name="look_up", arguments=CALLED.arguments)])


@pytest.mark.parametrize("family", IGNORING)
def test_a_template_that_knows_none_is_told_in_words(family, lend):
    """A template that leaves tools out in silence, and one that rejects them: nothing is lost."""
    model = lend(IGNORING[family])
    parallel = [CALLED, replace(CALLED, id="b", arguments={"word": "gull"})]
    chat = [
        CHAT[0],
        ChatMessageAssistant(content="Two words.", tool_calls=parallel),
        CHAT[2],
        ChatMessageTool(content="It is skua.", tool_call_id="b", function="look_up"),
        ChatMessageUser(content="Go on."),
    ]

    told = render_conversation(model, read_messages(chat), TOOLS)

    assert not shows_tools(model)
    assert told.count('"name": "look_up", "description": "Look up a word."') == 1
    assert told.index("Two words.") < told.index("4711") < told.index("gull")
    assert told.index("It is tern.") < told.index("It is skua.") < told.index("Go on.")
    assert [c.arguments for c in read_calls(told.split("<|assistant|>")[1], TOOLS)[1]] == [
        call.arguments for call in parallel
    ]


def test_the_completion_format_has_no_template(lend):
    """A base model is told of tools in words, and the template of its tokenizer is not used."""
    model = replace(lend(HERMES), presentation=Presentation(format=Format.COMPLETION))

    told = render_conversation(model, read_messages(CHAT), TOOLS)

    assert "<|im_start|>" not in told
    assert told.index("Look up a word.") < told.index("4711") < told.index("It is tern.")


def test_without_tools_nothing_changes(lend):
    """A chat in which tools were used, and are no longer offered, keeps what was said."""
    model = lend(HERMES)

    plain = render_conversation(model, read_messages(CHAT[:1]))
    after = render_conversation(model, read_messages(CHAT))

    assert plain == model.render_chat(read_messages(CHAT[:1]), answer_next=True)
    assert "<tools>" not in after
    assert "4711" in after
    assert "It is tern." in after


@pytest.mark.parametrize(
    ("template", "begun"),
    [
        (HERMES, '<tool_call>\n{"name": "'),
        (LLAMA3, '{"name": "'),
        (MISTRAL, '[TOOL_CALLS] [{"name": "'),
        (PLAIN, '<tool_call>\n{"name": "'),
    ],
)
def test_an_answer_that_must_be_a_call_is_begun_in_the_models_syntax(template, begun, lend):
    """Up to the tool's name, or with it where one is demanded; what goes on is read as a call."""
    model = lend(template)

    assert begin_call(model, None) == begun
    assert begin_call(model, "look_up") == f"{begun}look_up"
    rest = '", "arguments": {"word": "tern"}}' + ("]" if template is MISTRAL else "")
    words, calls = read_calls(begin_call(model, "look_up") + rest, TOOLS)
    assert (words, calls) == ("", [Call(name="look_up", arguments={"word": "tern"})])


@pytest.mark.parametrize(
    ("text", "words", "calls"),
    [
        ("No call.", "No call.", []),
        ('{"answer": 3}', '{"answer": 3}', []),
        ('{"name": "Ada", "parameters": 1}', '{"name": "Ada", "parameters": 1}', []),
        (
            'I look.\n<tool_call>{"name": "look_up", "arguments": {"word": "a\nb"}}</tool_call>',
            "I look.",
            [{"word": "a\nb"}],
        ),
        ('<tool_call>{"name": "look_up", "arguments": {"word": "a"}}', "", [{"word": "a"}]),
        ('<tool_call>{"name": "look_up"}</tool_call>', "", [{}]),
        (
            '<tool_call>{"name": "look_up", "arguments": "{\\"word\\": \\"a\\"}"}</tool_call>',
            "",
            [{"word": "a"}],
        ),
        (
            '<|python_tag|>{"name": "look_up", "parameters": {"word": "a"}};'
            ' {"name": "look_up", "parameters": {"word": "b"}}',
            "",
            [{"word": "a"}, {"word": "b"}],
        ),
        ('[{"name": "look_up", "arguments": {"word": "a"}}]', "", [{"word": "a"}]),
        ('[TOOL_CALLS]look_up[ARGS]{"word": "a"}', "", [{"word": "a"}]),
        ('<function=look_up>{"word": "a"}</function>', "", [{"word": "a"}]),
        (
            "<think>A <tool_call>? Yes.</think>\n"
            '<tool_call>{"name": "look_up", "arguments": {"word": "a"}}</tool_call>',
            "<think>A <tool_call>? Yes.</think>",
            [{"word": "a"}],
        ),
        (
            '<think>Yes.</think>\n\n{"name": "look_up", "parameters": {"word": "a"}}',
            "<think>Yes.</think>",
            [{"word": "a"}],
        ),
        (
            "<tool_call>\n<function=look_up>\n<parameter=word>\n12\n</parameter>\n"
            "<parameter=times>\n3\n</parameter>\n</function>\n</tool_call>",
            "",
            [{"word": "12", "times": 3}],
        ),
    ],
)
def test_calls_are_read_in_each_syntax(text, words, calls):
    """JSON that is an answer is no call; a string stays one where the schema says so."""
    assert read_calls(text, TOOLS) == (words, [Call(name="look_up", arguments=a) for a in calls])


@pytest.mark.parametrize(
    "text",
    [
        '<tool_call>{"name": "look_up", "arguments": {"word": }}</tool_call>',
        '<tool_call>{"arguments": {}}</tool_call>',
        '<tool_call>{"name": "look_up", "arguments": 3}</tool_call>',
        "<function=look_up>{</function>",
        "[TOOL_CALLS] look",
    ],
)
def test_a_call_that_cannot_be_read_is_told_back(text, lend):
    """Its words stay in the message, and the error is the next thing that the model is told."""
    answer = write_answer(text, TOOLS, model="tiny", is_whole=True)
    (call,) = answer.tool_calls
    error = ToolCallError(type="parsing", message=call.parse_error)
    told = ChatMessageTool(content="", tool_call_id=call.id, error=error)

    prompt = render_conversation(lend(HERMES), read_messages([CHAT[0], answer, told]), TOOLS)

    assert "expected a call as JSON" in call.parse_error
    assert prompt.index(text) < prompt.index("expected a call as JSON")


def test_a_call_that_was_cut_off_is_none():
    """What `max_tokens` ended says nothing about how the model would have called."""
    text = '<tool_call>{"name": "look_up", "arg'

    assert write_answer(text, TOOLS, model="tiny", is_whole=False).tool_calls is None
    assert write_answer(text, TOOLS, model="tiny", is_whole=False).content == text
    assert write_answer(text, TOOLS, model="tiny", is_whole=True).tool_calls[0].parse_error


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@example([{"note": "a tag </think> in a string"}])
@given(st.lists(st.dictionaries(st.text(), JSON, max_size=3), min_size=1, max_size=3))
def test_whatever_the_arguments_a_call_comes_back(arguments):
    """Any JSON, markers and quotes within strings included, unless a string closes the tag."""
    texts = [json.dumps({"name": "look_up", "arguments": a}) for a in arguments]
    if any("</tool_call>" in text for text in texts):
        return

    _, calls = read_calls("".join(f"<tool_call>\n{t}\n</tool_call>" for t in texts), TOOLS)

    assert [dict(call.arguments) for call in calls] == arguments


@given(st.text())
def test_any_text_can_be_read(text):
    """Reading never fails, and a text without markers or JSON is what it was."""
    for said in (
        text,
        f"<tool_call>{text}</tool_call>",
        f"[TOOL_CALLS]{text}",
        f"<function={text}",
    ):
        read_calls(said, TOOLS)


def test_an_endpoint_gets_tools_apart_from_the_messages():
    """As OpenAI's interface has them: arguments a string; a forced call is refused."""
    model = EndpointModel(name="remote", model="m", connection=None)

    sent = json.loads(render_conversation(model, read_messages(CHAT), TOOLS))

    assert sent["tools"] == TOOLS
    function = sent["messages"][1]["tool_calls"][0]["function"]
    assert json.loads(function["arguments"]) == CALLED.arguments
    assert sent["messages"][2]["tool_call_id"] == sent["messages"][1]["tool_calls"][0]["id"]
    with pytest.raises(ConfigError, match="tool_choice auto"):
        begin_call(model, "look_up")


def test_what_a_template_rejects_is_one_line(lend):
    """The template's own reason, and what to do."""
    model = lend(IGNORING["alternating"])

    with pytest.raises(CheckpointError, match=r"rejects messages of user, user: roles must altern"):
        model.render_chat([{"role": "user", "content": "a"}] * 2, answer_next=True)
