"""How alike the subnetworks of several seeds are, and how alike they would be by chance.

Every function takes subnetworks of one model, one a seed, and ``what``: ``"heads"`` or ``"mlps"``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from models.common.errors import InputError
from models.subnetwork import Subnetwork

Bools = npt.NDArray[np.bool_]
What = Literal["heads", "mlps"]
WHAT: tuple[What, ...] = ("heads", "mlps")
"""What is kept or pruned."""


@dataclass(frozen=True)
class Null:
    """What random subnetworks have in common with those that they stand for: how many are kept of each group."""

    groups: Callable[[Bools], Bools]
    """From masks ``[S, L]`` or ``[S, L, H]`` to ``[S, G, N]``: G groups of N heads or MLPs."""
    words: str

    def drawn(self, masks: Bools, rng: np.random.Generator) -> Bools:
        """Return random masks like these in shape, ``[S, L]`` or ``[S, L, H]``."""
        return rng.permuted(self.groups(masks), axis=-1).reshape(masks.shape)

    def draws(self, masks: Bools) -> bool:
        """Whether there is anything to draw: of the MLPs of a layer, which has one, there is not."""
        return self.groups(masks).shape[-1] > 1


NULLS: Mapping[str, Null] = {
    "size": Null(lambda masks: masks.reshape(len(masks), 1, -1), "as many at random"),
    "size-per-layer": Null(
        lambda masks: masks.reshape(len(masks), masks.shape[1], -1), "as many in every layer"
    ),
}
"""By name, the one that is harder to beat last: as many in every layer also explains seeds that agree on layers only.
One more is an entry here."""
HARDEST = list(NULLS)[-1]

_TIE = 1e-12


class CochranQ(NamedTuple):
    """The result of :func:`cochran_q`."""

    statistic: float
    p_value: float
    df: int


class Shared(NamedTuple):
    """The result of :func:`shared_heads`."""

    mean: float
    std: float
    """Over the pairs, with one degree of freedom taken off; NaN for one pair."""


@dataclass(frozen=True)
class Chance:
    """A statistic beside what it is for random subnetworks of the same size."""

    observed: float
    mean: float
    """Over the random draws."""
    ci95: tuple[float, float]
    """The middle 95% of the random draws."""
    p_value: float
    """Share of draws at least as large, ``(b + 1) / (m + 1)`` (Phipson & Smyth 2010); NaN if the statistic is."""
    null: str
    draws: int


def survival_mean(subnetworks: Sequence[Subnetwork], what: str = "heads") -> npt.NDArray[np.float64]:
    """Return the share of seeds under which each head ``[L, H]`` (or MLP ``[L]``) is kept."""
    return stacked(subnetworks, what).mean(axis=0)


def survival_std(subnetworks: Sequence[Subnetwork], what: str = "heads") -> npt.NDArray[np.float64]:
    """Return the standard deviation over seeds, one degree of freedom taken off.

    It says no more than the mean does: over five seeds it is 0 for a head kept 0 or 5 times, 0.447 for 1 or 4,
    0.548 for 2 or 3.

    Raises:
        InputError: fewer than two subnetworks.
    """
    return stacked(subnetworks, what, least=2).std(axis=0, ddof=1)


def fleiss_kappa(subnetworks: Sequence[Subnetwork], what: str = "heads") -> float:
    """Return Fleiss' kappa (1971) with heads as subjects and seeds as raters who say kept or pruned.

    It is corrected for how many are kept over all seeds, not for how many in each layer. NaN if everything is
    kept, or nothing: then there is no disagreement to correct for.

    Raises:
        InputError: fewer than two subnetworks.
    """
    from statsmodels.stats.inter_rater import fleiss_kappa as of_table

    masks = stacked(subnetworks, what, least=2)
    if masks.all() or not masks.any():
        return float("nan")
    kept = masks.reshape(len(masks), -1).sum(axis=0)
    return float(of_table(np.stack([kept, len(masks) - kept], axis=1), method="fleiss"))


def cochran_q(subnetworks: Sequence[Subnetwork], what: str = "heads") -> CochranQ:
    """Return Cochran's Q (1950) with heads as blocks and seeds as treatments.

    It tests whether the seeds keep the same **number** of heads, not whether they keep the same heads: seeds that
    keep as many but entirely different ones have Q = 0. NaN if no head is kept under some seeds and pruned under
    others.

    Raises:
        InputError: fewer than two subnetworks.
    """
    from statsmodels.stats.contingency_tables import cochrans_q

    masks = stacked(subnetworks, what, least=2)
    flat = masks.reshape(len(masks), -1)
    if (flat == flat[0]).all():
        return CochranQ(float("nan"), float("nan"), len(masks) - 1)
    found = cochrans_q(flat.T.astype(int))
    return CochranQ(float(found.statistic), float(found.pvalue), int(found.df))


def shared_heads(
    a: Sequence[Subnetwork], b: Sequence[Subnetwork], pairs: str = "same-seed", what: str = "heads"
) -> Shared:
    """Return how many heads (or MLPs) the subnetworks of two tasks have in common.

    Args:
        a: of one task, one a seed.
        b: of the other, the same seeds in the same order.
        pairs: ``same-seed`` compares the two of each seed, as published; ``all`` every one with every other.
        what: ``heads`` or ``mlps``.

    Raises:
        InputError: unknown pairs, lists of different length for same-seed pairs, or models of different sizes.
    """
    first, second = stacked(a, what), stacked(b, what)
    if first.shape[1:] != second.shape[1:]:
        raise InputError(f"Subnetworks of different models: {what} {first.shape[1:]} and {second.shape[1:]}.")
    one, other = (kept.reshape(len(kept), -1).astype(int) for kept in (first, second))
    if pairs == "same-seed":
        if len(one) != len(other):
            raise InputError(
                f"Same-seed pairs need one subnetwork a seed for both tasks; there are {len(one)} and {len(other)}."
            )
        common = (one * other).sum(axis=1)
    elif pairs == "all":
        common = (one @ other.T).ravel()
    else:
        raise InputError(f"pairs={pairs!r}: give same-seed or all.")
    return Shared(float(common.mean()), float(common.std(ddof=1)) if len(common) > 1 else float("nan"))


def chance_level(
    statistic: Callable[[list[list[Subnetwork]]], float],
    tasks: Sequence[Sequence[Subnetwork]],
    null: str = "size",
    draws: int = 1000,
    seed: int = 0,
) -> Chance:
    """Return a statistic beside its values for random subnetworks of the same sizes.

    Args:
        statistic: of lists of subnetworks, one list a task, e.g.
            ``lambda tasks: super_survivors(tasks[0]).n_heads``.
        tasks: the subnetworks, one list a task.
        null: one of :data:`NULLS`.
        draws: number of random sets; each subnetwork is drawn anew and alone.
        seed: of the draws.

    Raises:
        InputError: unknown null, or no draws.
    """
    if null not in NULLS:
        raise InputError(f"null={null!r}: give {' or '.join(NULLS)}.")
    if draws < 1:
        raise InputError(f"draws={draws}: give at least 1.")
    rng = np.random.default_rng(seed)
    observed = float(statistic([list(task) for task in tasks]))
    values = np.array(
        [statistic([[randomised(one, rng, null) for one in task] for task in tasks]) for _ in range(draws)],
        dtype=float,
    )
    return beside_chance(observed, values, null)


def beside_chance(observed: float, values: npt.NDArray[np.floating], null: str) -> Chance:
    """Return a statistic beside its values ``[D]`` for random subnetworks; NaN among those are left out."""
    known = values[~np.isnan(values)]
    if np.isnan(observed) or not len(known):
        nan = float("nan")
        return Chance(observed, nan, (nan, nan), nan, null, len(values))
    low, high = np.percentile(known, [2.5, 97.5])
    p_value = (int((known >= observed - _TIE).sum()) + 1) / (len(known) + 1)
    return Chance(observed, float(known.mean()), (float(low), float(high)), p_value, null, len(values))


def at_least(observed: float, values: npt.NDArray[np.floating], level: float) -> float:
    """Return how much more than by chance a statistic is at least: the one-sided interval that belongs to its p-value.

    It is the lowest shift of the random draws that :func:`beside_chance` would not reject at the level: above 0 if and
    only if the p-value is at most the level. NaN where no p-value is that small.

    Args:
        observed: the statistic.
        values: ``[D]`` of random subnetworks; NaN among them are left out.
        level: of the test.
    """
    known = values[~np.isnan(values)]
    needed = math.floor(level * (len(known) + 1) + _TIE)
    if needed < 1 or not len(known):
        return math.nan
    shift = observed - float(np.partition(known, -needed)[-needed])
    return 0.0 if abs(shift) <= _TIE else min(shift, observed - float(known.mean()))


def randomised(subnetwork: Subnetwork, rng: np.random.Generator, null: str = "size") -> Subnetwork:
    """Return a random subnetwork with as many heads and MLPs, in all or in every layer; see :data:`NULLS`.

    The MLPs of a subnetwork are one a layer, so that with ``size-per-layer`` they stay as they are.
    """
    heads, mlps = (NULLS[null].drawn(mask[None], rng)[0] for mask in (subnetwork.heads, subnetwork.mlps))
    return Subnetwork(heads, mlps)


def stacked(subnetworks: Sequence[Subnetwork], what: str, least: int = 1) -> Bools:
    """Return the masks ``[S, L, H]`` or ``[S, L]``.

    Raises:
        InputError: `what` is neither heads nor mlps, too few subnetworks, or models of different sizes.
    """
    if what not in WHAT:
        raise InputError(f"what={what!r}: give heads or mlps.")
    masks = [getattr(one, what) for one in subnetworks]
    if len(masks) < least:
        raise InputError(f"This takes the subnetworks of at least {least} seeds; there are {len(masks)}.")
    if len({mask.shape for mask in masks}) > 1:
        shapes = " and ".join(str(shape) for shape in dict.fromkeys(mask.shape for mask in masks))
        raise InputError(f"Subnetworks of different models: {what} {shapes}.")
    return np.stack(masks)
