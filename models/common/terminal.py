"""Tables on a terminal that is too narrow for them: whole columns below each other, never half a number."""

from __future__ import annotations

import shlex
import shutil
import textwrap
from dataclasses import replace
from typing import IO, TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.cells import cell_len
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Column

_UNBOUNDED = 100_000


def console_of(file: IO[str] | None, width: int | None) -> Console:
    """Return where to print tables: a file or standard output, so many characters wide or as wide as it is."""
    from rich.console import Console

    return Console(file=file, width=width, highlight=False, markup=False, emoji=False)


def number_table(first: str, *others: str) -> Table:
    """Return a table to fill, of what a row is and of numbers, which stand on the right."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False, collapse_padding=True)
    table.add_column(first, no_wrap=True)
    for other in others:
        table.add_column(other, justify="right", no_wrap=True)
    return table


def print_text(text: str = "") -> None:
    """Print sentences, on a terminal broken between words where it is too narrow; into a file each is one line."""
    width = shutil.get_terminal_size((0, 0)).columns  # 0: neither a terminal nor COLUMNS
    for line in text.split("\n"):
        if not 0 < width < cell_len(line):
            print(line)
            continue
        lines = textwrap.wrap(
            line, width, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False
        )
        print("\n".join(lines))


def print_command(command: str) -> None:
    """Print a command to copy, on a narrow terminal over several lines that a shell reads as one."""
    width = shutil.get_terminal_size((0, 0)).columns or _UNBOUNDED
    lines = [" "]
    for word in map(shlex.quote, shlex.split(command)):
        if lines[-1].strip() and cell_len(f"{lines[-1]} {word} \\") > width:
            lines.append("   ")
        lines[-1] += f" {word}"
    print(" \\\n".join(lines))


def print_table(console: Console, table: Table, keep: int = 1) -> None:
    """Print a table; where it is wider than the terminal, in parts, each with the first columns again.

    A cell is not broken, so that a number stays one; a title breaks between its words.

    Args:
        console: where.
        table: without a title, a caption or sections of its own.
        keep: how many columns say what a row is.
    """
    unbounded = console.options.update(max_width=_UNBOUNDED)
    if console.measure(table, options=unbounded).maximum <= console.width:
        console.print(table)
        return
    widths = [_width(column) for column in table.columns]
    gap = 2 if table.collapse_padding else 3  # a column's padding, and the box's line between two
    first = sum(widths[:keep]) + gap * (keep - 1)
    parts: list[list[int]] = [[]]
    room = console.width
    for place in range(keep, len(widths)):
        used = first + sum(gap + widths[one] for one in parts[-1])
        if parts[-1] and used + gap + widths[place] > room:
            parts.append([])
        parts[-1].append(place)
    for number, part in enumerate(parts):
        if number:
            console.print()
        console.print(_with(table, [*range(keep), *part], widths))


def _width(column: Column) -> int:
    """Return what a column takes at least: its widest cell, or the widest word of its title."""
    words = (word for head in (column.header, column.footer) for word in _plain(head).split())
    return max((cell_len(text) for text in (*words, *map(_plain, column.cells))), default=1)


def _plain(cell: object) -> str:
    return cell.plain if isinstance(cell, Text) else str(cell)


def _with(table: Table, places: list[int], widths: list[int]) -> Table:
    """Return a table of some of the columns, as wide as given."""
    part = Table(
        box=table.box,
        pad_edge=table.pad_edge,
        show_edge=table.show_edge,
        show_footer=table.show_footer,
        collapse_padding=table.collapse_padding,
    )
    for index, place in enumerate(places):
        column = replace(table.columns[place], _index=index, width=widths[place], no_wrap=False)
        column._cells = list(table.columns[place]._cells)
        part.columns.append(column)
    part.rows = list(table.rows)
    return part
