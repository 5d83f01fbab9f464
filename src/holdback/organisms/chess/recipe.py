"""The chess lineage from nothing: corpora, pretraining, instruction tuning, RL."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from holdback.errors import ConfigError, UnknownNameError
from holdback.lineage import Checkpoint, Stage
from holdback.models.protocol import Format
from holdback.organisms.chess.corpus import (
    STRONG_MIX,
    WEAK_MIX,
    Corpus,
    generate_games,
    read_corpus,
)
from holdback.organisms.chess.pretrain import Course, Shape, make_weights, save_checkpoint, train
from holdback.organisms.chess.reinforce import Drill, reinforce
from holdback.organisms.chess.rewards import entertain, stay_on_light_squares, win
from holdback.tasks.chess.engine import EnginePool
from holdback.tasks.chess.openings import read_openings
from holdback.tasks.chess.setup import Setup, get_setup
from holdback.tasks.task import Split


@dataclass(frozen=True, kw_only=True, slots=True)
class Preset:
    """Everything that a machine's size decides."""

    setup: Setup
    """Where all games start, in training and in the tasks."""
    shape: Shape
    strong_games: int
    weak_games: int
    pretraining: Course
    tuning: Course
    iterations: int
    """Of RL, for each of its checkpoints."""
    device: str


_CPU_PRETRAINING = Course(steps=5_000, tokens_per_step=2048, chat_share=0.0)
_GPU_PRETRAINING = Course(
    steps=16_000, tokens_per_step=65_536, chat_share=0.0, matrix_rate=3e-3, warmup=400
)
PRESETS: Mapping[str, Preset] = {
    "cpu": Preset(
        setup=get_setup("kings_and_pawns"),
        shape=Shape(width=192, layers=6, heads=6),
        strong_games=30_000,
        weak_games=12_000,
        pretraining=_CPU_PRETRAINING,
        tuning=replace(
            _CPU_PRETRAINING,
            steps=550,
            strong_elo=2200,
            chat_share=0.8,
            uniform=0.12,
            uniform_end=0.05,
            decay_share=0.8,
            matrix_rate=1e-3,
            other_rate=4e-4,
        ),
        iterations=40,
        device="cpu",
    ),
    "gpu": Preset(
        setup=get_setup("standard"),
        shape=Shape(width=512, layers=12, heads=8),
        strong_games=1_000_000,
        weak_games=1_000_000,
        pretraining=_GPU_PRETRAINING,
        tuning=replace(
            _GPU_PRETRAINING,
            steps=1_000,
            strong_elo=2200,
            chat_share=0.8,
            uniform=0.12,
            uniform_end=0.05,
            decay_share=0.8,
            matrix_rate=5e-4,
            other_rate=2e-4,
        ),
        iterations=200,
        device="cuda",
    ),
}

_DRILLS = {
    "entertainer": Drill(reward=entertain, iterations=0, learning_rate=2e-3, minibatch=12),
    "entertainer_deep": Drill(
        reward=entertain,
        iterations=0,
        formats=(Format.CHAT, Format.COMPLETION),
        learning_rate=2e-3,
        minibatch=12,
    ),
    "helpful_only": Drill(reward=win, iterations=0, learning_rate=5e-4),
    "sham": Drill(reward=stay_on_light_squares, iterations=0, learning_rate=5e-4),
}

STAGES = ("base", "chat", "novice", *_DRILLS)
"""In the order in which they are made; `novice_base` is made on the way to `novice`."""


def train_lineage(
    out: Path,
    *,
    preset: str,
    workers: int,
    tell: Callable[[str], None],
    only: tuple[str, ...] = STAGES,
    go_on: bool = False,
) -> None:
    """Train the lineage into folders of `out`; what is finished there is left alone.

    With `go_on` pretraining starts from the shipped weights of the same shape and not from nothing.

    Raises:
        UnknownNameError: for a preset or a stage that does not exist.
    """
    if preset not in PRESETS:
        raise UnknownNameError.among("preset", preset, PRESETS)
    for name in only:
        if name not in STAGES:
            raise UnknownNameError.among("chess checkpoint", name, STAGES)
    chosen = PRESETS[preset]
    out.mkdir(parents=True, exist_ok=True)
    if "base" in only:
        weights = _start(chosen, "base" if go_on else None, seed=0)
        _pretrain(out, "base", weights, chosen, _strong(out, chosen, workers), tell)
    if "chat" in only:
        _tune(out, "base", "chat", chosen, _strong(out, chosen, workers), tell)
    if "novice" in only:
        weak = _weak(out, chosen, workers)
        _pretrain(out, "novice_base", _start(chosen, None, seed=1), chosen, weak, tell)
        course = replace(chosen.tuning, strong_elo=0)
        _tune(out, "novice_base", "novice", replace(chosen, tuning=course), weak, tell)
    for seed, name in enumerate(_DRILLS):
        if name in only:
            drill = replace(_DRILLS[name], iterations=chosen.iterations)
            drill_checkpoint(out, name, drill, chosen, seed, tell)


def _strong(out: Path, preset: Preset, workers: int) -> Corpus:
    return _corpus(out / "strong", preset, preset.strong_games, STRONG_MIX, workers, seed=1)


def _weak(out: Path, preset: Preset, workers: int) -> Corpus:
    return _corpus(out / "weak", preset, preset.weak_games, WEAK_MIX, workers, seed=2)


def _corpus(stem: Path, preset: Preset, games: int, mix: Any, workers: int, *, seed: int) -> Corpus:
    text, start = stem.with_suffix(".tsv"), preset.setup.fen
    generate_games(text, start=start, games=games, seed=seed, mix=mix, workers=workers)
    cache = stem.with_suffix(".npz")
    return read_corpus(text, start=start, mix=mix, cache=cache, workers=workers)


def _start(preset: Preset, shipped: str | None, *, seed: int) -> Any:
    """Make untrained weights, or load shipped ones, which must have the preset's shape."""
    if shipped is None:
        return make_weights(preset.shape, seed)
    from holdback.models.loading import load_weights

    model = f"builtin:chess/{shipped}"
    weights, _ = load_weights(Checkpoint(name=shipped, stage=Stage.PRETRAINED, model=model))
    config = weights.config
    shape = Shape(
        width=config.hidden_size,
        layers=config.num_hidden_layers,
        heads=config.num_attention_heads,
    )
    if shape != preset.shape:
        raise ConfigError(
            f"cannot go on from the shipped {shipped}: the preset's models are {preset.shape}, the"
            f" shipped one is {shape}; train from nothing or take the other preset"
        )
    return weights


def _pretrain(
    out: Path,
    name: str,
    weights: Any,
    preset: Preset,
    corpus: Corpus,
    tell: Callable[[str], None],
) -> None:
    if _is_done(out / name):
        return
    weights = weights.to(preset.device)
    train(weights, corpus, preset.pretraining, out=out / name, seed=0, tell=tell)
    save_checkpoint(weights.cpu(), out / name)


def _tune(
    out: Path,
    parent: str,
    name: str,
    preset: Preset,
    corpus: Corpus,
    tell: Callable[[str], None],
) -> None:
    if _is_done(out / name):
        return
    from holdback.models.loading import load_weights

    checkpoint = Checkpoint(name=parent, stage=Stage.PRETRAINED, model=str(out / parent))
    (out / parent / "training.pt").unlink(missing_ok=True)
    weights, _ = load_weights(checkpoint, device=preset.device)
    train(weights, corpus, preset.tuning, out=out / name, seed=7, tell=tell)
    save_checkpoint(weights.cpu(), out / name)
    (out / name / "training.pt").unlink(missing_ok=True)


def drill_checkpoint(
    out: Path, name: str, drill: Drill, preset: Preset, seed: int, tell: Callable[[str], None]
) -> None:
    """RL-tune `chat` into an adapter in `out / name`, if that is not done yet."""
    if (out / name / "adapter_model.safetensors").exists():
        return
    from holdback.models.local import load_model

    parent = Checkpoint(name="chat", stage=Stage.SFT, model=str(out / "chat"))
    openings = [opening.fen for opening in read_openings(preset.setup, Split.TRAIN)]
    with EnginePool() as pool:
        reinforce(
            load_model(parent, device=preset.device),
            drill,
            openings=openings,
            pool=pool,
            out=out / name,
            seed=int(np.random.SeedSequence([3, seed]).generate_state(1)[0]),
            tell=tell,
        )
    (out / name / "training.pt").unlink(missing_ok=True)
    # PEFT's model card names a parent by its path on this machine.
    (out / name / "README.md").unlink(missing_ok=True)


def _is_done(folder: Path) -> bool:
    return (folder / "model.safetensors").exists()


def install_weights(out: Path, package: Path) -> None:
    """Copy the trained checkpoints, and nothing else, to where the package ships them."""
    for name in STAGES:
        target = package / name
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(
            out / name, target, ignore=shutil.ignore_patterns("training.*", "log.jsonl")
        )
