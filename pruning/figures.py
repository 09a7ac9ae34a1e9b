"""The figure of how much a model's loss depends on each head and each MLP."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from models.common.drawing import SMALL, Page, page_width, text_style
from models.common.palette import ALWAYS, MISSING, NEVER
from patterns.figures import plain_ticks, tick_positions

_WIDTH, _LEFT, _BELOW, _ABOVE = 4.2, 0.5, 0.42, 0.36  # inches: the page, and around the grid
_LARGEST = 0.26  # inches, of a cell

Floats = npt.NDArray[np.float64]


def importance_grid(heads: Floats, mlps: Floats) -> Figure:
    """Draw importances as a grid, rows are layers, 0 on top, and the MLPs' column beside it; what is missing is grey.

    Heads are as dark as their share of the most important head, MLPs as theirs of the most important MLP.

    Args:
        heads: ``[L, H]``, NaN for what is not there.
        mlps: ``[L]``.
    """
    layers, number = heads.shape
    width = page_width(_WIDTH)
    cell = max(0.05, min((width - _LEFT - 0.3) / (number + 1.6), _LARGEST, 7.5 / layers))
    page = Page(width, _BELOW + layers * cell + _ABOVE)
    page.title("Importance, as a share of the largest")
    colours = LinearSegmentedColormap.from_list("importance", [NEVER, ALWAYS])
    colours.set_bad(MISSING)
    for values, x, name in ((heads, 0.0, "head"), (mlps[:, None], number + 0.6, "MLP")):
        columns = values.shape[1]
        axes = page.axes(_LEFT + x * cell, _BELOW, columns * cell, layers * cell)
        largest = np.nanmax(values, initial=0.0) or 1.0
        axes.imshow(np.ma.masked_invalid(values / largest), cmap=colours, vmin=0, vmax=1, aspect="auto")
        axes.set_xticks([*tick_positions(columns, cell)] if columns > 1 else [])
        axes.set_yticks([*tick_positions(layers, cell)] if not x else [])
        axes.tick_params(length=0, pad=2)
        axes.set_xlabel(name, labelpad=1, **text_style(SMALL))
        if not x:
            axes.set_ylabel("layer", labelpad=2, **text_style(SMALL))
        plain_ticks(axes)
    return page.figure
