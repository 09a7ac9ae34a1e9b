"""The command ``finetune-glue``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from ..common.commands import (
    DataOption,
    DeviceOption,
    JsonOption,
    MaxLengthOption,
    ModelOption,
    OverwriteOption,
    RevisionOption,
    SeedOption,
    TaskOption,
    resumable,
    say,
)


@resumable
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
        typer.Option("--seeds", help="Several seeds, one model each: 1337 42 86, or 1337,42,86."),
    ] = None,
    subnetwork: Annotated[
        str | None,
        typer.Option(
            "--subnetwork",
            help="Masks: a file, a search's folder or a published one. Heads and MLPs are cut out of the model "
            "before training; single weights are held at 0.",
        ),
    ] = None,
    holdout: Annotated[
        float,
        typer.Option(
            "--holdout",
            help="Share of the dev rows that nothing is selected on; scores are of these. A search with the same "
            "--holdout leaves the same ones alone.",
        ),
    ] = 0.0,
    keep: Annotated[
        str, typer.Option("--keep", help="The model of the last epoch, or of the best on the dev rows.")
    ] = "last",
    epochs: Annotated[float, typer.Option("--epochs", help="Passes over the training rows.")] = 3,
    learning_rate: Annotated[
        float, typer.Option("--learning-rate", help="At the beginning; it falls linearly to 0.")
    ] = 2e-5,
    warmup: Annotated[
        float, typer.Option("--warmup", help="Share of the steps in which the learning rate rises from 0.")
    ] = 0.0,
    batch_size: Annotated[
        int, typer.Option("--batch-size", help="Rows per step, of all processes together.")
    ] = 32,
    weight_decay: Annotated[float, typer.Option("--weight-decay", help="AdamW's.")] = 0.0,
    adam_epsilon: Annotated[float, typer.Option("--adam-epsilon", help="AdamW's.")] = 1e-8,
    max_grad_norm: Annotated[
        float, typer.Option("--max-grad-norm", help="A longer gradient is cut to this length.")
    ] = 1.0,
    max_length: MaxLengthOption = 128,
    group_by_length: Annotated[
        bool,
        typer.Option(
            "--group-by-length/--random-order",
            help="Whether a batch's rows are of like length, which is faster.",
        ),
    ] = True,
    train_examples: Annotated[
        int | None, typer.Option("--train-examples", help="Train on so many rows, the same for every seed.")
    ] = None,
    precision: Annotated[
        str, typer.Option("--precision", help="fp32, or bf16 for autocast to bfloat16.")
    ] = "fp32",
    checkpoint_steps: Annotated[
        int,
        typer.Option("--checkpoint-steps", help="Write a checkpoint after so many steps and every epoch."),
    ] = 500,
    report_to: Annotated[
        list[str] | None,
        typer.Option("--report-to", help="The Trainer's reporting integrations: tensorboard, wandb, ..."),
    ] = None,
    device: DeviceOption = "auto",
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
) -> None:
    """Fine-tune a model on a task, with the settings of Prasanna et al. (2020) if none are given.

    The model, its tokenizer, a learning curve and metrics.json go to the output folder. Printed are the scores on
    the dev rows, beside those of always saying the commonest label and of guessing. If it is stopped, the same
    command goes on from the last checkpoint, which lies in OUTPUT.partial until all is done.

    Several GPUs: accelerate launch --num_processes 2 $(command -v finetune-glue) --model ...

    Example: finetune-glue --model bert-base-uncased --task mrpc --seeds 1337 42 86 71 166 --output out/mrpc
    """
    from ..common.terminal import print_text
    from .job import FineTuneGlue
    from .loop import FineTuning, is_main_process
    from .run import parse_seeds, score_table

    settings = FineTuning(
        epochs=epochs,
        learning_rate=learning_rate,
        warmup=warmup,
        adam_epsilon=adam_epsilon,
        weight_decay=weight_decay,
        batch_size=batch_size,
        max_length=max_length,
        max_grad_norm=max_grad_norm,
        group_by_length=group_by_length,
        max_examples=train_examples,
        precision=precision,
        seed=seed,
        holdout=holdout,
        keep=keep,
        checkpoint_steps=checkpoint_steps,
        report_to=tuple(report_to or ()),
    )
    job = FineTuneGlue(
        model,
        task,
        output,
        settings,
        data=data,
        revision=revision,
        seeds=tuple(parse_seeds(seeds)) if seeds else (),
        subnetwork=subnetwork,
        device=device,
        overwrite=overwrite,
    )
    done = job.run(progress=True, announce=say)
    if not is_main_process():
        return
    say(f"model: {', '.join(str(folder) for _, folder in job.runs)}")
    if as_json:
        print(json.dumps(done.summary, indent=2))
        return
    first = done.results[0]
    print_text(
        f"{model} on {first['task']}: {first['examples']['train']} rows of {done.train.source}, "
        f"scored on {first['examples']['dev']} of {done.dev.source}"
    )
    print_text(first["selection"]["note"])
    print(score_table(done.results))
