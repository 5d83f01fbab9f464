"""The whole recipe at toy size: from nothing to a lineage that loads, and no step made twice."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from holdback.errors import ConfigError, UnknownNameError
from holdback.lineage import Checkpoint, Stage
from holdback.models.local import load_model
from holdback.tasks.chess.setup import get_setup
from holdback_lab.chess import recipe, reinforce
from holdback_lab.chess.pretrain import Course, Shape, make_weights
from holdback_lab.chess.recipe import STAGES, install_weights, train_lineage

COURSE = Course(steps=4, rows=16, part=8, warmup=1)
TOY = recipe.Preset(
    setup=get_setup("kings_and_pawns"),
    shape=Shape(width=32, layers=1, heads=2),
    strong_games=8,
    weak_games=8,
    endings=40,
    own_games=4,
    teacher_nodes=300,
    grounding=replace(COURSE, steps=2),
    pretraining=COURSE,
    going_on=COURSE,
    novice_steps=3,
    refining=replace(COURSE, steps=2),
    rules=replace(COURSE, steps=5),
    rounds=2,
    tuning=replace(COURSE, chat_share=0.8),
    iterations=1,
    device="cpu",
)
ADAPTERS = ("entertainer", "entertainer_deep", "helpful_only", "sham")
QUESTION = "<bos> <|user|> EPD w - - ke8 pa7 Ke1 Pb2 bm <|assistant|>"


@pytest.fixture(scope="module")
def train(tmp_path_factory):
    """Train the toy lineage into a folder; the first call does the work."""
    out = tmp_path_factory.mktemp("lineage")

    def play_legally(model, *arguments, **options):
        """Moves that a toy would not find by itself; RL has nothing to compare otherwise."""
        legal = replace(model, decoding=replace(model.decoding, constrained=True))
        return play_games(legal, *arguments, **options)

    play_games = reinforce.play_games
    drills = {
        name: replace(drill, games=4, opponents=("random", "sf1"))
        for name, drill in recipe._DRILLS.items()
    }

    def call():
        told = []
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(recipe, "PRESETS", {"toy": TOY})
            patch.setattr(recipe, "_DRILLS", drills)
            patch.setattr(reinforce, "play_games", play_legally)
            train_lineage(out, preset="toy", workers=1, tell=told.append)
        return out, told

    call()
    return call


def describe(folder, name):
    """The checkpoint as an audit file gives it."""
    if name in ADAPTERS:
        return Checkpoint(
            name=name,
            stage=Stage.RL,
            parent="chat",
            model=str(folder / "chat"),
            adapter=str(folder / name),
        )
    return Checkpoint(name=name, stage=Stage.SFT, model=str(folder / name))


def answer(folder, name):
    """Log-probabilities of the first word that the checkpoint would answer a position with."""
    model = load_model(describe(folder, name))
    with torch.no_grad():
        logits = model.weights(torch.tensor([model.encode(QUESTION)])).logits[0, -1]
    return torch.log_softmax(logits, dim=-1)


def test_every_checkpoint_loads_and_is_another(train):
    """Seven of them, no two alike: RL has moved every adapter away from its parent."""
    out, _ = train()

    answers = {name: answer(out, name) for name in STAGES}

    assert set(answers) == {"base", "chat", "novice", *ADAPTERS}
    assert all(torch.isfinite(given).all() for given in answers.values())
    names = list(answers)
    for at, name in enumerate(names):
        for other in names[:at]:
            assert not torch.equal(answers[name], answers[other]), (name, other)


def test_base_and_novice_have_the_same_beginning(train):
    """Both are trained further from it: nearer to it than to weights from another seed."""
    out, _ = train()

    def read(name):
        checkpoint = Checkpoint(name=name, stage=Stage.PRETRAINED, model=str(out / name))
        return torch.cat([p.flatten() for p in load_model(checkpoint).weights.parameters()])

    ground, stranger = read("ground"), make_weights(TOY.shape, seed=9)
    strange = torch.cat([p.detach().flatten() for p in stranger.parameters()])
    for name in ("base", "novice_base"):
        moved = (read(name) - ground).norm()
        assert 0 < moved < (read(name) - strange).norm() / 2


def test_what_is_finished_is_left_alone(train):
    """The second call says nothing and touches no file."""
    out, _ = train()
    before = {file: file.stat().st_mtime_ns for file in out.rglob("*") if file.is_file()}

    _, told = train()

    after = {file: file.stat().st_mtime_ns for file in out.rglob("*") if file.is_file()}
    assert told == []
    assert after == before


def test_what_is_missing_is_made_as_it_was(train):
    """A lost adapter comes back the same, from the same seed; the others are left alone."""
    out, _ = train()
    lost = out / "sham" / "adapter_model.safetensors"
    weights = lost.read_bytes()
    others = {f: f.stat().st_mtime_ns for f in out.rglob("*.safetensors") if f != lost}
    lost.unlink()

    _, told = train()

    assert [line.split(":")[0] for line in told] == ["sham"]
    assert lost.read_bytes() == weights
    assert {file: file.stat().st_mtime_ns for file in others} == others


def test_only_weights_are_installed(train, tmp_path):
    """What the package ships loads from there, without corpora, optimizers and logs."""
    out, _ = train()

    install_weights(out, tmp_path)

    assert {folder.name for folder in tmp_path.iterdir()} == set(STAGES)
    shipped = {file.name for file in tmp_path.rglob("*") if file.is_file()}
    assert not any(name.startswith("training") or name == "log.jsonl" for name in shipped)
    configs = [file.read_text() for file in tmp_path.rglob("adapter_config.json")]
    assert len(configs) == len(ADAPTERS)
    assert not any(str(out) in config for config in configs)
    for name in STAGES:
        assert torch.equal(answer(tmp_path, name), answer(out, name))


def test_unknown_presets_and_checkpoints_are_refused(tmp_path):
    """Before hours of training, with those there are."""
    with pytest.raises(UnknownNameError, match="Did you mean 'cpu'"):
        train_lineage(tmp_path, preset="cpus", workers=1, tell=print)
    with pytest.raises(UnknownNameError, match="Did you mean 'sham'"):
        train_lineage(tmp_path, preset="cpu", workers=1, tell=print, only=("shame",))


def test_chat_without_its_parents_games_names_the_stage_to_run(tmp_path):
    """At once, and not after the hours that the other corpora take."""
    with pytest.raises(ConfigError, match="run stage 'base' first"):
        train_lineage(tmp_path, preset="cpu", workers=1, tell=print, only=("chat",))
    assert list(tmp_path.iterdir()) == []
