"""Maps of any length as images of one size, exactly and inside a padded batch.

The image of a map is its area average: image cell (a, b) is the mean of the map over the part of the
input that the cell covers. That is ``R M R^T`` with one small matrix R per length, so a batch of
lengths is two matrix products, and padding, whose columns in R are zero, never gets in. It is a sum over
the rows of M too, so that of a long input no map need ever be whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

IMAGE_SIZE = 32
"""Side of an image in cells."""


def resampling_matrices(lengths: torch.Tensor, n: int, size: int = IMAGE_SIZE) -> torch.Tensor:
    """Return R ``[B, size, n]``: image cell a averages the tokens in ``[a, a + 1) * length / size``.

    Args:
        lengths: ``[B]`` number of real tokens of each input.
        n: padded length; columns from `length` on are zero.
        size: side of the images.
    """
    # float64, or cells at token borders would get slivers of the wrong token; on the CPU, since MPS has none.
    edges = torch.arange(size + 1, dtype=torch.float64) * lengths.cpu()[:, None].double() / size
    return area_matrices(edges, n).to(lengths.device)


def area_matrices(edges: torch.Tensor, n: int) -> torch.Tensor:
    """Return matrices ``[B, size, n]`` that average tokens between edges ``[B, size + 1]`` (in tokens).

    Row a gives each token the share of ``[edges[a], edges[a + 1])`` that lies on it; it sums to 1.
    """
    token = torch.arange(n, device=edges.device, dtype=edges.dtype)
    low = torch.maximum(edges[:, :-1, None], token)
    high = torch.minimum(edges[:, 1:, None], token + 1)
    return ((high - low).clamp_min(0) / (edges[:, 1:] - edges[:, :-1])[..., None]).float()


def image_pair(
    probabilities: torch.Tensor, norms: torch.Tensor | None, resampling: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Return the images of the raw and of the norm maps, ``[B, H, size, size]`` each.

    The norm map is ``N = P diag(f)``, so its image ``R N R^T = (R P) diag(f) R^T`` needs no N and shares
    ``R P`` with the raw image.

    Args:
        probabilities: ``P [B, H, n, n]``.
        norms: ``f [B, H, n]``, the norms of the transformed values; None if no norm image is wanted.
        resampling: ``R [B, size, n]``.
    """
    rows = torch.matmul(resampling[:, None], probabilities)  # [B, H, size, n]
    columns = resampling.transpose(1, 2)[:, None]  # [B, 1, n, size]
    raw = torch.matmul(rows, columns)
    norm = None if norms is None else torch.matmul(rows * norms[:, :, None, :], columns)
    return raw, norm


@dataclass(frozen=True)
class Resampling:
    """The matrices of one batch, as :func:`resampling_matrices` makes them."""

    matrices: torch.Tensor
    """``R [B, size, n]``."""
    shortest: int
    """Tokens of the shortest input."""
    longest: int
    """Tokens of the longest."""

    @classmethod
    def of(cls, lengths: torch.Tensor, n: int, size: int = IMAGE_SIZE) -> Resampling:
        """Make them for inputs of these lengths ``[B]``, padded to `n` tokens."""
        matrices = resampling_matrices(lengths, n, size)
        return cls(matrices, int(lengths.min()), int(lengths.max()))

    def cells(self, rows: slice) -> slice:
        """Return the cells, along a side, in which any of these tokens of any input may lie."""
        size = self.matrices.shape[1]
        end = -(-rows.stop * size // self.shortest)
        return slice(min(rows.start * size // self.longest, size - 1), min(end, size))


class SummedImages:
    """The images of a layer's maps, put together from blocks of their rows; see :func:`image_pair`.

    Args:
        resampling: of the batch.
        norms: ``f [B, H, n]``; None if no norm images are wanted.
        values: the layer's, ``[B, H, n, d_head]``.
    """

    raw: torch.Tensor
    """``[B, H, size, size]``: of the rows added so far."""
    norm: torch.Tensor | None

    def __init__(self, resampling: Resampling, norms: torch.Tensor | None, values: torch.Tensor) -> None:
        self._cells, self._norms = resampling.cells, norms
        self._matrices = resampling.matrices.to(values.device)
        size = self._matrices.shape[1]
        self.raw = values.new_zeros(*values.shape[:2], size, size, dtype=torch.float32)
        self.norm = None if norms is None else torch.zeros_like(self.raw)

    def add(self, probabilities: torch.Tensor, rows: slice, keys: slice) -> None:
        """Add the rows ``[B, H, m, k]`` of P that are those of queries `rows`; they are 0 but at `keys`."""
        cells = self._cells(rows)
        columns = self._matrices[:, None, :, keys].transpose(2, 3)  # [B, 1, k, size]
        some = torch.matmul(self._matrices[:, None, cells, rows], probabilities)  # [B, H, cells, k]
        self.raw[:, :, cells] += torch.matmul(some, columns)
        if self.norm is not None and self._norms is not None:
            self.norm[:, :, cells] += torch.matmul(some * self._norms[:, :, None, keys], columns)


def largest_cells(probabilities: torch.Tensor, lengths: Sequence[int]) -> torch.Tensor:
    """Return the largest cell of every column ``[B, H, k]`` of some rows ``[B, H, m, k]`` of P.

    Args:
        probabilities: the rows.
        lengths: how many of the rows are of real tokens, of each input.
    """
    if min(lengths) == probabilities.shape[2]:
        return probabilities.amax(dim=2)
    columns = probabilities.new_zeros(*probabilities.shape[:2], probabilities.shape[3])
    for one, of_one, length in zip(columns, probabilities, lengths, strict=True):
        if length > 0:
            torch.amax(of_one[:, :length], dim=1, out=one)
    return columns


def on_scale(images: torch.Tensor, largest: torch.Tensor) -> torch.Tensor:
    """Return images ``[..., size, size]`` relative to the largest cell ``[...]`` of each one's map."""
    return images / largest[..., None, None].clamp_min(torch.finfo(images.dtype).tiny)


def evened(images: torch.Tensor) -> torch.Tensor:
    """Return images ``[..., size, size]`` of causal maps with each row on its own scale.

    Under even attention the rows of a causal map fade, since there are more keys the later the query: times the keys
    that it may see, each is as bright as the others. The largest cell stays what it was.
    """
    size = images.shape[-1]
    keys = ((torch.arange(size, device=images.device) + 0.5) / size)[:, None].to(images.dtype)
    even = images * keys
    tiny = torch.finfo(images.dtype).tiny
    return even * (images.amax(dim=(-2, -1)) / even.amax(dim=(-2, -1)).clamp_min(tiny))[..., None, None]


def relative(images: torch.Tensor) -> torch.Tensor:
    """Scale each image ``[..., size, size]`` to a maximum of 1: what an annotator sees is relative to it."""
    return images / images.amax(dim=(-2, -1), keepdim=True).clamp_min(torch.finfo(images.dtype).tiny)
