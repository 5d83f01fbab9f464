"""PEFT adapters merged into the weights that they were made for."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from holdback.errors import CheckpointError
from holdback.models.effect import answer_fixed, require_effect

if TYPE_CHECKING:
    import torch

_MOST_LOST = 0.25
"""Share of an adapter's effect on the logits that merging may round away."""


@contextmanager
def hushed_peft() -> Iterator[None]:
    """Keep back warnings of PEFT's that no user can act on.

    It uses a name that transformers deprecated, and says when it transposes GPT-2's layers.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)
        warnings.filterwarnings("ignore", "fan_in_fan_out is set to", UserWarning)
        yield


def merge_adapter(model: Any, folder: Path, name: str) -> Any:
    """Merge the adapter in `folder` into `model`, which is changed in place, and return it.

    Raises:
        CheckpointError: if it was made for other weights, changes no output, or is lost in the
            merged weights' number format; `name` is the checkpoint's.
    """
    from peft import PeftModel

    what = f"checkpoint {name!r}: the adapter in {folder}"
    plain = answer_fixed(model)
    try:
        # Missing tensors are a warning of PEFT's, and surplus ones not even that.
        with hushed_peft(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Found missing adapter keys", UserWarning)
            adapted = PeftModel.from_pretrained(model, folder)
    # Blind: a missing module is a ValueError, a shape that does not fit a RuntimeError.
    except Exception as error:
        if _is_misfit(error):
            raise _refuse_base(what, folder, error) from error
        raise CheckpointError(
            f"{what} cannot be applied: {type(error).__name__}: {error}"
        ) from error
    _check_tensors(adapted, folder, what)
    unmerged = answer_fixed(adapted)
    require_effect(plain, unmerged, what)
    merged = adapted.merge_and_unload()
    _check_merged(plain, unmerged, answer_fixed(merged), what)
    return merged


def _check_tensors(adapted: Any, folder: Path, what: str) -> None:
    """Refuse an adapter of whose tensors some found no place, or that leaves places empty."""
    from peft import get_peft_model_state_dict
    from peft.utils import load_peft_weights

    given = set(load_peft_weights(str(folder), device="cpu"))
    # By its default PEFT would ask the hub whether embeddings belong to the adapter.
    placed = set(get_peft_model_state_dict(adapted, save_embedding_layers=False))
    if lacking := sorted(placed - given):
        raise _refuse_base(what, folder, f"it lacks {lacking[0]}")
    # Embeddings that were saved along are the model's own tensors.
    if surplus := sorted(given - placed - set(adapted.state_dict())):
        raise _refuse_base(what, folder, f"the model has no place for its {surplus[0]}")


def _check_merged(
    plain: torch.Tensor, unmerged: torch.Tensor, merged: torch.Tensor, what: str
) -> None:
    lost = float((merged - unmerged).norm() / (unmerged - plain).norm())
    if not lost <= _MOST_LOST:
        raise CheckpointError(
            f"{what} is lost when it is merged: the merged outputs miss {lost:.0%} of its effect,"
            ' which the number format rounds away; use dtype = "float32"'
        )


def _is_misfit(error: Exception) -> bool:
    return any(words in str(error) for words in ("size mismatch", "Target modules", "not found in"))


def _refuse_base(what: str, folder: Path, reason: object) -> CheckpointError:
    try:
        config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
        base = config.get("base_model_name_or_path")
    except (OSError, ValueError, AttributeError):
        base = None
    words = " ".join(str(reason).split())
    return CheckpointError(
        f"{what} was made for another base, {base!r} by its own word: {words:.300}; name the model"
        " that it was trained on as `model`"
    )
