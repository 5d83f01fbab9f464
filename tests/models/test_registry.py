"""Ids as the field writes them, to what loads them and what may be touched of it."""

from __future__ import annotations

from dataclasses import replace
from importlib.metadata import EntryPoint, entry_points
from types import ModuleType

import pytest

from holdback.errors import CheckpointError, ConfigError, UnknownNameError
from holdback.ids import BEGINNINGS
from holdback.lineage import Checkpoint, Stage
from holdback.models import registry
from holdback.models.hub import OFFLINE
from holdback.models.registry import (
    find_access,
    find_base_url,
    identify_checkpoint,
    load_checkpoint,
)


def make(model: str, **fields) -> Checkpoint:
    return Checkpoint(name="m", stage=Stage.RL, model=model, **fields)


@pytest.fixture
def loaders(monkeypatch):
    """Stand-ins for the modules of all built-in schemes; they answer with what they were given."""
    module = ModuleType("stand_in")
    module.load = lambda checkpoint: ("loaded", checkpoint)
    monkeypatch.setattr(registry, "find_extension", lambda group, name, kind: module.load)
    return module


def test_the_plan_knows_the_schemes_that_are_loaded():
    """What an audit file leaves alone as an id is what the registry loads, and nothing else."""
    own = [p.name for p in entry_points(group="holdback.models") if "holdback." in p.module]
    # `live:…` is a third party's form, with a colon, and is written by Python alone.
    own.remove("live")
    schemes = {beginning.rstrip("/") for beginning in BEGINNINGS if beginning.endswith("/")}
    assert schemes == {"hf", *registry._TAKES} == {"hf", *own}


@pytest.mark.parametrize(
    "model", ["openai/gpt", "openai-api/here/m", "vllm/org/m", "uci/stockfish?Skill Level=3"]
)
def test_an_id_goes_to_its_loader_with_the_whole_checkpoint(loaders, model):
    """Name, options and fields arrive as they stand in the file."""
    assert load_checkpoint(make(model)) == ("loaded", make(model))


@pytest.mark.parametrize(
    ("model", "chat", "access"),
    [
        ("openai/gpt", True, "samples"),
        ("openai/gpt", False, "logprobs"),
        ("openai-api/here/m", True, "samples"),
        ("openai-api/here/m", False, "logprobs"),
        ("vllm/org/m", True, "logprobs"),
        ("uci/stockfish", True, "samples"),
        ("hf/org/m", True, "weights"),
        ("builtin:chess/chat", True, "weights"),
        ("fake:0.1/0.2", True, "weights"),
        ("closed:0.1/0.2", True, "samples"),
    ],
)
def test_access_is_what_the_kind_of_model_gives(model, chat, access):
    """Chat endpoints and engines give samples, completions log-probabilities, weights all."""
    assert find_access(make(model, chat=chat)) == access


def test_a_third_partys_access_must_be_one(monkeypatch):
    """A plug-in that says something else is named with the words that exist."""
    import holdback_fakes

    monkeypatch.setattr(holdback_fakes.load_closed, "access", "smples")
    with pytest.raises(UnknownNameError, match=r"access .*'smples'. Did you mean 'samples'"):
        find_access(make("closed:0.1/0.2"))


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("fke:0.1", "unknown model scheme .*'fke'. Did you mean 'fake'.*uci"),
        ("builtin:chess/bse", "unknown shipped checkpoint 'chess/bse'. Did you mean 'chess/base'"),
        ("openai/", "expected a name behind 'openai/'"),
        ("/audits/opnai/gpt", "neither at /audits/opnai/gpt. Did you mean openai/….*uci/, vllm/"),
        ("/audits/weights/base", "found neither at /audits/weights/base. Ids begin with builtin:"),
        ("hf/no/such/thing", "expected hf/<organisation>/<name>"),
        ("hf/./no/such", "expected a folder in Hugging Face format"),
    ],
)
def test_an_unknown_id_is_one_line_with_the_nearest(model, message):
    """Known schemes, and the one that may have been meant."""
    with pytest.raises((CheckpointError, ConfigError), match=message) as told:
        identify_checkpoint(make(model))
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    ("model", "fields", "message"),
    [
        ("openai/gpt", {"adapter": "x"}, "expected no `adapter` with 'openai/gpt', got 'x'"),
        ("openai/gpt", {"dtype": "float16"}, "expected no `dtype`"),
        ("uci/stockfish", {"device": "cuda"}, "expected no `device` .*uci/ takes none"),
        ("uci/stockfish", {"base_url": "http://localhost"}, "expected no `base_url`"),
        ("builtin:chess/chat", {"revision": "main"}, "expected no `revision`.*its files"),
        ("builtin:chess/chat", {"base_url": "http://localhost"}, "expected no `base_url`"),
    ],
)
def test_a_field_without_meaning_is_refused(loaders, model, fields, message):
    """Ignored silently it would read as done."""
    with pytest.raises(ConfigError, match=message):
        identify_checkpoint(make(model, **fields))


def test_an_endpoint_is_its_id_and_its_address(loaders, monkeypatch):
    """Another server is another model; another key, name or parent is not."""
    monkeypatch.setenv("OPENAI_API_KEY", "secret-1")
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    first = identify_checkpoint(make("openai/gpt"))

    monkeypatch.setenv("OPENAI_API_KEY", "secret-2")
    assert identify_checkpoint(replace(make("openai/gpt"), name="other")) == first
    assert identify_checkpoint(make("openai/gpt", base_url="http://localhost:1/v1")) != first
    monkeypatch.setenv("OPENAI_BASE_URL", "http://localhost:2/v1")
    assert identify_checkpoint(make("openai/gpt")) != first
    assert identify_checkpoint(make("openai/gpt", chat=False)) != first


def test_an_address_is_the_files_or_the_environments(monkeypatch):
    """A service's variable is named as Inspect names it; without either the message says so."""
    monkeypatch.delenv("MY_BOX_BASE_URL", raising=False)
    here = make("openai-api/my-box/llama")

    with pytest.raises(ConfigError, match=r"give `base_url` .* or set MY_BOX_BASE_URL"):
        find_base_url(here)
    monkeypatch.setenv("MY_BOX_BASE_URL", "http://box/v1")
    assert find_base_url(here) == "http://box/v1"
    assert find_base_url(replace(here, base_url="http://file/v1")) == "http://file/v1"


def test_what_only_a_loader_knows_is_part_of_the_identity(loaders):
    """An engine's binary behind the same command, for one."""
    loaders.load.identify = lambda checkpoint: "build 1"
    first = identify_checkpoint(make("uci/engine"))
    loaders.load.identify = lambda checkpoint: "build 2"

    assert identify_checkpoint(make("uci/engine")) != first


@pytest.mark.parametrize(
    ("address", "allowed"),
    [
        ("http://localhost:8000/v1", True),
        ("http://127.0.0.1/v1", True),
        ("http://[::1]:9/v1", True),
        ("https://api.openai.com/v1", False),
        ("http://localhost.evil.org/v1", False),
        ("http://10.0.0.5/v1", False),
    ],
)
def test_offline_reaches_this_machines_servers_only(loaders, monkeypatch, address, allowed):
    """`--offline` refuses other addresses before anything is asked."""
    monkeypatch.setenv(OFFLINE, "1")
    checkpoint = make("openai/gpt", base_url=address)

    if allowed:
        assert identify_checkpoint(checkpoint)
    else:
        with pytest.raises(ConfigError, match="--offline touches no network"):
            identify_checkpoint(checkpoint)


def test_a_missing_package_is_named_with_its_extra(monkeypatch):
    """What to install stands in the message."""
    missing = EntryPoint("vllm", "no_such_module_here:load", "holdback.models")
    monkeypatch.setattr("holdback.extensions._list_points", lambda group: {"vllm": missing})

    with pytest.raises(ConfigError, match=r"needs no_such_module_here.*holdback\[vllm\]"):
        load_checkpoint(make("vllm/org/m"))
