"""One way to extend: techniques, tasks, models, executors, organisms, one's own as Holdback's.

A name stands for an entry point of a group, such as `holdback.techniques`; Holdback's own are
declared in the same way. `file.py:Name` stands for a class or function in a file, relative to the
audit file, without any package. Whatever is found has a digest of its source, which is part of the
identity of every run that it had a hand in.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import sys
import typing
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.machinery import ModuleSpec
from importlib.metadata import entry_points
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.errors import PydanticSchemaGenerationError

from holdback.errors import ConfigError, HoldbackError, UnknownNameError

TECHNIQUES = "holdback.techniques"
TASKS = "holdback.tasks"
MODELS = "holdback.models"
EXECUTORS = "holdback.executors"
ORGANISMS = "holdback.organisms"
_FILE_MARK = ".py:"
_CHUNK = 1 << 20


def is_in_file(name: str) -> bool:
    """Tell whether a name is of the form `file.py:Name`."""
    return _FILE_MARK in name


def find_extension(group: str, name: str, *, kind: str) -> Any:
    """Find what a name stands for.

    Args:
        group: Of entry points, such as `holdback.techniques`.
        name: Of an entry point, or `file.py:Name` with the file's path.
        kind: What it is, for messages: `technique`.

    Raises:
        UnknownNameError: if nothing of that name is there.
        ConfigError: for a file that cannot be loaded, or a package that an extension needs.
    """
    if is_in_file(name):
        return _find_in_file(name, kind)
    offered = _list_points(group)
    if name not in offered:
        raise UnknownNameError.among(kind, name, sorted(set(offered) - _INTERNAL))
    try:
        return offered[name].load()
    except ImportError as error:
        extra = f"; pip install 'holdback[{extra}]'" if (extra := _EXTRAS.get(name)) else ""
        raise ConfigError(
            f"{kind} {name!r} needs {error.name}, which is not installed{extra}"
        ) from error


_FILE_MODULE = "holdback_file_"
_INTERNAL = {"live", "live_inspect"}
"""What Python objects that are lent to an audit go by; nobody writes these names."""
_EXTRAS = {
    "openai": "openai",
    "openai-api": "openai",
    "uci": "chess",
    "vllm": "vllm",
    "inspect": "inspect",
    "chess_games": "chess",
    "chess_positions": "chess",
}
"""Extras of Holdback's own that its extensions need."""


def list_extensions(group: str) -> list[str]:
    """Name all entry points of a group."""
    return sorted(_list_points(group))


def _list_points(group: str) -> dict[str, Any]:
    return {point.name: point for point in entry_points(group=group)}


def _find_in_file(name: str, kind: str) -> Any:
    path, _, attribute = name.partition(_FILE_MARK)
    file = Path(f"{path}.py")
    if not file.is_file():
        raise ConfigError(f"{kind} {name!r}: expected a file at {file}, found none")
    module = load_file(file)
    try:
        return getattr(module, attribute)
    except AttributeError:
        found = [word for word in vars(module) if not word.startswith("_")]
        raise UnknownNameError.among(f"{kind} in {file.name}", attribute, found) from None


def load_file(file: Path) -> Any:
    """Load a Python file as a module of its own; again where its contents have changed.

    Raises:
        ConfigError: for a file that cannot be loaded.
    """
    return _load_contents(file.resolve(), digest_file(file))


@cache
def _load_contents(file: Path, digest: str) -> Any:
    name = f"{_FILE_MODULE}{file.stem}_{digest[:12]}"
    spec = spec_from_file_location(name, file)
    assert isinstance(spec, ModuleSpec)
    assert spec.loader is not None
    module = module_from_spec(spec)
    # Before it runs: dataclasses look their own module up.
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    # Blind: the file is somebody's, and whatever it raises is the reason.
    except Exception as error:
        del sys.modules[name]
        raise ConfigError(f"{file}: cannot be loaded: {type(error).__name__}: {error}") from error
    return module


def make_extension(
    factory: Any, given: Mapping[str, Any], *, what: str, noun: str, hidden: tuple[str, ...] = ()
) -> Any:
    """Call a factory with parameters from a file, each checked against its annotation.

    Args:
        factory: A class or a function with keyword parameters.
        given: Names to values, as TOML or JSON has them.
        what: Who takes them, for messages: `rung 'x', technique 'finetune'`.
        noun: What they are called there: `parameters`.
        hidden: Parameters that no user gives, and no message names.

    Raises:
        ConfigError: for a parameter that is unknown, missing or of another type.
    """
    if not callable(factory):
        raise ConfigError(
            f"{what}: expected a class or a function, got {type(factory).__name__} {factory!r:.60}"
        )
    signature = inspect.signature(factory)
    known = ", ".join(word for word in signature.parameters if word not in hidden) or "none"
    try:
        # Partly first: a misspelt name is told as what it is, before what it leaves missing.
        signature.bind_partial(**given)
        _check_types(factory, given, what)
        signature.bind(**given)
        return factory(**given)
    except TypeError as error:
        raise ConfigError(f"{what}: {error}; its {noun} are {known}") from error
    except HoldbackError:
        raise
    # Blind: it is somebody's, and whatever it raises is the reason.
    except Exception as error:
        raise ConfigError(f"{what}: {type(error).__name__}: {error}") from error


def _check_types(factory: Any, given: Mapping[str, Any], what: str) -> None:
    for name, hint in _read_hints(factory).items():
        if name not in given:
            continue
        try:
            written = json.dumps(given[name])
        except (TypeError, ValueError):
            # From Python, where a value may be anything; its own code says whether it will do.
            continue
        adapter = _adapt(hint)
        if adapter is None:
            continue
        try:
            adapter.validate_json(written)
        except ValidationError as error:
            expected = error.errors()[0]["msg"].removeprefix("Input should be ")
            raise ConfigError(
                f"{what}: {name}: expected {expected}, got {given[name]!r}"
            ) from error


@cache
def _read_hints(factory: Any) -> dict[str, Any]:
    holder = factory.__init__ if inspect.isclass(factory) else factory
    try:
        return typing.get_type_hints(holder)
    # A name that only a type checker imports.
    except NameError:
        return {}


def _adapt(hint: Any) -> TypeAdapter[Any] | None:
    try:
        return TypeAdapter(hint, config=ConfigDict(strict=True))
    except PydanticSchemaGenerationError:
        return None
    # A dataclass or model has a configuration of its own.
    except Exception:
        return TypeAdapter(hint)


def digest_source(thing: Any, *, whole_package: bool = False) -> str:
    """SHA-256 of the source that an extension is defined in.

    Args:
        thing: A class, a function, or an instance of a class.
        whole_package: Of the folder of its package, data included, and not of its module alone.
    """
    owner = thing if inspect.isclass(thing) or inspect.isroutine(thing) else type(thing)
    module = sys.modules.get(owner.__module__)
    if module is None or module.__file__ is None:
        return ""
    file = Path(module.__file__)
    if whole_package and module.__package__:
        return _digest_folder(file.parent)
    helpers = _list_helpers(module) if module.__name__.startswith(_FILE_MODULE) else []
    if not helpers:
        return digest_file(file)
    parts = [digest_file(file), *(f"{path.name}={digest_file(path)}" for path in helpers)]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _list_helpers(module: ModuleType) -> list[Path]:
    """List the files beside an extension's file that it imported something from."""
    own = Path(module.__file__ or "")
    named = {
        value.__name__ if inspect.ismodule(value) else getattr(value, "__module__", None)
        for value in vars(module).values()
    }
    files = {
        Path(other.__file__)
        for name in named
        if (other := sys.modules.get(str(name))) is not None and other.__file__
    }
    return sorted(file for file in files if file != own and own.parent in file.parents)


def _digest_folder(folder: Path) -> str:
    digest = hashlib.sha256()
    for file in sorted(_list_files(folder)):
        digest.update(file.relative_to(folder).as_posix().encode())
        digest.update(bytes.fromhex(digest_file(file)))
    return digest.hexdigest()


def _list_files(folder: Path) -> Iterator[Path]:
    for file in folder.rglob("*"):
        if file.is_file() and file.suffix != ".pyc":
            yield file


def offered(offers: type, thing: Any, name: str) -> Any:
    """Read what a thing may have beside its protocol, or what holds where it has no such attribute.

    Args:
        offers: Dataclass that lists such attributes with their defaults: `TaskOffers`.
        thing: A task, a model, a loader.
        name: Of the attribute.
    """
    return getattr(thing, name, getattr(offers(), name))


def digest_file(file: Path) -> str:
    """SHA-256 of a file's contents, read a piece at a time."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def describe_contents(value: Any) -> Any:
    """Replace the paths of files in options by what the files hold.

    The same questions in another folder are the same questions.
    """
    if isinstance(value, str) and value.startswith("/") and Path(value).is_file():
        return {"sha256": digest_file(Path(value))}
    if isinstance(value, Mapping):
        return {key: describe_contents(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [describe_contents(part) for part in value]
    return value
