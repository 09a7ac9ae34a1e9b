"""The command ``classify-heads``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from models.common.commands import (
    TASK_HELP,
    ClassifierOption,
    DataOption,
    DeviceMapOption,
    DeviceOption,
    DtypeOption,
    InputsOption,
    JsonOption,
    MapsOption,
    MaxLengthOption,
    ModelOption,
    OutputOption,
    OverwriteOption,
    RevisionOption,
    SeedOption,
    SplitOption,
    command,
    listed,
    say,
)


@command
def classify_heads(
    model: ModelOption,
    task: Annotated[str | None, typer.Option("--task", help=TASK_HELP)] = None,
    data: DataOption = None,
    text: Annotated[
        Path | None,
        typer.Option(
            "--text", help="Instead of --task: a file of one text a line, or of two with a tab between them."
        ),
    ] = None,
    revision: RevisionOption = None,
    split: SplitOption = "validation",
    examples: Annotated[int, typer.Option("--examples", help="Rows to draw at random.")] = 100,
    maps: MapsOption = "raw,norm",
    subnetwork: Annotated[
        str | None,
        typer.Option(
            "--subnetwork",
            help="File or folder of masks: count only the heads that it keeps.",
        ),
    ] = None,
    subnetwork_mode: Annotated[
        str,
        typer.Option(
            "--subnetwork-mode",
            help="The rest of the model meanwhile: select leaves it in place, gate closes it, compact removes it.",
        ),
    ] = "select",
    raw_classifier: ClassifierOption = None,
    norm_classifier: ClassifierOption = None,
    batch_size: InputsOption = 16,
    max_length: MaxLengthOption = 128,
    seed: SeedOption = 0,
    device: DeviceOption = "auto",
    device_map: DeviceMapOption = None,
    dtype: DtypeOption = "float32",
    output: OutputOption = None,
    overwrite: OverwriteOption = False,
    control: Annotated[
        bool,
        typer.Option(
            "--control",
            help="Look at the same architecture with its weights redrawn too: what is there without training.",
        ),
    ] = False,
    save_maps: Annotated[bool, typer.Option("--save-maps", help="Write every map too (large).")] = False,
    as_json: JsonOption = False,
) -> None:
    """Show the attention pattern of every head of a model.

    Every head's attention map is classified on a random sample of inputs. Printed are each head's dominant
    pattern, the share of each pattern, and the interpretable ratio with a 95% bootstrap interval that covers which
    examples were drawn, alone; beside them the same for untrained weights (--control), and corrected for the errors
    that the classifier made on annotated heads it had not seen, where these fit.

    Example: classify-heads --model bert-base-uncased --task qqp --examples 100 --output out/bert-qqp
    """
    from .job import ClassifyHeads, empty_maps, interval_notes
    from .result import distributions, ratios

    job = ClassifyHeads(
        model=model,
        task=task,
        revision=revision,
        data=data,
        text=text,
        split=split,
        examples=examples,
        maps=listed(maps),
        subnetwork=subnetwork,
        subnetwork_mode=subnetwork_mode,
        classifiers={"raw": raw_classifier, "norm": norm_classifier},
        batch_size=batch_size,
        max_length=max_length,
        seed=seed,
        device=device,
        device_map=device_map,
        dtype=dtype,
        output=output,
        overwrite=overwrite,
        save_maps=save_maps,
        control=control,
    )
    done = job.run(progress=True)
    if done.rows.unread:
        say(f"read {done.rows.source}; not read: {', '.join(done.rows.unread)}")
    for warning in done.patterns.warnings:
        say(f"warning: {warning}")
    if as_json:
        print(json.dumps(done.summary, indent=2))
    else:
        from models.common.terminal import print_text

        from .tables import print_patterns

        counted = done.summary["heads"]
        whose = "" if text else f" ({done.summary['task']})"
        print_text(
            f"{model} on {done.summary['examples']} examples of {done.rows.source}{whose}, "
            f"{counted['counted']} of {counted['all']} heads"
        )
        patterns = done.patterns
        shown = distributions(patterns)
        print_patterns(
            patterns.to_frame(),
            shown,
            ratios(patterns),
            empty=empty_maps(patterns),
            notes=interval_notes(shown),
        )
    if output is not None:
        say(f"figures: {output / 'heads.png'}, {output / 'distribution.png'}; tables beside them")
        say(f"report: {output / 'report.html'}")
