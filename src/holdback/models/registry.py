"""From a checkpoint in a plan to a model that answers, and to the digest that names it."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict
from importlib.metadata import EntryPoint, entry_points

from holdback.errors import UnknownNameError
from holdback.lineage import Checkpoint
from holdback.models.loading import BUILTIN, check_files, digest_checkpoint
from holdback.models.protocol import Model

# As in an audit file: two letters or more, so that a Windows drive is still a path.
_SCHEME = re.compile(r"^([A-Za-z][A-Za-z0-9_+-]+):")


def load_checkpoint(checkpoint: Checkpoint) -> Model:
    """Load a checkpoint under its ordinary protocol.

    A reference such as `openai:<model>` is loaded by the entry point `openai` of the group
    `holdback.models`, which is called with the checkpoint; folders and `builtin:` are local
    weights.

    Raises:
        CheckpointError: if its files are missing or unsafe.
        UnknownNameError: for a scheme that no entry point provides.
    """
    provider = _find_provider(checkpoint)
    if provider is not None:
        model: Model = provider.load()(checkpoint)
        return model
    from holdback.models.local import load_model

    # The protocol's fields are variables; this model's are frozen, and nobody sets them.
    return load_model(checkpoint)


def identify_checkpoint(checkpoint: Checkpoint) -> str:
    """Digest of what a checkpoint is: its files, or for a remote model its immutable id.

    Raises:
        CheckpointError: if its files are missing or unsafe.
        UnknownNameError: for a scheme that no entry point provides.
    """
    if _find_provider(checkpoint) is None:
        # What is missing is found before hours of other checkpoints' runs, not after.
        check_files(checkpoint)
        return digest_checkpoint(checkpoint)
    identity = asdict(checkpoint)
    # Its name and place in the lineage are the plan's, not the model's.
    del identity["name"], identity["parent"], identity["stage"]
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


def _find_provider(checkpoint: Checkpoint) -> EntryPoint | None:
    scheme = _SCHEME.match(checkpoint.model)
    if scheme is None or checkpoint.model.startswith(BUILTIN):
        return None
    offered = {point.name: point for point in entry_points(group="holdback.models")}
    if scheme[1] not in offered:
        kind = f"model scheme (of checkpoint {checkpoint.name!r})"
        raise UnknownNameError.among(kind, scheme[1], {*offered, BUILTIN.rstrip(":")})
    return offered[scheme[1]]
