"""Our own metrics of many resamples at once: what :mod:`models.tasks.measures` gives one by one, much faster."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from .measures import CONSTANT

Floats = npt.NDArray[np.float64]
Rows = npt.NDArray[Any]


def _accuracy(predictions: Rows, targets: Rows) -> Floats:
    return np.asarray(np.mean(predictions == targets, axis=1))


def _f1(predictions: Rows, targets: Rows) -> Floats:
    said, there = predictions == 1, targets == 1
    return _divided(2.0 * (said & there).sum(axis=1), said.sum(axis=1) + there.sum(axis=1))


def _matthews(predictions: Rows, targets: Rows) -> Floats:
    """Of K classes (Gorodkin 2004): the covariance of predictions and targets by their spreads."""
    n = predictions.shape[1]
    classes = np.union1d(predictions, targets)
    said, there = (
        np.stack([(of == one).sum(axis=1) for one in classes]).astype(float) for of in (predictions, targets)
    )  # [K, R]
    right = (predictions == targets).sum(axis=1)
    spread = np.sqrt((n**2 - (said**2).sum(axis=0)) * (n**2 - (there**2).sum(axis=0)))
    return _divided(n * right - (said * there).sum(axis=0), spread)


def _pearson(predictions: Rows, targets: Rows) -> Floats:
    one, other = (of - of.mean(axis=1, keepdims=True) for of in (predictions, targets))
    spread = np.sqrt((one**2).sum(axis=1) * (other**2).sum(axis=1))
    found = _divided((one * other).sum(axis=1), spread)
    return np.where(_constant(predictions) | _constant(targets), 0.0, found)


def _spearman(predictions: Rows, targets: Rows) -> Floats:
    from scipy.stats import rankdata

    found = _pearson(*(np.asarray(rankdata(of, axis=1)) for of in (predictions, targets)))
    return np.where(_constant(predictions) | _constant(targets), 0.0, found)


def _pearson_spearman(predictions: Rows, targets: Rows) -> Floats:
    return (_pearson(predictions, targets) + _spearman(predictions, targets)) / 2


OF_RESAMPLES: Mapping[str, Callable[[Rows, Rows], Floats]] = {
    "accuracy": _accuracy,
    "f1": _f1,
    "matthews": _matthews,
    "pearson": _pearson,
    "spearman": _spearman,
    "pearson_spearman": _pearson_spearman,
}
"""By name, of predictions and targets ``[R, n]`` to ``[R]``."""


def _divided(number: Rows, by: Rows) -> Floats:
    """Return 0 where nothing is told apart."""
    return np.divide(number, by, out=np.zeros(len(by)), where=by > 0)


def _constant(values: Rows) -> npt.NDArray[np.bool_]:
    return np.asarray(np.ptp(values, axis=1) <= CONSTANT * np.abs(values).max(axis=1))
