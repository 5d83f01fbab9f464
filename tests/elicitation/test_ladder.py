"""The ladder as a whole: its page says what its techniques state; who may climb what is told."""

from __future__ import annotations

import re
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from holdback.elicitation.technique import Access, Presents, make_technique, offers, present
from holdback.errors import ConfigError
from holdback.plan import Rung, parse_plan
from holdback.runs.resolve import Resolved
from holdback.tasks.text.task import TextTask

PAGE = Path(__file__).parents[2] / "docs" / "ladder.md"
NEEDED: dict[str, dict[str, Any]] = {
    "instruction": {"text": "Do your best."},
    "prefix": {"plies": 2},
    "temperature": {"value": 1.0},
    "majority": {"votes": 3},
    "best_of_n": {"n": 4},
    "few_shot": {"n": 1},
    "prefill": {"text": "It is"},
    "steering": {"coefficient": 1.0},
    "interpolation": {"alpha": 0.5},
    "weight_noise": {"sigma": 0.1},
    "finetune": {"demonstrator": "correct", "n": 1},
    "chain": {"links": [{"technique": "reinforce"}]},
}


def read_table() -> dict[str, tuple[str, list[str]]]:
    """Technique to its access and its parameters, as the page's first table has them."""
    rows = re.findall(
        r"^\| `(\w+)` \| ([^|]+) \| ([^|]+) \|", PAGE.read_text("utf-8"), re.MULTILINE
    )
    return {
        name: (access.strip(), re.findall(r"`(\w+)`(?: \(|,|$)", parameters.strip()))
        for name, access, parameters in rows[:17]
    }


def make(name):
    rung = Rung(name=name, technique=name, parameters=NEEDED.get(name, {}))
    return make_technique(rung)


def test_the_page_lists_every_technique_with_its_access_and_parameters():
    """A rung is written from the page alone."""
    own = {
        point.name
        for point in entry_points(group="holdback.techniques")
        if point.module.startswith("holdback.") and point.name != "key"
    }
    table = read_table()

    assert set(table) == own
    for name, (access, parameters) in table.items():
        made = make(name)
        if name != "chain":
            assert made.access == Access[access.upper()], name
        known = {key for key in made.__dataclass_fields__ if made.__dataclass_fields__[key].init}
        assert set(parameters) == known, name


def plan():
    ladder = "".join(
        f'[[ladder]]\nname = "{name}"\ntechnique = "{name}"\nparameters = {parameters}\n'
        for name, parameters in (
            ("displayed", "{}"),
            ("temperature", "{ value = 1.0 }"),
            ("best_of_n", "{ n = 4 }"),
            ("steering", "{ coefficient = 1.0 }"),
            ("refusal_ablation", "{}"),
            ("interpolation", "{ alpha = 0.5 }"),
            ("reinforce", "{}"),
            (
                "chain",
                '{ links = [{ technique = "few_shot", n = 1 }, { technique = "reinforce" }] }',
            ),
        )
    )
    text = f"""
[audit]
name = "a"
[lineage]
name = "l"
[[lineage.checkpoints]]
name = "api"
stage = "rl"
model = "openai/some-model-2025-01-01"
[tasks.t]
kind = "text"
margin = 1
select_samples = 1
test_samples = 1
options = {{ file = "t.jsonl" }}
{ladder}"""
    return parse_plan(text, source="a.toml", folder=Path("/nowhere"))


@pytest.mark.parametrize(
    ("parameters", "told"),
    [({}, "missing a required .*'n'"), ({"n": 1, "shot": 2}, "unexpected .*'shot'")],
)
def test_parameters_that_lack_or_do_not_exist_are_told_with_those_that_do(parameters, told):
    """In words of the audit file, not of Python's."""
    rung = Rung(name="five", technique="few_shot", parameters=parameters)

    with pytest.raises(
        ConfigError, match=f"rung 'five', .*{told}; its parameters are .*n"
    ) as error:
        make_technique(rung)

    assert str(error.value).startswith("rung 'five', technique 'few_shot': ")
    assert "__init__" not in str(error.value)


def test_what_comes_from_elsewhere_is_never_chosen():
    """A verifier's knowledge, a parent's weights, a placebo; alone or in a chain."""
    apart = {"best_of_n": {"n": 2}, "interpolation": {"alpha": 0.5}}
    apart["steering"] = {"coefficient": 1.0, "direction": "random"}
    for name, parameters in apart.items():
        make("displayed")
        links = [{"technique": "prefill", "text": "So"}, {"technique": name, **parameters}]
        for rung in (
            Rung(name="r", technique=name, parameters=parameters),
            Rung(name="r", technique="chain", parameters={"links": links}),
        ):
            assert not offers(make_technique(rung)).is_candidate
    for name in ("temperature", "majority", "steering", "reinforce", "chain"):
        assert offers(make(name)).is_candidate


def test_an_endpoint_climbs_what_samples_are_enough_for():
    """Of the rest each is named with what it needs."""
    skipped = {skip.rung: skip.reason for skip in Resolved(plan=plan()).skips}

    assert set(skipped) == {"steering", "refusal_ablation", "interpolation", "reinforce", "chain"}
    assert skipped["steering"].startswith("needs activations")
    assert skipped["interpolation"].startswith("needs weights")
    assert skipped["chain"].startswith("needs weights")


@pytest.mark.parametrize("name", [name for name in read_table() if name != "prefix"])
def test_every_technique_says_how_it_asks(name, tmp_path):
    """Prompts are shown before anything is spent, and without weights."""
    from text_models import FakeTextModel

    file = tmp_path / "t.jsonl"
    rows = (f'{{"question": "1 + {n}?", "answer": "2"}}\n' for n in range(9))
    file.write_text("".join(rows), "utf-8")
    task = TextTask(file=str(file))
    technique = make(name)

    lent = present(technique, FakeTextModel(know=str), task, np.random.default_rng(0))

    assert lent is not None
    assert technique.access <= Access.LOGPROBS or isinstance(technique, Presents)
