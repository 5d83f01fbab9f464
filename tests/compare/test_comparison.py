"""Pairing logs and comparing them: planted differences, samples that differ, what adds up."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdback.compare.comparison import Source, compare_sources
from holdback.compare.logs import LoggedSample, TaskLog
from holdback.compare.pairing import pair_logs
from holdback.errors import ConfigError, InsufficientDataError, LogError
from holdback.tasks.task import Outcome


def sample(index, value, *, epoch=1, outcome=None, cluster=None, **fields):
    if outcome is None:
        outcome = Outcome.CORRECT if value else Outcome.WRONG
    given = {
        "sample_id": f"q{index}",
        "epoch": epoch,
        "cluster": cluster or f"q{index}",
        "value": None if value is None else float(value),
        "outcome": outcome,
        "answer": "7",
        "target": "8",
        "question": f"What is {index}?",
        "digest": f"d{index}",
    }
    return LoggedSample(**{**given, **fields})


def log(values, *, name="a", task="sums", **fields):
    samples = tuple(
        value if isinstance(value, LoggedSample) else sample(index, value)
        for index, value in enumerate(values)
    )
    return TaskLog(
        task=task, model=name, source=f"{name}.eval", score="match", samples=samples, **fields
    )


def compare(*logs, **options):
    sources = [Source(name=one.model, logs=(one,)) for one in logs]
    return compare_sources(sources, **options).comparisons


def test_a_planted_difference_is_recovered():
    """30 of 200 answers lost and 10 gained: −10 points, its p, its flips and its verdict."""
    ours = [1] * 120 + [0] * 80
    theirs = [0] * 30 + [1] * 90 + [1] * 10 + [0] * 70

    (found,) = compare(log(ours), log(theirs, name="b"), margin=0.02)

    assert found.difference.value == pytest.approx(-0.1)
    assert found.difference.low < -0.1 < found.difference.high < 0
    assert (found.gained, found.lost) == (10, 30)
    assert found.p_value == pytest.approx(0.0022, abs=1e-4)
    assert found.test == "exact McNemar"
    assert found.verdict == "lower"
    assert found.first_score.value == pytest.approx(0.6)


def test_points_are_compared_as_shares_are():
    """0 and 100 are as all or nothing as 0 and 1: the same test, everything else a hundredfold."""
    for ours, theirs in (
        ([1] * 12 + [0] * 8, [0] * 9 + [1] * 6 + [0] * 5),
        ([1] * 20, [1] * 20),
        ([1] * 12, [0] * 12),
    ):
        (shares,) = compare(log(ours), log(theirs, name="b"))
        up = [[100 * value for value in side] for side in (ours, theirs)]
        (points,) = compare(log(up[0]), log(up[1], name="b"))
        if not any(up[1]):
            assert points.difference.low >= -100
            assert points.equivalent_within <= 100
        assert points.test == shares.test == "exact McNemar"
        assert points.p_value == pytest.approx(shares.p_value)
        assert points.detectable == pytest.approx(100 * shares.detectable)
        assert points.difference.low == pytest.approx(100 * shares.difference.low)
        assert points.equivalent_within == pytest.approx(100 * shares.equivalent_within)


def test_pairs_too_few_for_the_exact_test_detect_nothing():
    """Of five pairs no difference gives p < 0.05, six are enough for nearly all."""
    (none,) = compare(log([1] * 5), log([1] * 5, name="b"))
    (some,) = compare(log([1] * 6), log([1] * 6, name="b"))

    assert none.detectable is None
    assert none.to_dict(examples=0)["detectable_difference"] is None
    assert 0.9 < some.detectable <= 1


def test_a_task_of_one_sample_is_left_out_and_named():
    """The folder's other tasks are compared; where there is no other, the error names the task."""
    ours = [log([1] * 8 + [0] * 8, task="large"), log([1], task="tiny")]
    theirs = [replace(one, model="b") for one in ours]

    report = compare_sources(
        [Source(name="a", logs=tuple(ours)), Source(name="b", logs=tuple(theirs))]
    )

    assert [found.task for found in report.comparisons] == ["large"]
    assert any("task 'tiny' of 'b' is left out: need at least 2" in note for note in report.notes)
    with pytest.raises(InsufficientDataError, match="task 'tiny'"):
        compare(ours[1], theirs[1])


def test_nothing_is_found_where_nothing_is():
    """Of 120 pairs of logs of one model 5% differ by their own p; of 8 families of 15, few."""
    rng = np.random.default_rng(0)
    found, families = [], []
    for _ in range(8):
        logs_a, logs_b = [], []
        for task in range(15):
            ability = rng.random(60)
            ours, theirs = rng.random((2, 60)) < ability
            logs_a.append(log(ours, task=f"t{task}"))
            logs_b.append(log(theirs, name="b", task=f"t{task}"))
        report = compare_sources(
            [Source(name="a", logs=tuple(logs_a)), Source(name="b", logs=tuple(logs_b))]
        )
        found += [one.p_value < 0.05 for one in report.comparisons]
        families.append(any(one.p_adjusted < 0.05 for one in report.comparisons))

    assert np.mean(found) < 0.05 + 2 * np.sqrt(0.05 * 0.95 / len(found))
    assert sum(families) <= 1


def test_equal_models_are_equivalent_and_few_samples_undecided():
    """Equivalence needs samples; want of significance is none."""
    ours = np.arange(2000) % 5 < 3
    theirs = ours.copy()
    theirs[:40] = ~theirs[:40]
    theirs[:40:5], theirs[40:48] = ours[:40:5], ~ours[40:48]

    (many,) = compare(log(ours), log(theirs, name="b"), margin=0.03)
    (few,) = compare(log(ours[:40]), log(theirs[:40], name="b"), margin=0.03)

    assert many.verdict == "equivalent"
    assert many.equivalent_within < 0.03
    assert few.verdict == "undecided"
    assert few.equivalent_within > 0.03


outcomes = st.sampled_from([Outcome.WRONG, Outcome.REFUSED, Outcome.UNPARSED, Outcome.TRUNCATED])
scored = st.one_of(st.just((1.0, Outcome.CORRECT)), outcomes.map(lambda outcome: (0.0, outcome)))
graded = st.tuples(st.floats(0, 0.99), outcomes)
sides = st.lists(st.tuples(scored | graded, scored | graded), min_size=3, max_size=30)


@settings(max_examples=80, deadline=None)
@given(sides)
def test_what_the_difference_is_made_of_adds_up_to_it(pairs):
    """Refused, unparsed, truncated and wrong answers together are the whole difference."""
    ours = [sample(i, a[0], outcome=a[1]) for i, (a, _) in enumerate(pairs)]
    theirs = [sample(i, b[0], outcome=b[1]) for i, (_, b) in enumerate(pairs)]

    (found,) = compare(log(ours), log(theirs, name="b"))

    total = sum(route.difference for route in found.routes.values())
    assert total == pytest.approx(found.difference.value, abs=1e-12)


def test_each_loss_goes_to_what_the_worse_answer_was():
    """B refuses 5 and cuts 3 short of what A got right; A was unparsed on 2 that B got right."""
    ours = [sample(i, 1) for i in range(10)]
    ours += [sample(i, 0, outcome=Outcome.UNPARSED) for i in range(10, 12)]
    theirs = [sample(i, 0, outcome=Outcome.REFUSED) for i in range(5)]
    theirs += [sample(i, 0, outcome=Outcome.TRUNCATED) for i in range(5, 8)]
    theirs += [sample(i, 1) for i in range(8, 12)]

    (found,) = compare(log(ours), log(theirs, name="b"))

    told = {name: (route.gained, route.lost) for name, route in found.routes.items()}
    assert told == {"refused": (0, 5), "truncated": (0, 3), "unparsed": (2, 0)}
    assert found.routes["refused"].difference == pytest.approx(-5 / 12)


def test_epochs_of_one_sample_are_one_cluster():
    """Ten epochs of ten samples that always agree are ten clusters, not a hundred."""
    ours = [sample(i, i % 2, epoch=e) for i in range(10) for e in range(1, 11)]
    theirs = [sample(i, i < 2, epoch=e) for i in range(10) for e in range(1, 11)]

    (found,) = compare(log(ours), log(theirs, name="b"))

    assert found.pairing.paired_by == "sample and epoch"
    assert (found.difference.n, found.difference.n_clusters) == (100, 10)
    # 4 of 10 questions lost in every epoch and 1 gained: 6 of 32 sign patterns on each side.
    assert found.p_value == pytest.approx(12 / 32)
    assert "by cluster" in found.test


def test_different_numbers_of_epochs_are_paired_by_means():
    """One answer against the mean of three; half a point each where they differ."""
    ours = [sample(i, 1) for i in range(6)]
    theirs = [sample(i, e > 1, epoch=e) for i in range(6) for e in (1, 2, 3, 4)]

    (found,) = compare(log(ours), log(theirs, name="b"))

    assert found.pairing.paired_by == "sample, means over epochs"
    assert found.difference.value == pytest.approx(-0.25)
    assert found.difference.n == 6
    assert found.test == "clustered t"
    assert found.routes["wrong"].difference == pytest.approx(-0.25)


def test_logs_with_other_samples_are_refused_and_it_is_said_how():
    """Counts and the names of each kind; the status of a log that was cancelled."""
    ours = log([1] * 6, expected=6)
    theirs = log(
        [
            sample(0, 1, digest="other"),
            sample(1, 1, target="9"),
            sample(2, 1),
            sample(7, 1),
        ],
        name="b",
        expected=6,
        status="cancelled",
    )

    with pytest.raises(LogError) as refused:
        pair_logs(ours, theirs)

    assert "3 only in the first ('q3', 'q4', 'q5')" in str(refused.value)
    assert "1 only in the other ('q7')" in str(refused.value)
    assert "1 with another input ('q0')" in str(refused.value)
    assert "1 with another target ('q1')" in str(refused.value)
    assert "4 of 6 samples, status 'cancelled'" in str(refused.value)
    assert "--common" in str(refused.value)


def test_common_compares_what_is_the_same_and_says_what_was_dropped():
    """Of 6 and 4 samples 2 and 2 are kept: 60% dropped."""
    ours = log([1, 1, 1, 0, 1, 1])
    theirs = log([0, 1, sample(2, 1, digest="other"), sample(9, 1)], name="b")

    (found,) = compare(ours, theirs, common=True)

    assert found.difference.n == 2
    assert found.pairing.dropped == 6
    assert found.pairing.dropped_share == pytest.approx(0.6)
    assert any("60.0%" in note for note in found.notes)


def test_logs_that_share_nothing_cannot_be_compared():
    """Not even with `common`."""
    theirs = log([sample(i, 1, digest="x") for i in range(3)], name="b")

    with pytest.raises(LogError, match=r"3 with another input.*share none"):
        pair_logs(log([1, 1, 1]), theirs, common=True)


def test_a_sample_with_fewer_epochs_is_refused():
    """A mean over fewer epochs would hide that some are missing."""
    whole = [sample(i, 1, epoch=e) for i in range(4) for e in (1, 2)]

    with pytest.raises(LogError, match=r"1 with fewer epochs than the others .'q3'"):
        pair_logs(log(whole), log(whole[:-1], name="b"))
    shared = pair_logs(log(whole), log(whole[:-1], name="b"), common=True)
    assert len(shared.pairs) == 7


def test_pairs_without_a_score_are_left_out_and_counted():
    """An errored sample is no wrong answer."""
    theirs = [1, 0, sample(2, None, outcome=Outcome.ERRORED), 1]

    (found,) = compare(log([1, 1, 1, 1]), log(theirs, name="b"))

    assert found.difference.n == 3
    assert found.pairing.left_out == {"errored in the other": 1}
    assert "1 pairs left out: errored in the other" in found.notes


def test_one_cluster_has_no_interval():
    """All samples of one question say nothing of others."""
    ours = [sample(i, 1, cluster="same") for i in range(5)]

    with pytest.raises(InsufficientDataError, match="2 clusters"):
        compare(log(ours), log([1] * 5, name="b"))


def test_several_models_are_corrected_together():
    """Two against the first are two tests: Holm doubles the smaller p."""
    theirs = [0] * 8 + [1] * 32

    b, c = compare(log([1] * 40), log(theirs, name="b"), log([1] * 40, name="c"))

    assert b.p_adjusted == pytest.approx(2 * b.p_value)
    assert (b.other, c.other) == ("b", "c")
    assert c.p_adjusted == 1


def test_tasks_are_matched_by_name_or_by_being_alone():
    """A task of one log only is named; two single tasks are one, their samples being the same."""
    a, b = log([1, 0, 1]), log([1, 1, 1], name="b")
    more = Source(name="b", logs=(b, replace(b, task="other")))

    both = compare_sources([Source(name="a", logs=(a,)), more])
    renamed = compare(a, replace(b, task="inspect_evals/sums"))

    assert both.notes == ("only b has: other; not compared",)
    assert renamed[0].difference.n == 3
    with pytest.raises(ConfigError, match="a task that 'a' and 'b' both have"):
        compare_sources(
            [Source(name="a", logs=(a,)), replace(more, logs=(more.logs[1], replace(b, task="z")))]
        )


def test_other_scores_are_not_compared():
    """Accuracy against a grade is no difference."""
    with pytest.raises(ConfigError, match=r"'match' and 'grade'.*--score"):
        pair_logs(log([1, 0]), replace(log([1, 0], name="b"), score="grade"))


@pytest.mark.parametrize("option", [{"margin": 0.0}, {"margin": -1.0}, {"level": 1.0}])
def test_impossible_options_are_refused(option):
    """A margin of nothing, or certainty."""
    with pytest.raises(ConfigError, match=r"--(margin|level)"):
        compare(log([1, 0]), log([1, 0], name="b"), **option)


def test_a_margin_in_points_is_not_taken_for_one_in_shares():
    """±5 of a score from 0 to 1 would hold everything for equivalent; 0.05 is five points."""
    with pytest.raises(ConfigError, match=r"from 0 to 1, got 5, .* 5 points are 0\.05"):
        compare(log([1, 0, 1, 1] * 9), log([1, 0, 0, 1] * 9, name="b"), margin=5)


def test_a_log_given_twice_is_said_to_be():
    """Nothing can differ there, and that is no finding."""
    (found,) = compare(log([1, 0, 1, 1] * 9), log([1, 0, 1, 1] * 9, name="b"))

    assert any("given twice" in note for note in found.notes)
