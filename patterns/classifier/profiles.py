"""What one would measure on an attention map by hand, and small networks that decide by it."""

from __future__ import annotations

import math

import torch
from torch import nn

from ..maps.images import relative
from ..taxonomy import PATTERNS

SMALLEST = 8
"""Side of the smallest images that can be measured."""
_REACH = 6  # diagonals this far from the main one are measured
_LINES = 2 * _REACH + 1
_BANDS = (1, 3, 6)
_TINY = 1e-9
_STEADY = 1e-4  # a measurement that varies less than this is not blown up
_FAR = 3.0


class Profiles(nn.Module):
    """Small networks on measurements of an image, beside the convolutional ones of a classifier.

    They err elsewhere than those do, which is why the average of both is better than either.

    Args:
        size: side of the images.
        networks: how many; their probabilities are averaged.
        width: of the two hidden layers of each.
    """

    masks: torch.Tensor
    centre: torch.Tensor
    """``[F]``, the mean of each measurement over the maps learned from."""
    sharpness: torch.Tensor
    """``[F]``, one over their standard deviation."""

    def __init__(self, size: int, networks: int, width: int = 64) -> None:
        super().__init__()
        self.register_buffer("masks", _masks(size), persistent=False)
        measured = self.measure(torch.ones(1, size, size)).shape[1]
        self.register_buffer("centre", torch.zeros(measured))
        self.register_buffer("sharpness", torch.ones(measured))
        self.networks = nn.ModuleList(
            nn.Sequential(
                nn.Linear(measured, width),
                nn.GELU(),
                nn.Linear(width, width),
                nn.GELU(),
                nn.Linear(width, len(PATTERNS)),
            )
            for _ in range(networks)
        )

    def get_used_to(self, measured: torch.Tensor) -> None:
        """Take measurements ``[N, F]`` as what is usual."""
        self.centre.copy_(measured.mean(dim=0))
        self.sharpness.copy_(1 / measured.std(dim=0, correction=0).clamp_min(_STEADY))

    def usual(self, measured: torch.Tensor) -> torch.Tensor:
        """Return measurements in standard deviations from what is usual, none of them further than three."""
        return ((measured - self.centre) * self.sharpness).clamp(-_FAR, _FAR)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return probabilities ``[N, 5]`` of images ``[N, size, size]``, each relative to its map's largest cell."""
        usual = self.usual(self.measure(images))
        return torch.stack([network(usual).softmax(dim=-1) for network in self.networks]).mean(dim=0)

    def measure(self, images: torch.Tensor) -> torch.Tensor:
        """Return measurements ``[N, F]`` of images ``[N, size, size]``, each relative to its map's largest cell.

        How bright the image is beside that cell; and everything else twice: on the image relative to its own
        maximum, and on its square root, which shows what is faint.
        """
        shown = relative(images)
        steady = shown.median(dim=1).values  # [N, size]: what most rows of a column reach
        bright = images.amax(dim=(1, 2)).clamp_min(_TINY).log()[:, None]
        return torch.cat(
            [self._measure(shown, steady), self._measure(shown.sqrt(), steady.sqrt()), bright], dim=1
        )

    def _measure(self, shown: torch.Tensor, steady: torch.Tensor) -> torch.Tensor:
        n, size = steady.shape
        columns = shown.mean(dim=1)
        mean = columns.mean(dim=1, keepdim=True)
        brightest = columns.topk(3, dim=1).values
        parts = shown.flatten(1) @ self.masks
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
