"""`holdback compare` and `holdback import` from the command line."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from holdback.cli import main
from holdback.runs.records import RunSpec
from holdback.runs.store import RunStore, Status
from holdback.tasks.task import Outcome, SampleRecord, Score, Split

ROOT = Path(__file__).parents[2]


def call(*arguments: str, columns: int = 80):
    environment = {"COLUMNS": str(columns)}
    return CliRunner().invoke(main, list(arguments), catch_exceptions=False, env=environment)


def write_log(
    path, values, *, task="sums", model="model", answers=None, status="success", **header
):
    """An Inspect log as JSON: what Inspect writes, less what is not read (see test_logs)."""
    samples = [
        {
            "id": f"q{index}",
            "epoch": 1,
            "input": f"What is {index}?",
            "target": str(index),
            "metadata": {},
            "output": {"choices": [{"message": {"content": ""}, "stop_reason": "stop"}]},
            "scores": {"match": {"value": value, "answer": (answers or {}).get(index, str(index))}},
        }
        for index, value in enumerate(values)
    ]
    spec = {"task": task, "model": model, "dataset": {"samples": header.pop("n", len(values))}}
    spec |= {key: header.pop(key) for key in ("created", "eval_id") if key in header}
    log = {"version": 2, "status": status, "eval": {**spec, "config": {"epochs": 1}}, **header}
    path.write_text(json.dumps({**log, "samples": samples}))
    return str(path)


@pytest.fixture
def logs(tmp_path, monkeypatch):
    """Two logs of 40 questions: B loses 8 that A had and gains 1."""
    monkeypatch.chdir(tmp_path)
    a = write_log(tmp_path / "a.json", "C" * 30 + "I" * 10, model="strong")
    b = write_log(tmp_path / "b.json", "I" * 8 + "C" * 23 + "I" * 9, model="weak")
    return a, b


def test_two_logs_in_a_table_out(logs):
    """80 columns hold it; flips come with their questions, answers and targets."""
    ended = call("compare", *logs, "--margin", "0.05")

    assert ended.exit_code == 0, ended.output
    assert max(map(len, ended.stdout.splitlines())) <= 80
    assert "A 0.75" in ended.stdout
    assert "+1 −8" in ended.stdout
    assert "exact McNemar: p 0.039" in ended.stdout
    assert "equivalent within ±0.05: TOST p" in ended.stdout
    assert re.search(r"B scores lower: q0: What is 0\? \[target 0\]", ended.stdout)
    assert "80% power" in ended.stdout.replace("\n", " ")


def test_no_power_is_claimed_that_the_test_cannot_have(logs, tmp_path):
    """Five pairs: the line says that nothing would be found, and JSON has null."""
    few = [write_log(tmp_path / f"{name}.json", "CCCII", model=name) for name in ("one", "two")]

    ended = call("compare", *few)
    found = json.loads(call("compare", *few, "--json").stdout)["comparisons"][0]

    words = " ".join(ended.stdout.split())
    assert "no true difference would be found with 80% power: 5 pairs are too few" in words
    assert found["detectable_difference"] is None


def test_json_is_one_object_and_complete(logs):
    """What the table shows, and what programs need beside it."""
    ended = call("compare", *logs, "--json", "--margin", "0.1")

    (found,) = json.loads(ended.stdout)["comparisons"]
    assert found["difference"]["value"] == pytest.approx(-7 / 40)
    assert found["flips"]["lost"] == 8
    assert found["flips"]["examples_lost"][0]["question"] == "What is 0?"
    assert found["routes"]["wrong"]["difference"] == pytest.approx(-7 / 40)
    assert found["p"] == pytest.approx(0.0390625)
    assert set(found) >= {
        "task", "n", "clusters", "scores", "p_adjusted", "equivalence", "equivalent_within",
        "detectable_difference", "outcomes", "dropped", "left_out", "verdict", "paired_by",
    }  # fmt: skip
    assert [source["name"] for source in json.loads(ended.stdout)["sources"]] == ["strong", "weak"]


def test_samples_that_differ_are_code_1_and_one_line(logs, tmp_path):
    """It is said how they differ; --common compares the rest and says how much was dropped."""
    short = write_log(tmp_path / "short.json", "C" * 25, n=40, status="cancelled", model="third")

    refused = call("compare", logs[0], short)
    shared = call("compare", logs[0], short, "--common")
    listed = call("compare", logs[0], short, "--json")
    both = call("compare", logs[0], short, "--json", "--common")

    missing = [f"q{index}" for index in range(25, 40)]
    assert listed.exit_code == 1
    assert json.loads(listed.stdout)["mismatched"] == {"only_first": missing}
    (found,) = json.loads(both.stdout)["comparisons"]
    assert found["dropped"]["mismatched"] == {"only_first": missing}
    assert refused.exit_code == 1
    assert refused.stderr.count("\n") == 1
    assert "15 only in the first ('q25', 'q26', 'q27', 'q28', 'q29', and 10 more)" in refused.stderr
    assert "25 of 40 samples, status 'cancelled'" in refused.stderr
    assert shared.exit_code == 0
    assert "15 samples, 23.1% of both" in shared.stdout


def test_what_a_model_wrote_moves_no_cursor(tmp_path):
    """Escapes, direction marks and markup in answers are shown, not obeyed."""
    evil = {0: "\x1b[2J[bold]gone\u202e", 1: "line\nbreak"}
    a = write_log(tmp_path / "a.json", "CCC", model="a\x1b[31m")
    b = write_log(tmp_path / "b.json", "IIC", model="b", answers=evil)

    ended = call("compare", a, b)

    assert "\x1b" not in ended.stdout
    assert "\u202e" not in ended.stdout
    assert "[bold]gone‹U+202E›" in ended.stdout


def test_three_logs_are_compared_with_the_first(logs, tmp_path):
    """And their p-values corrected together."""
    third = write_log(tmp_path / "c.json", "C" * 30 + "I" * 10, model="third")

    ended = call("compare", *logs, third, "--json")

    b, c = json.loads(ended.stdout)["comparisons"]
    assert (b["first"], b["other"], c["other"]) == ("strong", "weak", "third")
    assert b["p_adjusted"] == pytest.approx(2 * b["p"])


@pytest.mark.parametrize(
    ("arguments", "code", "line"),
    [
        (["a.json"], 2, "two or more"),
        (["a.json", "none.eval"], 2, "found nothing at 'none.eval'"),
        (["a.json", "b.json", "--score", "grade"], 2, "named 'grade', got match"),
        (["a.json", "b.json", "--cluster", "topic"], 2, "expected 'topic' in its metadata"),
        (["a.json", "b.json", "--margin", "0"], 2, "--margin"),
        (["a.json", "nan.json"], 1, "finite score 'match', got nan"),
        (["a.json", "v3.json"], 1, "got version 3"),
        (["a.json", "empty.json"], 1, "expected samples, got none"),
        (["a.json", "cut.json"], 1, "truncated or corrupt"),
    ],
)
def test_a_mistake_is_one_line(logs, tmp_path, arguments, code, line):
    """2 for what the user can put right, 1 for a log that can't be used."""
    write_log(tmp_path / "nan.json", [float("nan"), "C"])
    write_log(tmp_path / "v3.json", "CC", version=3)
    write_log(tmp_path / "empty.json", "")
    (tmp_path / "cut.json").write_text(Path(logs[0]).read_text()[:900])

    ended = call("compare", *arguments)

    assert ended.exit_code == code
    assert ended.stderr.startswith("holdback: ")
    assert ended.stderr.count("\n") == 1
    assert line in ended.stderr


def test_an_imported_log_is_the_log(logs):
    """In the store it compares as it did outside; its cluster, target and input came along."""
    imported = call("import", *logs, "--store", "runs.sqlite")
    outside = call("compare", *logs, "--json")
    inside = call("compare", "runs.sqlite#strong", "runs.sqlite#weak/imported", "--json")
    mixed = call("compare", "runs.sqlite#strong", logs[1], "--json")

    assert imported.exit_code == 0
    assert "strong · sums · match: 40 samples in 1 run" in imported.stdout
    assert json.loads(inside.stdout)["comparisons"] == json.loads(outside.stdout)["comparisons"]
    assert json.loads(mixed.stdout)["comparisons"] == json.loads(outside.stdout)["comparisons"]


def test_importing_twice_does_nothing_twice(logs):
    """Not a byte of the records changes, and what is there is named by the log's digest."""
    first = call("import", *logs, "--store", "runs.sqlite")
    with RunStore(Path("runs.sqlite")) as store:
        before = (store.verify(), [run.spec.digest for run in store.runs()])

    again = call("import", *logs, "--store", "runs.sqlite")

    assert again.stdout.count("nothing new") == 2
    with RunStore(Path("runs.sqlite")) as store:
        assert (store.verify(), [run.spec.digest for run in store.runs()]) == before
        assert {run.provenance["file"] for run in store.runs()} == {"a.json", "b.json"}
        assert {run.status for run in store.runs()} == {Status.DONE}
    digest = re.search(r"or #([0-9a-f]{12})", first.stdout)[1]
    assert call("compare", f"runs.sqlite#{digest}", logs[1]).exit_code == 0


def test_two_logs_of_one_model_are_told_apart_by_when_they_were_made(tmp_path, monkeypatch):
    """The date and the evaluation's id are in the run's name, and that name finds it."""
    monkeypatch.chdir(tmp_path)
    for name, day, values in (("a", 24, "CCCI"), ("b", 25, "CIII")):
        made = {"created": f"2026-11-{day}T22:48:44+00:00", "eval_id": f"Rs5Rfc{name}long"}
        write_log(tmp_path / f"{name}.json", values, **made)
    imported = call("import", "a.json", "b.json", "--store", "runs.sqlite")

    several = call("compare", "runs.sqlite#model", "a.json")
    named = call(
        "compare",
        "runs.sqlite#model/imported-2026-11-24T22:48:44-Rs5Rfc",
        "runs.sqlite#model/imported-2026-11-25T22:48:44-Rs5Rfc",
        "--json",
    )

    assert "#model/imported-2026-11-24T22:48:44-Rs5Rfc" in imported.stdout
    assert several.exit_code == 2
    for place in ("model/imported-2026-11-24T22:48:44", "model/imported-2026-11-25T22:48:44"):
        assert place in several.stderr
    (found,) = json.loads(named.stdout)["comparisons"]
    assert found["flips"]["lost"] == 2


def test_a_broken_log_imports_nothing_and_loses_nothing(logs, tmp_path):
    """All logs are read before the store is touched."""
    call("import", logs[0], "--store", "runs.sqlite")
    before = Path("runs.sqlite").read_bytes()
    short = write_log(tmp_path / "short.json", "CC", n=40, status="cancelled")
    (tmp_path / "cut.json").write_text(Path(logs[1]).read_text()[:900])

    cut = call("import", logs[1], "cut.json", "--store", "runs.sqlite")
    cancelled = call("import", logs[1], short, "--store", "runs.sqlite")

    assert (cut.exit_code, cancelled.exit_code) == (1, 1)
    assert "2 of 40 samples, status 'cancelled'" in cancelled.stderr
    assert "--partial" in cancelled.stderr
    assert Path("runs.sqlite").read_bytes() == before
    partial = call("import", short, "--store", "runs.sqlite", "--partial")
    assert partial.exit_code == 0
    assert "2 of 40 samples" in partial.stderr


def test_an_import_that_was_interrupted_goes_on(logs):
    """A run left in its middle gets what it lacks, and nothing twice."""
    call("import", logs[0], "--store", "whole.sqlite")
    with RunStore(Path("whole.sqlite")) as whole, RunStore(Path("half.sqlite")) as half:
        (run,) = whole.runs()
        half.begin(run.spec, run.provenance)
        half.append(run.spec.digest, whole.records(run.spec.digest)[:15])

    ended = call("import", logs[0], "--store", "half.sqlite")

    assert "25 samples in 1 run" in ended.stdout
    with RunStore(Path("half.sqlite")) as half:
        assert half.verify() == 40
        assert [run.status for run in half.runs()] == [Status.DONE]


def fill_store(path):
    """Runs as an audit makes them: two checkpoints, the second with three seeds."""
    with RunStore(path) as store:
        for checkpoint, seeds in (("base", [0]), ("tuned", [0, 1, 2])):
            for seed in seeds:
                spec = RunSpec(
                    checkpoint=checkpoint,
                    checkpoint_digest=checkpoint,
                    task="sums",
                    task_digest="t",
                    rung="displayed",
                    technique="none",
                    split=Split.TEST,
                    seed=seed,
                    samples=12,
                )
                store.begin(spec, {})
                records = [
                    SampleRecord(
                        sample_id=f"s{i}",
                        cluster=f"c{i // 2}",
                        score=Score(
                            value=float(checkpoint == "base" or i + seed > 5),
                            outcome=Outcome.WRONG,
                            answer="",
                        ),
                    )
                    for i in range(12)
                ]
                store.append(spec.digest, records)
                store.finish(spec, Status.DONE, seconds=1.0)


def test_runs_of_an_audit_are_compared(tmp_path):
    """Seeds are epochs: one against three is paired by means, clustered as the task says."""
    store = tmp_path / "runs.sqlite"
    fill_store(store)

    ended = call("compare", f"{store}#base/displayed", f"{store}#tuned", "--json")

    (found,) = json.loads(ended.stdout)["comparisons"]
    assert found["paired_by"] == "sample, means over epochs"
    assert (found["n"], found["clusters"]) == (12, 6)
    assert found["difference"]["value"] == pytest.approx(-(6 + 5 + 4) / 36)


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("", "expected one checkpoint under one rung, got base/displayed, tuned/displayed"),
        ("#bse", "'bse', which stands for no run here; there are: base/displayed"),
        ("#base/displayed/select", "stands for no run here"),
    ],
)
def test_a_run_that_is_not_there_is_named(tmp_path, name, line):
    """With the runs that are."""
    store = tmp_path / "runs.sqlite"
    fill_store(store)

    ended = call("compare", f"{store}{name}", f"{store}#tuned")

    assert ended.exit_code == 2
    assert line in ended.stderr


def test_comparing_needs_none_of_the_heavy_packages(logs):
    """Two logs in a fraction of a second: neither Inspect nor torch is imported."""
    program = (
        "import sys\n"
        "from typer.testing import CliRunner\n"
        "from holdback.cli import main\n"
        f"ended = CliRunner().invoke(main, ['compare', *{list(logs)!r}])\n"
        "assert ended.exit_code == 0, ended.output\n"
        "heavy = {'torch', 'transformers', 'inspect_ai', 'lm_eval', 'chess'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )

    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stderr
