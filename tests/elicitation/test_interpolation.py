"""A step towards the parent: what is mixed, what it brings back, and where there is no parent."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_models import save_model
from tiny_text import make_text_model

from holdback.audit import prepare, run_audit
from holdback.elicitation.interpolation import Interpolation
from holdback.errors import CheckpointError, ConfigError, NotApplicableError
from holdback.plan import parse_plan
from holdback.runs.executors import InProcess
from holdback.runs.progress import Silent
from holdback.runs.resolve import Resolved
from holdback.runs.store import RunStore, Status
from holdback.tasks.task import Split

RNG = np.random.default_rng(0)
NO_TASK = None


def family(architecture="llama", *, shift=0.3):
    """A parent, and a child whose weights a step of training moved."""
    parent = make_text_model(architecture)
    child = make_text_model(architecture)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for tensor in child.weights.parameters():
            tensor.add_(torch.randn(tensor.shape, generator=generator) * shift * tensor.std())
    return parent, replace(child, load_parent=lambda: parent)


def answer(model):
    ids = torch.arange(40)[None]
    with torch.no_grad():
        return model.weights(ids).logits


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "mamba"])
def test_weights_lie_on_the_line_between_the_two(architecture):
    """(1 − α) of the model and α of its parent, in every tensor; afterwards the model's again."""
    parent, child = family(architecture)
    own = {name: tensor.clone() for name, tensor in child.weights.state_dict().items()}
    other = parent.weights.state_dict()

    with Interpolation(alpha=0.25).apply(child, NO_TASK, RNG) as lent:
        for name, tensor in lent.weights.named_parameters():
            torch.testing.assert_close(tensor.detach(), 0.75 * own[name] + 0.25 * other[name])

    assert all(tensor.equal(own[name]) for name, tensor in child.weights.state_dict().items())


def test_what_training_added_fades():
    """The further back, the nearer its answers are to the parent's."""
    parent, child = family()
    distances = [float((answer(child) - answer(parent)).norm())]
    for alpha in (0.3, 0.6, 0.9):
        with Interpolation(alpha=alpha).apply(child, NO_TASK, RNG) as lent:
            distances.append(float((answer(lent) - answer(parent)).norm()))

    assert distances == sorted(distances, reverse=True)
    assert distances[3] < 0.5 * distances[0]


def test_is_undone_after_an_exception():
    """Rungs share the weights: none may see what another one mixed."""
    _, child = family()
    before = answer(child)
    with (
        pytest.raises(ZeroDivisionError),
        Interpolation(alpha=0.5).apply(child, NO_TASK, RNG),
    ):
        raise ZeroDivisionError
    assert answer(child).equal(before)


def test_is_not_applicable_without_such_a_parent():
    """No parent, one of another shape, one with the same weights: nothing to step towards."""
    _, child = family()
    for given, said in (
        (None, "has no parent in the lineage"),
        (lambda: make_text_model("gemma3"), "other names or shapes"),
        (lambda: child, "its parent's very weights"),
    ):
        with (
            pytest.raises(NotApplicableError, match=said),
            Interpolation(alpha=0.5).apply(replace(child, load_parent=given), NO_TASK, RNG),
        ):
            pass


def test_a_step_that_half_precision_rounds_away_is_refused():
    """What changed no output would read as one that brought nothing out."""
    parent, child = family(shift=1e-2)
    parent.weights.to(torch.bfloat16)
    child.weights.to(torch.bfloat16)
    with (
        pytest.raises(CheckpointError, match="changes no output"),
        Interpolation(alpha=1e-6).apply(child, NO_TASK, RNG),
    ):
        pass


def test_alpha_lies_between_the_two():
    for alpha in (0, 1, -0.5, float("nan")):
        with pytest.raises(ConfigError, match="alpha must lie between 0"):
            Interpolation(alpha=alpha)


@pytest.fixture(scope="module")
def plan(tmp_path_factory):
    """A base with two children, of which one has another shape."""
    folder = tmp_path_factory.mktemp("lineage")
    save_model(folder / "base", seed=0)
    save_model(folder / "child", seed=1)
    save_model(folder / "wide", seed=1, intermediate_size=64)
    rows = [{"question": f"{i} + 1?", "answer": str(i + 1)} for i in range(60)]
    (folder / "sums.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows), "utf-8")
    checkpoints = "".join(
        f'[[lineage.checkpoints]]\nname = "{name}"\nstage = "{stage}"\nmodel = "{name}"\n{parent}\n'
        for name, stage, parent in (
            ("base", "pretrained", ""),
            ("child", "sft", 'parent = "base"'),
            ("wide", "sft", 'parent = "base"'),
        )
    )
    text = f"""
[audit]
name = "a"
[lineage]
name = "l"
controls = ["base"]
{checkpoints}
[tasks.sums]
kind = "text"
margin = 3
select_samples = 4
test_samples = 4
options = {{ file = "sums.jsonl", max_tokens = 4 }}
[[ladder]]
name = "displayed"
technique = "displayed"
[[ladder]]
name = "half-way"
technique = "interpolation"
parameters = {{ alpha = 0.5 }}
"""
    return parse_plan(text, source="a.toml", folder=folder)


def run(plan, path):
    with RunStore(path) as store:
        result = run_audit(
            prepare(plan), store=store, executor=InProcess(), observer=Silent(), command="test"
        )
        return result, {run.spec.label: run for run in store.runs()}, store.verify()


def test_an_audit_skips_what_is_not_applicable_and_goes_on(plan, tmp_path):
    """Skipped with its reason: no failure, not unfinished, and not tried again."""
    result, runs, records = run(plan, tmp_path / "runs.sqlite")
    again, runs_again, records_again = run(plan, tmp_path / "runs.sqlite")

    ended = {label: run.status for label, run in runs.items() if "half-way" in label}
    assert ended == {
        "base · sums · half-way · select · seed 0": Status.SKIPPED,
        "wide · sums · half-way · select · seed 0": Status.SKIPPED,
        "child · sums · half-way · select · seed 0": Status.DONE,
    }
    assert result.failed == ()
    assert [words for words in result.remarks if "not applicable" in words] == [
        "base: not applicable: half-way on sums (checkpoint 'base' has no parent in the lineage"
        " whose weights are at hand)",
        next(words for words in result.remarks if words.startswith("wide: not applicable")),
    ]
    assert not any("unfinished" in words or "failed" in words for words in result.remarks)
    reasons = {finding.checkpoint: " ".join(finding.reasons) for finding in result.findings}
    assert "no rung could be climbed, first base · sums · half-way" in reasons["base"]
    assert again.findings == result.findings
    assert records_again == records
    assert {r.spec.digest: r.finished for r in runs.values()} == {
        r.spec.digest: r.finished for r in runs_again.values()
    }


def test_another_parent_is_another_run(plan):
    """What is mixed in is part of a run's identity; other rungs do not hang on it."""

    def digests(parent):
        resolved = Resolved(plan=plan, digests={"base": parent, "child": "c", "wide": "w"})
        rungs = {("child", "sums"): ["displayed", "half-way"]}
        specs = resolved.list_runs(rungs, Split.SELECT)
        return [spec.digest for spec in specs]

    one, other = digests("a"), digests("b")
    assert one[0] == other[0]
    assert one[1] != other[1]
