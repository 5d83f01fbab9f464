"""Every run is a log that Inspect reads, with the store's scores and where they come from."""

from __future__ import annotations

import json
import math

import pytest
from audits import fake_plan
from inspect_ai.log import list_eval_logs, read_eval_log
from typer.testing import CliRunner

from holdback.cli import main
from holdback.errors import ConfigError, StoreError
from holdback.inspect.export import export_runs
from holdback.plan import dump_plan
from holdback.runs.records import RunSpec
from holdback.runs.store import RunStore, Status
from holdback.tasks.task import Outcome, SampleRecord, Score, Split

ITEM = {
    "question": "What is 1 + 1?",
    "target": ["B"],
    "choices": ["3", "2"],
    "order": [1, 0],
    "logprobs": [-2.0, -0.5],
    "prompt": "<user>What is 1 + 1?</user>",
    "prompt_token_ids": [1, 2, 3],
}
GAME = {
    "opponent": "sf100",
    "opponent_elo": 700.0,
    "colour": "white",
    "result": "0-1",
    "termination": "checkmate",
    "opening_fen": "rnbqkbnr/pppppppp/8/8/8/8/PPPPPPPP/RNBQKBNR w KQkq - 0 1",
    "moves": "f2f3 e7e5 g2g4 d8h4",
    "san": "f3 e5 g4 Qh4#",
    "plies": 4,
}


def spec(**changes):
    fields = {
        "checkpoint": "chat",
        "checkpoint_digest": "c" * 64,
        "task": "sums",
        "task_digest": "t" * 64,
        "rung": "noise-0.01",
        "technique": "weight_noise",
        "parameters": {"sigma": 0.01},
        "split": Split.TEST,
        "seed": 3,
        "samples": 4,
    }
    return RunSpec(**{**fields, **changes})


def record(i, outcome, value, metadata=ITEM):
    score = Score(value=value, outcome=outcome, answer="B")
    return SampleRecord(sample_id=f"s{i}", cluster=f"t{i // 2}", score=score, metadata=metadata)


RECORDS = [
    record(0, Outcome.CORRECT, 100.0),
    record(1, Outcome.WRONG, 0.0),
    record(2, Outcome.REFUSED, 0.0),
    record(3, Outcome.ERRORED, None),
    record(4, Outcome.TRUNCATED, 0.0),
]


@pytest.fixture
def store(tmp_path):
    with RunStore(tmp_path / "runs.sqlite") as opened:
        done = spec()
        games = spec(task="chess_games", task_digest="g" * 64)
        failed = spec(checkpoint="tuned", checkpoint_digest="d" * 64)
        opened.begin(done, {"holdback": "0.1.0", "access": "weights"})
        opened.append(done.digest, RECORDS)
        opened.finish(done, Status.DONE, seconds=2.5)
        opened.begin(games, {})
        opened.append(games.digest, [record(0, Outcome.WRONG, 0.0, GAME)])
        opened.begin(failed, {})
        opened.finish(
            failed, Status.FAILED, seconds=1, reason="CheckpointError: no", details="trace"
        )
        yield opened


def test_scores_outcomes_and_provenance_survive(store, tmp_path):
    """What Inspect reads back is what the store holds, sample by sample."""
    (path,) = export_runs(store, tmp_path / "logs", runs=["chat · sums"])
    log = read_eval_log(str(path))
    scores = {sample.id: sample.scores["holdback"] for sample in log.samples}

    assert log.status == "success"
    assert (log.eval.task, log.eval.model) == ("sums", "chat · noise-0.01 · seed 3")
    assert "_sums_chat-noise-0.01-seed-3_" in path.name
    assert log.eval.metadata["parameters"] == {"sigma": 0.01}
    assert log.eval.metadata["run"] == spec().digest
    assert log.eval.metadata["provenance"] == [{"holdback": "0.1.0", "access": "weights"}]
    for stored in RECORDS:
        written = scores[stored.sample_id]
        assert written.metadata["outcome"] == stored.score.outcome
        assert written.metadata["cluster"] == stored.cluster
        if stored.score.value is None:
            assert math.isnan(written.value)
        else:
            assert written.value == stored.score.value
    assert scores["s2"].reason == "refusal"


def test_a_sample_reads_as_it_was_asked(store, tmp_path):
    """Prompt, choices, target and answer are where Inspect's viewer shows them."""
    (path,) = export_runs(store, tmp_path / "logs", runs=["chat · sums"])
    sample = read_eval_log(str(path)).samples[0]

    assert sample.input == ITEM["question"]
    assert sample.choices == ITEM["choices"]
    assert sample.target == ["B"]
    assert [(m.role, m.text) for m in sample.messages] == [
        ("user", ITEM["prompt"]),
        ("assistant", "B"),
    ]
    assert sample.output.completion == "B"
    assert sample.metadata["logprobs"] == ITEM["logprobs"]
    assert read_eval_log(str(path)).samples[4].output.stop_reason == "max_tokens"


def test_two_rungs_of_one_task_pair_as_they_do_in_the_store(store, tmp_path):
    """Prompts differ by rung and are kept of a few samples only; what was asked is the same."""
    plain = spec(rung="displayed", technique="displayed", parameters={})
    asked = {**ITEM, "prompt": "<bos> What is 1 + 1?"}
    bare = {key: value for key, value in ITEM.items() if not key.startswith("prompt")}
    right = [record(0, Outcome.WRONG, 0.0, asked)]
    right += [record(i, Outcome.CORRECT, 100.0, bare) for i in (1, 2, 3)]
    store.begin(plain, {})
    store.append(plain.digest, right)
    store.finish(plain, Status.DONE, seconds=1)
    folder = tmp_path / "logs"

    logs = export_runs(store, folder, runs=["chat · sums"])
    by_rung = [str(path) for rung in ("noise", "displayed") for path in logs if rung in path.name]
    stored = [f"{store.path}#chat/{rung}" for rung in ("noise-0.01", "displayed")]
    tables = []
    for names in (by_rung, stored):
        ended = CliRunner().invoke(main, ["compare", *names, "--json", "--common"])
        assert ended.exit_code == 0, ended.output
        (compared,) = json.loads(ended.stdout)["comparisons"]
        tables.append([compared[key] for key in ("difference", "p", "test", "outcomes")])

    assert tables[0] == tables[1]
    # Of three pairs one is lost and two are gained; the fourth has no score on one side.
    assert tables[0][0]["value"] == pytest.approx(100 / 3)
    assert "McNemar" in tables[0][2]


def test_metrics_are_the_stores(store, tmp_path):
    """Mean over what says something; shares of outcomes over all."""
    (path,) = export_runs(store, tmp_path / "logs", runs=["chat · sums"])
    (score,) = read_eval_log(str(path), header_only=True).results.scores

    assert score.metrics["mean"].value == pytest.approx(25)
    assert score.metrics["outcome_errored"].value == pytest.approx(0.2)
    assert (score.scored_samples, score.unscored_samples) == (4, 1)


def test_a_game_is_a_sample_with_its_pgn(store, tmp_path):
    """And a run that was cut off says so."""
    (path,) = export_runs(store, tmp_path / "logs", runs=["chess_games"])
    log = read_eval_log(str(path))

    assert log.status == "cancelled"
    assert "1. f3 e5 2. g4 Qh4# 0-1" in log.samples[0].output.completion
    assert log.samples[0].input == (f"A game as white against sf100, from {GAME['opening_fen']}")


def test_a_failed_run_is_a_failed_log(store, tmp_path):
    """With the reason, and the traceback beneath it."""
    (path,) = export_runs(store, tmp_path / "logs", runs=["tuned"])
    log = read_eval_log(str(path))

    assert log.status == "error"
    assert log.error.message == "CheckpointError: no"
    assert log.error.traceback == "trace"


def test_all_runs_are_listed_by_inspect_and_written_anew(store, tmp_path):
    """As many logs as runs, under the names that Inspect lists; twice is no more."""
    folder = tmp_path / "logs"
    first = export_runs(store, folder)
    contents = [path.read_bytes() for path in first]

    assert export_runs(store, folder) == first
    assert len(list_eval_logs(str(folder))) == len(first) == 3
    assert [len(path.read_bytes()) for path in first] == [len(part) for part in contents]


def test_runs_that_are_not_there_are_refused(store, tmp_path):
    """With some that are; a store without runs too."""
    with pytest.raises(ConfigError, match="the store has 3, such as chat · sums"):
        export_runs(store, tmp_path / "logs", runs=["nothing"])
    with (
        RunStore(tmp_path / "empty.sqlite") as empty,
        pytest.raises(StoreError, match="run an audit first"),
    ):
        export_runs(empty, tmp_path / "logs")


def test_the_command_writes_logs(store, tmp_path):
    """`holdback export STORE --out DIR --run …`; digests work as well as labels."""
    out = tmp_path / "out"
    arguments = ["export", str(store.path), "--out", str(out), "--run", spec().digest[:10]]

    done = CliRunner().invoke(main, arguments)
    missing = CliRunner().invoke(main, ["export", str(tmp_path / "no"), "--out", str(out)])

    assert done.exit_code == 0, done.output
    assert len(list(out.glob("*.eval"))) == 1
    assert f"inspect view --log-dir {out}" in done.output
    assert missing.exit_code == 1
    assert "expected a run store" in missing.output


def test_a_measured_capability_is_among_the_metrics(tmp_path):
    """Where the store's audit tells the task, its measure and interval are in the log."""
    plan = fake_plan()
    asked = spec(task=next(iter(plan.tasks)))
    with RunStore(tmp_path / "runs.sqlite") as store:
        store.begin_audit("a", plan=dump_plan(plan), command="holdback audit")
        store.enlist("a", [asked])
        store.begin(asked, {})
        right = [record(i, Outcome.CORRECT, 1.0) for i in range(30)]
        store.append(
            asked.digest, [*right, *[record(i, Outcome.WRONG, 0.0) for i in range(30, 40)]]
        )
        store.finish(asked, Status.DONE, seconds=1)
        (path,) = export_runs(store, tmp_path / "logs")
    metrics = read_eval_log(str(path), header_only=True).results.scores[0].metrics

    assert metrics["points"].value == pytest.approx(75)
    assert metrics["points_low"].value < 75 < metrics["points_high"].value
