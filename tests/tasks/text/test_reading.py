"""Files of questions are read as they are, and what cannot be asked is refused with its line."""

from __future__ import annotations

import csv
import json

import pyarrow
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from holdback.errors import ConfigError
from holdback.tasks.task import Split
from holdback.tasks.text.items import Columns, draw_splits, make_items
from holdback.tasks.text.reading import Row, read_rows

SHARES = {Split.TRAIN: 0.2, Split.SELECT: 0.3, Split.TEST: 0.5}
COLUMNS = Columns(question="question", target="answer", choices="choices")


def items(rows, columns=COLUMNS):
    cells = [Row(where=f"line {i}", cells=row) for i, row in enumerate(rows, 1)]
    return make_items(cells, columns, shares=SHARES, split_seed=0)


def test_the_same_questions_from_every_kind_of_file(tmp_path):
    """JSONL, CSV, TSV and Parquet give the same items: spacing, quotes, umlauts and all."""
    rows = [
        {"question": 'Who said "ü", and\nwhen?', "answer": "2", "choices": ["a, b", "c", "d"]},
        {"question": "One?", "answer": "c", "choices": ["c", "1.0"]},
    ]
    (tmp_path / "q.jsonl").write_text("\n".join(json.dumps(row) for row in rows), "utf-8")
    for suffix, delimiter in ((".csv", ","), (".tsv", "\t")):
        with (tmp_path / f"q{suffix}").open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]), delimiter=delimiter)
            writer.writeheader()
            writer.writerows({**row, "choices": json.dumps(row["choices"])} for row in rows)
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "q.parquet")

    read = {
        suffix: make_items(read_rows(tmp_path / f"q{suffix}"), COLUMNS, shares=SHARES, split_seed=0)
        for suffix in (".jsonl", ".csv", ".tsv", ".parquet")
    }

    found = {
        suffix: [(i.question, i.choices, i.targets, i.split) for i in part]
        for suffix, part in read.items()
    }
    assert found[".jsonl"] == found[".csv"] == found[".tsv"] == found[".parquet"]
    assert [part[2] for part in found[".jsonl"]] == [("d",), ("c",)]


@pytest.mark.parametrize(
    ("target", "right"),
    [("b", "b"), ("B", "b"), (1, "b"), ("1", "b"), (1.0, "b"), ("3", "3"), (3, "3")],
)
def test_a_target_is_a_choice_its_letter_or_its_index(target, right):
    """Its text first, so that a choice «3» is no index."""
    found = items([{"question": "q", "answer": target, "choices": ["a", "b", "c", "3"]}])

    assert found[0].targets == (right,)


def test_one_column_a_choice():
    """Columns may hold a choice each; an empty last one is a question with fewer."""
    columns = Columns(question="q", target="t", choices=("a", "b", "c"))
    found = items([{"q": "?", "t": "B", "a": "x", "b": "y", "c": None}], columns)

    assert found[0].choices == ("x", "y")
    assert found[0].targets == ("y",)


GOOD = {"question": "q", "answer": "a", "choices": ["a", "b"]}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"question": "q", "answer": "a"}], "expected a column 'choices', found 'question'"),
        ([{**GOOD, "choices": ["a"]}], r"line 1: expected 2 to 26 choices, got 1"),
        ([{**GOOD, "choices": "a"}], "expected a list"),
        ([{**GOOD, "choices": ["a", "a"]}], "choices that differ"),
        ([{**GOOD, "choices": ["a", None, "b"]}], "text in every choice"),
        ([{**GOOD, "answer": "z"}], "target among the choices"),
        ([{**GOOD, "answer": "2"}], "target among the choices"),
        ([GOOD, {**GOOD, "question": None}], "line 2: expected text in column 'question'"),
        ([{**GOOD, "question": "  "}], "expected text"),
        ([{**GOOD, "answer": None}], "expected text"),
    ],
)
def test_a_question_that_cannot_be_asked_is_refused(rows, message):
    """With its line, what was expected and what came."""
    with pytest.raises(ConfigError, match=message):
        items(rows)


def test_difficulty_is_a_number():
    """It may be written as text, as CSV does; a word has no order and is refused."""
    columns = Columns(target="answer", choices="choices", difficulty="hops")

    assert items([{**GOOD, "hops": "3"}], columns)[0].level == 3.0
    assert items([GOOD])[0].level is None
    with pytest.raises(ConfigError, match="expected a number in column 'hops', got 'hard'"):
        items([{**GOOD, "hops": "hard"}], columns)
    with pytest.raises(ConfigError, match="expected a column 'hops'"):
        items([GOOD], columns)


def test_ids_must_differ_and_splits_must_be_known():
    """Both lines of an id are named; a split of another name is not guessed."""
    ids = Columns(question="question", target="answer", choices="choices", id="id")
    with pytest.raises(ConfigError, match=r"line 2: .*'x', which is that of line 1"):
        items([{**GOOD, "id": "x"}, {**GOOD, "id": "x"}], ids)

    splits = Columns(question="question", target="answer", choices="choices", split="split")
    assert items([{**GOOD, "split": "select"}], splits)[0].split is Split.SELECT
    with pytest.raises(ConfigError, match="expected train, select or test"):
        items([{**GOOD, "split": "validation"}], splits)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("q.jsonl", '{"a": 1}\n{"a": \n', "line 2: expected one JSON object"),
        ("q.jsonl", '{"a": NaN}\n', "line 1: .*NaN is no JSON"),
        ("q.jsonl", "[1]\n", "got list"),
        ("q.jsonl", "\n\n", "got an empty file"),
        ("q.csv", "a,b\n", "got an empty file"),
        ("q.csv", "a,b\n1,2\n1,2,3\n", "line 3: expected 2 cells"),
        ("q.csv", 'a,b\n1,"2\n', "expected CSV, got unexpected end"),
        ("q.parquet", "PAR1", "expected a Parquet file"),
        ("q.xlsx", "", "expected a file of questions as"),
    ],
)
def test_a_broken_file_is_refused_with_its_line(tmp_path, name, text, message):
    """One line, and not a traceback."""
    path = tmp_path / name
    path.write_text(text, "utf-8")

    with pytest.raises(ConfigError, match=message):
        read_rows(path)


def test_a_missing_file_and_one_of_another_encoding(tmp_path):
    """Both say which file."""
    with pytest.raises(ConfigError, match="found none"):
        read_rows(tmp_path / "none.jsonl")
    (tmp_path / "latin.csv").write_bytes("a,b\nü,1\n".encode("latin-1"))
    with pytest.raises(ConfigError, match="expected UTF-8"):
        read_rows(tmp_path / "latin.csv")


def test_nan_in_parquet_is_a_missing_cell(tmp_path):
    """Data frames write NaN where there is nothing; nothing is no target."""
    table = pyarrow.table({"question": ["q"], "answer": [float("nan")]})
    parquet.write_table(table, tmp_path / "q.parquet")
    columns = Columns(question="question", target="answer")

    with pytest.raises(ConfigError, match="row 1: expected text in column 'answer', got None"):
        make_items(read_rows(tmp_path / "q.parquet"), columns, shares=SHARES, split_seed=0)


@given(st.integers(0, 60), st.integers(0, 2**31))
def test_shares_are_met_to_within_one_cluster(n, seed):
    """Every cluster is in one split, and none of the splits is off by more than one."""
    names = [f"c{i}" for i in range(n)]

    drawn = draw_splits(names, shares=SHARES, seed=seed)

    assert sorted(drawn) == sorted(names)
    for split, share in SHARES.items():
        assert abs(list(drawn.values()).count(split) - share * n) <= 1
