"""Any Inspect user runs any Inspect task on `holdback/<checkpoint>[?rung=…]`."""

from __future__ import annotations

import asyncio
import gc
import re
import subprocess
import sys
import zlib

import pytest
from inspect_ai import eval as run_inspect
from inspect_ai.log import read_eval_log
from inspect_ai.model import (
    ChatMessageAssistant,
    ChatMessageSystem,
    ChatMessageUser,
    ContentImage,
    GenerateConfig,
    ModelOutput,
    ModelUsage,
    get_model,
)
from inspect_ai.tool import ToolFunction, ToolInfo
from inspect_examples import sums, tooled
from text_models import FakeTextModel, add_numbers
from tiny_text import make_text_model

from holdback.errors import CheckpointError, ConfigError, UnknownNameError
from holdback.inspect.conversations import render_conversation
from holdback.inspect.provider import _write_logprobs, make_engine_api
from holdback.models.protocol import Format, Generation, Presentation, Request, StopReason

# Inspect leaves a stream open for each sample, whatever the model.
pytestmark = [
    pytest.mark.filterwarnings("ignore:Unclosed <Memory:ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture(autouse=True)
def _collect():
    """Let those streams go while they are ignored, and not at the session's end."""
    yield
    gc.collect()


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny")
    model = make_text_model()
    model.weights.save_pretrained(folder)
    model.tokenizer.save_pretrained(folder)
    return folder


def ask(api, *messages, tools=(), tool_choice="auto", **config):
    """Call the provider as Inspect does."""
    chat = [ChatMessageUser(content=m) if isinstance(m, str) else m for m in messages]
    return asyncio.run(api.generate(chat, list(tools), tool_choice, GenerateConfig(**config)))


def lend(**options):
    return make_engine_api(FakeTextModel(know=add_numbers, **options), "fake", tells_prompt=True)


def test_a_local_checkpoint_answers_as_its_engine_does(checkpoint):
    """The text, token count and log-probabilities are those of the engine for the same prompt."""
    model = get_model(f"holdback/{checkpoint}?chat=false", memoize=False)
    direct = make_text_model()

    output = ask(model.api, "The quick brown", max_tokens=7, temperature=0.0, logprobs=True)
    (expected,) = direct.generate([Request(prompt="The quick brown", max_tokens=7, seed=(0,))])

    assert output.completion == expected.text
    assert output.usage.output_tokens == expected.tokens
    assert output.usage.input_tokens == len(direct.encode("The quick brown"))
    assert [p.logprob for p in output.choices[0].logprobs.content] == pytest.approx(
        list(expected.logprobs), abs=1e-4
    )
    assert output.stop_reason == {"length": "max_tokens", "stop": "stop"}[expected.stop_reason]
    model.api.close()


def test_a_missing_template_is_told_before_the_task_begins(checkpoint):
    """Not as the error of each sample, with which the command would still end in peace."""
    with pytest.raises(CheckpointError, match="template"):
        get_model(f"holdback/{checkpoint}", memoize=False)


def test_a_bad_rung_is_one_line_of_inspects_command():
    """Of Holdback's own type for programs; Click, which `inspect` is made with, prints a line."""
    import click
    from click.testing import CliRunner

    @click.command()
    def inspect():
        get_model("holdback/builtin:chess/chat?rung=nosie", memoize=False)

    ended = CliRunner().invoke(inspect, standalone_mode=True)

    assert ended.exit_code == 1
    assert ended.output.count("\n") == 1
    assert "Did you mean 'noise'?" in ended.output
    with pytest.raises(UnknownNameError, match="nosie"):
        get_model("holdback/builtin:chess/chat?rung=nosie", memoize=False)


@pytest.mark.parametrize(
    ("numbers", "names"), [(3, "abc"), (4, ["a", "b", "c", ""]), (2, ["", ""])]
)
def test_log_probabilities_have_the_names_of_their_tokens(numbers, names):
    """The token that ended the text has none; where the text tokenises otherwise none has."""

    class Lettered(FakeTextModel):
        def decode(self, tokens):
            return bytes(tokens).decode()

    generation = Generation(
        text="abc", logprobs=(-1.0,) * numbers, stop_reason=StopReason.STOP, tokens=numbers
    )

    written = _write_logprobs(Lettered(know=add_numbers), generation)

    assert [part.token for part in written.content] == list(names)


def test_variants_do_not_mix(checkpoint):
    """Names tell rungs and seeds apart, so that memoised models are different ones."""
    base = f"holdback/{checkpoint}?chat=false"
    names = [base, f"{base}&rung=noise&sigma=0.2&seed=0", f"{base}&rung=noise&sigma=0.2&seed=1"]
    models = [get_model(name) for name in names]

    texts = [ask(m.api, "In which year", max_tokens=12, temperature=0.0).completion for m in models]

    assert [str(model) for model in models] == names
    assert get_model(names[1]) is models[1]
    assert len(set(texts)) == 3
    # The noisy ones have weights of their own: the first is what it was.
    assert (
        ask(models[0].api, "In which year", max_tokens=12, temperature=0.0).completion == texts[0]
    )
    for model in models:
        model.api.close()


def test_keys_may_come_as_model_arguments_and_join_the_name(checkpoint):
    """`-M rung=noise -M sigma=0.2` is as good as the query, and as visible."""
    model = get_model(
        f"holdback/{checkpoint}", memoize=False, chat=False, rung="noise", sigma=0.2, seed=0
    )

    assert str(model) == f"holdback/{checkpoint}?chat=false&rung=noise&sigma=0.2&seed=0"
    model.api.close()


def test_calls_that_come_together_are_one_batch():
    """Sixty-four samples in flight are a few calls of the engine."""
    api = lend()

    async def ask_all():
        chats = [[ChatMessageUser(content=f"{i} + {i}")] for i in range(64)]
        return await asyncio.gather(
            *(api.generate(chat, [], "auto", GenerateConfig(max_tokens=9)) for chat in chats)
        )

    outputs = asyncio.run(ask_all())

    assert [output.completion for output in outputs] == [str(2 * i) for i in range(64)]
    assert len(api.batches) <= 4
    api.close()


def test_it_runs_on_trio_too():
    """Inspect may be told to use another loop."""
    trio = pytest.importorskip("trio")
    api = lend()

    output = trio.run(
        api.generate, [ChatMessageUser(content="2 + 3")], [], "auto", GenerateConfig()
    )

    assert output.completion == "5"
    api.close()


def test_settings_of_a_call_reach_the_engine():
    """Longest answer, stop strings, seed, number of choices."""
    api = lend()

    output = ask(api, "2 + 3", max_tokens=11, stop_seqs=["!"], seed=5, num_choices=3)
    asked = api.lent.asked

    assert len(output.choices) == len(asked) == 3
    assert {(r.max_tokens, r.stop) for r in asked} == {(11, ("!",))}
    assert len({r.seed for r in asked}) == 3
    assert all(r.seed[0] == 5 for r in asked)
    api.close()


@pytest.mark.parametrize(("rung", "drawn_at"), [("", 0.0), ("&rung=temperature&value=1.5", 1.5)])
def test_a_rungs_temperature_is_not_replaced_by_the_tasks(rung, drawn_at, checkpoint):
    """Tasks ask for temperature 0; under the rung that would be the rung left out."""
    model = get_model(f"holdback/{checkpoint}?chat=false{rung}", memoize=False)
    direct = make_text_model(temperature=drawn_at)

    output = ask(model.api, "In which year", max_tokens=20, temperature=0.0, seed=3)
    model.api.close()
    seed = (3, zlib.crc32(b"In which year"), 0)
    (expected,) = direct.generate([Request(prompt="In which year", max_tokens=20, seed=seed)])

    assert output.completion == expected.text


def test_epochs_draw_anew_and_a_second_run_draws_the_same():
    """Asking the same again is another draw; the n-th time is the same in every process."""
    seeds = []
    for _ in range(2):
        api = lend()
        for _ in range(3):
            ask(api, "2 + 3")
        seeds.append([request.seed for request in api.lent.asked])
        api.close()

    assert seeds[0] == seeds[1]
    assert len(set(seeds[0])) == 3


@pytest.mark.parametrize(
    ("reason", "expected"),
    [("stop", "stop"), ("length", "max_tokens"), ("refused", "content_filter")],
)
def test_stop_reasons_are_inspects(reason, expected):
    """So that scorers and limits understand them."""
    api = lend(stop_reason=StopReason(reason))

    assert ask(api, "2 + 3").stop_reason == expected
    api.close()


def test_conversations_are_put_as_the_presentation_says():
    """Instruction before the system message, examples after it, prefill and begun answers last."""
    shot = ({"role": "user", "content": "1 + 1"}, {"role": "assistant", "content": "2"})
    chat = Presentation(instruction="Do well.", shots=(shot,), prefill="It is")
    api = lend(presentation=chat)

    output = ask(
        api,
        ChatMessageSystem(content="You add."),
        "2 + 3",
        ChatMessageAssistant(content="clearly "),
    )

    assert output.metadata["prompt"] == (
        "<system>Do well.\n\nYou add.</system>\n<user>1 + 1</user>\n"
        "<assistant>It is 2</assistant>\n<user>2 + 3</user>\n<assistant>It is clearly"
    )
    assert output.completion == "It is 5"
    api.close()


def test_completion_format_uses_no_template():
    """A base model reads the texts, a blank line between them."""
    model = FakeTextModel(
        know=add_numbers, template=False, presentation=Presentation(format=Format.COMPLETION)
    )
    messages = [{"role": "user", "content": "1 + 1 ="}, {"role": "assistant", "content": "2"}]
    messages.append({"role": "user", "content": "2 + 3 ="})

    assert render_conversation(model, messages) == "1 + 1 =\n\n2\n\n2 + 3 ="


def test_a_text_begins_once():
    """The tokenizer's own beginning is written in the completion format; twice is refused."""
    model = make_text_model()
    tokenizer = model.tokenizer
    before = tokenizer.backend_tokenizer.post_processor
    from tokenizers.processors import TemplateProcessing

    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 0)]
    )
    try:
        base = FakeLike(model, Presentation(format=Format.COMPLETION))
        assert render_conversation(base, [{"role": "user", "content": "a"}]) == "<s>a"
        with pytest.raises(CheckpointError, match="twice"):
            render_conversation(base, [{"role": "user", "content": "<s>a"}])
    finally:
        tokenizer.backend_tokenizer.post_processor = before


class FakeLike:
    """A model's tokenizer under another presentation."""

    def __init__(self, model, presentation):
        self.name, self.tokenizer, self.presentation = model.name, model.tokenizer, presentation
        self.encode = model.encode


def test_what_cannot_be_honoured_is_refused():
    """Images and settings without a counterpart, each in one line."""
    api = lend()
    image = ChatMessageUser(content=[ContentImage(image="data:image/png;base64,AA==")])

    with pytest.raises(ConfigError, match="got image"):
        ask(api, image)
    with pytest.raises(ConfigError, match=r"top_p = 0\.5"):
        ask(api, "2 + 3", top_p=0.5)
    with pytest.raises(ConfigError, match="max_tokens of at least 1, got 0"):
        ask(api, "2 + 3", max_tokens=0)
    assert ask(api, "2 + 3", top_p=1.0).completion == "5"
    assert api.lent.asked == api.lent.asked[:1]
    api.close()


def test_a_whole_evaluation_and_its_log(checkpoint, tmp_path):
    """Inspect's `eval` on a noisy variant: the log says which, and counts its tokens."""
    name = f"holdback/{checkpoint}?chat=false&rung=noise&sigma=0.05&seed=3"

    (log,) = run_inspect(sums(n=4), model=name, log_dir=str(tmp_path), display="none", max_tokens=5)
    read = read_eval_log(log.location)

    assert read.status == "success"
    assert read.eval.model == name
    assert len(read.samples) == 4
    assert read.stats.model_usage[name].output_tokens <= 4 * 5
    assert read.samples[0].output.stop_reason in ("max_tokens", "stop")


def test_the_same_task_on_inspects_own_mock_model(tmp_path):
    """The contract that the provider fulfils is the one that mockllm does."""
    mocked = ModelOutput.from_content("mockllm/model", "The answer is 11")
    # Without a count Inspect fetches a tokenizer to estimate one.
    mocked.usage = ModelUsage(input_tokens=9, output_tokens=4, total_tokens=13)
    mock, ours = (
        run_inspect(
            sums(n=2),
            model=model,
            log_dir=str(tmp_path),
            display="none",
        )[0]
        for model in (
            get_model("mockllm/model", custom_outputs=[mocked] * 2),
            wrap(make_engine_api(FakeTextModel(know=lambda _: "The answer is 11"), "fake")),
        )
    )

    assert (mock.status, mock.error and mock.error.message) == ("success", None)
    assert ours.status == "success"
    assert [s.output.completion for s in ours.samples] == [
        s.output.completion for s in mock.samples
    ]
    assert [[m.role for m in s.messages] for s in ours.samples] == [
        [m.role for m in s.messages] for s in mock.samples
    ]
    accuracies = {log.results.scores[0].metrics["accuracy"].value for log in (ours, mock)}
    assert accuracies == {0.5}


def wrap(api):
    from inspect_ai.model import Model

    return Model(api, GenerateConfig())


def call_add(prompt):
    """Ask the tool, and repeat what it answers."""
    if answered := re.search(r"<tool_response>\n(\d+)\n", prompt):
        return f"It is {answered[1]}"
    a, b = re.findall(r"(\d+) \+ (\d+)", prompt)[-1]
    return f'<tool_call>\n{{"name": "add", "arguments": {{"a": {a}, "b": {b}}}}}\n</tool_call>'


def test_tools_are_called_and_their_answers_read(tmp_path):
    """Inspect runs the tool that the model calls, and the model goes on from what it answered."""
    api = make_engine_api(FakeTextModel(know=call_add), "fake")

    (log,) = run_inspect(tooled(), model=wrap(api), log_dir=str(tmp_path), display="none")

    assert log.results.scores[0].metrics["accuracy"].value == 1
    roles = ["user", "assistant", "tool", "assistant"]
    assert [m.role for m in log.samples[0].messages] == roles
    first = log.samples[0].messages[1]
    assert (first.content, first.tool_calls[0].arguments) == ("", {"a": 10, "b": 1})
    (outputs, last) = [e.output for e in log.samples[0].events if e.event == "model"]
    assert (outputs.stop_reason, last.stop_reason) == ("tool_calls", "stop")


def test_a_call_that_is_wrong_is_told_to_the_model(tmp_path):
    """It reads why, and may call again: no sample fails."""

    def know(prompt):
        if "expected a call as JSON" in prompt:
            return call_add(prompt)
        return "<tool_call>add(10, 1)</tool_call>"

    api = make_engine_api(FakeTextModel(know=know), "fake")

    (log,) = run_inspect(tooled(), model=wrap(api), log_dir=str(tmp_path), display="none")

    assert log.results.scores[0].metrics["accuracy"].value == 1
    assert len(log.samples[0].messages) == 6


@pytest.mark.parametrize(
    ("choice", "begun"),
    [
        ("any", '<tool_call>\n{"name": "'),
        (ToolFunction(name="add"), '<tool_call>\n{"name": "add'),
        ("auto", ""),
        ("none", ""),
    ],
)
def test_a_call_that_is_demanded_is_begun(choice, begun):
    """The model goes on from there; of tools that are not to be called it is told nothing."""
    tool = ToolInfo(name="add", description="Adds numbers.")
    model = FakeTextModel(know=lambda prompt: '", "arguments": {}}' if begun else "5")
    api = make_engine_api(model, "fake", tells_prompt=True)

    output = ask(api, "2 + 3", tools=[tool], tool_choice=choice)
    api.close()

    prompt = output.metadata["prompt"]
    assert prompt.endswith(f"<assistant>{begun}")
    assert ("Adds numbers." in prompt) is (choice != "none")
    assert bool(output.message.tool_calls) is bool(begun)


def test_importing_the_provider_is_cheap():
    """Inspect imports it on every look-up: no torch, no transformers."""
    code = (
        "import sys, holdback.inspect.provider as p;"
        "print([m for m in ('torch', 'transformers', 'chess', 'scipy') if m in sys.modules])"
    )
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout

    assert out.strip() == "[]"
