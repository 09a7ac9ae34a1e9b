"""What classifying the heads of a model gives: labels and probabilities, and what follows from them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from models.common.errors import InputError
from models.common.words import interval, percent
from models.subnetwork import Subnetwork

from .classifier.left_out import errors_in_words
from .distribution import (
    EMPTY,
    bootstrap_ci95,
    distribution,
    head_frame,
    interpretable_shares,
    pattern_names,
    seen_maps,
)
from .estimate import Estimate
from .measures.measured import HeadMeasurements
from .taxonomy import INTERPRETABLE, PATTERNS

if TYPE_CHECKING:
    import datasets
    import pandas as pd
    from matplotlib.figure import Figure


@dataclass(frozen=True, eq=False, repr=False)
class HeadPatterns:
    """What :func:`patterns.classify_heads` found: a pattern and five probabilities for every example and head."""

    labels: Mapping[str, npt.NDArray[np.int8]]
    """By kind, ``[E, L, H]``: index into ``PATTERNS``; -1 for a map that is zero in every cell and not counted."""
    probabilities: Mapping[str, npt.NDArray[np.float32]]
    """By kind, ``[E, L, H, 5]``: columns in Pattern order; NaN for a map that is zero in every cell."""
    examples: npt.NDArray[np.int64]
    """``[E]``: each example's ``idx``, or its position in the rows."""
    n_tokens: npt.NDArray[np.int64]
    """``[E]``: real tokens, special tokens included."""
    heads: npt.NDArray[np.bool_]
    """``[L, H]``: the heads that are counted, of a compacted model those left; see :meth:`select`."""
    seed: int = 0
    """Of the bootstrap."""
    warnings: tuple[str, ...] = ()
    """What a reader of the numbers has to know, whatever the kind."""
    inputs: Mapping[str, object] = dataclasses.field(default_factory=dict)
    """What the model was fed: special tokens, segments, the first row; see :class:`models.tasks.inputs.Fed`."""
    causal: bool = False
    """Whether no token sees a later one, so that every map is lower triangular."""
    classifiers: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """By kind, the :attr:`~patterns.PatternClassifier.version` of the classifier."""
    estimates: Mapping[str, Estimate] = dataclasses.field(default_factory=dict)
    """By kind, what labels of some of the maps and the predictions for all say together, where there are labels."""
    control: HeadPatterns | None = None
    """The same heads on the same examples in :func:`patterns.redrawn`, the architecture without what was learned,
    where that was looked at."""
    measured: HeadMeasurements | None = None
    """What each head does on these inputs, where that was measured; see :meth:`measurements`."""

    def __repr__(self) -> str:
        shape = " x ".join(str(n) for n in (len(self.examples), *self.heads.shape))
        return f"HeadPatterns({', '.join(self.kinds)}: {shape} maps, {int(self.heads.sum())} heads counted)"

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of maps classified, raw first."""
        return tuple(self.labels)

    @cached_property
    def _frame(self) -> pd.DataFrame:
        import pandas as pd

        frames = [head_frame(kind, self.labels[kind], self.probabilities[kind]) for kind in self.kinds]
        kept = np.tile(self.heads.ravel(), len(frames))
        frame = pd.concat(frames, ignore_index=True)[kept].reset_index(drop=True)
        if self.measured is None:
            return frame
        return frame.merge(self.measurements(), on=["kind", "layer", "head"], validate="one_to_one")

    def to_frame(self) -> pd.DataFrame:
        """Return one row per kind and counted head.

        Columns as :func:`patterns.distribution.head_frame`, and those of :meth:`measurements` where heads were
        measured.
        """
        return self._frame.copy()

    def to_dataset(self) -> datasets.Dataset:
        """Return :meth:`maps_frame` as a ``datasets.Dataset``: one row per kind, example and counted head."""
        import datasets

        return datasets.Dataset.from_pandas(self.maps_frame(), preserve_index=False)

    def measurements(self) -> pd.DataFrame:
        """Return what each head does, without any label: one row per kind and counted head.

        Columns as :meth:`patterns.measures.measured.HeadMeasurements.frame`. Rates of false discoveries are over the
        counted heads.

        Raises:
            InputError: nothing was measured.
        """
        if self.measured is None:
            raise InputError("The heads were not measured; ask for it: classify_heads(..., measure=True).")
        return self.measured.frame(self.heads)

    def maps_frame(self) -> pd.DataFrame:
        """Return one row per kind, example and counted head.

        Columns: ``kind, example, layer, head, n_tokens, label, prob_<p>``. The label is None, and the probabilities
        are NaN, where the map is zero in every cell.
        """
        import pandas as pd

        frames = []
        layer, head = np.nonzero(self.heads)
        for kind in self.kinds:
            labels = self.labels[kind][:, self.heads]  # [E, heads]
            columns: dict[str, Any] = {
                "kind": kind,
                "example": np.repeat(self.examples, len(layer)),
                "layer": np.tile(layer, len(self.examples)),
                "head": np.tile(head, len(self.examples)),
                "n_tokens": np.repeat(self.n_tokens, len(layer)),
                "label": pattern_names(labels),
            }
            for i, pattern in enumerate(PATTERNS):
                columns[f"prob_{pattern}"] = self.probabilities[kind][:, self.heads, i].ravel()
            frames.append(pd.DataFrame(columns))
        return pd.concat(frames, ignore_index=True)

    def _counted(self, kind: str) -> npt.NDArray[np.int8]:
        if kind not in self.labels:
            raise InputError(f"No {kind!r} maps were classified, only {' and '.join(self.kinds)}.")
        labels = self.labels[kind][:, self.heads]
        if (labels == EMPTY).all():
            other = ", or look at raw maps alone" if kind == "norm" else ""
            raise InputError(
                f"All {kind} maps of the {labels.shape[1]} heads counted are zero in every cell, so there is no "
                f"pattern to see; give a model whose heads put something out{other}."
            )
        return labels

    def empty_maps(self, kind: str) -> int:
        """Return how many maps of the counted heads are zero in every cell; they are left out of everything else."""
        return int((self.labels[kind][:, self.heads] == EMPTY).sum())

    def distribution(self, kind: str) -> dict[str, float]:
        """Return each pattern's share of all maps of the counted heads, in Pattern order."""
        return distribution(self._counted(kind))

    def interpretable_ratio(self, kind: str) -> float:
        """Return the share of heterogeneous maps: an upper bound on what could be interpretable."""
        return self.distribution(kind)[INTERPRETABLE]

    def interpretable_ratio_ci95(self, kind: str) -> tuple[float, float]:
        """Return the ratio's 95% bootstrap interval over examples; NaN for a single example.

        It covers which examples were drawn, alone: not the classifier's errors, nor other models of the same kind.
        """
        labels = self._counted(kind)
        return bootstrap_ci95(interpretable_shares(labels), self.seed, seen_maps(labels))

    def select(self, subnetwork: Subnetwork) -> HeadPatterns:
        """Return the same result counting only the heads that `subnetwork` keeps, without estimates of others.

        Raises:
            InputError: it is a subnetwork of a model of another size, or keeps no head that is counted now.
        """
        if not isinstance(subnetwork, Subnetwork):
            raise InputError(f"select() takes a Subnetwork, not a {type(subnetwork).__name__}.")
        if subnetwork.heads.shape != self.heads.shape:
            raise InputError(
                f"The subnetwork has {' x '.join(map(str, subnetwork.heads.shape))} heads, "
                f"but the model has {' x '.join(map(str, self.heads.shape))}."
            )
        heads = self.heads & subnetwork.heads
        if not heads.any():
            raise InputError("The subnetwork keeps no head, so there is no pattern to count.")
        control = self.control and self.control.select(subnetwork)
        return dataclasses.replace(self, heads=heads, control=control, estimates={})

    def plot(self) -> Figure:
        """Draw the layer x head grid coloured by dominant pattern, one panel a kind."""
        from .figures import head_grid

        return head_grid(self.to_frame(), shape=self.heads.shape)

    def plot_distribution(self) -> Figure:
        """Draw the share of each pattern, one bar a kind, with the interpretable ratio and its interval.

        An estimate from labels, and a control, have bars of their own where there are some.
        """
        from .figures import distribution_bars

        return distribution_bars(distributions(self), ratios(self))


ESTIMATED, CONTROLLED = "estimate", "control"


def name_of(kind: str, what: str) -> str:
    """Return the name of a column or bar that shows something else of a kind of maps than what was found."""
    return f"{kind}, {what}"


def distributions(patterns: HeadPatterns) -> dict[str, dict[str, float]]:
    """Return each pattern's share by kind under the names to be shown: ``raw, estimate``, ``raw``, ``raw, control``.

    The estimate from labels comes first, where there is one.
    """
    shown = {}
    for kind in patterns.kinds:
        if estimate := patterns.estimates.get(kind):
            shown[name_of(kind, ESTIMATED)] = estimate.shares
        shown[kind] = patterns.distribution(kind)
        if patterns.control:
            shown[name_of(kind, CONTROLLED)] = patterns.control.distribution(kind)
    return shown


def ratios(patterns: HeadPatterns) -> dict[str, tuple[float, float, float]]:
    """Return the interpretable ratio and its 95% interval under the names of :func:`distributions`."""

    def plain(of: HeadPatterns, kind: str) -> tuple[float, float, float]:
        return (of.interpretable_ratio(kind), *of.interpretable_ratio_ci95(kind))

    shown = {}
    for kind in patterns.kinds:
        if estimate := patterns.estimates.get(kind):
            ratio = estimate.ratio
            shown[name_of(kind, ESTIMATED)] = (ratio.share, ratio.low, ratio.high)
        shown[kind] = plain(patterns, kind)
        if patterns.control:
            shown[name_of(kind, CONTROLLED)] = plain(patterns.control, kind)
    return shown


def bars_frame(patterns: HeadPatterns) -> pd.DataFrame:
    """Return what :meth:`HeadPatterns.plot_distribution` draws, a row a bar.

    Columns: ``bar`` (``raw``; ``raw, estimate``; ``raw, control``; ...), each pattern's share, and
    ``interpretable_ratio, low, high`` with its 95% interval, NaN where there is none.
    """
    import pandas as pd

    found = ratios(patterns)
    return pd.DataFrame(
        {
            "bar": name,
            **{pattern.value: shares[pattern] for pattern in PATTERNS},
            **dict(zip(("interpretable_ratio", "low", "high"), found[name], strict=True)),
        }
        for name, shares in distributions(patterns).items()
    )


def estimate_sentences(patterns: HeadPatterns, whose: str = "") -> list[str]:
    """Say each kind's interpretable ratio as labels and predictions have it together."""
    return [
        f"Interpretable ratio of {kind} maps{whose}, from {one.labels} labels and {one.predictions:,} predictions: "
        f"{percent(one.ratio.share)} {interval(one.ratio.low, one.ratio.high)}."
        for kind, one in patterns.estimates.items()
    ]


def errors_elsewhere(patterns: HeadPatterns) -> str:
    """Say in sentences what the classifier's errors may do to the ratios that are not estimated; empty if all are."""
    plain = {
        kind: patterns.classifiers.get(kind, "") for kind in patterns.kinds if kind not in patterns.estimates
    }
    return f"The classifier's errors come on top. {errors_in_words(plain, patterns.causal)}" if plain else ""
