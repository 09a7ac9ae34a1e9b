"""From labels of single maps to the distribution of patterns, over heads and over examples."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from models.errors import InputError

from .taxonomy import INTERPRETABLE, PATTERNS

if TYPE_CHECKING:
    import pandas as pd

Labels = npt.NDArray[np.integer]
"""``[E, L, H]``: index into ``PATTERNS`` for every example, layer and head."""

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


def head_frame(kind: str, labels: Labels, probabilities: npt.NDArray[np.floating]) -> pd.DataFrame:
    """Describe every head over its examples, one row a head.

    Args:
        kind: ``raw`` or ``norm``; goes into the first column.
        labels: ``[E, L, H]``.
        probabilities: ``[E, L, H, 5]``, columns in Pattern order.

    Returns:
        ``kind, layer, head, n, count_<p>, mean_prob_<p>, dominant, dominant_share, entropy,
        self_agreement``. Of equally frequent patterns the earlier one is dominant. Entropy is that of the
        head's labels, in bits. Self-agreement is the chance that two different examples of the head have
        the same label, ``sum n_k (n_k - 1) / (N (N - 1))``; NaN for a single example.
    """
    import pandas as pd

    n, n_layers, n_heads = labels.shape
    number = counts(labels)  # [L, H, 5]
    shares = number / n
    with np.errstate(divide="ignore", invalid="ignore"):
        entropy = -np.where(shares > 0, shares * np.log2(shares), 0).sum(axis=-1) + 0.0
        agreement = (number * (number - 1)).sum(axis=-1) / np.float64(n * (n - 1))
    layers, heads = np.indices((n_layers, n_heads))
    dominant = number.argmax(axis=-1)  # the first of equals
    columns: dict[str, object] = {"kind": kind, "layer": layers.ravel(), "head": heads.ravel(), "n": n}
    for i, pattern in enumerate(PATTERNS):
        columns[f"count_{pattern}"] = number[..., i].ravel()
    means = probabilities.mean(axis=0, dtype=np.float64)
    for i, pattern in enumerate(PATTERNS):
        columns[f"mean_prob_{pattern}"] = means[..., i].ravel()
    columns["dominant"] = [PATTERNS[i].value for i in dominant.ravel()]
    columns["dominant_share"] = shares.max(axis=-1).ravel()
    columns["entropy"] = entropy.ravel()
    columns["self_agreement"] = agreement.ravel()
    return pd.DataFrame(columns)


def distribution(labels: npt.NDArray[np.integer]) -> dict[str, float]:
    """Return each pattern's share of all labels, in Pattern order; the shares sum to 1."""
    return {
        pattern.value: float(count) / labels.size
        for pattern, count in zip(PATTERNS, counts(labels.ravel()), strict=True)
    }


def interpretable_shares(labels: npt.NDArray[np.integer]) -> npt.NDArray[np.float64]:
    """Return each example's share of interpretable maps, ``[E]`` from ``[E, ...]``."""
    return (labels == PATTERNS.index(INTERPRETABLE)).reshape(len(labels), -1).mean(axis=1)


def bootstrap_ci95(values: npt.NDArray[np.floating], seed: int) -> tuple[float, float]:
    """Return the 95% percentile bootstrap interval of the mean over examples (Efron & Tibshirani 1993, ch. 13).

    Maps of one example are not independent, so examples are what is drawn. The values are sorted
    first: the interval depends on the seed and on which examples there are, not on their order.

    Args:
        values: ``[E]``, one per example.
        seed: of the resampling.

    Returns:
        ``(low, high)``; NaN for fewer than two examples.
    """
    from scipy.stats import bootstrap

    if len(values) < 2:
        return float("nan"), float("nan")
    interval = bootstrap(
        (np.sort(values),),
        np.mean,
        n_resamples=RESAMPLES,
        batch=max(1, 10_000_000 // len(values)),
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return float(interval.low), float(interval.high)
