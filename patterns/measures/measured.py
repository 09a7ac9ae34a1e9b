"""What was measured of every head: shares of attention beside chance, tests over inputs, and roles."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from models.common.errors import InputError

from .pairs import CONTENT, MEASURES

if TYPE_CHECKING:
    import pandas as pd

Floats = npt.NDArray[np.float64]

OFFSETS = tuple(range(-8, 9))
"""Distances ``j - i`` from a query to a key that the distribution over offsets tells apart."""

LEAST = 0.25
"""The least part of what chance leaves over, ``(share - chance) / (1 - chance)``, that a head with a role takes up."""

FALSE_DISCOVERIES = 0.05
"""The rate of false discoveries over heads (Benjamini & Hochberg 1995) at which a share is above chance."""

EVEN = 0.95
"""The least relative entropy of a head that attends evenly: one that leaves out half of what it might attend to is
below that, ``1 - log 2 / log n``, for inputs of up to a million tokens."""

INACTIVE = 0.01
"""What an inactive head writes at most, relative to the residual stream."""

COVERS = "which inputs were drawn, alone"
"""What the tests of shares against chance cover."""

_THRESHOLDS = ("even", "inactive")

ROLES = (*MEASURES, *_THRESHOLDS)
"""Every role; a head has all that it passes.

A role that is a measurement takes a share that is above chance at :data:`FALSE_DISCOVERIES` and takes up :data:`LEAST`
of what chance leaves over. ``even`` and ``inactive`` are thresholds, :data:`EVEN` and :data:`INACTIVE`.
"""


@dataclass(frozen=True, eq=False)
class HeadMeasurements:
    """Sums over the queries of each input, by kind of maps, and what follows from them for every head.

    E inputs, L layers, H heads, K measurements (:data:`patterns.measures.pairs.MEASURES`), R of them that depend on
    content (``CONTENT``). Layers have one of two views, of all tokens (0) or of a window (1).
    """

    sums: Mapping[str, npt.NDArray[np.float32]]
    """``[E, L, H, K]``: attention on the pairs of each measurement."""
    permuted: Mapping[str, npt.NDArray[np.float32]]
    """``[E, L, H, R, 2]``: what it would be on average with the tokens of queries permuted for each key, and with pairs
    permuted among those that are about as far apart."""
    mass: Mapping[str, npt.NDArray[np.float32]]
    """``[E, L, H]``: all attention."""
    entropy: Mapping[str, npt.NDArray[np.float32]]
    """``[E, L, H]``: entropies of rows, each relative to the largest possible."""
    offsets: Mapping[str, Floats]
    """``[L, H, 17]``: attention at each of :data:`OFFSETS`, over all inputs."""
    writes: npt.NDArray[np.float32]
    """``[E, L, H]``: mean over tokens of ``|W_O z| / |x|``, the norm of what the head adds to the residual stream over
    that of the stream that the layer reads."""
    views: npt.NDArray[np.int64]
    """``[L]``: the view of each layer."""
    counts: Floats
    """``[E, 2, K]``, by view: queries that have a choice."""
    chance: Floats
    """``[E, 2, K]``, by view: what even attention would sum up to over them."""
    queries: Floats
    """``[E, 2]``, by view: queries that may attend to more than one key."""
    tokens: npt.NDArray[np.int64]
    """``[E]``: real tokens."""

    @classmethod
    def empty(
        cls, kinds: Sequence[str], inputs: int, heads: tuple[int, int], views: npt.NDArray[np.int64]
    ) -> HeadMeasurements:
        """Return sums over nothing yet, to be filled."""

        def sums(*more: int) -> dict[str, npt.NDArray[np.float32]]:
            return {kind: np.zeros((inputs, *heads, *more), dtype=np.float32) for kind in kinds}

        return cls(
            sums(len(MEASURES)),
            sums(len(CONTENT), 2),
            sums(),
            sums(),
            {kind: np.zeros((*heads, len(OFFSETS))) for kind in kinds},
            np.zeros((inputs, *heads), dtype=np.float32),
            views,
            np.zeros((inputs, 2, len(MEASURES))),
            np.zeros((inputs, 2, len(MEASURES))),
            np.zeros((inputs, 2)),
            np.zeros(inputs, dtype=np.int64),
        )

    @property
    def kinds(self) -> tuple[str, ...]:
        """Kinds of maps."""
        return tuple(self.sums)

    def _seen(self, kind: str) -> npt.NDArray[np.bool_]:
        """``[E, L, H]``: where there is attention to measure; norm-weighted, a head may put nothing out."""
        if kind == "raw":
            return np.ones_like(self.mass[kind], dtype=bool)
        return self.mass[kind] > self.tokens[:, None, None] * (1 - 1e-3)

    def _of_view(self, numbers: npt.NDArray[np.floating]) -> Floats:
        """Spread numbers by view ``[E, 2]`` over layers, ``[E, L, 1]``."""
        return np.asarray(numbers[:, self.views, None], dtype=np.float64)

    def per_input(self, kind: str, name: str) -> Floats:
        """Return a share for each input and head, ``[E, L, H]``; NaN where no query of the input has a choice.

        Args:
            kind: ``raw`` or ``norm``.
            name: a name of ``MEASURES``, ``entropy`` (relative) or ``writes``.
        """
        if name == "writes":
            return self.writes.astype(np.float64)
        if name == "entropy":
            sums, number = self.entropy[kind], self._of_view(self.queries)
        else:
            k = _place(name)
            sums, number = self.sums[kind][..., k], self._of_view(self.counts[..., k])
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.where(self._seen(kind) & (number > 0), sums / number, np.nan)

    def weight(self, name: str) -> Floats:
        """Return how many queries of each input a share is of, ``[E, L, 1]``: the weights of its mean over inputs."""
        if name == "writes":
            return np.ones((len(self.tokens), len(self.views), 1))
        return self._of_view(self.queries if name == "entropy" else self.counts[..., _place(name)])

    def share(self, kind: str, name: str) -> Floats:
        """Return a measurement of every head, ``[L, H]``: over all queries that have a choice; NaN if there is none."""
        values = self.per_input(kind, name)
        there = ~np.isnan(values)
        weights = np.where(there, self.weight(name), 0)
        return _ratio(np.where(there, values, 0) * weights, weights)

    def chance_of(self, kind: str, name: str) -> Floats:
        """Return what even attention would have of a measurement, ``[L, H]``, over the same queries."""
        k = _place(name)
        there = self._seen(kind).astype(np.float64)
        return _ratio(there * self._of_view(self.chance[..., k]), there * self._of_view(self.counts[..., k]))

    def permuted_of(self, kind: str, name: str) -> Floats:
        """Return what a share that depends on content would be with permuted tokens, ``[L, H]``: the larger of two.

        Both say which pairs of tokens match if it were by chance, and leave attention as it is. The one permutes, for
        each key, the tokens of the queries that might match it, so that a key that all attend to is none that matches
        attend to. The other permutes which pairs match among those that are about as far apart (from one power of two
        to the next), so that a head that looks some tokens back is none that looks for copies, which are often near.
        Their means over all permutations are exact.
        """
        k, r = _place(name), CONTENT.index(name)
        there = self._seen(kind).astype(np.float64)
        number = there * self._of_view(self.counts[..., k])
        both = [_ratio(there * self.permuted[kind][..., r, of].astype(np.float64), number) for of in (0, 1)]
        return np.maximum(*both)

    def p_values(self, kind: str, name: str) -> Floats:
        """Return one-sided p-values ``[L, H]`` of a share being above chance; NaN with fewer than two inputs.

        Each input gives one difference, of its attention on the pairs from what it would be by chance, summed over its
        queries; their mean is tested by a t-test over inputs. Where there are several chances (even attention, and both
        permutations), the largest p-value counts: the share is above all of them. Covers :data:`COVERS`.
        """
        from scipy import stats

        k = _place(name)
        number = self._of_view(self.counts[..., k])
        there = self._seen(kind) & (number > 0)
        chances = [np.broadcast_to(self._of_view(self.chance[..., k]), there.shape)]
        if name in CONTENT:
            chances += [self.permuted[kind][..., CONTENT.index(name), of].astype(np.float64) for of in (0, 1)]
        inputs = there.sum(axis=0)
        found = np.zeros(there.shape[1:])
        for chance in chances:
            apart = np.where(there, self.sums[kind][..., k] - chance, 0)
            # Rounding of sums in float32 is no difference.
            apart[np.abs(apart) < 1e-5 * np.maximum(number, 1)] = 0
            with np.errstate(invalid="ignore", divide="ignore"):
                mean = apart.sum(axis=0) / inputs
                spread = (np.where(there, apart - mean, 0) ** 2).sum(axis=0) / (inputs - 1)
                certain = np.where(mean > 0, np.inf, -np.inf)  # where all inputs agree
                t = np.where(spread > 0, mean / np.sqrt(spread / inputs), certain)
            found = np.maximum(found, stats.t.sf(t, np.maximum(inputs - 1, 1)))
        return np.where(inputs > 1, found, np.nan)

    def q_values(self, kind: str, name: str, heads: npt.NDArray[np.bool_]) -> Floats:
        """Return p-values adjusted over the counted heads ``[L, H]`` for the rate of false discoveries, ``[L, H]``."""
        from scipy import stats

        p = self.p_values(kind, name)
        tested = heads & ~np.isnan(p)
        found = np.full(p.shape, np.nan)
        if tested.any():
            found[tested] = stats.false_discovery_control(p[tested], method="bh")
        return found

    def has_role(self, kind: str, role: str, heads: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
        """Return which of the counted heads ``[L, H]`` have a role, ``[L, H]``; see :data:`ROLES`.

        Raises:
            InputError: there is no such role.
        """
        if role not in ROLES:
            raise InputError(f"There is no role {role!r}; roles are {', '.join(ROLES)}.")
        if role == "even":
            return heads & (self.share(kind, "entropy") >= EVEN)
        if role == "inactive":
            return heads & (self.share(kind, "writes") <= INACTIVE)
        chance = self.chance_of(kind, role)
        if role in CONTENT:
            chance = np.maximum(chance, self.permuted_of(kind, role))
        with np.errstate(invalid="ignore", divide="ignore"):
            taken = (self.share(kind, role) - chance) / (1 - chance)
            clear = self.q_values(kind, role, heads) <= FALSE_DISCOVERIES
        return heads & (taken >= LEAST) & clear

    def frame(self, heads: npt.NDArray[np.bool_]) -> pd.DataFrame:
        """Return one row per kind and counted head ``[L, H]``.

        Columns: ``kind, layer, head, roles`` (separated by ", "); of each measurement ``share_<m>, chance_<m>``
        (even attention), ``permuted_<m>`` if it depends on content, ``q_<m>``; ``attention_entropy`` (relative),
        ``writes``; ``offset_-8`` to ``offset_8`` and ``offset_rest``.
        """
        import pandas as pd

        layers, numbers = np.nonzero(heads)
        frames = []
        for kind in self.kinds:
            has = {role: self.has_role(kind, role, heads)[heads] for role in ROLES}
            columns: dict[str, object] = {
                "kind": kind,
                "layer": layers,
                "head": numbers,
                "roles": [
                    ", ".join(role for role in ROLES if has[role][place]) for place in range(len(layers))
                ],
            }
            for name in MEASURES:
                columns[f"share_{name}"] = self.share(kind, name)[heads]
                columns[f"chance_{name}"] = self.chance_of(kind, name)[heads]
                if name in CONTENT:
                    columns[f"permuted_{name}"] = self.permuted_of(kind, name)[heads]
                columns[f"q_{name}"] = self.q_values(kind, name, heads)[heads]
            columns["attention_entropy"] = self.share(kind, "entropy")[heads]
            columns["writes"] = self.share(kind, "writes")[heads]
            shares, rest = self.offset_shares(kind)
            for at, offset in enumerate(OFFSETS):
                columns[f"offset_{offset}"] = shares[heads][:, at]
            columns["offset_rest"] = rest[heads]
            frames.append(pd.DataFrame(columns))
        return pd.concat(frames, ignore_index=True)

    def offset_shares(self, kind: str) -> tuple[Floats, Floats]:
        """Return the attention at each of :data:`OFFSETS` ``[L, H, 17]`` and at all others ``[L, H]``, of all queries.

        Together they are 1, or, where the model has attention sinks, what does not go there.
        """
        mass = self.mass[kind].sum(axis=0, dtype=np.float64)
        queries = np.full_like(mass, self.tokens.sum()) if kind == "raw" else mass
        with np.errstate(invalid="ignore", divide="ignore"):
            shares = self.offsets[kind] / queries[..., None]
            return shares, mass / queries - shares.sum(axis=-1)


def _place(name: str) -> int:
    if name not in MEASURES:
        raise InputError(f"There is no measurement {name!r}; there are {', '.join(MEASURES)}.")
    return list(MEASURES).index(name)


def _ratio(above: npt.NDArray[np.floating], below: npt.NDArray[np.floating]) -> Floats:
    """Divide sums over inputs; NaN where there is nothing to divide by."""
    with np.errstate(invalid="ignore", divide="ignore"):
        found: Floats = above.sum(axis=0, dtype=np.float64) / below.sum(axis=0, dtype=np.float64)
    return found
