"""Numbers as a reader sees them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

_BAR = "\\|"  # as it stands in a cell


def percent(share: float) -> str:
    """`0.1234` as `12.3%`."""
    return f"{100 * share:.1f}%"


def interval(lo: float, hi: float) -> str:
    """`0.101, 0.15` as `[10.1, 15.0]`, in percent, and all as `100`; nothing where a bound is nan."""
    if math.isnan(lo) or math.isnan(hi):
        return ""
    lower, upper = (f"{100 * bound:.1f}".replace("100.0", "100") for bound in (lo, hi))
    return f"[{lower}, {upper}]"


def count_words(number: int, what: str) -> str:
    """`1, "head"` as `1 head`, `2` as `2 heads`."""
    return f"{number} {what}{'' if number == 1 else 's'}"


def p_words(p: float | None, unknown: str = "-") -> str:
    """`0.0321` as `.032`, `0.00001` as `<.001`."""
    if p is None:
        return unknown
    return "<.001" if p < 0.001 else f"{p:.3f}".removeprefix("0")


def p_equals(p: float | None) -> str:
    """`= .032`, or `< .001`."""
    words = p_words(p)
    return f"< {words[1:]}" if words.startswith("<") else f"= {words}"


def markdown_table(columns: Sequence[str], rows: Iterable[Sequence[str]], figures: bool = True) -> str:
    """A table in Markdown, with a line break at its end, whose first column is words.

    Args:
        columns: their names.
        rows: a text for each column.
        figures: whether the other columns are figures, which stand to the right.
    """
    lines = [columns, ["---", *["---:" if figures else "---"] * (len(columns) - 1)], *rows]
    return "".join(f"| {' | '.join(cell.replace('|', _BAR) for cell in line)} |\n" for line in lines)
