"""The figure of ``compare-heads``: the same heads of every model side by side."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from models.common.drawing import SMALL, Legend, Page, Swatch, page_width, text_style, text_width
from models.common.pages import short_name
from models.common.palette import INK, MISSING

from ..figures import draw_heads, pattern_key
from ..result import HeadPatterns
from ..tables import ZERO, ZERO_WORDS, HeadGrid, head_grids
from .paired import Pair

_WIDTH, _MOST = 6.9, 6  # inches: the text width of a two-column page; grids beside each other


def changes_grid(labels: Sequence[str], patterns: Sequence[HeadPatterns], pairs: Sequence[Pair]) -> Figure:
    """Draw the dominant pattern of every head in each model, a row a kind of maps; of many models, several rows.

    Outlined are the heads whose dominant pattern is another than in the model before; of two models, in both grids.

    Args:
        labels: of each model.
        patterns: of each model.
        pairs: each model with the next, in order; what follows is not looked at.
    """
    layers, heads = patterns[0].heads.shape
    kinds = patterns[0].kinds
    columns = min(len(patterns), _MOST)
    blocks = -(-len(patterns) // columns)
    left, right, between, above = 0.5, 0.08, 0.3, 0.34
    cell = (page_width(_WIDTH) - left - right - between * (columns - 1)) / (columns * heads)
    cell = max(0.05, min(cell, 0.3, 7.5 / (layers * blocks * len(kinds))))
    panel_w, panel_h = cell * heads, cell * layers
    titles = [_shortened(short_name(label), max(panel_w, 1.0)) for label in labels]
    step = max(panel_w, 1.0) + between
    width = max(left + columns * step - between + right, 4.2)
    empty = any(
        pattern is None for one in patterns for grid in _grids(one).values() for pattern, _ in grid.values()
    )
    missing = any(not one.heads.all() for one in patterns)
    legend = Legend(width - 0.16, [pattern_key(), _outline_key(missing, empty)])
    rows = blocks * len(kinds)
    page = Page(width, rows * (panel_h + above) + 0.42 + legend.height)
    grids = [_grids(one) for one in patterns]
    for number, (title, of_kind) in enumerate(zip(titles, grids, strict=True)):
        block, column = divmod(number, columns)
        for place, kind in enumerate(kinds):
            x = left + column * step
            y = page.height - (block * len(kinds) + place + 1) * (panel_h + above)
            axes = page.axes(x, y, panel_w, panel_h)
            draw_heads(
                axes, of_kind[kind], layers, heads, cell, _outlined(number, kind, pairs, len(patterns))
            )
            axes.set_title(title, pad=3, loc="left", **text_style(SMALL))
            if column == 0:
                axes.set_ylabel(f"{kind}, layer", labelpad=3, **text_style(SMALL))
            else:
                axes.tick_params(labelleft=False)
    legend.draw(page, 0.08, 0.06)
    return page.figure


def _grids(of: HeadPatterns) -> dict[str, HeadGrid]:
    return head_grids(of.to_frame())


def _outlined(number: int, kind: str, pairs: Sequence[Pair], models: int) -> set[tuple[int, int]]:
    """Return the heads of a model to outline."""
    if number == 0 and models > 2:
        return set()
    frame = pairs[max(number - 1, 0)].frame(kind)
    changed = frame[frame["changed"]]
    return {(int(layer), int(head)) for layer, head in zip(changed["layer"], changed["head"], strict=True)}


def _shortened(words: str, room: float) -> str:
    """Cut a name in its middle to so many inches."""
    if text_width(words, SMALL) <= room:
        return words
    keep = len(words) // 2
    while keep > 2 and text_width(words[:keep] + "…" + words[-keep:], SMALL) > room:
        keep -= 1
    return words[:keep] + "…" + words[-keep:]


def _outline_key(missing: bool, empty: bool) -> list[Swatch]:
    outline = [Swatch("other dominant pattern than before", to_rgb("white"), INK)]
    grey = [Swatch("not there", to_rgb(MISSING))] if missing else []
    zero = [Swatch(f"maps {ZERO_WORDS}", to_rgb(MISSING), letter=ZERO)] if empty else []
    return [*outline, *grey, *zero]
