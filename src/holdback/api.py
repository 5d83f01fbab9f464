"""Holdback from Python: `holdback.audit`, `plan`, `read` and `compare`.

What these do is what the commands do: the same plan, the same store, the same digests.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from holdback.errors import ConfigError, UnknownNameError
from holdback.lineage import Checkpoint, Stage
from holdback.plan import (
    AccessName,
    AuditPlan,
    Rung,
    TaskPlan,
    load_plan,
    make_plan,
    parse_rung,
)
from holdback.presets import choose_ladder, describe_questions, guess_size

if TYPE_CHECKING:
    from holdback.audit.result import AuditResult
    from holdback.compare.comparison import ComparisonReport
    from holdback.runs.allowance import Allowance
    from holdback.runs.execution import Observer
    from holdback.runs.forecast import Forecast
    from holdback.runs.resolve import Resolved
    from holdback.verdict import Finding

_MOST_SELECT, _MOST_TEST = 200, 400


@dataclass(frozen=True, kw_only=True)
class Result:
    """What an audit found; in a notebook a table, and in a terminal the same in text."""

    result: AuditResult

    @property
    def findings(self) -> tuple[Finding, ...]:
        """One for each checkpoint and task, targets first."""
        from holdback.verdict import Role

        return tuple(f for role in Role for f in self.result.of_role(role))

    @property
    def remarks(self) -> tuple[str, ...]:
        """What a reader should know beside the findings."""
        return self.result.remarks

    @property
    def plan(self) -> AuditPlan:
        """What was run."""
        return self.result.plan

    @property
    def store(self) -> Path:
        """Where the records lie."""
        return Path(self.result.store)

    def to_frame(self) -> Any:
        """Give the findings as a pandas data frame, one row each; needs pandas."""
        import pandas as pd

        return pd.DataFrame(list(map(_flatten, self.findings)))

    def to_dict(self) -> dict[str, Any]:
        """Give what `holdback audit --json` prints."""
        return self.result.to_dict()

    def save(self, path: str | Path) -> Path:
        """Write the report, one HTML page that needs nothing else, and return where it is.

        In a folder it is `report.html`.
        """
        from holdback.report.page import render_report

        file = Path(path)
        return render_report(self.result, file / "report.html" if file.is_dir() else file)

    def __str__(self) -> str:
        from rich.console import Console

        from holdback.report.terminal import print_findings

        console = Console(width=100, color_system=None)
        with console.capture() as captured:
            print_findings(
                self.result.findings,
                signs=self.result.signatures,
                level=self.plan.level,
                remarks=self.remarks,
                console=console,
            )
        return captured.get().rstrip()

    __repr__ = __str__

    def _repr_html_(self) -> str:
        from html import escape

        rows = [_flatten(finding) for finding in self.findings]
        shown = ("role", "checkpoint", "task", "verdict", "displayed", "elicited", "gap", "rung")
        head = "".join(f"<th>{name}</th>" for name in shown)
        body = "".join(
            "<tr>" + "".join(f"<td>{escape(_in_cell(row[name]))}</td>" for name in shown) + "</tr>"
            for row in rows
        )
        return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def audit(
    checkpoints: str | Path | AuditPlan | Mapping[str, Any],
    task: Any = None,
    *,
    controls: Sequence[str] = (),
    ladder: str | Sequence[Mapping[str, Any] | Rung] = "standard",
    access: AccessName = "weights",
    margin: float = 5.0,
    options: Mapping[str, Any] | None = None,
    select_samples: int | None = None,
    test_samples: int | None = None,
    store: str | Path | None = None,
    workers: int | None = None,
    seed: int = 0,
    name: str = "audit",
) -> Result:
    """Find out what checkpoints hold back; what the store holds already is not run again.

    Args:
        checkpoints: An audit file or a shipped audit's name, a plan, or names to checkpoints: a
            path or an id, a `Checkpoint`, or `(model, tokenizer)` of transformers, already loaded.
            The first is what the others were made from, unless a `Checkpoint` names its parent.
        task: Questions: a path, a list of dicts, a `datasets.Dataset`, `inspect:<task>`, or a task
            of Inspect's. Not beside an audit file, which has its own.
        controls: Names of benign checkpoints. Without one nothing is ever `held_back`.
        ladder: `quick`, `standard` or `full`, or rungs as an audit file has them.
        access: The most that techniques may touch.
        margin: Differences below this do not matter, in the task's unit.
        options: Of the task, beside those that its columns show.
        select_samples: To choose a rung by; of the questions as many as there are, 200 at most.
        test_samples: To estimate on; likewise, 400 at most.
        store: SQLite file of the records, `runs/<name>.sqlite` where unsaid.
        workers: Processes; models that are already loaded stay in this one.
        seed: Of all draws.
        name: Of the audit.

    Raises:
        HoldbackError: for whatever cannot be audited so, before anything runs.
    """
    plan = _read_plan(checkpoints)
    if not isinstance(plan, AuditPlan):
        plan = plan_audit(
            plan,
            task,
            controls=controls,
            ladder=ladder,
            access=access,
            margin=margin,
            options=options,
            select_samples=select_samples,
            test_samples=test_samples,
            seed=seed,
            name=name,
        )
    else:
        _refuse_beside(
            task=(task, None),
            controls=(tuple(controls), ()),
            ladder=(ladder, "standard"),
            access=(access, "weights"),
            margin=(margin, 5.0),
            options=(options, None),
            select_samples=(select_samples, None),
            test_samples=(test_samples, None),
            seed=(seed, 0),
            name=(name, "audit"),
        )
    return perform(plan, store=None if store is None else Path(store), workers=workers)


def perform(
    plan: AuditPlan,
    *,
    store: Path | None = None,
    workers: int | None = None,
    command: str = "holdback.audit(…)",
    allowance: Allowance | None = None,
    watch: Callable[[Resolved], AbstractContextManager[Observer]] | None = None,
) -> Result:
    """Run a plan and read its result; `holdback audit` does it by this, too.

    Args:
        plan: What to run.
        store: SQLite file of the records, `runs/<name>.sqlite` where unsaid.
        workers: Processes; the plan's where unsaid.
        command: What the user typed, for the report.
        allowance: Caps on what is spent.
        watch: Opens, once all is checked and nothing has run, whoever hears how far it is.
    """
    from holdback.audit import prepare, run_audit
    from holdback.runs.executors import make_executor
    from holdback.runs.progress import Silent
    from holdback.runs.store import RunStore

    resolved = prepare(plan)
    with (
        RunStore(store or find_store(plan)) as opened,
        make_executor(plan.budget.executor, workers=workers or plan.budget.workers) as executor,
    ):
        opened.verify()
        with nullcontext(Silent()) if watch is None else watch(resolved) as observer:
            result = run_audit(
                resolved,
                store=opened,
                executor=executor,
                observer=observer,
                command=command,
                allowance=allowance,
            )
    return Result(result=result)


def plan_audit(
    checkpoints: Mapping[str, Any],
    task: Any,
    *,
    controls: Sequence[str] = (),
    ladder: str | Sequence[Mapping[str, Any] | Rung] = "standard",
    access: AccessName = "weights",
    margin: float = 5.0,
    options: Mapping[str, Any] | None = None,
    select_samples: int | None = None,
    test_samples: int | None = None,
    seed: int = 0,
    name: str = "audit",
) -> AuditPlan:
    """Make the plan that `audit` runs; its arguments are those of `audit`.

    Raises:
        ConfigError: for what can be no plan.
    """
    if task is None:
        raise ConfigError("expected a task beside checkpoints: audit({…}, task='questions.jsonl')")
    listed = list(_describe_checkpoints(checkpoints))
    planned, sizes = _describe_task(task, margin=margin, options=options or {}, seed=seed)
    planned = replace(
        planned,
        select_samples=min(_MOST_SELECT, sizes[0]) if select_samples is None else select_samples,
        test_samples=min(_MOST_TEST, sizes[1]) if test_samples is None else test_samples,
    )
    return make_plan(
        name=name,
        seed=seed,
        access=access,
        checkpoints=listed,
        controls=tuple(controls),
        tasks={_name_task(task): planned},
        ladder=(
            choose_ladder(ladder, size=max(map(guess_size, listed)), kind=planned.kind)
            if isinstance(ladder, str)
            else [_describe_rung(rung) for rung in ladder]
        ),
    )


def plan(
    source: str | Path | AuditPlan | Mapping[str, Any], task: Any = None, **options: Any
) -> Forecast:
    """Say what an audit would run, how long it takes and what it could see; run nothing.

    The arguments are those of `audit`.
    """
    from holdback.audit import prepare
    from holdback.runs.forecast import forecast

    planned = _read_plan(source)
    if not isinstance(planned, AuditPlan):
        planned = plan_audit(planned, task, **options)
    return forecast(prepare(planned))


def read(store: str | Path) -> Result:
    """Read the latest audit of a store, from its records alone; no model is needed.

    Raises:
        StoreError: if there is no such store, or no audit in it.
    """
    from holdback.audit import read_result
    from holdback.runs.store import RunStore

    with RunStore(Path(store), create=False) as opened:
        opened.verify()
        return Result(result=read_result(opened))


def compare(
    first: str | Path,
    *others: str | Path,
    margin: float | None = None,
    level: float = 0.95,
    common: bool = False,
) -> ComparisonReport:
    """Compare logs or stored runs on the same samples, task by task, as `holdback compare` does.

    Raises:
        MismatchError: if they are not of the same samples.
    """
    from holdback.compare.comparison import compare_sources
    from holdback.compare.logs import ReadOptions
    from holdback.compare.sources import read_sources

    references = list(map(str, (first, *others)))
    sources = read_sources(references, ReadOptions(), tell=lambda line: None)
    return compare_sources(sources, margin=margin, level=level, common=common)


def find_store(plan: AuditPlan) -> Path:
    """Say where an audit's records go where nobody says."""
    return Path("runs") / f"{plan.name}.sqlite"


def find_plan(name: str) -> AuditPlan:
    """Read an audit file, or the audit of that name that a package ships.

    Raises:
        ConfigError: for a file that cannot be used.
        UnknownNameError: for a name that is neither.
    """
    from holdback.plan import parse_plan
    from holdback.shipped import find_audits

    if Path(name).is_file() or name.endswith(".toml"):
        return load_plan(Path(name))
    shipped = find_audits()
    if name not in shipped:
        raise UnknownNameError.among("audit file or shipped audit", name, shipped)
    text = shipped[name].read_text(encoding="utf-8")
    return parse_plan(text, source=f"audit {name!r}", folder=Path.cwd())


def _read_plan(source: Any) -> AuditPlan | Mapping[str, Any]:
    """Read a plan from what names one; checkpoints that are yet to be planned stay as they are."""
    if isinstance(source, str | Path):
        return find_plan(str(source))
    if isinstance(source, AuditPlan | Mapping):
        return source
    raise ConfigError(
        "expected an audit file, a plan, or a dict of names to checkpoints, got"
        f" {type(source).__name__}"
    )


def _refuse_beside(**given: tuple[Any, Any]) -> None:
    """Refuse what an audit file says itself: each argument with its default."""
    named = [word for word, (value, default) in given.items() if value != default]
    if named:
        raise ConfigError(
            f"an audit file says {', '.join(named)} itself: expected nothing of it beside the file;"
            " change the file, or load it with `holdback.plan.load_plan` and change the plan"
        )


def _describe_checkpoints(checkpoints: Mapping[str, Any]) -> Iterable[Checkpoint]:
    first = next(iter(checkpoints), None)
    for name, given in checkpoints.items():
        parent = None if name == first else first
        if isinstance(given, Checkpoint):
            yield replace(given, name=name, parent=given.parent or parent)
        elif isinstance(given, str | Path):
            yield _guess_checkpoint(name, str(given), parent)
        elif isinstance(given, tuple) and len(given) == 2:
            from holdback.models.live import lend_weights

            model, tokenizer = given
            if not (hasattr(model, "generate") and hasattr(tokenizer, "chat_template")):
                raise ConfigError(
                    f"checkpoint {name!r}: expected (model, tokenizer) of transformers, got"
                    f" ({type(model).__name__}, {type(tokenizer).__name__})"
                )
            chat = bool(tokenizer.chat_template)
            reference = lend_weights(model, tokenizer)
            stage = Stage.SFT if chat else Stage.PRETRAINED
            yield Checkpoint(name=name, stage=stage, model=reference, parent=parent, chat=chat)
        else:
            raise ConfigError(
                f"checkpoint {name!r}: expected a path or an id, a Checkpoint, or (model,"
                f" tokenizer), got {type(given).__name__}"
            )


def _guess_checkpoint(name: str, model: str, parent: str | None) -> Checkpoint:
    """Take weights without a chat template for a pretrained model, asked to continue text."""
    from holdback.ids import locate_id
    from holdback.models.files import has_chat_template
    from holdback.models.registry import is_local

    located = locate_id(model, Path.cwd())
    checkpoint = Checkpoint(name=name, stage=Stage.SFT, model=located)
    chat = not is_local(checkpoint) or has_chat_template(checkpoint)
    stage = Stage.SFT if chat or parent is not None else Stage.PRETRAINED
    return Checkpoint(name=name, stage=stage, model=located, parent=parent, chat=chat)


def _describe_task(
    task: Any, *, margin: float, options: Mapping[str, Any], seed: int
) -> tuple[TaskPlan, tuple[int, int]]:
    """Plan a task, and count the questions of its `select` and `test` splits."""
    from holdback.tasks.registry import make_task
    from holdback.tasks.task import Split

    found: dict[str, Any] = {}
    if isinstance(task, str) and task.startswith("inspect:"):
        kind = task
    elif type(task).__module__.startswith("inspect_ai"):
        from holdback.inspect.live import lend_task

        kind = lend_task(task)
    else:
        file = _write_rows(task) if not isinstance(task, str | Path) else Path(task)
        if not file.is_file():
            raise ConfigError(f"task: expected a file of questions, found none at {file}")
        kind, found = "text", describe_questions(file)
    chosen = {**found, **options}
    made: Any = make_task(kind, {**chosen, "name": "task", "margin": margin})
    planned = TaskPlan(kind=kind, margin=margin, select_samples=1, test_samples=1, options=chosen)
    return planned, (made.count_samples(Split.SELECT), made.count_samples(Split.TEST))


def _write_rows(rows: Any) -> Path:
    """Write questions that are in memory to a file that their contents name."""
    listed = rows.to_list() if hasattr(rows, "to_list") else list(rows)
    text = "".join(json.dumps(row, ensure_ascii=False, sort_keys=True) + "\n" for row in listed)
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    file = Path("runs") / f"questions-{digest}.jsonl"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")
    return file


def _name_task(task: Any) -> str:
    if isinstance(task, str | Path):
        words = str(task).rpartition("@")[2] if str(task).startswith("inspect:") else str(task)
        kept = "".join(letter if letter.isalnum() else "-" for letter in Path(words).stem)
        return kept.strip("-") or "questions"
    return "questions"


def _describe_rung(rung: Mapping[str, Any] | Rung) -> Rung:
    return rung if isinstance(rung, Rung) else parse_rung(rung)


def _flatten(finding: Finding) -> dict[str, Any]:
    """Write a finding as one row: estimates as value, low and high."""
    row: dict[str, Any] = {
        "checkpoint": finding.checkpoint,
        "role": str(finding.role),
        "task": finding.task,
        "verdict": str(finding.verdict),
        "rung": finding.rung,
    }
    for name in ("displayed", "elicited", "gap", "difference_of_gaps"):
        estimate = getattr(finding, name)
        row[name] = None if estimate is None else estimate.value
        row[f"{name}_low"] = None if estimate is None else estimate.low
        row[f"{name}_high"] = None if estimate is None else estimate.high
    row["p_adjusted"] = finding.p_adjusted
    row["why"] = "; ".join(finding.reasons[:2])
    return row


def _in_cell(value: Any) -> str:
    return f"{value:.1f}" if isinstance(value, float) else str(value)
