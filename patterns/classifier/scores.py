"""How good predicted patterns are, and how sure of that one can be."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any, Literal, TypedDict, overload

import numpy as np
import numpy.typing as npt

from models.common.files import known

from ..taxonomy import PATTERNS, Pattern

Floats = npt.NDArray[np.floating]
Groups = Sequence[Hashable] | npt.NDArray[Any]
"""One name a map."""

RESAMPLES = 2000
_BINS = 10
_N = len(PATTERNS)


Metric = Literal["accuracy", "macro_f1", "log_loss", "brier", "ece"]
_METRICS: tuple[Metric, ...] = ("accuracy", "macro_f1", "log_loss", "brier", "ece")
Bounds = list[float | None]
"""An interval; None where it has no end."""


class Intervals(TypedDict):
    """The 95% interval of each metric."""

    accuracy: Bounds
    macro_f1: Bounds
    log_loss: Bounds
    brier: Bounds
    ece: Bounds
    f1: dict[str, Bounds]
    """By pattern."""


class Scores(TypedDict):
    """How good predicted patterns are, ready for JSON."""

    maps: int
    accuracy: float
    majority_accuracy: float
    """Of always saying the commonest label."""
    macro_f1: float
    """Over the patterns that occur among labels or predictions."""
    log_loss: float
    brier: float
    """Sum over the five patterns, 0 to 2."""
    ece: float
    """Expected calibration error of the largest probability, ten equal bins (Guo et al. 2017)."""
    f1: dict[str, float | None]
    """By pattern; None for one that occurs nowhere."""
    support: dict[str, int]
    confusion: list[list[int]]
    """``[5][5]``, rows labels, columns predictions, in Pattern order."""


class GroupedScores(Scores):
    """The same with intervals over groups of maps."""

    groups: int
    ci95: Intervals
    """None with a single group."""


class Difference(TypedDict):
    """One metric of two classifiers: the one minus the other, and its 95% interval."""

    difference: float
    ci95: list[float]


@overload
def score(labels: Sequence[Pattern], probabilities: Floats, groups: None = None, seed: int = 0) -> Scores: ...
@overload
def score(
    labels: Sequence[Pattern], probabilities: Floats, groups: Groups, seed: int = 0
) -> GroupedScores: ...
def score(
    labels: Sequence[Pattern],
    probabilities: Floats,
    groups: Groups | None = None,
    seed: int = 0,
) -> Scores:
    """Compare probabilities ``[N, 5]`` with labels.

    Args:
        labels: one a map.
        probabilities: rows need not sum to one.
        groups: what the maps were drawn by (the head each comes from): maps of one head look alike, so the
            intervals resample heads, not maps (the cluster bootstrap, Field & Welsh 2007). None: no intervals.
        seed: of the bootstrap.

    Returns:
        With `groups`, their number and the intervals too.
    """
    truth = _indices(labels)
    statistics = _statistics(truth, probabilities)
    metrics, f1 = _metrics(statistics.sum(axis=0)[None])
    whole = {name: values[0] for name, values in metrics.items()}
    support = np.bincount(truth, minlength=_N)
    result: Scores = {
        "maps": len(truth),
        "accuracy": float(whole["accuracy"]),
        "majority_accuracy": float(support.max() / len(truth)),
        "macro_f1": float(whole["macro_f1"]),
        "log_loss": float(whole["log_loss"]),
        "brier": float(whole["brier"]),
        "ece": float(whole["ece"]),
        "f1": {pattern.value: known(one) for pattern, one in zip(PATTERNS, f1[0], strict=True)},
        "support": {pattern.value: int(support[i]) for i, pattern in enumerate(PATTERNS)},
        "confusion": statistics[:, : _N * _N].sum(axis=0).reshape(_N, _N).astype(int).tolist(),
    }
    if groups is None:
        return result
    summed = _by_group(statistics, groups)
    metrics, f1 = _metrics(_resample(len(summed), seed) @ summed)

    def bounds(values: Floats) -> Bounds:
        return _interval(values, len(summed))

    grouped: GroupedScores = {
        **result,
        "groups": len(summed),
        "ci95": {
            "accuracy": bounds(metrics["accuracy"]),
            "macro_f1": bounds(metrics["macro_f1"]),
            "log_loss": bounds(metrics["log_loss"]),
            "brier": bounds(metrics["brier"]),
            "ece": bounds(metrics["ece"]),
            "f1": {pattern.value: bounds(values) for pattern, values in zip(PATTERNS, f1.T, strict=True)},
        },
    }
    return grouped


def difference(
    labels: Sequence[Pattern],
    probabilities: Floats,
    others: Floats,
    groups: Groups,
    seed: int = 0,
) -> dict[str, Difference]:
    """Compare two classifiers on the same maps.

    Args:
        labels: one a map.
        probabilities: of the one, ``[N, 5]``.
        others: of the other, ``[N, 5]``.
        groups: as :func:`score`; both are resampled together, so that what both find hard cancels.
        seed: of the bootstrap.

    Returns:
        For ``accuracy``, ``macro_f1`` and ``log_loss``: ``difference`` (the one minus the other) and ``ci95``.
    """
    truth = _indices(labels)
    one, other = (_by_group(_statistics(truth, p), groups) for p in (probabilities, others))
    draws = np.vstack([np.ones(len(one)), _resample(len(one), seed)])  # the first is the data themselves
    (ours, _), (theirs, _) = _metrics(draws @ one), _metrics(draws @ other)
    result: dict[str, Difference] = {}
    for name in _METRICS[:3]:
        gap = ours[name] - theirs[name]
        result[name] = {"difference": float(gap[0]), "ci95": np.percentile(gap[1:], [2.5, 97.5]).tolist()}
    return result


def _interval(values: Floats, groups: int) -> Bounds:
    known = values[~np.isnan(values)]
    if groups < 2 or not len(known):
        return [None, None]
    low, high = np.percentile(known, [2.5, 97.5])
    return [float(low), float(high)]


def _indices(labels: Sequence[Pattern]) -> npt.NDArray[np.int64]:
    return np.array([PATTERNS.index(label) for label in labels], dtype=np.int64)


def _statistics(truth: npt.NDArray[np.int64], probabilities: Floats) -> Floats:
    """Return what every metric is a function of the sum of, one row a map.

    25 cells of the confusion matrix, log-loss, Brier score, then of each bin of confidence: confidence and hits.
    """
    sure = np.asarray(probabilities, dtype=np.float64)
    sure = sure / sure.sum(axis=1, keepdims=True)
    every = np.arange(len(truth))
    found, top = sure.argmax(axis=1), sure.max(axis=1)
    cells = np.zeros((len(truth), _N * _N))
    cells[every, truth * _N + found] = 1
    right = np.eye(_N)[truth]
    log_loss = -np.log(np.clip(sure[every, truth], np.finfo(np.float64).eps, 1))
    bins = np.zeros((len(truth), 2, _BINS))
    place = np.minimum((top * _BINS).astype(int), _BINS - 1)
    bins[every, 0, place], bins[every, 1, place] = top, found == truth
    return np.hstack(
        [
            cells,
            log_loss[:, None],
            ((sure - right) ** 2).sum(axis=1, keepdims=True),
            bins.reshape(len(truth), -1),
        ]
    )


def _metrics(sums: Floats) -> tuple[dict[Metric, Floats], Floats]:
    """Return every metric of each row of summed statistics ``[R, S]``, and the F1 of each pattern, ``[R, 5]``."""
    cells = sums[:, : _N * _N].reshape(-1, _N, _N)
    total = cells.sum(axis=(1, 2))
    hits = np.einsum("rii->ri", cells)
    occurring = cells.sum(axis=2) + cells.sum(axis=1)
    f1 = np.divide(2 * hits, occurring, out=np.full_like(hits, np.nan), where=occurring > 0)
    confidence, correct = np.moveaxis(sums[:, _N * _N + 2 :].reshape(-1, 2, _BINS), 1, 0)
    metrics: dict[Metric, Floats] = {
        "accuracy": hits.sum(axis=1) / total,
        "macro_f1": np.nansum(f1, axis=1) / (occurring > 0).sum(axis=1),
        "log_loss": sums[:, _N * _N] / total,
        "brier": sums[:, _N * _N + 1] / total,
        "ece": np.abs(confidence - correct).sum(axis=1) / total,
    }
    return metrics, f1


def _by_group(statistics: Floats, groups: Groups) -> Floats:
    codes = np.unique(np.asarray(groups, dtype=str), return_inverse=True)[1]
    summed = np.zeros((int(codes.max()) + 1, statistics.shape[1]))
    np.add.at(summed, codes, statistics)
    return summed


def _resample(groups: int, seed: int) -> Floats:
    """Return how often each group is drawn in each resample, ``[RESAMPLES, groups]``."""
    return (
        np.random.default_rng(seed).multinomial(groups, np.full(groups, 1 / groups), RESAMPLES).astype(float)
    )
