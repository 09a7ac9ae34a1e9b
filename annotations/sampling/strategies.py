"""Which of many maps to label next, from what a classifier says of them.

What choosing is worth was simulated by ``benchmarks/annotation_loop.py``: MiniLM's annotated maps, 20 to 160
labels, logistic regression on the classifier's measurements, scored on heads that were not seen, 30 seeds.
``uncertain-diverse`` leads ``random`` by 2.7 points of accuracy on raw and 1.9 on norm maps (95% intervals 1.3 to
4.1 and 0.8 to 2.9), and is after 80 labels where random choice is after 160. ``diverse`` is as good on raw maps and
no better than random on norm maps. ``balanced`` is no better than random, nor is ``uncertain`` on raw maps (on norm
maps by one point): the least certain maps come from fewer heads (31 to 34 instead of 40), so they repeat each
other, and annotators disagree on almost twice as many of them, so their labels are worth less. The two diverse
strategies were picked among nine ways in shorter runs on the same maps, and a third of those had once been chosen
because they are hard, so expect somewhat less elsewhere. Only ``random`` is a fair sample, from which shares of
patterns can be counted.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from patterns.taxonomy import PATTERNS

if TYPE_CHECKING:  # functions import it themselves: --help says what they do, and computes nothing
    import numpy as np
    import numpy.typing as npt

    Floats = npt.NDArray[np.floating]

_SIDE = 8
_POOL = 4
"""``uncertain-diverse`` looks for maps unlike each other among so many times as many uncertain ones."""


@dataclass(frozen=True)
class Candidates:
    """The maps to choose from."""

    probabilities: Floats
    """``[N, 5]``, columns in Pattern order."""
    features: Floats
    """``[N, F]``, of :func:`image_features`; only a strategy with ``images`` uses any."""
    count: int
    """Of maps wanted."""
    order: npt.NDArray[np.int64]
    """Their places, at random: what a strategy leaves open."""
    rng: np.random.Generator


@dataclass(frozen=True)
class Strategy:
    """A way to choose."""

    order: Callable[[Candidates], npt.NDArray[np.int64]]
    """Return places, the most wanted first."""
    help: str
    images: bool = False
    """Whether it looks at the maps themselves, not only at what a classifier says of them."""


def _random(maps: Candidates) -> npt.NDArray[np.int64]:
    return maps.order


def _balanced(maps: Candidates) -> npt.NDArray[np.int64]:
    import numpy as np

    predicted = maps.probabilities.argmax(axis=1)[maps.order]
    turn = np.zeros(len(predicted), dtype=np.int64)
    for pattern in range(len(PATTERNS)):
        turn[predicted == pattern] = np.arange((predicted == pattern).sum())
    return maps.order[np.argsort(turn, kind="stable")]


def _uncertain(maps: Candidates) -> npt.NDArray[np.int64]:
    import numpy as np

    return maps.order[np.argsort(margins(maps.probabilities)[maps.order], kind="stable")]


def _diverse(maps: Candidates) -> npt.NDArray[np.int64]:
    points = described(maps.probabilities, maps.features)[maps.order]
    return maps.order[spread(points, maps.count, maps.rng)]


def _uncertain_diverse(maps: Candidates) -> npt.NDArray[np.int64]:
    pool = maps.rng.permutation(_uncertain(maps)[: _POOL * maps.count])
    return pool[spread(described(maps.probabilities, maps.features)[pool], maps.count)]


STRATEGIES: dict[str, Strategy] = {
    "random": Strategy(_random, "at random, from which alone shares of patterns can be counted"),
    "balanced": Strategy(
        _balanced,
        "the predicted patterns in turn, each at random, so that rare ones come as often as frequent ones",
    ),
    "uncertain": Strategy(_uncertain, "the smallest margin between the two most probable patterns first"),
    "diverse": Strategy(
        _diverse,
        "at random, in proportion to the squared distance from the nearest before (k-means++, Arthur & Vassilvitskii "
        "2007)",
        images=True,
    ),
    "uncertain-diverse": Strategy(
        _uncertain_diverse,
        "of the four times as many most uncertain maps, each the farthest from all before it (Gonzalez 1985), so that "
        "a batch is not one sort of hard map many times",
        images=True,
    ),
}
"""By name; one more is an entry here."""


def choose(
    strategy: str, probabilities: Floats, features: Floats, count: int, rng: np.random.Generator
) -> npt.NDArray[np.int64]:
    """Return the places of `count` maps to label, the most wanted first; all of them if there are fewer.

    Args:
        strategy: one of :data:`STRATEGIES`.
        probabilities: ``[N, 5]``, columns in Pattern order.
        features: ``[N, F]``, of :func:`image_features`; only a strategy with ``images`` uses any.
        count: of maps wanted.
        rng: decides what is left open.
    """
    order = rng.permutation(len(probabilities))
    return STRATEGIES[strategy].order(Candidates(probabilities, features, count, order, rng))[:count]


def margins(probabilities: Floats) -> Floats:
    """Return ``[N]``, by how much the most probable pattern leads."""
    import numpy as np

    top = np.sort(probabilities, axis=1)
    return top[:, -1] - top[:, -2]


def described(probabilities: Floats, features: Floats) -> npt.NDArray[np.float32]:
    """Return ``[N, 5 + F]``, in which near maps look alike and are classified alike."""
    import numpy as np

    return np.hstack([np.sqrt(probabilities), np.asarray(features, dtype=np.float32)]).astype(np.float32)


def spread(
    points: npt.NDArray[np.float32], count: int, rng: np.random.Generator | None = None
) -> npt.NDArray[np.int64]:
    """Return the places of `count` of the points ``[N, F]``, the first one and others far from all before.

    Without `rng` always the farthest; with it, at random in proportion to the squared distance.
    """
    import numpy as np

    chosen = np.zeros(min(count, len(points)), dtype=np.int64)
    distance = np.full(len(points), np.inf)
    for i in range(1, len(chosen)):
        step = points - points[chosen[i - 1]]
        distance = np.minimum(distance, np.einsum("nf,nf->n", step, step))
        distance[chosen[:i]] = 0
        if rng is not None and (total := distance.sum()) > 0:
            chosen[i] = rng.choice(len(points), p=distance / total)
        else:
            distance[chosen[:i]] = -1  # where points coincide, still none twice
            chosen[i] = distance.argmax()
            distance[chosen[:i]] = 0
    return chosen


def image_features(maps: npt.NDArray[np.floating]) -> npt.NDArray[np.float16]:
    """Return ``[B, 64]`` of maps ``[B, n, n]``: their images of 8 x 8 cells, relative, square root, of length <= 2."""
    import numpy as np
    import torch

    from patterns.maps.images import resampling_matrices

    n = maps.shape[-1]
    average = resampling_matrices(torch.tensor([n]), n, _SIDE)[0].numpy()
    images = average @ maps @ average.T
    peak = np.maximum(images.max(axis=(1, 2), keepdims=True), np.finfo(np.float32).tiny)
    return (np.sqrt(images / peak) * (2 / _SIDE)).reshape(len(maps), -1).astype(np.float16)
