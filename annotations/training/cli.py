"""The commands ``train-classifier`` and ``evaluate-classifier``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from models.common.commands import JsonOption, OverwriteOption, SeedOption, command, say

if TYPE_CHECKING:
    from patterns.classifier.scores import Scores

AnnotationsOption = Annotated[
    list[Path],
    typer.Option("--annotations", help="Folders of annotated maps, ours or as published: DIR1 DIR2 ..."),
]


@command
def train_classifier(
    annotations: AnnotationsOption,
    output: Annotated[Path, typer.Option("--output", help="New or empty folder for the classifier.")],
    maps: Annotated[str, typer.Option("--maps", help="Kind of maps it is for: raw or norm.")] = "raw",
    other_kind: Annotated[
        float | None,
        typer.Option(
            "--other-kind",
            help="How often maps of the other kind are learned from too; 0 for never (default: raw 1, norm 0.33).",
        ),
    ] = None,
    generated: Annotated[
        float,
        typer.Option("--generated", help="Share of generated maps among those learned from; 0 for none."),
    ] = 0.1,
    members: Annotated[
        int, typer.Option("--members", help="Convolutional networks whose probabilities are averaged.")
    ] = 2,
    profiles: Annotated[
        int,
        typer.Option(
            "--profiles", help="Networks on hand-made measurements, averaged with those; 0 for none."
        ),
    ] = 2,
    folds: Annotated[
        int, typer.Option("--folds", help="Parts of the cross-validation over heads; 0 for none.")
    ] = 5,
    epochs: Annotated[int, typer.Option("--epochs", help="Passes over the maps.")] = 25,
    note: Annotated[
        str, typer.Option("--note", help="Who labelled the maps and how; goes into the card.")
    ] = "",
    seed: SeedOption = 0,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
) -> None:
    """Train a pattern classifier on annotated maps and score it on heads it has not seen.

    Example: train-classifier --annotations my-maps more-maps --maps raw --output my-classifier
    """
    from models.common.terminal import print_text
    from patterns.classifier.training import Training

    from .job import TrainClassifier

    job = TrainClassifier(
        annotations=tuple(annotations),
        maps=maps,
        output=output,
        other_kind=other_kind,
        folds=folds,
        training=Training(epochs=epochs, generated=generated, members=members, profiles=profiles, seed=seed),
        note=note,
        overwrite=overwrite,
    )
    report = job.run(progress=True)
    if as_json:
        print(json.dumps(report, indent=2))
    else:
        numbers = " and ".join(f"{n} {kind}" for kind, n in report["maps"].items() if n)
        print_text(f"trained on {numbers} maps of {report['heads']} heads")
        if not report["out_of_fold"]:
            say("warning: with --folds 0 nothing is known of how good it is.")
        else:
            if report["out_of_fold"]["accuracy"] <= report["out_of_fold"]["majority_accuracy"]:
                say("warning: it is no better than always answering the commonest label; do not use it.")
            print_text(f"{folds}-fold cross-validation over heads:")
            _print_scores(report["out_of_fold"])
    say(f"classifier: {output}")


@command
def evaluate_classifier(
    annotations: AnnotationsOption,
    classifier: Annotated[
        str, typer.Option("--classifier", help="raw or norm (shipped), a folder, or a Hub id.")
    ] = "raw",
    maps: Annotated[
        str | None, typer.Option("--maps", help="Kind of maps to score on; default: the classifier's own.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Score a pattern classifier on annotated maps.

    Example: evaluate-classifier --annotations my-maps --classifier raw
    """
    from .job import EvaluateClassifier

    scores = EvaluateClassifier(tuple(annotations), classifier, maps).run()
    known = scores["trained_on"]
    if known is None:
        say("warning: this classifier does not say which maps it was trained on.")
    elif known:
        say(
            f"warning: {known} of these {scores['maps']} maps were used to train this classifier; "
            "the score is no estimate for new maps."
        )
    if as_json:
        print(json.dumps(scores, indent=2))
    else:
        _print_scores(scores)


def _print_scores(scores: Scores) -> None:
    from models.common.terminal import print_text
    from patterns.taxonomy import ABBREVIATIONS, PATTERNS

    print_text(
        f"{scores['maps']} maps: accuracy {scores['accuracy']:.3f} (majority {scores['majority_accuracy']:.3f}), "
        f"macro-F1 {scores['macro_f1']:.3f}, log-loss {scores['log_loss']:.3f}"
    )
    print_text("by label, and how many of each were predicted to be what:")
    cell = max(4, *(len(str(n)) for row in scores["confusion"] for n in row))  # 60 columns hold five digits
    heads = " ".join(f"{ABBREVIATIONS[p]:>{cell}}" for p in PATTERNS)
    print(f"{'label':17} {'maps':>5} {'F1':>5}  {heads}")
    for pattern, row in zip(PATTERNS, scores["confusion"], strict=True):
        counts = " ".join(f"{n:{cell}d}" for n in row)
        f1 = "-" if scores["f1"][pattern] is None else f"{scores['f1'][pattern]:.2f}"
        print(f"{pattern.value:17} {scores['support'][pattern]:5d} {f1:>5}  {counts}")
