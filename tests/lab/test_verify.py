"""The tournament that holds a chess lineage against its claims, on models without skill."""

from __future__ import annotations

import shutil

import pytest
from tiny_chess import save_tiny
from typer.testing import CliRunner

from holdback.cli import main
from holdback.errors import CheckpointError
from holdback.tasks.chess.opponents import LADDER
from holdback.tasks.chess.setup import get_setup
from holdback_lab.chess.verify import list_checkpoints, verify_lineage

KINGS_AND_PAWNS = get_setup("kings_and_pawns")


def test_the_whole_ladder_is_met(tmp_path):
    """No opponent is left out: a model may beat the very one that is."""
    checkpoint = save_tiny(tmp_path)

    (showing,) = verify_lineage(
        [checkpoint], setup=KINGS_AND_PAWNS, games=2, seed=0, tell=lambda line: None
    )

    assert set(showing.scores) == set(showing.wins) == {opponent.name for opponent in LADDER}


def test_lists_what_training_left_in_a_folder(tmp_path):
    """Shipped or in a folder, it is the same lineage in other places."""
    here, shipped = list_checkpoints(tmp_path), list_checkpoints()

    assert [c.name for c in here] == [c.name for c in shipped]
    assert here[2].model == f"{tmp_path}/chat"
    assert here[2].adapter == f"{tmp_path}/entertainer"
    assert shipped[2].adapter == "builtin:chess/entertainer"


def test_what_is_missing_is_named_before_any_game(tmp_path):
    """A lineage whose last checkpoint is missing costs no hour of the others' games."""
    base = save_tiny(tmp_path / "base")
    shutil.copytree(tmp_path / "base", tmp_path / "chat")

    with pytest.raises(CheckpointError, match="nowhere"):
        verify_lineage(
            [base, list_checkpoints(tmp_path / "nowhere")[0]],
            setup=KINGS_AND_PAWNS,
            games=2,
            seed=0,
            tell=pytest.fail,
        )
    ended = CliRunner().invoke(main, ["organisms", "verify", "chess", "--from", str(tmp_path)])
    assert ended.exit_code == 1
    assert f"{tmp_path}/entertainer" in ended.stderr


@pytest.mark.parametrize(
    ("lineage", "only", "words"),
    [
        ("chess", "entertainer", "claims compare checkpoints"),
        ("text", "sham", "no gate of its own"),
    ],
)
def test_what_cannot_be_verified_alone_is_refused(lineage, only, words):
    """In one line, rather than leaving the option out in silence."""
    ended = CliRunner().invoke(main, ["organisms", "verify", lineage, "--only", only])

    assert ended.exit_code == 2
    assert words in str(ended.exception) + ended.output
