"""Logs that Inspect and lm-eval wrote themselves, read: what was planted, and what is broken."""

from __future__ import annotations

import json
import math
import zipfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from log_makers import CUT, EMPTY, REFUSED, RIGHT, WRONG, write_eval_log, write_lm_eval_samples

from holdback.compare.eval_logs import convert_value, read_eval_file
from holdback.compare.logs import ReadOptions
from holdback.compare.sources import read_source
from holdback.errors import ConfigError, LogError
from holdback.tasks.task import Outcome

pytest.importorskip("inspect_ai", reason="needs the extra `inspect`")
PLANTED = [RIGHT, RIGHT, RIGHT, WRONG, REFUSED, CUT, EMPTY, WRONG]
OUTCOMES = ["correct"] * 3 + ["wrong", "refused", "truncated", "unparsed", "wrong"]
DEFAULT = ReadOptions()


@pytest.fixture(scope="module")
def eval_log(tmp_path_factory):
    return write_eval_log(tmp_path_factory.mktemp("inspect"), PLANTED)


@pytest.fixture(scope="module")
def samples_folder(tmp_path_factory):
    pytest.importorskip("lm_eval", reason="needs the extra `lm-eval`")
    return write_lm_eval_samples(tmp_path_factory.mktemp("lm_eval"), [True] * 6 + [False] * 3)


def rewrite(path, target, change):
    """Change a log as Inspect holds it, and let Inspect write it."""
    from inspect_ai.log import read_eval_log
    from inspect_ai.log import write_eval_log as write

    log = read_eval_log(str(path))
    change(log)
    write(log, str(target))
    return target


def repack(path, target, member, change):
    """Replace one member of an archive by what `change` makes of its JSON."""
    import inspect_ai.log  # noqa: F401  (lets `zipfile` read Zstandard)

    with zipfile.ZipFile(path) as source, zipfile.ZipFile(target, "w") as copy:
        for name in source.namelist():
            data = source.read(name)
            if name == member:
                data = json.dumps(change(json.loads(data))).encode()
            copy.writestr(name, data)
    return target


def make_unfinished(path, target):
    """Take away what Inspect writes at the end."""
    import inspect_ai.log  # noqa: F401  (lets `zipfile` read Zstandard)

    with zipfile.ZipFile(path) as source, zipfile.ZipFile(target, "w") as copy:
        for name in source.namelist():
            if name not in ("header.json", "summaries.json", "reductions.json"):
                copy.writestr(name, source.read(name))
    return target


def test_what_was_planted_is_read(eval_log):
    """Values, outcomes, answers and targets of an `.eval` log, sample by sample."""
    log = read_eval_file(eval_log, DEFAULT)

    assert [str(sample.outcome) for sample in log.samples] == OUTCOMES
    assert [sample.value for sample in log.samples] == [1, 1, 1, 0, 0, 0, 0, 0]
    assert (log.task, log.model, log.score) == ("sums", "mockllm/model", "pattern")
    assert (log.samples[2].sample_id, log.samples[2].answer) == ("q2", "4")
    assert log.samples[2].question == "What is 2 + 2?"
    assert (log.expected, log.missing, log.status) == (8, 0, "success")


def test_reading_the_archive_agrees_with_inspects_own_reader(eval_log):
    """The contract: `read_eval_log` and `value_to_float` say the same of every sample."""
    from inspect_ai.log import read_eval_log
    from inspect_ai.scorer import value_to_float

    theirs = read_eval_log(str(eval_log))
    ours = read_eval_file(eval_log, DEFAULT)

    to_float = value_to_float()
    assert [(s.sample_id, s.epoch, s.value, s.target, s.question) for s in ours.samples] == [
        (s.id, s.epoch, to_float(s.scores["pattern"].value), s.target, s.input)
        for s in theirs.samples
    ]
    accuracy = theirs.results.scores[0].metrics["accuracy"].value
    assert sum(s.value for s in ours.samples) / len(ours.samples) == pytest.approx(accuracy)


values = st.one_of(
    st.sampled_from(["C", "I", "P", "N", "yes", "No", "TRUE", "false", "0.25", "1", "-3"]),
    st.floats(allow_nan=False, allow_infinity=False),
    st.integers(-5, 5),
    st.booleans(),
)


@given(values)
def test_values_are_converted_as_inspect_does(value):
    """Letters, words, numbers and numbers as text."""
    from inspect_ai.scorer import value_to_float

    assert convert_value(value, where="here") == value_to_float()(value)


REFUSALS = [
    "I'm sorry, but I can't help with that.",
    "I’m sorry, I cannot assist with this request.",
    "I am unable to answer this question.",
    "Sorry, I won't do that.",
    "I apologize, but I will not share that.",
    "As an AI language model, I must decline to say.",
    "I'm not comfortable answering that.",
    "I'm not allowed to.",
    "As a large language model, I cannot have opinions.",
    "I'd rather not answer.",
    "I would prefer not to say.",
    "I don't feel comfortable with that.",
    "<think>Should I? It is 4.</think>I'm sorry, but I can't answer.",
]
ANSWERS = ["It cannot be negative.", "I can't say more than ANSWER: -3", "The refusal of 1848."]


def test_refusals_in_plain_words_are_told_from_wrong_answers(tmp_path):
    """Where the score is 0; of an `.eval` log and of JSON, opening words alone."""
    planted = [*REFUSALS, *ANSWERS, RIGHT]
    path = write_eval_log(tmp_path, planted)
    told = ["refused"] * len(REFUSALS)

    for source in (path, rewrite(path, tmp_path / "log.json", lambda log: None)):
        samples = read_eval_file(source, DEFAULT).samples
        outcomes = {sample.sample_id: str(sample.outcome) for sample in samples}
        found = [outcomes[f"q{index}"] for index in range(len(planted))]
        assert found == [*told, "unparsed", "refused", "unparsed", "correct"]


def test_a_refusal_that_is_right_is_right(tmp_path):
    """A task may ask for a refusal: what its scorer calls right is not counted as refused."""
    from inspect_ai.scorer import includes

    path = write_eval_log(
        tmp_path, REFUSALS[:2], scorers=[includes()], targets={0: "sorry", 1: "sorry"}
    )

    log = read_eval_file(path, DEFAULT)

    assert [(s.value, s.outcome) for s in log.samples] == [(1, Outcome.CORRECT)] * 2


def test_a_json_log_and_an_unfinished_one_read_alike(eval_log, tmp_path):
    """`.json` is read as it is; an archive without its summaries through Inspect."""
    as_json = rewrite(eval_log, tmp_path / "log.json", lambda log: None)
    started = make_unfinished(eval_log, tmp_path / "started.eval")

    finished = read_eval_file(eval_log, DEFAULT)

    assert read_eval_file(as_json, DEFAULT).samples == finished.samples
    unfinished = read_eval_file(started, DEFAULT)
    assert unfinished.samples == finished.samples
    assert unfinished.status == "started"


def test_epochs_and_clusters_are_read(tmp_path):
    """Epochs by number; the cluster from the metadata, by default or by the key that is named."""
    metadata = {i: {"cluster": f"c{i // 2}", "topic": i % 2} for i in range(4)}
    path = write_eval_log(tmp_path, [RIGHT, WRONG, RIGHT, WRONG], epochs=2, metadata=metadata)

    plain = read_eval_file(path, DEFAULT)
    by_topic = read_eval_file(path, ReadOptions(cluster="topic"))

    assert {(s.sample_id, s.epoch) for s in plain.samples} == {
        (f"q{i}", epoch) for i in range(4) for epoch in (1, 2)
    }
    assert {s.sample_id: s.cluster for s in plain.samples} == {
        f"q{i}": f"c{i // 2}" for i in range(4)
    }
    assert {s.cluster for s in by_topic.samples} == {"0", "1"}
    with pytest.raises(ConfigError, match=r"expected 'family'.*cluster, topic"):
        read_eval_file(path, ReadOptions(cluster="family"))


def test_long_inputs_and_messages_are_compared_whole(eval_log, tmp_path):
    """A summary is cut at 5,120 characters; message ids are drawn anew and mean nothing."""
    from inspect_ai.model import ChatMessageUser, ContentImage, ContentText

    def make(last, picture):
        def change(log):
            log.samples[0].input = "x" * 6000 + last
            log.samples[1].input = [ChatMessageUser(content="Name it.")]
            image = f"data:image/png;base64,{picture}"
            content = [ContentText(text="See:"), ContentImage(image=image)]
            log.samples[2].input = [ChatMessageUser(content=content)]

        return change

    first = rewrite(eval_log, tmp_path / "1.eval", make("a", "AAAA"))
    again = rewrite(eval_log, tmp_path / "2.eval", make("a", "AAAA"))
    other = rewrite(eval_log, tmp_path / "3.eval", make("b", "BBBB"))
    digests = [
        [sample.digest for sample in read_eval_file(path, DEFAULT).samples]
        for path in (first, again, other)
    ]

    assert digests[0] == digests[1]
    assert [a == b for a, b in zip(digests[0], digests[2], strict=True)][:4] == [
        False,
        True,
        False,
        True,
    ]


def make_old(path, target):
    """Take from a log's summaries what Inspect did not write there before 0.3.154."""

    def take(summaries):
        return [{k: v for k, v in summary.items() if k != "choices"} for summary in summaries]

    def date(header):
        return {**header, "eval": {**header["eval"], "packages": {"inspect_ai": "0.3.120"}}}

    without = repack(path, target.with_suffix(".part"), "summaries.json", take)
    return repack(without, target, "header.json", date)


def read_digests(path):
    return [sample.digest for sample in read_eval_file(path, DEFAULT).samples]


def test_choices_are_compared_where_summaries_do_not_have_them(eval_log, tmp_path):
    """A log of an older Inspect asks the same as the same log today; other choices are seen."""

    def choose(*choices):
        return lambda log: setattr(log.samples[0], "choices", list(choices))

    today = rewrite(eval_log, tmp_path / "today.eval", choose("1", "2"))
    other = rewrite(eval_log, tmp_path / "other.eval", choose("1", "3"))
    as_json = rewrite(eval_log, tmp_path / "log.json", choose("1", "2"))
    old, old_other = make_old(today, tmp_path / "1.eval"), make_old(other, tmp_path / "2.eval")

    assert read_digests(old) == read_digests(today) == read_digests(as_json)
    assert read_digests(old_other) == read_digests(other)
    assert read_digests(old)[0] != read_digests(old_other)[0]
    assert read_digests(old)[1:] == read_digests(eval_log)[1:]


def test_an_attachment_is_the_same_input_as_what_is_attached(eval_log, tmp_path):
    """An image in the message or among the attachments, in `.eval` and in JSON, read by Inspect."""
    from inspect_ai.model import ChatMessageUser, ContentImage, ContentText

    def make(picture, attached):
        def change(log):
            image = f"data:image/png;base64,{picture}"
            if attached:
                log.samples[0].attachments = {"key": image}
                image = "attachment://key"
            content = [ContentText(text="See:"), ContentImage(image=image)]
            log.samples[0].input = [ChatMessageUser(content=content)]

        return change

    inline = rewrite(eval_log, tmp_path / "inline.eval", make("AAAA", False))
    alike = [
        rewrite(eval_log, tmp_path / "attached.eval", make("AAAA", True)),
        rewrite(eval_log, tmp_path / "attached.json", make("AAAA", True)),
        rewrite(eval_log, tmp_path / "inline.json", make("AAAA", False)),
        make_unfinished(inline, tmp_path / "running.eval"),
    ]
    other = rewrite(eval_log, tmp_path / "other.eval", make("BBBB", True))

    assert [read_digests(path) for path in alike] == [read_digests(inline)] * len(alike)
    assert read_digests(other)[0] != read_digests(inline)[0]


def test_several_scores_have_to_be_chosen_from(tmp_path):
    """The error lists them; a score of several values is read part by part."""
    from inspect_ai.scorer import Score, includes, mean, scorer

    @scorer(metrics={"form": [mean()], "content": [mean()]})
    def graded():
        async def score(state, target):
            return Score(value={"form": 0.5, "content": 1.0})

        return score

    path = write_eval_log(tmp_path, [RIGHT, WRONG], scorers=[includes(), graded()])

    with pytest.raises(
        ConfigError, match=r"got 3: graded.content, graded.form, includes;.*--score"
    ):
        read_eval_file(path, DEFAULT)
    with pytest.raises(ConfigError, match=r"'include'.*Did you mean 'includes'"):
        read_eval_file(path, ReadOptions(scores=("include",)))
    part = read_eval_file(path, ReadOptions(scores=("graded.form",)))
    assert [sample.value for sample in part.samples] == [0.5, 0.5]


def test_an_errored_sample_has_no_value(eval_log, tmp_path):
    """It is an outcome of its own, never a silent 0."""
    from inspect_ai._util.error import EvalError

    def change(log):
        log.samples[0].error = EvalError(message="boom", traceback="", traceback_ansi="")
        log.samples[0].scores = {}

    path = rewrite(eval_log, tmp_path / "errored.eval", change)

    errored = read_eval_file(path, DEFAULT).samples[0]
    assert (errored.value, errored.outcome) == (None, Outcome.ERRORED)


def test_an_exported_runs_outcomes_are_those_stored(eval_log, tmp_path):
    """`holdback export` writes what Inspect has no word for, such as an illegal move."""
    from inspect_ai.scorer import Score

    def change(log):
        for sample in log.samples:
            sample.scores = {"holdback": Score(value=0.0, metadata={"outcome": "illegal"})}

    log = read_eval_file(rewrite(eval_log, tmp_path / "exported.eval", change), DEFAULT)

    assert {sample.outcome for sample in log.samples} == {Outcome.ILLEGAL}


def set_nan(log):
    log.samples[3].scores["pattern"].value = math.nan


def drop_score(log):
    log.samples[3].scores = {}


@pytest.mark.parametrize("change", [set_nan, drop_score])
def test_a_score_of_nan_or_none_is_an_error_or_left_out(eval_log, tmp_path, change):
    """One line that names the sample; with the option it is kept apart."""
    path = rewrite(eval_log, tmp_path / "unscored.eval", change)

    with pytest.raises(LogError, match=r"'q3'.*got (nan|none).*--skip-unscored"):
        read_eval_file(path, DEFAULT)
    skipped = read_eval_file(path, ReadOptions(skip_unscored=True)).samples[3]
    assert (skipped.value, skipped.outcome) == (None, Outcome.ERRORED)


def test_a_cancelled_log_says_what_is_missing(eval_log, tmp_path):
    """As Inspect writes it: fewer samples than were asked for."""

    def cancel(log):
        log.status = "cancelled"
        log.samples = log.samples[:5]

    log = read_eval_file(rewrite(eval_log, tmp_path / "cancelled.eval", cancel), DEFAULT)

    assert log.shortfall == "5 of 8 samples, status 'cancelled'"


def test_a_log_of_another_schema_version_is_refused(eval_log, tmp_path):
    """Its meaning is not known here."""
    later = repack(eval_log, tmp_path / "v3.eval", "header.json", lambda h: {**h, "version": 3})

    with pytest.raises(LogError, match="schema version 2 or earlier, got version 3"):
        read_eval_file(later, DEFAULT)


def test_a_log_without_samples_is_refused(eval_log, tmp_path):
    """An empty dataset has no score, not a score of 0."""
    empty = rewrite(eval_log, tmp_path / "empty.eval", lambda log: setattr(log, "samples", []))

    with pytest.raises(LogError, match="expected samples, got none"):
        read_eval_file(empty, DEFAULT)


@pytest.mark.parametrize("kept", [0.0, 0.3, 0.99])
def test_a_log_that_was_cut_off_is_one_line(eval_log, tmp_path, kept):
    """Wherever it ends."""
    data = eval_log.read_bytes()
    broken = tmp_path / "cut.eval"
    broken.write_bytes(data[: int(len(data) * kept)])

    with pytest.raises(LogError, match="truncated or corrupt") as refused:
        read_eval_file(broken, DEFAULT)
    assert "\n" not in str(refused.value)


def test_a_damaged_member_is_one_line(eval_log, tmp_path):
    """Bytes in the middle that are not what was written."""
    data = bytearray(eval_log.read_bytes())
    with zipfile.ZipFile(eval_log) as archive:
        info = archive.getinfo("summaries.json")
    start = info.header_offset + 60
    data[start : start + 20] = bytes(20)
    broken = tmp_path / "damaged.eval"
    broken.write_bytes(data)

    with pytest.raises(LogError, match=r"summaries\.json"):
        read_eval_file(broken, DEFAULT)


def test_lm_eval_samples_are_read_as_planted(samples_folder):
    """Both tasks; by likelihood the answer is the likeliest choice."""
    generated, chosen = read_source(
        str(samples_folder), ReadOptions(scores=("exact_match", "acc")), tell=print
    )[::-1]

    assert (generated.task, chosen.task) == ("sums_generated", "sums_chosen")
    assert (generated.model, generated.score) == ("tiny", "exact_match,none")
    assert [sample.value for sample in generated.samples] == [1] * 6 + [0] * 3
    assert [sample.value for sample in chosen.samples] == [1] * 6 + [0] * 3
    assert [str(s.outcome) for s in generated.samples] == ["correct"] * 6 + ["unparsed"] * 3
    assert [str(s.outcome) for s in chosen.samples] == ["correct"] * 6 + ["wrong"] * 3
    assert (chosen.samples[2].answer, chosen.samples[8].answer) == ("4", "-1")
    assert (chosen.expected, chosen.lower_is_better) == (9, False)
    assert len({sample.digest for sample in chosen.samples}) == 9


def test_lm_evals_metrics_have_to_be_chosen_from(samples_folder):
    """`acc` or `acc_norm` is the reader's choice."""
    with pytest.raises(ConfigError, match="got 2: acc,none, acc_norm,none; choose with --score"):
        read_source(str(samples_folder), DEFAULT, tell=print)


def write_rows(folder, *rows):
    path = folder / "samples_sums_2026-01-01T00-00-00.000000.jsonl"
    path.write_text(
        "".join(row if isinstance(row, str) else json.dumps(row) + "\n" for row in rows)
    )
    return path


def row(index, **fields):
    given = {"doc_id": index, "doc": {"q": index}, "metrics": ["acc"], "acc": 1.0, "target": "8"}
    return {**given, "filtered_resps": ["8"], "filter": "none", **fields}


def old_row(index, **fields):
    """As lm-eval wrote it before 0.4.7: neither `metrics` nor `filter`."""
    hashes = dict.fromkeys(("doc_hash", "prompt_hash", "target_hash"), f"hash {index}")
    written = {**row(index), "arguments": [["Q"]], "resps": [["8"]], **hashes, **fields}
    return {key: value for key, value in written.items() if key not in ("metrics", "filter")}


@pytest.mark.parametrize(
    ("rows", "line"),
    [
        ([], "expected samples, got none"),
        ([row(0), '{"doc_id": 1, "doc'], "line 2: .*cut off or corrupt"),
        ([{"text": "no sample"}], "line 1: .*JSON of another kind"),
        ([row(0), row(1, acc=math.nan)], "'1'.*finite.*got nan"),
        ([row(0), row(0)], "sample '0', epoch 1, twice"),
        ([old_row(0), old_row(0)], "again for another filter.*before 0.4.7"),
        ([old_row(0, acc=[1.0, 2])], "a metric that is a number, got none"),
    ],
)
def test_broken_samples_are_one_line(tmp_path, rows, line):
    """Which file, which line, what to do."""
    path = write_rows(tmp_path, *rows)

    with pytest.raises(LogError, match=line) as refused:
        read_source(str(path), DEFAULT, tell=print)
    assert str(path) in str(refused.value)


def test_samples_of_an_older_lm_eval_are_read(tmp_path):
    """What is no field of the format is a metric: one is read, of several one is to be chosen."""
    path = write_rows(tmp_path, old_row(0), old_row(1, acc=0.0))

    (log,) = read_source(str(path), DEFAULT, tell=print)

    assert log.score == "acc,none"
    assert [sample.value for sample in log.samples] == [1, 0]
    several = write_rows(tmp_path, old_row(0, acc_norm=0.0), old_row(1, acc_norm=1.0))
    with pytest.raises(ConfigError, match="got 2: acc,none, acc_norm,none; choose with --score"):
        read_source(str(several), DEFAULT, tell=print)


def test_a_sample_without_a_hash_is_known_by_its_document(samples_folder, tmp_path):
    """The hash that lm-eval did not write yet is the one that it writes today."""
    (path,) = samples_folder.glob("samples_sums_generated_*.jsonl")
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    bare = [{key: value for key, value in row.items() if key != "doc_hash"} for row in rows]

    (today,) = read_source(str(path), DEFAULT, tell=print)
    (before,) = read_source(str(write_rows(tmp_path, *bare)), DEFAULT, tell=print)

    assert [s.digest for s in before.samples] == [s.digest for s in today.samples]


def test_samples_without_their_results_are_read_all_the_same(tmp_path):
    """The model is then called after the folder."""
    path = write_rows(tmp_path, row(0), row(1, acc=0.0, filtered_resps=[""]))

    (log,) = read_source(str(path), DEFAULT, tell=print)

    assert (log.model, log.task, log.expected) == (tmp_path.name, "sums", None)
    assert log.samples[1].outcome is Outcome.UNPARSED


def test_a_variant_of_ours_is_known_by_its_own_name(tmp_path):
    """lm-eval draws a name by lot where no `pretrained` is, and another for each evaluation."""
    date = "2026-01-01T00-00-00.000000"
    path = write_rows(tmp_path, row(0), row(1)).rename(tmp_path / f"samples_sums_{date}.jsonl")
    known = {"model_name": "i82qcls7", "config": {"holdback": "m?rung=weight_noise&sigma=0.1"}}
    (tmp_path / f"results_{date}.json").write_text(json.dumps(known))

    (log,) = read_source(str(path), DEFAULT, tell=print)

    assert (log.model, log.task) == ("m?rung=weight_noise&sigma=0.1", "sums")


def test_lm_evals_refusals_in_plain_words_are_told(tmp_path):
    """From what the model said before filters; never where it is scored right."""
    sorry = [["I'm sorry, but I can't help with that."]]
    path = write_rows(
        tmp_path,
        row(0, acc=0.0, resps=sorry, filtered_resps=["[invalid]"]),
        row(1, acc=0.0, filtered_resps=sorry[0]),
        row(2, acc=1.0, resps=sorry, filtered_resps=sorry[0]),
        row(3, acc=0.0, resps=[["ANSWER 9"]], filtered_resps=["9"]),
    )

    (log,) = read_source(str(path), DEFAULT, tell=print)

    assert [str(s.outcome) for s in log.samples] == ["refused", "refused", "correct", "wrong"]


@pytest.mark.parametrize(
    ("make", "line"),
    [
        (lambda folder: folder / "none.eval", "found nothing"),
        (lambda folder: folder, "a folder without any"),
        (lambda folder: folder / "notes.txt", "another kind of file"),
        (lambda folder: folder / "results.json", "another kind of file"),
    ],
)
def test_what_is_no_log_is_named(tmp_path, make, line):
    """And what would have been one."""
    path = Path(make(tmp_path))
    if path.suffix in (".txt", ".json"):
        path.write_text('{"results": {}}')

    with pytest.raises((ConfigError, LogError), match=line):
        read_source(str(path), DEFAULT, tell=print)


def test_a_log_that_failed_before_it_was_scored_says_so(tmp_path):
    """Scoring cannot mend it; running it again can."""
    good = write_eval_log(tmp_path, [RIGHT, WRONG], name="one")

    def fail(log):
        log.status = "error"
        for sample in log.samples:
            sample.scores = None

    rewrite(good, tmp_path / "failed.eval", fail)
    with pytest.raises(LogError, match=r"status 'error'.*eval-retry"):
        read_source(str(tmp_path / "failed.eval"), DEFAULT, tell=print)


def test_a_try_that_came_to_nothing_is_left_out_of_a_folder(tmp_path):
    """It is named, and no obstacle; a folder with nothing else is one."""
    good = write_eval_log(tmp_path, [RIGHT, WRONG], name="one")

    def fail(log):
        log.status = "error"
        log.samples = []

    rewrite(good, tmp_path / "2026-01-01T00-00-00_one_failed.eval", fail)
    told = []

    (log,) = read_source(str(tmp_path), DEFAULT, tell=told.append)

    assert len(log.samples) == 2
    assert len(told) == 1
    assert "one_failed.eval: expected samples, got none (status 'error')" in told[0]
    good.unlink()
    with pytest.raises(LogError, match="got none"):
        read_source(str(tmp_path), DEFAULT, tell=told.append)


def test_a_folder_is_one_log_a_task(tmp_path):
    """Of a task that failed first the one that succeeded; two that did are the reader's choice."""
    write_eval_log(tmp_path, [RIGHT, WRONG], name="one")
    good = write_eval_log(tmp_path, [RIGHT, RIGHT], name="two")

    def fail(log):
        log.status = "error"
        log.samples = log.samples[:1]

    rewrite(good, tmp_path / "2026-01-01T00-00-00_two_failed.eval", fail)

    one, two = read_source(str(tmp_path), DEFAULT, tell=print)

    assert (one.task, two.task, len(two.samples)) == ("one", "two", 2)
    rewrite(good, tmp_path / "2026-01-02T00-00-00_two_again.eval", lambda log: None)
    with pytest.raises(ConfigError, match="one log of task 'two', got 2"):
        read_source(str(tmp_path), DEFAULT, tell=print)
