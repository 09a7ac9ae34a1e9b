"""The figure of a fine-tuning: loss and score after every epoch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ..common.drawing import SMALL, Page, page_width, text_style
from ..common.palette import BLUE, GREY, INK, VERMILION
from .result import FineTuneResult

if TYPE_CHECKING:
    import pandas as pd

_WIDTH, _HEIGHT = 5.2, 2.3  # inches; shrunk to a column of 3 inches, the text is still to be read
_LOSS, _SCORE, _BASELINE = BLUE, VERMILION, GREY


def learning_curve(result: FineTuneResult) -> Figure:
    """Draw the mean training loss of each epoch, and beside it the score on the dev rows and two baselines.

    Args:
        result: of :func:`models.finetune`.

    Returns:
        A figure that belongs to no window and no global state; see :func:`models.common.drawing.save_figure`.
    """
    history, metric = result["training"]["history"], result["metric"]
    epochs = [entry["epoch"] for entry in history]
    across = max(page_width(_WIDTH), 2.6)
    page = Page(across, _HEIGHT)
    page.title(f"{result['task']}, seed {result['seed']}")
    width = (across - 2 * 0.62 - 0.12) / 2
    for number, (words, colour, values) in enumerate(
        (
            ("training loss", _LOSS, [entry["loss"] for entry in history]),
            (metric.replace("_", " and "), _SCORE, [entry["scores"][metric] for entry in history]),
        )
    ):
        axes = page.axes(0.62 + number * (width + 0.62), 0.45, width, _HEIGHT - 0.95)
        if number:
            for name, side in (("majority", "right"), ("random", "left")):  # they may be at one level
                _level(axes, name, result["baselines"][name][metric], side)
        axes.plot(epochs, values, color=colour, marker="o", markersize=4, linewidth=1.4, clip_on=False)
        axes.set_title(words, **text_style(SMALL), loc="left", pad=4)
        axes.set_xlabel("epoch", **text_style(SMALL))
        axes.set_xlim(0, max(epochs) * 1.02)
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=max(epochs) >= 2))
        axes.yaxis.set_major_locator(MaxNLocator(5))
        if not number:
            axes.set_ylim(0, max(values) * 1.08 or 1)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
        for label in (*axes.get_xticklabels(), *axes.get_yticklabels()):
            label.set(fontsize=SMALL, family="DejaVu Sans", color=INK)
        axes.tick_params(colors=INK, labelsize=SMALL, width=0.6, length=3)
    return page.figure


def curve_frame(result: FineTuneResult) -> pd.DataFrame:
    """Return what :func:`learning_curve` draws, a row an epoch: ``epoch, step, loss, learning_rate``, each score."""
    import pandas as pd

    return pd.DataFrame(
        {name: value for name, value in entry.items() if name != "scores"} | entry["scores"]
        for entry in result["training"]["history"]
    )


def _level(axes: Axes, name: str, value: float, side: str) -> None:
    """A dashed line at what a baseline reaches."""
    axes.axhline(value, color=_BASELINE, linewidth=0.8, linestyle=(0, (4, 3)))
    across = axes.get_yaxis_transform()  # x as a share of the axes, y in the data's units
    x = 0.99 if side == "right" else 0.01
    axes.text(x, value, name, transform=across, ha=side, va="bottom", **text_style(6.5, _BASELINE))
