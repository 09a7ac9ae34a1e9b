"""What a pruned model is compared with: subnetworks of its size, drawn at random or from what it lost."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from models.common.errors import InputError
from models.subnetwork import Mask, Subnetwork

from .stability import NULLS, randomised
from .survivors import never_survivors, super_survivors

_IDENTITY = ("model", "revision", "task", "seed")  # what of the metadata holds for a control too


class Bad(NamedTuple):
    """A subnetwork of what was pruned, and how much of it was not."""

    subnetwork: Subnetwork
    topped_up_heads: float
    """Share of its heads that were taken from elsewhere because too few were pruned; 0 if it has none."""
    topped_up_mlps: float
    """The same of its MLPs."""
    good_heads: float
    """Share of its heads that the good subnetwork keeps too: all of the topped-up ones, or the last of them."""
    good_mlps: float
    """The same of its MLPs."""


def random_subnetworks(subnetwork: Subnetwork, draws: int, seed: int, null: str = "size") -> list[Subnetwork]:
    """Return random subnetworks of exactly the same size, each drawn alone.

    The k-th depends on `seed` and k only, not on how many are drawn.

    Args:
        subnetwork: whose numbers of heads and MLPs they have; for super random ones, the super-survivors.
        draws: how many.
        seed: of the draws.
        null: one of :data:`pruning.stability.NULLS`: ``size``, or ``size-per-layer`` for as many heads in every
            layer (and then the very same MLPs).

    Raises:
        InputError: unknown null, fewer than one draw, or a negative seed.
    """
    if null not in NULLS:
        raise InputError(f"null={null!r}: give {' or '.join(NULLS)}.")
    if draws < 1:
        raise InputError(f"draws={draws}: give at least 1.")
    drawn = []
    for draw in range(draws):
        one = randomised(subnetwork, _rng(seed, draw), null)
        about = {"method": "random", "null": null, "draw": str(draw), "control_seed": str(seed)}
        drawn.append(Subnetwork(one.heads, one.mlps, _identity(subnetwork) | about))
    return drawn


def bad_subnetwork(subnetwork: Subnetwork, seed: int) -> Bad:
    """Return a subnetwork of the same size made of pruned heads and MLPs, drawn at random.

    Where fewer were pruned than kept, all of them are taken and good ones are added at random (Prasanna et al.
    2020, section 4); the result says what share of it that is.

    Raises:
        InputError: a negative seed.
    """
    return _bad([~subnetwork, subnetwork], subnetwork, seed, {"method": "bad"} | _identity(subnetwork))


def super_bad_subnetwork(subnetworks: Sequence[Subnetwork], seed: int) -> Bad:
    """Return a subnetwork as large as the super-survivors made of what no seed keeps, drawn at random.

    Where there is too little of that, it is topped up at random: first with what some seeds keep, then with
    super-survivors.

    Raises:
        InputError: no subnetwork, models of different sizes, or a negative seed.
    """
    good, never = super_survivors(subnetworks), never_survivors(subnetworks)
    about = {key: value for key, value in _identity(subnetworks[0]).items() if key == "task"}
    return _bad([never, ~(good | never), good], good, seed, {"method": "super-bad"} | about)


def _bad(pools: Sequence[Subnetwork], good: Subnetwork, seed: int, about: dict[str, str]) -> Bad:
    rng = _rng(seed)
    heads = _drawn([pool.heads for pool in pools], good.n_heads, rng)
    mlps = _drawn([pool.mlps for pool in pools], good.n_mlps, rng)
    shares = (
        _share(heads, ~pools[0].heads),
        _share(mlps, ~pools[0].mlps),
        _share(heads, good.heads),
        _share(mlps, good.mlps),
    )
    names = ("topped_up_heads", "topped_up_mlps", "good_heads", "good_mlps")
    about |= {"control_seed": str(seed)} | {n: f"{share:.6g}" for n, share in zip(names, shares, strict=True)}
    return Bad(Subnetwork(heads, mlps, about), *shares)


def _drawn(pools: Sequence[Mask], size: int, rng: np.random.Generator) -> Mask:
    """Return a mask of `size` places, at random from the first pool, then from the next."""
    order = np.concatenate([rng.permutation(np.flatnonzero(pool)) for pool in pools])
    mask = np.zeros(pools[0].shape, dtype=bool)
    mask.flat[order[:size]] = True
    return mask


def _share(mask: Mask, of: Mask) -> float:
    return float((mask & of).sum() / mask.sum()) if mask.any() else 0.0


def _identity(subnetwork: Subnetwork) -> dict[str, str]:
    return {key: subnetwork.metadata[key] for key in _IDENTITY if key in subnetwork.metadata}


def _rng(seed: int, *more: int) -> np.random.Generator:
    if seed < 0:
        raise InputError(f"seed={seed}: give a whole number from 0 on.")
    return np.random.default_rng([seed, *more])
