"""What the text that names a model says."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdback.errors import ConfigError
from holdback.ids import ModelId, locate_id, parse_id, parse_weights


@pytest.mark.parametrize(
    ("reference", "expected"),
    [
        ("hf/org/name", ModelId("hf", "org/name")),
        ("hf/gpt2", ModelId("hf", "gpt2")),
        ("hf/org/name@v1.2", ModelId("hf", "org/name", "v1.2")),
        ("hf//abs/path", ModelId("folder", "/abs/path")),
        ("hf/./rel", ModelId("folder", "./rel")),
        ("hf/~/home", ModelId("folder", "~/home")),
        ("weights/mine", ModelId("folder", "weights/mine")),
        ("C:/weights", ModelId("folder", "C:/weights")),
        ("builtin:chess/base", ModelId("builtin", "chess/base")),
        ("mine:a/b", ModelId("mine", "a/b")),
        ("mine.py:Model?n=1", ModelId("file", "mine.py:Model?n=1")),
        ("uci/stockfish?nodes=1", ModelId("uci", "stockfish?nodes=1")),
        ("openai-api/lab/org/m", ModelId("openai-api", "lab/org/m")),
    ],
)
def test_ids_are_taken_apart(reference, expected):
    """A repository has an organisation and a name; a path starts as paths do."""
    assert parse_id(reference) == expected


def test_an_endpoint_has_a_service_and_a_model():
    """The service names the variables of its address and key; the server hears the model alone."""
    behind, plain = parse_id("openai-api/lab/org/m"), parse_id("openai/gpt")

    assert (behind.service, behind.model) == ("lab", "org/m")
    assert (plain.service, plain.model) == ("openai", "gpt")


def test_what_vllm_runs_are_the_same_weights(tmp_path):
    """A folder, a repository or what a package ships, as without it."""
    assert parse_weights("vllm/org/name@v1") == parse_id("hf/org/name@v1")
    assert parse_weights("vllm/builtin:chess/base") == parse_id("builtin:chess/base")
    assert parse_weights(f"vllm/{tmp_path}") == ModelId("folder", str(tmp_path))
    assert parse_weights("hf/org/name") == parse_id("hf/org/name")


@pytest.mark.parametrize("reference", ["hf/a/b/c", "hf/org/na me", "hf/@main", "hf/-x/y"])
def test_what_is_no_repository_is_refused(reference):
    """One line with the form that is expected."""
    with pytest.raises(ConfigError, match="expected hf/<organisation>/<name>"):
        parse_id(reference)


@pytest.mark.parametrize("reference", ["hf/", "openai/", "uci//", "openai-api/lab", "openai-api/"])
def test_a_name_is_expected_behind_a_scheme(reference):
    """Nothing behind it, or a service without a model."""
    with pytest.raises(ConfigError, match="expected"):
        parse_id(reference)


@given(st.text(max_size=30), st.sampled_from(["", "hf/", "vllm/", "uci/", "mine:"]))
def test_any_text_is_taken_or_explained(text, scheme):
    """Whatever stands there, the answer is an id that means the same again, or one line."""
    message, parsed = "", None
    try:
        parsed = parse_id(f"{scheme}{text}")
    except ConfigError as error:
        message = str(error)
    assert (parsed is None) == bool(message)
    assert "\n" not in message
    assert parsed is None or parse_id(str(parsed)) == parsed


@given(st.sampled_from(["a/b", "./a", "hf/./a", "vllm/../a", "uci/./e?x=./y", "builtin:a/b"]))
def test_what_is_located_stays_where_it_is(reference):
    """An absolute path no longer hangs on the folder."""
    once = locate_id(reference, Path("/here"))

    assert locate_id(once, Path("/elsewhere")) == once
