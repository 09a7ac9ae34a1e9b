"""A picture of how every head of a decoder reads the encoder."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from matplotlib import colormaps
from matplotlib.colors import to_rgb

from models.common.drawing import SMALL, Page, page_width, text_style, text_width
from models.common.palette import MAP, MISSING

from ..figures import plain_ticks, tick_positions

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_WIDTH = 5.2  # inches
_GAP = 1  # cells between two maps
_NOTE = "In each map: decoder's tokens from top to bottom, encoder's from left to right."


def mean_maps(maps: npt.NDArray[np.float32], kind: str) -> Figure:
    """Draw a small map for each head: layers from top to bottom, heads from left to right.

    In each, rows are the decoder's tokens, the first one on top, and columns the encoder's; the brightest cell is the
    head's own largest. A head without any map is grey.

    Args:
        maps: ``[L, H, side, side]``.
        kind: of the maps, for the title.
    """
    layers, heads, side, _ = maps.shape
    left, right, below, above = 0.62, 0.08, 0.56, 0.24
    cell = max(0.12, min((page_width(_WIDTH) - left - right) / heads, 0.8))
    least = 0.16 + text_width(_NOTE, SMALL)
    page = Page(max(page_width(_WIDTH), least, left + cell * heads + right), below + cell * layers + above)
    step = side + _GAP
    canvas = np.ones((layers * step - _GAP, heads * step - _GAP, 3))
    for layer, head in np.ndindex(layers, heads):
        canvas[layer * step :, head * step :][:side, :side] = _colours(maps[layer, head])
    axes = page.axes((page.width - cell * heads + left - right) / 2, below, cell * heads, cell * layers)
    axes.imshow(canvas, interpolation="nearest", aspect="auto", extent=(0, heads, layers, 0))
    xs, ys = tick_positions(heads, cell), tick_positions(layers, cell)
    axes.set_xticks([x + 0.5 for x in xs], [str(x) for x in xs])
    axes.set_yticks([y + 0.5 for y in ys], [str(y) for y in ys])
    axes.tick_params(length=0, pad=2)
    plain_ticks(axes)
    axes.set_title(f"{kind} maps of cross-attention, mean of each head", pad=4, **text_style(9))
    axes.set_xlabel("head", labelpad=2, **text_style(9))
    axes.set_ylabel("layer (0 on top)" if cell * layers > 1 else "layer", labelpad=3, **text_style(9))
    page.text(0.08, 0.1, _NOTE)
    return page.figure


def _colours(values: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    peak = values.max()
    if peak <= 0:
        return np.broadcast_to(to_rgb(MISSING), (*values.shape, 3))
    return np.asarray(colormaps[MAP](values / peak)[..., :3])
