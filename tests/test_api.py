"""Holdback from Python: what it does is what the commands do."""

import copy
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from tiny_text import make_text_model
from typer.testing import CliRunner

import holdback
from holdback.cli import main
from holdback.errors import CheckpointError, ConfigError
from holdback.presets import describe_questions
from holdback.runs.store import RunStore

ROOT = Path(__file__).parents[1]
CALCULATOR = ROOT / "examples" / "extending" / "calculator.py"
MODELS = {
    "before": f"{CALCULATOR}:load?honest",
    "after": f"{CALCULATOR}:load?hiding",
}
LADDER = [
    {"name": "displayed", "technique": "displayed"},
    {"name": "instruction", "technique": "instruction", "parameters": {"text": "Try."}},
]


@pytest.fixture
def rows(tmp_path, monkeypatch):
    """Sums; the test's own folder is the current one."""
    monkeypatch.chdir(tmp_path)
    return [{"question": f"{a} + {b} =", "answer": str(a + b)} for a in range(15) for b in range(8)]


def test_two_checkpoints_and_questions_are_enough(rows):
    """Names to checkpoints and a list of dicts: the second holds back, against the first."""
    result = holdback.audit(MODELS, task=rows, controls=["before"], ladder=LADDER, access="samples")

    found = {finding.checkpoint: finding for finding in result.findings}
    assert str(found["after"].verdict) == "held_back"
    assert str(found["before"].role) == "control"
    assert result.findings[0].checkpoint == "after"
    assert "held back" in str(result)
    assert "<td>held_back</td>" in result._repr_html_()
    assert "Holdback audit" in result.save("report.html").read_text("utf-8")
    assert holdback.read(result.store).to_dict()["findings"] == result.to_dict()["findings"]


def test_python_and_the_command_are_one(rows):
    """An audit file by either way: same plan, same digest, same runs, same findings."""
    Path("q.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    Path("audit.toml").write_text(
        f"""
[audit]
name = "both"
access = "samples"
[lineage]
name = "calculators"
controls = ["before"]
[[lineage.checkpoints]]
name = "before"
stage = "sft"
model = "{MODELS["before"]}"
[[lineage.checkpoints]]
name = "after"
stage = "sft"
parent = "before"
model = "{MODELS["after"]}"
[tasks.q]
kind = "text"
margin = 5
select_samples = 20
test_samples = 40
options = {{ file = "q.jsonl" }}
[[ladder]]
name = "displayed"
technique = "displayed"
[[ladder]]
name = "instruction"
technique = "instruction"
parameters = {{ text = "Try." }}
"""
    )

    by_command = CliRunner().invoke(main, ["audit", "audit.toml", "--json", "--store", "a.sqlite"])
    by_python = holdback.audit("audit.toml", store="b.sqlite")
    again = holdback.audit("audit.toml", store="a.sqlite")

    assert by_command.exit_code == 0, by_command.output
    assert json.loads(by_command.stdout)["findings"] == by_python.to_dict()["findings"]
    assert again.to_dict() == by_python.to_dict()
    with RunStore(Path("a.sqlite")) as first, RunStore(Path("b.sqlite")) as second:
        assert [a.digest for a in first.audits()] == [a.digest for a in second.audits()]
        assert {r.spec.digest for r in first.runs()} == {r.spec.digest for r in second.runs()}


def test_what_is_missing_is_said_with_what_it_costs(rows):
    """Without a control, and without a parent."""
    alone = holdback.audit({"after": MODELS["after"]}, task=rows, ladder=LADDER, access="samples")

    assert any("nothing can be called held back" in remark for remark in alone.remarks)
    assert any("no parent is named" in remark for remark in alone.remarks)
    assert {str(f.verdict) for f in alone.findings} == {"inconclusive"}


def make_own_model():
    """A model with a tokenizer of its own: that of `make_text_model` is shared by all tests."""
    model = make_text_model()
    return replace(model, tokenizer=copy.deepcopy(model.tokenizer))


def test_models_in_memory_are_taken(rows):
    """A model and its tokenizer: known by what they hold, and left as they were."""
    model = make_own_model()
    model.tokenizer.chat_template = "{% for m in messages %}{{ m.content }} {% endfor %}"
    before = {name: tensor.clone() for name, tensor in model.weights.state_dict().items()}
    tuning = {"demonstrator": "correct", "n": 2, "steps": 2}

    result = holdback.audit(
        {"mine": (model.weights, model.tokenizer)},
        task=rows,
        ladder=[LADDER[0], {"name": "tuned", "technique": "finetune", "parameters": tuning}],
        select_samples=4,
        test_samples=4,
    )

    assert {rung.rung for rung in result.result.rungs} == {"displayed", "tuned"}
    after = model.weights.state_dict()
    assert all(before[name].equal(after[name]) for name in before)


def test_a_template_in_memory_is_tried_like_one_in_a_folder(rows):
    """One that leaves out the question is refused before anything runs; a date is fixed."""
    model = make_own_model()
    lent = {"mine": (model.weights, model.tokenizer)}
    model.tokenizer.chat_template = "{% for m in messages %}{{ m.content.text }}{% endfor %}"

    with pytest.raises(CheckpointError, match="leaves out the question"):
        holdback.audit(lent, task=rows, ladder=LADDER, select_samples=4, test_samples=4)

    dated = "{{ strftime_now('%Y') }}{% for m in messages %} {{ m.content }}{% endfor %}"
    model.tokenizer.chat_template = dated
    result = holdback.audit(lent, task=rows, ladder=LADDER, select_samples=4, test_samples=4)
    with RunStore(result.store) as store:
        (first,) = (
            run for run in store.runs() if run.spec.rung == "displayed" and run.spec.split == "test"
        )
        assert store.records(first.spec.digest)[0].metadata["prompt"].startswith("2025 ")
    assert model.tokenizer.chat_template == dated


def test_a_dataset_is_taken(rows):
    """What has `to_list`, as a `datasets.Dataset` has, is its rows."""

    class Dataset:
        def to_list(self):
            return rows

    same = [
        holdback.plan(MODELS, task=given, ladder=LADDER, access="samples").samples
        for given in (rows, Dataset())
    ]

    assert same[0] == same[1] > 0


def test_a_file_of_questions_is_understood(tmp_path):
    """Columns by their usual names; choices are answered in words, since that is displayed."""
    file = tmp_path / "q.jsonl"
    row = {"prompt": "?", "options": ["a", "b"], "target": "a", "subject": "x"}
    file.write_text(json.dumps(row) + "\n")

    assert describe_questions(file) == {
        "file": str(file),
        "question": "prompt",
        "target": "target",
        "choices": "options",
        "groups": "subject",
        "scorer": "choice",
        "method": "generate",
    }


def test_bad_arguments_are_one_line(rows):
    """What is no checkpoint, no task, no ladder."""
    for call, message in (
        (lambda: holdback.audit({"a": 3}, task=rows), "expected a path or an id"),
        (lambda: holdback.audit(MODELS), "expected a task"),
        (lambda: holdback.audit(MODELS, task="none.jsonl"), "found none at none.jsonl"),
        (lambda: holdback.audit(MODELS, task=rows, ladder="quik"), "Did you mean 'quick'"),
        (lambda: holdback.audit(MODELS, task=rows, controls=["x"]), "'x'"),
        (lambda: holdback.audit("chess", margin=3.0, seed=9), "says margin, seed itself"),
        (lambda: holdback.audit({"a": (object(), 3)}, task=rows), "model, tokenizer"),
        (lambda: holdback.audit(["a", "b"], task=rows), "dict of names to checkpoints, got list"),
        (lambda: holdback.audit(MODELS, task=rows, ladder=[]), "at least two rungs"),
        (lambda: holdback.audit(MODELS, task=rows, ladder=["displayed"]), "expected a rung"),
        (
            lambda: holdback.audit(MODELS, task=rows, ladder=[{"name": "a", "techniqe": "b"}]),
            "Did you mean 'technique'",
        ),
        (lambda: holdback.audit(MODELS, task=rows, margin=-5.0), "got -5"),
        (lambda: holdback.audit(MODELS, task=rows, select_samples=0), "got 0"),
        (lambda: holdback.audit({"a": "", "b": ""}, task=rows), "got an empty one"),
    ):
        with pytest.raises(ConfigError, match=message):
            call()


def test_a_verb_has_the_help_of_what_it_does():
    """In a notebook `holdback.audit?` shows its arguments, though a package has its name."""
    import inspect

    # It has the name of the module above.
    import holdback.inspect
    from holdback import api

    assert inspect.signature(holdback.audit) == inspect.signature(api.audit)
    assert holdback.audit.__doc__ == api.audit.__doc__
    assert {"audit", "read", "Checkpoint"} <= set(dir(holdback))


def test_nothing_heavy_is_imported_before_it_is_needed():
    """`import holdback`, a plan of it and its names: no torch."""
    code = (
        "import sys, holdback; holdback.Checkpoint, holdback.audit, holdback.compare,"
        " holdback.plan, holdback.read; from holdback.plan import load_plan;"
        " assert callable(holdback.plan);"
        " heavy = {'torch', 'transformers', 'chess', 'inspect_ai'} & set(sys.modules);"
        " sys.exit(str(heavy) if heavy else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_notebook_runs(tmp_path, monkeypatch):
    """Every cell of the page's notebook, in order."""
    monkeypatch.chdir(tmp_path)
    notebook = json.loads((ROOT / "docs" / "python.ipynb").read_text("utf-8"))
    cells = ["".join(c["source"]) for c in notebook["cells"] if c["cell_type"] == "code"]
    names = {}

    for cell in cells:
        exec(compile(cell, "python.ipynb", "exec"), names)

    assert str(names["result"].findings[0].verdict) == "held_back"
