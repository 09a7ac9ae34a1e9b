"""The commands of the room of pruning."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from models.cli import DeviceOption, JsonOption, OverwriteOption, SeedOption, command, say


@command
def compare_survivors(
    runs: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN...",
            help="Folders of finished searches, of published masks, or folders that hold such; a subnetwork's file.",
        ),
    ],
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            help="Look at these models instead of those that the runs name; {task} and {seed} are filled in.",
        ),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            "--data",
            help="Look at patterns too, on examples from this folder (as in classify-heads) or Hub data set, "
            "e.g. nyu-mll/glue.",
        ),
    ] = None,
    task: Annotated[
        str | None,
        typer.Option(
            "--task", help="Only this GLUE task; runs that do not say theirs are taken to be of it."
        ),
    ] = None,
    maps: Annotated[str, typer.Option("--maps", help="Kinds of maps: raw, norm, or raw,norm.")] = "raw,norm",
    examples: Annotated[int, typer.Option("--examples", help="Rows of each task to draw at random.")] = 100,
    split: Annotated[str, typer.Option("--split", help="Which split of the data.")] = "validation",
    subnetwork_mode: Annotated[
        str,
        typer.Option(
            "--subnetwork-mode", help="select: the full model is observed, and its heads are told apart."
        ),
    ] = "select",
    permutations: Annotated[int, typer.Option("--permutations", help="Of each permutation test.")] = 9999,
    batch_size: Annotated[int, typer.Option("--batch-size", help="Inputs per forward pass.")] = 16,
    seed: SeedOption = 0,
    device: DeviceOption = "auto",
    output: Annotated[
        Path | None,
        typer.Option("--output", help="New or empty folder for tables, figures and summary.json."),
    ] = None,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
) -> None:
    """Show which heads survive pruning under every seed, how stable that is, and what patterns they have.

    Searches are grouped by task. Printed are the survivors, how far the seeds agree beside what chance would give,
    and how many heads tasks share. With --data, the attention patterns of super-survivors are compared with those
    of all heads, measured in each seed's own full model, with a permutation test within layers.

    Example: compare-survivors searches --data glue --output out/survivors
    """
    from .comparison import CompareSurvivors

    job = CompareSurvivors(
        runs=tuple(runs),
        model=model,
        data=data,
        task=task,
        maps=tuple(kind.strip() for kind in maps.split(",")),
        examples=examples,
        split=split,
        subnetwork_mode=subnetwork_mode,
        permutations=permutations,
        batch_size=batch_size,
        seed=seed,
        device=device,
        output=output,
        overwrite=overwrite,
    )
    done = job.run(announce=say)
    for warning in done.summary["warnings"]:
        say(f"warning: {warning}")
    if as_json:
        print(json.dumps(done.summary, indent=2))
    else:
        from .tables import print_comparison

        print_comparison(done.summary)
    if output is not None:
        figures = ", ".join(str(output / name) for name in ("survival.png", "patterns.png")[: 1 + bool(data)])
        say(f"figures: {figures}; tables beside them")
