"""Opening a checkpoint folder without running anything that is in it.

Pickled weights execute code when they are read, and `weights_only` has been bypassed; code beside
the weights runs under `trust_remote_code`, which has been bypassed as well. So such folders are
refused before any `from_pretrained`, by name, not by flag.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from holdback.errors import CheckpointError
from holdback.extensions import digest_file
from holdback.ids import HUB, SHIPPED, parse_weights
from holdback.lineage import Checkpoint
from holdback.models.adapters import check_type
from holdback.models.hub import Repo, fetch_repo, is_read
from holdback.models.templates import TODAY, writes_date
from holdback.models.tensors import explaining
from holdback.shipped import find_weights

# What trainers leave beside the weights to go on from; no loader reads it.
_LEFTOVER = re.compile(
    r"(training_args|(optimizer|scheduler|scaler|sampler|rng_state|random_states)(_\d+)?)"
    r"\.(bin|pt|pth|pkl)"
)
_PICKLED = {".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle"}
# A fast tokenizer as it is saved, or the older files that transformers makes one from.
_TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json")
_WHOLE = "model.safetensors"
_TEMPLATES = ("chat_template.jinja", "chat_template.json")


def resolve_folder(reference: str, *, revision: str | None = None, weights: bool = True) -> Path:
    """Turn a reference to local weights into a folder.

    `builtin:chess/base` is a folder shipped with the package, `hf/<repo>` one of the hub's cache,
    fetched if need be (without `weights` only what is small), anything else a path.

    Raises:
        CheckpointError: if there is no such folder.
        UnknownNameError: for a shipped checkpoint that is not there.
    """
    parsed = parse_weights(reference)
    if parsed.scheme == SHIPPED:
        return find_weights(parsed.name)
    repo = find_repo(reference, revision=revision)
    if repo is not None:
        return fetch_repo(repo, weights=weights)
    folder = Path(parsed.name).expanduser()
    if not folder.is_dir():
        raise CheckpointError(
            f"checkpoint {reference!r}: expected a folder in Hugging Face format, found none at"
            f" {folder}; check `model` in the audit file"
        )
    return folder


def find_repo(reference: str, *, revision: str | None = None) -> Repo | None:
    """Read a reference to a repository of the hub; None for a folder."""
    parsed = parse_weights(reference)
    if parsed.scheme != HUB:
        return None
    return Repo(name=parsed.name, revision=parsed.revision).at(revision)


def find_repos(checkpoint: Checkpoint) -> dict[str, Repo | None]:
    """Map a checkpoint's references, its model's and its adapter's, to repositories or None."""
    found = {checkpoint.model: find_repo(checkpoint.model, revision=checkpoint.revision)}
    if checkpoint.adapter is not None:
        found[checkpoint.adapter] = find_repo(checkpoint.adapter)
    return found


def list_folders(checkpoint: Checkpoint) -> list[Path]:
    """List where a checkpoint's tokenizer and template are looked for, its adapter's folder first.

    Raises:
        CheckpointError: if there is no such folder.
    """
    model = resolve_folder(checkpoint.model, revision=checkpoint.revision, weights=False)
    if checkpoint.adapter is None:
        return [model]
    return [resolve_folder(checkpoint.adapter, weights=False), model]


def check_files(checkpoint: Checkpoint, *, weights: bool = True) -> None:
    """Refuse a checkpoint of whose files one is missing or unsafe, before any of them is loaded.

    Args:
        checkpoint: Of local weights.
        weights: Whether the weights of a repository are to be there yet.

    Raises:
        CheckpointError: naming the file.
    """
    folder = resolve_folder(checkpoint.model, revision=checkpoint.revision, weights=weights)
    _check_model(folder, checkpoint.name)
    _check_part(folder, checkpoint.model, checkpoint.name, weights=weights)
    if checkpoint.adapter is not None:
        adapter = resolve_folder(checkpoint.adapter, weights=weights)
        _check_part(adapter, checkpoint.adapter, checkpoint.name, weights=weights)
        if not (adapter / "adapter_config.json").exists():
            raise CheckpointError(
                f"checkpoint {checkpoint.name!r}: expected a PEFT adapter in {adapter}, found no"
                " adapter_config.json; name a whole model as `model`"
            )
        check_type(adapter, checkpoint.name)
    if not any(map(has_tokenizer, list_folders(checkpoint))):
        raise CheckpointError(
            f"checkpoint {checkpoint.name!r}: expected tokenizer.json in {folder}, found none;"
            " save the fast tokenizer beside the weights"
        )


def check_safe(folder: Path) -> None:
    """Refuse a folder that holds pickled weights or code, or that leads out of itself.

    Pickles that trainers leave beside the weights are read by nobody and pass.

    Raises:
        CheckpointError: naming the offending file.
    """
    for file in sorted(folder.rglob("*")):
        if file.suffix.lower() in _PICKLED and not _LEFTOVER.fullmatch(file.name):
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


def read_context(checkpoint: Checkpoint) -> int | None:
    """Longest text in tokens that local weights read, by their config.json; None if unsaid."""
    folder = resolve_folder(checkpoint.model, revision=checkpoint.revision, weights=False)
    config = _read_json(folder / "config.json")
    # Models of more than text keep it in a part of its own.
    texts = [config, *(part for part in config.values() if isinstance(part, dict))]
    limits = [text.get("max_position_embeddings") for text in texts]
    return next((limit for limit in limits if isinstance(limit, int)), None)


def has_chat_template(checkpoint: Checkpoint) -> bool:
    """Tell from a local checkpoint's files, without loading any, whether it can be asked in chat.

    Raises:
        CheckpointError: if there is no such folder.
    """
    return any(has_template(folder) for folder in list_folders(checkpoint))


def has_template(folder: Path) -> bool:
    """Tell whether a chat template is among a folder's files."""
    if any((folder / name).exists() for name in _TEMPLATES):
        return True
    try:
        config = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        # Whether that is a fault is for the tokenizer to say.
        return False
    return isinstance(config, dict) and bool(config.get("chat_template"))


def has_tokenizer(folder: Path) -> bool:
    """Tell whether a tokenizer is among a folder's files."""
    return any((folder / name).exists() for name in _TOKENIZERS)


def read_template(folder: Path, name: str) -> Any:
    """Read the template of a folder as a tokenizer takes it."""
    with explaining(name, folder):
        file = folder / _TEMPLATES[0]
        if file.exists():
            return file.read_text(encoding="utf-8")
        older = folder / _TEMPLATES[1]
        config = _read_json(older if older.exists() else folder / "tokenizer_config.json")
        template = config["chat_template"]
        if isinstance(template, list):
            return {each["name"]: each["template"] for each in template}
        return template


def remark_files(checkpoint: Checkpoint) -> Iterator[str]:
    """Say which of a checkpoint's files are not read, though they might be thought to be.

    Raises:
        CheckpointError: if there is no such folder.
    """
    for folder in list_folders(checkpoint):
        left = sorted(file.name for file in folder.iterdir() if _LEFTOVER.fullmatch(file.name))
        if left:
            yield f"{', '.join(left)} in {folder}: ignored, since only safetensors are read"
        whole, index = folder / _WHOLE, folder / f"{_WHOLE}.index.json"
        if whole.exists() and index.exists():
            yield (
                f"{whole} is loaded, and the shards that {index.name} beside it lists are not;"
                " remove the one that is not meant"
            )


def digest_checkpoint(checkpoint: Checkpoint) -> str:
    """SHA-256 over what makes up a checkpoint: the names and contents of the files that are read.

    A repository is its id and its commit, which names its contents as well. The number format
    counts where it is not float32; the device, which moves outcomes by rounding alone, does not.
    Nor does what is never read: a model card, or what a trainer left to go on from.
    """
    digest = hashlib.sha256()
    for reference, repo in find_repos(checkpoint).items():
        if repo is not None:
            digest.update(f"{HUB}/{repo}".encode())
            continue
        folder = resolve_folder(reference)
        for file in sorted(filter(is_read, folder.iterdir())):
            digest.update(file.name.encode())
            digest.update(bytes.fromhex(digest_file(file)))
    digest.update(b"chat" if checkpoint.chat else b"completion")
    if checkpoint.dtype not in (None, "float32"):
        digest.update(str(checkpoint.dtype).encode())
    templated = next(filter(has_template, list_folders(checkpoint)), None)
    if templated is not None and writes_date(read_template(templated, checkpoint.name)):
        digest.update(TODAY.isoformat().encode())
    return digest.hexdigest()


def _check_part(folder: Path, reference: str, name: str, *, weights: bool) -> None:
    check_safe(folder)
    if weights or find_repo(reference) is None:
        _check_weights(folder, name)


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
    from safetensors import SafetensorError, safe_open

    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise CheckpointError(
            f"checkpoint {name!r}: expected weights as *.safetensors in {folder}, found none; save"
            " them with save_pretrained"
        )
    for file in files:
        try:
            # The header alone, against the file's length: a copy that was cut off is found now.
            with safe_open(file, framework="numpy"):
                pass
        except (SafetensorError, OSError) as error:
            raise CheckpointError(
                f"checkpoint {name!r}: expected whole safetensors in {file}, got: {error}; copy or"
                " download it again"
            ) from error


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
