"""Model ids: what the text that names a model says, read in one place.

weights/mine                  a folder in Hugging Face format
builtin:chess/base            weights that a package ships
hf/<repo>[@<revision>]        a repository of the hub; hf/<path> is a folder
vllm/<repo, path or builtin:> the same weights, run by vLLM
openai/<name>                 a model behind OpenAI's interface
openai-api/<service>/<name>   one behind a compatible service
uci/<command>?nodes=100       a chess engine
<entry point>:<name>          what a package's entry point loads
file.py:Name?options          what a file of one's own loads
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from holdback.errors import ConfigError
from holdback.extensions import is_in_file

FOLDER, FILE, SHIPPED = "folder", "file", "builtin"
HUB, VLLM, OPENAI, SERVICE, UCI = "hf", "vllm", "openai", "openai-api", "uci"
_SLASHED = (HUB, OPENAI, SERVICE, UCI, VLLM)
BEGINNINGS = (f"{SHIPPED}:", *(f"{scheme}/" for scheme in _SLASHED))
"""How ids begin that are no folders."""
# Two letters or more, so that a Windows drive is still a path.
_COLON = re.compile(r"([A-Za-z][A-Za-z0-9_+-]+):")
_REPO = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)?")


@dataclass(frozen=True, slots=True)
class ModelId:
    """A model id, taken apart."""

    scheme: str
    """`folder`, `file`, one of those with a slash, or that of an entry point."""
    name: str
    """What stands behind the scheme; of a folder its path, of a file the whole."""
    revision: str | None = None
    """Of a repository, where the id gives one."""

    def __str__(self) -> str:
        if self.scheme in (FOLDER, FILE):
            return self.name
        revision = "" if self.revision is None else f"@{self.revision}"
        return f"{self.scheme}{'/' if self.scheme in _SLASHED else ':'}{self.name}{revision}"

    @property
    def is_endpoint(self) -> bool:
        """Whether it is behind an OpenAI-compatible server, which may have its price."""
        return self.scheme in (OPENAI, SERVICE)

    @property
    def service(self) -> str:
        """Of an endpoint: whose environment variables say where it is and which key it takes."""
        return self.name.partition("/")[0] if self.scheme == SERVICE else OPENAI

    @property
    def model(self) -> str:
        """Of an endpoint: the name that the server knows it by."""
        return self.name.partition("/")[2] if self.scheme == SERVICE else self.name

    @property
    def code(self) -> str:
        """Of a file: `file.py:Name`, without options."""
        return self.name.partition("?")[0]


def parse_id(reference: str) -> ModelId:
    """Take an id apart.

    A folder of that name comes before a repository, as it does in transformers.

    Raises:
        ConfigError: for an id without a name, or of which a part is missing or misspelt.
    """
    if not reference.strip():
        raise ConfigError("expected a model's path or id, got an empty one")
    if is_in_file(reference):
        return ModelId(FILE, reference)
    scheme, slash, rest = reference.partition("/")
    if slash and scheme in _SLASHED:
        return _parse_slashed(reference, scheme, rest)
    named = _COLON.match(reference)
    return ModelId(named[1], reference[named.end() :]) if named else ModelId(FOLDER, reference)


def parse_weights(reference: str) -> ModelId:
    """Take apart the id of the files that a model's weights are read from, vLLM's among them.

    Raises:
        ConfigError: as `parse_id`.
    """
    parsed = parse_id(reference)
    if parsed.scheme != VLLM:
        return parsed
    return parse_id(parsed.name if parsed.name.startswith(f"{SHIPPED}:") else f"hf/{parsed.name}")


def _parse_slashed(reference: str, scheme: str, rest: str) -> ModelId:
    if not rest.strip("/"):
        raise ConfigError(f"expected a name behind {reference!r}")
    if scheme == SERVICE and not all(rest.partition("/")):
        raise ConfigError(f"expected openai-api/<service>/<name>, got {reference!r}")
    if scheme != HUB:
        return ModelId(scheme, rest)
    if rest.startswith(("/", "./", "../", "~")) or Path(rest).is_dir():
        return ModelId(FOLDER, rest)
    name, _, revision = rest.partition("@")
    if not _REPO.fullmatch(name):
        raise ConfigError(
            f"model id {reference!r}: expected hf/<organisation>/<name>, with @<revision> behind it"
            " or not, or hf/<path of a folder>"
        )
    return ModelId(HUB, name, revision or None)


def locate_id(reference: str, folder: Path) -> str:
    """Make the path in an id absolute, which starts at `folder`; other ids stay as they are."""
    if not reference.strip():
        return reference
    if is_in_file(reference):
        return str((folder / reference).resolve())
    scheme, slash, rest = reference.partition("/")
    if not slash or scheme not in _SLASHED:
        return reference if _COLON.match(reference) else str((folder / reference).resolve())
    is_path = rest.startswith(("/", "./", "../"))
    is_path |= scheme in (HUB, VLLM) and bool(rest) and (folder / rest).is_dir()
    if not is_path or scheme in (OPENAI, SERVICE):
        return reference
    path, query, options = rest.partition("?")
    return f"{scheme}/{(folder / path).resolve()}{query}{options}"
