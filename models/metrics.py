"""How well a fine-tuned model does a GLUE task, and how well one would do that has learned nothing."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from .errors import InputError
from .glue import Task

_THRESHOLD_METRICS = {"cola": "matthews", "stsb": "pearson_spearman"}
_WITH_F1 = ("mrpc", "qqp")
_DRAWS = 20
_CONSTANT = 1e-6  # relative spread: float32 noise of a model that says the same to everything


def threshold_metric(task: Task) -> str:
    """Return which of :func:`scores` pruning goes by: as in Prasanna et al. (2020), never F1."""
    return _THRESHOLD_METRICS.get(task.name, "accuracy")


def scores(
    task: Task, logits: npt.ArrayLike, targets: npt.ArrayLike, *, positive: int = 1
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
    logits, targets = _checked(task, logits, targets)
    if not task.labels:
        pearson, spearman = _correlations(logits[:, 0], targets)
        return {"pearson": pearson, "spearman": spearman, "pearson_spearman": (pearson + spearman) / 2}
    return _class_scores(task, logits.argmax(axis=1), targets, positive)


def baselines(
    task: Task,
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
