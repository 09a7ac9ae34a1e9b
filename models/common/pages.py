"""Reports: one self-contained HTML file each, of sections with words, tables and figures.

The templates are Jinja's, with autoescaping, so text from data is shown and never run; style and script are part of the
page, so it opens from disk, without a network. Every room has its templates in its folder ``templates``.
"""

from __future__ import annotations

import base64
import hashlib
import io
import math
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

from . import palette
from .drawing import SMALL, save_figure
from .files import atomic_file
from .papers import Figures
from .words import percent

if TYPE_CHECKING:
    import jinja2
    import pandas as pd
    from matplotlib.figure import Figure

_ROOMS = Path(__file__).parents[2]
_SCRIPT = "models/common/templates/page.js"
_LEGIBLE = 9  # CSS pixels: the height of the smallest words of a figure, whatever the width of the screen
_ROWS_SHOWN = 2000  # a longer table is a file of its own, not a part of a page


@dataclass(frozen=True)
class Cell:
    """One value of a table."""

    text: str
    """As it is shown."""
    value: Any
    """As it is sorted by and saved: text, a number or None."""


@dataclass(frozen=True)
class TableBlock:
    """A table that can be sorted and saved as CSV."""

    name: str
    """Of the CSV file, without its ending."""
    caption: str
    columns: tuple[tuple[str, str, bool], ...]
    """Of each column its name in the CSV file, its title, and whether it holds numbers."""
    rows: tuple[tuple[Cell, ...], ...]
    folded: bool = False
    """Whether the reader has to open it."""

    @classmethod
    def of(
        cls,
        frame: pd.DataFrame,
        name: str,
        caption: str,
        *,
        titles: Mapping[str, str] | None = None,
        shares: Sequence[str] = (),
        folded: bool = False,
    ) -> TableBlock:
        """Make one of a data frame.

        Args:
            frame: numbers are shown with up to four significant digits and saved as they are.
            name: of the CSV file, without its ending; what is no part of a file's name becomes a hyphen.
            caption: one line.
            titles: what stands above a column instead of its name.
            shares: columns to show in percent.
            folded: whether the reader has to open it.
        """
        from pandas.api.types import is_bool_dtype, is_numeric_dtype

        titles = titles or {}
        columns = tuple(
            (
                str(column),
                titles.get(column, str(column).replace("_", " ")),
                is_numeric_dtype(kind) and not is_bool_dtype(kind),
            )
            for column, kind in zip(frame.columns, frame.dtypes, strict=True)
        )
        percents = [column in shares for column in frame.columns]
        rows = tuple(
            tuple(_cell(value, share) for value, share in zip(row, percents, strict=True))
            for row in frame.head(_ROWS_SHOWN).itertuples(index=False, name=None)
        )
        if len(frame) > _ROWS_SHOWN:
            caption += f" (the first {_ROWS_SHOWN} of {len(frame)} rows)"
        return cls(re.sub(r"[^\w.-]+", "-", name), caption, columns, rows, folded)


@dataclass(frozen=True)
class FigureBlock:
    """A picture, what it shows in words, and perhaps the numbers behind it."""

    source: str
    """A ``data:`` address."""
    alt: str
    """For those who cannot see it: what it shows and what follows."""
    caption: str = ""
    table: TableBlock | None = None
    least: int = 0
    """CSS pixels: narrower, its smallest words could not be read, so on a narrow screen it is moved sideways."""

    @classmethod
    def of(cls, figure: Figure, alt: str, caption: str = "", table: TableBlock | None = None) -> FigureBlock:
        """Make one of a figure of this library."""
        buffer = io.BytesIO()
        save_figure_to(figure, buffer)
        source = f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
        return cls(
            source,
            alt,
            caption,
            table,
            math.ceil(_LEGIBLE * figure.get_figwidth() * 72 / smallest_text(figure)),
        )


@dataclass(frozen=True)
class Section:
    """A part of a report under a heading: words first, then links, figures and tables."""

    title: str
    words: tuple[str, ...] = ()
    """A paragraph each."""
    figures: tuple[FigureBlock, ...] = ()
    tables: tuple[TableBlock, ...] = ()
    links: tuple[tuple[str, str], ...] = ()
    """Addresses of files, relative to the report, and what each is."""


class PageText(TypedDict):
    """What every report says; see :func:`write_page`."""

    title: str
    about: str
    facts: Sequence[tuple[str, str]]
    findings: Sequence[str]
    warnings: Sequence[str]
    provenance: Mapping[str, object]
    command: str


def write_page(
    path: Path,
    *,
    title: str,
    about: str,
    facts: Sequence[tuple[str, str]] = (),
    findings: Sequence[str] = (),
    warnings: Sequence[str] = (),
    sections: Sequence[Section] = (),
    provenance: Mapping[str, object],
    command: str,
    template: str = "models/common/templates/page.html",
    scripts: Sequence[str] = (),
    notes: str = "",
    **context: Any,
) -> None:
    """Write a report: whole or not at all.

    Args:
        path: of the HTML file.
        title: the heading.
        about: a line below it: what was looked at.
        facts: a few numbers for the top, and what each is.
        findings: what a reader should take away, a sentence each.
        warnings: what a reader has to know before.
        sections: in order.
        provenance: as in ``summary.json``; nested.
        command: repeats the run.
        template: one that extends ``models/common/templates/page.html``.
        scripts: of that template, more than that of every page.
        notes: what is to be said of the command.
        context: more for that template.
    """
    sources = [(_ROOMS / script).read_text(encoding="utf-8") for script in (_SCRIPT, *scripts)]
    from markupsafe import Markup

    html = _environment().get_template(template).render(
        palette=palette,
        title=title,
        about=about,
        facts=facts,
        findings=findings,
        warnings=list(dict.fromkeys(warnings)),
        sections=sections,
        provenance=_flat(provenance),
        command=command,
        notes=notes,
        scripts=[Markup(source) for source in sources],
        hashes=" ".join(f"'sha256-{_digest(source)}'" for source in sources),
        **context,
    )  # fmt: skip
    with atomic_file(path) as temporary:
        temporary.write_text(html, encoding="utf-8")


def options_of(job: Any) -> dict[str, Any]:
    """Return what of a dataclass of one stage is not as by default; its fields are named as the options are."""
    found = {
        field.name: getattr(job, field.name) for field in fields(job) if getattr(job, field.name) != field.default
    }  # fmt: skip
    figures: Figures = found.pop("figures", Figures())
    return found | figures.options()


def command_line(words: Sequence[object], options: Mapping[str, object]) -> str:
    """Return a command for a POSIX shell.

    Args:
        words: the command's name, and what comes before its options.
        options: under their names with underscores; None leaves one out, a tuple is given with commas.
    """
    line = list(map(str, words))
    for option, value in options.items():
        if value is None or value is False:
            continue
        line.append(f"--{option.replace('_', '-')}")
        if value is not True:
            line.append(",".join(value) if isinstance(value, tuple) else str(value))
    return shlex.join(line)


def short_name(model: str) -> str:
    """Return a Hub id as it is, of a folder the last part of its path that says something."""
    path = Path(model)
    parts = [part for part in path.parts if part not in ("model", path.anchor)]
    # An absolute path is one of a folder even where that is gone.
    return parts[-1] if parts and (path.is_absolute() or path.is_dir()) else model


def save_figure_to(figure: Figure, buffer: io.BytesIO) -> None:
    """Write a figure as PNG into memory, as :func:`models.common.drawing.save_figure` does into a file."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "figure.png"
        save_figure(figure, path, dpi=160)
        buffer.write(path.read_bytes())


def smallest_text(figure: Figure) -> float:
    """Return the size in points of the smallest words of a figure that has been drawn; 8 if there are none."""
    from matplotlib.text import Text

    words = [one for one in figure.findobj(Text) if one.get_visible() and one.get_text().strip()]
    return min((float(one.get_fontsize()) for one in words), default=SMALL)


@cache
def _environment() -> jinja2.Environment:
    import jinja2

    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(_ROOMS),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _digest(script: str) -> str:
    """What a browser compares a script with: no other script of the page runs, wherever it comes from."""
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def _cell(value: Any, share: bool) -> Cell:
    value = value.item() if hasattr(value, "item") else value
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return Cell("–", None)
    if isinstance(value, bool):
        return Cell("yes" if value else "no", int(value))
    if isinstance(value, float):
        return Cell(percent(value) if share else f"{value:.4g}", value)
    return Cell(str(value), value)


def _flat(values: Mapping[str, object], prefix: str = "") -> list[tuple[str, str]]:
    """Nested values as lines, in order."""
    lines: list[tuple[str, str]] = []
    for key, value in values.items():
        name = f"{prefix}{key}".replace("_", " ")
        if isinstance(value, Mapping):
            lines += _flat(value, f"{name}, ")
        elif isinstance(value, list | tuple) and any(isinstance(one, Mapping) for one in value):
            for number, one in enumerate(value, start=1):
                lines += _flat(one, f"{name} {number}, ")
        elif isinstance(value, list | tuple):
            lines.append((name, " ".join(map(str, value))))
        elif value is not None:
            lines.append((name, str(value)))
    return lines
