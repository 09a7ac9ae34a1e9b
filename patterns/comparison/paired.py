"""What differs between two models' heads on the same inputs: transitions, agreement, distances, measurements."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from models.common.errors import InputError
from models.common.files import known

from ..distribution import EMPTY, MEASUREMENTS, counts, pattern_names
from ..measures.pairs import MEASURES
from ..result import HeadPatterns
from ..taxonomy import PATTERNS
from .records import Change, KindChanges

if TYPE_CHECKING:
    import pandas as pd

Floats = npt.NDArray[np.float64]

COVERS = (
    "which inputs and which heads were drawn (the pigeonhole bootstrap, Owen 2007: both are resampled, independently "
    "of each other, and alike for both models)"
)
"""What the intervals of a comparison cover."""

MEASURED = (*MEASURES, "entropy", "writes")
"""The names of what heads were measured to do."""

_RESAMPLES = 1999


def crossed_ci95(
    values: Floats, weights: Floats | None = None, seed: int = 0, resamples: int = _RESAMPLES
) -> Floats:
    """Return 95% intervals ``[C, 2]`` of C means over heads and inputs, both resampled (Owen 2007).

    Args:
        values: ``[C, N, E]``, of N heads on E inputs; whatever stands where the weight is 0 does not matter.
        weights: ``[N, E]`` of the means; equal if None.
        seed: of the resampling, which is the same for all C.
        resamples: how many.

    Returns:
        NaN for fewer than two heads or inputs.
    """
    C, N, E = values.shape
    if min(N, E) < 2:
        return np.full((C, 2), np.nan)
    rng = np.random.default_rng(seed)
    of_heads = rng.multinomial(N, np.full(N, 1 / N), size=resamples).astype(float)
    of_inputs = rng.multinomial(E, np.full(E, 1 / E), size=resamples).astype(float)
    weights = np.ones((N, E)) if weights is None else weights

    def sums(of: Floats) -> Floats:
        found: Floats = ((of_heads @ of) * of_inputs).sum(axis=1)
        return found

    total = sums(weights)
    ends = np.empty((C, 2))
    with np.errstate(invalid="ignore", divide="ignore"):
        for number, one in enumerate(values):
            means = sums(np.where(weights > 0, one, 0.0) * weights) / total
            ends[number] = np.nanpercentile(means, [2.5, 97.5])
    return ends


def js_distance(a: Floats, b: Floats) -> Floats:
    """Return the Jensen-Shannon distance of distributions ``[..., 5]``, from 0 (the same) to 1 (nothing in common).

    It is the square root of the divergence in bits (Lin 1991), a metric (Endres & Schindelin 2003). NaN where one of
    the two is.
    """
    from scipy.spatial.distance import jensenshannon

    with np.errstate(invalid="ignore"):
        raw = jensenshannon(a, b, base=2, axis=-1)  # pyright: ignore[reportCallIssue]
        found: Floats = np.asarray(raw, dtype=float)
    # Of equal ones, rounding may leave something below 0 under the root.
    return np.where(np.isnan(found) & ~np.isnan(a).any(axis=-1) & ~np.isnan(b).any(axis=-1), 0.0, found)


@dataclass(frozen=True, eq=False)
class Pair:
    """The same heads in two models, on the inputs that both have.

    Raises:
        InputError: the models differ in shape or kinds, or have no head or no input in common.
    """

    a: HeadPatterns
    b: HeadPatterns
    names: tuple[str, str]

    def __post_init__(self) -> None:
        if self.a.heads.shape != self.b.heads.shape:
            one, other = (" x ".join(map(str, of.heads.shape)) for of in (self.a, self.b))
            raise InputError(
                f"{self.names[0]} has {one} heads (layers x heads), but {self.names[1]} has {other}; only models of "
                "one shape have the same heads."
            )
        if self.a.kinds != self.b.kinds:
            raise InputError(
                f"{self.names[0]} was looked at by {' and '.join(self.a.kinds)} maps, {self.names[1]} by "
                f"{' and '.join(self.b.kinds)}; give both the same."
            )
        if not self.heads.any():
            raise InputError(
                f"{self.names[0]} and {self.names[1]} have no head in common: other ones are left."
            )
        if not len(self.places[0]):
            raise InputError(f"{self.names[0]} and {self.names[1]} have no usable input in common.")

    @cached_property
    def heads(self) -> npt.NDArray[np.bool_]:
        """``[L, H]``: those that both have; of a compacted model, heads have their old numbers."""
        found: npt.NDArray[np.bool_] = self.a.heads & self.b.heads
        return found

    @cached_property
    def places(self) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
        """The places of the inputs in common, in each of the two."""
        common = np.intersect1d(self.a.examples, self.b.examples)
        return tuple(
            np.array([np.flatnonzero(of.examples == one)[0] for one in common], dtype=np.intp)
            for of in (self.a, self.b)
        )  # type: ignore[return-value]

    def labels(self, kind: str) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.int8]]:
        """Return the labels ``[N, E]`` of the heads in common, in each of the two."""
        one, other = (
            of.labels[kind][places][:, self.heads].T
            for of, places in zip((self.a, self.b), self.places, strict=True)
        )
        return one, other

    def _shares(self, labels: npt.NDArray[np.int8]) -> Floats:
        """Each head's share of each pattern, ``[N, 5]`` from ``[N, E]``."""
        number = counts(labels.T)
        with np.errstate(invalid="ignore"):
            found: Floats = number / number.sum(axis=-1, keepdims=True)
        return found

    def dominant(self, kind: str) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
        """Return the dominant patterns ``[N]`` in each of the two, :data:`EMPTY` of heads without any map to see."""
        one, other = (
            np.where(number.sum(axis=-1) > 0, number.argmax(axis=-1), EMPTY)
            for number in (counts(labels.T) for labels in self.labels(kind))
        )
        return one, other

    def frame(self, kind: str) -> pd.DataFrame:
        """Return a row a head in common: what ``changes.parquet`` holds of this pair."""
        import pandas as pd

        layers, heads = np.nonzero(self.heads)
        labels = self.labels(kind)
        both = (labels[0] != EMPTY) & (labels[1] != EMPTY)
        dominant = self.dominant(kind)
        shares = [self._shares(of) for of in labels]
        with np.errstate(invalid="ignore"):
            agreement = ((labels[0] == labels[1]) & both).sum(axis=1) / both.sum(axis=1)
        columns: dict[str, object] = {
            "a": self.names[0],
            "b": self.names[1],
            "kind": kind,
            "layer": layers,
            "head": heads,
            "maps": both.sum(axis=1),
            "dominant_a": pattern_names(dominant[0]),
            "dominant_b": pattern_names(dominant[1]),
            "changed": dominant[0] != dominant[1],
            "agreement": agreement,
            "js_distance": js_distance(*shares),
        }
        numbers = [counts(of.T).astype(np.float64) for of in labels]
        for name, one in MEASUREMENTS.items():
            with np.errstate(divide="ignore", invalid="ignore"):
                before, after = (one.of(number) for number in numbers)
            columns |= {f"{name}_a": before, f"{name}_b": after, f"{name}_change": after - before}
        for name, (values, weights) in self._measured(kind).items():
            before, after = (_weighted(of, weights) for of in values)
            column = {"entropy": "attention_entropy"}.get(name, name)
            columns |= {f"{column}_a": before, f"{column}_b": after, f"{column}_change": after - before}
        return pd.DataFrame(columns)

    def _measured(self, kind: str) -> Mapping[str, tuple[tuple[Floats, Floats], Floats]]:
        """Return by name a measurement of heads in common ``[N, E]`` in each of the two, and the weights of inputs."""
        a, b = self.a.measured, self.b.measured
        if a is None or b is None:
            return {}
        found = {}
        for name in MEASURED:
            values, weights = [], []
            for of, places in zip((a, b), self.places, strict=True):
                values.append(of.per_input(kind, name)[places][:, self.heads].T)
                spread = np.broadcast_to(of.weight(name), of.per_input(kind, name).shape)
                weights.append(spread[places][:, self.heads].T)
            there = np.isfinite(values[0]) & np.isfinite(values[1])
            found[name] = (
                (np.where(there, values[0], np.nan), np.where(there, values[1], np.nan)),
                np.where(there, np.minimum(*weights), 0.0),
            )
        return found

    def changes(self, kind: str, seed: int = 0) -> KindChanges:
        """Return what changed in one kind of maps, with 95% intervals that cover :data:`COVERS`.

        Maps that are zero in every cell in one of the two are left out.

        Args:
            kind: ``raw`` or ``norm``.
            seed: of the resampling.

        Raises:
            InputError: no map has a pattern in both.
        """
        a, b = self.labels(kind)
        both = ((a != EMPTY) & (b != EMPTY)).astype(float)
        if not both.any():
            raise InputError(
                f"No {kind} map of the heads that {self.names[0]} and {self.names[1]} have in common has a pattern in "
                "both: they are zero in every cell."
            )
        K = len(PATTERNS)
        of_a, of_b = (np.stack([labels == i for i in range(K)]).astype(float) for labels in (a, b))
        cells = np.einsum("ine,jne->ijne", of_a, of_b).reshape(K * K, *a.shape)
        ends = crossed_ci95(np.concatenate([cells, (a == b)[None].astype(float), of_b - of_a]), both, seed)
        number = cells.sum(axis=(1, 2)).astype(int).reshape(K, K)
        total = int(both.sum())
        dominant = self.dominant(kind)
        layers, heads = np.nonzero(self.heads)
        changed = np.flatnonzero(dominant[0] != dominant[1])
        distances = js_distance(*(self._shares(labels) for labels in (a, b)))
        names = [pattern.value for pattern in PATTERNS]
        shares_a, shares_b = number.sum(axis=1) / total, number.sum(axis=0) / total
        return {
            "maps": total,
            "agreement": float(np.trace(number) / total),
            "agreement_ci95": _ends(ends[K * K]),
            "transitions": {
                one: {
                    other: {
                        "maps": int(number[i, j]),
                        "share": float(number[i, j] / total),
                        "ci95": _ends(ends[i * K + j]),
                    }
                    for j, other in enumerate(names)
                }
                for i, one in enumerate(names)
            },
            "dominant": {
                one: {
                    other: int(((dominant[0] == i) & (dominant[1] == j)).sum())
                    for j, other in enumerate(names)
                }
                for i, one in enumerate(names)
            },
            "changed": [[int(layers[place]), int(heads[place])] for place in changed],
            "js_distance": known(float(np.nanmean(distances))) if np.isfinite(distances).any() else None,
            "patterns": {
                name: {
                    "a": float(shares_a[i]),
                    "b": float(shares_b[i]),
                    "change": float(shares_b[i] - shares_a[i]),
                    "ci95": _ends(ends[K * K + 1 + i]),
                }
                for i, name in enumerate(names)
            },
            "measurements": self._measurement_changes(kind, seed),
        }

    def _measurement_changes(self, kind: str, seed: int) -> dict[str, Change]:
        found: dict[str, Change] = {}
        for name, ((before, after), weights) in self._measured(kind).items():
            total = weights.sum()
            if not total:
                found[name] = {"a": None, "b": None, "change": None, "ci95": [None, None]}
                continue
            means = [
                float((np.where(weights > 0, of, 0.0) * weights).sum() / total) for of in (before, after)
            ]
            found[name] = {
                "a": means[0],
                "b": means[1],
                "change": means[1] - means[0],
                "ci95": _ends(crossed_ci95((after - before)[None], weights, seed)[0]),
            }
        return found


def _weighted(values: Floats, weights: Floats) -> Floats:
    """Return the mean of each row; NaN where all weights are 0."""
    with np.errstate(invalid="ignore", divide="ignore"):
        found: Floats = (np.where(weights > 0, values, 0.0) * weights).sum(axis=1) / weights.sum(axis=1)
    return found


def _ends(ends: Floats | Sequence[float]) -> list[float | None]:
    return [None if math.isnan(end) else float(end) for end in ends]


def transitions_frame(pairs: Sequence[tuple[str, str, Mapping[str, KindChanges]]]) -> pd.DataFrame:
    """Return a row a pair, kind and transition: what ``transitions.csv`` holds."""
    import pandas as pd

    return pd.DataFrame(
        {
            "a": a,
            "b": b,
            "kind": kind,
            "from": one,
            "to": other,
            "heads": found["dominant"][one][other],
            "maps": cell["maps"],
            "share": cell["share"],
            "low": cell["ci95"][0],
            "high": cell["ci95"][1],
        }
        for a, b, kinds in pairs
        for kind, found in kinds.items()
        for one, row in found["transitions"].items()
        for other, cell in row.items()
    )
