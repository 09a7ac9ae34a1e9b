"""How far the drop of a group would vary with other inputs: an interval over the rows that are scored."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from models.tasks import metrics

if TYPE_CHECKING:
    from models.evaluation import Examples

Floats = npt.NDArray[np.float64]
Ends = tuple[float, float] | tuple[None, None]
"""Of an interval; None where there is none."""

INPUTS = (
    "The 95% interval of a drop is over inputs: a percentile bootstrap over the rows that are scored, paired, so that "
    "both scores of a resample are computed anew from the same rows. It covers which inputs were drawn, for this "
    "model, these heads and what they put out while they are closed; it covers neither which heads are in the group, "
    "which is what the random sets are for, nor how many groups there are. There is none where every resample has the "
    "same drop (as where no row's answer changes), or where more than 5% of them have no score."
)

_RESAMPLES = 1999
_DEFINED = 0.95  # the least share of resamples that have a score
_CELLS = 1_000_000  # rows of resamples at once
_SAME = 1e-12  # a spread that is rounding


def drop_intervals(
    examples: Examples,
    metric: str,
    full: npt.NDArray[np.float32],
    closed: Sequence[npt.NDArray[np.float32]],
    seed: int,
    resamples: int = _RESAMPLES,
) -> list[Ends]:
    """Return the 95% percentile bootstrap interval over inputs (Efron & Tibshirani 1993, ch. 13) of each drop.

    All of them have the same resamples. A metric that has no value on a resample, as the area under the curve where
    all rows have one label, leaves it out.

    Args:
        examples: that were answered.
        metric: the score's name.
        full: ``[N, C]``, outputs with nothing closed.
        closed: ``[N, C]`` with each group closed.
        seed: of the resampling.
        resamples: how many.
    """
    number = len(examples)
    if number < 2 or not len(closed):
        return [(None, None)] * len(closed)
    rng = np.random.default_rng(seed)
    found = np.empty((len(closed), resamples))
    at_once = max(1, _CELLS // number)
    for start in range(0, resamples, at_once):
        part = slice(start, min(start + at_once, resamples))
        rows = rng.integers(number, size=(part.stop - start, number))

        def scores(outputs: npt.NDArray[np.float32], rows: npt.NDArray[np.integer] = rows) -> Floats:
            return metrics.resampled(
                examples.task, metric, outputs, examples.targets, rows, classes=examples.classes
            )

        found[:, part] = scores(full) - np.stack([scores(outputs) for outputs in closed])
    return [_ends(drops) for drops in found]


def _ends(drops: Floats) -> Ends:
    defined = drops[np.isfinite(drops)]
    if len(defined) < _DEFINED * len(drops) or np.ptp(defined) < _SAME:
        return None, None
    low, high = np.percentile(defined, [2.5, 97.5])
    return float(low), float(high)
