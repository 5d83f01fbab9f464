"""Model repositories of the Hugging Face hub: a commit first, and safe files only.

A branch moves, so a repository is named by the commit that it stands at before anything runs. Of
that commit only safetensors, configurations and tokenizers are fetched: what is not fetched cannot
run. `HF_HOME`, `HF_TOKEN` and `HF_HUB_OFFLINE` mean what they mean to every other program.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from pathlib import Path
from typing import Self

from holdback.errors import CheckpointError, ConfigError

OFFLINE = "HOLDBACK_OFFLINE"
"""Environment variable by which `--offline` reaches worker processes."""

_COMMIT = re.compile(r"[0-9a-f]{40}")
_SMALL = [
    "config.json",
    "generation_config.json",
    "adapter_config.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
    "*.safetensors.index.json",
]
_WEIGHTS = ["*.safetensors"]
# Folders hold other formats of the same weights, and so does Mistral's consolidated file.
_IGNORED = ["*/*", "consolidated*"]


def is_read(file: Path) -> bool:
    """Tell whether a checkpoint's file is one that loading may read, of a folder as of the hub."""
    return file.is_file() and any(fnmatch(file.name, each) for each in (*_SMALL, *_WEIGHTS))


@dataclass(frozen=True, kw_only=True, slots=True)
class Repo:
    """A model repository at a revision: a commit, or a branch or tag that may move."""

    name: str
    revision: str | None = None

    def __str__(self) -> str:
        return self.name if self.revision is None else f"{self.name}@{self.revision}"

    @property
    def is_pinned(self) -> bool:
        """Whether the revision is a commit."""
        return self.revision is not None and _COMMIT.fullmatch(self.revision) is not None

    def at(self, revision: str | None) -> Self:
        """Take the revision that a checkpoint gives beside the id.

        Raises:
            ConfigError: if the id gives another one.
        """
        if revision is None or revision == self.revision:
            return self
        if self.revision is not None:
            raise ConfigError(
                f"hf/{self}: expected one revision, got another in `revision`: {revision!r};"
                " leave one of them out"
            )
        return replace(self, revision=revision)


def is_offline() -> bool:
    """Tell whether the environment forbids to ask the hub."""
    names = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", OFFLINE)
    return any(os.environ.get(name, "").upper() in {"1", "ON", "YES", "TRUE"} for name in names)


def go_offline() -> None:
    """Touch no network from here on, in this process and in those that it starts.

    To be called before `huggingface_hub` is imported, which reads its variable then.
    """
    os.environ[OFFLINE] = os.environ["HF_HUB_OFFLINE"] = "1"


def pin_repo(repo: Repo) -> Repo:
    """Find the commit that a repository stands at: on the hub, or offline in the cache.

    Raises:
        CheckpointError: if there is none, or the hub does not answer.
    """
    if repo.is_pinned:
        return repo
    if is_offline():
        return replace(repo, revision=_find_cached(repo).name)
    from huggingface_hub import HfApi

    with _explaining(repo):
        commit = HfApi().model_info(repo.name, revision=repo.revision).sha
    if not commit:
        raise CheckpointError(f"hf/{repo}: expected a commit from the hub, got none; name one")
    return replace(repo, revision=commit)


def check_repo(repo: Repo) -> None:
    """Refuse a repository without safetensors before anything of it is fetched.

    Raises:
        CheckpointError: naming what it has instead.
    """
    if is_offline():
        # The cached files themselves are checked, as those of any folder.
        _find_cached(repo)
        return
    from huggingface_hub import HfApi

    with _explaining(repo):
        listed = HfApi().list_repo_files(repo.name, revision=repo.revision)
    weights = [file for file in listed if "/" not in file and file.endswith(".safetensors")]
    if not weights:
        pickles = [file for file in listed if file.endswith((".bin", ".pt", ".pth", ".ckpt"))]
        instead = f"only pickles ({pickles[0]}), which run code when read" if pickles else "none"
        raise CheckpointError(
            f"hf/{repo}: expected weights as *.safetensors, found {instead}; take a revision that"
            " has them"
        )


def fetch_repo(repo: Repo, *, weights: bool = True) -> Path:
    """Fetch a repository's safe files into the hub's cache, or find them there.

    Args:
        repo: At a commit, from `pin_repo`.
        weights: Whether to fetch the weights too; configuration and tokenizer are small.

    Returns:
        The folder of that commit in the cache.

    Raises:
        CheckpointError: if the hub does not give them.
    """
    if is_offline():
        return _find_cached(repo)
    from huggingface_hub import snapshot_download

    with _explaining(repo):
        return Path(
            snapshot_download(
                repo.name,
                revision=repo.revision,
                allow_patterns=[*_SMALL, *(_WEIGHTS if weights else [])],
                ignore_patterns=_IGNORED,
            )
        )


def _find_cached(repo: Repo) -> Path:
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import IncompleteSnapshotError, LocalEntryNotFoundError

    try:
        found = snapshot_download(
            repo.name,
            revision=repo.revision,
            local_files_only=True,
            allow_patterns=[*_SMALL, *_WEIGHTS],
            ignore_patterns=_IGNORED,
        )
    except (LocalEntryNotFoundError, IncompleteSnapshotError, OSError) as error:
        raise CheckpointError(
            f"hf/{repo}: offline, and {constants.HF_HUB_CACHE} holds no whole copy of it; fetch it"
            f" once with `hf download {repo.name}`, or go online"
        ) from error
    return Path(found)


@contextmanager
def _explaining(repo: Repo) -> Iterator[None]:
    """Turn whatever the hub's client raises into one line with the fix."""
    from huggingface_hub.errors import (
        GatedRepoError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        yield
    except GatedRepoError as error:
        raise CheckpointError(
            f"hf/{repo}: the repository is gated; accept its terms on the hub and set HF_TOKEN"
        ) from error
    except RepositoryNotFoundError as error:
        raise CheckpointError(
            f"hf/{repo}: expected a model repository on the hub, found none that this HF_TOKEN may"
            " read; check the id, or write hf/./<path> for a folder"
        ) from error
    except RevisionNotFoundError as error:
        raise CheckpointError(
            f"hf/{repo}: the repository has no revision {repo.revision!r}; name a branch, a tag or"
            " a commit of it"
        ) from error
    # Blind: the client's transport has a tree of exceptions of its own, which has moved before.
    except Exception as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(
            f"hf/{repo}: the hub cannot be asked: {type(error).__name__}: {reason:.200}; --offline"
            " takes what the cache holds"
        ) from error
