"""Ratings: published figures, planted ratings recovered, coverage, infinite ratings."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdback.errors import InsufficientDataError
from holdback.statistics.elo import (
    expected_score,
    fit_ratings,
    rate_player,
)

games = st.lists(st.sampled_from([0.0, 0.5, 1.0]), min_size=4, max_size=40)


def pairs(n):
    return [str(i // 2) for i in range(n)]


def play(rng, difference_elo, draw_parameter, size):
    """Results drawn from Davidson's model, written down anew here."""
    g = 10 ** (np.asarray(difference_elo) / 800)
    total = g + 1 / g + draw_parameter
    u = rng.random(size)
    return np.where(u < g / total, 1.0, np.where(u < (g + draw_parameter) / total, 0.5, 0.0))


def elo_of(score):
    """The inverse of Elo's curve, written down anew here."""
    return 400 * math.log10(score / (1 - score))


@pytest.mark.parametrize(("score", "elo"), [(0.5, 0), (0.64, 100), (0.76, 200), (10 / 11, 400)])
def test_expected_scores_are_published_ones(score, elo):
    """Elo's curve: 64% is 100 Elo, 76% is 200, ten points of eleven are 400."""
    assert expected_score(elo) == pytest.approx(score, abs=0.002)
    assert expected_score(-20_000) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(("wins", "elo"), [(64, 100), (76, 200), (91, 402)])
def test_match_rating_is_the_score_s(wins, elo):
    """Against one opponent, without draws, maximum likelihood is the inverse curve, to ±1."""
    scores = [1.0] * wins + [0.0] * (100 - wins)

    assert rate_player(scores, [1500.0] * 100, pairs(100)).value == pytest.approx(1500 + elo, abs=1)


def test_interval_of_an_even_match_is_681_over_root_n():
    """The interval of 400 decisive games at even score has the published half-width."""
    scores = np.random.default_rng(0).permutation([0.0, 1.0] * 200)

    estimate = rate_player(scores, [1500.0] * 400, [str(i) for i in range(400)]).estimate()

    assert (estimate.high - estimate.low) / 2 == pytest.approx(681 / 20, abs=0.5)


def test_interval_is_the_pentanomial_one():
    """The rating's error is the pair variance over the curve's slope (Fishtest)."""
    pair_scores = np.repeat([0, 0.25, 0.5, 0.75, 1], [20, 60, 150, 60, 10])
    scores = np.column_stack([np.minimum(1, 2 * pair_scores), np.maximum(0, 2 * pair_scores - 1)])
    average = pair_scores.mean()
    variance = ((pair_scores - average) ** 2).sum() / 299 / 300
    slope = average * (1 - average) * math.log(10) / 400

    rating = rate_player(scores.ravel(), [1500.0] * 600, pairs(600))

    assert rating.value == pytest.approx(1500 + elo_of(average), abs=0.01)
    assert rating.standard_error == pytest.approx(math.sqrt(variance) / slope, rel=1e-6)


@given(games, st.floats(0, 3))
@settings(max_examples=60)
def test_points_won_equal_points_expected(scores, draw_parameter):
    """The likelihood's own equation, at every ν and against a mixed ladder."""
    opponents = 1000 + 100.0 * np.arange(len(scores))
    rating = rate_player(scores, opponents, pairs(len(scores)), draw_parameter=draw_parameter)
    if math.isinf(rating.value):
        assert set(scores) in ({0.0}, {1.0})
        return
    expected = [
        expected_score(rating.value - elo, draw_parameter=draw_parameter) for elo in opponents
    ]

    assert sum(expected) == pytest.approx(sum(scores), abs=1e-5)


@given(games, st.sampled_from([0.0, 0.7, None]))
@settings(max_examples=60)
def test_swapping_sides_negates_the_rating(scores, draw_parameter):
    """Seen from the other side of the board, rating, bound and interval are mirrored."""
    scores, opponents = np.array(scores), np.linspace(-300, 300, len(scores))
    one = rate_player(scores, opponents, pairs(len(scores)), draw_parameter=draw_parameter)
    two = rate_player(1 - scores, -opponents, pairs(len(scores)), draw_parameter=draw_parameter)

    assert one.value == pytest.approx(-two.value, abs=1e-4)
    assert one.estimate().low == pytest.approx(-two.estimate().high, rel=1e-4, abs=1e-3)


@given(games, st.randoms(use_true_random=False))
@settings(max_examples=60)
def test_order_of_games_does_not_matter(scores, random):
    """Games may be recorded in any order."""
    rows = list(zip(scores, np.linspace(0, 900, len(scores)), pairs(len(scores)), strict=True))
    one = rate_player(*zip(*rows, strict=True))
    two = rate_player(*zip(*random.sample(rows, len(rows)), strict=True))

    assert one.value == pytest.approx(two.value, abs=1e-6)
    assert dict(one.influence) == pytest.approx(dict(two.influence), abs=1e-6)


@pytest.mark.parametrize("n", [10, 60])
def test_all_lost_has_the_exact_one_sided_bound(n):
    """At the bound, losing everything has probability 5%: score 1 - 0.05^(1/N)."""
    exact = 1500 + elo_of(1 - 0.05 ** (1 / n))
    single = [str(i) for i in range(n)]

    lost = rate_player([0.0] * n, [1500.0] * n, single)
    won = rate_player([1.0] * n, [1500.0] * n, single)

    assert (lost.value, won.value) == (-math.inf, math.inf)
    assert lost.bound == pytest.approx(exact, abs=1e-6)
    assert won.bound == pytest.approx(3000 - exact, abs=1e-6)
    assert (lost.estimate().low, lost.estimate().high) == (-math.inf, lost.bound)


def test_bound_counts_opening_pairs_once():
    """Two games of one opening may be one game played twice: the bound is that of half as many."""
    paired = rate_player([0.0] * 40, [1500.0] * 40, pairs(40))
    single = rate_player([0.0] * 20, [1500.0] * 20, [str(i) for i in range(20)])

    assert paired.bound == pytest.approx(single.bound)


@pytest.mark.parametrize("draw_parameter", [0.0, 1.0, None])
def test_all_drawn_is_finite_and_uncertain(draw_parameter):
    """All drawn is the opponent's rating, with an interval that is not a point."""
    drawn = rate_player([0.5] * 40, [1500.0] * 40, pairs(40), draw_parameter=draw_parameter)

    assert drawn.value == pytest.approx(1500, abs=1e-6)
    assert drawn.standard_error > 10


def test_pairs_that_all_split_are_not_certain():
    """White always wins: every pair is 1-1, without spread, and the interval still has width."""
    rating = rate_player([1.0, 0.0] * 30, [1500.0] * 60, pairs(60)).estimate()

    assert rating.value == pytest.approx(1500, abs=1e-6)
    assert 20 < rating.high - 1500 < 100


@pytest.mark.parametrize(("n", "draw_parameter", "draws"), [(60, 1.0, 10_000), (100, 0.0, 4_000)])
def test_coverage_of_ratings(n, draw_parameter, draws):
    """Nominal 95% covers 94 to 96% of matches of 30 or 50 opening pairs against a mixed ladder."""
    rng = np.random.default_rng(n)
    opponents = np.tile([-150.0, -150.0, 0.0, 0.0, 150.0, 150.0, 60.0, 60.0], n)[:n]
    scores = play(rng, 20.0 - opponents, draw_parameter, (draws, n))
    clusters, hits = pairs(n), 0
    for row in scores:
        measured = rate_player(row, opponents, clusters, draw_parameter=draw_parameter)
        estimate = measured.estimate()
        hits += estimate.low <= 20.0 <= estimate.high

    assert 0.94 <= hits / draws <= 0.96


def test_coverage_with_openings_that_decide():
    """Half of the openings are won by one side whoever plays it: pairs keep the coverage."""
    rng = np.random.default_rng(5)
    scores = play(rng, 0.0, 0.5, (2000, 30, 2))
    decided = rng.random((2000, 30)) < 0.5
    same = np.where(rng.random((2000, 30)) < 0.5, 1.0, 0.0)
    scores[decided] = same[decided][:, None]
    hits = 0
    for row in scores:
        estimate = rate_player(row.ravel(), [0.0] * 60, pairs(60)).estimate()
        hits += estimate.low <= 0.0 <= estimate.high

    assert 0.94 <= hits / 2000 <= 0.965


def tournament(rng, truth, draw_parameter, rounds):
    names = sorted(truth)
    meetings = [(a, b) for i, a in enumerate(names) for b in names[i + 1 :]] * rounds
    difference = np.array([truth[a] - truth[b] for a, b in meetings])
    scores = play(rng, difference, draw_parameter, len(meetings))
    first, second = zip(*meetings, strict=True)
    return first, second, scores, [str(i) for i in range(len(meetings))]


def test_round_robin_recovers_planted_ratings_and_draws():
    """Ratings planted over 1,000 Elo come back, relative to the anchor, and so does ν."""
    truth = {"random": 300.0, "weak": 700.0, "middle": 1000.0, "uci": 1320.0}

    fit = fit_ratings(
        *tournament(np.random.default_rng(0), truth, 0.8, 1500), anchor="uci", anchor_elo=1320.0
    )

    assert fit.draw_parameter == pytest.approx(0.8, abs=0.07)
    for name, elo in truth.items():
        assert fit.elo[name].value == pytest.approx(elo, abs=30)
    assert fit.elo["uci"].low == fit.elo["uci"].high == 1320.0
    assert "uci" not in fit.measurements


def test_round_robin_intervals_cover():
    """Over 400 tournaments of 40 rounds, each rating's 95% interval covers 92.5 to 97.5%."""
    truth = {"a": 1000.0, "b": 1150.0, "c": 1320.0}
    rng = np.random.default_rng(1)
    hits = []
    for _ in range(400):
        fit = fit_ratings(*tournament(rng, truth, 0.5, 40), anchor="c", anchor_elo=1320.0)
        hits.append([fit.elo[name].low <= truth[name] <= fit.elo[name].high for name in "ab"])

    assert np.all(np.abs(np.mean(hits, axis=0) - 0.95) < 0.025)


def test_two_players_agree_with_a_match():
    """A round robin of two is a match against an opponent of fixed rating."""
    scores = [1.0] * 13 + [0.5] * 4 + [0.0] * 7
    match = rate_player(scores, [1500.0] * 24, pairs(24), draw_parameter=None)

    fit = fit_ratings(["a"] * 24, ["b"] * 24, scores, pairs(24), anchor="b", anchor_elo=1500.0)

    assert fit.measurements["a"].value == pytest.approx(match.value)
    assert fit.measurements["a"].standard_error == pytest.approx(match.standard_error)


def test_unlinked_players_are_named():
    """Who took no point off the others has no finite rating; the message says who."""
    first, second = ["a", "a", "b", "b"] * 3, ["b", "c", "c", "a"] * 3
    scores = [1.0, 1.0, 1.0, 1.0] * 3

    with pytest.raises(InsufficientDataError, match="no finite ratings: c "):
        fit_ratings(first, second, scores, ["x"] * 12, anchor="a", anchor_elo=0.0)
    with pytest.raises(ValueError, match="anchor 'z' played no game"):
        fit_ratings(first, second, scores, ["x"] * 12, anchor="z", anchor_elo=0.0)


def test_says_what_is_wrong():
    """Scores that are no results, no games at all."""
    with pytest.raises(ValueError, match=r"got 0\.3 at index 1"):
        rate_player([1, 0.3], [0.0, 0.0], ["a", "b"])
    with pytest.raises(InsufficientDataError, match="at least 1 game"):
        rate_player([], [], [])
