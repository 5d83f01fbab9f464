"""Opening a checkpoint folder without running anything that is in it.

Pickled weights execute code when they are read, and `weights_only` has been bypassed; code beside
the weights runs under `trust_remote_code`, which has been bypassed as well. So such folders are
refused before any `from_pretrained`, by name, not by flag.
"""

from __future__ import annotations

import hashlib
import json
from importlib import resources
from pathlib import Path
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


def check_safe(folder: Path) -> None:
    """Refuse a folder that holds pickled weights or code.

    Raises:
        CheckpointError: naming the offending file.
    """
    for file in sorted(folder.rglob("*")):
        if file.suffix in _PICKLED:
            raise CheckpointError(
                f"checkpoint {folder}: {file.name} is a pickle, which runs code when it is read;"
                " convert the weights to safetensors and remove it"
            )
        if file.suffix == ".py":
            raise CheckpointError(
                f"checkpoint {folder}: {file.name} is code; Holdback loads architectures that"
                " transformers ships and runs no code from a checkpoint"
            )
    for name in ("config.json", "tokenizer_config.json"):
        file = folder / name
        if file.exists() and "auto_map" in json.loads(file.read_text(encoding="utf-8")):
            raise CheckpointError(
                f"checkpoint {folder}: {name} has `auto_map`, which asks for remote code; remove"
                " it or use an architecture that transformers ships"
            )


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
    folder = resolve_folder(checkpoint.model)
    check_safe(folder)
    if not list(folder.glob("*.safetensors")):
        raise CheckpointError(
            f"checkpoint {checkpoint.name!r}: expected weights as *.safetensors in {folder},"
            " found none; save them with save_pretrained(..., safe_serialization=True)"
        )
    if not (folder / "tokenizer.json").exists():
        raise CheckpointError(
            f"checkpoint {checkpoint.name!r}: expected tokenizer.json in {folder}, found none;"
            " save the fast tokenizer beside the weights"
        )
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        model = AutoModelForCausalLM.from_pretrained(
            folder, local_files_only=True, dtype=torch.float32, use_safetensors=True
        )
    except (OSError, ValueError, KeyError) as error:
        raise CheckpointError(
            f"checkpoint {checkpoint.name!r} in {folder} cannot be loaded: {error}"
        ) from error
    if checkpoint.adapter is not None:
        model = _merge_adapter(model, checkpoint)
    return model.to(device).eval(), tokenizer


def _merge_adapter(model: Any, checkpoint: Checkpoint) -> Any:
    from peft import PeftModel

    assert checkpoint.adapter is not None
    folder = resolve_folder(checkpoint.adapter)
    check_safe(folder)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    try:
        merged = PeftModel.from_pretrained(model, folder).merge_and_unload()
    except (OSError, ValueError, KeyError) as error:
        raise CheckpointError(
            f"checkpoint {checkpoint.name!r}: the adapter in {folder} cannot be applied: {error}"
        ) from error
    if all(value.equal(before[name]) for name, value in merged.state_dict().items()):
        raise CheckpointError(
            f"checkpoint {checkpoint.name!r}: the adapter in {folder} changes no weight; check"
            " that it belongs to this model"
        )
    return merged
