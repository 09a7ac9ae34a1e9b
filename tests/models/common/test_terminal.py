"""Tables on narrow terminals, read back line by line."""

from __future__ import annotations

import io
import shlex

import pytest
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from models.common.terminal import print_command, print_table


def printed(table: Table, width: int, keep: int = 1) -> list[str]:
    out = io.StringIO()
    print_table(Console(file=out, width=width), table, keep)
    return out.getvalue().splitlines()


def numbers(columns: int, rows: int = 3, collapse: bool = True) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False, collapse_padding=collapse)
    table.add_column("task", no_wrap=True)
    for column in range(columns):
        table.add_column(Text(f"mean of {column}"), justify="right", overflow="fold")
    for row in range(rows):
        table.add_row(f"task-{row}", *(f"0.{row}{column:02d} ±0.{column:03d}" for column in range(columns)))
    return table


def test_a_table_that_fits_is_printed_as_ever() -> None:
    out = io.StringIO()
    Console(file=out, width=60).print(numbers(2))
    assert printed(numbers(2), 60) == out.getvalue().splitlines()


@pytest.mark.parametrize("width", [24, 40, 60, 80, 200])
@pytest.mark.parametrize("columns", [1, 4, 9, 15])
@pytest.mark.parametrize("collapse", [True, False])
def test_every_cell_is_whole_and_no_line_wider_than_the_terminal(
    columns: int, width: int, collapse: bool
) -> None:
    lines = printed(numbers(columns, collapse=collapse), width)
    assert max(map(len, lines)) <= width
    for row in range(3):
        mine = " ".join(line.removeprefix(f"task-{row}") for line in lines if line.startswith(f"task-{row}"))
        assert mine.split() == [
            word for column in range(columns) for word in (f"0.{row}{column:02d}", f"±0.{column:03d}")
        ]


def test_the_columns_that_say_what_a_row_is_stand_in_every_part() -> None:
    table = numbers(8)
    lines = printed(table, 60, keep=2)
    parts = sum("task" in line.split() for line in lines)
    assert parts > 1
    assert sum("0.000 ±0.000" in line for line in lines) == parts


@pytest.mark.parametrize("width", ["20", "44", "60", "400"])
def test_a_command_is_read_as_one_by_a_shell_however_narrow_the_terminal(
    width: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", width)
    words = ["annotate-maps", "sample", "--model", "a folder/with spaces", *("--option value " * 9).split()]
    print_command(shlex.join(words))
    out = capsys.readouterr().out
    assert shlex.split(out.replace("\\\n", " ")) == words
    assert all(len(line) <= max(int(width), 30) for line in out.splitlines())
