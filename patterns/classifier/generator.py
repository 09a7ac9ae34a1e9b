"""Generated maps of each pattern, for training beside real ones: mixtures of attention components.

Each row spreads about one unit of attention: a share of it on columns, on bands along the diagonal or inside the
token's own segment, the rest on noise; half of the maps are then weighted by key, as norm maps are. The pattern
names the components that stand out from the noise; their form (which columns, how wide a band, how broken the
stripes) is drawn at random, by what Kovaleva et al. (2019, section 4.1) and the annotation guideline call it.

Causal maps are drawn the same way, each row from what is left of it: the first token is the usual column (an
attention sink, Xiao et al. 2024, section 3.1), lines lie on the diagonal or before it, and a row of nothing but noise
fades the more the longer it is.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from models.common.errors import InputError

from ..distribution import check_seed
from ..taxonomy import PATTERNS, Pattern

Map = npt.NDArray[np.float32]
Parts = list[tuple[float, npt.NDArray[np.float64]]]

LENGTHS = (16, 96)
"""Tokens of the shortest and the longest generated map."""


def generate_maps(count: int, seed: int = 0, causal: bool = False) -> tuple[list[Map], list[Pattern]]:
    """Return `count` maps ``[n, n]`` of 16 to 96 tokens and their patterns, each pattern equally often.

    Of `causal` ones, nothing lies above the diagonal.

    The same seed gives the same maps, and the first of a longer list are those of a shorter one.

    Raises:
        InputError: `count` is negative or `seed` is out of range.
    """
    if count < 0:
        raise InputError(f"count={count}: give the number of maps to generate, 0 or more.")
    check_seed(seed)
    patterns = [PATTERNS[i % len(PATTERNS)] for i in range(count)]
    drawings = (_Drawing(np.random.default_rng((seed, i)), causal) for i in range(count))
    return [drawing.draw(p) for drawing, p in zip(drawings, patterns, strict=True)], patterns


class _Drawing:
    """One random input: its length, its separators, and the components of a map of it."""

    def __init__(self, rng: np.random.Generator, causal: bool) -> None:
        self.rng, self.causal = rng, causal
        self.n = round(np.exp(rng.uniform(*np.log(LENGTHS))))
        border = round(self.n * rng.uniform(0.25, 0.75))
        self.separators = [border, self.n - 1]
        self.offset = np.subtract.outer(np.arange(self.n), np.arange(self.n)).T  # key minus query

    def draw(self, pattern: Pattern) -> Map:
        rng = self.rng
        parts = _PARTS[pattern](self)
        sharpness = rng.uniform(0.2, 1.0) if parts else rng.uniform(0.2, 2.5)
        values = (1 - sum(share for share, _ in parts)) * self.noise(sharpness, plaid=not parts)
        values = values + sum(share * part for share, part in parts)
        if (
            not self.causal and rng.random() < 0.3
        ):  # special tokens often look at themselves or at the first token
            row = rng.choice([0, *self.separators])
            values[row] *= 1 - (share := rng.uniform(0.3, 0.9))
            values[row, rng.choice([0, row])] += share
        if rng.random() < 0.5:  # norm maps weigh each key by the size of its value
            values = values * np.exp(rng.uniform(0, 0.4) * rng.standard_normal(self.n))
        if self.causal and rng.random() < 0.5:  # the first token's value is small where it is a sink
            values[:, 0] *= rng.uniform(0.1, 1.0)
        return values.astype(np.float32)

    def columns(self) -> npt.NDArray[np.float64]:
        """One to three columns, specials first, uneven over rows and sometimes missing."""
        rng, n = self.rng, self.n
        many = rng.choice([1, 2, 3], p=[0.6, 0.25, 0.15])
        special = rng.permutation([0, *self.separators])[:many]
        if self.causal:
            return self.early_columns(many)
        chosen = np.unique(special if rng.random() < 0.7 else rng.choice(n, many, replace=False))
        values = np.zeros((n, n))
        values[:, chosen] = rng.dirichlet(np.full(len(chosen), 3.0)) * self.jitter(0.6, (n, len(chosen)))
        values[rng.random(n) < rng.uniform(0, 0.15)] *= 0.2
        return values / values.sum(axis=1).max()

    def early_columns(self, many: int) -> npt.NDArray[np.float64]:
        """Of a causal map: the first token, or a few of the first half; a row without any yet looks at itself."""
        rng, n = self.rng, self.n
        others = rng.choice(np.arange(1, n // 2), many, replace=False)
        chosen = np.unique([0] * (first := rng.random() < 0.85) + list(others[first:]))
        weight = rng.dirichlet(np.full(len(chosen), 3.0)) * self.jitter(
            rng.uniform(0.1, 0.6), (n, len(chosen))
        )
        values = np.zeros((n, n))
        values[:, chosen] = weight
        values = np.tril(values)
        values[rng.random(n) < rng.uniform(0, 0.15)] *= 0.2
        alone = values.sum(axis=1) == 0
        values[alone, alone] = values.sum(axis=1).max()
        return values / values.sum(axis=1).max()

    def band(self, width: float | None = None) -> npt.NDArray[np.float64]:
        """A line or band along the diagonal, of one or two offsets, some of its cells missing."""
        rng = self.rng
        if width is None:
            width = float(rng.choice([rng.uniform(0.2, 0.7), rng.uniform(0.7, 4.0)]))
        far = rng.choice([0, 1, 2, 3], p=[0.35, 0.45, 0.15, 0.05])
        signs = [1, -1] if rng.random() < 0.3 else [int(rng.choice([1, -1]))]
        signs = [-1] if self.causal else signs
        lines = [np.exp(-(np.abs((self.offset - sign * far) / width) ** 1.5)) for sign in signs]
        values: npt.NDArray[np.float64] = np.sum(lines, axis=0)
        values = values * self.jitter(rng.uniform(0.1, 0.7), values.shape)
        values[rng.random(values.shape) < rng.uniform(0, 0.2)] *= 0.2
        return self.rows(values)

    def blocks(self) -> npt.NDArray[np.float64]:
        """Each token looks evenly at its own segment, or (rarer) at the other one."""
        rng = self.rng
        second = np.arange(self.n) > self.separators[0]
        same = second[:, None] == second[None, :]
        if rng.random() < 0.15:
            same = ~same
        values = same * self.jitter(rng.uniform(0.1, 0.7), same.shape) * self.jitter(0.3, (self.n,))
        return self.rows(values)

    def noise(self, sharpness: float, plaid: bool) -> npt.NDArray[np.float64]:
        """From nearly even to scattered; `plaid` lets keys and groups of tokens differ."""
        rng, n = self.rng, self.n
        logits = sharpness * rng.standard_normal((n, n))
        if plaid:
            logits += rng.uniform(0, 0.5) * rng.standard_normal(n)
            logits += rng.uniform(0, 1.5) * np.outer(rng.standard_normal(n), rng.standard_normal(n))
        if self.causal and plaid:
            logits += rng.choice([0.0, rng.uniform(0, 2)]) * self.offset / n  # what is near is seen more
        return self.rows(np.exp(logits - logits.max(axis=1, keepdims=True)))

    def jitter(self, sigma: float, shape: tuple[int, ...]) -> npt.NDArray[np.float64]:
        return np.exp(sigma * self.rng.standard_normal(shape))

    def rows(self, values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        if self.causal:
            values = np.tril(values)
        return values / values.sum(axis=1, keepdims=True).clip(1e-9)


def _vertical(map: _Drawing) -> Parts:
    return [(map.rng.uniform(0.35, 0.98), map.columns())]


def _diagonal(map: _Drawing) -> Parts:
    parts = [(map.rng.uniform(0.35, 0.9), map.band())]
    if map.rng.random() < 0.3:  # a faint column does not count
        parts.append((map.rng.uniform(0.0, 0.1), map.columns()))
    return parts


def _vertical_diagonal(map: _Drawing) -> Parts:
    whole = map.rng.uniform(0.6, 0.98)
    share = map.rng.uniform(0.3, 0.7)
    return [(whole * share, map.columns()), (whole * (1 - share), map.band(map.rng.uniform(0.2, 1.2)))]


def _block(map: _Drawing) -> Parts:
    return [(map.rng.uniform(0.6, 0.98), map.blocks())]


def _heterogeneous(map: _Drawing) -> Parts:
    return []


_PARTS: dict[Pattern, Callable[[_Drawing], Parts]] = {
    Pattern.VERTICAL: _vertical,
    Pattern.DIAGONAL: _diagonal,
    Pattern.VERTICAL_DIAGONAL: _vertical_diagonal,
    Pattern.BLOCK: _block,
    Pattern.HETEROGENEOUS: _heterogeneous,
}
"""What a map of each pattern is made of besides noise: shares of the attention, and where they lie."""
