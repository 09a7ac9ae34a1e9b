"""What is measured of a map of cross-attention: how the weight of its rows lies on the source's tokens.

A row is a token that the decoder reads, a column one of the encoder's, and rows and columns need not be as many: there
is no diagonal that a pattern could be defined by. So each row is looked at alone, scaled to a sum of 1 (rows of norm
maps sum to anything), and what is found is averaged over the rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Source:
    """What is known of the encoder's tokens of a batch, padded to m."""

    lengths: torch.Tensor
    """``[B]``."""
    special: torch.Tensor
    """``[B, m]``: which of them are special tokens."""

    def to(self, device: torch.device) -> Source:
        """Return it on a device."""
        return Source(self.lengths.to(device), self.special.to(device))


@dataclass(frozen=True)
class Measure:
    """One number for each row of a map."""

    meaning: str
    of: Callable[[torch.Tensor, Source], torch.Tensor]
    """From rows ``[B, H, r, m]``, each with a sum of 1 and nothing on padding, to ``[B, H, r]``."""


def _entropy(rows: torch.Tensor, source: Source) -> torch.Tensor:
    most = source.lengths.to(rows.dtype).log()[:, None, None]
    return torch.special.entr(rows).sum(dim=-1) / most


def _largest(rows: torch.Tensor, source: Source) -> torch.Tensor:
    return rows.amax(dim=-1)


def _first(rows: torch.Tensor, source: Source) -> torch.Tensor:
    return rows[..., 0]


def _last(rows: torch.Tensor, source: Source) -> torch.Tensor:
    places = (source.lengths - 1)[:, None, None, None].expand(*rows.shape[:3], 1)
    return rows.gather(-1, places)[..., 0]


def _special(rows: torch.Tensor, source: Source) -> torch.Tensor:
    return (rows * source.special[:, None, None]).sum(dim=-1)


MEASURES: Mapping[str, Measure] = {
    "entropy": Measure(
        "entropy of a row, divided by the largest that it could have: 0 if all weight is on one source token, 1 if it "
        "is spread evenly",
        _entropy,
    ),
    "largest": Measure("share of a row's weight on the source token with the most", _largest),
    "first": Measure("share of a row's weight on the first source token", _first),
    "last": Measure("share of a row's weight on the last source token", _last),
    "special": Measure(
        "share of a row's weight on special source tokens, the first and the last one among them where these are",
        _special,
    ),
}
"""By the name of its column: each a mean over a map's rows, between 0 and 1."""


def sums(maps: torch.Tensor, rows: torch.Tensor, source: Source) -> torch.Tensor:
    """Return each measure's sum over some rows of maps, ``[B, H, measures]``; a row without weight gives 0.

    Args:
        maps: ``[B, H, r, m]``, raw or norm, 0 at the source's padding.
        rows: ``[B, r]``: which rows are no padding.
        source: the columns, at least two of each input.
    """
    scaled = maps / maps.sum(dim=-1, keepdim=True).clamp_min(torch.finfo(maps.dtype).tiny)
    each = torch.stack([measure.of(scaled, source) for measure in MEASURES.values()], dim=-1)
    return (each * rows[:, None, :, None]).sum(dim=2)
