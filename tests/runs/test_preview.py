"""What will be asked is what is asked, and never costs more than was said."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from tiny_chess import load_tiny, save_tiny

from holdback.audit import prepare
from holdback.elicitation.technique import make_technique, present
from holdback.errors import CheckpointError
from holdback.plan import parse_plan
from holdback.runs.preview import Previewer, bound_checkpoints, bound_prompt, list_readers
from holdback.runs.resolve import Resolved
from holdback.tasks.chess.positions import ChessPositions
from holdback.tasks.task import Prompt, Split

TEXT = """
[audit]
name = "small"
[lineage]
name = "tiny"
[[lineage.checkpoints]]
name = "tiny"
stage = "sft"
model = "{model}"
[tasks.positions]
kind = "chess_positions"
margin = 3.0
select_samples = 4
test_samples = 4
[[ladder]]
name = "displayed"
technique = "displayed"
[[ladder]]
name = "told"
technique = "instruction"
parameters = {{ text = "play your best ." }}
[[ladder]]
name = "header"
technique = "completion"
parameters = {{ header = {{ elo = "1900" }} }}
[[ladder]]
name = "noise"
technique = "weight_noise"
parameters = {{ sigma = 0.1 }}
[[ladder]]
name = "taught"
technique = "finetune"
parameters = {{ demonstrator = "strong", n = 1, steps = 1, rank = 2 }}
[[ladder]]
name = "both"
technique = "chain"
parameters = {{ links = [{{ technique = "completion" }}, {{ technique = "majority", votes = 2 }}] }}
"""


@pytest.fixture(scope="module")
def plan(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny")
    save_tiny(folder)
    return parse_plan(TEXT.format(model=folder), source="audit.toml", folder=Path.cwd())


def test_what_is_shown_is_what_is_asked(plan):
    """For every rung, techniques on weights included, the first prompts are those of the run."""
    previewer, task = Previewer(Resolved(plan=plan)), ChessPositions(name="positions")
    model = load_tiny(Path(plan.lineage.checkpoints[0].model))
    for rung in plan.ladder:
        shown = previewer.render(
            "tiny", "positions", rung.name, split=Split.TEST, samples=4, seed=0
        )
        rng = np.random.default_rng([plan.seed, 0])
        with make_technique(rung).apply(model, task, rng) as lent:
            records = list(task.run(lent, split=Split.TEST, samples=4, seed=plan.seed))
        assert [r.metadata["prompt"] for r in records[:3]] == [p.text for p in shown[:3]]
        assert [r.metadata["prompt_token_ids"] for r in records[:3]] == [
            list(p.token_ids) for p in shown[:3]
        ]
        assert [r.sample_id for r in records] == [p.sample_id for p in shown]
        assert {p.most_sent for p in shown} == {6 if rung.name == "both" else 3}


def test_every_rung_is_shown_without_weights(plan):
    """Prompts differ where the rung asks otherwise, and only there."""
    shown = {each.rung: each.prompt for each in Previewer(Resolved(plan=plan)).show()}

    assert list(shown) == [rung.name for rung in plan.ladder]
    assert shown["noise"] == shown["displayed"] == shown["taught"]
    assert "play your best ." in shown["told"].text
    assert "1900" in shown["header"].text
    assert len({shown[name].text for name in ("displayed", "told", "header", "both")}) == 4


def test_a_missing_template_is_an_error_before_anything_is_spent(tmp_path):
    """Chat format without a template: one line that says so and what to do."""
    from tiny_models import save_model

    folder = save_model(tmp_path / "bare", template=None)
    plan = parse_plan(TEXT.format(model=folder), source="audit.toml", folder=Path.cwd())

    with pytest.raises(CheckpointError, match=r"'tiny' has no chat template; ask it in completion"):
        list(Previewer(Resolved(plan=plan)).show())
    # Nor is anything run on the others first.
    with pytest.raises(CheckpointError, match=r"'tiny' has no chat template; write chat = false"):
        prepare(plan)


@pytest.mark.parametrize("where", ["chat_template.jinja", "tokenizer_config.json"])
def test_a_template_is_found_where_it_may_lie(tmp_path, where):
    """In a file of its own, as it is saved today, or among the tokenizer's settings, as it was."""
    from tiny_models import TEMPLATE, save_model

    folder = save_model(tmp_path / "bare", template=None)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    text = json.dumps(settings | {"chat_template": TEMPLATE}) if "json" in where else TEMPLATE
    (folder / where).write_text(text)

    plan = parse_plan(TEXT.format(model=folder), source="audit.toml", folder=Path.cwd())

    assert prepare(plan).digests


def test_techniques_on_weights_that_do_not_say_are_not_run(plan):
    """To show a prompt nothing is trained: whoever does not say how it asks is asked nothing."""
    from holdback_fakes import Unlock

    assert present(Unlock(), None, None, np.random.default_rng(0)) is None


def test_tokens_are_bounded_by_what_is_sent():
    """Known tokens are counted, unknown ones are at most bytes; each as often as it is sent."""
    known = Prompt(sample_id="a", text="xyz", token_ids=(1, 2), max_tokens=3, most_sent=4)
    unknown = Prompt(sample_id="a", text="é", max_tokens=3, most_sent=4)

    assert bound_prompt(known) == 4 * (2 + 3)
    assert bound_prompt(unknown) >= 4 * (len("é".encode()) + 3)


def test_a_run_takes_no_more_tokens_than_were_named(plan):
    """The bound over a plan is above what its samples read and generate once."""
    (name,) = list_readers(plan.lineage, priced=False)
    assert list_readers(plan.lineage, priced=True) == []
    resolved = Resolved(plan=plan).identified()
    bounds = bound_checkpoints(resolved, [name])
    shown = Previewer(resolved).render(
        "tiny", "positions", "told", split=Split.TEST, samples=4, seed=0
    )

    # 4 samples on `select` for each of 6 rungs and on `test` for 2; one of these draws two votes.
    least = 32 * 3 * (min(len(prompt.token_ids) for prompt in shown) - 10)
    assert least < bounds["tiny"] < 4 * least


def test_endpoints_are_bounded_without_asking_them(monkeypatch):
    """An address where nobody listens is no obstacle: nothing is sent to say what it would cost."""
    monkeypatch.setenv("HERE_BASE_URL", "http://localhost:9/v1")
    text = TEXT.format(model="openai-api/here/m")
    priced = parse_plan(text, source="audit.toml", folder=Path.cwd())
    assert list_readers(priced.lineage, priced=True) == ["tiny"]

    bounds = bound_checkpoints(Resolved(plan=priced).identified(), ["tiny"])

    # Noise and tuning are out of reach: 4 samples for 4 rungs on `select` and for 2 on `test`.
    assert bounds["tiny"] > 24 * 3 * 2
