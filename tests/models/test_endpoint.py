"""Endpoints: what is sent, what is made of answers, and what happens when things go wrong."""

from __future__ import annotations

import json
import pickle
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scripted_endpoint import Reply, chat_reply, completion_reply, serve

from holdback.errors import CheckpointError, ConfigError, EndpointError, LimitReachedError
from holdback.lineage import Checkpoint, Stage
from holdback.models import connection
from holdback.models.connection import Connection, _read_retry_after
from holdback.models.endpoint import EndpointModel, load_endpoint
from holdback.models.protocol import (
    Decoding,
    Format,
    Presentation,
    Question,
    Request,
    StopReason,
)
from holdback.models.token_cap import TokenLedger, open_ledger, sharing_ledger

KEY = "sk-a-secret-that-no-message-may-show"


def reach(script, *, chat=True, temperature=0.0, **options):
    options = {"backoff_seconds": 0.01, "key": KEY, **options}
    return EndpointModel(
        name="remote",
        model="some-model",
        connection=Connection(script.url, **options),
        presentation=Presentation(format=Format.CHAT if chat else Format.COMPLETION),
        decoding=Decoding(temperature=temperature),
    )


def ask(model, *questions, stop=(), max_tokens=7, prefill=""):
    prompts = [
        model.render_chat([{"role": "user", "content": question}], answer_next=True) + prefill
        for question in questions
    ]
    return model.generate(
        [
            Request(prompt=prompt, max_tokens=max_tokens, seed=(1, at), stop=stop)
            for at, prompt in enumerate(prompts)
        ]
    )


def in_turn(*replies):
    """Give these replies, the last one from then on."""
    left = list(replies)
    return lambda received: left.pop(0) if len(left) > 1 else left[0]


def remote(model="openai/gpt-x", **fields):
    return Checkpoint(name="remote", stage=Stage.RL, model=model, **fields)


# What is sent and read


def test_a_chat_is_its_messages_and_comes_back_in_order():
    """The shown prompt is the JSON that is sent; answers keep the order of the questions."""

    def echo(received):
        return chat_reply(received.body["messages"][-1]["content"].upper(), tokens=2)

    with serve(echo) as script:
        model = reach(script)
        answers = ask(model, *[f"question {n} ü" for n in range(40)])

    assert [answer.text for answer in answers] == [f"QUESTION {n} Ü" for n in range(40)]
    assert all(answer.stop_reason is StopReason.STOP and answer.tokens == 2 for answer in answers)
    first = next(
        r for r in script.received if "question 0 ü" in json.dumps(r.body, ensure_ascii=False)
    )
    assert first.path == "/v1/chat/completions"
    assert first.headers["authorization"] == f"Bearer {KEY}"
    assert first.body["messages"] == [{"role": "user", "content": "question 0 ü"}]
    assert (first.body["model"], first.body["max_tokens"], first.body["temperature"]) == (
        "some-model",
        7,
        0.0,
    )
    assert model.usage.describe() == {
        "requests": 40,
        "prompt_tokens": 200,
        "generated_tokens": 80,
        "retries": {},
        "seconds_waited": 0.0,
        "adapted": {},
    }


def test_tools_are_sent_apart_and_calls_come_back_in_the_text():
    """Servers tell calls apart; in the answer they are what a model without a server writes."""
    tool = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}
    call = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": {"a": 1}}}
    chat = [
        {"role": "user", "content": "1 + 2?"},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "name": "add", "content": "3"},
    ]
    calls = [{"id": "x", "type": "function", "function": {"name": "add", "arguments": '{"a": 2}'}}]
    with serve(lambda _: chat_reply("I add.", finish="tool_calls", tool_calls=calls)) as script:
        model = reach(script)
        prompt = model.render_chat(chat, answer_next=True, tools=[tool])
        (generation,) = model.generate([Request(prompt=prompt, max_tokens=7, seed=(1,))])

    body = script.received[0].body
    assert body["tools"] == [tool]
    assert json.loads(body["messages"][1]["tool_calls"][0]["function"]["arguments"]) == {"a": 1}
    assert body["messages"][2] == chat[2]
    assert generation.stop_reason is StopReason.STOP
    said = '<tool_call>\n{"name": "add", "arguments": {"a": 2}}\n</tool_call>'
    assert generation.text == f"I add.\n{said}"


def test_completions_send_the_text_as_it_stands():
    """No template, no messages; log-probabilities of the sampled tokens are kept."""
    logprobs = {"tokens": [" b", " c"], "token_logprobs": [-0.25, -0.5]}
    with serve(lambda received: completion_reply(" b c", tokens=2, logprobs=logprobs)) as script:
        (answer,) = reach(script, chat=False).generate(
            [Request(prompt="<bos> a", max_tokens=2, seed=(0,))]
        )

    assert script.received[0].path == "/v1/completions"
    assert script.received[0].body["prompt"] == "<bos> a"
    assert answer.text == " b c"
    assert answer.logprobs == (-0.25, -0.5)


def test_seeds_are_the_requests_own():
    """The same request draws with the same seed whatever it is sent with; others differ."""
    with serve(lambda received: chat_reply("x")) as script:
        model = reach(script, temperature=1.0)
        ask(model, "a", "b", "c")
        ask(model, "a")

    seeds = {}
    for received in script.received:
        content = received.body["messages"][0]["content"]
        seeds.setdefault(content, set()).add(received.body["seed"])
    assert len(seeds["a"]) == 1
    assert len(set.union(*seeds.values())) == 3
    assert all(0 <= seed < 2**31 for seed in set.union(*seeds.values()))


def test_refusal_and_truncation_are_told_apart():
    """A filter, the field `refusal`, a filtered prompt and the length limit are outcomes."""
    filtered = Reply(status=400, body={"error": {"message": "no", "code": "content_filter"}})
    too_long = Reply(
        status=400,
        body={
            "error": {"message": "maximum context length is 10", "code": "context_length_exceeded"}
        },
    )
    replies = {
        "filter": chat_reply("", finish="content_filter"),
        "refusal": chat_reply(None, refusal="I can't help with that"),
        "prompt": filtered,
        "long": too_long,
        "length": chat_reply("cut of", finish="length"),
        "stop": chat_reply("whole"),
        "nothing": chat_reply(None),
        "parts": chat_reply([{"type": "thinking"}, {"type": "text", "text": "in parts"}]),
    }
    with serve(lambda received: replies[received.body["messages"][0]["content"]]) as script:
        answers = dict(zip(replies, ask(reach(script), *replies), strict=True))

    reasons = {name: answer.stop_reason for name, answer in answers.items()}
    refused, length, stop = StopReason.REFUSED, StopReason.LENGTH, StopReason.STOP
    assert reasons == {
        "filter": refused,
        "refusal": refused,
        "prompt": refused,
        "long": length,
        "length": length,
        "stop": stop,
        "nothing": stop,
        "parts": stop,
    }
    assert answers["refusal"].text == "I can't help with that"
    assert answers["length"].text == "cut of"
    assert answers["parts"].text == "in parts"


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning"])
def test_thoughts_in_a_field_of_their_own_are_no_part_of_the_answer(field):
    """They are kept beside it; parts of an answer that are not text stay out of it."""
    parts = [{"type": "reasoning", "text": "A?"}, {"type": "text", "text": "B"}]
    replies = {"field": chat_reply("B", **{field: "A? No."}), "parts": chat_reply(parts)}
    with serve(lambda received: replies[received.body["messages"][0]["content"]]) as script:
        in_field, in_parts = ask(reach(script), *replies)

    assert (in_field.text, in_field.thought) == ("B", "A? No.")
    assert in_parts.text == "B"


def test_text_ends_before_the_first_stop_string():
    """Also where the server keeps it, or was not told of a fifth one."""
    with serve(lambda received: chat_reply("one. two; three", finish="length")) as script:
        stop = ("a", "b", "c", "d", ";", ".")
        (answer,) = ask(reach(script), "q", stop=stop)

    assert (answer.text, answer.stop_reason) == ("one", StopReason.STOP)
    assert script.received[0].body["stop"] == ["a", "b", "c", "d"]


def test_a_prompt_that_is_no_chat_is_refused():
    """Text for the completion format is not sent as a message."""
    with serve(lambda received: chat_reply("x")) as script:
        model = reach(script)
        with pytest.raises(CheckpointError, match="expected a chat"):
            model.generate([Request(prompt="just text", max_tokens=1, seed=())])
    assert not script.received


# Prefill


def counting(*, continues):
    """A server that counts a token a word and five a message that it closes."""

    def answer(received):
        body, messages = received.body, received.body["messages"]
        continued = continues and body.get("continue_final_message")
        closed = len(messages) - bool(continued)
        words = sum(len(message["content"].split()) for message in messages)
        return chat_reply("4", prompt_tokens=words + 5 * closed + (0 if continued else 2))

    return answer


def test_prefill_is_continued_where_the_server_can():
    """Text behind the rendered chat becomes the answer's beginning; the server is tried once."""
    with serve(counting(continues=True)) as script:
        model = reach(script)
        for _ in range(2):
            (answer,) = ask(model, "2 + 2?", prefill="The answer is")
        whole = model.render_chat(
            [
                {"role": "user", "content": "2 + 2?"},
                {"role": "assistant", "content": "The answer is"},
            ],
            answer_next=False,
        )
        model.generate([Request(prompt=whole, max_tokens=1, seed=())])

    assert answer.text == "4"
    sent = [r.body for r in script.received if r.body["messages"][-1]["content"] == "The answer is"]
    assert len(sent) == 3
    assert len(script.received) == 3 + 2
    for body in sent:
        assert body["messages"][-1]["role"] == "assistant"
        assert body["continue_final_message"] is True
        assert body["add_generation_prompt"] is False


@pytest.mark.parametrize(
    "answer",
    [
        counting(continues=False),
        lambda received: (
            Reply(status=422, body={"detail": "Unexpected fields: continue_final_message"})
            if "continue_final_message" in received.body
            else chat_reply("x")
        ),
        lambda received: Reply(body={"choices": [{"message": {"content": "x"}}]}),
    ],
    ids=["ignored", "rejected", "not counted"],
)
def test_prefill_is_never_dropped_in_silence(answer):
    """A server that closes the message, takes no such field, or does not tell, is refused."""
    with serve(answer) as script, pytest.raises(EndpointError, match="continues an answer") as told:
        ask(reach(script), "2 + 2?", prefill="The answer is")

    assert "\n" not in str(told.value)
    assert not [r for r in script.received if r.body["messages"][0]["content"] == "2 + 2?"]


# Retries


@pytest.mark.parametrize("status", [429, 500, 503, 408])
def test_passing_failures_are_tried_again_and_recorded(status):
    """The answer comes in the end, and the record says how often it did not."""
    busy = Reply(status=status, body={"error": {"message": "busy"}})
    with serve(in_turn(busy, busy, chat_reply("here"))) as script:
        model = reach(script)
        (answer,) = ask(model, "q")

    assert answer.text == "here"
    assert model.usage.retries == {str(status): 2}
    assert model.usage.requests == 1
    assert model.usage.seconds_waited > 0


def test_malformed_replies_and_timeouts_are_tried_again():
    """Half a JSON, an object without choices, a list and silence are no answers."""
    replies = in_turn(
        Reply(body=b'{"choices": [{"mess'),
        Reply(body={"object": "nothing"}),
        Reply(body=[1, 2]),
        Reply(body={}, delay_seconds=0.6),
        chat_reply("here"),
    )
    with serve(replies) as script:
        model = reach(script, timeout_seconds=0.3)
        (answer,) = ask(model, "q")

    assert answer.text == "here"
    assert model.usage.retries == {"malformed": 3, "timeout": 1}


def test_a_service_that_asks_for_patience_is_asked_again_by_the_next_run():
    """Too many requests pass; who gave up on it says nothing of the run after."""
    with serve(lambda received: Reply(status=429, body=b"slow down")) as script:
        for _ in range(2):
            model = reach(script, tries=3)
            with pytest.raises(EndpointError, match="3 tries"):
                ask(model, "q")
            assert model.usage.retries == {"429": 2}


def test_what_keeps_failing_is_one_line():
    """All tries spent: the last reason, and what to do."""
    with serve(lambda received: Reply(status=503, body=b"upstream\nis down")) as script:
        model = reach(script, tries=3)
        with pytest.raises(
            EndpointError, match=r"3 tries: the last was 503 .*upstream is down"
        ) as told:
            ask(model, "q")
        assert len(script.received) == 3
    assert model.usage.retries == {"503": 2}
    assert "\n" not in str(told.value)

    # Who was given up on by one is asked once by the next.
    again = reach(script)
    with pytest.raises(EndpointError, match="is the server running"):
        ask(again, "q")
    assert not again.usage.retries

    connection._GIVEN_UP.clear()
    nobody = reach(script)
    with pytest.raises(EndpointError, match="is the server running"):
        ask(nobody, "q")
    assert nobody.usage.retries == {"connection": 2}


def test_retry_after_is_honoured():
    """In seconds and as a date; a server that asks for too long is not waited for."""
    for in_words in (False, True):
        # A date has no fractions, so this is a wait of one to two seconds.
        at = datetime.now(UTC) + timedelta(seconds=2)
        wait = format_datetime(at, usegmt=True) if in_words else "1"
        busy = Reply(status=429, body={}, headers={"Retry-After": wait})
        with serve(in_turn(busy, chat_reply("here"))) as script:
            started = time.monotonic()
            (answer,) = ask(reach(script), "q")
        assert answer.text == "here"
        assert 0.9 <= time.monotonic() - started < 6

    busy = Reply(status=429, body={}, headers={"Retry-After": "86400"})
    with serve(lambda received: busy) as script:
        with pytest.raises(EndpointError, match="it asks to wait 86400 s"):
            ask(reach(script), "q")
        assert len(script.received) == 1


@given(st.one_of(st.none(), st.text(max_size=40), st.floats().map(str)))
def test_any_retry_after_is_read(value):
    """A server's header is a wait of finite or no length, never a crash."""
    seconds = _read_retry_after(value)

    assert seconds is None or seconds >= 0


def test_retry_after_in_the_past_is_no_wait():
    assert _read_retry_after("Wed, 21 Oct 2015 07:28:00 GMT") == 0
    assert _read_retry_after("120") == 120
    assert _read_retry_after("soon") is None


def test_requests_under_way_are_bounded():
    """Never more at once than allowed, and as many as that."""
    slow = Reply(body=chat_reply("x").body, delay_seconds=0.05)
    with serve(lambda received: slow) as script:
        ask(reach(script, max_connections=4), *["q"] * 24)

    assert script.most_under_way == 4


# Errors


@pytest.mark.parametrize(
    ("status", "fix"),
    [
        (401, "set OPENAI_API_KEY to a key"),
        (403, "the key in OPENAI_API_KEY may not use this model"),
        (404, "check OPENAI_BASE_URL"),
    ],
)
def test_rejections_say_what_to_set_and_never_the_key(status, fix):
    """One line, no second try, no key, though the server repeats it."""
    said = {"error": {"message": f"Incorrect API key provided: {KEY}\nsee \x1b[31mhelp"}}
    with serve(lambda received: Reply(status=status, body=said)) as script:
        model = reach(script)
        with pytest.raises(EndpointError, match=fix) as told:
            ask(model, *["q"] * 5)

    message = str(told.value)
    assert len(script.received) == 1
    assert "\n" not in message
    assert "\x1b" not in message
    for shown in (message, repr(model), repr(told.value), json.dumps(model.usage.describe())):
        assert KEY not in shown
    assert str(pickle.loads(pickle.dumps(told.value))) == message


def test_an_address_with_a_password_is_not_shown():
    connection = Connection("http://user:hunter2@127.0.0.1:9/v1?token=abc", tries=1)

    assert connection.address == "http://127.0.0.1:9/v1"
    assert "hunter2" not in repr(connection)


def test_an_account_without_credit_is_not_asked_again():
    broke = Reply(
        status=429, body={"error": {"message": "You exceeded", "code": "insufficient_quota"}}
    )
    with serve(lambda received: broke) as script:
        with pytest.raises(EndpointError, match="no credit left"):
            ask(reach(script), "q")
        assert len(script.received) == 1


def test_the_cap_on_tokens_is_hard():
    """Requests that may pass it are not sent; what was answered before was answered."""
    with serve(lambda received: chat_reply("x", tokens=20, prompt_tokens=10)) as script:
        model = reach(script, ledger=TokenLedger(220))
        assert len(ask(model, *["q"] * 4, max_tokens=20)) == 4
        answers = ask(model, *["q"] * 50, max_tokens=20)
        kept = [answer.text for answer in answers if not answer.error]
        assert 0 < len(kept) < 50
        assert "HOLDBACK_MAX_TOKENS" in answers[-1].error
        with pytest.raises(LimitReachedError, match="HOLDBACK_MAX_TOKENS"):
            ask(model, *["q"] * 50, max_tokens=50)

    assert model.usage.capped
    assert model.usage.tokens == 30 * len(script.received) == 30 * (4 + len(kept)) <= 220


def test_the_cap_holds_for_all_endpoints_of_a_command(monkeypatch):
    """Two connections, as two checkpoints or two workers have them, share what is left."""
    monkeypatch.setenv("HOLDBACK_MAX_TOKENS", "300")
    with (
        sharing_ledger(),
        serve(lambda received: chat_reply("x", tokens=20, prompt_tokens=10)) as script,
    ):
        first, second = (reach(script, ledger=open_ledger()) for _ in range(2))
        ask(first, *["q"] * 6, max_tokens=20)
        ask(second, *["q"] * 20, max_tokens=20)
        with pytest.raises(LimitReachedError):
            ask(first, *["q"] * 20, max_tokens=60)

    assert 200 < first.usage.tokens + second.usage.tokens <= 300


def test_a_service_that_stops_answering_stops_the_batch_and_keeps_its_answers():
    """Ten answers, then silence: one request spends its tries, the others none of their own."""
    answered = [chat_reply("here")] * 10
    with serve(in_turn(*answered, Reply(status=503, body=b"down"))) as script:
        model = reach(script, tries=3, max_connections=1)
        answers = ask(model, *["q"] * 40)

        assert [answer.text for answer in answers[:10]] == ["here"] * 10
        assert all("3 tries" in answer.error for answer in answers[10:])
        assert len(script.received) == 13
        # Whoever has just been given up on is asked once.
        with pytest.raises(EndpointError, match="1 try"):
            ask(model, *["q"] * 40)
        assert len(script.received) == 14


def test_silence_is_told(monkeypatch, caplog):
    """A server that takes the request and never answers: who waits is told, and not for ever."""
    monkeypatch.setattr("holdback.models.connection._SILENCE_SECONDS", 0.05)
    monkeypatch.setattr("holdback.models.connection._FIRST_ANSWER_SECONDS", 0.3)

    def sleep(received):
        time.sleep(1)
        return chat_reply("late")

    with serve(sleep) as script, pytest.raises(EndpointError, match="timeout"):
        ask(reach(script), "q")

    assert any("no answer for" in record.getMessage() for record in caplog.records)


def test_fields_that_a_server_does_not_take_are_left_out_and_recorded():
    """Log-probabilities and seeds are luxuries; max_tokens has another name with some."""

    def picky(received):
        for name in ("logprobs", "seed", "max_tokens"):
            if name in received.body:
                message = f"Unsupported parameter: '{name}' is not supported with this model."
                return Reply(status=400, body={"error": {"message": message}})
        assert received.body["max_completion_tokens"] == 7
        return chat_reply("x")

    with serve(picky) as script:
        model = reach(script)
        answers = ask(model, "a", "b", "c")

    assert [answer.text for answer in answers] == ["x"] * 3
    assert set(model.usage.adapted) == {"logprobs", "seed", "max_tokens"}
    assert len(script.received) == 3 + 3
    with (
        serve(lambda received: Reply(status=400, body={"error": "bad messages"})) as script,
        pytest.raises(EndpointError, match="bad messages"),
    ):
        ask(reach(script), "a")


# Scoring


def echoing(words, *, begin=(), generated=("!",)):
    """A server whose tokens are given: text to (token, logprob, logprob of the best)."""

    def answer(received):
        tokens = [*begin, *words[received.body["prompt"]]]
        listed = [*tokens, *((token, -0.1, -0.1) for token in generated)]
        top = [None, *({"best": best, token: got} for token, got, best in listed[1:])]
        return completion_reply(
            "",
            prompt_tokens=len(tokens),
            tokens=1,
            logprobs={
                "tokens": [token for token, _, _ in listed],
                "token_logprobs": [None, *(got for _, got, _ in listed[1:])],
                "top_logprobs": top,
            },
        )

    return answer


WORDS = {
    "the sky is blue": [("the", -1, -1), (" sky", -2, -1), (" is", -1, -1), (" blue", -0.5, -0.5)],
    "the sky is dark red": [
        ("the", -1, -1),
        (" sky", -2, -1),
        (" is", -1, -1),
        (" dark", -1.5, -0.5),
        (" red", -0.25, -0.25),
    ],
}
SKY = Question(prompt="the sky is", continuations=(" blue", " dark red"))


@pytest.mark.parametrize("begin", [(), (("<s>", 0, 0),)], ids=["plain", "with a beginning"])
@pytest.mark.parametrize("generated", [(), ("!",)], ids=["prompt only", "and a token"])
def test_continuations_are_scored_by_echo(begin, generated):
    """The sum over the continuation's tokens, and no others, however the server lists them."""
    with serve(echoing(WORDS, begin=begin, generated=generated)) as script:
        ((blue, red),) = reach(script, chat=False).score([SKY])

    assert (blue.logprob, blue.tokens, blue.greedy) == (-0.5, 1, True)
    assert (red.logprob, red.tokens, red.greedy) == (-1.75, 2, False)
    assert script.received[0].body["echo"] is True


def test_a_continuation_that_melts_into_the_prompt_is_split_by_the_prompts_own_tokens():
    """Where no token begins the continuation, the prompt's own count decides, as locally."""
    words = {
        # The boundary lies inside a token, and the prompt alone is one token shorter.
        "ab xyz": [("ab", -1, -1), (" xy", -0.5, -0.5), ("z", -2, -1)],
        "ab x": [("ab", -1, -1), (" x", -4, -1)],
        # The continuation is but the end of the prompt's last token.
        "ab cd": [("ab", -1, -1), (" cd", -0.75, -0.75)],
        "ab c": [("ab", -1, -1), (" c", -1, -1)],
        # A space at the prompt's end is the continuation's.
        "ab": [("ab", -1, -1)],
    }
    with serve(echoing(words)) as script:
        model = reach(script, chat=False)
        (((melted,), (inside,), (spaced,))) = model.score(
            [
                Question(prompt="ab x", continuations=("yz",)),
                Question(prompt="ab c", continuations=("d",)),
                Question(prompt="ab ", continuations=("cd",)),
            ]
        )

    assert (melted.logprob, melted.tokens) == (-2, 1)
    assert (inside.logprob, inside.tokens) == (-0.75, 1)
    assert (spaced.logprob, spaced.tokens, spaced.greedy) == (-0.75, 1, True)


def test_endpoints_without_prompt_logprobs_say_so():
    """A chat endpoint, one that echoes nothing, one without the path."""
    with serve(lambda received: completion_reply("x")) as script:
        with pytest.raises(ConfigError, match="chat endpoint gives no log-probabilities"):
            reach(script).score([SKY])
        with pytest.raises(EndpointError, match="cannot score choices"):
            reach(script, chat=False).score([SKY])
        assert len(script.received) == 1
    with (
        serve(lambda received: Reply(status=404, body={"detail": "Not Found"})) as script,
        pytest.raises(EndpointError, match="whether the server has this path"),
    ):
        reach(script, chat=False).score([SKY])


# Draws


def test_draws_have_seeds_of_their_own_and_no_constraints():
    """A seed is sent as the same number in any company; what needs the weights here is refused."""
    with serve(lambda received: chat_reply(f"seed {received.body['seed']}")) as script:
        model = reach(script, temperature=0.5)
        first, other = (
            model.render_chat([{"role": "user", "content": c}], answer_next=True) for c in "ab"
        )
        one = Request(prompt=first, max_tokens=4, seed=(1,))
        two = Request(prompt=other, max_tokens=4, seed=(2,))
        answers = model.generate([one, one, two])
        (alone,) = model.generate([two])
        with pytest.raises(ConfigError, match="constrained decoding needs"):
            model.generate([replace(one, allowed=("a",))])

    assert answers[0].text == answers[1].text
    assert answers[2].text == alone.text != answers[0].text
    assert answers[0].logprobs == ()


# Loading


def test_address_and_key_come_from_the_environment(monkeypatch):
    """OPENAI_… for openai/, <SERVICE>_… for openai-api/, the checkpoint's own address first."""
    monkeypatch.setenv("MY_LAB_BASE_URL", "http://lab:8000/v1/")
    monkeypatch.setenv("MY_LAB_API_KEY", KEY)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)

    lab = load_endpoint(remote("openai-api/my-lab/org/model-7"))
    assert lab.model == "org/model-7"
    assert lab.connection.address == "http://lab:8000/v1"
    assert lab.connection._key == KEY
    assert load_endpoint(remote()).connection.address == "https://api.openai.com/v1"
    own = load_endpoint(remote(base_url="http://here/v1", chat=False))
    assert own.connection.address == "http://here/v1"
    assert own.presentation.format is Format.COMPLETION


def test_wrong_ids_and_bounds_are_one_line(monkeypatch):
    for model in ("openai-api/alone", "openai-api/service/"):
        monkeypatch.setenv("ALONE_BASE_URL", "http://x/v1")
        with pytest.raises(ConfigError, match="expected openai-api/<service>/<name>"):
            load_endpoint(remote(model))
    with pytest.raises(ConfigError, match="NOWHERE_BASE_URL"):
        load_endpoint(remote("openai-api/nowhere/name"))
    monkeypatch.setenv("HOLDBACK_MAX_CONNECTIONS", "many")
    with pytest.raises(ConfigError, match="HOLDBACK_MAX_CONNECTIONS: expected a whole number"):
        load_endpoint(remote())
