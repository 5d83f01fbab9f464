"""Checkpoints, and how they descend from each other."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, ClassVar, Literal

from pydantic import ConfigDict, Field

from holdback.errors import ConfigError, UnknownNameError

STRICT = ConfigDict(extra="forbid", strict=True)
"""How audit files are read: nothing that is not asked for, and every value of its type."""
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.+-]*$", max_length=80)]


class Stage(StrEnum):
    """What kind of training produced a checkpoint."""

    PRETRAINED = "pretrained"
    SFT = "sft"
    RL = "rl"
    HELPFUL_ONLY = "helpful_only"


@dataclass(frozen=True, kw_only=True, slots=True)
class Checkpoint:
    """One set of weights, or one model behind an endpoint or an engine.

    In an audit file a `[[lineage.checkpoints]]`. `model` is a folder in Hugging Face format,
    `builtin:<lineage>/<name>` for weights shipped with a package, or an id such as `hf/<repo>`
    (docs/models.md); `adapter` is a PEFT adapter to apply on top of it, referred to alike.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    name: Name
    stage: Stage
    model: str
    parent: str | None = None
    adapter: str | None = None
    revision: str | None = None
    """Of an `hf/<repo>`: a commit once `holdback.models.registry.pin_checkpoint` has seen it."""
    chat: bool = True
    """Whether its ordinary protocol is the chat format; a base model's is completion."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] | None = None
    """Of local weights: `float32` where unsaid, `bfloat16`, `float16`, `auto` for the config's."""
    device: Annotated[str, Field(pattern=r"^(auto|cpu|mps|cuda(:[0-9]+)?)$")] | None = None
    """For local weights: `cpu` where unsaid, `cuda`, `cuda:1`, `mps`, `auto` for the best here."""
    truth: str | None = None
    """Of a model organism: the checkpoint that openly shows what this one can do. Reports then say
    how far off each protocol is; no verdict rests on it."""
    base_url: Annotated[str, Field(pattern=r"^https?://\S+$")] | None = None
    """Of an endpoint; its scheme's environment variable or default where unsaid. Without a key,
    which only the environment holds."""

    @property
    def is_root(self) -> bool:
        """Whether nothing was trained on top of it that could hide anything."""
        return self.stage is Stage.PRETRAINED and self.parent is None


@dataclass(frozen=True, kw_only=True, slots=True)
class Lineage:
    """A tree of checkpoints, parents before children, and the benign ones that gaps are measured
    against.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    name: Name
    checkpoints: Annotated[tuple[Checkpoint, ...], Field(min_length=1)]
    controls: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        names = [checkpoint.name for checkpoint in self.checkpoints]
        for index, checkpoint in enumerate(self.checkpoints):
            if checkpoint.name in names[:index]:
                raise ConfigError(
                    f"lineage {self.name!r}: checkpoint {checkpoint.name!r} is listed twice;"
                    " give each its own name"
                )
            # Parents come first, so one pass finds both typos and cycles.
            if checkpoint.parent is not None and checkpoint.parent not in names[:index]:
                kind = f"parent (of checkpoint {checkpoint.name!r}; parents are listed first)"
                raise UnknownNameError.among(kind, checkpoint.parent, names[:index])
            if checkpoint.truth is not None and checkpoint.truth not in names:
                kind = f"truth (of checkpoint {checkpoint.name!r})"
                raise UnknownNameError.among(kind, checkpoint.truth, names)
        for control in self.controls:
            if control not in names:
                raise UnknownNameError.among(f"control (of lineage {self.name!r})", control, names)

    def __getitem__(self, name: str) -> Checkpoint:
        for checkpoint in self.checkpoints:
            if checkpoint.name == name:
                return checkpoint
        raise UnknownNameError.among("checkpoint", name, [c.name for c in self.checkpoints])

    def __iter__(self) -> Iterator[Checkpoint]:
        return iter(self.checkpoints)

    def controls_for(self, name: str) -> tuple[str, ...]:
        """Name the controls of one checkpoint: all of the lineage's but itself."""
        return tuple(control for control in self.controls if control != name)

    def ancestors_of(self, name: str) -> tuple[str, ...]:
        """Name a checkpoint's parent, its parent, and so on to the root."""
        line = []
        parent = self[name].parent
        while parent is not None:
            line.append(parent)
            parent = self[parent].parent
        return tuple(line)

    def matched_controls_for(self, name: str) -> tuple[str, ...]:
        """Name the controls that are made of what a checkpoint is made of.

        They have its parent, or are its ancestors.
        """
        line = self.ancestors_of(name)
        return tuple(
            control
            for control in self.controls_for(name)
            if control in line or (line and self[control].parent == line[0])
        )
