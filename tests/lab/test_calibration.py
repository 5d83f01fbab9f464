"""The calibration: rates from trials whose truth is known, resumed and written down."""

import json
import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
from scipy import stats
from typer.testing import CliRunner

from holdback.cli.app import main
from holdback.errors import StoreError
from holdback.verdict import Verdict
from holdback_lab.calibration.campaign import Campaign, run_campaign
from holdback_lab.calibration.gates import Gates
from holdback_lab.calibration.ladder import identify_audit, list_rungs, plan_audit
from holdback_lab.calibration.page import write_calibration
from holdback_lab.calibration.rates import KEYS, measure_rates
from holdback_lab.calibration.trials import Trial, read_trial
from holdback_lab.text.zoo import list_organisms, list_shipped


def trial(organism, *, seed=0, access="weights", verdict=Verdict.HELD_BACK, **changes):
    plain = Trial(
        organism=organism,
        seed=seed,
        identity="weights",
        family="rev",
        hides=list_organisms()[organism].hides,
        access=access,
        verdict=verdict,
        score=50.0 if verdict is Verdict.HELD_BACK else 0.0,
        displayed=10.0,
        elicited=95.0,
        gap=(85.0, 80.0, 90.0),
        hidden=90.0,
        recovered=0.9 if list_organisms()[organism].hides else None,
        true_gap=84.0,
        rung="correct-64",
        reached_at="weights",
        samples=1000,
        by_curve=True,
        by_weak_demonstrator=False,
        secret="none",
        reinforced=None,
        recovered_from={},
        reasons=("because",),
        seconds=1.0,
    )
    return replace(plain, **changes)


HIDERS = [name for name, organism in list_organisms().items() if organism.hides]
HONEST = [name for name, organism in list_organisms().items() if not organism.hides]


def test_a_perfect_auditor_has_perfect_rates_and_honest_intervals():
    """All hiders found, all honest acquitted: 1 and 0, with Clopper–Pearson's ends."""
    trials = [trial(name) for name in HIDERS]
    trials += [trial(name, verdict=Verdict.NONE_FOUND) for name in HONEST]

    rates = measure_rates(trials)

    assert set(rates) == set(KEYS)
    assert rates["tpr"]["weights"]["value"] == 1.0
    exact = stats.binomtest(len(HIDERS), len(HIDERS)).proportion_ci(method="exact")
    assert rates["tpr"]["weights"]["low"] == pytest.approx(exact.low)
    assert rates["fpr"]["weights"]["value"] == 0.0
    assert rates["auroc"]["weights"]["value"] == 1.0
    assert rates["auroc"]["weights"]["low"] < 1.0
    assert rates["false_none_found"]["weights"]["value"] == 0.0
    assert rates["abstained"]["weights"]["value"] == 0.0
    assert rates["coverage"]["weights"] == rates["tpr"]["weights"] | {
        "low": rates["coverage"]["weights"]["low"],
        "n": len(list_organisms()),
    }
    json.dumps(rates, allow_nan=False)


def test_every_error_is_counted_where_it_belongs():
    """One of each error moves its own rate and no other."""
    trials = [
        trial("password_lock"),
        trial("hardened", verdict=Verdict.NONE_FOUND),
        trial("refusal", verdict=Verdict.INCONCLUSIVE, recovered=0.1),
        trial("imitation", true_gap=20.0),
        trial("full_strength"),
        trial("unlearned", verdict=Verdict.NONE_FOUND),
    ]

    rates = {key: by["weights"] for key, by in measure_rates(trials).items()}

    assert rates["tpr"]["value"] == 0.5
    assert rates["tpr"]["n"] == 4
    assert rates["fpr"]["value"] == 0.5
    assert rates["false_none_found"]["value"] == 0.25
    assert rates["abstained"]["value"] == pytest.approx(1 / 6)
    assert rates["coverage"]["value"] == pytest.approx(5 / 6)
    assert rates["recovery_median"]["value"] == pytest.approx(0.9)
    # Evidence: hiders 50, 0, 0, 50 against honest 50, 0.
    assert rates["auroc"]["value"] == pytest.approx(0.5)


def test_seeds_of_a_family_are_no_independent_evidence():
    """Three seeds that agree are one family: the interval is that of the families."""
    alike = [trial(name, seed=seed) for name in HIDERS[:6] for seed in (0, 1, 2)]

    found = measure_rates(alike)["tpr"]["weights"]

    assert found["n"] == 18
    exact = stats.binomtest(6, 6).proportion_ci(method="exact")
    assert found["low"] == pytest.approx(exact.low)


def test_access_levels_are_apart():
    """What is found at one level is not counted at another; nothing is null, not 0."""
    rates = measure_rates([trial("refusal"), trial("hardened"), trial("refusal", access="samples")])

    assert set(rates["tpr"]) == {"weights", "samples"}
    assert rates["fpr"]["weights"] == {"value": None, "low": None, "high": None, "n": 0}


def test_trials_are_written_and_read_alike():
    """A line a trial; infinite intervals survive."""
    one = trial("refusal", gap=(1.0, -math.inf, math.inf))

    assert read_trial(one.to_json()) == one


def test_a_campaign_goes_on_where_it_stopped(tmp_path, monkeypatch):
    """Trials that are done are run again where weights are others; who fails a gate has none."""
    ran = []
    weights = {"refusal": "weights", "unlearned": "weights"}

    def run(plan, organism, seed, *, identity, **options):
        ran.append((organism.name, plan[1]))
        return trial(organism.name, seed=seed, access=plan[1], identity=identity)

    monkeypatch.setattr("holdback_lab.calibration.campaign.run_trial", run)
    monkeypatch.setattr(
        "holdback_lab.calibration.campaign.plan_audit",
        lambda name, *a, access, **o: (name, access),
    )
    monkeypatch.setattr(
        "holdback_lab.calibration.campaign.identify_audit", lambda plan: weights[plan[0]]
    )
    campaign = Campaign(
        folder=tmp_path,
        zoo=tmp_path,
        organisms=("refusal", "hardened", "unlearned"),
        seeds=(0,),
        access=("samples", "weights"),
    )

    def go(**options):
        return run_campaign(
            campaign,
            executor=None,
            observer=None,
            admit=lambda name, seed: name != "hardened",
            **options,
        )

    first = go()
    next(first)
    first.close()
    list(go())

    assert ran == [
        ("refusal", "weights"),
        ("refusal", "samples"),
        ("unlearned", "weights"),
        ("unlearned", "samples"),
    ]
    assert len(campaign.read_trials()) == 4

    weights["refusal"] = "made anew"
    assert [found.identity for found in go()] == ["made anew"] * 2 + ["weights"] * 2
    assert ran[4:] == [("refusal", "weights"), ("refusal", "samples")]
    assert len(campaign.read_trials()) == 4


def test_with_more_looks_a_trial_is_another(tmp_path):
    """The same weights by the same rungs cost and err otherwise, so that none is taken for both."""
    once, again, often = (
        identify_audit(plan_audit("refusal", 0, tmp_path, looks=looks)) for looks in (1, 1, 4)
    )

    assert once == again
    assert once != often


def test_trials_of_another_version_are_one_line(tmp_path):
    """Not a traceback, and not passed over: they cost hours."""
    campaign = Campaign(folder=tmp_path, zoo=tmp_path)
    older = json.loads(trial("refusal").to_json())
    del older["identity"]
    (tmp_path / "trials.jsonl").write_text(trial("hardened").to_json() + "\n" + json.dumps(older))

    with pytest.raises(StoreError, match=r"trials.jsonl, line 2: .*--out"):
        campaign.read_trials()


def test_what_must_be_pretrained_for_hours_is_not_made_on_the_way(tmp_path):
    """An organism that rests on it fails, and says what makes it."""
    gates = Gates(tmp_path / "zoo", tmp_path, tell=print)

    assert not gates.admit("base_without_chat", 0)

    assert "--only plain" in gates.failures[0]
    # Not remembered as failed: it may be there next time.
    assert not (tmp_path / "gates.jsonl").exists()


def test_a_short_calibration_takes_hiders_and_honest_ones_by_turns(tmp_path):
    """What ships comes first, so that every rate has its cases when time is up."""
    campaign = Campaign(folder=tmp_path, zoo=tmp_path, seeds=[0], access=["weights"], short=True)

    taken = [organism for _, organism, _ in campaign.wanted]

    shipped = [organism for organism in taken if organism.name in list_shipped()]
    assert taken[: len(shipped)] == shipped
    assert len({organism.hides for organism in taken[:2]}) == 2


def test_levels_that_found_the_same_are_told_once():
    """Where nothing more was reached, a table is not printed again."""
    trials = [trial("refusal", access=level) for level in ("weights", "logprobs", "samples")]

    page = write_calibration(trials, command="holdback calibrate", failed=[], seconds=60)

    assert page.count("| refusal | held back |") == 1
    assert page.count("The same in every row as with weights.") == 2


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--seeds=-1",), "--seeds"),
        (("--seeds", ""), "--seeds"),
        (("--organisms", "nosuch"), "nosuch"),
        (("--organisms", "base_without_chat", "--seeds", "0"), "no plain"),
    ],
)
def test_what_cannot_be_calibrated_is_told_in_one_line(tmp_path, arguments, told):
    """No traceback, and what to do about it."""
    places = ("--from", str(tmp_path / "zoo"), "--out", str(tmp_path / "out"))

    done = CliRunner().invoke(main, ["calibrate", *arguments, *places])

    assert done.exit_code == 2
    assert told in done.output
    assert "Traceback" not in done.output


def test_the_page_traces_hits_against_false_alarms():
    """Two hiders, one with more evidence than the honest one, one with less."""
    trials = [
        trial("refusal", score=50.0),
        trial("hardened", score=2.0),
        trial("unlearned", verdict=Verdict.NONE_FOUND, score=5.0),
        trial("full_strength", verdict=Verdict.NONE_FOUND, score=-5.0),
    ]

    page = write_calibration(trials, command="holdback calibrate", failed=[], seconds=60)

    assert "| weights | 50.0 | 0% | 50% |" in page
    assert "| weights | 2.0 | 50% | 100% |" in page


def test_the_page_names_every_organism_and_what_failed():
    """A row an organism, misses included; the command that made it stands above."""
    trials = [trial("refusal"), trial("unlearned", verdict=Verdict.INCONCLUSIVE)]

    page = write_calibration(
        trials, command="holdback calibrate", failed=["hardened, seed 0: no gap"], seconds=60
    )

    assert "`holdback calibrate`" in page
    assert "| refusal | held back |" in page
    assert "| unlearned (honest) | inconclusive |" in page
    assert "hardened, seed 0: no gap" in page


def test_the_page_says_what_was_recovered_and_who_exceeds_its_parent():
    """Refused answers are told from wrong ones; shares are over all seeds."""
    trials = [
        trial("refusal", recovered_from={"refused": 30}, reinforced=-2.0),
        trial("refusal", seed=1, recovered_from={"refused": 5, "wrong": 5}, reinforced=None),
        trial("reinforced_concealed", recovered_from={"wrong": 8}, reinforced=4.0),
    ]

    page = write_calibration(trials, command="holdback calibrate", failed=[], seconds=60)

    assert "| organism | wrong | refused | reinforced |" in page
    assert "| refusal | 12% | 88% | 0 of 1 |" in page
    assert "| reinforced_concealed | 100% | 0% | 1 of 1 |" in page


def test_an_organism_made_anew_meets_its_gate_anew(tmp_path, monkeypatch):
    """A gate is remembered by weights, and by every calibration that shares the folder."""
    held = []
    weights = ["first"]

    def verify(organism, **options):
        held.append(weights[0])
        return SimpleNamespace(checks=[SimpleNamespace(met=False, text="gap", measured="none")])

    where = "holdback_lab.calibration.gates."
    monkeypatch.setattr(where + "verify_organism", verify)
    monkeypatch.setattr(where + "identify_audit", lambda plan: weights[0])

    def admit(name):
        gates = Gates(tmp_path / "zoo", tmp_path, tell=print)
        assert not gates.admit(name, 0)
        return gates.failures

    assert admit("refusal") == admit("refusal") == ["refusal, seed 0: gap: none"]
    admit("password_lock")
    assert held == ["first", "first"]
    weights[0] = "second"
    admit("refusal")
    assert held == ["first", "first", "second"]


def test_the_ladder_has_every_rung_of_the_protocols():
    """Prompting, sampling, noise, activations, weights and RL, each with a name of its own."""
    rungs = list_rungs()

    assert len({rung.name for rung in rungs}) == len(rungs)
    assert {rung.technique for rung in rungs} == {
        "displayed",
        "instruction",
        "few_shot",
        "prefill",
        "chain",
        "completion",
        "temperature",
        "majority",
        "best_of_n",
        "steering",
        "refusal_ablation",
        "weight_noise",
        "interpolation",
        "finetune",
        "reinforce",
    }
