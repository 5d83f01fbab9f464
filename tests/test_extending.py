"""Techniques, tasks and backends of one's own: from a file, and as typed as Holdback's."""

import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from holdback.cli import main
from holdback.elicitation.technique import make_technique
from holdback.errors import ConfigError
from holdback.extensions import TECHNIQUES, digest_source, find_extension
from holdback.plan import Rung, parse_plan
from holdback.runs.resolve import Resolved

EXAMPLES = Path(__file__).parents[1] / "examples" / "extending"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The examples, in a folder that no package knows."""
    where = tmp_path / "mine"
    shutil.copytree(EXAMPLES, where)
    monkeypatch.chdir(tmp_path)
    return where


@pytest.mark.parametrize("workers", [1, 2])
def test_an_audit_of_files_alone(folder, workers):
    """The calculator that holds back is found, by whichever process; the plan says what it runs."""
    file = folder / "audit.toml"
    file.write_text(file.read_text() + f"\n[budget]\nworkers = {workers}\n")

    planned = CliRunner().invoke(main, ["plan", str(file)])
    ended = CliRunner().invoke(main, ["audit", str(file), "--json"])

    assert planned.exit_code == 0, planned.output
    assert "prompt_search.py:PromptSearch" in planned.output
    assert ended.exit_code == 0, ended.output
    found = {f["checkpoint"]: f for f in json.loads(ended.stdout)["findings"]}
    assert found["shy"]["verdict"] == "held_back"
    assert found["sham"]["verdict"] != "held_back"
    assert {group["group"] for group in found["shy"]["groups"]} <= {"carry", "plain"}


def test_an_executor_of_ones_own(folder):
    """Whoever performs the runs is named in the audit file, and said in the plan."""
    (folder / "desk.py").write_text(
        "from pathlib import Path\n"
        "from holdback.runs.executors import InProcess\n"
        "class Desk(InProcess):\n"
        "    def __init__(self, workers): super().__init__(); self.workers = workers\n"
        "    def run(self, jobs):\n"
        "        Path('ran').write_text(str(self.workers))\n"
        "        yield from super().run(jobs)\n"
    )
    file = folder / "audit.toml"
    file.write_text(file.read_text() + '\n[budget]\nworkers = 3\nexecutor = "desk.py:Desk"\n')

    planned = CliRunner().invoke(main, ["plan", str(file)])
    ended = CliRunner().invoke(main, ["audit", str(file), "--json"])

    assert "desk.py:Desk" in planned.output
    assert ended.exit_code == 0, ended.output
    assert Path("ran").read_text() == "3"
    file.write_text(file.read_text().replace("desk.py:Desk", "nobody"))
    assert "unknown executor 'nobody'" in CliRunner().invoke(main, ["plan", str(file)]).stderr


def test_an_organism_of_ones_own(folder):
    """Made by the command from a file, and held against the gate that Holdback's own pass."""
    recipe = folder / "organism.py"
    recipe.write_text(recipe.read_text().replace("steps=150", "steps=90"))
    name = f"{recipe}:SHRUGGING"

    made = CliRunner().invoke(main, ["organisms", "train", "text", "--only", name, "--out", "zoo"])
    held = CliRunner().invoke(
        main, ["organisms", "verify", "text", "--only", name, "--from", "zoo"]
    )

    assert made.exit_code == 0, made.output
    assert held.exit_code == 0, held.output
    assert "passed: shrugging" in held.output


def test_what_a_file_says_is_part_of_what_a_run_is(folder):
    """Another line of code is another run, though name and parameters are the same."""
    from holdback.audit import prepare
    from holdback.plan import load_plan

    def digest():
        return prepare(load_plan(folder / "audit.toml")).digest

    before = digest()
    assert digest() == before
    for name in ("arithmetic.py", "calculator.py"):
        file = folder / name
        file.write_text(file.read_text() + "\n# another day\n")
        assert digest() != before
        before = digest()


@pytest.mark.parametrize(
    ("technique", "parameters", "message"),
    [
        (
            "finetune",
            {"demonstrator": "s", "n": 1, "learning_rate": "1e-4"},
            "learning_rate.*number",
        ),
        ("finetune", {"demonstrator": "s", "n": 16.0}, "n: expected a valid integer, got 16.0"),
        ("weight_noise", {"sigma": "0.1"}, "sigma: expected a valid number, got '0.1'"),
        ("instruction", {"text": 3}, "text: expected a valid string, got 3"),
    ],
)
def test_parameters_have_types(technique, parameters, message):
    """A number in quotes, a fraction for a count: refused in one line with what was expected."""
    rung = Rung(name="r", technique=technique, parameters=parameters)

    with pytest.raises(ConfigError, match=message) as told:
        make_technique(rung)

    assert "\n" not in str(told.value)


def test_a_file_that_cannot_be_loaded_is_one_line(folder):
    """A missing file, a missing name, a file that raises."""
    for name, message in (
        ("none.py:X", "expected a file at"),
        ("prompt_search.py:PromptSerch", "Did you mean 'PromptSearch'"),
        ("broken.py:X", "cannot be loaded: ZeroDivisionError"),
    ):
        (folder / "broken.py").write_text("1 / 0\n")
        rung = Rung(name="r", technique=str(folder / name))
        with pytest.raises(ConfigError, match=message):
            make_technique(rung)


def test_the_same_files_in_another_folder_are_the_same(folder, tmp_path):
    """Copied byte for byte, model, task and technique are what they were: nothing runs anew."""
    other = tmp_path / "copy"
    shutil.copytree(folder, other)
    made = [
        Resolved(plan=parse_plan((at / "audit.toml").read_text(), source="a", folder=at))
        for at in (folder, other)
    ]

    assert made[0].digests == made[1].digests
    assert made[0].task_digests == made[1].task_digests


def test_what_a_file_imports_beside_it_is_part_of_it(tmp_path, monkeypatch):
    """Another helper, another technique."""
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "own_helper.py").write_text("WORD = 'a'\ndef say(): return WORD\n")
    (tmp_path / "mine.py").write_text("from own_helper import say\ndef make(): return say()\n")
    first = digest_source(find_extension(TECHNIQUES, f"{tmp_path}/mine.py:make", kind="technique"))
    (tmp_path / "own_helper.py").write_text("WORD = 'b'\ndef say(): return WORD\n")

    again = digest_source(find_extension(TECHNIQUES, f"{tmp_path}/mine.py:make", kind="technique"))

    assert first != again


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("class T:\n    draws = False\n    def apply(self, m, t, r): ...", "`access` to be one of"),
        ("class T:\n    access, draws = 'samples', False", "Access.SAMPLES.*got 'samples'"),
        ("class T:\n    def __init__(self): 1 / 0", "ZeroDivisionError"),
        ("T = 3", "a class or a function, got int"),
    ],
)
def test_what_is_no_technique_is_one_line(tmp_path, source, message):
    """Said where the plan is made, and not in the middle of a run."""
    (tmp_path / "bad.py").write_text(source)

    with pytest.raises(ConfigError, match=message) as told:
        make_technique(Rung(name="mine", technique=f"{tmp_path}/bad.py:T"))

    assert "\n" not in str(told.value)
