"""Demonstrators from files: their answers as they are, rated where they can be, leaking nothing."""

from __future__ import annotations

import json

import numpy as np
import pytest

from holdback.errors import ConfigError, UnknownNameError
from holdback.plan import parse_plan
from holdback.tasks.task import Split
from holdback.tasks.text.task import TextTask

RNG = np.random.default_rng


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return str(path)


def read_sums(path):
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def test_a_weak_demonstrator_is_shown_as_it_is_and_rated(sums, tmp_path):
    """Right in 30% of its answers to the task's own questions, and rated so; nothing leaks.

    Its answers to questions of `select` and `test` count for the rating, and are never shown.
    """
    path = sums(1000)
    rows = [
        {**row, "answer": row["answer"] if i % 10 < 3 else "7"}
        for i, row in enumerate(read_sums(path))
    ]
    task = TextTask(
        file=str(path),
        cluster="topic",
        demonstrators={"weak": write(tmp_path / "weak.jsonl", rows)},
    )

    rated = task.rate_demonstrator("weak")
    chats = task.demonstrate("weak", 150, RNG(0))

    assert rated.value == pytest.approx(30)
    assert rated.low < 30 < rated.high
    assert rated.n_clusters == 100
    said = {row["question"]: row["answer"] for row in rows}
    assert all(chat[1]["content"] == said[chat[0]["content"]] for chat in chats)
    train = {item.question for item in task.in_split(Split.TRAIN)}
    assert {chat[0]["content"] for chat in chats} <= train
    with pytest.raises(ConfigError, match="not asked on select or test, got n=900"):
        task.demonstrate("weak", 900, RNG(0))


def test_other_tasks_demonstrations_are_shown_and_not_rated(sums, tmp_path):
    """Of another family there is no right answer here; all of it may be shown."""
    rows = [{"question": f"Capital of country {i}?", "answer": f"City {i}"} for i in range(12)]
    task = TextTask(file=str(sums()), demonstrators={"capitals": write(tmp_path / "c.jsonl", rows)})

    chats = task.demonstrate("capitals", 12, RNG(1))

    assert task.rate_demonstrator("capitals") is None
    assert {(chat[0]["content"], chat[1]["content"]) for chat in chats} == {
        (row["question"], row["answer"]) for row in rows
    }


def test_choices_are_the_tasks_own_where_the_file_has_none(sums, tmp_path):
    """An answer in words becomes the letter under which its choice is shown."""
    path = sums(400)
    own = read_sums(path)
    # Always the second choice of the file, which is wrong.
    rows = [{"question": row["question"], "answer": row["choices"][1]} for row in own]
    task = TextTask(
        file=str(path),
        choices="choices",
        scorer="choice",
        demonstrators={"off-by-one": write(tmp_path / "off.jsonl", rows)},
    )

    chats = task.demonstrate("off-by-one", 40, RNG(2))

    wrong = {row["question"]: row["choices"][1] for row in own}
    for user, assistant in chats:
        question = user["content"].splitlines()[0]
        assert f"\n{assistant['content']}. {wrong[question]}\n" in user["content"] + "\n"
    assert len({assistant["content"] for _, assistant in chats}) > 1
    assert task.rate_demonstrator("off-by-one").value == 0


def test_answers_that_are_no_choice_are_refused_with_their_line(sums, tmp_path):
    path = sums()
    rows = [{"question": read_sums(path)[0]["question"], "answer": "none of them"}]
    task = TextTask(
        file=str(path),
        choices="choices",
        scorer="choice",
        demonstrators={"odd": write(tmp_path / "odd.jsonl", rows)},
    )
    with pytest.raises(ConfigError, match=r"odd\.jsonl, line 1: expected a target among"):
        task.check_machine()


def test_random_answers_to_open_questions_are_rated_by_all_they_may_be(tmp_path):
    """One answer in four is yes: who says another question's answer is right 62.5% of the time."""
    rows = [
        {"question": f"Is {i} even?", "answer": "yes" if i % 4 == 0 else "no"} for i in range(800)
    ]
    task = TextTask(file=write(tmp_path / "even.jsonl", rows))

    rated = task.rate_demonstrator("random")
    drawn = task.demonstrate("random", 160, RNG(3))
    truth = {row["question"]: row["answer"] for row in rows}
    share = np.mean([truth[user["content"]] == said["content"] for user, said in drawn])

    assert abs(rated.value - 62.5) < 4
    assert abs(100 * share - rated.value) < 12


def test_names_are_checked(sums, tmp_path):
    """The two that every task has keep their meaning, and a typo finds the nearest."""
    file = write(tmp_path / "d.jsonl", [{"question": "a", "answer": "b"}])
    with pytest.raises(ConfigError, match="are there already, got files for correct"):
        TextTask(file=str(sums()), demonstrators={"correct": file})
    task = TextTask(file=str(sums()), demonstrators={"weaker": file})
    with pytest.raises(UnknownNameError, match="Did you mean 'weaker'"):
        task.demonstrate("weakr", 1, RNG(0))
    assert task.rate_demonstrator("nobody") is None


def test_a_demonstrators_file_is_part_of_what_a_run_is(sums, tmp_path):
    """Another file, another digest: stored runs are not taken for it."""
    path, file = sums(), tmp_path / "d.jsonl"
    write(file, [{"question": "a", "answer": "b"}])
    task = TextTask(file=str(path), demonstrators={"d": str(file)})
    before = task.provenance
    write(file, [{"question": "a", "answer": "c"}])

    assert task.provenance != before
    assert TextTask(file=str(path)).provenance == {
        key: words for key, words in before.items() if key.startswith("questions")
    }


def test_paths_start_at_the_audit_file(tmp_path):
    """As the path of the questions does."""
    text = """
[audit]
name = "a"
[lineage]
name = "l"
[[lineage.checkpoints]]
name = "c"
stage = "sft"
model = "c"
[tasks.t]
kind = "text"
margin = 1
select_samples = 1
test_samples = 1
options = { file = "t.jsonl", demonstrators = { weak = "answers/weak.jsonl" } }
[[ladder]]
name = "displayed"
technique = "displayed"
[[ladder]]
name = "completion"
technique = "completion"
"""
    plan = parse_plan(text, source="a.toml", folder=tmp_path)

    assert plan.tasks["t"].options["demonstrators"] == {
        "weak": str((tmp_path / "answers" / "weak.jsonl").resolve())
    }
