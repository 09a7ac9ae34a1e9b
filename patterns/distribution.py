"""From labels of single maps to the distribution of patterns, over heads and over examples."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from models.common.errors import InputError

from .taxonomy import INTERPRETABLE, PATTERNS

if TYPE_CHECKING:
    import pandas as pd

Labels = npt.NDArray[np.integer]
"""``[E, L, H]``: index into ``PATTERNS`` for every example, layer and head; :data:`EMPTY` for a map without any."""

Floats = npt.NDArray[np.float64]

EMPTY = -1
"""The label of a map that is zero in every cell, as a head's whose weights are all zero: it has no pattern, and is
left out of every count, share and interval."""

COVERS = "which examples were drawn, alone"
"""What the interval of an interpretable ratio covers."""

FEW_EXAMPLES = 30
"""Below so many examples an interval over them comes with a warning."""

RESAMPLES = 9999


def check_seed(seed: int) -> None:
    """Refuse a seed that not every generator takes.

    Raises:
        InputError: it is negative or needs more than 32 bits.
    """
    if not 0 <= seed < 2**32:
        raise InputError(f"seed={seed}: give a whole number from 0 to {2**32 - 1}.")


def counts(labels: Labels) -> npt.NDArray[np.int64]:
    """Count each pattern over the first axis: ``[E, ...]`` labels give ``[..., 5]`` counts."""
    return np.stack([(labels == i).sum(axis=0) for i in range(len(PATTERNS))], axis=-1)


def by_pattern(labels: Iterable[str]) -> dict[str, int]:
    """Return how many of some labels are which pattern."""
    found = Counter(labels)
    return {pattern.value: found[pattern] for pattern in PATTERNS}


def _largest_share(number: Floats) -> Floats:
    return number.max(axis=-1) / number.sum(axis=-1)


def _entropy(number: Floats) -> Floats:
    shares = number / number.sum(axis=-1, keepdims=True)
    found: Floats = -np.where(shares == 0, 0, shares * np.log2(shares)).sum(axis=-1) + 0.0
    return found


def _agreement(number: Floats) -> Floats:
    n = number.sum(axis=-1)
    return (number * (number - 1)).sum(axis=-1) / (n * (n - 1))


@dataclass(frozen=True)
class Measurement:
    """A number that a head has, made of how often it shows each pattern."""

    of: Callable[[Floats], Floats]
    """From counts ``[..., 5]`` to numbers ``[...]``; divisions by zero are meant to be NaN."""
    title: str
    is_share: bool
    """Whether it is shown in percent."""


MEASUREMENTS: Mapping[str, Measurement] = {
    "dominant_share": Measurement(_largest_share, "share", True),
    "entropy": Measurement(_entropy, "entropy", False),
    "self_agreement": Measurement(_agreement, "agreement", True),
}
"""By the column of ``heads.parquet``; one more is an entry here.

``entropy`` is that of the head's labels, in bits. ``self_agreement`` is the chance that two different examples of the
head have the same label, ``sum n_k (n_k - 1) / (N (N - 1))``.
"""


def head_frame(kind: str, labels: Labels, probabilities: npt.NDArray[np.floating]) -> pd.DataFrame:
    """Describe every head over its examples, one row a head.

    Args:
        kind: ``raw`` or ``norm``; goes into the first column.
        labels: ``[E, L, H]``.
        probabilities: ``[E, L, H, 5]``, columns in Pattern order.

    Returns:
        ``kind, layer, head, n, count_<p>, mean_prob_<p>, dominant``, those of :data:`MEASUREMENTS`, ``count_empty``.
        Of equally frequent patterns the earlier one is dominant. ``count_empty`` maps are zero in every cell, and the
        ``n`` others are what all else is about; of a head without any, ``dominant`` is None and the numbers are NaN.
    """
    import pandas as pd

    _, n_layers, n_heads = labels.shape
    number = counts(labels)  # [L, H, 5]
    n = number.sum(axis=-1)  # [L, H]
    seen = labels != EMPTY
    with np.errstate(divide="ignore", invalid="ignore"):
        measured = {name: one.of(number.astype(np.float64)) for name, one in MEASUREMENTS.items()}
        sums = np.where(seen[..., None], probabilities, 0).sum(axis=0, dtype=np.float64)
        means = sums / n[..., None]
    layers, heads = np.indices((n_layers, n_heads))
    dominant = np.where(n == 0, EMPTY, number.argmax(axis=-1))  # the first of equals
    columns: dict[str, object] = {
        "kind": kind,
        "layer": layers.ravel(),
        "head": heads.ravel(),
        "n": n.ravel(),
    }
    for i, pattern in enumerate(PATTERNS):
        columns[f"count_{pattern}"] = number[..., i].ravel()
    for i, pattern in enumerate(PATTERNS):
        columns[f"mean_prob_{pattern}"] = means[..., i].ravel()
    columns["dominant"] = pattern_names(dominant)
    columns |= {name: values.ravel() for name, values in measured.items()}
    columns["count_empty"] = (~seen).sum(axis=0).ravel()
    return pd.DataFrame(columns)


def pattern_names(labels: npt.NDArray[np.integer]) -> npt.NDArray[np.object_]:
    """Return the names of labels of any shape, in one row; None where there is no pattern."""
    return np.array([*(p.value for p in PATTERNS), None], dtype=object)[labels.ravel()]


def distribution(labels: npt.NDArray[np.integer]) -> dict[str, float]:
    """Return each pattern's share of all maps that have one, in Pattern order; the shares sum to 1 (NaN: no map)."""
    number = counts(labels.ravel())
    total = int(number.sum())
    return {
        pattern.value: float(count) / total if total else float("nan")
        for pattern, count in zip(PATTERNS, number, strict=True)
    }


def interpretable_shares(labels: npt.NDArray[np.integer]) -> npt.NDArray[np.float64]:
    """Return each example's share of interpretable maps, ``[E]`` from ``[E, ...]``; NaN where none has a pattern."""
    with np.errstate(invalid="ignore"):
        return (labels == PATTERNS.index(INTERPRETABLE)).reshape(len(labels), -1).sum(axis=1) / seen_maps(
            labels
        )


def seen_maps(labels: npt.NDArray[np.integer]) -> npt.NDArray[np.int64]:
    """Return each example's number of maps that have a pattern, ``[E]`` from ``[E, ...]``."""
    return (labels != EMPTY).reshape(len(labels), -1).sum(axis=1)


def bootstrap_ci95(
    values: npt.NDArray[np.floating], seed: int, weights: npt.NDArray[np.integer] | None = None
) -> tuple[float, float]:
    """Return the 95% percentile bootstrap interval of the mean over examples (Efron & Tibshirani 1993, ch. 13).

    Maps of one example are not independent, so examples are what is drawn. The values are sorted
    first: the interval depends on the seed and on which examples there are, not on their order. Resampled means lie
    on both sides of the mean, so that the interval holds it (tested for skewed values too).

    Args:
        values: ``[E]``, one per example.
        seed: of the resampling.
        weights: ``[E]``, in maps, where examples do not have equally many; those of weight 0 are left out.

    Returns:
        ``(low, high)``; NaN for fewer than two examples.
    """
    from scipy.stats import bootstrap

    weighted = weights is not None and len(set(weights.tolist())) > 1
    if weighted:
        assert weights is not None
        values, weights = values[weights > 0], weights[weights > 0]
    if len(values) < 2:
        return float("nan"), float("nan")
    order = np.argsort(values, kind="stable")

    def mean(
        drawn: npt.NDArray[np.floating], *of: npt.NDArray[np.integer], axis: int
    ) -> npt.NDArray[np.floating]:
        return (drawn * of[0]).sum(axis=axis) / of[0].sum(axis=axis) if of else np.mean(drawn, axis=axis)

    interval = bootstrap(
        (values[order], weights[order]) if weighted and weights is not None else (values[order],),
        mean,
        paired=weighted,
        vectorized=True,
        n_resamples=RESAMPLES,
        batch=max(1, 10_000_000 // len(values)),
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return float(interval.low), float(interval.high)
