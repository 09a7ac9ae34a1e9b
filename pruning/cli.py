"""The commands ``prune-heads``, ``prune-weights`` and ``compare-survivors``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from models.common.commands import (
    DataOption,
    DeviceOption,
    InputsOption,
    JsonOption,
    MapsOption,
    MaxLengthOption,
    OutputOption,
    OverwriteOption,
    RevisionOption,
    SeedOption,
    SplitOption,
    TaskOption,
    command,
    listed,
    resumable,
    say,
)

FineTunedOption = Annotated[
    str, typer.Option("--model", help="Folder or Hub id of a model fine-tuned on the task.")
]
SearchOption = Annotated[
    Path, typer.Option("--output", help="Folder of the search; one that was stopped is continued.")
]
ReplaceOption = Annotated[
    bool, typer.Option("--overwrite", help="Replace an earlier search in the output folder.")
]
ModelSeedOption = Annotated[
    int | None,
    typer.Option(
        "--seed", help="Seed that the model was fine-tuned with. Default: as its metrics.json says."
    ),
]
ExamplesOption = Annotated[
    int | None,
    typer.Option("--examples", help="Rows to draw at random, the same for every seed. Default: all."),
]
HoldoutOption = Annotated[
    float,
    typer.Option("--holdout", help="Share of the rows that the search does not see and is reported on too."),
]
DecidingSplitOption = Annotated[str, typer.Option("--split", help="Which split's score decides.")]
ThresholdOption = Annotated[
    float, typer.Option("--threshold", help="Share of the full model's score to hold.")
]
BatchOption = Annotated[int, typer.Option("--batch-size", help="Inputs per pass.")]

if TYPE_CHECKING:
    from .search.records import HeadsSummary


@resumable
def prune_heads(
    model: FineTunedOption,
    task: TaskOption,
    output: SearchOption,
    data: DataOption = None,
    revision: RevisionOption = None,
    seed: ModelSeedOption = None,
    what: Annotated[str, typer.Option("--what", help="heads-and-mlps, heads or mlps.")] = "heads-and-mlps",
    threshold: ThresholdOption = 0.9,
    head_step: Annotated[
        float, typer.Option("--head-step", help="Share of all heads that a step removes.")
    ] = 0.1,
    fine_head_step: Annotated[
        float, typer.Option("--fine-head-step", help="The same once removing heads and MLPs together fails.")
    ] = 0.05,
    mlp_step: Annotated[int, typer.Option("--mlp-step", help="MLPs that a step removes.")] = 1,
    protocol: Annotated[
        str,
        typer.Option("--protocol", help="corrected, or as-released: with the published code's importances."),
    ] = "corrected",
    split: DecidingSplitOption = "validation",
    examples: ExamplesOption = None,
    holdout: HoldoutOption = 0.0,
    batch_size: BatchOption = 32,
    max_length: MaxLengthOption = 128,
    device: DeviceOption = "auto",
    compaction: Annotated[
        bool, typer.Option(help="Take out what is pruned while searching (faster); else gate it to zero.")
    ] = True,
    save_model: Annotated[
        Path | None,
        typer.Option(
            "--save-model",
            help="New folder for the model without what was pruned, with its tokenizer: a --model of every command.",
        ),
    ] = None,
    overwrite: ReplaceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Find the heads and MLPs that a fine-tuned model needs for its task.

    The least important heads and MLPs are removed step by step, without training, as long as the model keeps 90%
    of its score: first together, then heads alone, then MLPs alone (Prasanna, Rogers & Rumshisky 2020).
    The folder holds the subnetwork, the history of every step and all importances. Run the same command again to
    continue a search that was stopped.

    Example: prune-heads --model out/mrpc/seed_42 --task mrpc --output searches/mrpc/seed_42
    """
    from .search.heads_job import PruneHeads
    from .search.subject import Subject
    from .structured import StructuredSearch

    job = PruneHeads(
        subject=Subject(
            model=model,
            task=task,
            data=data,
            split=split,
            examples=examples,
            holdout=holdout,
            seed=seed,
            revision=revision,
            batch_size=batch_size,
            max_length=max_length,
            device=device,
        ),
        output=output,
        search=StructuredSearch(what, threshold, head_step, fine_head_step, mlp_step, protocol),
        compaction=compaction,
        overwrite=overwrite,
        save_model=save_model,
    )
    _show(job.run(progress=True, say=say), output, as_json)


@resumable
def prune_weights(
    model: FineTunedOption,
    task: TaskOption,
    output: SearchOption,
    data: DataOption = None,
    revision: RevisionOption = None,
    seed: ModelSeedOption = None,
    threshold: ThresholdOption = 0.9,
    fraction: Annotated[
        float,
        typer.Option("--fraction", help="Share of the weights left that a step removes (published: 0.05)."),
    ] = 0.05,
    max_steps: Annotated[
        int | None, typer.Option("--max-steps", help="Steps at most. Default: no limit.")
    ] = None,
    last_bias: Annotated[
        bool, typer.Option("--last-bias", help="Prune the bias of each MLP's last layer too.")
    ] = False,
    split: DecidingSplitOption = "validation",
    examples: ExamplesOption = None,
    holdout: HoldoutOption = 0.0,
    batch_size: BatchOption = 32,
    max_length: MaxLengthOption = 128,
    device: DeviceOption = "auto",
    overwrite: ReplaceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Find how many of the smallest weights a fine-tuned model can lose.

    A share of the encoder's weights that are left, the smallest of all layers together, is set to zero step by
    step, without training, as long as the model keeps 90% of its score (Prasanna, Rogers & Rumshisky 2020).
    The folder holds the weight masks (a bit a weight), how much of each head and MLP survives, and the history.
    Run the same command again to continue a search that was stopped.

    Example: prune-weights --model out/mrpc/seed_42 --task mrpc --output searches/mrpc-weights/seed_42
    """
    from .search.subject import Subject
    from .search.weights_job import PruneWeights

    job = PruneWeights(
        subject=Subject(
            model=model,
            task=task,
            data=data,
            split=split,
            examples=examples,
            holdout=holdout,
            seed=seed,
            revision=revision,
            batch_size=batch_size,
            max_length=max_length,
            device=device,
        ),
        output=output,
        threshold=threshold,
        fraction=fraction,
        max_steps=max_steps,
        last_bias=last_bias,
        overwrite=overwrite,
    )
    _show(job.run(progress=True, say=say), output, as_json)


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
            "--task",
            help="Only this task (GLUE's, or a .toml file); runs that do not say theirs are taken to be of it.",
        ),
    ] = None,
    maps: MapsOption = "raw,norm",
    examples: Annotated[int, typer.Option("--examples", help="Rows of each task to draw at random.")] = 100,
    split: SplitOption = "validation",
    subnetwork_mode: Annotated[
        str,
        typer.Option(
            "--subnetwork-mode",
            help="select: the full model is observed, and its heads are told apart; gate, compact: super-survivors "
            "are looked at where the rest is silenced or removed.",
        ),
    ] = "select",
    permutations: Annotated[int, typer.Option("--permutations", help="Of each permutation test.")] = 9999,
    batch_size: InputsOption = 16,
    seed: SeedOption = 0,
    device: DeviceOption = "auto",
    output: OutputOption = None,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
) -> None:
    """Show which heads survive pruning under every seed, how stable that is, and what patterns they have.

    Searches are grouped by task. Printed are the survivors, how far the seeds agree beside what chance would give,
    and how many heads tasks share. With --data, the attention patterns of super-survivors are compared with those
    of the other heads of their layers, measured in each seed's own full model: one difference, one interval, one
    test, one verdict.

    Example: compare-survivors searches --data glue --output out/survivors
    """
    from .comparison.job import CompareSurvivors

    job = CompareSurvivors(
        runs=tuple(runs),
        model=model,
        data=data,
        task=task,
        maps=listed(maps),
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
        from .comparison.terminal import print_comparison

        print_comparison(done.summary)
    if output is not None:
        figures = ", ".join(str(output / name) for name in ("survival.png", "patterns.png")[: 1 + bool(data)])
        say(f"figures: {figures}; tables beside them")
        say(f"report: {output / 'report.html'}")


def _show(summary: Mapping[str, Any], output: Path, as_json: bool) -> None:
    for warning in summary["warnings"]:
        say(f"warning: {warning}")
    if as_json:
        print(json.dumps(summary, indent=2))
        return
    from models.common.terminal import print_text

    lines = [
        f"{summary['model']}, {summary['task']} {summary['split']}, {summary['examples']} examples",
        f"{summary['metric']}: full model {summary['full_score']:.4f}, subnetwork {summary['score']:.4f} "
        f"(threshold {summary['threshold'] * summary['full_score']:.4f})",
        *(
            f"{name} kept: {summary[key]['kept']} of {summary[key]['all']} "
            f"({summary[key]['kept'] / max(summary[key]['all'], 1):.1%})"
            for key, name in (("heads", "heads"), ("mlps", "MLPs"), ("weights", "weights"))
            if key in summary
        ),
    ]
    if share := summary.get("encoder_share"):
        lines.append(
            f"of the encoder: {share['parameters']:.1%} of the parameters, {share['flops']:.1%} of the work"
        )
    report = summary["reported_on"]
    if report["held_out"]:
        name = summary["metric"]
        lines.append(
            f"on {report['examples']} held-out examples: full model {report['full'][name]:.4f}, "
            f"subnetwork {report['subnetwork'][name]:.4f}"
        )
    else:
        lines.append(report["note"])
    print_text("\n".join(lines))
    if summary["command"] == "prune-heads":
        from models.subnetwork import Subnetwork
        from models.weights import SUBNETWORK_FILE

        from .comparison.terminal import print_kept
        from .search.folder import HISTORY

        steps = (output / HISTORY).read_text(encoding="utf-8").splitlines()
        print()
        print_kept(
            Subnetwork.load(output / SUBNETWORK_FILE),
            [json.loads(step) for step in steps],
            cast("HeadsSummary", summary),
        )
    elif "majority_score" in summary:
        print_text(f"always saying the commonest label: {summary['majority_score']:.4f}")
    say(f"written to {output}")
