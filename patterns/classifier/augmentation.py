"""Random changes of a training map that do not change its pattern, as torchvision transforms on batches.

What a pattern is says what may be done: a map may be cropped along its diagonal (any stretch of the
input, for queries and keys alike), stretched unevenly (tokens have no fixed width), made fainter, and
given noise. It must not be transposed, flipped or rotated: a column would become a row.
"""

from __future__ import annotations

from typing import Any

import torch
from torchvision.transforms import v2

from ..maps.images import area_matrices, image_pair, relative

SHORTEST_WINDOW = 12


class RandomWindow(v2.Transform):
    """From padded maps to images of a random stretch of each input, unevenly stretched.

    Args:
        size: side of the images.
        crop: largest share of the tokens that may be left out; two maps of five are left whole.
        warp: largest standard deviation of the logarithm of the widths given to the image's cells.
    """

    def __init__(self, size: int, crop: float = 0.3, warp: float = 0.2) -> None:
        super().__init__()
        self.size, self.crop, self.warp = size, crop, warp

    def forward(self, maps: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """Return images ``[B, size, size]`` of maps ``[B, n, n]`` with `lengths` ``[B]`` real tokens each."""
        total = lengths.double()
        b = len(total)
        share = 1 - self.crop * torch.rand(b, dtype=torch.float64) * (torch.rand(b) < 0.6)
        window = torch.maximum(total.clamp_max(SHORTEST_WINDOW), total * share)
        start = torch.rand(b, dtype=torch.float64) * (total - window)
        strength = self.warp * torch.rand(b, 1, dtype=torch.float64)
        widths = torch.exp(strength * torch.randn(b, self.size, dtype=torch.float64))
        edges = torch.cat([torch.zeros(b, 1, dtype=torch.float64), widths.cumsum(dim=1)], dim=1)
        edges = start[:, None] + window[:, None] * edges / edges[:, -1:]
        return image_pair(maps[:, None], None, area_matrices(edges, maps.shape[-1]))[0][:, 0]


class RandomNoise(v2.Transform):
    """Add to each image the absolute value of Gaussian noise, of a strength drawn for each image.

    Args:
        sigma: largest standard deviation, relative to the image's maximum.
    """

    def __init__(self, sigma: float = 0.015) -> None:
        super().__init__()
        self.sigma = sigma

    def transform(self, inpt: torch.Tensor, params: dict[str, Any]) -> torch.Tensor:
        """Return noisy relative images ``[B, size, size]``."""
        strength = self.sigma * torch.rand(len(inpt), 1, 1)
        return relative(relative(inpt) + strength * torch.randn_like(inpt).abs())


class RandomContrast(v2.Transform):
    """Raise each relative image to a power drawn for it.

    Args:
        sigma: standard deviation of the logarithm of the power.
    """

    def __init__(self, sigma: float = 0.15) -> None:
        super().__init__()
        self.sigma = sigma

    def transform(self, inpt: torch.Tensor, params: dict[str, Any]) -> torch.Tensor:
        """Return images ``[B, size, size]`` with their faint parts raised or lowered."""
        return relative(inpt) ** torch.exp(self.sigma * torch.randn(len(inpt), 1, 1))
