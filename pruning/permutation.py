"""Tests of one difference, each with the interval that belongs to it: of heads within their layers, and of pairs.

An interval is the test turned round (Garthwaite 1996; Ernst 2004): all differences that the test would not reject. So
interval, p-value and verdict cannot contradict each other.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from models.common.errors import InputError

Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]

LEVEL = 0.05
HIGHER, LOWER, NO_DIFFERENCE, UNTESTABLE = "higher", "lower", "no difference shown", "not testable"
"""What a comparison can come to."""

_CELLS = 4_000_000  # of one block of permutations
_TIE = 1e-12
_MOST_EXACT = 16  # pairs; of more, a sample of the 2**n changes of sign is drawn
_SAMPLED = 99_999


@dataclass(frozen=True, kw_only=True)
class ShiftTest:
    """A difference, its two-sided test and its interval; None stands for what cannot be tested."""

    difference: float | None
    """What is tested."""
    p_value: float | None
    smallest_p: float | None
    """What the test could have given at best, by how many arrangements there are and how many were drawn."""
    permutations: int
    """How many were looked at, beside the one that was found."""
    ends: tuple[Floats, Floats] | None = field(default=None, compare=False, repr=False)
    """Of each permutation, the lowest and highest difference for which it is as far off as what was found."""

    def interval(self, level: float = LEVEL, span: tuple[float, float] = (-1.0, 1.0)) -> tuple[float, float]:
        """Return the interval of `difference` that belongs to the test at a level: the values that it would not reject.

        At .05 it is the 95% interval. 0 lies within if and only if the p-value is above the level. It stays within
        `span`, the lowest and highest difference that there can be, and is all of it where the test can reject
        nothing at that level. NaN if there is nothing to test.
        """
        if self.ends is None:
            return math.nan, math.nan
        # So many of the drawn must be as far off for a difference not to be rejected.
        needed = math.floor(level * (self.permutations + 1) + _TIE)
        if needed < 1:
            return span
        low = float(np.partition(self.ends[0], needed - 1)[needed - 1])
        high = -float(np.partition(-self.ends[1], needed - 1)[needed - 1])
        return max(low, span[0]), min(high, span[1])

    @property
    def testable(self) -> bool:
        """Whether the test could have come out below the level."""
        return self.smallest_p is not None and self.smallest_p <= LEVEL


@dataclass(frozen=True, kw_only=True)
class PermutationTest(ShiftTest):
    """The result of :func:`difference_test`: `difference` is None where each layer has only survivors or none."""

    total: float | None
    """Mean over survivors less mean over the others."""
    by_layers: float | None
    """What that would be on average if heads were interchangeable within each layer: what the layers explain."""


def difference_test(
    survivors: Bools, shares: Floats, permutations: int = 9999, seed: int = 0
) -> PermutationTest:
    """Compare the mean share of surviving heads with that of the others of their layers by a permutation test.

    The statistic is the difference of the two means over heads, averaged over seeds, less its mean over all
    permutations within layers. All seeds' labels are permuted alike, so that what seeds have in common, which heads
    and which shares, stays so. The p-value is two-sided and ``(b + 1) / (m + 1)`` (Phipson & Smyth 2010), never 0.

    Its interval is that of the same test (test inversion: Garthwaite 1996; Ernst 2004): all differences that it would
    not reject if survivors had each so much more than the other heads of their layers. It therefore holds the
    difference found, agrees with the p-value, and covers which heads survive, the others being interchangeable
    with them, for these examples and models.

    Args:
        survivors: ``[S, L, H]``, or ``[L, H]`` for one set of survivors; seeds that keep all heads, or none,
            have nothing to compare and are left out.
        shares: of the same shape: each head's share of heterogeneous maps; NaN leaves the head out, for all seeds.
        permutations: how many to draw.
        seed: of the draw.

    Raises:
        InputError: no permutation.
    """
    if permutations < 1:
        raise InputError(f"--permutations {permutations}: give at least 1.")
    if survivors.ndim == 2:
        survivors, shares = survivors[None], shares[None]
    there = np.isfinite(shares).all(axis=0)  # [L, H]
    mixed = [kept[there].any() and not kept[there].all() for kept in survivors]
    survivors, shares = survivors[mixed], shares[mixed]
    if not len(survivors):
        return _nothing(permutations)
    places = np.flatnonzero(there)
    layer_of = places // survivors.shape[2]
    layers = [np.flatnonzero(layer_of == layer) for layer in np.unique(layer_of)]
    kept: Bools = survivors.reshape(len(survivors), -1)[:, places]
    values: Floats = shares.reshape(len(shares), -1)[:, places]
    weights = np.where(kept, 1 / kept.sum(axis=1, keepdims=True), -1 / (~kept).sum(axis=1, keepdims=True))
    total = float((weights * values).sum() / len(values))
    # gains [N, N]: the label of head i put on head j. Values less their layer's mean have the mean 0 over permutations.
    gains, unit = (weights.T @ _centred(of, layers) / len(values) for of in (values, kept.astype(float)))
    observed, change = float(np.trace(gains)), float(np.trace(unit))
    if change <= _TIE:  # no layer has survivors and others
        return replace(_nothing(permutations), total=total, by_layers=total)
    as_far = 0
    bounds = []
    for permuted in _permutations(layers, len(places), permutations, np.random.default_rng(seed)):
        drawn, moved = (of[permuted, np.arange(len(places))].sum(axis=1) for of in (gains, unit))
        as_far += int((np.abs(drawn) >= abs(observed) - _TIE).sum())
        bounds.append(_not_rejected(observed, change, drawn, moved))
    below, above = np.concatenate(bounds, axis=1)
    arrangements = math.prod(
        math.comb(len(layer), int(one)) for one, layer in ((kept[0][of].sum(), of) for of in layers)
    )
    return PermutationTest(
        total=total,
        by_layers=total - observed,
        difference=observed,
        p_value=(as_far + 1) / (permutations + 1),
        smallest_p=max(1 / (permutations + 1), 1 / arrangements if (kept == kept[0]).all() else 0.0),
        permutations=permutations,
        ends=(below, above),
    )


def _nothing(permutations: int) -> PermutationTest:
    return PermutationTest(
        total=None, by_layers=None, difference=None, p_value=None, smallest_p=None, permutations=permutations
    )


def sign_flip_test(
    differences: npt.NDArray[np.floating], weights: npt.NDArray[np.floating] | None = None, seed: int = 0
) -> ShiftTest:
    """Test whether the mean of paired differences is 0: under that hypothesis each sign is as likely as the other.

    All ways to change signs are looked at, of more than 16 pairs a random sample of them. The interval is that of the
    same test: all differences that it would not reject if each pair differed by so much more.

    Args:
        differences: one a pair.
        weights: of the mean, of the same shape, adding up to 1; equal if None.
        seed: of the sample.

    Raises:
        InputError: no pair.
    """
    n = len(differences)
    if not n:
        raise InputError("A test of pairs takes at least one pair.")
    of_mean: Floats = np.full(n, 1 / n) if weights is None else weights.astype(float)
    weighted: Floats = of_mean * differences.astype(float)
    observed = float(weighted.sum())
    exact = n <= _MOST_EXACT
    number = 2**n - 1 if exact else _SAMPLED  # beside what was found
    rng = np.random.default_rng(seed)
    as_far = 0
    bounds = []
    for start in range(0, number, block := max(1, _CELLS // n)):
        size = min(block, number - start)
        flipped = (
            (np.arange(start + 1, start + 1 + size)[:, None] >> np.arange(n)) & 1
            if exact
            else rng.integers(2, size=(size, n))
        )
        signs = 1.0 - 2.0 * flipped
        drawn, moved = signs @ weighted, signs @ of_mean
        as_far += int((np.abs(drawn) >= abs(observed) - _TIE).sum())
        bounds.append(_not_rejected(observed, 1.0, drawn, moved))
    below, above = np.concatenate(bounds, axis=1)
    return ShiftTest(
        difference=observed,
        p_value=(as_far + 1) / (number + 1),
        smallest_p=max(2.0 ** (1 - n), 1 / (number + 1)),
        permutations=number,
        ends=(below, above),
    )


def _centred(values: Floats, layers: Sequence[npt.NDArray[np.intp]]) -> Floats:
    """Values ``[S, N]`` less the mean of their layer."""
    centred = values.astype(float)
    for layer in layers:
        centred[:, layer] -= centred[:, layer].mean(axis=1, keepdims=True)
    return centred


def _permutations(
    layers: Sequence[npt.NDArray[np.intp]], heads: int, number: int, rng: np.random.Generator
) -> Iterator[npt.NDArray[np.intp]]:
    """Yield blocks ``[B, heads]`` of permutations within layers."""
    for start in range(0, number, block := max(1, _CELLS // heads)):
        size = min(block, number - start)
        permuted = np.empty((size, heads), dtype=np.intp)
        for layer in layers:
            permuted[:, layer] = rng.permuted(np.broadcast_to(layer, (size, len(layer))), axis=1)
        yield permuted


def _not_rejected(observed: float, change: float, drawn: Floats, moved: Floats) -> Floats:
    """Return ``[2, B]``, lowest and highest difference for which each permutation is as far from 0 as what was found.

    Survivors having a difference d more than the others of their layers, d taken off leaves ``observed - d`` of what
    was found and ``drawn - d * moved / change`` of a permutation: both are lines in d, and the second is at least as
    far from 0 as the first between two values of d, on either side of ``observed``.
    """
    slope = (moved / change).clip(-1, 1)
    # What is as far off at 0 but for rounding is so here too, or interval and p-value could say different things.
    nearer = np.stack([observed - drawn, observed + drawn])
    nearer[np.abs(nearer) <= _TIE] = 0.0
    with np.errstate(divide="ignore", invalid="ignore"):
        ends = nearer / np.stack([1 - slope, 1 + slope])
    # A permutation that moves nothing is as far whatever d is.
    ends[0][slope >= 1 - _TIE], ends[1][slope <= -1 + _TIE] = -np.inf, np.inf
    low, high = ends.min(axis=0), ends.max(axis=0)
    high[slope >= 1 - _TIE], low[slope <= -1 + _TIE] = np.inf, -np.inf
    return np.stack([np.minimum(low, observed), np.maximum(high, observed)])


def verdict(difference: float | None, p_value: float | None, smallest_p: float | None) -> str:
    """Return what a comparison comes to, by its (adjusted) p-value: one of the words at the top."""
    if difference is None or p_value is None or (smallest_p or 0.0) > LEVEL:
        return UNTESTABLE
    if p_value > LEVEL:
        return NO_DIFFERENCE
    return HIGHER if difference > 0 else LOWER


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Return the p-values adjusted by Holm (1979) for how many there are; those that are None stay so."""
    from statsmodels.stats.multitest import multipletests

    known = [p for p in p_values if p is not None]
    found: Any = multipletests(known, method="holm")[1] if known else ()
    adjusted = iter(found)
    return [None if p is None else float(next(adjusted)) for p in p_values]


def holm_at_best(smallest: Sequence[float | None]) -> list[float | None]:
    """Return the smallest adjusted p-values that are possible, from the smallest of the tests; None: not testable."""
    return holm([None if p is None or p > LEVEL else p for p in smallest])


def holm_levels(p_values: Sequence[float | None]) -> list[float]:
    """Return for each p-value the level that Holm (1979) compares it with; at the first that is above its, he stops.

    An interval at this level (see :meth:`PermutationTest.interval`) therefore leaves 0 out if and only if the adjusted
    p-value is at most .05.
    """
    order = sorted((p, i) for i, p in enumerate(p_values) if p is not None)
    levels, stopped = [LEVEL] * len(p_values), None
    for place, (p, i) in enumerate(order):
        levels[i] = LEVEL / (len(order) - place) if stopped is None else stopped
        if p > levels[i] and stopped is None:
            stopped = levels[i]
    return levels


def crossed_ci95(
    side: Floats, weights: Floats | None = None, seed: int = 0, resamples: int = 9999
) -> tuple[float, float]:
    """Return the 95% interval of the mean of ``[S, E]`` values, one for every seed and example.

    Seeds and examples are resampled together, each with replacement and independently of each other (the
    pigeonhole bootstrap, Owen 2007). Of one seed, only examples are. The same seed gives every side the same resamples.

    Args:
        side: the values; whatever stands where the weight is 0 does not matter.
        weights: ``[S, E]``, of the mean: how many maps a value is of; equal if None.
        seed: of the resampling.
        resamples: how many.

    Returns:
        ``(low, high)``; NaN for fewer than two examples.
    """
    S, E = side.shape
    if E < 2:
        return float("nan"), float("nan")
    rng = np.random.default_rng(seed)
    of_seeds = rng.multinomial(S, np.full(S, 1 / S), size=resamples) / S
    of_examples = rng.multinomial(E, np.full(E, 1 / E), size=resamples) / E
    weights = np.ones(side.shape) if weights is None else weights
    sums, counts = (
        ((of_seeds @ of) * of_examples).sum(axis=1)
        for of in (np.where(weights > 0, side, 0.0) * weights, weights)
    )
    with np.errstate(invalid="ignore"):
        low, high = np.nanpercentile(sums / counts, [2.5, 97.5])
    return float(low), float(high)
