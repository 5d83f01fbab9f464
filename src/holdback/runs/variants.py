"""Models by one line of text, the technique that is applied to them included.

    builtin:chess/chat
    builtin:chess/chat?rung=noise&sigma=0.01&seed=0
    builtin:chess/chat?adapter=builtin:chess/entertainer
    checkpoints/mine?chat=false&rung=prefill&text=The answer is
    hf/<repo>?revision=<commit>&rung=few_shot&n=5&rung=prefill&text=So&plan=audit.toml&task=facts
    entertainer?plan=audit.toml&rung=noise-0.01

All that sets one variant apart from another is in the line, since other programs tell models apart
by their names alone: what Inspect memoises, caches and resumes.
"""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import numpy as np

from holdback.elicitation.technique import Access, Technique, make_technique
from holdback.errors import ConfigError, UnknownNameError
from holdback.lineage import Checkpoint, Stage
from holdback.models.protocol import Model
from holdback.models.registry import find_access, identify_checkpoint, load_checkpoint
from holdback.plan import AuditPlan, Rung, load_plan
from holdback.runs.resolve import Resolved
from holdback.statistics.measurement import Measurement
from holdback.tasks.task import Conversation, SampleRecord, Task

ALIASES = {"noise": "weight_noise"}
_OF_CHECKPOINT = ("adapter", "revision", "chat", "dtype", "device", "base_url")
_OWN = ("rung", "seed", "plan", "task", "digest")


@dataclass(frozen=True, kw_only=True)
class Variant:
    """A checkpoint, and what is to be done to it."""

    reference: str
    """The line of text, without a digest."""
    checkpoint: Checkpoint
    rung: Rung
    """The ordinary protocol where no rung was named."""
    seed: int = 0
    plan: AuditPlan | None = None
    task: str | None = None
    """Task of the plan that demonstrations are drawn from."""

    @property
    def name(self) -> str:
        """The reference, with a digest of what an audit file said where it leads to one.

        Only then may the same words come to mean another variant.
        """
        if self.plan is None:
            return self.reference
        joint = "&" if "?" in self.reference else "?"
        return f"{self.reference}{joint}digest={self.digest}"

    @property
    def digest(self) -> str:
        """Of the technique, its parameters, the seeds, and the demonstrations' task."""
        plan = self.plan
        task = None if plan is None or self.task is None else plan.tasks[self.task]
        identity = {
            "model": [self.checkpoint.model, self.checkpoint.adapter, self.checkpoint.revision],
            "technique": self.rung.technique,
            "parameters": self.rung.parameters,
            "seeds": [0 if plan is None else plan.seed, self.seed],
            "task": None if task is None else [task.kind, task.options],
        }
        canonical = json.dumps(identity, sort_keys=True, default=str)
        return hashlib.sha256(canonical.encode()).hexdigest()[:12]


def parse_reference(text: str, extra: Mapping[str, Any] | None = None) -> Variant:
    """Read `<checkpoint>[?key=value&…]`.

    `rung` names a technique (`noise` is short for `weight_noise`) and the keys after it are its
    parameters; several rungs are applied in order. With `plan`, an audit file, it names one of its
    rungs instead, and the checkpoint may be one of its lineage's. `seed` is the rung's, and `task`
    the plan's task that demonstrations come from (the only one where unsaid). `adapter`,
    `revision`, `chat`, `dtype`, `device` and `base_url` belong to the checkpoint.

    Args:
        text: The reference.
        extra: More keys and values, as other programs pass them.

    Raises:
        ConfigError: for a key that nothing takes, or a digest of something else.
        UnknownNameError: for a technique, rung, task or checkpoint that is not there.
    """
    model, _, query = text.partition("?")
    pairs: list[tuple[str, Any]] = []
    for part in filter(None, query.split("&")):
        if "=" not in part:
            raise ConfigError(f"model {text!r}: expected key=value after the ?, got {part!r}")
        # One at a time, since a text may hold a `;` or an `=` of its own.
        key, value = parse_qsl(part.replace("+", "%2B"), keep_blank_values=True)[0]
        pairs.append((key, _read_value(value)))
    pairs += list((extra or {}).items())
    if not model:
        raise ConfigError(f"model {text!r}: expected a checkpoint, as in builtin:chess/chat")
    own = {key: value for key, value in pairs if key in _OWN}
    plan = load_plan(Path(str(own["plan"]))) if "plan" in own else None
    checkpoint = _make_checkpoint(text, model, plan, dict(pairs))
    variant = Variant(
        reference=_write_reference(model, pairs),
        checkpoint=checkpoint,
        rung=_find_rung(text, plan, pairs),
        seed=_read_seed(text, own.get("seed", 0)),
        plan=plan,
        task=_find_task(text, plan, own.get("task")),
    )
    if "digest" in own and str(own["digest"]) != variant.digest:
        raise ConfigError(
            f"model {text!r}: expected what {own['plan'] if plan else 'the reference'} said when"
            f" this name was written ({own['digest']}), got {variant.digest}: the file has changed;"
            " leave the digest out to use it as it is now, under a name of its own"
        )
    return variant


@contextmanager
def lend_variant(variant: Variant) -> Iterator[Model]:
    """Load a variant's checkpoint and lend it with its technique applied.

    The draws are those of an audit with the plan's seed, so that a rung is the same perturbation
    here and there.

    Raises:
        CheckpointError: for a checkpoint that cannot be loaded.
        ConfigError: for a technique that needs more than may be touched of the checkpoint, or
            demonstrations where no task is named.
    """
    technique = build_variant_technique(variant)
    identify_checkpoint(variant.checkpoint)
    given = find_access(variant.checkpoint)
    if technique.access > Access[given.upper()]:
        raise ConfigError(
            f"model {variant.reference!r}: rung {variant.rung.name!r} needs"
            f" {technique.access.name.lower()}, and of this checkpoint there are {given} only"
        )
    model = load_checkpoint(variant.checkpoint)
    seed = 0 if variant.plan is None else variant.plan.seed
    rng = np.random.default_rng([seed, variant.seed])
    with technique.apply(model, _make_task(variant), rng) as elicited:
        yield elicited


def build_variant_technique(variant: Variant) -> Technique:
    """Build the technique, its parameters checked.

    Raises:
        ConfigError: for a technique or a parameter that does not exist.
    """
    return make_technique(replace(variant.rung, seeds=(variant.seed,)))


@dataclass(frozen=True, kw_only=True)
class _NoTask:
    """Stands where somebody else's program asks: whatever it asks takes examples and prefills."""

    name: str
    unit: str = ""
    margin: float = 1.0
    chance: float | None = None
    takes_examples: bool = True

    def run(self, model: Model, **_: Any) -> Iterator[SampleRecord]:
        raise NotImplementedError

    def measure(self, records: Sequence[SampleRecord]) -> Measurement:
        raise NotImplementedError

    def demonstrate(
        self, demonstrator: str, n: int, rng: np.random.Generator
    ) -> list[Conversation]:
        raise ConfigError(
            f"model {self.name!r}: its rung takes demonstrations, which are a task's; name an audit"
            " file and one of its tasks: …?plan=audit.toml&task=NAME&rung=…"
        )


def _make_task(variant: Variant) -> Task:
    if variant.plan is None or variant.task is None:
        # The protocol's fields are variables; this one's are frozen, and nobody sets them.
        nothing: Any = _NoTask(name=variant.reference)
        return nothing  # type: ignore[no-any-return]
    return Resolved(plan=variant.plan).tasks[variant.task]


def _make_checkpoint(
    text: str, model: str, plan: AuditPlan | None, given: Mapping[str, Any]
) -> Checkpoint:
    changes = {key: given[key] for key in _OF_CHECKPOINT if key in given}
    chat = changes.get("chat", True)
    if not isinstance(chat, bool):
        raise ConfigError(f"model {text!r}: expected chat=true or chat=false, got {chat!r}")
    changes = {key: value if key == "chat" else str(value) for key, value in changes.items()}
    known = {} if plan is None else {c.name: c for c in plan.lineage}
    if model in known:
        return replace(known[model], **changes)
    return Checkpoint(name=model, stage=Stage.SFT, model=model, **changes)


def _find_rung(text: str, plan: AuditPlan | None, pairs: Sequence[tuple[str, Any]]) -> Rung:
    links: list[dict[str, Any]] = []
    for key, value in pairs:
        if key == "rung":
            links.append({"technique": ALIASES.get(str(value), str(value))})
        elif key not in _OWN and key not in _OF_CHECKPOINT:
            if not links:
                raise ConfigError(
                    f"model {text!r}: expected {', '.join(sorted({*_OWN, *_OF_CHECKPOINT}))}, or"
                    f" parameters after rung=…, got {key!r}"
                )
            links[-1][key] = value
    if not links:
        return Rung(name="displayed", technique="displayed")
    names = [str(link["technique"]) for link in links]
    planned = set() if plan is None else {rung.name for rung in plan.ladder}
    if plan is not None and len(links) == 1 and names[0] in planned:
        if len(links[0]) > 1:
            raise ConfigError(
                f"model {text!r}: rung {names[0]!r} has its parameters from the audit file, got"
                f" {', '.join(sorted(links[0].keys() - {'technique'}))} too; leave them out"
            )
        return plan.rung(names[0])
    if len(links) > 1:
        return Rung(name="+".join(names), technique="chain", parameters={"links": links})
    parameters = {key: value for key, value in links[0].items() if key != "technique"}
    rung = Rung(name=names[0], technique=names[0], parameters=parameters)
    try:
        make_technique(rung)
    except UnknownNameError as error:
        raise UnknownNameError(f"model {text!r}: {error}{_hint_at(names[0], planned)}") from error
    return rung


def _hint_at(name: str, planned: Collection[str]) -> str:
    """Say what else could have been meant: a short name, or a rung of an audit file."""
    close = difflib.get_close_matches(name, ALIASES, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    short = ", ".join(f"{alias} for {full}" for alias, full in ALIASES.items())
    rungs = f"Rungs of the plan: {', '.join(sorted(planned))}"
    files = rungs if planned else "A rung of an audit file needs plan=audit.toml before it"
    return f"{hint} Short names: {short}. {files}."


def _find_task(text: str, plan: AuditPlan | None, name: Any) -> str | None:
    if plan is None:
        if name is not None:
            raise ConfigError(f"model {text!r}: task={name} is a plan's; name it with plan=…")
        return None
    if name is None:
        return next(iter(plan.tasks)) if len(plan.tasks) == 1 else None
    if name not in plan.tasks:
        raise UnknownNameError.among(f"task (in model {text!r})", str(name), plan.tasks)
    return str(name)


def _read_seed(text: str, seed: Any) -> int:
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**32:
        raise ConfigError(f"model {text!r}: expected seed as a whole number, got {seed!r}")
    return seed


def _read_value(value: str) -> Any:
    """Read a value as JSON where it is some, `0.01` and `true` and `[1, 2]`; else as text."""
    try:
        return json.loads(value)
    except ValueError:
        return value


def _write_reference(model: str, pairs: Sequence[tuple[str, Any]]) -> str:
    kept = [(key, value) for key, value in pairs if key != "digest"]
    written = [
        f"{key}={value if isinstance(value, str) else json.dumps(value)}" for key, value in kept
    ]
    return f"{model}?{'&'.join(written)}" if written else model
