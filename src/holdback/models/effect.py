"""What a model answers to a few fixed token sequences: whether a change took effect.

An adapter for other weights, a wrong loss mask or noise below the number format's resolution leave
a model as it was. Whatever is then measured reads as «this brought nothing out», a false null.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from holdback.errors import CheckpointError

if TYPE_CHECKING:
    import torch

_SEQUENCES, _TOKENS = 4, 16


def answer_fixed(weights: Any, chat: Sequence[int] = ()) -> torch.Tensor:
    """Logits behind fixed sequences of tokens, shape (64 + chat, vocabulary), float32 on the CPU.

    The tokens are drawn once for all, uniformly over the vocabulary: no prompt of any task is
    among them, and a change that moves no token of these moves none of a task's. A change of a few
    tokens' embeddings alone does: `chat` is a sequence that has them.
    """
    import torch

    vocabulary = int(weights.get_input_embeddings().weight.shape[0])
    ids = np.random.default_rng(0).integers(vocabulary, size=(_SEQUENCES, _TOKENS))
    sequences = [ids, np.array([chat])] if len(chat) else [ids]
    with torch.no_grad():
        logits = [
            weights(input_ids=torch.tensor(part, device=weights.device), use_cache=False).logits
            for part in sequences
        ]
    return torch.cat([part.detach().float().cpu().flatten(0, 1) for part in logits])


def require_finite(answered: torch.Tensor, what: str) -> None:
    """Refuse a model whose logits are not numbers.

    Raises:
        CheckpointError: naming `what`, with the way out.
    """
    if not bool(answered.isfinite().all()):
        raise CheckpointError(
            f"{what}: expected finite logits, got NaN or infinity; the weights are damaged, or"
            ' overflow their number format: try dtype = "float32" or "bfloat16"'
        )


def require_effect(before: torch.Tensor, after: torch.Tensor, what: str) -> None:
    """Refuse a change under which every output stayed what it was.

    Args:
        before: From `answer_fixed`.
        after: The same of the changed weights.
        what: The change, as the message names it.

    Raises:
        CheckpointError: if it changed no output, or made them something else than numbers.
    """
    require_finite(after, what)
    if before.equal(after):
        raise CheckpointError(
            f"{what} changes no output, so whatever it were to bring out would read as not there;"
            " check its parameters, and that it belongs to this model"
        )
