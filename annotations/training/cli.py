"""The commands ``train-classifier`` and ``evaluate-classifier``."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from models.common.commands import JsonOption, command, say
from models.common.options import Maker, takes

from ..functions import EVALUATE, TRAIN

if TYPE_CHECKING:
    from patterns.classifier.scores import Scores

    from .job import EvaluateClassifier, TrainClassifier


@command
@takes(TRAIN)
def train_classifier(make: Maker, as_json: JsonOption = False) -> None:
    """Train a pattern classifier on annotated maps and score it on heads it has not seen.

    Example: train-classifier --annotations my-maps more-maps --maps raw --output my-classifier
    """
    from models.common.terminal import print_text

    job: TrainClassifier = make()
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
            print_text(f"{job.folds}-fold cross-validation over heads:")
            _print_scores(report["out_of_fold"])
    say(f"classifier: {job.output}")
    if "published" in report:
        say(f"published: {report['published']}")


@command
@takes(EVALUATE)
def evaluate_classifier(make: Maker, as_json: JsonOption = False) -> None:
    """Score a pattern classifier on annotated maps.

    Example: evaluate-classifier --annotations my-maps --classifier raw
    """
    job: EvaluateClassifier = make()
    scores = job.run()
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
