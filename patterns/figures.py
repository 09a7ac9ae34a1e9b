"""Figures for a paper: every head's dominant pattern, and how often each pattern occurs."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from matplotlib.axes import Axes
from matplotlib.collections import PatchCollection
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from models.common.drawing import (
    RGB,
    SMALL,
    Legend,
    Page,
    Swatch,
    contrast,
    page_width,
    text_style,
    text_width,
)
from models.common.errors import InputError
from models.common.palette import INK, MISSING
from models.common.words import interval, percent

from .tables import (
    ZERO,
    ZERO_WORDS,
    HeadGrid,
    Ratio,
    check_distributions,
    grid_shape,
    head_grids,
)
from .taxonomy import ABBREVIATIONS, COLOURS, INTERPRETABLE, PATTERNS, TITLES, Pattern

if TYPE_CHECKING:
    import pandas as pd

_WIDTH = 5.2  # inches; shrunk to a column of 3 inches, the text is still to be read


def head_grid(
    heads: "pd.DataFrame", title: str | None = None, *, shape: tuple[int, int] | None = None
) -> Figure:
    """Draw every head as a cell in the colour of its dominant pattern; one panel per kind, raw on the left.

    Layer 0 is at the top. The colour is as strong as the pattern's share of the head's maps; a head that is
    not in the table is a light grey cell, one whose maps are zero in every cell a light grey cell with a 0.

    Args:
        heads: as `heads.parquet`: kind, layer, head (0-based), dominant, dominant_share. An optional column
            `survives` (bool) puts an outline around the heads that survive.
        title: a line above the panels.
        shape: (layers, heads per layer) of the whole model, where the table may lack the last of them.

    Returns:
        A figure that belongs to no window and no global state; see :func:`models.common.drawing.save_figure`.

    Raises:
        InputError: a column is missing, a row is given twice, a value is out of range, or `shape` is smaller
            than the table.
    """
    grids = head_grids(heads)
    layers, columns = grid_shape(grids)
    if shape is not None:
        if shape[0] < layers or shape[1] < columns:
            raise InputError(f"The table holds {layers} layers of {columns} heads; shape={shape} is smaller.")
        layers, columns = shape
    survivors = _survivors(heads)

    left, right, between, above = 0.62, 0.08, 0.22, 0.24
    wanted = page_width(_WIDTH)
    cell = (wanted - left - right - between * (len(grids) - 1)) / (len(grids) * columns)
    cell = max(0.07, min(cell, 0.3, max(7.5 / layers, 0.07)))
    panel_w, panel_h = cell * columns, cell * layers
    between = max(between, 0.8 - panel_w)  # titles of narrow panels
    content = left + len(grids) * panel_w + (len(grids) - 1) * between + right
    width = max(content, wanted)

    missing = any(len(grid) < layers * columns for grid in grids.values())
    zero = any(pattern is None for grid in grids.values() for pattern, _ in grid.values())
    legend = Legend(width - 0.16, [pattern_key(), _strength_key(missing, survivors is not None, zero)])
    below = 0.46 + legend.height
    page = Page(width, panel_h + below + above + (0.28 if title else 0.0))
    page.title(title or "")
    for number, (kind, grid) in enumerate(grids.items()):
        x = left + (width - content) / 2 + number * (panel_w + between)
        axes = page.axes(x, below, panel_w, panel_h)
        draw_heads(axes, grid, layers, columns, cell, survivors.get(kind, set()) if survivors else set())
        axes.set_title(f"{kind} maps", pad=4, **text_style(9))
        axes.set_xlabel("head", labelpad=2, **text_style(9))
        if number == 0:
            axes.set_ylabel("layer (0 on top)" if panel_h > 1 else "layer", labelpad=3, **text_style(9))
        else:
            axes.tick_params(labelleft=False)
    legend.draw(page, 0.08, 0.06)
    return page.figure


def distribution_bars(
    distributions: Mapping[str, Mapping[str, float]],
    ratios: Mapping[str, Ratio] | None = None,
    title: str | None = None,
) -> Figure:
    """Draw how often each pattern occurs: one stacked bar per entry, heterogeneous last.

    The interpretable ratio stands at the right; its interval is a whisker at the left edge of the
    heterogeneous segment.

    Args:
        distributions: per bar, from top to bottom, each pattern's share of the maps.
        ratios: per bar, the interpretable ratio and its 95% interval; no whisker where a bound is nan.
        title: a line above the bars.

    Raises:
        InputError: a name is no pattern, shares do not sum to one, or a ratio does not fit its distribution.
    """
    ratios = ratios or {}
    shares = check_distributions(distributions, ratios)
    step, bar = 0.42, 0.64  # inches from one bar to the next; thickness of a bar as a part of that
    left = 0.14 + max(text_width(key, SMALL) for key in shares)
    right = 1.3 if ratios else 0.2
    wanted = page_width(_WIDTH)
    least = 2.0 if wanted >= _WIDTH else 0.3 * wanted
    panel_w, panel_h = max(least, wanted - left - right), step * len(shares)
    width = left + panel_w + right
    legend = Legend(width - 0.16, [pattern_key()])
    below, above = 0.4 + legend.height, 0.34 if ratios else 0.08
    page = Page(width, panel_h + below + above + (0.28 if title else 0.0))
    page.title(title or "")
    axes = page.axes(left, below, panel_w, panel_h)
    axes.set(xlim=(0, 1), ylim=(len(shares) - 0.5, -0.5))
    axes.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0%", "25%", "50%", "75%", "100%"])
    axes.set_yticks(range(len(shares)), list(shares), va="center")
    axes.tick_params(axis="y", length=0, pad=5)
    axes.tick_params(axis="x", length=2, width=0.6, pad=2, color=INK)
    plain_ticks(axes)

    for row, (key, share) in enumerate(shares.items()):
        draw_bar(axes, row, share, bar, panel_w)
        if key in ratios:
            ratio, lo, hi = ratios[key]
            if interval(lo, hi):
                draw_whisker(axes, 1 - share[INTERPRETABLE], 1 - hi, 1 - lo, row + bar / 2)
            words = f"{percent(ratio)} {interval(lo, hi)}".strip()
            page.text(left + panel_w + 0.1, below + panel_h - (row + 0.5) * step, words)
    if ratios:
        page.text(left + panel_w + 0.1, below + panel_h + 0.15, "interpretable ratio\n[95% of examples]")
    legend.draw(page, 0.08, 0.06)
    return page.figure


def _survivors(heads: "pd.DataFrame") -> dict[str, set[tuple[int, int]]] | None:
    """Per kind, the (layer, head) that survive; None if the table does not say."""
    if "survives" not in heads:
        return None
    if heads["survives"].isna().any():
        raise InputError("The column 'survives' has gaps; give true or false for every head.")
    result: dict[str, set[tuple[int, int]]] = {}
    for kind, layer, head in heads.loc[heads["survives"].astype(bool), ["kind", "layer", "head"]].to_numpy():
        result.setdefault(str(kind), set()).add((int(layer), int(head)))
    return result


def draw_heads(
    axes: Axes, grid: HeadGrid, layers: int, columns: int, cell: float, survivors: set[tuple[int, int]]
) -> None:
    """One panel; a cell is one unit, head h of layer l covers [h, h + 1] x [l, l + 1]. Survivors are outlined."""
    places = [(layer, head) for layer in range(layers) for head in range(columns)]
    colours = [_faded(*grid[place]) if place in grid else to_rgb(MISSING) for place in places]
    line = min(0.8, 6 * cell)
    squares = [Rectangle((head, layer), 1, 1) for layer, head in places]
    axes.add_collection(PatchCollection(squares, facecolors=colours, edgecolors="white", linewidths=line))
    if survivors:
        inset = min(0.12, 0.012 / cell)
        frames = [
            Rectangle((head + inset, layer + inset), 1 - 2 * inset, 1 - 2 * inset)
            for layer, head in sorted(survivors)
        ]
        width = max(0.5, min(1.3, 7 * cell))
        axes.add_collection(PatchCollection(frames, facecolors="none", edgecolors=INK, linewidths=width))
    size = min(9.0, 0.52 * 72 * cell)  # points: VD, one and a half times as wide, still has a margin
    if size >= 4.5:
        for (layer, head), (pattern, share) in grid.items():
            ink = text_style(size, contrast(_faded(pattern, share)))
            letter = ABBREVIATIONS[pattern] if pattern else ZERO
            axes.text(head + 0.5, layer + 0.53, letter, **ink, ha="center", va="center")
    axes.set(xlim=(0, columns), ylim=(layers, 0))
    xs, ys = tick_positions(columns, cell), tick_positions(layers, cell)
    axes.set_xticks([x + 0.5 for x in xs], [str(x) for x in xs])
    axes.set_yticks([y + 0.5 for y in ys], [str(y) for y in ys])
    axes.tick_params(length=0, pad=2)
    plain_ticks(axes)


def tick_positions(number: int, cell: float) -> range:
    """Every first, second, fourth ... of `number` cells, so that labels do not touch."""
    step = 1
    while step * cell < 0.155:
        step *= 2
    return range(0, number, step)


def plain_ticks(axes: Axes) -> None:
    """No frame; small dark labels, drawn as they are."""
    axes.set_frame_on(False)
    for label in (*axes.get_xticklabels(), *axes.get_yticklabels()):
        label.set(**text_style(SMALL))


def draw_bar(axes: Axes, row: float, share: Mapping[Pattern, float], bar: float, width: float) -> None:
    """A stacked bar, `bar` thick and centred on `row`, in axes `width` inches wide; percents where they fit."""
    edge = 0.0
    for pattern in PATTERNS:
        colour = to_rgb(COLOURS[pattern])
        box = Rectangle((edge, row - bar / 2), share[pattern], bar)
        box.set(facecolor=colour, edgecolor="white", linewidth=0.8, gid=pattern.value)
        axes.add_patch(box)
        words = f"{100 * share[pattern]:.0f}%"
        if text_width(words, SMALL) + 0.04 < share[pattern] * width:
            style = text_style(SMALL, contrast(colour))
            axes.text(edge + share[pattern] / 2, row, words, **style, ha="center", va="center")
        edge += share[pattern]


def draw_whisker(axes: Axes, at: float, start: float, end: float, top: float, drop: float = 0.15) -> None:
    """An interval, hanging `drop` below the edge `at` of a bar whose lower side is at `top`."""
    y = top + drop
    axes.plot([at, at], [top, y], color=INK, linewidth=1.0, solid_capstyle="butt")
    style: dict[str, Any] = {"ecolor": INK, "elinewidth": 1.0, "capsize": 2, "capthick": 1.0}
    axes.errorbar([(start + end) / 2], [y], xerr=[(end - start) / 2], fmt="none", **style)


def _faded(pattern: Pattern | None, share: float) -> RGB:
    """The pattern's colour over white, as opaque as `share`; grey for none."""
    if pattern is None:
        return to_rgb(MISSING)
    red, green, blue = to_rgb(COLOURS[pattern])
    return 1 - (1 - red) * share, 1 - (1 - green) * share, 1 - (1 - blue) * share


def pattern_key() -> list[Swatch]:
    """A legend of the five patterns."""
    return [Swatch(TITLES[p], to_rgb(COLOURS[p]), letter=ABBREVIATIONS[p]) for p in PATTERNS]


def _strength_key(missing: bool, outlined: bool, zero: bool) -> list[Swatch]:
    """The opacity scale; what a grey cell, a 0 and an outline mean, if there are any."""
    greys = {share: 1 - 0.8 * share for share in (0.25, 0.5, 1.0)}
    scale = [Swatch(f"{share:.0%}", (grey, grey, grey)) for share, grey in greys.items()]
    grey = [Swatch("not counted", to_rgb(MISSING))] if missing else []
    frame = [Swatch("survives", to_rgb("white"), INK)] if outlined else []
    empty = [Swatch(f"maps {ZERO_WORDS}", to_rgb(MISSING), letter=ZERO)] if zero else []
    return [Swatch("share of its maps:"), *scale, *grey, *empty, *frame]
