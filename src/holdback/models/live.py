"""Models that are already in memory, lent by whoever loaded them: `live:<digest>`.

They stay in this process: an audit of them runs with one worker.
"""

from __future__ import annotations

import copy
import hashlib
from typing import Any

from holdback.errors import CheckpointError
from holdback.ids import parse_id
from holdback.lineage import Checkpoint
from holdback.models.protocol import Format, Model, Presentation
from holdback.models.templates import fix_date

_LENT: dict[str, tuple[Any, Any]] = {}


def lend_weights(weights: Any, tokenizer: Any) -> str:
    """Make a model and its tokenizer known, and return the id that a plan names them by.

    The id is a digest of every tensor, of the configuration and of the tokenizer.
    """
    digest = hashlib.sha256()
    for name, tensor in weights.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).float().numpy().tobytes())
    digest.update(weights.config.to_json_string().encode())
    digest.update(tokenizer.backend_tokenizer.to_str().encode())
    # With the day that it is told, if it asks for one.
    digest.update(str(fix_date(tokenizer.chat_template, "live")).encode())
    name = digest.hexdigest()[:16]
    _LENT[name] = (weights, tokenizer)
    return f"live:{name}"


def load_live(checkpoint: Checkpoint) -> Model:
    """Take a model that was lent.

    Raises:
        CheckpointError: if it was lent in another process, or not at all.
    """
    from holdback.models.local import LocalModel

    weights, _ = _take(checkpoint)
    # A copy: whoever lent it may go on with it while techniques change theirs.
    return LocalModel(
        name=checkpoint.name,
        weights=copy.deepcopy(weights).eval(),
        tokenizer=take_tokenizer(checkpoint),
        presentation=Presentation(format=Format.CHAT if checkpoint.chat else Format.COMPLETION),
    )


def take_tokenizer(checkpoint: Checkpoint) -> Any:
    """Take a copy of the tokenizer of a model that was lent, with the day that its template writes.

    Raises:
        CheckpointError: if it was lent in another process, or not at all.
    """
    _, lent = _take(checkpoint)
    tokenizer = copy.deepcopy(lent)
    tokenizer.chat_template = fix_date(tokenizer.chat_template, checkpoint.name)
    return tokenizer


def _take(checkpoint: Checkpoint) -> tuple[Any, Any]:
    name = parse_id(checkpoint.model).name
    if name not in _LENT:
        raise CheckpointError(
            f"checkpoint {checkpoint.name!r}: expected a model that this process was lent as"
            f" {checkpoint.model}, found none; hand it to holdback.audit again (one worker), or"
            " save it and name its folder"
        )
    return _LENT[name]


# How `models.registry` knows what may be touched of it.
load_live.access = "weights"  # type: ignore[attr-defined]
