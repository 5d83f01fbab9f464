"""Repositories of the hub: a commit before anything runs, safe files only, and no network."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from types import SimpleNamespace

import huggingface_hub
import pytest
import torch
from fake_hub import COMMIT, add_repo
from tiny_models import save_adapter, save_model

from holdback.errors import CheckpointError, ConfigError
from holdback.lineage import Checkpoint, Stage
from holdback.models import hub
from holdback.models.hub import Repo, fetch_repo, pin_repo
from holdback.models.loading import load_weights
from holdback.models.registry import (
    fetch_checkpoint,
    identify_checkpoint,
    load_checkpoint,
    load_prompter,
    pin_checkpoint,
)

OTHER = "f" * 40


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    place = tmp_path_factory.mktemp("folders")
    return SimpleNamespace(
        model=save_model(place / "model"), adapter=save_adapter(place / "adapter")
    )


@pytest.fixture
def cache(tmp_path, folders, monkeypatch):
    """A cache with one model and one adapter, and a hub that must not be asked."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    add_repo(tmp_path / "hub", "org/tiny", folders.model)
    add_repo(tmp_path / "hub", "org/lora", folders.adapter, commit=OTHER)
    return tmp_path / "hub"


@pytest.fixture
def tiny():
    return Checkpoint(name="tiny", stage=Stage.SFT, model="hf/org/tiny")


def test_a_cached_repository_loads_offline(cache, tiny, folders):
    """By its id, with no connection: the same weights as from the folder."""
    loaded = load_checkpoint(tiny)
    plain, _ = load_weights(replace(tiny, model=f"hf/{folders.model}"))

    ids = torch.arange(20)[None]
    assert torch.equal(loaded.weights(ids).logits, plain(ids).logits)


def test_a_branch_becomes_a_commit(cache, tiny):
    """What runs and what is recorded is the commit, wherever the branch moves to afterwards."""
    adapted = replace(tiny, adapter="hf/org/lora@main")
    pinned = pin_checkpoint(adapted)
    first = identify_checkpoint(pinned)

    assert (pinned.model, pinned.revision) == ("hf/org/tiny", COMMIT)
    assert pinned.adapter == f"hf/org/lora@{OTHER}"
    assert pin_checkpoint(pinned) == pinned

    (cache / "models--org--tiny" / "refs" / "main").write_text("a" * 40)
    assert identify_checkpoint(pinned) == first
    assert load_checkpoint(pinned).name == "tiny"


def test_vllm_runs_the_commit_too(cache, tiny):
    """The same repository under another engine is pinned as it is, and to the same commit."""
    served = replace(tiny, model="vllm/org/tiny", adapter="hf/org/lora")

    pinned = pin_checkpoint(served)

    assert (pinned.model, pinned.revision) == ("vllm/org/tiny", COMMIT)
    assert pinned.adapter == f"hf/org/lora@{OTHER}"
    assert pin_checkpoint(pinned) == pinned
    named = pin_checkpoint(replace(tiny, model="vllm/org/tiny@main"))
    assert (named.model, named.revision) == ("vllm/org/tiny", COMMIT)


def test_vllm_leaves_a_folder_alone(folders, tiny):
    """What is on this machine is at no commit."""
    served = replace(tiny, model=f"vllm/{folders.model}")

    assert pin_checkpoint(served) == served


def test_another_commit_is_another_checkpoint(cache, tiny, folders):
    """The digest follows the commit."""
    add_repo(cache, "org/tiny", folders.model, commit="b" * 40)
    moved = pin_checkpoint(tiny)

    assert moved.revision == "b" * 40
    assert identify_checkpoint(moved) != identify_checkpoint(replace(moved, revision=COMMIT))


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("hf/org/absent", r"hf/org/absent: offline, and .* no whole copy.*hf download org/absent"),
        ("hf/org/tiny@v9", r"hf/org/tiny@v9: offline, and .* no whole copy"),
    ],
)
def test_what_is_not_cached_is_one_line(cache, tiny, model, message):
    """Repository and revision are named, with the command that fetches them."""
    with pytest.raises(CheckpointError, match=message):
        pin_checkpoint(replace(tiny, model=model))


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("pytorch_model.bin", "x", "is a pickle"),
        ("modeling_tiny.py", "raise SystemExit", "is code"),
        ("config.json", '{"auto_map": {}}', "auto_map"),
        ("tokenizer_config.json", '{"auto_map": {}}', "auto_map"),
    ],
)
def test_a_cached_repository_is_refused_like_a_folder(cache, tiny, file, text, message):
    """Another program may have fetched what Holdback never would: refused before it is opened."""
    written = cache / "models--org--tiny" / "snapshots" / COMMIT / file
    written.unlink(missing_ok=True)
    written.write_text(text)

    for refuse in (identify_checkpoint, load_checkpoint, load_prompter, fetch_checkpoint):
        with pytest.raises(CheckpointError, match=message):
            refuse(pin_checkpoint(tiny))


class Hub:
    """A hub that serves one folder, through the names that Holdback calls."""

    def __init__(self, folder, cache) -> None:
        self.folder, self.cache, self.asked = folder, cache, {}

    def model_info(self, name, *, revision=None):
        return SimpleNamespace(sha=COMMIT)

    def list_repo_files(self, name, *, revision=None):
        return sorted(file.name for file in self.folder.iterdir())

    def snapshot_download(self, name, *, revision, allow_patterns, ignore_patterns):
        from huggingface_hub.utils import filter_repo_objects

        files = filter_repo_objects(
            self.list_repo_files(name),
            allow_patterns=allow_patterns,
            ignore_patterns=ignore_patterns,
        )
        place = self.cache / revision
        place.mkdir(parents=True, exist_ok=True)
        for file in files:
            shutil.copy(self.folder / file, place)
        return str(place)


@pytest.fixture
def online(tmp_path, folders, monkeypatch):
    """A hub with a repository in which there is more than is wanted."""
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", hub.OFFLINE):
        monkeypatch.delenv(name, raising=False)
    served = tmp_path / "served"
    shutil.copytree(folders.model, served)
    for name in ("pytorch_model.bin", "modeling.py", "consolidated.safetensors", "tokenizer.py"):
        (served / name).write_text("unsafe")
    fake = Hub(served, tmp_path / "cache")
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: fake)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", fake.snapshot_download)
    return fake


def test_only_safe_files_are_fetched(online, tiny):
    """A repository with pickles and code beside its safetensors gives the safetensors."""
    pinned = pin_checkpoint(tiny)
    folder = fetch_repo(Repo(name="org/tiny", revision=COMMIT))

    assert pinned.revision == COMMIT
    assert {file.suffix for file in folder.iterdir()} <= {".safetensors", ".json", ".jinja"}
    assert not (folder / "consolidated.safetensors").exists()
    assert load_checkpoint(pinned).name == "tiny"


def test_a_plan_fetches_no_weights(online, tiny):
    """Identity and prompts come from what is small."""
    pinned = pin_checkpoint(tiny)
    identify_checkpoint(pinned)
    prompter = load_prompter(pinned)

    assert prompter.encode("Ke1")
    assert not list(online.cache.rglob("*.safetensors"))


def test_a_repository_of_pickles_is_refused_before_any_download(online, tiny):
    """Named with the file that was looked at."""
    for file in online.folder.glob("*.safetensors"):
        file.unlink()

    with pytest.raises(CheckpointError, match=r"only pickles \(pytorch_model.bin\)"):
        identify_checkpoint(pin_checkpoint(tiny))
    assert not online.cache.exists()


@pytest.mark.parametrize("fails", [ConnectionError("no route"), ValueError("odd")])
def test_a_hub_that_does_not_answer_is_one_line(online, monkeypatch, fails):
    """Whatever the client raises, the message says what helps."""

    def fail(*args, **options):
        raise fails

    monkeypatch.setattr(online, "model_info", fail)
    with pytest.raises(
        CheckpointError, match=r"the hub cannot be asked: .*--offline takes"
    ) as told:
        pin_repo(Repo(name="org/tiny"))
    assert "\n" not in str(told.value)


def test_two_revisions_are_refused(cache, tiny):
    """An id with one and a field with another: nobody could say which was meant."""
    with pytest.raises(ConfigError, match="expected one revision"):
        pin_checkpoint(replace(tiny, model="hf/org/tiny@main", revision="v2"))


def test_an_adapter_of_the_hub_takes_effect(cache, tiny, folders):
    """Base and adapter each by its own id."""
    adapted, _ = load_weights(pin_checkpoint(replace(tiny, adapter="hf/org/lora")))
    beside, _ = load_weights(replace(tiny, adapter=str(folders.adapter)))
    plain, _ = load_weights(tiny)

    ids = torch.arange(20)[None]
    assert torch.equal(adapted(ids).logits, beside(ids).logits)
    assert not torch.equal(adapted(ids).logits, plain(ids).logits)


def test_an_adapter_for_another_base_is_refused(cache, tiny, folders, tmp_path):
    """Other shapes, other layers, other names: one line with the base that it names."""
    wide = save_adapter(tmp_path / "wide", hidden_size=48)
    deep = save_adapter(tmp_path / "deep", num_hidden_layers=3)
    alien = save_adapter(tmp_path / "alien", "gpt2")
    config = deep / "adapter_config.json"
    named = {**json.loads(config.read_text()), "base_model_name_or_path": "somebody/deeper"}
    config.write_text(json.dumps(named))

    for folder, message in (
        (wide, "it was made for another base"),
        (deep, "no place for its .*layers.2.*'somebody/deeper'"),
        (alien, "it was made for another base"),
    ):
        with pytest.raises(CheckpointError, match=message) as told:
            load_weights(replace(tiny, adapter=str(folder)))
        assert "\n" not in str(told.value)
