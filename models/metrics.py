"""How well a fine-tuned model does a GLUE task, and how well one would do that has learned nothing."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import permutations
from typing import Any

import numpy as np
import numpy.typing as npt

from .errors import InputError
from .glue import Task, task_named

_THRESHOLD_METRICS = {"cola": "matthews", "stsb": "pearson_spearman"}
_WITH_F1 = ("mrpc", "qqp")
_DRAWS = 20
_RARE = 1e-4
_NO_CHANCE = 1e-6
_SURE = 4.0  # standard errors
_SLOPE = 2.0
_CONSTANT = 1e-6  # relative spread: float32 noise of a model that says the same to everything


def threshold_metric(task: str | Task) -> str:
    """Return which of :func:`scores` pruning goes by: as in Prasanna et al. (2020), never F1."""
    task = task_named(task)
    return _THRESHOLD_METRICS.get(task.name, "accuracy")


def scores(
    task: str | Task, logits: npt.ArrayLike, targets: npt.ArrayLike, *, positive: int = 1
) -> dict[str, float]:
    """Score a model's outputs on a task.

    Accuracy for all but STS-B; also ``f1`` of the task's second label for MRPC and QQP and ``matthews`` for CoLA;
    for STS-B ``pearson``, ``spearman`` and their mean ``pearson_spearman``. Where predictions or targets are
    constant, a correlation and Matthews' coefficient are 0: nothing is told apart.

    Args:
        task: which task.
        logits: ``[N, C]``; the largest is the prediction, the first of equals.
        targets: ``[N]`` class ids of the model, or scores for STS-B.
        positive: the model's class id of the task's second label (``Examples.scores`` knows it).

    Raises:
        InputError: nothing to score, an output is not finite, or the shapes or targets do not fit the task.
    """
    task = task_named(task)
    logits, targets = _checked(task, logits, targets)
    if not task.labels:
        pearson, spearman = _correlations(logits[:, 0], targets)
        return {"pearson": pearson, "spearman": spearman, "pearson_spearman": (pearson + spearman) / 2}
    return _class_scores(task, logits.argmax(axis=1), targets, positive)


def baselines(
    task: str | Task,
    train_targets: npt.ArrayLike,
    targets: npt.ArrayLike,
    *,
    positive: int = 1,
    seed: int = 0,
) -> dict[str, dict[str, float]]:
    """Score two predictors that look at no input: ``majority`` and ``random``.

    The first always says the commonest training label (STS-B: their mean); the second draws one of the training
    labels at random, and its scores are means over 20 draws.

    Raises:
        InputError: as :func:`scores`.
    """
    task = task_named(task)
    width = len(task.labels) or 1
    train = _checked(task, np.zeros((np.size(train_targets), width)), train_targets)[1]
    wanted = _checked(task, np.zeros((np.size(targets), width)), targets)[1]
    generator = np.random.default_rng(seed)
    always = np.bincount(train).argmax() if task.labels else train.mean()
    draws = [
        _plain_scores(task, generator.choice(train, size=len(wanted)), wanted, positive)
        for _ in range(_DRAWS)
    ]
    return {
        "majority": _plain_scores(task, np.full(len(wanted), always), wanted, positive),
        "random": {name: float(np.mean([draw[name] for draw in draws])) for name in draws[0]},
    }


def doubts(
    task: str | Task, logits: npt.ArrayLike, targets: npt.ArrayLike, classes: Sequence[int]
) -> list[str]:
    """Return sentences on why outputs probably mean something else than they are taken for; none if all is well.

    Of classes: they fit the labels far better in another order. Of scores: they run against the labels, or are on
    another scale. Correlations do not depend on the scale, whereas losses do, and with them gradients.

    Args:
        task: which.
        logits: ``[N, C]``.
        targets: ``[N]`` class ids of the model, or scores.
        classes: for each of the task's labels in its order, the model's class id.

    Raises:
        InputError: as :func:`scores`.
    """
    task = task_named(task)
    outputs, wanted = _checked(task, logits, targets)
    return (
        _scale_doubts(outputs[:, 0], wanted)
        if not task.labels
        else _order_doubts(task, outputs, wanted, classes)
    )


def _order_doubts(
    task: Task, outputs: npt.NDArray[Any], wanted: npt.NDArray[Any], classes: Sequence[int]
) -> list[str]:
    said = outputs.argmax(axis=1)
    agreed = np.zeros((len(classes), len(classes)))  # row: said, column: wanted
    np.add.at(agreed, (said, wanted), 1)
    own = float(np.trace(agreed))
    orders = list(permutations(range(len(classes))))  # class i means what is taken for class order[i]
    best = max(orders, key=lambda order: agreed[range(len(classes)), order].sum())
    right = float(agreed[range(len(classes)), best].sum())
    # Always saying the commonest label is no order of the classes.
    if not _far_below(max(own, agreed.sum(axis=0).max()), len(wanted), right / len(wanted)):
        return []
    # Of few rows, some order always fits outputs that have nothing to do with the labels.
    expected = float(agreed.sum(axis=1) @ agreed.sum(axis=0)[list(best)]) / len(wanted) ** 2
    if not _by_no_chance(right, len(wanted), expected, len(orders)):
        return []
    names = dict(zip(classes, task.labels, strict=True))
    now, then = (", ".join(names[i] for i in order) for order in (range(len(classes)), best))
    return [
        f"The model's classes are probably in another order than {now}: in the order {then} its accuracy would be "
        f"{right / len(wanted):.4f} instead of {own / len(wanted):.4f}; check the names of the classes in its config "
        "(id2label, label2id) and the labels of the rows."
    ]


def _far_below(hits: float, number: int, share: float) -> bool:
    """Return whether chance gives so few hits of a number in less than 1 case of 10,000, where this share is usual."""
    from scipy.stats import binom

    return bool(binom.cdf(hits, number, share) < _RARE)


def _by_no_chance(hits: float, number: int, share: float, tries: int) -> bool:
    """Return whether so many hits of a number, the most of some tries, come from chance in no case worth a mention."""
    from scipy.stats import binom

    return bool(binom.sf(hits - 1, number, share) * tries < _NO_CHANCE)


def _scale_doubts(outputs: npt.NDArray[Any], wanted: npt.NDArray[Any]) -> list[str]:
    pearson, _ = _correlations(outputs, wanted)
    if abs(pearson) * np.sqrt(len(wanted)) < _SURE:
        return []
    low, high = outputs.min(), outputs.max()
    range_of = (
        f"The model's answers lie between {low:.2f} and {high:.2f}, the labels between {wanted.min():g} and "
        f"{wanted.max():g}"
    )
    if pearson < 0:
        return [
            f"{range_of}, and run against them (Pearson {pearson:.3f}): a high answer probably means unlike."
        ]
    # A model that has learned these labels by their squared error has a slope of 1, however little it knows.
    slope = pearson * wanted.std() / outputs.std()
    off = abs(outputs.mean() - wanted.mean())
    if 1 / _SLOPE < slope < _SLOPE and off < wanted.std():
        return []
    return [
        f"{range_of}: it was trained on another scale, or hardly at all. Its correlations do not depend on that, but "
        "its loss does, and with it the importance of heads and MLPs and what is pruned by it; nothing was rescaled."
    ]


def _plain_scores(
    task: Task, predictions: npt.NDArray[Any], targets: npt.NDArray[Any], positive: int
) -> dict[str, float]:
    if not task.labels:
        return scores(task, predictions[:, None], targets)
    return _class_scores(task, predictions, targets, positive)


def _class_scores(
    task: Task, predictions: npt.NDArray[Any], targets: npt.NDArray[Any], positive: int
) -> dict[str, float]:
    from sklearn.metrics import f1_score, matthews_corrcoef

    result = {"accuracy": float(np.mean(predictions == targets))}
    if task.name in _WITH_F1:
        hits = (targets == positive, predictions == positive)
        result["f1"] = float(f1_score(*hits, zero_division=0.0))
    if task.name == "cola":
        constant = len(np.unique(predictions)) == 1 or len(np.unique(targets)) == 1
        result["matthews"] = 0.0 if constant else float(matthews_corrcoef(targets, predictions))
    return result


def _correlations(predictions: npt.NDArray[Any], targets: npt.NDArray[Any]) -> tuple[float, float]:
    from scipy.stats import pearsonr, spearmanr

    if any(np.ptp(values) <= _CONSTANT * np.abs(values).max() for values in (predictions, targets)):
        return 0.0, 0.0
    return float(pearsonr(predictions, targets).statistic), float(spearmanr(predictions, targets).statistic)


def _checked(
    task: Task, logits: npt.ArrayLike, targets: npt.ArrayLike
) -> tuple[npt.NDArray[np.float64], npt.NDArray[Any]]:
    """Return outputs ``[N, C]`` in float64 and targets ``[N]``, int64 or float64."""
    outputs, wanted = np.asarray(logits, dtype=np.float64), np.asarray(targets)
    width = len(task.labels) or 1
    if outputs.ndim != 2 or outputs.shape[1] != width:
        raise InputError(
            f"The outputs have the shape {outputs.shape}; {task.name} needs [examples, {width}]."
        )
    if wanted.shape != (len(outputs),):
        raise InputError(f"There are outputs for {len(outputs)} examples and targets {wanted.shape}.")
    if not len(outputs):
        raise InputError(f"There is no example of {task.name} to score.")
    bad = np.flatnonzero(~np.isfinite(outputs).all(axis=1))
    if len(bad):
        raise InputError(
            f"The model's outputs are not finite for {len(bad)} of {len(outputs)} examples, the first at {bad[0]}."
        )
    if not task.labels:
        if not np.isfinite(wanted.astype(np.float64)).all():
            raise InputError(f"A target of {task.name} is not finite.")
        return outputs, wanted.astype(np.float64)
    if wanted.dtype.kind not in "iu" or wanted.min() < 0 or wanted.max() >= width:
        raise InputError(f"The targets of {task.name} must be class ids from 0 to {width - 1}.")
    return outputs, wanted.astype(np.int64)
