"""How far annotators agree, which labels follow from what they said, and which maps they differ on.

All statistics are of nominal labels, each annotator's latest label of a map:

- percent: the share of pairs of labels of one map that are the same;
- Cohen's kappa (1960) of each pair of annotators, on the maps that both labelled;
- Fleiss' kappa (1971), which wants the same number of labels for every map, on the largest such set;
- Krippendorff's alpha (2011), on every map with two labels or more, whoever gave them;
- per pattern: the share of labels of a map beside such a label that are the same (positive agreement, Cicchetti &
  Feinstein 1990), and alpha of this pattern against the rest.

Intervals (95%) resample heads, since maps of one head look alike. What has no value is None, with a sentence in
``notes`` that says why.

Annotators are taken to be different people, unless they are passes of one labeller (:mod:`annotations.labellers`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from typing import Any, TypedDict

import numpy as np
import numpy.typing as npt

from models.common.files import known
from patterns.distribution import by_pattern, check_seed
from patterns.taxonomy import PATTERNS

from ..dataset import AnnotatedMaps, groups_of
from ..labellers import notes_on, passes_among
from ..table import votes as votes_of
from .dawid_skene import dawid_skene

Floats = npt.NDArray[np.floating]

RESAMPLES = 1000
_N = len(PATTERNS)


@dataclass(frozen=True, eq=False)
class Votes:
    """Who said what of which map."""

    ids: tuple[str, ...]
    """The maps, in their order."""
    annotators: tuple[str, ...]
    """By name."""
    labels: npt.NDArray[np.int8]
    """``[N, A]``: place in PATTERNS; -1 where this annotator has not labelled this map."""
    groups: npt.NDArray[Any]
    """``[N]``: the head that each map comes from; a map whose head is not known is a group of its own."""

    @classmethod
    def of(cls, maps: AnnotatedMaps) -> Votes:
        """Return each annotator's latest label of each map."""
        said = votes_of(maps.annotations)
        annotators = tuple(sorted({name for by in said.values() for name in by}))
        labels = np.full((len(maps), len(annotators)), -1, dtype=np.int8)
        place = {row.id: i for i, row in enumerate(maps.rows)}
        for id, by in said.items():
            for annotator, label in by.items():
                labels[place[id], annotators.index(annotator)] = PATTERNS.index(label)
        heads = groups_of(maps)[0] if len(maps) else np.array([], dtype=str)
        unknown = [row.layer < 0 or row.head < 0 for row in maps.rows]
        groups = [id if alone else head for id, head, alone in zip(place, heads, unknown, strict=True)]
        return cls(tuple(place), annotators, labels, np.array(groups, dtype=str))

    @cached_property
    def counts(self) -> npt.NDArray[np.int64]:
        """``[N, 5]``: labels of each map by pattern."""
        return np.stack([(self.labels == i).sum(axis=1) for i in range(_N)], axis=1).astype(np.int64)

    @property
    def disputed(self) -> npt.NDArray[np.bool_]:
        """``[N]``: whether two annotators gave different labels."""
        return (self.counts > 0).sum(axis=1) > 1

    @property
    def majority(self) -> npt.NDArray[np.int8]:
        """``[N]``: place in PATTERNS of what most annotators say; -1 for a tie or no label."""
        top = self.counts.max(axis=1, initial=0)
        alone = (self.counts == top[:, None]).sum(axis=1) == 1
        return np.where((top > 0) & alone, self.counts.argmax(axis=1), -1).astype(np.int8)


class Statistic(TypedDict):
    """A statistic and its 95% interval, None where it has none."""

    value: float | None
    ci95: list[float | None]


class FleissKappa(Statistic):
    """Fleiss' kappa, and what it is of."""

    maps: int
    labels: int | None
    """Of each map."""


class Pair(TypedDict):
    """Two annotators on the maps that both labelled."""

    a: str
    b: str
    maps: int
    percent: float | None
    kappa: float | None
    ci95: list[float | None]
    confusion: list[list[int]]
    """``[5][5]``: rows a, columns b."""


class OfAnnotator(TypedDict):
    """What one annotator labelled."""

    maps: int
    labels: dict[str, int]
    """By pattern."""


class OfPattern(TypedDict):
    """How far annotators agree on one pattern."""

    labels: int
    agreement: float | None
    alpha: float | None


class EstimatedAnnotator(TypedDict):
    """How good an annotator is by Dawid & Skene's model."""

    accuracy: float
    """Expected share of right labels."""
    confusion: list[list[float]]
    """``[5][5]``: rows true, columns said; probabilities."""


class Estimates(TypedDict):
    """What Dawid & Skene's model makes of the votes."""

    labels: dict[str, int]
    """Maps by pattern."""
    changed: int
    """Maps whose label is not the majority's."""
    decided: int
    """Maps without a majority that get one."""
    shares: dict[str, float]
    """By pattern."""
    annotators: dict[str, EstimatedAnnotator]


class Agreement(TypedDict):
    """How far annotators agree, ready for JSON."""

    maps: int
    labelled: int
    """By anyone."""
    compared: int
    """With two labels or more."""
    disputed: int
    annotators: dict[str, OfAnnotator]
    passes: dict[str, list[str]]
    """By labeller, its passes, where it has several."""
    percent: Statistic
    alpha: Statistic
    fleiss: FleissKappa
    pairs: list[Pair]
    patterns: dict[str, OfPattern]
    majority: dict[str, int]
    """Maps by pattern, and ``none`` for ties."""
    dawid_skene: Estimates | None
    """None below three annotators."""
    notes: list[str]


def agreement(maps: AnnotatedMaps, seed: int = 0) -> Agreement:
    """Return how far the annotators of these maps agree.

    Args:
        maps: labelled or not.
        seed: of the bootstrap.
    """
    check_seed(seed)
    votes = Votes.of(maps)
    notes: list[str] = []
    compared = votes.counts.sum(axis=1) >= 2
    labelled = votes.counts.any(axis=1)
    if not labelled.any():
        notes.append("No map has a label yet, so there is nothing to compare.")
    elif len(votes.annotators) == 1:
        notes.append(
            f"All labels are by one annotator, {votes.annotators[0]}; agreement needs a second one on the same maps."
        )
    elif not compared.any():
        notes.append("No map has labels of two annotators, so there is nothing to compare.")
    elif len(set(votes.labels[compared][votes.labels[compared] >= 0].tolist())) == 1:
        notes.append(
            "Every label of the maps compared is the same pattern: percent agreement is 1, and the coefficients that "
            "correct for chance have no value."
        )
    passes = passes_among(votes.annotators, maps.passes)
    notes += notes_on(passes)
    heads = _Heads(votes.groups, seed)
    coincidences = _coincidences(votes.counts)
    majority = votes.majority
    return {
        "maps": len(votes.ids),
        "labelled": int(labelled.sum()),
        "compared": int(compared.sum()),
        "disputed": int(votes.disputed.sum()),
        "annotators": {
            name: {"maps": int((given >= 0).sum()), "labels": _numbers(given)}
            for name, given in zip(votes.annotators, votes.labels.T, strict=True)
        },
        "passes": passes,
        "percent": heads.of(_percent, coincidences),
        "alpha": heads.of(_alpha, coincidences),
        "fleiss": _fleiss(votes, coincidences, heads),
        "pairs": _pairs(votes, heads),
        "patterns": _patterns(votes, coincidences.sum(axis=0)),
        "majority": {
            **_numbers(majority),
            "none": int(((majority < 0) & labelled).sum()),
        },
        "dawid_skene": estimates(votes, notes),
        "notes": notes,
    }


def estimates(votes: Votes, notes: list[str]) -> Estimates | None:
    """Return what Dawid & Skene's model makes of the votes, or None below three annotators (and a note)."""
    if len(votes.annotators) < 3:
        if votes.annotators:
            notes.append(
                "Dawid and Skene's estimate needs three annotators or more; with fewer nobody can be outvoted."
            )
        return None
    found = dawid_skene(votes.labels, _N)
    best = np.where(votes.counts.any(axis=1), found.probabilities.argmax(axis=1), -1)
    majority = votes.majority
    return {
        "labels": _numbers(best),
        "changed": int(((best != majority) & (majority >= 0)).sum()),
        "decided": int(((best >= 0) & (majority < 0)).sum()),
        "shares": {p.value: float(share) for p, share in zip(PATTERNS, found.shares, strict=True)},
        "annotators": {
            name: {
                "accuracy": float(found.shares @ np.diagonal(confusion)),
                "confusion": confusion.tolist(),
            }
            for name, confusion in zip(votes.annotators, found.confusions, strict=True)
        },
    }


def _numbers(labels: npt.NDArray[np.integer]) -> dict[str, int]:
    """Return by pattern how many of some places in PATTERNS there are; -1 is none."""
    return by_pattern(PATTERNS[i] for i in labels if i >= 0)


class _Heads:
    """Statistics of summed tables, and their intervals over resampled heads."""

    def __init__(self, groups: npt.NDArray[Any], seed: int) -> None:
        names, self._codes = np.unique(groups, return_inverse=True)
        n = len(names)
        rng = np.random.default_rng(seed)
        drawn = rng.multinomial(n, np.full(n, 1 / n), RESAMPLES) if n > 1 else np.zeros((0, n))
        self._draws = np.vstack([np.ones((1, n)), drawn])  # the first is the maps as they are

    def of(self, statistic: Callable[[Floats], Floats], tables: Floats) -> Statistic:
        """Return ``value`` and ``ci95`` of a statistic of the tables ``[N, 5, 5]``, None where it has none."""
        summed = np.zeros((self._draws.shape[1], *tables.shape[1:]))
        np.add.at(summed, self._codes, tables)
        values = statistic(np.einsum("rg,gij->rij", self._draws, summed, optimize=True))
        drawn = values[1:][~np.isnan(values[1:])]
        bounds: list[float | None] = [None, None]
        if len(drawn) and not np.isnan(values[0]):
            bounds = np.percentile(drawn, [2.5, 97.5]).tolist()
        return {"value": known(values[0]), "ci95": bounds}


def _coincidences(counts: npt.NDArray[np.integer]) -> Floats:
    """Return ``[N, 5, 5]``: each map's pairs of labels, both ways, weighted so that a label counts once."""
    n = counts.sum(axis=1)
    pairs = counts[:, :, None] * counts[:, None, :] - counts[:, :, None] * np.eye(counts.shape[1])
    return np.where(n >= 2, 1 / np.maximum(n - 1, 1), 0.0)[:, None, None] * pairs


def _observed_and_expected(tables: Floats) -> tuple[Floats, Floats, Floats]:
    """Return total, and the shares of same labels there are and would be by chance, of tables ``[R, 5, 5]``."""
    total = tables.sum(axis=(1, 2))
    chance = (tables.sum(axis=1) * tables.sum(axis=2)).sum(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        return total, np.trace(tables, axis1=1, axis2=2) / total, chance / total**2


def _percent(tables: Floats) -> Floats:
    return _observed_and_expected(tables)[1]


def _kappa(tables: Floats) -> Floats:
    """Cohen's kappa of two annotators' cross tables, Fleiss' of coincidences; NaN where chance explains all."""
    _, observed, expected = _observed_and_expected(tables)
    return np.divide(
        observed - expected, 1 - expected, out=np.full_like(observed, np.nan), where=expected < 1 - 1e-12
    )


def _alpha(coincidences: Floats) -> Floats:
    """Krippendorff's alpha for nominal labels: as Fleiss', but chance never draws one label twice."""
    total, observed, expected = _observed_and_expected(coincidences)
    different = (1 - expected) * total / np.maximum(total - 1, 1e-12)
    return np.where(
        np.isnan(_kappa(coincidences)), np.nan, 1 - (1 - observed) / np.maximum(different, 1e-300)
    )


def _fleiss(votes: Votes, coincidences: Floats, heads: _Heads) -> FleissKappa:
    """On the maps with as many labels as most maps have."""
    n = votes.counts.sum(axis=1)
    sizes, maps = np.unique(n[n >= 2], return_counts=True)
    size = int(sizes[np.lexsort((sizes, maps))[-1]]) if len(sizes) else -1
    found = heads.of(_kappa, np.where((n == size)[:, None, None], coincidences, 0.0))
    return {**found, "maps": int((n == size).sum()), "labels": size if len(sizes) else None}


def _pairs(votes: Votes, heads: _Heads) -> list[Pair]:
    found: list[Pair] = []
    for (i, a), (j, b) in combinations(enumerate(votes.annotators), 2):
        one, other = votes.labels[:, i], votes.labels[:, j]
        both = (one >= 0) & (other >= 0)
        tables = np.zeros((len(one), _N, _N))
        tables[np.flatnonzero(both), one[both], other[both]] = 1
        whole = tables.sum(axis=0)
        kappa = heads.of(_kappa, tables)
        found.append(
            {
                "a": a,
                "b": b,
                "maps": int(both.sum()),
                "percent": known(_percent(whole[None])[0]),
                "kappa": kappa["value"],
                "ci95": kappa["ci95"],
                "confusion": whole.astype(int).tolist(),
            }
        )
    return found


def _patterns(votes: Votes, coincidences: Floats) -> dict[str, OfPattern]:
    labels, total = votes.counts.sum(axis=0), coincidences.sum()
    found: dict[str, OfPattern] = {}
    for i, pattern in enumerate(PATTERNS):
        margin, same = coincidences[i].sum(), coincidences[i, i]
        rest = np.array([[same, margin - same], [margin - same, total - 2 * margin + same]])
        found[pattern.value] = {
            "labels": int(labels[i]),
            "agreement": float(same / margin) if margin else None,
            "alpha": known(_alpha(rest[None])[0]),
        }
    return found
