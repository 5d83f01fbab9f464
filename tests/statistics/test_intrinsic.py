"""Ratings from single moves: planted ratings recovered, throwers found, honest ones left alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from holdback.errors import InsufficientDataError
from holdback.statistics.intrinsic import (
    BINS,
    HonestMoves,
    RatedMoves,
    compare_bands,
    place_in_bins,
    rate_moves,
)

MIDDLES = (np.arange(BINS) + 0.5) / BINS
OPPONENTS = np.array([0.0, 400.0, 800.0, 1200.0, 1600.0])


def expect(elo, level):
    """Loss of an honest player: half as much for 600 Elo more, and never more than there is."""
    return level * 0.5 * 2.0 ** (-elo / 600)


def play(elo, *, games=48, seed=0, throws=False, loses=False, style=0.0):
    """Games of a player of a rating; `style` shifts its moves' rating when ahead, in Elo."""
    rng = np.random.default_rng(seed)
    level, lost, clusters, scores, met = [], [], [], [], []
    for game in range(games):
        opponent = OPPONENTS[game // 2 % len(OPPONENTS)]
        for _ in range(20):
            stands = rng.uniform(0.05, 0.95)
            worth = elo + (style if stands >= 0.65 else 0.0)
            if throws and stands >= 0.65:
                worth = -200.0
            level.append(stands)
            # Most moves lose nothing, some lose much.
            share = min(1.0, 2.5 * expect(worth, stands) / stands)
            lost.append(stands * 0.4 if rng.random() < share else 0.0)
            clusters.append(f"o{game // 2}")
        chance = 0.02 if loses or throws else 1 / (1 + 10 ** ((opponent - elo) / 400))
        scores.append(float(rng.random() < chance))
        met.append(opponent)
    return RatedMoves(
        win_probability=np.array(level),
        lost=np.array(lost),
        clusters=clusters,
        scores=np.array(scores),
        opponents_elo=np.array(met),
        game_clusters=[f"o{game // 2}" for game in range(games)],
    )


@pytest.fixture(scope="module")
def honest():
    """Twenty honest players from 100 to 1,800 Elo, of slightly different styles."""
    rng = np.random.default_rng(5)
    elos = np.linspace(100, 1800, 20)
    rows = []
    for number, elo in enumerate(elos):
        moves = play(elo, games=200, seed=100 + number, style=rng.normal(0, 60))
        places = place_in_bins(moves.win_probability)
        parts = [moves.lost[places == place] for place in range(BINS)]
        rows.append(
            (
                [len(part) for part in parts],
                [part.mean() if len(part) else 0.0 for part in parts],
                [part.std() if len(part) else 0.0 for part in parts],
            )
        )
    count, lost, deviation = (np.array(column, float) for column in zip(*rows, strict=True))
    return HonestMoves(
        names=[f"h{number}" for number in range(20)],
        elo=elos,
        count=count,
        lost=lost,
        deviation=deviation,
        results=elos + rng.normal(0, 60, size=20),
        evaluation_nodes=100,
    )


@pytest.mark.parametrize("elo", [300, 900, 1500])
@pytest.mark.parametrize("band", ["level", "ahead"])
def test_a_players_moves_are_worth_its_rating(honest, elo, band):
    """Over 20 players the mean is right, and intervals hold the truth about as often as said."""
    rated = [rate_moves(play(elo, seed=1000 + seed), honest, band).estimate() for seed in range(20)]

    assert np.mean([estimate.value for estimate in rated]) == pytest.approx(elo, abs=90)
    assert sum(estimate.low <= elo <= estimate.high for estimate in rated) >= 16


def test_honest_players_of_any_strength_are_seldom_accused(honest):
    """At 5%, over 120 honest players with styles of their own: no more than chance brings."""
    rng = np.random.default_rng(9)
    accused = sum(
        compare_bands(
            play(rng.uniform(150, 1700), seed=2000 + seed, style=rng.normal(0, 60)), honest
        ).p_value
        < 0.05
        for seed in range(120)
    )

    # 12 of 120 is what 5% gives less often than once in a hundred times.
    assert accused <= 12


def test_who_plays_worse_when_ahead_is_found(honest):
    found = compare_bands(play(1400, throws=True, seed=3), honest)

    assert found.p_value < 0.001
    assert found.ratings["level"].value > found.ratings["ahead"].value + 800


def test_who_moves_well_and_loses_all_the_same_is_found(honest):
    """Every band alike, but results that such moves do not bring."""
    found = compare_bands(play(1400, loses=True, seed=4), honest)

    assert found.p_value < 0.01
    assert found.pair == ("level", "results")


def test_a_weak_honest_player_is_alike_in_every_band(honest):
    found = compare_bands(play(200, seed=5), honest)

    assert found.p_value > 0.05
    assert found.ratings["ahead"].value == pytest.approx(found.ratings["level"].value, abs=300)


def test_too_few_moves_are_said(honest):
    few = play(800, games=1, seed=6)
    alone = replace(few, scores=np.array([]), opponents_elo=np.array([]), game_clusters=[])

    with pytest.raises(InsufficientDataError, match="25 moves in each of two bands"):
        compare_bands(alone, honest)
