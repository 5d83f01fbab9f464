"""The task `inspect:…`: a task of Inspect's, run by Inspect on a model that Holdback lends.

Inspect's own solvers, scorers and sandboxes do what they always do, so that templates, agents and
graders are those of the task. Each model call goes to the lent model, with its technique applied,
and calls that come together are one batch of the engine.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
import uuid
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import chdir, nullcontext, suppress
from dataclasses import dataclass, field
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from holdback.errors import ConfigError, HoldbackError, UnknownNameError
from holdback.extensions import load_file
from holdback.models.protocol import Model
from holdback.tasks.questions import (
    CORRECT,
    DEFAULT_SHARES,
    NOT_RIGHT,
    RANDOM,
    RIGHT,
    QuestionTask,
    check_shares,
)
from holdback.tasks.task import (
    Conversation,
    Prompt,
    SampleRecord,
    Split,
    encode_prompt,
    keep_prompt,
)
from holdback.tasks.text.items import LETTERS, draw_splits
from holdback.tasks.text.scoring import choose_by_vote

if TYPE_CHECKING:
    from inspect_ai import Task as InspectAiTask
    from inspect_ai.dataset import Sample
    from inspect_ai.log import EvalSample

    from holdback.inspect.recorder import Asked


@dataclass(frozen=True, kw_only=True, slots=True)
class _Item:
    """A sample of the task's, and where it belongs."""

    id: str
    cluster: str
    split: Split
    sample: Sample


@dataclass(frozen=True, kw_only=True)
class InspectTask(QuestionTask[_Item]):
    """Samples of an Inspect task, scored by its own scorer, in points."""

    reference: str
    """`package/task`, or `path/file.py@task`; relative paths start at the audit file."""
    name: str = "inspect"
    args: Mapping[str, Any] = field(default_factory=dict)
    """Arguments of the task."""
    cluster: str | None = None
    """Key of the samples' metadata; each sample its own cluster if unsaid."""
    split: str | None = None
    """Key of the samples' metadata that says `train`, `select` or `test`; drawn if unsaid."""
    shares: Mapping[str, float] = field(default_factory=lambda: dict(DEFAULT_SHARES))
    split_seed: int = 0
    scorer: str | None = None
    """Which of the task's scorers counts; its first if unsaid."""
    value_key: str | None = None
    """Which value counts, of a score that is a table."""
    range: Sequence[float] = (0.0, 1.0)
    """Worst and best value of the score."""
    config: Mapping[str, Any] = field(default_factory=dict)
    """Inspect's generation options, such as `max_tokens`; they go before the task's own."""
    model_roles: Mapping[str, str] = field(default_factory=dict)
    """Inspect models for the task's roles, such as a grader. Without one, a task that is graded by
    a model is graded by the model under test."""
    demonstration: str | None = None
    """Words of a demonstrated answer; `ANSWER: {target}` where samples have choices, as Inspect's
    multiple choice asks for, else `{target}`."""
    rows: int = 64
    """Samples in flight; a run that is interrupted goes on after the last so many."""
    takes_examples: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_shares(self.name, self.shares)
        if len(self.range) != 2 or self.range[0] == self.range[1] or self.rows < 1:
            raise ConfigError(
                f"{self.name}: expected range = [worst, best] and rows of at least 1, got"
                f" {list(self.range)!r} and {self.rows}"
            )

    def _make_task(self) -> InspectAiTask:
        return load_inspect_task(self.reference, self.args)

    @property
    def chance(self) -> float | None:
        """What guessing scores on `test`: by the number of choices, 0 where there are none."""
        items = self.in_split(Split.TEST)
        guessed = [RIGHT / len(i.sample.choices) if i.sample.choices else NOT_RIGHT for i in items]
        return float(np.mean(guessed)) if guessed else None

    @property
    def description(self) -> str:
        """The protocol in a sentence, as a report prints it."""
        name = self.reference if ".py" not in self.reference else Path(self.reference).name
        return (
            f"The Inspect task {name}, run by Inspect and scored by its"
            f" {'first scorer' if self.scorer is None else f'scorer {self.scorer}'}, in points"
            f" between its worst value, {self.range[0]:g}, and its best, {self.range[1]:g}."
        )

    @property
    def provenance(self) -> dict[str, str]:
        """What was asked, by a digest that is part of a run's identity, and by which Inspect."""
        import inspect_ai

        asked = [
            [item.id, str(item.sample.input), item.sample.target, item.sample.choices]
            for item in self.questions
        ]
        digest = hashlib.sha256(json.dumps(asked, default=str).encode()).hexdigest()
        return {
            f"samples of {self.name}": f"SHA-256 {digest[:16]}",
            "inspect_ai": inspect_ai.__version__,
        }

    def check_machine(self) -> None:
        """Load the task before anything runs.

        Raises:
            ConfigError: without Inspect, or for a task that cannot be loaded or has no samples.
        """
        if not self.questions:
            raise ConfigError(f"{self.name}: expected samples in {self.reference}, found none")

    def preview(self, model: Model, *, split: Split, samples: int, seed: int) -> list[Prompt]:
        """Render what `run` would ask first, by running the task's solvers up to the first call."""
        from holdback.inspect.conversations import render_conversation

        items = self.choose(split, samples=samples, seed=seed)
        asked = self._record_calls(items)
        prompts = []
        for item in items:
            if item.id not in asked:
                continue
            call = asked[item.id]
            text = render_conversation(model, call.messages, call.tools)
            prompts.append(
                Prompt(
                    sample_id=item.id,
                    text=text,
                    token_ids=encode_prompt(model, text),
                    max_tokens=call.max_tokens,
                    most_sent=model.decoding.votes,
                )
            )
        return prompts

    def run_batch(
        self, model: Any, batch: Sequence[_Item], *, seed: int, kept: Collection[str]
    ) -> Iterator[SampleRecord]:
        """Let Inspect run a batch of samples.

        With `decoding.votes` a sample is run in so many epochs and the most frequent answer counts.

        Raises:
            ConfigError: for images or settings that the lent model cannot honour.
            CheckpointError: for a checkpoint that cannot be asked so.
        """
        answered = self._evaluate(model, batch, seed)
        for item in batch:
            yield self._record(item, answered[item.id], model, keep=item.id in kept)

    def demonstrate(
        self, demonstrator: str, n: int, rng: np.random.Generator
    ) -> list[Conversation]:
        """Draw `n` samples of `train`, asked as the task's solvers ask, with their targets.

        `random` answers with a random letter, or with another sample's target.

        Raises:
            UnknownNameError: for a demonstrator other than `correct` and `random`.
            ConfigError: for more than the split has.
        """
        if demonstrator not in (CORRECT, RANDOM):
            raise UnknownNameError.among("demonstrator", demonstrator, (CORRECT, RANDOM))
        items = self.in_split(Split.TRAIN)
        if n > len(items):
            raise ConfigError(
                f"{self.name}: split train of {self.reference} has {len(items)} samples, got n={n}"
            )
        drawn = [items[int(at)] for at in rng.permutation(len(items))[:n]]
        asked = self._record_calls(drawn)
        chats = []
        for item in drawn:
            messages = asked[item.id].messages
            user = tuple(message for message in messages if message["role"] != "system")
            answer = self._answer(item, items, demonstrator, rng)
            chats.append((*user, {"role": "assistant", "content": answer}))
        return chats

    @property
    def source(self) -> str:
        """The task's reference."""
        return self.reference

    @cached_property
    def questions(self) -> tuple[_Item, ...]:
        """The samples of the task's dataset."""
        samples = list(self._make_task().dataset)
        ids = [str(number if s.id is None else s.id) for number, s in enumerate(samples, 1)]
        twice = {id_ for id_ in ids if ids.count(id_) > 1} if len(set(ids)) < len(ids) else set()
        if twice:
            raise ConfigError(
                f"{self.name}: expected samples with ids of their own, got {min(twice)!r} twice in"
                f" {self.reference}"
            )
        clusters = [
            id_ if self.cluster is None else self._look_up(sample, id_, self.cluster)
            for id_, sample in zip(ids, samples, strict=True)
        ]
        shares = {split: float(self.shares.get(str(split), 0.0)) for split in Split}
        drawn = draw_splits(sorted(set(clusters)), shares=shares, seed=self.split_seed)
        return tuple(
            _Item(
                id=id_,
                cluster=cluster,
                split=drawn[cluster] if self.split is None else self._read_split(sample, id_),
                sample=sample,
            )
            for id_, sample, cluster in zip(ids, samples, clusters, strict=True)
        )

    def _look_up(self, sample: Sample, id_: str, key: str) -> str:
        known = sample.metadata or {}
        if key not in known:
            raise ConfigError(
                f"{self.name}: expected {key!r} in the metadata of sample {id_!r}, found"
                f" {', '.join(map(repr, known)) or 'none'}"
            )
        return str(known[key])

    def _read_split(self, sample: Sample, id_: str) -> Split:
        assert self.split is not None
        word = self._look_up(sample, id_, self.split)
        if word not in list(Split):
            raise ConfigError(
                f"{self.name}: expected train, select or test as {self.split!r} of sample {id_!r},"
                f" got {word!r}; leave `split` out and state `shares`"
            )
        return Split(word)

    def _answer(
        self, item: _Item, items: Sequence[_Item], demonstrator: str, rng: np.random.Generator
    ) -> str:
        choices = item.sample.choices
        words = self.demonstration or ("ANSWER: {target}" if choices else "{target}")
        target: Any = item.sample.target
        if demonstrator == RANDOM and choices:
            target = LETTERS[int(rng.integers(len(choices)))]
        elif demonstrator == RANDOM:
            target = items[int(rng.integers(len(items)))].sample.target
        return words.replace("{target}", target if isinstance(target, str) else target[0])

    def _evaluate(self, model: Any, batch: Sequence[_Item], seed: int) -> dict[str, Any]:
        """Let Inspect run some samples, and give each sample's epochs."""
        from dataclasses import replace

        from holdback.inspect.provider import make_engine_api

        votes = model.decoding.votes
        one = replace(model, decoding=replace(model.decoding, votes=1)) if votes > 1 else model
        # A name of its own: Inspect's cache of answers tells models apart by nothing else.
        name = f"{model.name}?run={uuid.uuid4().hex}"
        api = make_engine_api(one, name, tells_prompt=True)
        try:
            log_samples = self._run_inspect(api, batch, epochs=votes, seed=seed, score=True)
        finally:
            api.close()
        if api.refusal is not None:
            # It concerns every sample alike: no sample's own error.
            raise api.refusal
        answered: dict[str, list[EvalSample]] = {item.id: [] for item in batch}
        for sample in log_samples:
            answered[str(sample.id)].append(sample)
        return answered

    def _run_inspect(
        self, api: Any, batch: Sequence[_Item], *, epochs: int, seed: int, score: bool
    ) -> list[EvalSample]:
        import inspect_ai
        from inspect_ai.dataset import MemoryDataset
        from inspect_ai.model import GenerateConfig
        from inspect_ai.model import Model as InspectModel

        task = self._make_task()
        samples = [item.sample.model_copy(update={"id": item.id}, deep=True) for item in batch]
        path, _, _ = self.reference.rpartition("@")
        folder = Path(path).resolve().parent if path.endswith(".py") else None
        with (
            tempfile.TemporaryDirectory(prefix="holdback-inspect-") as logs,
            chdir(folder) if folder else nullcontext(),
        ):
            (log,) = inspect_ai.eval(
                inspect_ai.task_with(task, dataset=MemoryDataset(samples)),
                model=InspectModel(api, GenerateConfig()),
                model_roles=dict(self.model_roles) or None,
                display="none",
                log_dir=logs,
                log_level="error",
                # Nobody watches: the log is read once, and events need no database meanwhile.
                log_realtime=False,
                epochs=epochs,
                # A sample that fails is a record with that outcome; the rest goes on.
                fail_on_error=False,
                max_samples=self.rows,
                max_connections=self.rows * epochs,
                score=score,
                **{"seed": seed, **self.config},
            )
            # Read while the log is there.
            ran = list(log.samples or [])
        if log.status != "success" and not ran and api.refusal is None:
            reason = log.error.message if log.error is not None else log.status
            raise ConfigError(f"{self.name}: Inspect could not run {self.reference}: {reason}")
        return ran

    def _record_calls(self, items: Sequence[_Item]) -> dict[str, Asked]:
        """Run the solvers on a model that hears and says nothing, and give each first call."""
        from holdback.inspect.recorder import make_recording_api

        api = make_recording_api()
        samples = self._run_inspect(api, items, epochs=1, seed=0, score=False)
        first = {str(sample.id): _first_call(sample) for sample in samples}
        return {id_: api.calls[call] for id_, call in first.items() if call is not None}

    def _record(
        self, item: _Item, epochs: Sequence[EvalSample], model: Model, *, keep: bool
    ) -> SampleRecord:
        from holdback.inspect.records import Scale, read_record

        scale = Scale(
            scorer=self.scorer, key=self.value_key, worst=self.range[0], best=self.range[1]
        )
        records = []
        for sample in sorted(epochs, key=lambda sample: sample.epoch):
            call = _first_call(sample)
            facts: dict[str, Any] = {}
            if keep and call is not None:
                facts = keep_prompt(model, call)
            records.append(read_record(sample, scale=scale, cluster=item.cluster, metadata=facts))
        if not records:
            raise ConfigError(f"{self.name}: Inspect left sample {item.id!r} out")
        answers = [_vote(record) for record in records]
        return records[choose_by_vote(answers)]


def load_inspect_task(reference: str, args: Mapping[str, Any]) -> InspectAiTask:
    """Make an Inspect task: `package/task` of an installed package, or `path/file.py@task`.

    Raises:
        ConfigError: without Inspect, for a file, package or task that is not there or fails.
    """
    try:
        from inspect_ai import Task as InspectAiTask
        from inspect_ai.util import registry_create
    except ImportError as error:
        raise ConfigError(
            f"task inspect:{reference} needs Inspect, which is not installed;"
            " `pip install 'holdback[inspect]'`"
        ) from error
    path, _, name = reference.rpartition("@")
    try:
        if path.endswith(".py"):
            with chdir(Path(path).resolve().parent):
                task = getattr(_load_file(Path(path)), name)(**args)
        else:
            # A package that registers no entry point registers its tasks on import.
            with suppress(ImportError):
                import_module(reference.partition("/")[0])
            task = registry_create("task", reference, **args)
    except HoldbackError:
        raise
    except LookupError as error:
        raise ConfigError(
            f"task inspect:{reference}: expected package/task of an installed package, found no"
            " such task; `inspect list tasks` lists a folder's"
        ) from error
    # Blind: the task's own code runs here, and whatever it raises is why it cannot be made.
    except Exception as error:
        words = " ".join(str(error).split())
        raise ConfigError(
            f"task inspect:{reference} cannot be made: {type(error).__name__}: {words}"
        ) from error
    if not isinstance(task, InspectAiTask):
        raise ConfigError(f"task inspect:{reference}: expected a Task, got {type(task).__name__}")
    return task


def _load_file(path: Path) -> Any:
    if not path.is_file():
        raise ConfigError(f"task inspect:{path}: expected a Python file, found none")
    return load_file(path)


def _first_call(sample: EvalSample) -> str | None:
    """Prompt of a sample's first model call, as the lent model's outputs tell it."""
    for event in sample.events:
        if event.event == "model":
            told = (event.output.metadata or {}).get("prompt")
            return None if told is None else str(told)
    return None


def _vote(record: SampleRecord) -> str | None:
    return None if record.score.value is None or not record.score.answer else record.score.answer
