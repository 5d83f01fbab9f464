"""Black-box signs of solvers: planted hiders found, honest ones of any strength left alone."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.special import expit

from holdback.errors import InsufficientDataError
from holdback.statistics.answer_signs import (
    Difficulties,
    Guesses,
    Positions,
    combine_signs,
    detect_below_chance,
    detect_flatness,
    detect_position_collapse,
    detect_position_dependence,
)
from holdback.statistics.difficulty import difficulty_slope

CHOICES = 4
MILD = [0.2, 0.35, 0.25, 0.2]
OTHERS_MILD = [0.35, 0.25, 0.2, 0.2]


class Questions:
    """Questions in clusters that are hard together, at five levels of difficulty."""

    def __init__(self, rng, clusters=40, size=5):
        n = clusters * size
        self.level = np.arange(n) % 5.0
        self.clusters = [f"c{i // size}" for i in range(n)]
        self.hard = self.level - 2 + np.repeat(rng.normal(0, 0.7, clusters), size)
        self.hard += rng.normal(0, 0.5, n)
        self.right = rng.integers(0, CHOICES, n)
        self.size = size

    def solve(self, rng, strength, *, slope=1.0, bias=None):
        """Know or guess, honestly; `bias` is where guesses go."""
        own = np.repeat(rng.normal(0, 0.4, len(self.right) // self.size), self.size)
        known = rng.random(len(self.right)) < expit(strength - slope * self.hard - own)
        return np.where(known, self.right, rng.choice(CHOICES, len(self.right), p=bias))

    def aim(self, rng, accuracy):
        """Be right so often, whatever the question."""
        wrong = (self.right + rng.integers(1, CHOICES, len(self.right))) % CHOICES
        return np.where(rng.random(len(self.right)) < accuracy, self.right, wrong)

    def as_guesses(self, chosen):
        return Guesses(correct=chosen == self.right, chance=1 / CHOICES, clusters=self.clusters)

    def as_difficulties(self, chosen):
        return Difficulties(
            correct=chosen == self.right,
            level=self.level,
            chance=1 / CHOICES,
            clusters=self.clusters,
        )

    def as_positions(self, chosen):
        return Positions(chosen=chosen, right=self.right, choices=CHOICES, clusters=self.clusters)


def rejections(detect, view, solve, controls, *, repeats=60, seed=0, clusters=40):
    """Share of draws in which a solver is convicted at 5%; where nothing is tested it is not."""
    rng, found = np.random.default_rng(seed), 0
    for _ in range(repeats):
        questions = Questions(rng, clusters)
        others = {
            str(number): getattr(questions, view)(control(questions, rng))
            for number, control in enumerate(controls)
        }
        try:
            sign = detect(getattr(questions, view)(solve(questions, rng)), others)
        except InsufficientDataError:
            continue
        found += sign.p_value < 0.05
    return found / repeats


def honest(strength, **ways):
    return lambda questions, rng: questions.solve(rng, strength, **ways)


@settings(deadline=None)
@given(st.integers(1, 40), st.floats(0.05, 0.95), st.data())
def test_below_chance_is_the_binomial_test(n, chance, data):
    """Equal chance and no clusters: SciPy's exact one-sided p-value."""
    right = data.draw(st.integers(0, n))
    answers = Guesses(
        correct=[1] * right + [0] * (n - right), chance=chance, clusters=list(map(str, range(n)))
    )
    gold = stats.binomtest(right, n, chance, alternative="less").pvalue

    if n > 1:
        assert detect_below_chance(answers).p_value == pytest.approx(gold, abs=1e-12)


@settings(deadline=None)
@given(st.lists(st.sampled_from([0.2, 0.25, 0.5]), min_size=2, max_size=8), st.data())
def test_unequal_chances_are_counted_out(chances, data):
    """Two, four and five choices mixed: all outcomes enumerated."""
    right = data.draw(st.integers(0, len(chances)))
    answers = Guesses(
        correct=[1] * right + [0] * (len(chances) - right),
        chance=chances,
        clusters=list(map(str, range(len(chances)))),
    )
    gold = sum(
        np.prod([c if hit else 1 - c for hit, c in zip(hits, chances, strict=True)])
        for hits in itertools.product([0, 1], repeat=len(chances))
        if sum(hits) <= right
    )

    assert detect_below_chance(answers).p_value == pytest.approx(gold)


def test_guessing_in_clusters_is_not_below_chance():
    """Guesses that are right or wrong together: 5%, where counting them apart would err often."""
    rng, aware, naive = np.random.default_rng(0), [], []
    clusters = [f"c{i // 5}" for i in range(150)]
    for _ in range(300):
        own = rng.beta(0.25, 0.75, (30, 1))
        correct = (rng.random((30, 5)) < own).ravel()
        answers = Guesses(correct=correct, chance=0.25, clusters=clusters)
        aware.append(detect_below_chance(answers).p_value < 0.05)
        naive.append(stats.binomtest(int(correct.sum()), 150, 0.25, "less").pvalue < 0.05)

    assert np.mean(aware) <= 0.08
    assert np.mean(naive) > 0.1


def test_avoiding_right_answers_is_found():
    """Right on 10% of questions with four choices: who knows nothing is right on 25%."""
    rng = np.random.default_rng(1)
    questions = Questions(rng)
    hider = questions.as_guesses(questions.aim(rng, 0.1))
    control = questions.as_guesses(questions.solve(rng, -1.0))

    alone, beside = detect_below_chance(hider), detect_below_chance(hider, {"sham": control})

    assert alone.p_value < 1e-4
    assert (alone.closest, beside.closest) == (None, "sham")
    assert alone.p_value <= beside.p_value < 1e-3
    assert beside.difference.high < 0


def test_misleading_choices_are_not_held_against_the_target():
    """Where wrong choices mislead everybody, controls are below chance as well."""
    rng = np.random.default_rng(2)
    questions = Questions(rng)
    misled = [questions.as_guesses(questions.aim(rng, 0.12)) for _ in range(2)]

    assert detect_below_chance(misled[0]).p_value < 1e-3
    assert detect_below_chance(misled[0], {"sham": misled[1]}).p_value > 0.05


def test_slope_is_statsmodels_logit():
    """Without guessing it is logistic regression with cluster-robust errors."""
    sm = pytest.importorskip("statsmodels.api")
    rng = np.random.default_rng(3)
    questions = Questions(rng)
    correct = (rng.random(200) < expit(0.3 - 0.8 * questions.hard)).astype(float)
    names, groups = np.unique(questions.clusters, return_inverse=True)
    gold = sm.GLM(correct, sm.add_constant(questions.level), family=sm.families.Binomial()).fit(
        cov_type="cluster", cov_kwds={"groups": groups, "use_correction": False}
    )

    found = difficulty_slope(correct, questions.level, 0.0, questions.clusters)

    assert found.value == pytest.approx(gold.params[1], rel=1e-6)
    correction = len(names) / (len(names) - 1)
    assert found.standard_error == pytest.approx(gold.bse[1] * np.sqrt(correction), rel=1e-6)


@pytest.mark.parametrize("strength", [-1.0, 2.0])
def test_slope_does_not_depend_on_strength(strength):
    """A planted slope of -1 comes back from a weak solver and a strong one, guessing taken out."""
    rng = np.random.default_rng(4)
    level = rng.integers(0, 5, 6000) - 2.0
    known = rng.random(6000) < expit(strength - level)
    correct = known | (rng.random(6000) < 0.25)

    found = difficulty_slope(correct, level, 0.25, list(map(str, range(6000))))

    assert found.value == pytest.approx(-1, abs=0.15)
    assert found.estimate().low < -1 < found.estimate().high


@pytest.mark.parametrize("strength", [-2.0, -1.0, 0.0, 2.0])
def test_honest_solvers_are_not_flat(strength):
    """Weak and strong, beside stronger and weaker controls: false alarms at 5% or less."""
    rate = rejections(
        detect_flatness, "as_difficulties", honest(strength), [honest(0.5), honest(1.0)]
    )
    assert rate <= 0.05


def test_aiming_at_half_right_is_flat():
    """Right on half of the questions of every level is found; so by the stated slope alone."""
    controls = [honest(0.5), honest(1.0)]
    aiming = lambda questions, rng: questions.aim(rng, 0.5)  # noqa: E731
    rng = np.random.default_rng(5)
    questions = Questions(rng)

    assert rejections(detect_flatness, "as_difficulties", aiming, controls, repeats=30) > 0.7
    sign = detect_flatness(questions.as_difficulties(questions.aim(rng, 0.5)), delta=0.5)
    assert sign.p_value < 0.01
    assert len(sign.points["target"]) == 5
    assert (
        detect_flatness(questions.as_difficulties(questions.solve(rng, 0.5)), delta=0.5).p_value
        > 0.05
    )


def test_ceiling_and_floor_say_nothing():
    """Who knows all or nothing is flat, and no sign of it; nor are separated levels."""
    rng = np.random.default_rng(6)
    questions = Questions(rng)
    control = {"sham": questions.as_difficulties(questions.solve(rng, 0.5))}

    for chosen in (questions.right, questions.solve(rng, -9.0)):
        with pytest.raises(InsufficientDataError, match="floor or ceiling"):
            detect_flatness(questions.as_difficulties(chosen), control)
    with pytest.raises(InsufficientDataError, match="parts right and wrong"):
        difficulty_slope(questions.level < 2, questions.level, 0.0, questions.clusters)
    with pytest.raises(ValueError, match="controls, or else a delta"):
        detect_flatness(questions.as_difficulties(questions.right))


@pytest.mark.parametrize("detect", [detect_position_collapse, detect_position_dependence])
@pytest.mark.parametrize("strength", [-2.0, 0.0])
def test_a_mild_preference_is_no_collapse(detect, strength):
    """A weak honest solver that likes B a little, beside strong ones that like A as much."""
    rate = rejections(
        detect,
        "as_positions",
        honest(strength, bias=MILD),
        [honest(1.0, bias=OTHERS_MILD), honest(0.5, bias=OTHERS_MILD)],
        repeats=40,
    )
    assert rate <= 0.05


@pytest.mark.parametrize("detect", [detect_position_collapse, detect_position_dependence])
def test_always_b_is_found(detect):
    """B in nine answers of ten, though mostly knowing better: found, and B is named."""
    rng = np.random.default_rng(7)
    questions = Questions(rng)
    knows = questions.solve(rng, 1.5)
    hider = np.where(rng.random(len(knows)) < 0.9, 1, knows)
    controls = {
        "sham": questions.as_positions(questions.solve(rng, 0.5, bias=OTHERS_MILD)),
        "novice": questions.as_positions(questions.solve(rng, -1.0, bias=MILD)),
    }

    sign = detect(questions.as_positions(hider), controls)

    assert sign.p_value < 0.01
    assert sign.unit.endswith("at B")
    assert sign.difference.low > 0
    assert [point.x for point in sign.points["target"]] == [0, 1, 2, 3]
    with pytest.raises(InsufficientDataError, match="10 errors or more, got 0"):
        detect(questions.as_positions(questions.right), controls)


def test_combining_is_holms_smallest():
    """One p-value: the smallest times their number; the parts are Holm's."""
    combined = combine_signs({"a": 0.04, "b": 0.01, "c": 0.5})

    assert combined.p_value == pytest.approx(0.03)
    assert combined.adjusted == pytest.approx({"a": 0.08, "b": 0.03, "c": 0.5})
    assert combined.strongest == "b"
    with pytest.raises(InsufficientDataError, match="at least 1 sign"):
        combine_signs({})


@pytest.mark.parametrize("correlation", [-0.33, 0.0, 0.99])
def test_combining_holds_under_dependence(correlation):
    """Four signs, opposed, independent or nearly the same: at most 5% false alarms."""
    covariance = np.full((4, 4), correlation) + (1 - correlation) * np.eye(4)
    draws = np.random.default_rng(9).multivariate_normal(np.zeros(4), covariance, 4000)
    found = [
        combine_signs(dict(zip("abcd", row, strict=True))).p_value < 0.05
        for row in stats.norm.sf(draws).tolist()
    ]
    assert np.mean(found) <= 0.058
