"""Opening a checkpoint folder without running anything that is in it.

Pickled weights execute code when they are read, and `weights_only` has been bypassed; code beside
the weights runs under `trust_remote_code`, which has been bypassed as well. So such folders are
refused before any `from_pretrained`, by name, not by flag.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import resources
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from holdback.errors import CheckpointError
from holdback.lineage import Checkpoint

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

BUILTIN = "builtin:"
_PICKLED = {".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle"}


def resolve_folder(reference: str) -> Path:
    """Turn a checkpoint reference into a folder.

    `builtin:chess/base` is a folder shipped with the package, anything else a path.
    """
    if reference.startswith(BUILTIN):
        lineage, _, name = reference.removeprefix(BUILTIN).partition("/")
        folder = Path(str(resources.files("holdback"))) / "organisms" / lineage / "weights" / name
    else:
        folder = Path(reference).expanduser()
    if not folder.is_dir():
        raise CheckpointError(
            f"checkpoint {reference!r}: expected a folder in Hugging Face format, found none at"
            f" {folder}; check `model` in the audit file"
        )
    return folder


def check_files(checkpoint: Checkpoint) -> None:
    """Refuse a checkpoint of whose files one is missing or unsafe, before any of them is loaded.

    Raises:
        CheckpointError: naming the file.
    """
    folder = resolve_folder(checkpoint.model)
    _check_model(folder, checkpoint.name)
    for part in filter(None, (checkpoint.model, checkpoint.adapter)):
        _check_weights(resolve_folder(part), checkpoint.name)
    if not (folder / "tokenizer.json").exists():
        raise CheckpointError(
            f"checkpoint {checkpoint.name!r}: expected tokenizer.json in {folder}, found none;"
            " save the fast tokenizer beside the weights"
        )


def check_safe(folder: Path) -> None:
    """Refuse a folder that holds pickled weights or code, or that leads out of itself.

    Raises:
        CheckpointError: naming the offending file.
    """
    for file in sorted(folder.rglob("*")):
        if file.suffix.lower() in _PICKLED:
            raise CheckpointError(
                f"checkpoint {folder}: {file.name} is a pickle, which runs code when it is read;"
                " convert the weights to safetensors and remove it"
            )
        if file.suffix.lower() == ".py":
            raise CheckpointError(
                f"checkpoint {folder}: {file.name} is code; Holdback loads architectures that"
                " transformers ships and runs no code from a checkpoint"
            )
        if file.name.endswith(".index.json"):
            _check_index(file)
    for name in ("config.json", "tokenizer_config.json", "adapter_config.json"):
        file = folder / name
        if file.exists() and "auto_map" in _read_json(file):
            raise CheckpointError(
                f"checkpoint {folder}: {name} has `auto_map`, which asks for remote code; remove"
                " it or use an architecture that transformers ships"
            )


def _check_model(folder: Path, name: str) -> None:
    # transformers follows it: to the base that it names, or to weights on top of those here.
    adapter = folder / "adapter_config.json"
    if adapter.exists():
        base = _read_json(adapter).get("base_model_name_or_path")
        raise CheckpointError(
            f"checkpoint {name!r}: expected a whole model in {folder}, found an adapter on"
            f" {base!r} (adapter_config.json); name this folder as `adapter` and the folder of its"
            " base as `model`, or merge the two and remove adapter_config.json"
        )


def _check_weights(folder: Path, name: str) -> None:
    check_safe(folder)
    if not any(folder.glob("*.safetensors")):
        raise CheckpointError(
            f"checkpoint {name!r}: expected weights as *.safetensors in {folder}, found none; save"
            " them with save_pretrained"
        )


def _check_index(file: Path) -> None:
    """Refuse an index of shards that names anything but safetensors beside it.

    transformers reads a shard of any other suffix as a pickle, from wherever the index says.
    """
    shards = _read_json(file).get("weight_map")
    names = set(map(str, shards.values())) if isinstance(shards, dict) else {str(shards)}
    for name in sorted(names):
        path = PurePosixPath(name)
        inside = not path.is_absolute() and ".." not in path.parts
        if not (inside and name.endswith(".safetensors")):
            raise CheckpointError(
                f"checkpoint {file.parent}: {file.name} must name *.safetensors in this folder,"
                f" got {name!r}; save the weights again with save_pretrained"
            )


def _read_json(file: Path) -> dict[str, Any]:
    try:
        read = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{file}: expected JSON, got {error}; save it again") from error
    if not isinstance(read, dict):
        raise CheckpointError(
            f"{file}: expected a JSON object, got {type(read).__name__}; save it again"
        )
    return read


def digest_checkpoint(checkpoint: Checkpoint) -> str:
    """SHA-256 over the names and contents of all files that make up a checkpoint."""
    digest = hashlib.sha256()
    for reference in (checkpoint.model, checkpoint.adapter):
        if reference is None:
            continue
        folder = resolve_folder(reference)
        for file in sorted(path for path in folder.rglob("*") if path.is_file()):
            digest.update(file.relative_to(folder).as_posix().encode())
            digest.update(hashlib.sha256(file.read_bytes()).digest())
    digest.update(b"chat" if checkpoint.chat else b"completion")
    return digest.hexdigest()


def load_weights(
    checkpoint: Checkpoint, *, device: str = "cpu"
) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """Load a checkpoint in float32, its adapter merged, ready for inference.

    Raises:
        CheckpointError: if files are missing or unsafe, or an adapter changes nothing.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()
    check_files(checkpoint)
    folder = resolve_folder(checkpoint.model)
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        model = AutoModelForCausalLM.from_pretrained(
            folder, local_files_only=True, dtype=torch.float32, use_safetensors=True
        )
    # Blind: tokenizers and safetensors raise plain `Exception` for a file that they cannot read.
    except Exception as error:
        raise CheckpointError(
            f"checkpoint {checkpoint.name!r} in {folder} cannot be loaded:"
            f" {type(error).__name__}: {error}"
        ) from error
    if checkpoint.adapter is not None:
        model = _merge_adapter(model, checkpoint)
    return model.to(device).eval(), tokenizer


@contextmanager
def hushed_peft() -> Iterator[None]:
    """Keep back PEFT's use of a name that transformers deprecated; no user can act on it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)
        yield


def _merge_adapter(model: Any, checkpoint: Checkpoint) -> Any:
    from peft import PeftModel

    assert checkpoint.adapter is not None
    folder = resolve_folder(checkpoint.adapter)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    try:
        with hushed_peft():
            merged = PeftModel.from_pretrained(model, folder).merge_and_unload()
    # Blind for the same reason, and because a shape that does not fit is a RuntimeError.
    except Exception as error:
        raise CheckpointError(
            f"checkpoint {checkpoint.name!r}: the adapter in {folder} cannot be applied:"
            f" {type(error).__name__}: {error}"
        ) from error
    if all(value.equal(before[name]) for name, value in merged.state_dict().items()):
        raise CheckpointError(
            f"checkpoint {checkpoint.name!r}: the adapter in {folder} changes no weight; check"
            " that it belongs to this model"
        )
    return merged
