"""The audit files that users start from: those under examples/ and the one in the README."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from holdback.plan import load_plan, parse_plan
from holdback.runs.resolve import Resolved

ROOT = Path(__file__).parents[1]
EXAMPLES = sorted(ROOT.glob("examples/*/audit.toml"))


def _build(plan):
    """Everything but the checkpoints themselves, which are the reader's."""
    resolved = Resolved(plan=plan)
    assert resolved.ladder == plan.ladder
    assert [task.name for task in resolved.tasks.values()] == list(plan.tasks)


@pytest.mark.parametrize("path", EXAMPLES, ids=[path.parent.name for path in EXAMPLES])
def test_example_names_only_what_exists(path):
    """Tasks, techniques, parameters, stages and the short form of every example are real."""
    plan = load_plan(path)

    _build(plan)
    _build(plan.quickened())


@pytest.mark.parametrize("page", ["README.md", "docs/audit-file.md"])
def test_audit_files_in_the_documentation_are_real(page):
    """Every TOML block that starts an audit file can be used as it stands."""
    blocks = re.findall(r"```toml\n(.*?)```", (ROOT / page).read_text("utf-8"), re.DOTALL)
    whole = [block for block in blocks if "[audit]" in block]

    assert whole
    for block in whole:
        _build(parse_plan(block, source=page, folder=ROOT))


def test_pages_link_to_files_that_exist():
    """No relative link of the README or the documentation is dead."""
    for page in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *ROOT.glob("docs/*.md")]:
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text("utf-8")):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"
