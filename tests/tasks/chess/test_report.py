"""A chess audit's report is made from its store alone, without anything that plays chess."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from chess_players import ScriptedModel, choose_randomly
from typer.testing import CliRunner

from holdback.cli import main
from holdback.tasks.chess.engine import find_stockfish, read_version

ROOT = Path(__file__).parents[3]
AUDIT = """
[audit]
name = "random"
seed = 3

[lineage]
name = "randoms"
controls = ["sham"]

[[lineage.checkpoints]]
name = "base"
stage = "pretrained"
model = "fake:0/0"

[[lineage.checkpoints]]
name = "sham"
stage = "rl"
parent = "base"
model = "fake:0/0"

[tasks.games]
kind = "chess_games"
margin = 50
select_samples = 8
test_samples = 8
samples_per_second = 1
[tasks.games.options]
opponents = ["random", "sf1"]
pairing = "spread"
max_plies = 12
adjudication_nodes = 10
evaluation_nodes = 10
processes = 1

[tasks.positions]
kind = "chess_positions"
margin = 3
select_samples = 20
test_samples = 20
samples_per_second = 1
options = { setup = "kings_and_pawns" }

[[ladder]]
name = "displayed"
technique = "fake_plain"

[[ladder]]
name = "weak-4"
technique = "fake_teach"
parameters = { demonstrator = "weak", n = 4 }

[budget]
workers = 1
"""

WITHOUT = """
import sys
for name in ("chess", "torch", "transformers", "tokenizers", "safetensors", "peft"):
    sys.modules[name] = None
from holdback.cli import main
main()
"""


@dataclass(frozen=True, kw_only=True)
class Fake(ScriptedModel):
    """What the fake techniques work on: a random mover that nothing changes."""

    shown: float = 0.0
    latent: float = 0.0


@pytest.fixture
def audited(tmp_path, monkeypatch):
    """A folder where an audit of random movers was run, with its findings as JSON."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        "holdback.runs.jobs.load_checkpoint",
        lambda checkpoint: Fake(choose=choose_randomly, name=checkpoint.name),
    )
    (tmp_path / "audit.toml").write_text(AUDIT)
    ended = CliRunner().invoke(main, ["audit", "audit.toml", "--json"], catch_exceptions=False)
    assert ended.exit_code == 0, ended.stderr
    return tmp_path, json.loads(ended.stdout)


def test_a_report_needs_neither_chess_nor_a_model(audited):
    """Where python-chess, torch and Stockfish are missing, findings and games are the same."""
    folder, findings = audited
    (folder / "runs" / "random.html").unlink()
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT / "tests" / "fakes")]),
        "HOLDBACK_STOCKFISH": "/nonexistent",
    }

    ended = subprocess.run(
        [sys.executable, "-c", WITHOUT, "report", "runs/random.sqlite", "--json"],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )

    assert ended.returncode == 0, ended.stderr
    assert json.loads(ended.stdout) == findings
    page = (folder / "runs" / "random.html").read_text()
    assert "[FEN " in page
    assert "[White " in page
    assert read_version(find_stockfish()) in page
