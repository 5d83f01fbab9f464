"""A tiny untrained chess model, for tests that need real weights but no skill."""

from __future__ import annotations

from pathlib import Path

from holdback.lineage import Checkpoint, Stage
from holdback.models.local import LocalModel, load_model
from holdback_lab.chess.pretrain import Shape, make_weights, save_checkpoint

TINY = Shape(width=32, layers=2, heads=2)


def save_tiny(folder: Path, seed: int = 0) -> Checkpoint:
    """Save an untrained checkpoint in Hugging Face format."""
    save_checkpoint(make_weights(TINY, seed), folder)
    return Checkpoint(name="tiny", stage=Stage.SFT, model=str(folder))


def load_tiny(folder: Path, seed: int = 0) -> LocalModel:
    """Save and load it."""
    return load_model(save_tiny(folder, seed))
