"""Adapters that were trained before, so that none is trained twice in an audit.

Rungs that fine-tune are climbed on `select`, again on `test`, and on every task, often from the
same weights on the same examples. What is taken from the shelf is bit for bit what training would
have given: the key covers all that it depends on.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import torch

    from holdback.elicitation.finetune import Example

_SHELF: ContextVar[Path | None] = ContextVar("shelf", default=None)
_MOST_BYTES = 4 * 2**30
"""Adapters of large models are large: the longest unused go first."""


@contextmanager
def shelving(folder: Path | None) -> Iterator[None]:
    """Let adapters trained in the body be kept in `folder`, and be taken from it; None for not."""
    token = _SHELF.set(folder)
    try:
        yield
    finally:
        _SHELF.reset(token)


def describe_training(
    weights: Any,
    examples: Sequence[Example],
    settings: Mapping[str, Any],
    rng: np.random.Generator,
) -> str:
    """Digest of all that a trained adapter depends on; empty where there is no shelf.

    Args:
        weights: That the adapter is trained on.
        examples: Token ids and labels.
        settings: Of the training.
        rng: In the state in which the training begins.
    """
    if _SHELF.get() is None:
        return ""
    import torch

    digest = hashlib.sha256()
    for name, tensor in weights.state_dict().items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    machine = [torch.__version__, str(weights.device.type), torch.get_num_threads()]
    asked = [examples, dict(settings), rng.bit_generator.state, machine, type(weights).__name__]
    digest.update(json.dumps(asked, sort_keys=True, default=str).encode())
    return digest.hexdigest()


def take(key: str, rng: np.random.Generator) -> torch.Tensor | None:
    """Take an adapter from the shelf, `rng` left as its training left it; None if none is there."""
    folder = _SHELF.get()
    if folder is None:
        return None
    from safetensors import SafetensorError, safe_open

    path = folder / f"{key}.safetensors"
    try:
        with safe_open(path, framework="pt") as file:
            adapter: torch.Tensor = file.get_tensor("adapter")
            state = json.loads(file.metadata()["rng"])
        os.utime(path)
    except (OSError, SafetensorError):
        return None
    rng.bit_generator.state = state
    return adapter


def keep(key: str, adapter: torch.Tensor, rng: np.random.Generator) -> None:
    """Put a trained adapter on the shelf, whole or not at all; without one nothing is done."""
    folder = _SHELF.get()
    if folder is None:
        return
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=folder, suffix=".part")
    os.close(handle)
    state = json.dumps(rng.bit_generator.state)
    save_file({"adapter": adapter.detach().cpu().contiguous()}, name, metadata={"rng": state})
    os.replace(name, folder / f"{key}.safetensors")
    _make_room(folder)


def _make_room(folder: Path) -> None:
    # Others put and take at the same time: what is gone already is gone.
    with suppress(FileNotFoundError):
        found = [(path, path.stat()) for path in folder.glob("*.safetensors")]
        total = sum(facts.st_size for _, facts in found)
        for path, facts in sorted(found, key=lambda item: item[1].st_mtime):
            if total <= _MOST_BYTES:
                break
            path.unlink()
            total -= facts.st_size
