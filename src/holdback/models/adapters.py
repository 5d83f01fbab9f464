"""PEFT adapters merged into the weights that they were made for."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from holdback.errors import CheckpointError
from holdback.models.effect import answer_fixed, require_effect

if TYPE_CHECKING:
    import torch

MERGEABLE = (
    "LORA",
    "ADALORA",
    "LOHA",
    "LOKR",
    "IA3",
    "OFT",
    "BOFT",
    "VERA",
    "FOURIERFT",
    "HRA",
    "LN_TUNING",
    "RANDLORA",
    "SHIRA",
    "TRAINABLE_TOKENS",
)
"""Types of PEFT adapters that are a change of the weights."""
_MOST_LOST = 0.25
"""Share of an adapter's effect on the logits that merging may round away."""


@contextmanager
def hushed_peft() -> Iterator[None]:
    """Keep back warnings of PEFT's that no user can act on.

    It uses a name that transformers deprecated, and says when it transposes GPT-2's layers. What it
    says of tied embeddings is measured here, in what merging loses.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)
        warnings.filterwarnings("ignore", "fan_in_fan_out is set to", UserWarning)
        warnings.filterwarnings(
            "ignore", "Model (has|with) `tie_word_embeddings=True`", UserWarning
        )
        yield


def check_type(folder: Path, name: str) -> None:
    """Refuse an adapter that is no change of the weights, such as a learnt prompt.

    Raises:
        CheckpointError: naming its type and those that are taken; `name` is the checkpoint's.
    """
    kind = _read_config(folder).get("peft_type")
    if kind not in MERGEABLE:
        raise CheckpointError(
            f"checkpoint {name!r}: the adapter in {folder} is of PEFT type {kind!r}, expected one"
            f" that can be merged into the weights: {', '.join(MERGEABLE)}; serve the model with"
            " its adapter behind an endpoint, or train one of these"
        )


def fit_adapter(model: Any, folder: Path, name: str) -> Any:
    """Put the adapter in `folder` on `model`, which is changed in place; on the meta device too.

    Where the adapter holds embeddings of more tokens than the model has, the model grows by them.

    Raises:
        CheckpointError: if it was made for other weights; `name` is the checkpoint's.
    """
    from peft import PeftModel

    what = f"checkpoint {name!r}: the adapter in {folder}"
    _grow_vocabulary(model, folder, what)
    try:
        # Missing tensors are a warning of PEFT's, and surplus ones not even that.
        with hushed_peft(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Found missing adapter keys", UserWarning)
            # On the meta device nothing is copied, and that is what is meant there.
            warnings.filterwarnings("ignore", ".*copying from a non-meta parameter", UserWarning)
            adapted = PeftModel.from_pretrained(model, folder)
    # Blind: a missing module is a ValueError, a shape that does not fit a RuntimeError.
    except Exception as error:
        if _is_misfit(error):
            raise _refuse_base(what, folder, error) from error
        raise CheckpointError(
            f"{what} cannot be applied: {type(error).__name__}: {error}"
        ) from error
    _check_tensors(adapted, folder, what)
    return adapted


def merge_adapter(model: Any, folder: Path, name: str, *, chat: Sequence[int] = ()) -> Any:
    """Merge the adapter in `folder` into `model`, which is changed in place, and return it.

    Args:
        model: The base.
        folder: Of the adapter.
        name: The checkpoint's.
        chat: Tokens of a rendered chat: an adapter may change nothing but their embeddings.

    Raises:
        CheckpointError: if it was made for other weights, changes no output, or is lost in the
            merged weights' number format or by tied embeddings.
    """
    what = f"checkpoint {name!r}: the adapter in {folder}"
    rows = count_embeddings(model)
    _grow_vocabulary(model, folder, what)
    # What it trains of single tokens shows in what is asked with these tokens.
    most = count_embeddings(model)
    probed = [*chat, *_list_trained_tokens(folder), *range(rows, most)]
    probed = [token for token in probed if token < most]
    plain = answer_fixed(model, probed)
    adapted = fit_adapter(model, folder, name)
    unmerged = answer_fixed(adapted, probed)
    require_effect(plain, unmerged, what)
    tied = _find_tied(adapted, folder)
    with hushed_peft():
        merged = adapted.merge_and_unload()
    _check_merged(plain, unmerged, answer_fixed(merged, probed), what, tied=tied)
    return merged


def count_embeddings(model: Any) -> int:
    """Number of tokens that a model has embeddings of."""
    return int(model.get_input_embeddings().weight.shape[0])


def _grow_vocabulary(model: Any, folder: Path, what: str) -> None:
    """Make room for the embeddings of added tokens that an adapter holds, all of them."""
    rows = count_embeddings(model)
    tables = {"input": model.get_input_embeddings(), "output": model.get_output_embeddings()}
    if tables["output"] is None or tables["output"].weight is tables["input"].weight:
        del tables["output"]
    names = {
        side: next(name for name, module in model.named_modules() if module is table)
        for side, table in tables.items()
    }
    held = {side: _count_rows(folder, name) for side, name in names.items()}
    most = max((n for n in held.values() if n is not None), default=rows)
    if most <= rows:
        return
    for side, n in held.items():
        if n != most:
            raise CheckpointError(
                f"{what} has a vocabulary that has grown by {most - rows} tokens, to {most}, and"
                f" holds no {side} embeddings of them ({names[side]}); save it with"
                " save_embedding_layers=True"
            )
    model.resize_token_embeddings(most, mean_resizing=False)


def _count_rows(folder: Path, module: str) -> int | None:
    """Rows of the embeddings of a module that an adapter holds; None where it holds none."""
    from safetensors import safe_open

    kept = re.compile(rf"\.{re.escape(module)}\.(base_layer\.|modules_to_save\.)?weight$")
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="numpy") as opened:
            for key in opened.keys():  # noqa: SIM118  (it is no mapping)
                if kept.search(key):
                    return int(opened.get_slice(key).get_shape()[0])
    return None


def _list_trained_tokens(folder: Path) -> list[int]:
    trained = _read_config(folder).get("trainable_token_indices") or []
    lists = trained.values() if isinstance(trained, dict) else [trained]
    return [int(token) for tokens in lists for token in tokens]


def _find_tied(adapted: Any, folder: Path) -> str:
    """Name the embeddings that an adapter changes though input and output share them."""
    sides = (adapted.get_input_embeddings(), adapted.get_output_embeddings())
    if None in sides or sides[0].weight is not sides[1].weight:
        return ""
    changed = [
        name.removeprefix("base_model.model.")
        for name, module in adapted.named_modules()
        if module in sides and hasattr(module, "base_layer")
    ]
    return ", ".join(changed)


def _check_tensors(adapted: Any, folder: Path, what: str) -> None:
    """Refuse an adapter of whose tensors some found no place, or that leaves places empty."""
    from peft import get_peft_model_state_dict
    from peft.utils import load_peft_weights

    given = set(load_peft_weights(str(folder), device="cpu"))
    # By its default PEFT would ask the hub whether embeddings belong to the adapter.
    placed = set(get_peft_model_state_dict(adapted, save_embedding_layers=False))
    if lacking := sorted(placed - given):
        raise _refuse_base(what, folder, f"it lacks {lacking[0]}")
    # Embeddings that were saved along are the model's own tensors, by whatever name PEFT gives
    # them where a module is trained whole.
    own = {_name_plainly(key) for key in adapted.state_dict()}
    surplus = sorted(key for key in given - placed if _name_plainly(key) not in own)
    if surplus:
        raise _refuse_base(what, folder, f"the model has no place for its {surplus[0]}")


def _name_plainly(key: str) -> str:
    return re.sub(r"\.(modules_to_save(\.default)?|original_module|base_layer)(?=\.)", "", key)


def _check_merged(
    plain: torch.Tensor, unmerged: torch.Tensor, merged: torch.Tensor, what: str, *, tied: str
) -> None:
    lost = float((merged - unmerged).norm() / (unmerged - plain).norm())
    if lost <= _MOST_LOST:
        return
    cause = (
        f"it changes {tied}, and input and output embeddings are tied: they are one tensor, so that"
        " what is merged into one changes the other; leave them out of target_modules, or untie"
        " them in the base before training"
        if tied
        else 'the number format rounds it away; use dtype = "float32"'
    )
    raise CheckpointError(
        f"{what} is lost when it is merged: the merged outputs miss {lost:.0%} of its effect, since"
        f" {cause}"
    )


def _is_misfit(error: Exception) -> bool:
    return any(words in str(error) for words in ("size mismatch", "Target modules", "not found in"))


def _refuse_base(what: str, folder: Path, reason: object) -> CheckpointError:
    base = _read_config(folder).get("base_model_name_or_path")
    words = " ".join(str(reason).split())
    return CheckpointError(
        f"{what} does not fit the model: {words:.300}; it was made for another base (name the one"
        f" that it was trained on as `model`: {base!r} by its own word), or its files do not belong"
        " together (save it anew)"
    )


def _read_config(folder: Path) -> dict[str, Any]:
    try:
        config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return config if isinstance(config, dict) else {}
