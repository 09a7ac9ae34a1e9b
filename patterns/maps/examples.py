"""A few maps of every head, kept while heads are classified, for people to look at.

Classifying forgets each map at once. What a report shows is therefore chosen on the way: it costs a comparison of
probabilities for every map and a copy of the few that are better than those kept so far. Batches come in any order and
size; the choice is the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from models.tasks.token_text import shown_tokens

from ..taxonomy import PATTERNS
from .images import Resampling, resampling_matrices

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from models.tasks.inputs import Encoded

SURE, DRAWN, UNSURE = "sure", "drawn", "unsure"
"""Why a map is kept: of its head and pattern the one with the highest probability; of its head and pattern one that
chance alone chose; among all maps of its kind one of those with the least margin between the two likeliest patterns."""

SIDE = 64
"""Cells along the side of a map that is kept; longer maps are averaged down to it."""

Gather = Callable[[npt.NDArray[np.intp], npt.NDArray[np.intp]], torch.Tensor]
"""``gather(inputs [K], heads [K])`` returns their maps ``[K, n, n]``, padding included; or what :func:`small_maps`
makes of them, ``[K, SIDE, SIDE]``."""


def small_maps(lengths: torch.Tensor, n: int) -> Resampling:
    """Return the matrices that make, of maps of these lengths ``[B]``, what is kept of them at most.

    Longer ones are averaged to ``[SIDE, SIDE]``; others stay as they are, in the first cells of that.
    """
    return Resampling.of(lengths.clamp_min(SIDE), n, SIDE)


@dataclass(frozen=True, eq=False)
class Input:
    """What a map is of."""

    source: str
    """The checkpoint, where there are several; else empty."""
    example: int
    tokens: tuple[str, ...]
    borders: tuple[int, ...]
    """Positions of the separators."""


@dataclass(frozen=True, eq=False)
class ExampleMap:
    """One map that was kept."""

    kind: str
    layer: int
    head: int
    probabilities: npt.NDArray[np.float32]
    """``[5]``, in Pattern order."""
    input: Input
    cells: npt.NDArray[np.uint8]
    """``[s, s]``: 255 is the map's maximum."""
    peak: float
    """That maximum; of a map longer than :data:`SIDE`, of its averages."""

    @property
    def pattern(self) -> int:
        """Index into ``PATTERNS``."""
        return int(self.probabilities.argmax())

    @property
    def margin(self) -> float:
        """By how much the likeliest pattern is likelier than the next."""
        second, first = np.sort(self.probabilities)[-2:]
        return float(first - second)

    def averaged(self, side: int) -> npt.NDArray[np.uint8]:
        """Return the cells, averaged down to `side` along each side if there are more; the maximum is 255 again."""
        return self.cells if len(self.cells) <= side else _quantised(_averaged(self.cells, side))[0]


class ExampleMaps:
    """Keeps maps while :func:`patterns.classify_heads` runs; bounded by the number of heads, whatever the examples.

    For every kind, head and pattern that the head shows, two maps: the surest, and one that chance chose (the first in
    one random order of all inputs, so that heads are seen on the same inputs where they can be). Inputs of more than
    :data:`SIDE` tokens are taken only where no shorter one shows the pattern. And of every kind the least certain maps,
    no two of one head.

    Args:
        unsure: number of least certain maps of each kind.
        seed: of the random order.
    """

    def __init__(self, unsure: int = 24, seed: int = 0) -> None:
        self._unsure, self._seed = unsure, seed
        self._kept: dict[tuple[Any, ...], ExampleMap] = {}
        self._scores: dict[tuple[Any, ...], npt.NDArray[np.float64]] = {}
        self._margins: dict[str, dict[tuple[int, int], float]] = {}
        self._inputs: dict[tuple[str, int], Input] = {}
        self.source = ""
        """Name of the checkpoint whose maps come next, where there are several."""

    def begin(self, tokenizer: PreTrainedTokenizerBase) -> None:
        """Prepare for a model's maps: whose tokens these are."""
        self._tokenizer = tokenizer

    def start(self, ids: npt.NDArray[np.int64], members: Sequence[Encoded]) -> None:
        """Prepare for a batch: which examples it holds."""
        self._ids, self._members = ids, members
        self._long = np.array([len(one) > SIDE for one in members])
        self._order = np.array([np.random.default_rng([self._seed, int(i) + 1]).random() for i in ids])

    def see(
        self,
        kind: str,
        layer: int,
        heads: Sequence[int],
        found: npt.NDArray[np.float32],
        gather: Gather,
        empty: npt.NDArray[np.bool_] | None = None,
    ) -> None:
        """Keep of one layer's maps those that are better than what is kept.

        Args:
            kind: raw or norm.
            layer: from 0.
            heads: numbers of the layer's heads.
            found: ``[B, H, 5]``, their probabilities.
            gather: returns the maps asked for.
            empty: ``[B, H]``, which maps show nothing and are not kept.
        """
        empty = np.zeros(found.shape[:2], dtype=bool) if empty is None else empty
        labels = found.argmax(axis=-1)[..., None] == np.arange(len(PATTERNS))  # [B, H, 5]
        labels &= ~empty[..., None]
        wanted: dict[tuple[int, int], list[tuple[Any, ...]]] = {}
        for role, good in ((SURE, found.max(axis=-1).astype(float)), (DRAWN, self._order[:, None])):
            table = np.where(labels, (good - 2.0 * self._long[:, None])[..., None], -np.inf)
            best, score = table.argmax(axis=0), table.max(axis=0)  # [H, 5]
            held = self._scores.setdefault((role, kind, layer, *heads), np.full(score.shape, -np.inf))
            for head, pattern in np.argwhere(score > held).tolist():
                place = int(best[head, pattern]), head
                wanted.setdefault(place, []).append((role, kind, layer, heads[head], pattern))
            np.maximum(held, score, out=held)
        for place in self._least_certain(kind, layer, heads, found, empty):
            wanted.setdefault(place, []).append((UNSURE, kind, layer, heads[place[1]]))
        if not wanted:
            return
        inputs, members = (np.array(part, dtype=np.intp) for part in zip(*wanted, strict=True))
        maps = gather(inputs, members).float().cpu().numpy()
        for (i, head), values, keys in zip(wanted, maps, wanted.values(), strict=True):
            n = len(self._members[i])
            cells, peak = _quantised(_averaged(values[:n, :n], SIDE))
            kept = ExampleMap(kind, layer, heads[head], found[i, head].copy(), self._input(i), cells, peak)
            self._kept |= dict.fromkeys(keys, kept)

    def _least_certain(
        self,
        kind: str,
        layer: int,
        heads: Sequence[int],
        found: npt.NDArray[np.float32],
        empty: npt.NDArray[np.bool_],
    ) -> Iterator[tuple[int, int]]:
        """Take the places of a batch that belong to the least certain of all, and give up those that no longer do."""
        second, first = np.moveaxis(np.sort(found, axis=-1)[..., -2:], -1, 0)  # [B, H] each
        margins = np.where(empty, np.inf, first - second)
        kept = self._margins.setdefault(kind, {})
        best = margins.argmin(axis=0)
        for head in margins.min(axis=0).argsort(kind="stable").tolist():
            place, margin = (layer, heads[head]), float(margins[best[head], head])
            if margin >= kept.get(place, np.inf):
                continue
            if place not in kept and len(kept) >= self._unsure:
                worst = max(kept, key=lambda one: (kept[one], one))
                if (margin, place) >= (kept[worst], worst):
                    continue
                del kept[worst]
                self._kept.pop((UNSURE, kind, *worst), None)
            kept[place] = margin
            yield int(best[head]), head

    def _input(self, i: int) -> Input:
        example, one = int(self._ids[i]), self._members[i]
        if (self.source, example) not in self._inputs:
            tokens = tuple(shown_tokens(self._tokenizer, one.input_ids))
            self._inputs[self.source, example] = Input(self.source, example, tokens, one.borders)
        return self._inputs[self.source, example]

    def of_heads(self) -> list[tuple[ExampleMap, frozenset[str]]]:
        """Return the maps of each head with why they are kept, by kind, layer, head and pattern; the surest first."""
        reasons: dict[int, set[str]] = {}
        maps: dict[int, ExampleMap] = {}
        for key, one in self._kept.items():
            reasons.setdefault(id(one), set()).add(key[0])
            maps[id(one)] = one
        found = [(maps[i], frozenset(why)) for i, why in reasons.items()]
        return sorted(
            found,
            key=lambda pair: (
                pair[0].kind,
                pair[0].layer,
                pair[0].head,
                pair[0].pattern,
                SURE not in pair[1],
                DRAWN not in pair[1],
                pair[0].input.example,
            ),
        )


def _averaged(cells: npt.NDArray[Any], side: int) -> npt.NDArray[Any]:
    """A map ``[n, n]``, by area averages ``[side, side]`` if it is longer than that."""
    n = len(cells)
    if n <= side:
        return cells
    rows = _averaging(n, side)
    return rows @ cells.astype(np.float32) @ rows.T


@lru_cache
def _averaging(n: int, side: int) -> npt.NDArray[np.float32]:
    """``[side, n]``: averages n tokens to `side` cells."""
    return resampling_matrices(torch.tensor([n]), n, side)[0].numpy()


def _quantised(values: npt.NDArray[Any]) -> tuple[npt.NDArray[np.uint8], float]:
    """The values in 255 steps, and their maximum."""
    peak = float(values.max())
    return np.rint(values * (255 / peak) if peak > 0 else values).astype(np.uint8), peak
