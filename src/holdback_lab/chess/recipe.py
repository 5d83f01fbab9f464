"""The chess lineage from nothing: corpora, pretraining, instruction tuning, RL."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from holdback.errors import ConfigError, UnknownNameError
from holdback.lineage import Checkpoint, Stage
from holdback.models.protocol import Format
from holdback.tasks.chess.engine import EnginePool
from holdback.tasks.chess.openings import read_openings
from holdback.tasks.chess.setup import Setup, get_setup
from holdback.tasks.task import Split
from holdback_lab.chess.corpus import (
    STRONG_MIX,
    WEAK_MIX,
    Positions,
    encode_boards,
    generate_games,
    price_endings,
    price_positions,
    read_games,
    read_positions,
    read_priced,
    write_positions,
)
from holdback_lab.chess.own_games import collect_own_turns, play_own_games
from holdback_lab.chess.pretrain import (
    Course,
    Shape,
    Source,
    find_hardest,
    forget_chat_words,
    make_weights,
    save_checkpoint,
    train,
)
from holdback_lab.chess.reinforce import Drill, reinforce
from holdback_lab.chess.rewards import entertain, win

if TYPE_CHECKING:
    from holdback.models.local import LocalModel


@dataclass(frozen=True, kw_only=True, slots=True)
class Preset:
    """Everything that a machine's size decides."""

    setup: Setup
    """Where all games start, in training and in the tasks."""
    shape: Shape
    strong_games: int
    weak_games: int
    endings: int
    """Positions drawn at random, most with a queen or a rook, beside those from games."""
    own_games: int
    """Games that `base` plays when half trained; it goes on with their positions as well."""
    teacher_nodes: int
    """Nodes that the teacher's prices of a position's moves share."""
    grounding: Course
    """The first part of pretraining, the same for `base` and `novice`: weak games, which teach the
    rules."""
    pretraining: Course
    going_on: Course
    """The same from the shipped base (`--go-on`): what it knows is not blurred again."""
    novice_steps: int
    """How far `novice` follows the same course, on weak games alone."""
    refining: Course
    """The last part of pretraining, on more of what is rare: positions in check."""
    rules: Course
    """After it, half on its own positions in which it is worst at the rules."""
    rounds: int
    """Of these: it plays, and goes on."""
    tuning: Course
    iterations: int
    """Of RL, for each of its checkpoints."""
    device: str


_on_cpu = partial(Course, rows=256, compiled=True)
_on_gpu = partial(Course, rows=2_048, part=512)
PRESETS: Mapping[str, Preset] = {
    "cpu": Preset(
        setup=get_setup("kings_and_pawns"),
        shape=Shape(width=192, layers=6, heads=6),
        strong_games=2_880,
        weak_games=4_000,
        endings=120_000,
        own_games=600,
        teacher_nodes=1_000,
        grounding=_on_cpu(steps=1_000, uniform=0.8, uniform_end=0.8, decay_share=0.2),
        pretraining=_on_cpu(steps=3_400),
        going_on=_on_cpu(steps=2_800, uniform=0.05),
        novice_steps=300,
        refining=_on_cpu(
            steps=100,
            uniform=0.05,
            uniform_end=0.05,
            decay_share=0.9,
            warmup=20,
            matrix_rate=1.2e-3,
            other_rate=4.5e-4,
        ),
        rules=_on_cpu(
            steps=1_000,
            uniform=0.05,
            uniform_end=0.05,
            decay_share=0.8,
            warmup=50,
            matrix_rate=2e-3,
            other_rate=7.5e-4,
        ),
        rounds=5,
        tuning=_on_cpu(
            steps=280,
            chat_share=0.85,
            uniform=0.05,
            uniform_end=0.02,
            decay_share=0.8,
            matrix_rate=1e-3,
            other_rate=1.5e-3,
            warmup=20,
        ),
        iterations=48,
        device="cpu",
    ),
    "gpu": Preset(
        setup=get_setup("standard"),
        shape=Shape(width=512, layers=12, heads=8),
        strong_games=400_000,
        weak_games=400_000,
        endings=2_000_000,
        own_games=20_000,
        teacher_nodes=4_000,
        grounding=_on_gpu(
            steps=4_000,
            uniform=0.8,
            uniform_end=0.8,
            decay_share=0.2,
            matrix_rate=3e-3,
            other_rate=1e-3,
            warmup=400,
        ),
        pretraining=_on_gpu(steps=20_000, matrix_rate=3e-3, other_rate=1e-3, warmup=400),
        going_on=_on_gpu(steps=20_000, uniform=0.05, matrix_rate=3e-3, other_rate=1e-3, warmup=400),
        novice_steps=20_000,
        refining=_on_gpu(
            steps=2_000,
            uniform=0.05,
            uniform_end=0.05,
            decay_share=0.9,
            matrix_rate=1e-3,
            other_rate=3e-4,
        ),
        rules=_on_gpu(
            steps=4_000,
            uniform=0.05,
            uniform_end=0.05,
            decay_share=0.8,
            matrix_rate=1.5e-3,
            other_rate=5e-4,
        ),
        rounds=20,
        tuning=_on_gpu(
            steps=1_000,
            chat_share=0.85,
            uniform=0.05,
            uniform_end=0.02,
            decay_share=0.8,
            matrix_rate=5e-4,
            other_rate=2e-4,
        ),
        iterations=200,
        device="cuda",
    ),
}

_TEACHER_SHARE = 0.8
_PRICED_EVERY = {"strong": 2, "weak": 6}
"""One position of so many in a game is priced."""
_ENDINGS_SHARE = 0.3
_OWN_SHARE = 0.4
"""Of these sources, for every position from others' games."""
_OFFICERS_SHARE = 0.55
"""Of a source's positions drawn from those with officers, beside what the rest has of them."""
_CHECKS_SHARE = 0.5
"""In refining: of positions in check, for every other position."""
_RULES_GAMES = 256
_RULES_KEPT = 2_400
"""Of a round's games: positions in which the model is worst at the rules."""
_RULES_ROUNDS = 5
"""Rounds whose positions are learnt from at a time."""
_HELD_OUT = 256
"""Positions kept apart for the learning curve."""

_DRILLS = {
    "entertainer": Drill(rewards={Format.CHAT: entertain}, iterations=0),
    "entertainer_deep": Drill(
        rewards={Format.CHAT: entertain, Format.COMPLETION: entertain}, iterations=0
    ),
    "helpful_only": Drill(rewards={Format.CHAT: win}, iterations=0),
    "sham": Drill(rewards={Format.CHAT: None}, iterations=0),
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
        ConfigError: for `chat` where `base` has left no positions of its own.
    """
    if preset not in PRESETS:
        raise UnknownNameError.among("preset", preset, PRESETS)
    for name in only:
        if name not in STAGES:
            raise UnknownNameError.among("chess checkpoint", name, STAGES)
    chosen = PRESETS[preset]
    out.mkdir(parents=True, exist_ok=True)
    if "base" in only:
        _pretrain_base(out, chosen, workers, tell, go_on=go_on)
    if "chat" in only:
        own = _own(out, chosen, workers)
        sources = _stress_officers([*_strong(out, chosen, workers), own])
        sources.append(_hard(out, sources, rounds=chosen.rounds))
        _tune(out, "base", "chat", chosen, sources, tell)
    if "novice" in only:
        weak = _weak(out, chosen, workers)
        if not _is_done(out / "novice_base"):
            weights = _ground(out, chosen, workers, tell)
            course = replace(chosen.pretraining, steps=chosen.novice_steps)
            _train(weights, weak, course, out / "novice_base", seed=0, tell=tell)
            save_checkpoint(weights.cpu(), out / "novice_base")
        _tune(out, "novice_base", "novice", chosen, weak, tell)
    for seed, name in enumerate(_DRILLS):
        if name in only:
            drill = replace(_DRILLS[name], iterations=chosen.iterations)
            drill_checkpoint(out, name, drill, chosen, seed, tell)


def _strong(out: Path, preset: Preset, workers: int) -> list[Source]:
    """Positions with the teacher's prices, and games of a wide mix of players.

    The priced ones are of these games, of weak players' games, and endings.
    """
    games = _games(out / "strong.tsv", preset, preset.strong_games, STRONG_MIX, workers, seed=1)
    # What weak players blunder into is met in games against them, and not in strong play.
    _games(out / "weak.tsv", preset, preset.weak_games, WEAK_MIX, workers, seed=2)
    start, nodes = preset.setup.fen, preset.teacher_nodes
    for name, every in _PRICED_EVERY.items():
        text, folder = out / f"{name}.tsv", out / "priced" / name
        price_positions(text, folder, start=start, nodes=nodes, workers=workers, every=every)
    endings = out / "priced" / "endings"
    price_endings(endings, positions=preset.endings, seed=5, nodes=nodes, workers=workers)
    priced = [read_priced(out / "priced" / name) for name in _PRICED_EVERY]
    counts = np.array([len(positions) for positions in priced])
    shares = _TEACHER_SHARE * counts / counts.sum()
    return [
        *(Source(positions=p, share=float(share)) for p, share in zip(priced, shares, strict=True)),
        Source(positions=games, share=1 - _TEACHER_SHARE),
        Source(positions=read_priced(endings), share=_ENDINGS_SHARE),
    ]


def _own(out: Path, preset: Preset, workers: int) -> Source:
    """Positions of the half-trained base's own games, with the teacher's prices."""
    text, folder = out / "own.tsv", out / "priced" / "own"
    _expect_own(out, text)
    price_positions(
        text, folder, start=preset.setup.fen, nodes=preset.teacher_nodes, workers=workers
    )
    return Source(positions=read_priced(folder), share=_OWN_SHARE)


def _ground(out: Path, preset: Preset, workers: int, tell: Callable[[str], None]) -> Any:
    """Learn the rules from weak games; the weights that both `base` and `novice` go on from."""
    from holdback.models.loading import load_weights

    ground = out / "ground"
    if not _is_done(ground):
        weights = make_weights(preset.shape, seed=0).to(preset.device)
        _train(weights, _weak(out, preset, workers), preset.grounding, ground, seed=3, tell=tell)
        save_checkpoint(weights.cpu(), ground)
        # Not loaded with it: a pickle.
        (ground / "training.pt").unlink()
    checkpoint = Checkpoint(name="ground", stage=Stage.PRETRAINED, model=str(ground))
    return load_weights(checkpoint, device=preset.device)[0]


def _pretrain_base(
    out: Path, preset: Preset, workers: int, tell: Callable[[str], None], *, go_on: bool
) -> None:
    """Learn from others' games to the half, play, and go on with the positions of that as well.

    What is rare and hard comes more often the longer it goes: officers from the half on, checks in
    the last part.
    """
    if _is_done(out / "base"):
        return
    sources, rough = _strong(out, preset, workers), out / "rough"
    if go_on:
        course, weights = preset.going_on, _load_shipped(preset)
    else:
        course, weights = preset.pretraining, _ground(out, preset, workers, tell)
    if not (out / "own.tsv").exists():
        half = course.steps // 2
        _train(weights, sources, course, rough, seed=0, tell=tell, until=half)
        with EnginePool(processes=workers) as pool:
            play_own_games(
                _seat(weights, out / "player", preset),
                out / "own.tsv",
                start=preset.setup.fen,
                games=preset.own_games,
                seed=4,
                pool=pool,
            )
    sources.append(_own(out, preset, workers))
    stressed = _stress_officers(sources)
    _train(weights, stressed, course, rough, seed=0, tell=tell)
    checks = [
        Source(positions=source.positions.with_checks(), share=_CHECKS_SHARE * source.share)
        for source in sources
    ]
    _train(weights, [*stressed, *checks], preset.refining, out / "refined", seed=11, tell=tell)
    _drill_rules(out, weights, preset, stressed, workers, tell)
    save_checkpoint(weights.cpu(), out / "base")


def _drill_rules(
    out: Path,
    weights: Any,
    preset: Preset,
    sources: list[Source],
    workers: int,
    tell: Callable[[str], None],
) -> None:
    """Play, keep the positions in which most of what might be answered is illegal, learn; again.

    The rules alone are learnt from them: what is good there nobody has said.
    """
    course, hard = preset.rules, out / "hard"
    hard.mkdir(exist_ok=True)
    for number in range(preset.rounds):
        path = hard / f"{number:03d}.npz"
        begin, end = (course.steps * at // preset.rounds for at in (number, number + 1))
        if not path.exists():
            # Nothing is left to train to there: this loads the state of an interrupted run.
            _train(weights, sources, course, out / "base", seed=12, tell=tell, until=begin)
            with EnginePool(processes=workers) as pool:
                boards = collect_own_turns(
                    _seat(weights, out / "player", preset),
                    start=preset.setup.fen,
                    games=_RULES_GAMES,
                    seed=100 + number,
                    pool=pool,
                )
            write_positions(path, find_hardest(weights, encode_boards(boards), _RULES_KEPT))
        drilled = [*sources, _hard(out, sources, rounds=number + 1)]
        _train(weights, drilled, course, out / "base", seed=12, tell=tell, until=end)


def _hard(out: Path, sources: list[Source], *, rounds: int) -> Source:
    """The latest of so many rounds' positions, as many as of all other sources together."""
    paths = [out / "hard" / f"{number:03d}.npz" for number in range(rounds)]
    for path in paths:
        _expect_own(out, path)
    return Source(
        positions=read_positions(paths[-_RULES_ROUNDS:]),
        share=sum(source.share for source in sources),
        rules_only=True,
    )


def _expect_own(out: Path, path: Path) -> None:
    if not path.exists():
        raise ConfigError(
            f"expected positions of games that base played while it was trained, got no {path}; run"
            f" stage 'base' first, with no finished {out / 'base'} in its way"
        )


def _seat(weights: Any, folder: Path, preset: Preset) -> LocalModel:
    """Make a player of weights in training, by way of a checkpoint in `folder`."""
    from holdback.models.local import load_model

    save_checkpoint(weights, folder)
    player = Checkpoint(name="player", stage=Stage.PRETRAINED, model=str(folder), chat=False)
    return load_model(player, device=preset.device)


def _stress_officers(sources: list[Source]) -> list[Source]:
    """Draw more than half of all positions from those with officers, for what is hard about them.

    A queen has five times a king's moves, and every one of them is a fact to be learnt.
    """
    stressed = []
    for source in sources:
        part = source.positions.with_officers()
        stressed += [
            replace(source, share=source.share * (1 - _OFFICERS_SHARE)),
            Source(positions=part, share=source.share * _OFFICERS_SHARE),
        ]
    return stressed


def _weak(out: Path, preset: Preset, workers: int) -> list[Source]:
    games = _games(out / "weak.tsv", preset, preset.weak_games, WEAK_MIX, workers, seed=2)
    return [Source(positions=games, share=1.0)]


def _games(
    text: Path, preset: Preset, games: int, mix: Any, workers: int, *, seed: int
) -> Positions:
    start = preset.setup.fen
    generate_games(text, start=start, games=games, seed=seed, mix=mix, workers=workers)
    return read_games(text, start=start, mix=mix, workers=workers)


def _load_shipped(preset: Preset) -> Any:
    """Load the shipped base, which must have the preset's shape."""
    from holdback.models.loading import load_weights

    shipped = Checkpoint(name="base", stage=Stage.PRETRAINED, model="builtin:chess/base")
    weights, _ = load_weights(shipped, device=preset.device)
    config = weights.config
    shape = Shape(
        width=config.hidden_size,
        layers=config.num_hidden_layers,
        heads=config.num_attention_heads,
    )
    if shape != preset.shape:
        raise ConfigError(
            f"cannot go on from the shipped base: the preset's models are {preset.shape}, the"
            f" shipped one is {shape}; train from nothing or take the other preset"
        )
    return weights


def _tune(
    out: Path,
    parent: str,
    name: str,
    preset: Preset,
    sources: list[Source],
    tell: Callable[[str], None],
) -> None:
    if _is_done(out / name):
        return
    from holdback.models.loading import load_weights

    checkpoint = Checkpoint(name=parent, stage=Stage.PRETRAINED, model=str(out / parent))
    (out / parent / "training.pt").unlink(missing_ok=True)
    weights, _ = load_weights(checkpoint, device=preset.device)
    forget_chat_words(weights, seed=7)
    _train(weights, sources, preset.tuning, out / name, seed=7, tell=tell)
    save_checkpoint(weights.cpu(), out / name)
    (out / name / "training.pt").unlink(missing_ok=True)


def _train(
    weights: Any,
    sources: list[Source],
    course: Course,
    out: Path,
    *,
    seed: int,
    tell: Callable[[str], None],
    until: int | None = None,
) -> None:
    kept, held_out = sources[0].positions.split_off(_HELD_OUT)
    learnt = [replace(sources[0], positions=kept), *sources[1:]]
    train(weights, learnt, course, out=out, seed=seed, tell=tell, held_out=held_out, until=until)


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
    """Copy the trained checkpoints, and nothing else, to where the package ships them.

    An adapter names its parent by its place beside it, not by a path on the machine it was made on.
    """
    for name in STAGES:
        target = package / name
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(
            out / name, target, ignore=shutil.ignore_patterns("training.*", "log.jsonl")
        )
        adapter = target / "adapter_config.json"
        if adapter.exists():
            config = json.loads(adapter.read_text()) | {"base_model_name_or_path": "../chat"}
            adapter.write_text(json.dumps(config, indent=2) + "\n")
