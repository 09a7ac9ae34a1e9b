"""Are the maps of survivors heterogeneous more often than those of the other heads of the same layers?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from models.errors import InputError

Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]

_CELLS = 4_000_000  # of one block of permutations
_TIE = 1e-12


@dataclass(frozen=True)
class PermutationTest:
    """The result of :func:`difference_test`; None stands for what cannot be tested."""

    difference: float | None
    """Mean over survivors less mean over the others."""
    expected: float | None
    """What it would be on average if heads were interchangeable within each layer: what the layers explain."""
    p_layers: float | None
    """Two-sided, heads permuted within each layer; None where each layer has only survivors or none."""
    p_free: float | None
    """Two-sided, heads permuted over the whole model. It also answers to which layers survive."""
    permutations: int


def difference_test(
    survivors: Bools, shares: Floats, permutations: int = 9999, seed: int = 0
) -> PermutationTest:
    """Compare the mean share of surviving heads with that of the others by a permutation test.

    The statistic is the difference of the two means over heads, averaged over seeds. All seeds' labels are
    permuted alike, so that what seeds have in common, which heads and which shares, stays so. The p-values are
    two-sided, by the distance from the mean of all permutations, and ``(b + 1) / (m + 1)`` (Phipson & Smyth
    2010), never 0.

    Args:
        survivors: ``[S, L, H]``, or ``[L, H]`` for one set of survivors; seeds that keep all heads, or none,
            have nothing to compare and are left out.
        shares: of the same shape: each head's share of heterogeneous maps.
        permutations: how many to draw.
        seed: of the draw.

    Raises:
        InputError: no permutation.
    """
    if permutations < 1:
        raise InputError(f"--permutations {permutations}: give at least 1.")
    if survivors.ndim == 2:
        survivors, shares = survivors[None], shares[None]
    mixed = [kept.any() and not kept.all() for kept in survivors]
    survivors, shares = survivors[mixed], shares[mixed]
    if not len(survivors):
        return PermutationTest(None, None, None, None, permutations)
    _, L, H = survivors.shape
    kept, values = survivors.reshape(-1, L * H), shares.reshape(-1, L * H)
    weights = np.where(kept, 1 / kept.sum(axis=1, keepdims=True), -1 / (~kept).sum(axis=1, keepdims=True))
    gains = weights.T @ values / len(values)  # [N, N]: the label of head i put on head j
    observed = float(np.trace(gains))
    # The mean over all permutations within layers: every label of a layer on every head of it, 1 / H each.
    blocks = gains.reshape(L, H, L, H)
    expected = float(sum(blocks[layer, :, layer].sum() for layer in range(L)) / H)
    testable = bool((survivors.any(axis=2) & ~survivors.all(axis=2)).any())
    rng = np.random.default_rng(seed)
    p_layers = _p_value(gains, expected, (L, H), permutations, rng) if testable else None
    p_free = _p_value(gains, float(gains.sum() / (L * H)), (1, L * H), permutations, rng)
    return PermutationTest(observed, expected, p_layers, p_free, permutations)


def _p_value(
    gains: Floats, mean: float, shape: tuple[int, int], permutations: int, rng: np.random.Generator
) -> float:
    """Permute within the rows of `shape`, and count how often the statistic is at least as far from its mean."""
    heads = np.arange(len(gains))
    distance = abs(float(np.trace(gains)) - mean)
    as_far = done = 0
    while done < permutations:
        block = min(permutations - done, max(1, _CELLS // len(heads)))
        places = np.broadcast_to(heads.reshape(shape), (block, *shape))
        permuted = rng.permuted(places, axis=-1).reshape(block, -1)
        statistics = gains[permuted, heads].sum(axis=1)
        as_far += int((np.abs(statistics - mean) >= distance - _TIE).sum())
        done += block
    return (as_far + 1) / (permutations + 1)


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Return the p-values adjusted by Holm (1979) for how many there are; those that are None stay so."""
    from statsmodels.stats.multitest import multipletests

    known = [p for p in p_values if p is not None]
    adjusted = iter(multipletests(known, method="holm")[1] if known else ())
    return [None if p is None else float(next(adjusted)) for p in p_values]


def paired_ci95(
    sides: Sequence[Floats], seed: int = 0, resamples: int = 9999
) -> tuple[list[tuple[float, float]], tuple[float, float]]:
    """Return 95% intervals of the mean of each side, and of the first less the second.

    Seeds and examples are resampled together, each with replacement and independently of each other (the
    pigeonhole bootstrap, Owen 2007); both sides get the same resample. Of one seed, only examples are.

    Args:
        sides: each ``[S, E]``: a value for every seed and example.
        seed: of the resampling.
        resamples: how many.

    Returns:
        The intervals, and that of the difference (NaN for a single side); all NaN for fewer than two examples.
    """
    nan = (float("nan"), float("nan"))
    S, E = sides[0].shape
    if E < 2:
        return [nan] * len(sides), nan
    rng = np.random.default_rng(seed)
    of_seeds = rng.multinomial(S, np.full(S, 1 / S), size=resamples) / S
    of_examples = rng.multinomial(E, np.full(E, 1 / E), size=resamples) / E
    means = [((of_seeds @ side) * of_examples).sum(axis=1) for side in sides]

    def bounds(values: Floats) -> tuple[float, float]:
        low, high = np.percentile(values, [2.5, 97.5])
        return float(low), float(high)

    return [bounds(values) for values in means], bounds(means[0] - means[1]) if len(means) > 1 else nan
