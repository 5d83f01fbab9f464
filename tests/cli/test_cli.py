"""The command line, mostly as its own process: what it prints, where, and how it ends."""

from __future__ import annotations

import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest
from audits import fake_text
from typer.testing import CliRunner

from holdback.cli import main
from holdback.runs.store import RunStore

ROOT = Path(__file__).parents[2]
HEAVY = ("torch", "transformers", "chess", "ray", "inspect_ai", "peft")
SMALL = (
    ("select_samples = 200", "select_samples = 30"),
    ("test_samples = 600", "test_samples = 60"),
)


def environment() -> dict[str, str]:
    folders = [str(ROOT / "src"), str(ROOT / "tests" / "fakes")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(folders)}


def start(*arguments: str, folder: Path, program: str = "from holdback.cli import main; main()"):
    return subprocess.Popen(
        [sys.executable, "-c", program, *arguments],
        cwd=folder,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(*arguments: str, folder: Path, **options: str) -> tuple[int, str, str]:
    process = start(*arguments, folder=folder, **options)
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A working folder with an audit file in it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "audit.toml").write_text(fake_text(*SMALL))
    return tmp_path


def call(*arguments: str):
    return CliRunner().invoke(main, list(arguments), catch_exceptions=False)


def test_an_audit_prints_findings_and_writes_a_report(here):
    """The table is on stdout, the records and the page lie under runs/."""
    ended = call("audit", "audit.toml")

    assert ended.exit_code == 0
    assert "held back" in ended.stdout
    assert (here / "runs" / "fake.sqlite").exists()
    assert "sandbagger" in (here / "runs" / "fake.html").read_text()


def test_json_is_one_object_and_nothing_else(here):
    """Programs read stdout whole; progress and the report's path go to stderr."""
    ended = call("audit", "audit.toml", "--json")

    findings = json.loads(ended.stdout)["findings"]
    assert [finding["checkpoint"] for finding in findings] == ["sandbagger", "sham", "weak", "base"]
    required = {"checkpoint", "task", "verdict", "displayed", "elicited", "gap", "control_gap"}
    assert required | {"rung", "reasons"} <= set(findings[0])
    assert set(findings[1]["gap"]) >= {"value", "low", "high", "n"}
    assert "Report: " in ended.stderr


def test_a_report_is_made_again_from_the_store(here):
    """By store or by audit, the findings are those of the audit."""
    audited = call("audit", "audit.toml", "--json")
    (here / "runs" / "fake.html").unlink()

    by_store = call("report", "runs/fake.sqlite", "--json")
    by_audit = call("report", "audit.toml", "--json", "--out", "again.html")

    assert json.loads(by_store.stdout) == json.loads(audited.stdout)
    assert json.loads(by_audit.stdout) == json.loads(audited.stdout)
    assert (here / "runs" / "fake.html").exists()
    assert (here / "again.html").exists()


def test_a_report_is_found_by_the_name_of_an_audit_of_ones_own(here):
    """As `holdback report --help` says: the name in the file, whatever the file is called."""
    audited = call("audit", "audit.toml", "--json")

    named = call("report", "fake", "--json", "--out", "again.html")

    assert json.loads(named.stdout) == json.loads(audited.stdout)
    assert "found none" in call("report", "nobody", "--json").stderr


@pytest.mark.parametrize("command", ["audit", "report"])
@pytest.mark.parametrize("out", ["folder", "/proc/no/page.html", "audit.toml/page.html"])
def test_a_report_that_cannot_be_written_is_refused_before_anything_runs(here, command, out):
    """A folder, or a place where nothing can be written: one line, and no run."""
    (here / "folder").mkdir()
    if command == "report":
        call("audit", "audit.toml")

    ended = call(command, "audit.toml", "--out", out)

    assert ended.exit_code == 2
    assert f"the report can be written to, got {out}" in ended.stderr
    assert len(ended.stderr.splitlines()) == 1
    assert (here / "runs" / "fake.sqlite").exists() == (command == "report")


def test_a_plan_says_what_it_would_take_and_runs_nothing(here):
    """Runs, samples, minutes, and the smallest gap that could be found."""
    ended = call("plan", "audit.toml")

    assert ended.exit_code == 0
    # 4 checkpoints: select 1+1+3+3 seeds, test displayed and the costliest with its 3 seeds.
    assert "48 runs, 1920 samples" in ended.stdout
    assert "smallest detectable gap 34.5 beyond a control's" in ended.stdout
    assert not (here / "runs").exists()


def test_a_quick_report_does_not_replace_the_whole_ones(here):
    """It stands beside it, under a name of its own."""
    call("audit", "audit.toml")
    whole = (here / "runs" / "fake.html").read_bytes()

    call("audit", "audit.toml", "--quick")

    assert (here / "runs" / "fake.html").read_bytes() == whole
    assert (here / "runs" / "fake-quick.html").exists()


def test_quick_does_less(here):
    """`--quick` leaves out what the file says."""
    ended = call("plan", "audit.toml", "--quick")

    assert "20 runs, 1400 samples" in ended.stdout


@pytest.mark.parametrize(
    ("replacement", "line"),
    [
        (('parent = "base"', 'parent = "bas"'), "unknown parent.*Did you mean 'base'"),
        (('skip = ["half"]', 'skip = ["hal"]'), "unknown rung.*Did you mean 'half'"),
        (("fake_unlock", "fake_unlok"), "unknown technique.*Did you mean 'fake_unlock'"),
        (("margin = 3", "margn = 3"), "unknown key.*Did you mean 'margin'"),
    ],
)
def test_a_mistake_in_the_file_is_one_line_and_code_2(here, replacement, line):
    """A user's mistake has no traceback, and its code tells it from a failed run."""
    (here / "audit.toml").write_text(fake_text(replacement))

    ended = call("audit", "audit.toml")

    assert ended.exit_code == 2
    assert ended.stderr.startswith("holdback: ")
    assert ended.stderr.count("\n") == 1
    assert re.search(line, ended.stderr)


def test_an_unknown_audit_is_code_2(here):
    """A shipped audit's name typed wrong is answered with the right one."""
    ended = call("audit", "ches")

    assert ended.exit_code == 2
    assert "Did you mean 'chess'" in ended.stderr


def test_a_store_of_another_version_is_one_line_and_untouched(here):
    """Nothing stored is lost to a Holdback that does not know it."""
    call("audit", "audit.toml")
    store = here / "runs" / "fake.sqlite"
    db = sqlite3.connect(store)
    db.execute("PRAGMA user_version = 99")
    db.close()
    before = store.read_bytes()

    ended = call("audit", "audit.toml")

    assert ended.exit_code == 1
    assert ended.stderr.count("\n") == 1
    assert "got version 99" in ended.stderr
    assert store.read_bytes() == before


def test_an_altered_store_gets_no_report(here):
    """A record changed afterwards is named before anything is concluded from it."""
    call("audit", "audit.toml")
    db = sqlite3.connect(here / "runs" / "fake.sqlite")
    with db:
        db.execute("UPDATE samples SET value = 1 - value WHERE sequence = 17")
    db.close()

    ended = call("report", "runs/fake.sqlite")

    assert ended.exit_code == 1
    assert "altered at record 17" in ended.stderr


def test_flipped_bytes_are_one_line(here):
    """A store that the disk has damaged: no traceback, and nothing is written to it."""
    call("audit", "audit.toml")
    store = here / "runs" / "fake.sqlite"
    damaged = bytearray(store.read_bytes())
    for at in range(4096, len(damaged), 512):
        damaged[at : at + 64] = bytes(64)
    store.write_bytes(damaged)

    ended = call("report", "runs/fake.sqlite")

    assert ended.exit_code == 1
    assert ended.stderr.count("\n") == 1
    assert store.read_bytes() == damaged


def test_failed_runs_are_code_1_and_the_report_is_written(here):
    """A technique with a bug does not cost the findings of the others."""
    text = fake_text(
        *SMALL,
        ('technique = "fake_unlock"\nparameters = { share = 0.5 }', 'technique = "fake_crash"'),
    )
    (here / "audit.toml").write_text(text)

    ended = call("audit", "audit.toml")

    assert ended.exit_code == 1
    assert "failed runs: 4" in ended.stderr
    assert "held back" in ended.stdout
    assert (here / "runs" / "fake.html").exists()


def test_a_bug_keeps_its_traceback(here, monkeypatch):
    """Only our own errors become one line."""
    monkeypatch.setattr("holdback.audit.prepare", lambda plan: 1 / 0)

    with pytest.raises(ZeroDivisionError):
        call("audit", "audit.toml")


def test_killed_and_started_again_the_result_is_the_same(here):
    """kill -9 in the middle of an audit with workers; then the same command ends alike."""
    slow = fake_text(
        ("margin = 3", "margin = 3\noptions = { delay_seconds = 0.01 }"),
        ("select_samples = 50", "select_samples = 20"),
        ("test_samples = 100", "test_samples = 20"),
    )
    (here / "audit.toml").write_text(slow)
    arguments = ("audit", "audit.toml", "--json", "--workers", "2", "--quick", "--store")
    whole = run(*arguments, "whole.sqlite", folder=here)

    process = start(*arguments, "cut.sqlite", folder=here)
    wait_for_samples(here / "cut.sqlite", 40)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    with RunStore(here / "cut.sqlite") as store:
        cut = store.verify()
    again = run(*arguments, "cut.sqlite", folder=here)

    with RunStore(here / "whole.sqlite") as store:
        stored = store.verify()
    assert whole[0] == again[0] == 0
    assert 40 <= cut < stored
    assert json.loads(again[1]) == json.loads(whole[1])
    with RunStore(here / "cut.sqlite") as store:
        assert store.verify() == stored


def wait_for_samples(path: Path, count: int) -> None:
    """Look into a store that another process writes, until it holds so many samples."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        time.sleep(0.05)
        if not path.exists():
            continue
        db = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
        try:
            if db.execute("SELECT count(*) FROM samples").fetchone()[0] >= count:
                return
        except sqlite3.OperationalError:
            continue
        finally:
            db.close()
    pytest.fail(f"no {count} samples in {path} after a minute")


WATCHED = """
import json, sys
from holdback.cli import main
try:
    main()
finally:
    loaded = [name for name in json.loads({heavy!r}) if name in sys.modules]
    print(json.dumps(loaded), file=sys.stderr)
"""


@pytest.mark.parametrize("arguments", [("--help",), ("--version",), ("report", "runs/fake.sqlite")])
def test_starts_without_what_is_heavy(here, arguments):
    """Help and reports need neither torch nor chess: what takes seconds to import stays out."""
    call("audit", "audit.toml")

    code, _, err = run(*arguments, folder=here, program=WATCHED.format(heavy=json.dumps(HEAVY)))

    assert code == 0
    assert json.loads(err.splitlines()[-1]) == []
