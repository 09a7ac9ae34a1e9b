"""The command ``finetune-glue``."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from .cli import (
    DataOption,
    DeviceOption,
    JsonOption,
    MaxLengthOption,
    ModelOption,
    OverwriteOption,
    RevisionOption,
    SeedOption,
    TaskOption,
    command,
    say,
)


@command
def finetune_glue(
    model: ModelOption,
    task: TaskOption,
    output: Annotated[
        Path,
        typer.Option("--output", help="New or empty folder for the model; seed_<n> inside with --seeds."),
    ],
    data: DataOption = None,
    revision: RevisionOption = None,
    seed: SeedOption = 0,
    seeds: Annotated[
        list[str] | None,
        typer.Option("--seeds", help="Several seeds, one model each: 1337,42,86 (or the option repeated)."),
    ] = None,
    subnetwork: Annotated[
        str | None,
        typer.Option("--subnetwork", help="File or folder of masks: cut out of the model before training."),
    ] = None,
    epochs: Annotated[float, typer.Option("--epochs", help="Passes over the training rows.")] = 3,
    learning_rate: Annotated[
        float, typer.Option("--learning-rate", help="At the beginning; it falls linearly to 0.")
    ] = 2e-5,
    batch_size: Annotated[int, typer.Option("--batch-size", help="Rows per step.")] = 32,
    max_length: MaxLengthOption = 128,
    train_examples: Annotated[
        int | None, typer.Option("--train-examples", help="Train on so many rows, the same for every seed.")
    ] = None,
    precision: Annotated[
        str, typer.Option("--precision", help="fp32, or bf16 for autocast to bfloat16.")
    ] = "fp32",
    device: DeviceOption = "auto",
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
) -> None:
    """Fine-tune a model on a GLUE task, with the settings of Prasanna et al. (2020) if none are given.

    The model, its tokenizer and metrics.json go to the output folder. Printed are the scores on the dev rows,
    beside those of always saying the commonest label and of guessing.

    Example: finetune-glue --model bert-base-uncased --task mrpc --seeds 1337,42,86,71,166 --output out/mrpc
    """
    from .files import check_output
    from .finetuning import METRICS, FineTuning, finetune, parse_seeds, score_table, summarise
    from .glue import load_rows, task_named
    from .subnetwork import Subnetwork

    settings = FineTuning(
        epochs=epochs,
        learning_rate=learning_rate,
        batch_size=batch_size,
        max_length=max_length,
        max_examples=train_examples,
        precision=precision,
        seed=seed,
    )
    runs = [settings]
    folders = [output]
    if seeds:
        runs = [replace(settings, seed=one) for one in parse_seeds(seeds)]
        folders = [output / f"seed_{run.seed}" for run in runs]
    for folder in folders:
        check_output(folder, overwrite, marker=METRICS)
    chosen = task_named(task)
    masks = Subnetwork.load(subnetwork) if subnetwork else None
    train, dev = (load_rows(chosen, data, split) for split in ("train", "validation"))
    results = []
    for run, folder in zip(runs, folders, strict=True):
        result = finetune(
            model,
            chosen,
            train,
            dev,
            run,
            folder,
            revision,
            device,
            masks,
            progress=True,
            overwrite=overwrite,
        )
        results.append(result)
        for warning in result["warnings"]:
            say(f"warning: {warning}")
    if as_json:
        print(json.dumps(summarise(results) if seeds else results[0], indent=2))
        return
    size = results[0]["examples"]
    print(
        f"{model} on {chosen.name}: {size['train']} rows of {train.source}, scored on {size['dev']} of {dev.source}"
    )
    print(score_table(results))
