"""Whether a folder's tensors are those that its architecture has: what is missing is drawn anew.

transformers fills a tensor that the files lack with random numbers and warns in a log. Whatever is
then measured is of no checkpoint. Its loading report is asked for all of it: on the meta device
before anything runs, which reads the files' headers alone, and again with the weights.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from holdback.errors import CheckpointError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# What wrappers write before every name, and how to save the model in them.
_WRAPPERS = {
    "_orig_mod.": "torch.compile wrote them: save model._orig_mod with save_pretrained",
    "module.": "DistributedDataParallel wrote them: save model.module with save_pretrained",
    "base_model.model.": "PEFT wrote them: save the adapter alone and name it as `adapter`, or save"
    " what merge_and_unload() returns",
}

# Masks and tables that old versions saved beside the weights; nothing in them was learnt.
_COMPUTED = re.compile(r"(\.masked_bias|\.attn\.attention\.bias|rotary_emb\.inv_freq)$")


def check_tensors(folder: Path, name: str) -> PreTrainedModel:
    """Refuse a folder of whose tensors one is missing, left over or of another shape.

    Returns:
        The model without its weights, on the meta device.

    Raises:
        CheckpointError: naming the first such tensor; `name` is the checkpoint's.
    """
    with explaining(name, folder):
        return load_whole(folder, name, device_map="meta")


def load_whole(folder: Path, name: str, **options: Any) -> PreTrainedModel:
    """Load a causal LM all of whose tensors are in the folder's files.

    Raises:
        CheckpointError: naming the first tensor that is missing, left over or of another shape.
    """
    from transformers import AutoModelForCausalLM

    with _hushed():
        model, report = AutoModelForCausalLM.from_pretrained(
            folder,
            local_files_only=True,
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
            # Reported like the others, and refused here.
            ignore_mismatched_sizes=True,
            **options,
        )
    loaded: PreTrainedModel = model
    _check_report(loaded, report, f"checkpoint {name!r} in {folder}")
    return loaded


def _check_report(model: PreTrainedModel, report: dict[str, Any], what: str) -> None:
    kind = type(model).__name__
    unexpected = sorted(key for key in report["unexpected_keys"] if not _COMPUTED.search(key))
    # In the model's own order, so that a missing layer is named by its first tensor.
    missing = [key for key in model.state_dict() if key in report["missing_keys"]]
    missing += sorted(set(report["missing_keys"]) - set(missing))
    instead = f"has {unexpected[0]} instead" if unexpected else "has nothing in its place"
    if missing:
        found = f"{missing[0]} is missing, and the file {instead}"
    elif report["mismatched_keys"]:
        key, got, expected = min(report["mismatched_keys"], key=lambda entry: str(entry[0]))
        found = f"{key} has shape {list(got)} in the file, expected {list(expected)}"
    elif unexpected:
        found = f"the file has {unexpected[0]}, which the model has no place for"
    else:
        return
    counts = {
        "missing": len(missing),
        "left over": len(unexpected),
        "of another shape": len(report["mismatched_keys"]),
    }
    counted = ", ".join(f"{count} {words}" for words, count in counts.items() if count)
    raise CheckpointError(
        f"{what}: expected the tensors of {kind} as config.json describes it, but {found}"
        f" (tensors: {counted});"
        f" {_find_fix(missing, unexpected)}"
    )


def _find_fix(missing: list[str], unexpected: list[str]) -> str:
    for prefix, fix in _WRAPPERS.items():
        if unexpected and all(key.startswith(prefix) for key in unexpected):
            return f"all such names begin with `{prefix}`: {fix}"
    if missing == ["lm_head.weight"]:
        return (
            "if the output shares the embeddings set tie_word_embeddings to true in config.json,"
            " and else save the whole model with save_pretrained"
        )
    return "save the weights together with their config.json, with save_pretrained"


@contextmanager
def explaining(name: str, folder: Path) -> Iterator[None]:
    """Turn whatever a library raises about a folder into one line about it."""
    try:
        yield
    except CheckpointError:
        raise
    # Blind: tokenizers and safetensors raise plain `Exception` for a file that they cannot read.
    except Exception as error:
        words = " ".join(str(error).split())
        raise CheckpointError(
            f"checkpoint {name!r} in {folder} cannot be loaded: {type(error).__name__}: {words}"
        ) from error


@contextmanager
def _hushed() -> Iterator[None]:
    """Keep back the library's bars, and its report as a table, which is told in a line here."""
    from transformers.utils import logging

    before = logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)
