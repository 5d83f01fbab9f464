"""From a checkpoint's files, once they are found safe, to weights and a tokenizer."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from holdback.errors import CheckpointError
from holdback.lineage import Checkpoint
from holdback.models.adapters import count_embeddings, fit_adapter, merge_adapter
from holdback.models.effect import answer_fixed, require_finite
from holdback.models.files import (
    check_files,
    has_template,
    has_tokenizer,
    list_folders,
    read_template,
    resolve_folder,
)
from holdback.models.templates import encode_chat, fix_date
from holdback.models.tensors import check_tensors, explaining, load_whole

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerFast


def load_weights(
    checkpoint: Checkpoint, *, device: str = "cpu"
) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """Load a checkpoint, its adapter merged, ready for inference.

    Args:
        checkpoint: Of local weights; float32 unless its `dtype` says otherwise.
        device: Where to, unless the checkpoint's own `device` says.

    Raises:
        CheckpointError: if files are missing or unsafe, an adapter changes nothing, the device is
            not there, or the outputs are not finite.
    """
    place = find_device(checkpoint.device or device, checkpoint.name)
    tokenizer = load_tokenizer(checkpoint)
    check_files(checkpoint)
    folder = resolve_folder(checkpoint.model, revision=checkpoint.revision)
    with explaining(checkpoint.name, folder):
        loaded = load_whole(folder, checkpoint.name, dtype=checkpoint.dtype or "float32")
    model: Any = loaded.to(place).eval()
    plain = answer_fixed(model)
    require_finite(plain, f"checkpoint {checkpoint.name!r} in {folder}")
    if checkpoint.adapter is not None:
        chat = encode_chat(tokenizer, checkpoint.name)
        adapter = resolve_folder(checkpoint.adapter)
        model = merge_adapter(model, adapter, checkpoint.name, chat=chat)
    return model.eval(), tokenizer


def check_weights(checkpoint: Checkpoint) -> tuple[str, ...]:
    """Refuse weights that are not those that their configuration describes; headers are read.

    Returns:
        What may be meant otherwise.

    Raises:
        CheckpointError: naming the first tensor that is missing, left over or of another shape,
            or for an adapter that was made for another base.
    """
    folder = resolve_folder(checkpoint.model, revision=checkpoint.revision)
    model = check_tensors(folder, checkpoint.name)
    rows = count_embeddings(model)
    if checkpoint.adapter is not None:
        fit_adapter(model, resolve_folder(checkpoint.adapter), checkpoint.name)
    most = count_embeddings(model)
    _check_known(checkpoint, most)
    if most == rows:
        return ()
    return (
        f"its vocabulary has grown by {most - rows} tokens, whose embeddings its adapter holds",
    )


def load_tokenizer(checkpoint: Checkpoint) -> PreTrainedTokenizerFast:
    """Load a checkpoint's tokenizer alone, as prompts can be shown without weights.

    Raises:
        CheckpointError: if files are missing or unsafe.
    """
    check_files(checkpoint, weights=False)
    folders = list_folders(checkpoint)
    holders = [folder for folder in folders if has_tokenizer(folder)]
    tokenizer = _open_tokenizer(holders[0], checkpoint.name)
    if len(holders) > 1:
        _check_vocabulary(tokenizer, _open_tokenizer(holders[1], checkpoint.name), checkpoint.name)
    templated = next((folder for folder in folders if has_template(folder)), None)
    if templated not in (None, holders[0]):
        tokenizer.chat_template = read_template(templated, checkpoint.name)
    tokenizer.chat_template = fix_date(tokenizer.chat_template, checkpoint.name)
    return tokenizer


def remark_tokenizer(checkpoint: Checkpoint) -> tuple[str, ...]:
    """Say where an adapted checkpoint's tokenizer and template come from.

    Raises:
        CheckpointError: if there is no such folder.
    """
    if checkpoint.adapter is None:
        return ()
    adapter, model = list_folders(checkpoint)
    own = [
        words
        for words, has in (("tokenizer", has_tokenizer), ("chat template", has_template))
        if has(adapter)
    ]
    if not own:
        return ()
    return (f"{' and '.join(own)}: taken from its adapter, {adapter}, not from {model}",)


def find_device(device: str, name: str) -> torch.device:
    """Turn a device's name into one that this machine has; `auto` is the fastest.

    Raises:
        CheckpointError: if it is not here, naming what is.
    """
    import torch

    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    has_mps = torch.backends.mps.is_available()
    if device == "auto":
        device = "cuda" if gpus else "mps" if has_mps else "cpu"
    here = ["cpu", *(["cuda"] if gpus else []), *(f"cuda:{i}" for i in range(gpus))]
    here += ["mps"] if has_mps else []
    if device not in here:
        raise CheckpointError(
            f"checkpoint {name!r}: expected a device of this machine ({', '.join(here)} or auto),"
            f" got {device!r}; change `device` in the audit file"
        )
    return torch.device(device)


def _check_known(checkpoint: Checkpoint, rows: int) -> None:
    """Refuse a template that writes a token which the weights hold no embedding of."""
    tokenizer = load_tokenizer(checkpoint)
    unknown = [token for token in encode_chat(tokenizer, checkpoint.name) if token >= rows]
    if unknown:
        raise CheckpointError(
            f"checkpoint {checkpoint.name!r}: its chat template writes"
            f" {tokenizer.convert_ids_to_tokens(unknown[0])!r}, token {unknown[0]}, and the weights"
            f" hold embeddings of {rows} tokens: the vocabulary has grown by"
            f" {len(tokenizer) - rows}, and their embeddings were not saved; save an adapter with"
            " save_embedding_layers=True, and a whole model after resize_token_embeddings"
        )


def _open_tokenizer(folder: Path, name: str) -> PreTrainedTokenizerFast:
    from transformers import AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()
    with explaining(name, folder):
        tokenizer = AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
        if not hasattr(tokenizer, "backend_tokenizer"):
            raise ValueError(f"{type(tokenizer).__name__} is slow; save it with a tokenizer.json")
    return tokenizer


def _check_vocabulary(
    own: PreTrainedTokenizerFast, base: PreTrainedTokenizerFast, name: str
) -> None:
    """Refuse an adapter's tokenizer that reads other tokens than its base; it may have more."""
    given, expected = (
        tokenizer.backend_tokenizer.get_vocab(with_added_tokens=False) for tokenizer in (own, base)
    )
    by_id = sorted(expected, key=lambda token: expected[token])
    token = next((token for token in by_id if given.get(token) != expected[token]), None)
    if token is not None:
        raise CheckpointError(
            f"checkpoint {name!r}: expected the tokenizer in its adapter's folder to have the"
            f" vocabulary of its base, got id {given.get(token)} for token {token!r}, which is"
            f" {expected[token]} there; name the model that the adapter was trained on as `model`,"
            " or remove the tokenizer that is not its own"
        )
