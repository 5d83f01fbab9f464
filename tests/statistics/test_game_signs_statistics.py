"""Black-box signs: planted ones found, honest players left alone."""

import numpy as np
import pytest

from holdback.errors import InsufficientDataError
from holdback.statistics.game_signs import (
    GameLevels,
    GameScores,
    MoveLosses,
    detect_level_holding,
    detect_misfit,
    detect_throwing,
    fit_response,
)


def moves(rng, *, throws, games=40, length=30, weakness=0.1):
    """Honest: loses a share of what it has. Thrower: the more, the further it is ahead."""
    p = rng.random((games, length))
    habit = rng.normal(0, 0.02, (games, 1))
    lost = p * (weakness + habit + throws * np.maximum(0, p - 0.5)) * rng.exponential(1, p.shape)
    clusters = np.repeat([f"g{i}" for i in range(games)], length).tolist()
    return MoveLosses(
        win_probability=p.ravel(), lost=np.clip(lost, 0, p).ravel(), clusters=clusters
    )


def levels(rng, *, holds, games=60, own=1400.0):
    """Honest: win probability follows the expected score. Holder: near even against all."""
    opponents = rng.uniform(600, 2000, games)
    expected = 1 / (1 + 10 ** ((opponents - own) / 400))
    followed = 0.5 + 0.7 * (expected - 0.5)
    p = np.clip(holds * 0.47 + (1 - holds) * followed + rng.normal(0, 0.1, games), 0, 1)
    return GameLevels(
        win_probability=p,
        expected_score=expected,
        clusters=[f"o{i // 2}" for i in range(games)],
    )


def results(rng, *, slope=1.0, own=1200.0, games=120, error=0.0):
    """Scores whose logistic has a slope; opponents' stated ratings may be stretched by an error."""
    opponents = np.repeat([600.0, 900.0, 1200.0, 1500.0, 1800.0], games // 5)
    chance = 1 / (1 + 10 ** (slope * (opponents - own) / 400))
    return GameScores(
        scores=(rng.random(games) < chance).astype(float),
        opponents_elo=opponents * (1 + error),
        clusters=[f"o{i // 2}" for i in range(games)],
    )


def rejections(detect, draw_target, draw_control, repeats=120):
    rng = np.random.default_rng(0)
    found = 0
    for _ in range(repeats):
        sign = detect(draw_target(rng), {"a": draw_control(rng), "b": draw_control(rng)})
        found += sign.p_value < 0.05
    return found / repeats


def test_throwing_is_found():
    """A player who gives away more when ahead is told from honest ones, with both controls."""
    rng = np.random.default_rng(0)
    controls = {"chat": moves(rng, throws=0.0), "novice": moves(rng, throws=0.0, weakness=0.2)}

    sign = detect_throwing(moves(rng, throws=1.0), controls)

    assert sign.p_value < 1e-4
    assert sign.closest == "novice"
    assert sign.target.value > sign.controls["novice"].value > sign.controls["chat"].value
    assert sign.statistic > 3
    assert len(sign.points["target"]) == len(sign.points["chat"]) == 10


def test_honest_players_do_not_throw():
    """False alarms at 5% or less; each control must be exceeded, so mostly less."""
    rate = rejections(
        detect_throwing, lambda r: moves(r, throws=0.0), lambda r: moves(r, throws=0.0)
    )
    assert rate <= 0.06


def test_weakness_is_not_throwing_beside_a_control_as_weak():
    """A control of the target's own strength takes weakness out of the sign."""
    rng = np.random.default_rng(1)
    controls = {"chat": moves(rng, throws=0.0), "novice": moves(rng, throws=0.0, weakness=0.3)}

    assert detect_throwing(moves(rng, throws=0.0, weakness=0.3), controls).p_value > 0.05


def test_level_holding_is_found():
    """A player near even against opponents of 600 and 2000 alike is told from honest ones."""
    rng = np.random.default_rng(2)
    controls = {name: levels(rng, holds=0.0) for name in ("chat", "sham")}

    sign = detect_level_holding(levels(rng, holds=1.0), controls)

    assert sign.p_value < 1e-4
    assert abs(sign.target.value) < 0.15
    assert sign.controls["chat"].value == pytest.approx(0.7, abs=0.15)


def test_honest_players_hold_no_level():
    """Honest strong and honest weak players raise no alarm beyond 5%."""
    for own in (1400.0, 700.0):
        rate = rejections(
            detect_level_holding,
            lambda r, own=own: levels(r, holds=0.0, own=own),
            lambda r: levels(r, holds=0.0),
        )
        assert rate <= 0.06


def test_misfit_is_found():
    """A player who scores nearly the same against all misfits Elo's curve."""
    rng = np.random.default_rng(3)
    controls = {name: results(rng) for name in ("chat", "sham")}

    sign = detect_misfit(results(rng, slope=0.1), controls)

    assert sign.p_value < 1e-3
    assert sign.target.value == pytest.approx(0.1, abs=0.2)
    assert len(sign.points["target"]) == 5


def test_wrong_opponent_ratings_are_not_held_against_the_target():
    """Ratings stretched by half misfit everyone: the likelihood ratio says so, not the sign."""
    rng = np.random.default_rng(4)
    alone = np.mean([fit_response(results(rng, error=0.5)).p_value < 0.05 for _ in range(100)])
    rate = rejections(
        detect_misfit, lambda r: results(r, error=0.5), lambda r: results(r, error=0.5)
    )

    assert alone > 0.5
    assert rate <= 0.06


def test_a_target_between_its_controls_is_no_misfit():
    """Flatter than one and steeper than the other is like neither, and odd by no means."""
    rng = np.random.default_rng(5)
    flat = {"slope": 0.3, "games": 1200}

    between = detect_misfit(
        results(rng, games=600),
        {
            "flat": results(rng, **flat),
            "steep": results(rng, slope=3.0, games=600),
        },
    )
    outside = detect_misfit(
        results(rng, **flat), {"even": results(rng, games=1200), "steep": results(rng, slope=3.0)}
    )

    assert between.p_value > 0.5
    assert outside.p_value < 0.01


def test_response_recovers_the_planted_slope():
    """Slope 1 is Elo's curve and fits; 0.5 comes back as 0.5 and does not."""
    rng = np.random.default_rng(5)
    honest = fit_response(results(rng, games=2000))
    flat = fit_response(results(rng, games=2000, slope=0.5))

    assert honest.slope.value == pytest.approx(1, abs=0.1)
    assert honest.p_value > 0.01
    assert flat.slope.value == pytest.approx(0.5, abs=0.1)
    assert flat.p_value < 1e-6


def test_what_cannot_be_fitted_is_said():
    """All lost, and wins and losses that one rating parts exactly."""
    lost = GameScores(scores=[0, 0, 0], opponents_elo=[1, 2, 3], clusters=["a", "b", "c"])
    parted = GameScores(
        scores=[1, 1, 0, 0], opponents_elo=[1000, 1100, 1200, 1300], clusters=list("abcd")
    )
    with pytest.raises(InsufficientDataError, match="0 points of 3 games"):
        fit_response(lost)
    with pytest.raises(InsufficientDataError, match="parts them exactly"):
        fit_response(parted)
    with pytest.raises(InsufficientDataError, match="at least one control"):
        detect_throwing(moves(np.random.default_rng(0), throws=0), {})


def test_a_control_that_cannot_be_measured_is_left_out_and_named():
    """One who lost every game has no response curve; the other control still decides."""
    rng = np.random.default_rng(6)
    players = {
        name: GameScores(
            scores=rng.random(200) < 1 / (1 + 10 ** ((opponents - 1000) / 400)),
            opponents_elo=opponents,
            clusters=[str(i // 2) for i in range(200)],
        )
        for name, opponents in (
            ("target", rng.uniform(600, 1400, 200)),
            ("sham", rng.uniform(600, 1400, 200)),
        )
    }
    lost = GameScores(scores=[0, 0, 0], opponents_elo=[1, 2, 3], clusters=["a", "b", "c"])

    found = detect_misfit(players["target"], {"sham": players["sham"], "novice": lost})

    assert found.closest == "sham"
    assert list(found.left_out) == ["novice"]
    assert found.p_value == pytest.approx(
        detect_misfit(players["target"], {"sham": players["sham"]}).p_value
    )
    with pytest.raises(InsufficientDataError, match="no control could be measured: novice"):
        detect_misfit(players["target"], {"novice": lost})
