"""What `holdback audit` and `plan` promise before and while something is spent."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from audits import fake_text
from fake_hub import COMMIT, add_repo
from holdback_fakes import Questions
from tiny_models import save_model
from typer.testing import CliRunner

from holdback.cli import main
from holdback.runs.store import RunStore

ROOT = Path(__file__).parents[2]
SMALL = (
    ("select_samples = 200", "select_samples = 30"),
    ("test_samples = 600", "test_samples = 60"),
)


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A working folder with an audit file in it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "audit.toml").write_text(fake_text(*SMALL))
    return tmp_path


def call(*arguments: str):
    return CliRunner().invoke(main, list(arguments), catch_exceptions=False)


def test_a_cap_is_code_3_and_the_same_command_goes_on(here):
    """Stopped, said, stored, reported; and then finished."""
    capped = call("audit", "audit.toml", "--max-samples", "100")

    assert capped.exit_code == 3
    assert "holdback: stopped at --max-samples 100; all that was done is stored" in capped.stderr
    with RunStore(here / "runs" / "fake.sqlite") as store:
        assert store.verify() == 100
    assert "1220 of" in (here / "runs" / "fake.html").read_text() or (
        "samples are missing" in (here / "runs" / "fake.html").read_text()
    )

    whole = call("audit", "audit.toml")

    assert whole.exit_code == 0
    assert "held back" in whole.stdout
    assert "samples are missing" not in (here / "runs" / "fake.html").read_text()


@pytest.mark.parametrize(
    ("option", "value"), [("--max-samples", "0"), ("--max-tokens", "-1"), ("--max-minutes", "x")]
)
def test_a_cap_that_is_none_is_refused(here, option, value):
    """A cap of nothing is a typing error."""
    ended = call("audit", "audit.toml", option, value)

    assert ended.exit_code == 2
    assert option in ended.stderr


def test_prompts_are_shown_before_anything_is_run(here):
    """Checkpoint, task, rung, sample, text and token ids; and why one is not shown."""
    ended = call("plan", "audit.toml", "--show-prompts")

    assert ended.exit_code == 0
    shown = (
        "── base · questions · displayed · q0 · 8 tokens\nbase, question 0?\n[0, 1, 2, 3, 4, 5, 6"
    )
    assert shown in ended.stdout
    assert (
        "base · questions · half: no prompt to show: the technique of rung 'half'" in ended.stdout
    )
    assert "48 runs, 1920 samples" in ended.stdout
    # What is asked in the same words is printed once.
    assert ended.stdout.count("base, question 0?") == 1
    assert not (here / "runs").exists()


def test_a_template_moves_no_cursor(here, monkeypatch):
    """What comes from a checkpoint's own template is printed, not obeyed."""
    from holdback_fakes import Questions

    from holdback.tasks.task import Prompt

    evil = Prompt(sample_id="q0", text="a\x1b[2Jb\u202ec")
    monkeypatch.setattr(Questions, "preview", lambda self, model, **_: [evil])

    ended = call("plan", "audit.toml", "--show-prompts")

    assert "ab‹U+202E›c" in ended.stdout
    assert "\x1b[2J" not in ended.stdout


def test_a_timing_takes_the_files_place(here):
    """Minutes follow from what was measured here: a tenth of a second a question."""
    text = fake_text(*SMALL, ("margin = 3", "margin = 3\noptions = { delay_seconds = 0.1 }"))
    (here / "audit.toml").write_text(text)

    ended = call("plan", "audit.toml", "--time")

    rate = re.search(r"questions: timed here on base: ([\d.]+) samples/s over 16", ended.stdout)
    minutes = re.search(r"1920 samples, about (\d+) min", ended.stdout)
    assert 5 < float(rate[1]) <= 10
    # And 32 trainings of five seconds.
    assert int(minutes[1]) == pytest.approx(1920 / float(rate[1]) / 60 + 32 * 5 / 60, abs=1)


def test_what_is_not_climbed_is_said(here):
    """A plan says which rungs a checkpoint's access leaves out."""
    closed = ('model = "fake:0.3/0.8"', 'model = "closed:0.3/0.8"')
    (here / "audit.toml").write_text(fake_text(*SMALL, closed))

    ended = call("plan", "audit.toml")

    assert (
        "sandbagger on questions: not climbed: half, strong-4, strong-16: each needs weights"
        in ended.stdout
    )


def test_what_a_task_remarks_is_said_before_and_after(here, monkeypatch):
    """As a file of numbers scored by `exact` is; in `plan`, and with the findings."""
    monkeypatch.setattr(Questions, "remarks", ("all targets are numbers",), raising=False)

    planned, audited = call("plan", "audit.toml"), call("audit", "audit.toml", "--json")

    assert "questions: all targets are numbers" in planned.stdout
    assert "questions: all targets are numbers" in json.loads(audited.stdout)["remarks"]


DEAF = """
import socket
def refuse(*args, **kwargs):
    raise OSError("this test has no network")
for name in ("connect", "connect_ex", "sendto", "bind"):
    setattr(socket.socket, name, refuse)
socket.getaddrinfo = socket.create_connection = socket.gethostbyname = refuse
from holdback.cli import main
main()
"""

HUB_AUDIT = """
[audit]
name = "hub"
[lineage]
name = "hub"
[[lineage.checkpoints]]
name = "tiny"
stage = "sft"
model = "hf/org/tiny"
[tasks.positions]
kind = "chess_positions"
margin = 3.0
select_samples = 4
test_samples = 4
[[ladder]]
name = "displayed"
technique = "displayed"
[[ladder]]
name = "noise"
technique = "weight_noise"
parameters = { sigma = 0.05 }
"""


def deaf(here: Path, *arguments: str) -> tuple[int, str, str]:
    """Run a command in a process that no socket works in, with a hub cache of its own."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "TRANSFORMERS_"))}
    ended = subprocess.run(
        [sys.executable, "-c", DEAF, *arguments],
        cwd=here,
        env={**kept, "PYTHONPATH": str(ROOT / "src"), "HF_HOME": str(here / "home")},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    return ended.returncode, ended.stdout, ended.stderr


def test_offline_touches_no_network(tmp_path):
    """With every socket refused, an audit of a cached repository runs to its report.

    Without the option the same command asks the hub, which the refusing sockets show.
    """
    add_repo(tmp_path / "home" / "hub", "org/tiny", save_model(tmp_path / "tiny"))
    (tmp_path / "audit.toml").write_text(HUB_AUDIT)

    code, _, err = deaf(tmp_path, "plan", "audit.toml")
    assert code == 1
    assert "hf/org/tiny: the hub cannot be asked" in err
    assert err.count("\n") == 1

    code, out, err = deaf(tmp_path, "audit", "audit.toml", "--offline")
    assert (code, err.count("Traceback")) == (0, 0), err
    assert "tiny" in out
    with RunStore(tmp_path / "runs" / "hub.sqlite") as store:
        assert store.verify() == 16
        assert COMMIT in store.audits()[0].plan


def test_offline_refuses_another_machines_endpoint(here, monkeypatch):
    """An address that is not here is refused in one line before anything is asked."""
    from holdback.models import hub

    # Undone afterwards: the option sets them for the process and its children.
    monkeypatch.setenv(hub.OFFLINE, "")
    monkeypatch.setenv("HF_HUB_OFFLINE", "")
    remote = ('model = "fake:0.3/0.8"', 'model = "openai/gpt"\nbase_url = "https://far.example/v1"')
    (here / "audit.toml").write_text(fake_text(*SMALL, remote))

    ended = call("plan", "audit.toml", "--offline")

    assert ended.exit_code == 2
    assert "--offline touches no network, and https://far.example/v1 is not" in ended.stderr
