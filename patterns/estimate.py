"""Shares of patterns from a few labels and many predictions, right however wrong the classifier is.

Prediction-powered inference (Angelopoulos et al. 2023; with a tuning parameter, PPI++, Angelopoulos, Duchi & Zrnic
2023): what a classifier says of all maps, plus by how much it was wrong on those that were labelled,

    share = mean label + lambda * (mean prediction of all maps - mean prediction of the labelled ones).

It is unbiased for any given lambda and any classifier, as long as the labelled maps were drawn at random. The better
the classifier, the less is left to chance; lambda, from 0 (labels alone) to 1, is where the standard error is
smallest, so that it is never larger than that of labels alone (that it is chosen by the same labels shifts the
estimate by about a tenth of its standard error at most, as measured).

A prediction is the probability that the classifier gives, which tells more than the likeliest pattern: of causal
maps hardly any is said to be heterogeneous, but the probability still knows which might be.

``ppi-python`` has the same mean estimator; it takes maps as independent, brings 275 MB (numba, statsmodels), and its
interval is a normal one, which holds a rare share too seldom (``benchmarks/estimate_coverage.py``).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .taxonomy import INTERPRETABLE, PATTERNS

Floats = npt.NDArray[np.floating]

FEWEST, FEW, FEW_INPUTS = 10, 30, 20
"""Labels of a kind without which there is no estimate; labels and inputs below which it comes with a warning."""
ENOUGH = 60
"""Labels of a kind that the command that begins an estimate asks for."""
COVERS = (
    "which maps were labelled, which examples were drawn and what the classifier gets wrong, as far as the labels are "
    "right"
)
"""What the interval of an estimate covers."""
_LAMBDAS = np.linspace(0, 1, 101).round(2)
_HALF_A_LABEL = 0.5
"""Few labels may all agree with their predictions by chance; so many more are taken to have contradicted theirs."""
_RATIO = PATTERNS.index(INTERPRETABLE)


@dataclass(frozen=True)
class Interval:
    """A share, its standard error and its 95% interval."""

    share: float
    standard_error: float
    low: float
    high: float

    @property
    def width(self) -> float:
        """Of the interval."""
        return self.high - self.low


@dataclass(frozen=True)
class Estimate:
    """What labels and predictions say together of one kind of maps."""

    shares: dict[str, float]
    """By pattern, in Pattern order; they sum to 1."""
    ratio: Interval
    """The share of heterogeneous maps."""
    labels_alone: Interval
    """The same from the labels only."""
    labels: int
    inputs: int
    """That the labelled maps are of."""
    predictions: int
    """Maps that the classifier classified."""
    tuning: float
    """lambda: 0 is labels alone, 1 takes predictions in full."""


def prediction_powered(
    labels: npt.NDArray[np.integer],
    said: Floats,
    inputs: npt.NDArray[np.integer],
    all_said: Floats,
    all_inputs: npt.NDArray[np.integer],
) -> Estimate:
    """Estimate shares from the labelled maps of a random sample and the predictions for all.

    Two things are drawn at random, maps to label and inputs, so the standard error is that of resampling labelled maps
    one by one, or inputs with all their maps, labelled or not, whichever is larger (the infinitesimal jackknife, which
    is what many bootstrap resamples tend to). Heads are not resampled: all heads of the model are there.

    Args:
        labels: ``[n]``, index into ``PATTERNS``.
        said: ``[n, 5]``, probabilities that the classifier gives the labelled maps.
        inputs: ``[n]``, which input each is of.
        all_said: ``[N, 5]``, the same of all maps.
        all_inputs: ``[N]``, in the same numbers.
    """
    n = len(labels)
    truth = np.eye(len(PATTERNS))[labels]
    variances = np.max(
        [
            quadratic @ np.stack([np.ones_like(_LAMBDAS), _LAMBDAS, _LAMBDAS**2])
            for quadratic in (
                _by_map(truth[:, _RATIO], said[:, _RATIO]),
                _by_input(truth[:, _RATIO], said[:, _RATIO], inputs, all_said[:, _RATIO], all_inputs),
            )
        ],
        axis=0,
    )
    degrees = len(np.unique(inputs)) - 1

    def at(place: int) -> tuple[Floats, Interval]:
        shares = truth.mean(axis=0) + _LAMBDAS[place] * (all_said.mean(axis=0) - said.mean(axis=0))
        extra = _HALF_A_LABEL / n**2
        gain = (variances[0] + extra) / (variances[place] + extra)
        return shares, _interval(
            float(shares[_RATIO]),
            variances[place],
            _effective(truth[:, _RATIO], variances[0]) * gain,
            degrees,
        )

    _, alone = at(0)
    place = int(variances.argmin())
    shares, ratio = at(place)
    if ratio.width > alone.width:  # a wider one is possible only where the share itself is nearer to one half
        place, (shares, ratio) = 0, at(0)
    return Estimate(
        _proper(shares),
        ratio,
        alone,
        n,
        degrees + 1,
        len(all_said),
        float(_LAMBDAS[place]),
    )


def _by_map(truth: Floats, said: Floats) -> Floats:
    """Return the variance of the estimate over labelled maps, ``[3]``: a polynomial in lambda."""
    return _variance((truth - truth.mean()) / len(truth), (said - said.mean()) / len(truth), len(truth))


def _by_input(
    truth: Floats,
    said: Floats,
    inputs: npt.NDArray[np.integer],
    all_said: Floats,
    all_inputs: npt.NDArray[np.integer],
) -> Floats:
    """Return the variance of the estimate over inputs, each with all its maps, ``[3]``."""
    n = len(truth)
    number = np.unique(np.concatenate([inputs, all_inputs]), return_inverse=True)[1]
    size = int(number.max()) + 1

    def sums(values: Floats, of: npt.NDArray[np.integer]) -> Floats:
        return np.bincount(of, (values - values.mean()) / len(values), size).astype(float)

    labels, predictions = sums(truth, number[:n]), sums(said, number[:n]) - sums(all_said, number[n:])
    return _variance(labels, predictions, len(np.unique(inputs)))


def _variance(labels: Floats, predictions: Floats, units: int) -> Floats:
    """Return the sum over units of (label's part - lambda * prediction's part) squared, as factors of its powers."""
    quadratic = np.array([labels @ labels, -2 * labels @ predictions, predictions @ predictions])
    return quadratic * units / max(units - 1, 1)


def _effective(truth: Floats, variance: float) -> float:
    """Return to how many independent labels the labels come, at most as many as they are."""
    independent = truth.mean() * (1 - truth.mean()) / (len(truth) - 1)
    return len(truth) * min(1.0, independent / variance) if variance > 0 else float(len(truth))


def _interval(share: float, variance: float, labels: float, degrees: int) -> Interval:
    """Return Wilson's interval (1927) of a share that is known as well as from so many independent labels.

    It stays within 0 and 1 and holds a rare share about as often as it says, which a symmetric one does not.
    """
    from scipy.stats import t

    z = float(t.ppf(0.975, max(degrees, 1)))
    share = min(max(share, 0.0), 1.0)
    middle = (share + z * z / 2 / labels) / (1 + z * z / labels)
    half = z / (1 + z * z / labels) * np.sqrt(share * (1 - share) / labels + (z / 2 / labels) ** 2)
    low, high = max(0.0, float(middle - half)), min(1.0, float(middle + half))
    return Interval(share, float(np.sqrt(variance)), min(low, share), max(high, share))


def _proper(shares: Floats) -> dict[str, float]:
    """Return shares that are none below 0 and sum to 1; that of the ratio stays as it is, cut at 0 and 1."""
    cut = shares.clip(0, 1)
    others = np.arange(len(cut)) != _RATIO
    rest = cut[others].sum()
    cut[others] = cut[others] * (1 - cut[_RATIO]) / rest if rest > 0 else (1 - cut[_RATIO]) / others.sum()
    return {pattern.value: float(share) for pattern, share in zip(PATTERNS, cut, strict=True)}
