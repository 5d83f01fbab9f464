"""Words that do nothing: a rung that asks what the first one asks is skipped, and it is said."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tiny_models import TEMPLATE, make_model, make_tokenizer, save_model

from holdback.audit import prepare, run_audit
from holdback.errors import ConfigError
from holdback.plan import parse_plan
from holdback.runs.executors import InProcess
from holdback.runs.progress import Silent
from holdback.runs.store import RunStore, Status

DROPS = TEMPLATE.replace(
    "{% for message in messages %}",
    "{% for message in messages if message['role'] != 'system' %}",
)
REJECTS = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
    + TEMPLATE
)
ALTERNATES = (
    "{% if messages | selectattr('role', 'eq', 'assistant') | list %}"
    "{{ raise_exception('one question only') }}{% endif %}" + TEMPLATE
)
TEXT = """
[audit]
name = "words"
[lineage]
name = "tiny"
[[lineage.checkpoints]]
name = "tiny"
stage = "sft"
model = "{model}"
[tasks.facts]
kind = "text"
margin = 5
select_samples = 6
test_samples = 6
options = {{ file = "facts.jsonl", max_tokens = 2 }}
[[ladder]]
name = "displayed"
technique = "displayed"
[[ladder]]
name = "told"
technique = "instruction"
parameters = {{ text = "do your best ." }}
[[ladder]]
name = "voted"
technique = "majority"
parameters = {{ votes = 2, temperature = 0.5 }}
[[ladder]]
name = "shown"
technique = "few_shot"
parameters = {{ n = 1 }}
[[ladder]]
name = "noise"
technique = "weight_noise"
parameters = {{ sigma = 0.1 }}
"""


def write_plan(folder: Path, template: str):
    rows = [{"question": f"Which is number {i}?", "answer": str(i)} for i in range(40)]
    (folder / "facts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    save_model(folder / "model", template=template)
    return parse_plan(TEXT.format(model="model"), source="audit.toml", folder=folder)


def audit(prepared, path):
    with RunStore(path) as store:
        result = run_audit(
            prepared, store=store, executor=InProcess(), observer=Silent(), command="test"
        )
        status = {run.spec.rung: run.status for run in store.runs() if run.spec.split == "select"}
    return result, status


@pytest.mark.parametrize(
    ("template", "skipped", "reason"),
    [
        (TEMPLATE, None, ""),
        (DROPS, "told", r"its prompts are those of 'displayed', token for token .*drops system"),
        (REJECTS, None, ""),
        (ALTERNATES, "shown", "one question only"),
    ],
    ids=["plain", "drops", "rejects", "alternates"],
)
def test_a_rung_whose_words_do_nothing_or_cannot_be_said_is_skipped(
    tmp_path, template, skipped, reason
):
    """In the plan, in the run and in the report, with the reason; all other rungs are climbed."""
    prepared = prepare(write_plan(tmp_path, template))
    result, status = audit(prepared, tmp_path / "runs.sqlite")

    said = [remark for remark in prepared.remarks if "will be skipped" in remark]
    assert [remark.split(":")[1].split()[0] for remark in said] == [skipped] * bool(skipped)
    assert status == {
        rung: Status.SKIPPED if rung == skipped else Status.DONE
        for rung in ("displayed", "told", "voted", "shown", "noise")
    }
    assert not result.failed
    if skipped:
        import re

        assert re.search(reason, said[0])
        assert any(
            re.search(rf"not applicable: {skipped} on facts .*{reason}", remark)
            for remark in result.remarks
        )


def test_prompts_longer_than_a_checkpoint_reads_are_said_by_the_plan(tmp_path):
    """A few examples fill what a small context holds: said before hours are spent."""
    plan = write_plan(tmp_path, TEMPLATE)
    config = tmp_path / "model" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"max_position_embeddings": 12}))

    told = [line for line in prepare(plan).remarks if "will fail" in line]

    assert any("shown will fail: its prompts take up to" in line for line in told)
    assert all("the checkpoint reads 12" in line for line in told)


def test_characters_that_the_tokenizer_does_not_know_are_counted(tmp_path):
    """A question of unknown tokens is no question; the plan says what share of prompts they are."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    plan = write_plan(tmp_path, TEMPLATE)
    tokenizer = make_tokenizer()
    words = ["<unk>", "<bos>", "<eos>", "<|user|>", "<|assistant|>", "<|end|>", "Which", "is", "?"]
    known = Tokenizer(
        models.WordLevel({word: at for at, word in enumerate(words)}, unk_token="<unk>")
    )
    known.pre_tokenizer = pre_tokenizers.Whitespace()
    narrow = PreTrainedTokenizerFast(
        tokenizer_object=known,
        bos_token="<bos>",
        eos_token="<eos>",
        unk_token="<unk>",
        additional_special_tokens=["<|user|>", "<|assistant|>", "<|end|>"],
    )
    narrow.chat_template = tokenizer.chat_template
    make_model("llama").save_pretrained(tmp_path / "model")
    narrow.save_pretrained(tmp_path / "model")

    (remark,) = [said for said in prepare(plan).remarks if "unknown" in said]

    # Of «<bos><|user|>Which is number 7?<|end|><|assistant|>» number and 7 are not known.
    assert remark.startswith("tiny on facts: 22.2% of the tokens of its prompts are «unknown»")


@pytest.mark.parametrize(
    "link",
    [
        'technique = "few_shot"\nparameters = { n = 100000 }',
        'technique = "chain"\nparameters = { links = [{ technique = "few_shot", n = 100000 }] }',
    ],
    ids=["alone", "in-a-chain"],
)
def test_more_examples_than_there_are_are_found_by_the_plan(tmp_path, link):
    """Though their demonstrator is unsaid, as it may be."""
    plan = write_plan(tmp_path, TEMPLATE)
    text = TEXT.format(model="model").replace(
        'technique = "few_shot"\nparameters = { n = 1 }', link
    )
    assert link in text

    with pytest.raises(ConfigError, match=r"rung 'shown' on task 'facts': .* got n=100000"):
        prepare(parse_plan(text, source="audit.toml", folder=tmp_path))
    prepare(plan)
