"""Forward passes that name what each token sees, and compute only the logits that are read.

Texts that share a beginning, or a pass, are told apart by masks and positions. Not every
architecture heeds those (a recurrent one has no keys to mask), so that is tried out before it is
relied on.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import torch

from holdback.models.engine.row_cache import PrefixCache

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_FULL, _SLIDING = "full_attention", "sliding_attention"
_PROBE_TOKENS = 12


def find_context(weights: PreTrainedModel) -> int | None:
    """Longest text in tokens that a model reads; None if its configuration names no limit."""
    limit = getattr(_config(weights), "max_position_embeddings", None)
    return None if limit is None else int(limit)


def lay_masks(
    weights: PreTrainedModel, seen: torch.Tensor, queries: torch.Tensor, keys: torch.Tensor
) -> torch.Tensor | dict[str, torch.Tensor]:
    """Turn what each token sees into the attention masks that a model adds to its scores.

    Args:
        weights: The model; its sliding windows are applied.
        seen: Truth values, shape (rows, new, all): which tokens a new one sees.
        queries: Positions of the new tokens, shape (rows, new).
        keys: Positions of all tokens, shape (rows, all).

    Returns:
        Weights of shape (rows, 1, new, all): 0, or as good as -∞; one for each kind of layer where
        a window sets them apart.
    """
    config = _config(weights)
    # The last of `all` are the new ones: further than that no distance is.
    window = getattr(config, "sliding_window", None)
    kinds = set(getattr(config, "layer_types", None) or ())
    if kinds == {_FULL} or window is None or int(queries.max()) < window:
        return _as_weights(weights, seen)
    near = seen & (queries[:, :, None] - keys[:, None, :] < window)
    if len(kinds) <= 1:
        return _as_weights(weights, near)
    return {_FULL: _as_weights(weights, seen), _SLIDING: _as_weights(weights, near)}


def read_logits(weights: PreTrainedModel, picked: torch.Tensor, **inputs: Any) -> torch.Tensor:
    """Run a pass and compute the logits of some of its tokens only.

    The head's input is cut down to them, so that what a model does to its logits afterwards (soft
    caps, scales) is done here too.

    Args:
        weights: The model.
        picked: Indices into the pass's tokens, row after row.
        **inputs: Of the model.

    Returns:
        Logits, shape (picked, vocabulary).
    """

    def pick(_: Any, args: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        states = args[0]
        return (states.reshape(-1, states.shape[-1])[picked][None], *args[1:])

    head: Any = weights.get_output_embeddings()
    handle = head.register_forward_pre_hook(pick)
    try:
        logits: torch.Tensor = weights(**inputs).logits[0]
    finally:
        handle.remove()
    return logits


def read_plainly(weights: PreTrainedModel, picked: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """The same for texts padded on the right, with nothing that any causal model lacks."""
    logits: torch.Tensor = weights(input_ids=ids, use_cache=False).logits
    return logits.reshape(-1, logits.shape[-1])[picked]


_heeding: WeakKeyDictionary[Any, bool] = WeakKeyDictionary()


def heeds_masks(weights: PreTrainedModel) -> bool:
    """Tell whether a model computes the same with a shared beginning and masks as plainly.

    Tried once for each model: that depends on its architecture, not on its weights' values.
    """
    if weights not in _heeding:
        # Mamba and its kin keep a state, not keys; other layers know masks of their own.
        kinds = set(getattr(_config(weights), "layer_types", None) or ())
        masked = kinds <= {_FULL, _SLIDING} and not getattr(weights, "_is_stateful", False)
        if not masked or weights.get_output_embeddings() is None:
            _heeding[weights] = False
        else:
            agrees = _try_masks(weights)
            if agrees is None:
                # Weights without finite logits say nothing about the architecture.
                return True
            _heeding[weights] = agrees
    return _heeding[weights]


@torch.no_grad()
def _try_masks(weights: PreTrainedModel) -> bool | None:
    """Compare two texts with a common beginning, read as one row behind a cache, with plain passes.

    Returns None if the plain passes are not finite.
    """
    device = weights.device
    vocabulary = int(weights.get_input_embeddings().weight.shape[0])
    n = min(_PROBE_TOKENS, find_context(weights) or _PROBE_TOKENS)
    ids = (torch.arange(2 * n, device=device).reshape(2, n) * 7 + 3) % vocabulary
    half = n // 2
    ids[1, :half] = ids[0, :half]
    with _evaluating(weights):
        plain = read_plainly(weights, torch.tensor([n - 1, 2 * n - 1], device=device), ids).float()
        if not bool(plain.isfinite().all()):
            return None
        try:
            read = _read_together(weights, ids, half)
        # Blind: an architecture that does not know these arguments fails in ways of its own.
        except Exception:
            return False
    # In half precision two orders of the same sum differ in the third digit.
    exact = next(weights.parameters()).dtype in (torch.float32, torch.float64)
    scale = float(plain.abs().max())
    return bool((read - plain).abs().max() <= (1e-4 if exact else 3e-2) * scale)


def _read_together(weights: PreTrainedModel, ids: torch.Tensor, half: int) -> torch.Tensor:
    device = ids.device
    prefix = PrefixCache.read(weights, ids[0, :half])
    ends = ids.shape[1] - half
    row = ids[:, half:].reshape(1, -1)
    places = torch.arange(half, ids.shape[1], device=device).repeat(2)[None]
    seen = torch.ones(1, 2 * ends, half + 2 * ends, dtype=torch.bool, device=device).tril(half)
    seen[:, ends:, half : half + ends] = False
    keys = torch.cat([torch.arange(half, device=device)[None], places], 1)
    masks = lay_masks(weights, seen, places, keys)
    # The form that a window would need must be understood as well.
    kinds = set(getattr(_config(weights), "layer_types", None) or ())
    if len(kinds) > 1 and not isinstance(masks, Mapping):
        masks = dict.fromkeys(kinds, masks)
    return read_logits(
        weights,
        torch.tensor([ends - 1, 2 * ends - 1], device=device),
        input_ids=row,
        position_ids=places,
        attention_mask=masks,
        past_key_values=prefix,
        use_cache=True,
    ).float()


@contextmanager
def _evaluating(weights: PreTrainedModel) -> Iterator[None]:
    """Without dropout, whoever trains this model at the moment."""
    training = weights.training
    weights.eval()
    try:
        yield
    finally:
        weights.train(training)


def _as_weights(weights: PreTrainedModel, seen: torch.Tensor) -> torch.Tensor:
    """Of any size that is added to scores: truth values would be added as 0 and 1 by some."""
    dtype = weights.dtype
    zeros = torch.zeros(seen.shape, dtype=dtype, device=seen.device)
    return zeros.masked_fill_(~seen, torch.finfo(dtype).min)[:, None]


def _config(weights: PreTrainedModel) -> Any:
    return weights.config.get_text_config(decoder=True)
