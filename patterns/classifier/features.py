"""What one would measure on an image of an attention map by hand, for the trees that a network learns from."""

from __future__ import annotations

import math
from functools import cache

import torch

from ..maps.images import relative

SMALLEST = 8
"""Side of the smallest images that can be measured."""
_REACH = 6  # diagonals this far from the main one are measured
_LINES = 2 * _REACH + 1
_BANDS = (1, 3, 6)
_TINY = 1e-9


def features_of(images: torch.Tensor) -> torch.Tensor:
    """Return features ``[N, F]`` of images ``[N, size, size]``, as a network sees them.

    How bright the image is beside its map's largest cell; and everything else twice: on the image relative to its own
    maximum, and on its square root, which shows what is faint.
    """
    image = relative(images)
    steady = image.median(dim=1).values  # [N, size]: what most rows of a column reach
    bright = images.amax(dim=(1, 2)).clamp_min(_TINY).log()[:, None]
    return torch.cat([_measured(image, steady), _measured(image.sqrt(), steady.sqrt()), bright], dim=1)


def _measured(shown: torch.Tensor, steady: torch.Tensor) -> torch.Tensor:
    n, size = steady.shape
    columns = shown.mean(dim=1)
    mean = columns.mean(dim=1, keepdim=True)
    brightest = columns.topk(3, dim=1).values
    parts = shown.flatten(1) @ _masks(size)
    lines, bands, blocks = parts.tensor_split((_LINES, _LINES + len(_BANDS)), dim=1)
    first, second, across = blocks.reshape(n, 3, -1).unbind(dim=1)
    contrast = (torch.minimum(first, second) - across) / (first + second + across + _TINY)
    rest = shown - steady[:, None]  # without the steady columns
    beside = torch.stack([rest.diagonal(k, 1, 2).mean(dim=1) for k in (-1, 0, 1)], dim=1)
    total = (size * size * mean[:, 0]).clamp_min(_TINY)
    weighted = (shown * shown.clamp_min(_TINY).log()).sum(dim=(1, 2))
    spread = rest.square().mean(dim=(1, 2)) - (mean - steady.mean(dim=1, keepdim=True))[:, 0].square()
    single = [
        mean[:, 0],
        columns.std(dim=1),
        shown.mean(dim=2).std(dim=1),
        rest.abs().mean(dim=(1, 2)),
        spread.clamp_min(0).sqrt(),
        lines.amax(dim=1),
        contrast.amax(dim=1),
        (total.log() - weighted / total) / math.log(size * size),  # the entropy, relative to the largest
        brightest.sum(dim=1) / (size * mean[:, 0]).clamp_min(_TINY),
    ]
    several = [
        brightest,
        steady.topk(2, dim=1).values,
        columns[:, [0, -1]],
        lines[:, 2:-2],
        bands / mean.clamp_min(_TINY),
        beside,
    ]
    return torch.cat([torch.stack(single, dim=1), *several], dim=1)


@cache
def _masks(size: int) -> torch.Tensor:
    """Return ``[size * size, M]``: an image times it is averaged over each of M parts.

    The parts are the diagonals near the main one; the bands around it; and, for each border between two
    sentences that there could be, the first one's block, the second one's, and what lies across.
    """
    token = torch.arange(size)
    offset = token[None, :] - token[:, None]
    diagonals = [offset == k for k in range(-_REACH, _REACH + 1)]
    bands = [offset.abs() <= k for k in _BANDS]
    least = max(3, size // 5)
    before = token < torch.arange(least, size - least)[:, None]  # [cuts, size]
    first = before[:, :, None] & before[:, None, :]
    second = ~before[:, :, None] & ~before[:, None, :]
    on = torch.cat([torch.stack([*diagonals, *bands]), first, second, ~(first | second)]).float()
    cells = on.sum(dim=(1, 2))
    cells[_LINES : _LINES + len(_BANDS)] = size * size  # of a band, the share of the whole is wanted
    return (on / cells[:, None, None]).flatten(1).T.contiguous()
