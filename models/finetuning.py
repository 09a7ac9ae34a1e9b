"""Fine-tune a pre-trained model, whole or cut down to a subnetwork, on one GLUE task with the library's Trainer."""

from __future__ import annotations

import copy
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .anatomy import STRUCTURE
from .checkpoints import (
    Checkpoint,
    count_parameters,
    load_checkpoint,
    model_record,
    pick_device,
    set_padding,
)
from .compaction import compact, kept_of
from .errors import HeadError, InputError
from .evaluation import examples_of, predict
from .files import atomic_folder, check_output, write_json
from .glue import Row, Rows, Task, class_ids, select_rows, targets_of
from .metrics import baselines, threshold_metric
from .provenance import provenance
from .saving import save
from .subnetwork import Subnetwork
from .training import FineTuning as FineTuning
from .training import train

METRICS = "metrics.json"
"""Written last: a folder that has it is a finished fine-tuning."""


def finetune(
    model_name: str,
    task: Task,
    train_rows: Rows | Sequence[Row],
    dev_rows: Rows | Sequence[Row],
    settings: FineTuning,
    output: Path | str,
    revision: str | None = None,
    device: str = "auto",
    subnetwork: Subnetwork | None = None,
    progress: bool = False,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Fine-tune a model and write it, its tokenizer and ``metrics.json`` to a folder, all at once or not at all.

    The same seed gives the same weights bit for bit on the same machine, device and number of threads. The
    global generators of Python, NumPy and PyTorch are seeded.

    Args:
        model_name: Hub id or folder. A head that fits the task is trained on; else there is a new one.
        task: which task.
        train_rows: with labels.
        dev_rows: with labels; the model is scored on them once, at the end, in float32.
        settings: see :class:`FineTuning`.
        output: a new or empty folder.
        revision: branch, tag or commit of a Hub model.
        device: auto, cpu, cuda or mps.
        subnetwork: what to keep of the pre-trained model; the rest is cut out before training.
        progress: show progress bars on stderr.
        overwrite: replace an earlier output.

    Returns:
        What ``metrics.json`` holds: ``scores`` on the dev rows, ``metric`` (the one that pruning goes by) and
        ``score``, its value; ``baselines``; ``settings``, ``training``, ``warnings``, ``provenance``.

    Raises:
        InputError: the model, a row, the subnetwork or the output folder is not what it should be, memory runs
            out, or the loss is not finite.
    """
    from transformers import set_seed

    output = Path(output)
    check_output(output, overwrite, marker=METRICS)
    place = _training_device(device)
    set_seed(settings.seed)
    checkpoint, warnings = _with_head(model_name, revision, task)
    record = model_record(checkpoint)
    train_rows, train_source = _rows_and_source(train_rows, "train rows")
    dev_rows, dev_source = _rows_and_source(dev_rows, "dev rows")
    targets_of(
        train_rows, task, checkpoint.model.config, train_source["source"]
    )  # before rows lose their places
    if settings.max_examples:
        train_rows = select_rows(train_rows, task, settings.max_examples, seed=0)
    training = examples_of(checkpoint, task, train_rows, settings.max_length, train_source["source"])
    dev = examples_of(checkpoint, task, dev_rows, settings.max_length, dev_source["source"])
    model = checkpoint.model
    if subnetwork is not None:
        model = compact(model, subnetwork)

    started = time.perf_counter()
    history = train(model, training, settings, place, progress)
    seconds = time.perf_counter() - started
    logits = predict(model, dev, batch_size=2 * settings.batch_size, progress=progress)
    scores = dev.scores(logits)
    metric = threshold_metric(task)
    result: dict[str, Any] = {
        "model": model_name,
        "task": task.name,
        "seed": settings.seed,
        "metric": metric,
        "score": scores[metric],
        "scores": scores,
        "baselines": baselines(
            task, training.targets, dev.targets, positive=training.classes[-1], seed=settings.seed
        ),
        "examples": {"train": len(training), "dev": len(dev)},
        "parameters": count_parameters(model),
        "subnetwork": None
        if subnetwork is None
        else {"n_heads": subnetwork.n_heads, "n_mlps": subnetwork.n_mlps, "metadata": subnetwork.metadata},
        "settings": asdict(settings),
        "training": {
            "seconds": seconds,
            "examples_per_second": len(training) * settings.epochs / seconds,
            "history": history,
        },
        "warnings": list(warnings),
        "provenance": {
            **provenance(),
            "model": record,
            "data": {"train": train_source, "dev": dev_source},
            "device": str(place),
        },
    }
    with atomic_folder(output, overwrite) as folder:
        save(model, folder, tokenizer=checkpoint.tokenizer)
        write_json(folder / METRICS, result)
    return result


def _rows_and_source(rows: Rows | Sequence[Row], name: str) -> tuple[Sequence[Row], dict[str, Any]]:
    if not isinstance(rows, Rows):
        return rows, {"source": name, "revision": None, "sha256": None}
    return rows.rows, rows.record()


def _training_device(name: str) -> torch.device:
    """Return the device, which for the Trainer is the first of its kind."""
    device = pick_device(name)
    if device.index:
        raise InputError(
            f"--device {name}: training uses the first GPU that it sees; set CUDA_VISIBLE_DEVICES={device.index} "
            "and give --device cuda."
        )
    return device


def _with_head(name: str, revision: str | None, task: Task) -> tuple[Checkpoint, list[str]]:
    """Load a model with a head for the task, its own or a new one, and what to say about that."""
    from transformers import AutoModelForSequenceClassification

    try:
        checkpoint = load_checkpoint(name, revision, task=task)
        warnings = [f"--model {name} has a classification head for {task.name}; training goes on from it."]
    except HeadError as error:
        warnings = [] if error.missing else [f"{error} It gets a new classification head."]
        base = load_checkpoint(name, revision)
        config = copy.deepcopy(base.model.config)
        config.id2label = dict(enumerate(task.labels or ("similarity",)))
        set_padding(config, base.tokenizer)
        kept = kept_of(config)
        if kept is not None:
            delattr(config, STRUCTURE)  # the whole model is built first
        model = AutoModelForSequenceClassification.from_config(config, dtype=torch.float32)
        if kept is not None:
            model = compact(model, kept, unshare=True)
        # Some heads need no pooler, so not all is taken.
        model.base_model.load_state_dict(base.model.state_dict(), strict=False)
        checkpoint = replace(base, model=model)
    config = checkpoint.model.config
    config.id2label = dict(sorted(zip(class_ids(task, config), task.labels or ("similarity",), strict=True)))
    config.label2id = {label: i for i, label in config.id2label.items()}
    config.problem_type = "single_label_classification" if task.labels else "regression"
    return checkpoint, warnings


def parse_seeds(words: Sequence[str]) -> list[int]:
    """Return the seeds in ``["1337,42", "86"]``, in order.

    Raises:
        InputError: one is not a whole number or stands twice.
    """
    try:
        seeds = [int(part) for word in words for part in word.replace(",", " ").split()]
    except ValueError as error:
        raise InputError(f"--seeds {' '.join(words)}: give whole numbers, such as 1337,42,86.") from error
    if not seeds or len(set(seeds)) < len(seeds):
        raise InputError(f"--seeds {' '.join(words)}: give each seed once.")
    return seeds


def summarise(results: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the runs of several seeds with the mean and the standard deviation (ddof 1) of each score."""
    values = {name: [result["scores"][name] for result in results] for name in results[0]["scores"]}
    return {
        "task": results[0]["task"],
        "metric": results[0]["metric"],
        "seeds": [result["seed"] for result in results],
        "mean": {name: float(np.mean(of_seeds)) for name, of_seeds in values.items()},
        "std": {
            name: float(np.std(of_seeds, ddof=1)) if len(results) > 1 else None
            for name, of_seeds in values.items()
        },
        "runs": list(results),
    }


def score_table(results: Sequence[dict[str, Any]]) -> str:
    """Return the scores of one or several seeds beside the baselines, as lines of text."""
    lines = [(f"seed {result['seed']}", result["scores"]) for result in results]
    if len(results) > 1:
        summary = summarise(results)
        lines += [("mean", summary["mean"]), ("standard deviation", summary["std"])]
    lines += [(name, results[0]["baselines"][name]) for name in ("majority", "random")]
    names = list(results[0]["scores"])
    width = max(len(label) for label, _ in lines)
    columns = [max(8, len(name)) for name in names]
    rows = [("", names), *((label, [f"{scores[name]:.3f}" for name in names]) for label, scores in lines)]
    return "\n".join(
        label.ljust(width)
        + "".join(f"  {cell:>{column}}" for cell, column in zip(cells, columns, strict=True))
        for label, cells in rows
    )
