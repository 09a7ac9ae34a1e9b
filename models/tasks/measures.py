"""Scores of a model's outputs: GLUE's own, and any of scikit-learn's scorers by its name."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from difflib import get_close_matches
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from ..common.errors import InputError, one_line

Floats = npt.NDArray[np.float64]

CONSTANT = 1e-6  # relative spread: float32 noise of a model that says the same to everything


def accuracy(predictions: npt.NDArray[Any], targets: npt.NDArray[Any]) -> float:
    """Return the share of right predictions."""
    return float(np.mean(predictions == targets))


def f1(predictions: npt.NDArray[Any], targets: npt.NDArray[Any]) -> float:
    """Return F1 of the second label, 0 where it is neither there nor said."""
    from sklearn.metrics import f1_score

    return float(f1_score(targets == 1, predictions == 1, zero_division=0.0))  # pyright: ignore[reportArgumentType]


def matthews(predictions: npt.NDArray[Any], targets: npt.NDArray[Any]) -> float:
    """Return Matthews' coefficient; 0 where nothing is told apart."""
    from sklearn.metrics import matthews_corrcoef

    constant = len(np.unique(predictions)) == 1 or len(np.unique(targets)) == 1
    return 0.0 if constant else float(matthews_corrcoef(targets, predictions))


def pearson(predictions: npt.NDArray[Any], targets: npt.NDArray[Any]) -> float:
    """Return Pearson's coefficient; 0 where nothing is told apart."""
    from scipy.stats import pearsonr

    if _constant(predictions, targets):
        return 0.0
    found: Any = pearsonr(predictions, targets)
    return float(found.statistic)


def spearman(predictions: npt.NDArray[Any], targets: npt.NDArray[Any]) -> float:
    """Return Spearman's coefficient; 0 where nothing is told apart."""
    from scipy.stats import spearmanr

    if _constant(predictions, targets):
        return 0.0
    found: Any = spearmanr(predictions, targets)
    return float(found.statistic)


def pearson_spearman(predictions: npt.NDArray[Any], targets: npt.NDArray[Any]) -> float:
    """Return the mean of the two, which GLUE takes for STS-B."""
    return (pearson(predictions, targets) + spearman(predictions, targets)) / 2


OF_CLASSES: dict[str, Callable[[npt.NDArray[Any], npt.NDArray[Any]], float]] = {
    "accuracy": accuracy,
    "f1": f1,
    "matthews": matthews,
}
"""By name, of predictions and targets ``[N]``, places in the order of the labels."""
OF_NUMBERS: dict[str, Callable[[npt.NDArray[Any], npt.NDArray[Any]], float]] = {
    "pearson": pearson,
    "spearman": spearman,
    "pearson_spearman": pearson_spearman,
}
"""By name, of predictions and targets ``[N]``, numbers."""

_COEFFICIENTS = (
    "matthews",
    "matthews_corrcoef",
    "adjusted_rand_score",
    "adjusted_mutual_info_score",
    *OF_NUMBERS,
)
_UP_TO_ONE = ("r2", "explained_variance", "d2_absolute_error_score", "d2_brier_score", "d2_log_loss_score")
_FROM_NOTHING = ("mutual_info_score", "positive_likelihood_ratio")


def range_of(metric: str) -> tuple[float, float]:
    """Return the lowest and highest value that a score can have: coefficients begin at -1, shares at 0."""
    if metric in _COEFFICIENTS:
        return -1.0, 1.0
    if metric in _UP_TO_ONE:
        return -math.inf, 1.0
    if metric.startswith("neg_"):  # scikit-learn's name of what less is better of
        return -math.inf, 0.0
    if metric in _FROM_NOTHING:
        return 0.0, math.inf
    return 0.0, 1.0


def measure(
    metric: str,
    predictions: npt.NDArray[Any],
    targets: npt.NDArray[Any],
    outputs: Floats | None = None,
) -> float:
    """Return one score.

    Args:
        metric: its name.
        predictions: ``[N]``, places in the order of the labels, or numbers.
        targets: ``[N]``, the same.
        outputs: of classes ``[N, C]``, logits in the order of the labels; None of a regression.

    Raises:
        ValueError: scikit-learn cannot score this: naming why.
    """
    own = OF_NUMBERS if outputs is None else OF_CLASSES
    if metric in own:
        return own[metric](predictions, targets)
    return _by_scorer(metric, predictions, targets, outputs)


def _by_scorer(
    metric: str, predictions: npt.NDArray[Any], targets: npt.NDArray[Any], outputs: Floats | None
) -> float:
    """Have one of scikit-learn's scorers look at outputs, through a model that only says them."""
    from scipy.special import softmax
    from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
    from sklearn.metrics import get_scorer

    class Said(BaseEstimator):
        def __sklearn_is_fitted__(self) -> bool:
            return True

        def fit(self, X: Any, y: Any) -> Said:  # scikit-learn asks whether there is one
            return self

        def predict(self, X: Any) -> Any:
            return predictions

    class Classes(ClassifierMixin, Said):
        classes_ = np.arange(0 if outputs is None else outputs.shape[1])

        def predict_proba(self, X: Any) -> Any:
            return softmax(outputs, axis=1)

    class Numbers(RegressorMixin, Said):
        pass

    said = Numbers() if outputs is None else Classes()
    found = float(get_scorer(metric)(said, np.zeros((len(targets), 1)), targets))
    if math.isnan(found):
        raise ValueError("it is not defined, as of labels that are all the same")
    return found


def _constant(*several: npt.NDArray[Any]) -> bool:
    return any(np.ptp(values) <= CONSTANT * np.abs(values).max() for values in several)


@cache
def check_metric(metric: str, n_labels: int, where: str) -> None:
    """Refuse a metric that is none, or is not for so many labels (0: a regression).

    Raises:
        InputError: naming `where`, and the metrics that are near or why it does not fit.
    """
    from sklearn.metrics import get_scorer_names

    known = [*(OF_CLASSES if n_labels else OF_NUMBERS), *get_scorer_names()]
    kind = f"{n_labels} classes" if n_labels else "a regression"
    if metric not in known:
        near = get_close_matches(metric, known, 3, 0.0)
        raise InputError(
            f"{where}: metric = {one_line(repr(metric), 60)} is none for {kind}; the nearest are {', '.join(near)}."
        )
    if metric == "f1" and n_labels > 2:
        why = "it is of one label against the other; of several there are f1_macro and f1_weighted"
    else:
        why = _unfit(metric, n_labels)
    # What can score numbers takes classes for numbers, too.
    if not why and n_labels and metric not in OF_CLASSES and not _unfit(metric, 0):
        why = "it is of numbers"
    if why:
        raise InputError(f"{where}: metric = {metric!r} is not for {kind}: {why}.")


def _unfit(metric: str, n_labels: int) -> str:
    """Return why perfect answers cannot be scored, or nothing."""
    targets: npt.NDArray[Any] = np.tile(np.arange(n_labels or 4), 3)
    outputs = np.eye(n_labels)[targets] * 9 if n_labels else None
    if not n_labels:
        targets = targets + 0.25
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)
            value = measure(metric, targets, targets, outputs)
    except Exception as error:  # whatever scikit-learn says
        return one_line(str(error), 160).rstrip(".") or type(error).__name__
    return "" if math.isfinite(value) else f"perfect answers score {value}"
