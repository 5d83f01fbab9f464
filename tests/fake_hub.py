"""A hub cache as `huggingface_hub` lays it out, without any hub."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def add_repo(cache: Path, name: str, folder: Path, *, commit: str = COMMIT) -> Path:
    """Lay a folder into the cache as the branch `main` of repository `name`; return its snapshot.

    Files are links to blobs, as in a downloaded repository.
    """
    repo = cache / f"models--{name.replace('/', '--')}"
    snapshot = repo / "snapshots" / commit
    for place in (repo / "blobs", repo / "refs", snapshot):
        place.mkdir(parents=True, exist_ok=True)
    (repo / "refs" / "main").write_text(commit)
    for file in folder.iterdir():
        blob = repo / "blobs" / f"{commit[:8]}-{file.name}"
        shutil.copy(file, blob)
        (snapshot / file.name).unlink(missing_ok=True)
        (snapshot / file.name).symlink_to(os.path.relpath(blob, snapshot))
    return snapshot
