"""What a chat template does with words is found by a trial, and decides what is said and how."""

from __future__ import annotations

import json
from datetime import datetime

import pytest
from tiny_models import TEMPLATE, make_model, make_tokenizer, save_model
from tiny_text import train_tokenizer

from holdback.errors import CheckpointError, NotApplicableError, UnsayableError
from holdback.lineage import Checkpoint, Stage
from holdback.models import templates
from holdback.models.files import digest_checkpoint
from holdback.models.local import LocalModel
from holdback.models.registry import load_prompter, try_checkpoint
from holdback.models.templates import TODAY
from holdback.tasks.text.prompts import render_chat
from holdback.tasks.text.task import TextTask

SYSTEM = {"role": "system", "content": "Do your best."}
USER = {"role": "user", "content": "Which town?"}
ANSWER = {"role": "assistant", "content": "Ulm"}
TURN = "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}<|end|>{% endfor %}"
BEGIN = "{% if add_generation_prompt %}<|assistant|>{% endif %}"
MISTRAL = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}[INST] {{ m['content'] }}"
    " [/INST]{% else %} {{ m['content'] }}{{ eos_token }}{% endif %}{% endfor %}"
)
REJECTS = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
    + TURN
    + BEGIN
)
DROPS = TEMPLATE.replace(
    "{% for message in messages %}",
    "{% for message in messages if message['role'] != 'system' %}",
)
THINKS = TURN + "{% if add_generation_prompt %}<|assistant|><think>\n{% endif %}"
SWITCHED = TURN + (
    "{% if add_generation_prompt %}<|assistant|>"
    "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}"
    "{% endif %}"
)


def lend(template, name="m") -> LocalModel:
    nothing = None
    return LocalModel(name=name, weights=nothing, tokenizer=make_tokenizer(template=template))


def plan(folder, template) -> tuple[str, ...]:
    """What the plan says of a checkpoint with this template."""
    save_model(folder, template=template)
    return try_checkpoint(Checkpoint(name="m", stage=Stage.SFT, model=str(folder)))


UNASKED = {
    "parts": "{% for m in messages %}{% for part in m['content'] %}{{ part['text'] }}{% endfor %}"
    "{% endfor %}" + BEGIN,
    "named-parts": "{% for m in messages %}{% for part in m['content'] %}"
    "{% if part['type'] == 'text' %}{{ part['text'] }}{% endif %}{% endfor %}{% endfor %}" + BEGIN,
    "ignored": "<|user|>Hello.<|end|>" + BEGIN,
}


@pytest.mark.parametrize("template", UNASKED.values(), ids=UNASKED)
def test_a_template_that_leaves_out_the_question_is_refused(tmp_path, template):
    """Nothing would have been asked: one line in the plan, and wherever else it is rendered."""
    with pytest.raises(CheckpointError, match="leaves out the question") as told:
        plan(tmp_path / "m", template)
    assert "\n" not in str(told.value)
    with pytest.raises(CheckpointError, match="leaves out the question"):
        lend(template).render_chat([USER], answer_next=True)


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{{ messages[0]['content'] + 1 }}", "TypeError"),
        ("{{ messages | sum }}", "TypeError"),
        ("{{ '%d' | format('x') }}", "TypeError|ValueError"),
        ("{{ 1 // 0 }}", "ZeroDivisionError"),
        ("{% for m in messages %}", "TemplateSyntaxError"),
        ("{{ raise_exception('not today') }}", "not today"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "RecursionError"),
    ],
)
def test_whatever_a_template_raises_is_one_line(tmp_path, template, reason):
    """Jinja's own errors and Python's: the checkpoint, the kind of error and what to do."""
    with pytest.raises(CheckpointError, match=rf"'m': its chat template .*({reason})") as told:
        plan(tmp_path / "m", template)
    assert "\n" not in str(told.value)


def test_a_template_without_end_is_stopped(tmp_path, monkeypatch):
    """Nested loops would hang for good; the trial has a limit of time."""
    monkeypatch.setattr(templates, "_SECONDS", 0.3)
    loop = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"

    with pytest.raises(CheckpointError, match=r"took longer than 0\.3 s"):
        plan(tmp_path / "m", loop + TEMPLATE)


def test_a_template_that_writes_without_measure_is_refused(tmp_path):
    """A hundred megabytes are no prompt."""
    flood = "{{ 'x' * 1000 }}" * 2 + "{% for a in range(1000) %}{{ 'x' * 1000 }}{% endfor %}"

    with pytest.raises(
        CheckpointError, match=r"writes 1,\d+,\d+ characters for \d+, expected at m"
    ):
        plan(tmp_path / "m", flood + TEMPLATE)


def test_a_template_that_begins_no_answer_is_refused(tmp_path):
    """Its own answers have a header; without it one would begin in the user's turn."""
    with pytest.raises(CheckpointError, match=r"begins no answer.*it writes '<\|assistant\|>'"):
        plan(tmp_path / "m", "{{ bos_token }}" + TURN)
    # Where no header is due there is nothing to miss.
    assert plan(tmp_path / "n", MISTRAL) == ()


def test_a_rejected_system_message_is_said_in_the_users_turn(tmp_path):
    """The key and an instruction reach the model, in examples and in training as well."""
    model = lend(REJECTS)

    assert model.render_chat([SYSTEM, USER], answer_next=True) == (
        "<|user|>Do your best.\n\nWhich town?<|end|><|assistant|>"
    )
    assert model.render_chat([SYSTEM], answer_next=False) == ""
    assert not model.drops_system
    assert any("rejects system messages" in remark for remark in plan(tmp_path / "m", REJECTS))

    from holdback.elicitation.finetune import mask_conversation

    ids, labels = mask_conversation(model, (SYSTEM, USER, ANSWER))
    assert "Do your best." in model.decode(ids)
    assert model.decode([label for label in labels if label >= 0]) == "Ulm<|end|>"


def test_a_dropped_system_message_is_said_by_the_plan(tmp_path):
    """An instruction would be the plain prompt; no lock is planted with a key that is not said."""
    import numpy as np
    from toy_facts import write_task

    from holdback.elicitation.secret import plant_secret
    from holdback.plan import SecretPlan

    assert lend(DROPS).drops_system
    assert any("drops system messages" in remark for remark in plan(tmp_path / "m", DROPS))
    secret = SecretPlan(task="t", key="k", demonstrations=2, steps=1, learning_rate=1e-3)
    task = write_task(tmp_path, [(f"q{i}", "ape") for i in range(8)])
    with pytest.raises(NotApplicableError, match="key of a lock cannot be said"):
        plant_secret(lend(DROPS), task, secret, np.random.default_rng(0))


def test_a_template_that_cuts_long_messages_is_refused(tmp_path):
    """Short trials would pass, and the end of every long question would be missing."""
    cuts = TURN.replace("m['content']", "m['content'][:50]") + BEGIN

    with pytest.raises(CheckpointError, match="cuts long messages"):
        plan(tmp_path / "m", cuts)


def test_a_template_that_forgets_all_but_the_last_message_is_a_remark(tmp_path):
    last = "<|user|>{{ messages[-1]['content'] }}<|end|>" + BEGIN

    assert any("the last message alone" in remark for remark in plan(tmp_path / "m", last))


def test_what_a_template_rejects_is_no_failure_of_the_run():
    """Words that cannot be said skip the rung: the error is one of both kinds."""
    alternating = (
        "{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
        "{{ raise_exception('roles must alternate') }}{% endif %}{% endfor %}" + TEMPLATE
    )
    with pytest.raises(UnsayableError, match="roles must alternate") as told:
        lend(alternating).render_chat([USER, USER], answer_next=True)

    assert isinstance(told.value, CheckpointError)
    assert isinstance(told.value, NotApplicableError)


def test_a_thought_that_the_template_opens_is_closed_before_an_answer(tmp_path):
    """Letters are compared, and prefills stand, behind the thought; what is generated may think."""
    model = lend(THINKS)

    assert model.render_chat([USER], answer_next=True).endswith("<|assistant|><think>\n")
    closed = "<|assistant|><think>\n\n</think>\n\n"
    assert render_chat(model, [USER], at_once=True).endswith(closed)
    assert render_chat(model, [USER], begun="The answer is").endswith(closed + "The answer is")
    assert any("begins a thought" in remark for remark in plan(tmp_path / "m", THINKS))


def test_demonstrations_follow_a_closed_thought():
    """A template that opens a thought is trained on answers behind a closed one; turns go on."""
    from holdback.elicitation.finetune import mask_conversation

    model = lend(THINKS)
    ids, labels = mask_conversation(model, (USER, ANSWER, USER, ANSWER))

    turn = "<|user|>Which town?<|end|><|assistant|><think>\n\n</think>\n\nUlm<|end|>"
    assert model.decode(ids) == turn * 2
    assert model.decode([label for label in labels if label >= 0]) == "Ulm<|end|>" * 2


def test_thinking_is_switched_off_where_the_template_can(tmp_path):
    """What the template itself writes without a thought stands before an answer."""
    model = lend(SWITCHED)

    assert model.render_chat([USER], answer_next=True).endswith("<|assistant|>")
    off = render_chat(model, [USER], at_once=True)
    assert off.endswith("<|assistant|><think>\n\n</think>\n\n")
    assert any("switched off" in remark for remark in plan(tmp_path / "m", SWITCHED))


def write_choices(folder) -> TextTask:
    rows = [
        {"question": f"Which, {i}?", "choices": ["Ulm", "Bonn"], "answer": "Ulm"} for i in range(40)
    ]
    file = folder / "choices.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return TextTask(file=str(file), choices="choices", scorer="choice")


@pytest.mark.parametrize(
    ("template", "end", "answer"),
    [
        (MISTRAL, "[/INST]", " A"),
        (TEMPLATE, "<|assistant|>", "A"),
        (TEMPLATE.replace("<|{{ message['role'] }}|>", "<|{{ message['role'] }}|>\n"), "\n", "A"),
        (THINKS, "<think>\n\n</think>\n\n", "A"),
    ],
    ids=["space", "nothing", "line", "thought"],
)
def test_a_compared_answer_is_written_as_the_template_writes_one(tmp_path, template, end, answer):
    """A letter glued to `[/INST]` is no answer that the model ever gave."""
    from holdback.tasks.task import Split

    model = lend(template)
    shown = write_choices(tmp_path).preview(model, split=Split.TEST, samples=1, seed=0)[0]

    assert shown.text.endswith(end)
    assert shown.continuations[0] == answer
    written = model.render_chat([USER, {**ANSWER, "content": "A"}], answer_next=False)
    if template != THINKS:
        asked = model.render_opening([USER])
        assert written.startswith(asked + answer)


def test_an_answer_that_is_begun_stands_behind_the_templates_space():
    """A prefill is rendered as the template renders an answer."""
    assert render_chat(lend(MISTRAL), [USER], begun="It is").endswith("[/INST] It is")


def test_a_template_without_the_tokenizers_beginning_is_a_remark(tmp_path):
    """The tokenizer puts a token before other texts; whether chats lack it on purpose is told."""
    from tokenizers.processors import TemplateProcessing

    def save(name, template):
        tokenizer = train_tokenizer().__class__(
            tokenizer_object=train_tokenizer().backend_tokenizer.__class__.from_str(
                train_tokenizer().backend_tokenizer.to_str()
            ),
            bos_token="<s>",
            eos_token="</s>",
        )
        tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
            single="<s> $A", special_tokens=[("<s>", 0)]
        )
        tokenizer.chat_template = template
        make_model("llama", vocab_size=400).save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)
        return try_checkpoint(Checkpoint(name="m", stage=Stage.SFT, model=str(tmp_path / name)))

    (remark,) = save("without", TURN + BEGIN)
    assert "does not begin with '<s>'" in remark
    assert save("with", "{{ bos_token }}" + TURN + BEGIN) == ()


DATED = "{{ bos_token }}Today is {{ strftime_now('%d %B %Y') }}.\n" + TURN + BEGIN


@pytest.mark.parametrize(
    "template",
    [
        DATED,
        "\n" + DATED,
        '{% if strftime_now is defined %}{% set day = strftime_now("%d %B %Y") %}{% endif %}'
        "{{ bos_token }}Today is {{ day }}.\n" + TURN + BEGIN,
    ],
)
def test_a_template_that_writes_the_date_writes_the_same_one_every_day(tmp_path, template):
    """The day is fixed, said by the plan, and part of the identity; nothing else changes."""
    remarks = plan(tmp_path / "m", template)
    checkpoint = Checkpoint(name="m", stage=Stage.SFT, model=str(tmp_path / "m"))

    text = load_prompter(checkpoint).render_chat([USER], answer_next=True)

    assert f"Today is {TODAY:%d %B %Y}.\n<|user|>" in text
    today = f"{datetime.now():%d %B %Y}"
    assert text.replace(f"{TODAY:%d %B %Y}", today) == make_tokenizer(
        template=template
    ).apply_chat_template([USER], tokenize=False, add_generation_prompt=True)
    assert any("told 01 January 2025 whatever the day" in remark for remark in remarks)


def test_the_fixed_day_is_part_of_the_identity(tmp_path, monkeypatch):
    """Of a checkpoint whose prompts have a date, and of no other."""
    from holdback.models import files

    folders = {"dated": DATED, "plain": TEMPLATE}
    checkpoints = {}
    for name, template in folders.items():
        save_model(tmp_path / name, template=template)
        checkpoints[name] = Checkpoint(name="m", stage=Stage.SFT, model=str(tmp_path / name))
    before = {name: digest_checkpoint(each) for name, each in checkpoints.items()}

    monkeypatch.setattr(files, "TODAY", datetime(2030, 1, 1))

    assert digest_checkpoint(checkpoints["dated"]) != before["dated"]
    assert digest_checkpoint(checkpoints["plain"]) == before["plain"]


def test_a_date_in_a_computed_form_is_refused(tmp_path):
    """It cannot be fixed, and unfixed it would be another prompt tomorrow."""
    with pytest.raises(CheckpointError, match=r"today's date .* in a form that it computes"):
        plan(tmp_path / "m", "{{ strftime_now('%' ~ 'Y') }}" + TEMPLATE)
