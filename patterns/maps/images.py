"""Maps of any length as images of one size, exactly and inside a padded batch.

The image of a map is its area average: image cell (a, b) is the mean of the map over the part of the
input that the cell covers. That is ``R M R^T`` with one small matrix R per length, so a batch of
lengths is two matrix products, and padding, whose columns in R are zero, never gets in.
"""

from __future__ import annotations

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


def relative(images: torch.Tensor) -> torch.Tensor:
    """Scale each image ``[..., size, size]`` to a maximum of 1: what an annotator sees is relative to it."""
    return images / images.amax(dim=(-2, -1), keepdim=True).clamp_min(torch.finfo(images.dtype).tiny)
