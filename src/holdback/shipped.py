"""Lineages that installed packages ship, found by entry points of the group `holdback.lineages`.

Each entry point names a package, `chess = "holdback_lab.chess"`. Its folder `weights` holds a
folder for each checkpoint (`builtin:chess/base`), and its `audit.toml` is the audit of that name.
"""

from __future__ import annotations

from importlib.metadata import entry_points
from importlib.resources import files
from pathlib import Path

from holdback.errors import UnknownNameError

GROUP = "holdback.lineages"


def find_lineages() -> dict[str, Path]:
    """Map the names of shipped lineages to the folders of their packages."""
    points = sorted(entry_points(group=GROUP), key=lambda point: point.name)
    return {point.name: Path(str(files(point.value))) for point in points}


def find_audits() -> dict[str, Path]:
    """Map the names of shipped audits to their files."""
    files_of = {name: folder / "audit.toml" for name, folder in find_lineages().items()}
    return {name: file for name, file in files_of.items() if file.is_file()}


def find_weights(checkpoint: str) -> Path:
    """Find the folder of a shipped checkpoint, `<lineage>/<name>`.

    Raises:
        UnknownNameError: if there is none of that name.
    """
    lineage, _, name = checkpoint.partition("/")
    lineages = find_lineages()
    folder = lineages[lineage] / "weights" / name if lineage in lineages and name else None
    if folder is None or not folder.is_dir():
        known = [
            f"{each}/{weights.name}"
            for each, package in lineages.items()
            for weights in package.glob("weights/*")
            if any(weights.glob("*.safetensors"))
        ]
        raise UnknownNameError.among("shipped checkpoint", checkpoint, known)
    return folder
