"""Fine-tuning on demonstrations: Holdback's adapter training against TRL's SFTTrainer with PEFT.

    python benchmarks/bench_finetune.py | tail -1 | jq .speedup_vs_trl

The same model, demonstrations, rank, learning rate, steps and examples a step; LoRA on all linear
layers, AdamW, linear decay, loss on the answers only. TRL runs in bfloat16 if that is faster here,
with a fused optimizer, grouped lengths off as in its defaults, and neither logging, saving nor
evaluation; its packing needs flash attention to keep examples apart, so it pads. Tokenising and
building the trainer are left out for both. Tokens are the demonstrations', padding is not counted.
Contestants take turns; the minimum of each one's rounds counts. Final losses, over all
demonstrations, in float32 with the adapter merged, must be equal within a tenth of what was
learned.
"""

from __future__ import annotations

import copy
import json
import tempfile
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from datasets.utils.logging import disable_progress_bar
from peft import LoraConfig
from specimens import describe_machine, make_model, measure_seconds, write_text
from transformers.trainer_callback import PrinterCallback
from transformers.utils import logging as hf_logging
from trl import SFTConfig, SFTTrainer

from holdback.elicitation.finetune import IGNORED, Example
from holdback.elicitation.packing import read_answers
from holdback.elicitation.training import train_adapter
from holdback.models.local import LocalModel

RANK = 32
RATE = 1e-3
BATCH = 8
DEMONSTRATIONS = 64
ROUNDS = 2
STEPS = {"33M": 12, "11M": 24}
NOISE = 0.1


def write_examples(model: LocalModel) -> list[Example]:
    """Write questions of 10 to 80 words, each answered with its last words again."""
    rng = np.random.default_rng(0)
    examples = []
    for _ in range(DEMONSTRATIONS):
        prompt = write_text(int(rng.integers(10, 80)), rng)
        answer = " " + " ".join(prompt.split()[-int(rng.integers(3, 10)) :]) + "</s>"
        start, ids = model.encode(prompt), model.encode(answer)
        examples.append((start + ids, [IGNORED] * len(start) + ids))
    return examples


@torch.no_grad()
def measure_loss(weights: Any, examples: Sequence[Example]) -> float:
    logits, labels = read_answers(weights.eval(), examples)
    return float(torch.nn.functional.cross_entropy(logits, labels))


def train_ours(weights: Any, examples: Sequence[Example], steps: int, seed: int) -> float:
    seconds, _ = measure_seconds(
        lambda: train_adapter(
            weights,
            examples,
            rank=RANK,
            learning_rate=RATE,
            steps=steps,
            batch_size=BATCH,
            rng=np.random.default_rng(seed),
        )
    )
    return seconds


def train_trl(
    weights: Any, tokenizer: Any, examples: Sequence[Example], steps: int, seed: int, *, low: bool
) -> tuple[float, Any]:
    """Seconds of `trainer.train()`, and the weights with the adapter merged."""
    data = Dataset.from_list(
        [
            {
                "input_ids": ids,
                "completion_mask": [int(label != IGNORED) for label in labels],
            }
            for ids, labels in examples
        ]
    )
    with tempfile.TemporaryDirectory() as folder:
        config = SFTConfig(
            output_dir=folder,
            max_steps=steps,
            per_device_train_batch_size=BATCH,
            learning_rate=RATE,
            lr_scheduler_type="linear",
            warmup_steps=0,
            weight_decay=0.0,
            max_grad_norm=1.0,
            optim="adamw_torch_fused",
            bf16=low,
            gradient_checkpointing=False,
            completion_only_loss=True,
            max_length=None,
            logging_strategy="no",
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            use_cpu=True,
            seed=seed,
            dataloader_num_workers=0,
        )
        trainer = SFTTrainer(
            model=weights,
            args=config,
            train_dataset=data,
            processing_class=tokenizer,
            peft_config=LoraConfig(
                r=RANK, lora_alpha=2 * RANK, target_modules="all-linear", task_type="CAUSAL_LM"
            ),
        )
        trainer.remove_callback(PrinterCallback)
        seconds, _ = measure_seconds(trainer.train)
    return seconds, trainer.model.merge_and_unload().float()


def compare(size: str) -> dict[str, float]:
    """Tokens a second and final losses of both."""
    model = make_model(size)
    examples = write_examples(model)
    model.tokenizer.pad_token = model.tokenizer.eos_token
    steps = STEPS[size]
    tokens = sum(len(ids) for ids, _ in examples) / len(examples) * BATCH * steps

    def fresh() -> Any:
        return copy.deepcopy(model.weights)

    # The first of all pays for imports and threads, and is not counted.
    tried = [
        (train_trl(fresh(), model.tokenizer, examples, 2, 0, low=low)[0], low)
        for low in (False, True, False, True)
    ]
    low = min(tried[1:])[1]
    ours, theirs, own_losses, their_losses = [], [], [], []
    for seed in range(ROUNDS):
        weights = fresh()
        ours.append(train_ours(weights, examples, steps, seed))
        own_losses.append(measure_loss(weights, examples))
        seconds, weights = train_trl(fresh(), model.tokenizer, examples, steps, seed, low=low)
        theirs.append(seconds)
        their_losses.append(measure_loss(weights, examples))
    before = measure_loss(model.weights, examples)
    own, their = float(np.mean(own_losses)), float(np.mean(their_losses))
    assert abs(own - their) <= NOISE * (before - min(own, their)), (before, own, their)
    result = {
        "holdback_tokens_per_second": tokens / min(ours),
        "trl_tokens_per_second": tokens / min(theirs),
        "speedup_vs_trl": min(theirs) / min(ours),
        "loss_before": before,
        "loss_holdback": own,
        "loss_trl": their,
        "trl_in_bfloat16": float(low),
        "steps": steps,
    }
    print(
        f"{size}: {result['holdback_tokens_per_second']:,.0f} tokens/s,"
        f" TRL {result['trl_tokens_per_second']:,.0f}: {result['speedup_vs_trl']:.2f}x;"
        f" loss {before:.3f} -> {own:.3f}, TRL {their:.3f}",
        flush=True,
    )
    return result


def main() -> None:
    warnings.simplefilter("ignore")
    hf_logging.set_verbosity_error()
    disable_progress_bar()
    results = {size: compare(size) for size in STEPS}
    print(
        json.dumps(
            {
                "speedup_vs_trl": results["33M"]["speedup_vs_trl"],
                "by_size": results,
                "rank": RANK,
                "machine": describe_machine("trl", "peft"),
            }
        )
    )


if __name__ == "__main__":
    main()
