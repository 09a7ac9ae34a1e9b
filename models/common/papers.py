"""Figures and tables for a paper: the options that every command has that draws, and how both are written."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from .errors import InputError
from .files import atomic_file

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

_T = TypeVar("_T")

FORMATS = ("png", "pdf", "svg")
_NARROWEST, _WIDEST = 1.5, 40.0  # inches
_LONG = 60  # rows from which a LaTeX table runs over pages
_MOST = 400  # rows from which a table is no table for a paper


@dataclass(frozen=True)
class Figures:
    """How figures are written; a part of every job that draws.

    Raises:
        InputError: a format that there is not, or a width that no page has.
    """

    figure_format: tuple[str, ...] = ("png",)
    """Of figures: png; pdf, with its fonts embedded; svg, whose words stay words to be edited; or several: pdf,svg."""
    figure_width: float | None = None
    """Inches, such as 3.3 for one column of a paper and 6.9 for two.

    A figure whose words do not fit into that is as wide as they need.
    """

    def __post_init__(self) -> None:
        formats = self.figure_format
        if not formats or len(set(formats)) < len(formats) or set(formats) - set(FORMATS):
            raise InputError(
                f"--figure-format {','.join(formats)}: give {', '.join(FORMATS)}, or several of them, as in pdf,svg."
            )
        width = self.figure_width
        if width is not None and not _NARROWEST <= width <= _WIDEST:
            raise InputError(
                f"--figure-width {width:g}: give inches from {_NARROWEST:g} to {_WIDEST:g}, such as 3.3 for a column."
            )

    def options(self) -> dict[str, Any]:
        """Return what is not as by default, by the names of the options."""
        usual, own = vars(Figures()), vars(self)
        return {name: value for name, value in own.items() if value != usual[name]}

    def drawn(self, draw: Callable[[], _T]) -> _T:
        """Return what `draw` does, which draws a figure, or several, as wide as is asked for."""
        from .drawing import drawn_for

        with drawn_for(self.figure_width):
            return draw()

    def names(self, stem: str) -> list[str]:
        """Return what the files of a figure are called."""
        return [f"{stem}.{ending}" for ending in self.figure_format]

    def write(self, figure: Figure, folder: Path, stem: str) -> None:
        """Write a figure of :meth:`drawn` into a folder, once a format; say if it is wider than is asked for."""
        from .commands import say
        from .drawing import save_figure

        width = float(figure.get_figwidth())
        if self.figure_width is not None and width > self.figure_width + 0.005:
            say(
                f"the figure {stem} is {width:.2f} inches wide, since its words do not fit into {self.figure_width:g}."
            )
        for name in self.names(stem):
            save_figure(figure, folder / name)


def write_latex(table: pd.DataFrame, path: Path, titles: Mapping[str, str] | None = None) -> None:
    """Write a table as LaTeX for the package booktabs, if it is not too long for a paper.

    From 60 rows on it runs over pages, and needs the package longtable too. Numbers have three decimals, those that
    would be lost in that two digits; what does not exist is ``--``.

    Args:
        table: what to write.
        path: of the file, which is written whole or not at all; nothing from 400 rows on.
        titles: of columns, where that is not their name with spaces.
    """
    if len(table) > _MOST:
        return
    names = {name: (titles or {}).get(name, str(name).replace("_", " ")) for name in table.columns}
    text = table.rename(columns=names).to_latex(
        index=False, float_format=_number, na_rep="--", escape=True, longtable=len(table) > _LONG
    )
    with atomic_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _number(value: float) -> str:
    """Return three decimals; of what is nearer to 0 than these can show, two digits."""
    return f"{value:.3f}" if value == 0 or abs(value) >= 0.001 else f"{value:.1e}"
