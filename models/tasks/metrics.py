"""How well a fine-tuned model does a task, and how well one would do that has learned nothing."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from contextlib import suppress
from math import lgamma, log
from typing import Any

import numpy as np
import numpy.typing as npt

from ..common.errors import InputError
from ..common.files import reason
from .measures import OF_NUMBERS, measure, pearson
from .resamples import OF_RESAMPLES
from .task import Task, task_named

_DRAWS = 20
_RARE = 1e-4
_NO_CHANCE = 1e-6
_SURE = 4.0  # standard errors
_SLOPE = 2.0


def threshold_metric(task: str | Task) -> str:
    """Return which of :func:`scores` pruning goes by: for GLUE as in Prasanna et al. (2020), never F1."""
    return task_named(task).metric


def scores(
    task: str | Task, logits: npt.ArrayLike, targets: npt.ArrayLike, *, classes: Sequence[int] | None = None
) -> dict[str, float]:
    """Score a model's outputs on a task.

    Of classes ``accuracy``, of numbers ``pearson``, ``spearman`` and their mean ``pearson_spearman``; besides, the
    task's own metric and what it reports (``matthews`` for CoLA, ``f1`` of the second label for MRPC and QQP). Where
    predictions or targets are constant, a correlation and Matthews' coefficient are 0: nothing is told apart.

    Args:
        task: which task.
        logits: ``[N, C]``; the largest is the prediction, the first of equals.
        targets: ``[N]`` class ids of the model, or numbers.
        classes: for each of the task's labels in its order, the model's class id (``Examples.scores`` knows them); the
            same order if None.

    Raises:
        InputError: nothing to score, an output is not finite, or the shapes or targets do not fit the task or its
            metric.
    """
    task = task_named(task)
    said, wanted, outputs = _answers(task, logits, targets, classes)
    return {name: _measured(task, name, said, wanted, outputs) for name in _reported(task)}


def resampled(
    task: str | Task,
    metric: str,
    logits: npt.ArrayLike,
    targets: npt.ArrayLike,
    rows: npt.NDArray[np.integer],
    *,
    classes: Sequence[int] | None = None,
) -> npt.NDArray[np.float64]:
    """Return one of the :func:`scores` on each of R resamples of the examples, ``[R]``.

    Args:
        task: which task.
        metric: the score's name.
        logits: ``[N, C]``.
        targets: ``[N]``.
        rows: ``[R, n]``, which examples each resample has.
        classes: as for :func:`scores`.

    Returns:
        NaN where a metric of scikit-learn's has no value, as the area under the curve where all labels are the same.

    Raises:
        InputError: as :func:`scores`.
    """
    task = task_named(task)
    said, wanted, outputs = _answers(task, logits, targets, classes)
    if (together := OF_RESAMPLES.get(metric)) is not None:
        return together(said[rows], wanted[rows])
    found = np.full(len(rows), np.nan)
    for number, own in enumerate(rows):
        with suppress(InputError):
            of = None if outputs is None else outputs[own]
            found[number] = _measured(task, metric, said[own], wanted[own], of)
    return found


def _answers(
    task: Task, logits: npt.ArrayLike, targets: npt.ArrayLike, classes: Sequence[int] | None
) -> tuple[npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[np.float64] | None]:
    """Return predictions and targets ``[N]`` in the order of the labels, and of classes the outputs ``[N, C]``."""
    outputs, targets = _checked(task, logits, targets)
    if not task.labels:
        return outputs[:, 0], targets, None
    order = np.arange(len(task.labels)) if classes is None else np.asarray(classes)
    said, wanted = np.argsort(order)[outputs.argmax(axis=1)], np.argsort(order)[targets]
    return said, wanted, outputs[:, order]


def _reported(task: Task) -> tuple[str, ...]:
    usual = ("accuracy",) if task.labels else tuple(OF_NUMBERS)
    return tuple(dict.fromkeys((*usual, *task.also, task.metric)))


def _measured(
    task: Task,
    name: str,
    predictions: npt.NDArray[Any],
    targets: npt.NDArray[Any],
    outputs: npt.NDArray[Any] | None = None,
) -> float:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of labels that are never said, and the like: the score tells
            return measure(name, predictions, targets, outputs)
    except ValueError as error:
        raise InputError(
            f"{name} of {len(targets)} rows of {task.name} cannot be measured: {reason(error)}."
        ) from error


def baselines(
    task: str | Task,
    train_targets: npt.ArrayLike,
    targets: npt.ArrayLike,
    *,
    classes: Sequence[int] | None = None,
    seed: int = 0,
) -> dict[str, dict[str, float]]:
    """Score two predictors that look at no input: ``majority`` and ``random``.

    The first always says the commonest training label (of numbers: their mean); the second draws one of the training
    labels at random, and its scores are means over 20 draws.

    Raises:
        InputError: as :func:`scores`.
    """
    task = task_named(task)
    width = len(task.labels) or 1
    train = _checked(task, np.zeros((np.size(train_targets), width)), train_targets)[1]
    wanted = _checked(task, np.zeros((np.size(targets), width)), targets)[1]
    generator = np.random.default_rng(seed)
    if task.labels:  # metrics of probabilities get those of the training labels
        shares = np.bincount(train, minlength=width) / len(train)
        always = np.log(np.maximum(shares, _NO_CHANCE))
    else:
        always = train.mean(keepdims=True)

    def drawn() -> npt.NDArray[np.float64]:
        said = generator.choice(train, size=len(wanted))
        return np.where(np.eye(width)[said], 0.0, log(_NO_CHANCE)) if task.labels else said[:, None]

    draws = [scores(task, drawn(), wanted, classes=classes) for _ in range(_DRAWS)]
    return {
        "majority": scores(task, np.tile(always, (len(wanted), 1)), wanted, classes=classes),
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
    from scipy.optimize import linear_sum_assignment

    said = outputs.argmax(axis=1)
    agreed = np.zeros((len(classes), len(classes)))  # row: said, column: wanted
    np.add.at(agreed, (said, wanted), 1)
    own = float(np.trace(agreed))
    best = linear_sum_assignment(agreed, maximize=True)[1]  # class i means what is taken for class best[i]
    right = float(agreed[range(len(classes)), best].sum())
    # Always saying the commonest label is no order of the classes.
    if not _far_below(max(own, agreed.sum(axis=0).max()), len(wanted), right / len(wanted)):
        return []
    # Of few rows, some order always fits outputs that have nothing to do with the labels.
    expected = float(agreed.sum(axis=1) @ agreed.sum(axis=0)[best]) / len(wanted) ** 2
    if not _by_no_chance(right, len(wanted), expected, len(classes)):
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


def _by_no_chance(hits: float, number: int, share: float, classes: int) -> bool:
    """Return whether so many hits of a number, the most of all orders, come from chance in no case worth a mention."""
    from scipy.stats import binom

    return bool(binom.logsf(hits - 1, number, share) + lgamma(classes + 1) < log(_NO_CHANCE))


def _scale_doubts(outputs: npt.NDArray[Any], wanted: npt.NDArray[Any]) -> list[str]:
    r = pearson(outputs, wanted)
    if abs(r) * np.sqrt(len(wanted)) < _SURE:
        return []
    low, high = outputs.min(), outputs.max()
    range_of = (
        f"The model's answers lie between {low:.2f} and {high:.2f}, the labels between {wanted.min():g} and "
        f"{wanted.max():g}"
    )
    if r < 0:
        return [f"{range_of}, and run against them (Pearson {r:.3f}): a high answer probably means unlike."]
    # A model that has learned these labels by their squared error has a slope of 1, however little it knows.
    slope = r * wanted.std() / outputs.std()
    off = abs(outputs.mean() - wanted.mean())
    if 1 / _SLOPE < slope < _SLOPE and off < wanted.std():
        return []
    return [
        f"{range_of}: it was trained on another scale, or hardly at all. Its correlations do not depend on that, but "
        "its loss does, and with it the importance of heads and MLPs and what is pruned by it; nothing was rescaled."
    ]


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
