"""Figures for a paper: the drop of each group beside its random sets, and the drops of single heads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from models.common.drawing import SMALL, Page, page_width, text_style, text_width
from models.common.palette import FAINT, GREY, INK
from patterns.figures import plain_ticks
from patterns.taxonomy import COLOURS, PATTERNS

from ..permutation import HIGHER, LOWER
from .records import AblationSummary, GroupRecord, Tested
from .words import label, p_and_verdict

if TYPE_CHECKING:
    import pandas as pd

_WIDTH, _STEP = 6.9, 0.36  # inches: the text width of a two-column page; from one row to the next
_COLOURS = {pattern.value: COLOURS[pattern] for pattern in PATTERNS}


def groups_figure(summary: AblationSummary, draws: pd.DataFrame) -> Figure:
    """Draw how far the score drops while each group is closed, beside random sets of as many heads.

    Args:
        summary: what ``summary.json`` holds.
        draws: what ``draws.parquet`` holds.
    """
    found = [one for one in summary["found"] if one["together"]["drop"] is not None]
    page, axes = _rows(
        [(label(one), p_and_verdict(one["together"])) for one in found],
        f"drop of {summary['metric']} while the heads are closed (mark), and random sets of as many (grey)",
    )
    for place, one in enumerate(found):
        own = draws[
            (draws["kind"] == one["kind"]) & (draws["sort"] == one["sort"]) & (draws["name"] == one["name"])
        ]
        _cloud(axes, place, own["drop"].to_numpy(dtype=float), GREY)
        together = one["together"]
        assert together["random"] is not None
        axes.plot(together["random"]["ci95"], [place, place], color=GREY, linewidth=1.4)
        axes.plot(together["random"]["mean"], place, "|", color=INK, markersize=9)
        low, high = together["drop_ci95"]
        if low is not None and high is not None:
            colour = _COLOURS.get(one["name"], INK)
            axes.plot([low, high], [place, place], "|-", color=colour, linewidth=1.0, markersize=6)
        _mark(axes, place, float(together["drop"] or 0.0), one, together)
    return page.figure


def singles_figure(
    summary: AblationSummary, singles: pd.DataFrame, heads: Sequence[npt.NDArray[np.bool_]]
) -> Figure:
    """Draw how far the score drops while single heads of each group are closed.

    Args:
        summary: what ``summary.json`` holds.
        singles: what ``single_heads.parquet`` holds.
        heads: ``[L, H]`` of each group of the summary.
    """
    found = [
        (one, one["one_by_one"], of)
        for one, of in zip(summary["found"], heads, strict=True)
        if one["one_by_one"] is not None
    ]
    page, axes = _rows(
        [(label(one), p_and_verdict(each)) for one, each, _ in found if each is not None],
        f"drop of {summary['metric']} while one head is closed (dots), and the mean of the group's (mark)",
    )
    for place, (one, each, of) in enumerate(found):
        assert each is not None
        table = singles[singles["kind"] == one["kind"]]
        own = of[table["layer"].to_numpy(), table["head"].to_numpy()]
        _cloud(axes, place, table["drop"].to_numpy(dtype=float)[own], _COLOURS.get(one["name"], GREY))
        _mark(axes, place, each["mean_drop"], one, each)
    return page.figure


def _rows(rows: Sequence[tuple[str, str]], title: str) -> tuple[Page, Axes]:
    """Return a page with axes that have a row each, named at the left and judged at the right."""
    left = 0.2 + max((text_width(first, SMALL) for first, _ in rows), default=0.0)
    right = 0.25 + max((text_width(last, SMALL) for _, last in rows), default=0.0)
    below, above = 0.5, 0.1
    height = _STEP * max(len(rows), 1)
    width = max(page_width(_WIDTH), left + right + 2.4, text_width(title, SMALL) + left + 0.2)
    page = Page(width, below + height + above)
    axes = page.axes(left, below, width - left - right, height)
    axes.axvline(0, color=FAINT, linewidth=0.9)
    for place, (first, last) in enumerate(rows):
        y = below + height - _STEP * (place + 0.5)
        page.text(0.08, y, first)
        page.text(width - right + 0.12, y, last)
    axes.set_ylim(max(len(rows), 1) - 0.5, -0.5)
    axes.set_yticks([])
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.set_xlabel(title, labelpad=2, loc="left", **text_style(SMALL))
    plain_ticks(axes)
    return page, axes


def _cloud(axes: Axes, place: int, values: npt.NDArray[np.float64], colour: str) -> None:
    """Draw values as dots around a row, beside each other where they would hide each other."""
    height = np.random.default_rng(0).uniform(-0.3, 0.3, len(values))
    axes.plot(values, place + height, ".", color=colour, markersize=2.6, alpha=0.55, markeredgewidth=0)


def _mark(axes: Axes, place: int, value: float, one: GroupRecord, test: Tested) -> None:
    colour = _COLOURS.get(one["name"], INK)
    face = colour if test["verdict"] in (HIGHER, LOWER) else "white"
    axes.plot(value, place, "D", color=colour, markersize=5.5, markerfacecolor=face, markeredgewidth=1.2)
