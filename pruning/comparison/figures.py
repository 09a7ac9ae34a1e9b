"""Figures for a paper: how often each head survives, and the patterns of survivors beside those of all heads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PatchCollection
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from models.common.drawing import RGB, SMALL, Legend, Page, Swatch, page_width, text_style, text_width
from models.common.errors import InputError
from models.common.palette import ALWAYS, FAINT, GREY, INK, NEVER
from models.common.words import count_words, interval
from patterns.figures import draw_bar, draw_whisker, pattern_key, plain_ticks, tick_positions
from patterns.tables import check_distributions
from patterns.taxonomy import INTERPRETABLE

from ..search.runs import Group
from ..stability import survival_mean
from ..survivors import super_survivors
from .summary import Patterns
from .survivor_patterns import PatternComparison, Side, SideName

SURVIVAL_FIGURE, PATTERNS_FIGURE = "survival", "patterns"
_WIDTH = 6.9  # inches: the text width of a two-column page
_NEVER, _ALWAYS = np.array(to_rgb(NEVER)), np.array(to_rgb(ALWAYS))
_BAR, _PAIR, _NEXT = (
    0.19,
    0.27,
    0.4,
)  # inches: a bar, from it to its partner, from a pair's second to the next pair
_SIDES: tuple[tuple[SideName, str], ...] = (("super_survivors", "super"), ("all", "all"))


def survival_maps(groups: Sequence[Group]) -> Figure:
    """Draw how often each head survives, one panel a task: rows are layers, 0 on top; MLPs stand beside.

    The darker, the more seeds keep it; a dot is on those that all seeds keep, and their number above the panel.
    """
    layers, heads = groups[0].subnetworks[0].heads.shape
    left, right, between, above = 0.5, 0.08, 0.3, 0.4
    titles = [_survivors(group) for group in groups]
    wanted, title_w = page_width(_WIDTH), max(text_width(title, SMALL) + 0.05 for title in titles)
    columns = min(len(groups), 3)
    while columns > 1 and wanted < min(_WIDTH, left + right + columns * (title_w + between) - between):
        columns -= 1
    rows = -(-len(groups) // columns)
    units = heads + 1.6  # the MLPs' column, and a gap of 0.6
    room = wanted - left - right - between * (columns - 1)
    cell = max(0.05, min(room / (columns * units), 0.26, 7.5 / (rows * layers)))
    panel_w = max(cell * units, title_w)
    width = max(left + columns * panel_w + (columns - 1) * between + right, page_width(3.0))
    legend = Legend(width - 0.16, [_survival_key(groups)])
    page = Page(width, rows * (cell * layers + above) + 0.42 + legend.height)
    for number, (group, title) in enumerate(zip(groups, titles, strict=True)):
        row, column = divmod(number, columns)
        x = left + column * (panel_w + between)
        y = page.height - (row + 1) * (cell * layers + above)
        axes = page.axes(x, y, cell * units, cell * layers)
        _draw_survival(axes, group, cell)
        page.text(x, y + cell * layers + 0.12, title)
        axes.tick_params(labelleft=column == 0, labelbottom=number + columns >= len(groups))
        if column == 0:
            axes.set_ylabel("layer", labelpad=2, **text_style(SMALL))
        if number + columns >= len(groups):
            axes.set_xlabel("head", labelpad=1, **text_style(SMALL))
    legend.draw(page, 0.08, 0.04)
    return page.figure


def pattern_bars(patterns: Patterns) -> Figure:
    """Draw the patterns of super-survivors above those of all heads, for each task; raw maps left, norm right.

    At the right of each bar stands the interpretable ratio in percent, and its 95% interval; the same interval is
    a whisker at the left edge of the heterogeneous segment. The number of heads is in brackets.

    Args:
        patterns: by task and kind, what :func:`pruning.comparison.survivor_patterns.adjust` returns.

    Raises:
        InputError: there is no task.
    """
    if not patterns:
        raise InputError("There are no patterns to draw.")
    kinds = list(dict.fromkeys(kind for found in patterns.values() for kind in found))
    labels = {
        (task, side): f"{words} ({_heads(found, side)})"
        for task, found in patterns.items()
        for side, words in _SIDES
    }
    names = 0.1 + max(text_width(task, 9) for task in patterns)
    left = 0.08 + names + 0.1 + max(text_width(label, SMALL) for label in labels.values())
    ratio = 0.1 + text_width("100.0 [100.0, 100.0]", SMALL)
    between, wanted = 0.12, page_width(_WIDTH)
    least = left + len(kinds) * (1.3 + ratio + between)
    columns = len(kinds) if wanted >= min(_WIDTH, least) else 1
    rows = len(kinds) // columns
    room = max(_WIDTH, left + 3.2) if wanted == _WIDTH else wanted
    panel_w = (room - left - columns * (ratio + between)) / columns
    panel_w = min(max(1.3 if columns > 1 else 0.8, panel_w), 3.2)
    width = max(left + columns * (panel_w + ratio + between), page_width(0))
    panel_h = len(patterns) * (_PAIR + _NEXT)
    legend = Legend(width - 0.16, [pattern_key()])
    lowest, above = 0.34 + legend.height, 0.46
    page = Page(width, lowest + rows * (panel_h + above) + (rows - 1) * 0.24)
    for number, kind in enumerate(kinds):
        x = left + number % columns * (panel_w + ratio + between)
        below = lowest + (rows - 1 - number // columns) * (panel_h + above + 0.24)
        axes = _bar_axes(page, x, below, panel_w, panel_h)
        page.text(x + panel_w / 2, below + panel_h + 0.12, f"{kind} maps", 9, ha="center")
        page.text(x + panel_w + 0.08, below + panel_h + 0.17, "interpretable\nratio, % [95%]")
        for place, (task, found) in enumerate(patterns.items()):
            for line, (side, _) in enumerate(_SIDES):
                y = 0.5 * _NEXT + place * (_PAIR + _NEXT) + line * _PAIR  # from the top
                height = below + panel_h - y
                if number % columns == 0:
                    page.text(left - 0.06, height, labels[task, side], ha="right")
                    if line == 0:
                        page.text(0.08, height - _PAIR / 2, task, 9)
                if kind not in found:
                    continue
                part = found[kind][side]
                if part is None:
                    page.text(x + 0.05, height, "no head survives under every seed", colour=GREY)
                    continue
                _draw_side(axes, part, y, panel_w)
                lo, hi = part["interpretable_ratio_ci95"]
                words = "" if lo is None or hi is None else interval(lo, hi)
                page.text(
                    x + panel_w + 0.08, height, f"{100 * part['interpretable_ratio']:.1f} {words}".strip()
                )
    legend.draw(page, 0.08, 0.04)
    return page.figure


def _draw_side(axes: Axes, part: Side, y: float, panel_w: float) -> None:
    share = check_distributions({"": part["distribution"]}, {})[""]
    draw_bar(axes, y, share, _BAR, panel_w)
    lo, hi = part["interpretable_ratio_ci95"]
    if lo is not None and hi is not None:
        draw_whisker(axes, 1 - share[INTERPRETABLE], 1 - hi, 1 - lo, y + _BAR / 2, 0.035)


def _bar_axes(page: Page, x: float, y: float, width: float, height: float) -> Axes:
    """Shares to the right, inches down."""
    axes = page.axes(x, y, width, height)
    axes.set(xlim=(0, 1), ylim=(height, 0))
    axes.set_yticks([])
    axes.set_xticks([0, 0.5, 1], ["0%", "50%", "100%"])
    axes.tick_params(axis="x", length=2, width=0.6, pad=2, color=INK)
    plain_ticks(axes)
    return axes


def _heads(found: Mapping[str, PatternComparison], side: SideName) -> int:
    part = next(iter(found.values()))[side]
    return part["heads"] if part else 0


def _draw_survival(axes: Axes, group: Group, cell: float) -> None:
    """One panel; a cell is one unit, and the MLPs' column begins 0.6 behind the heads."""
    of_heads, of_mlps = (survival_mean(group.subnetworks, what) for what in ("heads", "mlps"))
    layers, heads = of_heads.shape
    squares = [Rectangle((head, layer), 1, 1) for layer in range(layers) for head in range(heads)]
    squares += [Rectangle((heads + 0.6, layer), 1, 1) for layer in range(layers)]
    shares = [*of_heads.ravel(), *of_mlps]
    colours, line = [_shade(share) for share in shares], min(0.6, 4 * cell)
    axes.add_collection(PatchCollection(squares, facecolors=colours, edgecolors="white", linewidths=line))
    always = [square.get_xy() for square, share in zip(squares, shares, strict=True) if share == 1]
    xs, ys = [x + 0.5 for x, _ in always], [y + 0.5 for _, y in always]
    axes.scatter(xs, ys, s=(72 * cell * 0.22) ** 2, color="white", linewidths=0)
    number_heads(axes, layers, heads, cell, "MLP")


def number_heads(axes: Axes, layers: int, heads: int, cell: float, mlps: str) -> None:
    """Number the layers down and the heads across; `mlps` is below the MLPs' column.

    A cell is one unit and `cell` inches; the MLPs' column begins 0.6 behind the heads.
    """
    axes.set(xlim=(0, heads + 1.6), ylim=(layers, 0))
    across, down = tick_positions(heads, cell), tick_positions(layers, cell)
    axes.set_xticks([*(head + 0.5 for head in across), heads + 1.1], [*map(str, across), mlps])
    axes.set_yticks([layer + 0.5 for layer in down], [str(layer) for layer in down])
    axes.tick_params(length=0, pad=2)
    plain_ticks(axes)


def _shade(share: float) -> RGB:
    red, green, blue = _NEVER + (_ALWAYS - _NEVER) * share
    return float(red), float(green), float(blue)


def _survivors(group: Group) -> str:
    always = super_survivors(group.subnetworks)
    return f"{group.name}: always {count_words(always.n_heads, 'head')}, {count_words(always.n_mlps, 'MLP')}"


def _survival_key(groups: Sequence[Group]) -> list[Swatch]:
    """The scale: as many steps as there are seeds, or quarters where tasks differ in that."""
    seeds = {len(group.runs) for group in groups}
    if len(seeds) == 1 and (most := seeds.pop()) <= 8:
        steps = {str(kept): kept / most for kept in range(most + 1)}
        words = f"kept under, of {most} seeds:"
    else:
        steps = {f"{share:.0%}": share for share in (0, 0.25, 0.5, 0.75, 1)}
        words = "kept under, of its seeds:"
    scale = [
        Swatch(step, _shade(share), FAINT, "\N{BULLET}" if share == 1 else "")
        for step, share in steps.items()
    ]
    return [Swatch(words), *scale]
