"""Shares of patterns corrected for what the classifier is known to confuse.

A classifier that takes one diagonal map of ten for a vertical one reports too many vertical maps. Its
confusion matrix on maps of heads it had not seen says how likely each prediction is given each pattern,
``C[t, p] = P(predicted p | pattern t)``, and the shares that fit the predictions best are the ones under which
they are most likely (adjusted counting, Forman 2008; by expectation maximisation, which stays within 0 and 1).
This holds as far as the classifier errs on the new model as it did on the annotated ones; :func:`misfit` says when
it visibly does not.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from .distribution import check_seed
from .taxonomy import PATTERNS

Floats = npt.NDArray[np.floating]

RESAMPLES = 1000
MISFIT = 0.01
"""Where corrected shares leave a larger share of the predictions unexplained, they are not shown."""
COVERS = "which examples were drawn, and the classifier's errors as the annotated maps show them"
"""What the intervals of corrected shares cover."""
_STEPS = 20_000  # of the estimate; a thousand is enough for the thousand resamples of its interval
_CLOSE = 1e-7
_N = len(PATTERNS)


def corrected_shares(
    counts: npt.NDArray[np.integer], confusions: npt.NDArray[np.integer], seed: int = 0
) -> tuple[Floats, Floats]:
    """Return corrected shares ``[5]`` and their 95% intervals ``[5, 2]``, in Pattern order.

    Args:
        counts: ``[E, 5]``: of each example, how many maps were given each pattern.
        confusions: ``[G, 5, 5]``: of each annotated head, its maps by label (rows) and out-of-fold prediction
            (columns); see :func:`patterns.classifier.scores.confusions`.
        seed: of the bootstrap, which draws examples and heads anew each time, so that the interval holds both
            what was sampled and what is known of the classifier's errors.

    The intervals are symmetric ones (Hall 1988: the shares, give or take what 95% of the resamples stay within),
    cut at 0 and 1. Unlike percentiles they hold the shares whatever the bias of the resamples, which is large where
    a share is pushed against 0. NaN for a single example or head, of which none can be drawn anew.
    """
    check_seed(seed)
    observed = counts.sum(axis=0)[None].astype(float)
    known = confusions.sum(axis=0)[None].astype(float)
    shares = most_likely(observed, known)[0]
    if min(len(counts), len(confusions)) < 2:
        return shares, np.full((_N, 2), np.nan)
    rng = np.random.default_rng(seed)
    examples = rng.multinomial(len(counts), np.full(len(counts), 1 / len(counts)), RESAMPLES)
    heads = rng.multinomial(len(confusions), np.full(len(confusions), 1 / len(confusions)), RESAMPLES)
    drawn = most_likely(
        (examples @ counts).astype(float), np.tensordot(heads, confusions, axes=1).astype(float), 1000
    )
    within = np.percentile(np.abs(drawn - shares), 95, axis=0)
    return shares, np.stack([shares - within, shares + within], axis=1).clip(0, 1)


def misfit(counts: npt.NDArray[np.integer], confusions: npt.NDArray[np.integer], shares: Floats) -> float:
    """Return which share of the predictions the corrected shares leave unexplained (total variation, 0 to 1).

    It is near 0 where shares within 0 and 1 explain what was predicted, and larger where the annotated maps, many of
    them chosen because they are hard, are confused more often than those of the model at hand can have been.

    Args:
        counts: as :func:`corrected_shares`.
        confusions: as :func:`corrected_shares`.
        shares: what that returned.
    """
    observed = counts.sum(axis=0) / counts.sum()
    return float(np.abs(observed - shares @ _given(confusions.sum(axis=0)[None].astype(float))[0]).sum() / 2)


def _given(confusion: Floats) -> Floats:
    """Return ``P(predicted | pattern) [R, 5, 5]`` of counts, one map added to each row; see :func:`most_likely`."""
    total = confusion.sum(axis=(1, 2), keepdims=True)
    overall = confusion.sum(axis=1, keepdims=True) / total
    right = np.trace(confusion, axis1=1, axis2=2)[:, None, None] / total
    filled = confusion + right * np.eye(_N) + (1 - right) * overall
    return filled / filled.sum(axis=2, keepdims=True)


def most_likely(predicted: Floats, confusion: Floats, steps: int = _STEPS) -> Floats:
    """Return the shares ``[R, 5]`` under which `predicted` counts ``[R, 5]`` are most likely.

    Args:
        predicted: maps given each pattern.
        confusion: ``[R, 5, 5]`` counts, rows labels, columns predictions. One map is added to each row, predicted
            right as often as all maps are and else as they are, so that a pattern without maps is possible.
        steps: of expectation maximisation at most.
    """
    given = _given(confusion)
    observed = predicted / predicted.sum(axis=1, keepdims=True)
    shares = np.full_like(observed, 1 / _N)
    for _ in range(steps):
        expected = np.einsum("rt,rtp->rp", shares, given)
        before, shares = shares, shares * np.einsum("rtp,rp->rt", given, observed / expected.clip(1e-12))
        if np.abs(shares - before).max() < _CLOSE:
            break
    return shares / shares.sum(axis=1, keepdims=True)
