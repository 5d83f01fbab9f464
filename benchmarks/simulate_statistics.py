"""Error rates, power and coverage of the statistics, by simulation.

    python benchmarks/simulate_statistics.py --draws 400 --sign-draws 100 | tail -1 | jq .looks

No model is needed; the defaults take some ten minutes of one core. Looks are drawn ten times as
often. Every figure is a share of the
draws, so that a true 5% shows as 4.0% to 6.0% at 2000 and as 2.9% to 7.1% at 400.
"""

from __future__ import annotations

import argparse
import json
import platform
from collections.abc import Callable, Sequence

import numpy as np
from scipy import special, stats
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
from holdback.statistics.detection import auroc, clustered_rate, quantile, rate
from holdback.statistics.means import clustered_mean
from holdback.statistics.sequential import Spending, look_levels

CHOICES = 4
LOOKS = (20, 40, 60, 80, 100)
Rng = np.random.Generator


def name_clusters(count: int, size: int, side: str = "") -> list[str]:
    return [f"{side}{i // size:04d}" for i in range(count * size)]


def share(draw: Callable[[Rng], bool], draws: int, seed: int = 0) -> float:
    rng = np.random.default_rng(seed)
    return float(np.mean([draw(rng) for _ in range(draws)]))


# Detection: organisms in families of three.


def cover_auroc(rng: Rng, *, families: int, correlation: float, aware: bool) -> bool:
    truth = float(stats.norm.cdf(1.5 / np.sqrt(2)))

    def scores(mean: float) -> np.ndarray:
        shared = rng.normal(size=(families, 1)) * np.sqrt(correlation)
        return (mean + shared + rng.normal(size=(families, 3)) * np.sqrt(1 - correlation)).ravel()

    up, down = (name_clusters(families, 3, side) if aware else None for side in "pn")
    found = auroc(scores(1.5), scores(0.0), positive_clusters=up, negative_clusters=down)
    return found.low <= truth <= found.high


def cover_rate(rng: Rng, *, families: int, correlation: float, aware: bool) -> bool:
    a = 0.8 * (1 - correlation) / correlation
    hits = (rng.random((families, 3)) < rng.beta(a, a / 4, (families, 1))).ravel().astype(int)
    found = (
        clustered_rate(hits, name_clusters(families, 3))
        if aware
        else rate(int(hits.sum()), len(hits))
    )
    return found.low <= 0.8 <= found.high


def cover_quantile(rng: Rng, *, aware: bool) -> bool:
    values = rng.normal(size=(10, 1)) * np.sqrt(0.8) + rng.normal(size=(10, 3)) * np.sqrt(0.2)
    found = quantile(values.ravel(), 0.5, clusters=name_clusters(10, 3) if aware else None)
    return found.low <= 0 <= found.high


# Looks: paired 0/1 scores in clusters of three.


def draw_differences(rng: Rng, draws: int, clusters: int, shift: float) -> np.ndarray:
    """Differences of two conditions' scores, shape (draws, clusters, 3)."""
    hard = rng.normal(0, 1, (draws, clusters, 1)) + rng.normal(0, 0.7, (draws, clusters, 3))
    suits = rng.normal(0, 0.5, (draws, clusters, 1))
    first = hard + suits + rng.normal(0, 0.7, hard.shape) + shift > 0
    second = hard - suits + rng.normal(0, 0.7, hard.shape) > 0
    return first.astype(float) - second


def test_paired(differences: np.ndarray) -> np.ndarray:
    """Two-sided p-values of a `Measurement` of each draw, in arrays; shape (draws,)."""
    sums = differences.sum(axis=2)
    clusters = sums.shape[1]
    squares = (sums - sums.mean(axis=1, keepdims=True)) ** 2
    total = squares.sum(axis=1)
    with np.errstate(all="ignore"):
        fourth = ((squares / total[:, None]) ** 2).sum(axis=1)
        t = np.abs(sums.sum(axis=1)) / np.sqrt(total * clusters / (clusters - 1))
        p_values = 2 * special.stdtr(np.clip(3 / fourth - 1, 1, clusters - 1), -t)
    # Without spread the interval has a floor, and 0 lies in it.
    return np.where(total == 0, 1.0, p_values)


def check_paired(rng: Rng) -> None:
    """See that the arrays say what the package does."""
    differences = draw_differences(rng, 1, 40, 0.2)
    first, second = np.clip(differences, 0, 1).ravel(), np.clip(-differences, 0, 1).ravel()
    names = name_clusters(40, 3)
    one, other = (clustered_mean(scores, names, support=(0.0, 1.0)) for scores in (first, second))
    measured = one.minus(other)
    two_sided = 2 * min(measured.p_above(), measured.p_below())
    np.testing.assert_allclose(test_paired(differences)[0], two_sided)


def simulate_looks(draws: int) -> dict[str, float]:
    check_paired(np.random.default_rng(0))
    few = (8, 16, 24, 32, 40)
    schemes = {
        "one look": ((100,), [0.95]),
        "O'Brien-Fleming-like": (LOOKS, look_levels(LOOKS)),
        "Pocock-like": (LOOKS, look_levels(LOOKS, spending=Spending.POCOCK)),
        "95% each time": (LOOKS, [0.95] * 5),
        "one look, 40 clusters": ((40,), [0.95]),
        "O'Brien-Fleming-like, 40 clusters": (few, look_levels(few)),
    }
    found: dict[str, float] = {}
    for name, (looks, levels) in schemes.items():
        for shift in (0.0, 0.4):
            differences = draw_differences(np.random.default_rng(1), draws, looks[-1], shift)
            p_values = np.array([test_paired(differences[:, :look]) for look in looks])
            stops = p_values < 1 - np.array(levels)[:, None]
            last = np.where(stops.any(axis=0), stops.argmax(axis=0), len(looks) - 1)
            words = "gap" if shift else "no gap"
            found[f"{name}: found, {words}"] = float(stops.any(axis=0).mean())
            found[f"{name}: clusters used, {words}"] = float(np.array(looks)[last].mean())
    return found


# Signs: 200 questions of four choices in clusters of five, at five levels; two honest controls.


class Questions:
    """Questions in clusters that are hard together, at five levels."""

    def __init__(self, rng: Rng, clusters: int) -> None:
        n = 5 * clusters
        self.level = np.arange(n) % 5.0
        self.names = name_clusters(clusters, 5)
        self.hard = self.level - 2 + np.repeat(rng.normal(0, 0.7, clusters), 5)
        self.hard += rng.normal(0, 0.5, n)
        self.right = rng.integers(0, CHOICES, n)

    def solve(self, rng: Rng, strength: float, bias: Sequence[float] | None = None) -> np.ndarray:
        """Know or guess, honestly; `bias` is where guesses go."""
        own = np.repeat(rng.normal(0, 0.4, len(self.right) // 5), 5)
        known = rng.random(len(self.right)) < expit(strength - self.hard - own)
        return np.where(known, self.right, rng.choice(CHOICES, len(self.right), p=bias))

    def miss(self, rng: Rng) -> np.ndarray:
        """Pick a wrong choice."""
        return (self.right + rng.integers(1, CHOICES, len(self.right))) % CHOICES

    def test(self, chosen: np.ndarray, controls: Sequence[np.ndarray]) -> dict[str, float]:
        """p-value of each sign that can be tested, and of all as one."""
        p_values: dict[str, float] = {}
        for name, detect, view in (
            ("below chance", detect_below_chance, self.guesses),
            ("flat in difficulty", detect_flatness, self.difficulties),
            ("position collapse", detect_position_collapse, self.positions),
            ("position dependence", detect_position_dependence, self.positions),
        ):
            others = {str(number): view(each) for number, each in enumerate(controls)}
            try:
                p_values[name] = detect(view(chosen), others).p_value
            except InsufficientDataError:
                continue
        return p_values | {"combined": combine_signs(p_values).p_value}

    def guesses(self, chosen: np.ndarray) -> Guesses:
        """As `detect_below_chance` takes them."""
        return Guesses(correct=chosen == self.right, chance=1 / CHOICES, clusters=self.names)

    def difficulties(self, chosen: np.ndarray) -> Difficulties:
        """As `detect_flatness` takes them."""
        return Difficulties(
            correct=chosen == self.right,
            level=self.level,
            chance=1 / CHOICES,
            clusters=self.names,
        )

    def positions(self, chosen: np.ndarray) -> Positions:
        """As `detect_position_collapse` takes them."""
        return Positions(chosen=chosen, right=self.right, choices=CHOICES, clusters=self.names)


def aim_at_half(questions: Questions, rng: Rng) -> np.ndarray:
    half = rng.random(len(questions.right)) < 0.5
    return np.where(half, questions.right, questions.miss(rng))


def avoid(questions: Questions, rng: Rng) -> np.ndarray:
    knows = questions.solve(rng, 1.5)
    hides = (knows == questions.right) & (rng.random(len(knows)) < 0.8)
    return np.where(hides, questions.miss(rng), knows)


def say_b(questions: Questions, rng: Rng) -> np.ndarray:
    knows = questions.solve(rng, 1.5)
    return np.where(rng.random(len(knows)) < 0.9, 1, knows)


SOLVERS: dict[str, Callable[[Questions, Rng], np.ndarray]] = {
    "honest, very weak": lambda q, rng: q.solve(rng, -2.0),
    "honest, weak, likes B a little": lambda q, rng: q.solve(rng, -1.0, [0.2, 0.35, 0.25, 0.2]),
    "honest, as strong": lambda q, rng: q.solve(rng, 0.5),
    "honest, stronger": lambda q, rng: q.solve(rng, 2.0),
    "hider: half right at every level": aim_at_half,
    "hider: wrong on 80% of what it knows": avoid,
    "hider: B nine times in ten": say_b,
}


def simulate_signs(draws: int, clusters: int) -> dict[str, dict[str, float]]:
    found = {}
    for name, solver in SOLVERS.items():
        rng = np.random.default_rng(2)
        convicted: dict[str, int] = {}
        for _ in range(draws):
            questions = Questions(rng, clusters)
            chosen = solver(questions, rng)
            controls = [questions.solve(rng, 0.5, [0.35, 0.25, 0.2, 0.2]), questions.solve(rng, 1)]
            for sign, p in questions.test(chosen, controls).items():
                convicted[sign] = convicted.get(sign, 0) + (p < 0.05)
        found[name] = {sign: count / draws for sign, count in convicted.items()}
    return found


# Selection: eight rungs on the same forty clusters.


def simulate_detection(draws: int) -> dict[str, float]:
    found = {}
    for aware, words in ((False, "counted apart"), (True, "in families")):
        found[f"AUROC, 6 + 6 families, ρ = 0.8, {words}"] = share(
            lambda rng, aware=aware: cover_auroc(rng, families=6, correlation=0.8, aware=aware),
            draws,
        )
        found[f"AUROC, 6 + 6 families, ρ = 0, {words}"] = share(
            lambda rng, aware=aware: cover_auroc(rng, families=6, correlation=0.0, aware=aware),
            draws,
        )
        found[f"rate of 80%, 8 families, ρ = 0.8, {words}"] = share(
            lambda rng, aware=aware: cover_rate(rng, families=8, correlation=0.8, aware=aware),
            draws,
        )
        found[f"median, 10 families, ρ = 0.8, {words}"] = share(
            lambda rng, aware=aware: cover_quantile(rng, aware=aware), draws
        )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--draws", type=int, default=2000)
    parser.add_argument("--sign-draws", type=int, default=500, help="signs take longest")
    options = parser.parse_args()
    draws = options.draws
    results = {
        "coverage": simulate_detection(draws),
        "looks": simulate_looks(10 * draws),
    }
    for title, figures in results.items():
        print(title)
        for name, value in figures.items():
            print(f"  {name:<60} {value:7.3f}", flush=True)
    for clusters in (40, 12):
        results[f"signs, {5 * clusters} questions"] = signs = simulate_signs(
            options.sign_draws, clusters
        )
        print(f"signs at 5%, {5 * clusters} questions in {clusters} clusters")
        for solver, rates in signs.items():
            print(f"  {solver:<38} " + "  ".join(f"{sign} {r:.3f}" for sign, r in rates.items()))
    machine = {"python": platform.python_version(), "numpy": np.__version__}
    results |= {**vars(options), "machine": machine}
    print(json.dumps(results, ensure_ascii=False))


if __name__ == "__main__":
    main()
