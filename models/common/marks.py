"""The figure of a few numbers: a row each, with a mark, an interval and the number itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from .drawing import SMALL, Page, page_width, text_style, text_width
from .errors import InputError, one_line
from .palette import BLUE, FAINT, GREY, INK

if TYPE_CHECKING:
    import pandas as pd

_WIDTH, _STEP = 5.2, 0.24  # inches: of the page; from one row to the next
_LONG = 60  # characters


def marks(frame: pd.DataFrame, title: str) -> Figure:
    """Draw numbers of one unit, a row each.

    Args:
        frame: ``name, value, low, high``; what has no value or no interval has None or NaN.
        title: above the rows.

    Raises:
        InputError: there is no number.
    """
    rows = [*frame[["name", "value", "low", "high"]].itertuples(index=False, name=None)]
    if not any(_known(value) for _, value, _, _ in rows):
        raise InputError(f"There is nothing to draw: {title or 'the result'} has no number.")
    names = [one_line(str(row[0]), _LONG) for row in rows]  # of people too, who may be called anything
    words = [_words(*row[1:]) for row in rows]
    left = 0.2 + max(text_width(name, SMALL) for name in names)
    right = 0.25 + max(text_width(said, SMALL) for said in words)
    below, above, height = 0.35, 0.36, _STEP * len(rows)
    width = max(page_width(_WIDTH), left + right + 1.4)
    page = Page(width, below + height + above)
    page.title(title or " ")
    axes = page.axes(left, below, width - left - right, height)
    axes.axvline(0, color=FAINT, linewidth=0.9)
    for place, (name, said, (_, value, low, high)) in enumerate(zip(names, words, rows, strict=True)):
        y = below + height - _STEP * (place + 0.5)
        page.text(0.08, y, name)
        page.text(width - right + 0.12, y, said)
        if _known(low) and _known(high):
            axes.plot([low, high], [place, place], color=GREY, linewidth=1.4)
        if _known(value):
            axes.plot(value, place, "o", color=BLUE, markersize=4.5, clip_on=False)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_yticks([])
    axes.set_frame_on(False)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    for label in axes.get_xticklabels():
        label.set(**text_style(SMALL))
    axes.tick_params(colors=INK, width=0.6, length=3)
    return page.figure


def _known(value: float | None) -> bool:
    return value is not None and value == value


def _words(value: float | None, low: float | None, high: float | None) -> str:
    """`1,234` of a count, `0.812 [0.790, 0.834]` of a share, `-` of nothing."""
    if value is None or not _known(value):
        return "-"
    if isinstance(value, int) or (float(value).is_integer() and abs(value) > 1):
        return f"{int(value):,}"
    return f"{value:.3f}" + (f" [{low:.3f}, {high:.3f}]" if _known(low) and _known(high) else "")
