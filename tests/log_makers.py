"""Logs that tests compare, written by Inspect and by lm-eval themselves, on planted answers."""

from __future__ import annotations

import gc
import json
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

RIGHT, WRONG, REFUSED, CUT, EMPTY = "right", "wrong", "refused", "cut", "empty"
# Anything else is what the model says, word for word.
"""What a planted model does with a question."""


def question(index: int) -> str:
    return f"What is {index} + {index}?"


def write_eval_log(
    folder: Path,
    behaviour: Sequence[str],
    *,
    name: str = "sums",
    epochs: int = 1,
    model: str = "mockllm/model",
    scorers: Sequence[Any] | None = None,
    metadata: Mapping[int, Mapping[str, Any]] | None = None,
    first: int = 0,
    targets: Mapping[int, str] | None = None,
) -> Path:
    """Let Inspect evaluate a model that behaves as planted on each question, and find its log."""
    from inspect_ai import Task, eval
    from inspect_ai.dataset import MemoryDataset, Sample
    from inspect_ai.model import ModelOutput, ModelUsage, get_model
    from inspect_ai.scorer import pattern

    def answer(messages, tools, choice, config):
        index = next(i for i in range(10_000) if question(i) == messages[-1].text)
        kind = behaviour[index - first]
        text = {RIGHT: f"ANSWER: {2 * index}", WRONG: "ANSWER: -1", EMPTY: "I am not sure."}
        stop = {REFUSED: "content_filter", CUT: "max_tokens"}.get(kind, "stop")
        said = text.get(kind, "Let me" if kind in (REFUSED, CUT) else kind)
        output = ModelOutput.from_content(model, said, stop_reason=stop)
        # With no usage given, mockllm counts tokens by a table that it downloads.
        output.usage = ModelUsage(input_tokens=1, output_tokens=1, total_tokens=2)
        return output

    samples = [
        Sample(
            id=f"q{index}",
            input=question(index),
            target=(targets or {}).get(index, str(2 * index)),
            metadata=dict((metadata or {}).get(index, {})),
        )
        for index in range(first, first + len(behaviour))
    ]
    plan = Task(
        dataset=MemoryDataset(samples),
        scorer=list(scorers) if scorers else pattern(r"ANSWER: (-?\d+)"),
        name=name,
    )
    with warnings.catch_warnings():
        # Inspect leaves streams for the collector to close, which must not fail a later test.
        warnings.simplefilter("ignore", ResourceWarning)
        (log,) = eval(
            plan,
            model=get_model(model, custom_outputs=answer, memoize=False),
            epochs=epochs,
            log_dir=str(folder),
            display="none",
        )
        gc.collect()
    return Path(log.location.removeprefix("file://"))


def write_lm_eval_samples(folder: Path, right: Sequence[bool], *, model: str = "tiny") -> Path:
    """Let lm-eval evaluate a model that is right where it is said to be, and write its samples."""
    from lm_eval import simple_evaluate
    from lm_eval.api.model import LM
    from lm_eval.loggers import EvaluationTracker
    from lm_eval.tasks import TaskManager

    class Planted(LM):
        def _knows(self, prompt: str) -> int | None:
            index = next(i for i in range(10_000) if question(i) in prompt)
            return index if right[index] else None

        def generate_until(self, requests, disable_tqdm=False):
            known = [self._knows(request.args[0]) for request in requests]
            return ["[invalid]" if index is None else str(2 * index) for index in known]

        def loglikelihood(self, requests, disable_tqdm=False):
            answers = []
            for request in requests:
                index = self._knows(request.args[0])
                meant = "-1" if index is None else str(2 * index)
                answers.append((-1.0 if request.args[1].strip() == meant else -9.0, False))
            return answers

        def loglikelihood_rolling(self, requests, disable_tqdm=False):
            raise NotImplementedError

    folder.mkdir(parents=True, exist_ok=True)
    data = folder / "data.jsonl"
    rows = [
        {"question": question(i), "answer": str(2 * i), "others": [str(2 * i), "-1", "-22"]}
        for i in range(len(right))
    ]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    shared = {
        "dataset_path": "json",
        "dataset_kwargs": {
            "data_files": {"test": str(data)},
            "cache_dir": str(folder / "cache"),
        },
        "test_split": "test",
        "doc_to_text": "{{question}}",
    }
    tasks = [
        {
            "task": "sums_generated",
            "output_type": "generate_until",
            "doc_to_target": "{{answer}}",
            "generation_kwargs": {"until": ["\n"]},
            "metric_list": [
                {"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}
            ],
            **shared,
        },
        {
            "task": "sums_chosen",
            "output_type": "multiple_choice",
            "doc_to_choice": "{{others}}",
            "doc_to_target": 0,
            "metric_list": [
                {"metric": name, "aggregation": "mean", "higher_is_better": True}
                for name in ("acc", "acc_norm")
            ],
            **shared,
        },
    ]
    tracker = EvaluationTracker(output_path=str(folder))
    results = simple_evaluate(
        model=Planted(),
        tasks=tasks,
        log_samples=True,
        bootstrap_iters=0,
        verbosity="ERROR",
        # Not the thousands that lm-eval ships.
        task_manager=TaskManager(include_defaults=False, verbosity="ERROR"),
    )
    tracker.general_config_tracker.model_name = model
    tracker.general_config_tracker.model_name_sanitized = model
    samples = results.pop("samples")
    tracker.save_results_aggregated(results=results, samples=samples)
    for task, rows_of_task in samples.items():
        tracker.save_results_samples(task_name=task, samples=rows_of_task)
    return folder / model
