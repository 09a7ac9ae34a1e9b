"""What a comparison of heads found, on a terminal."""

from __future__ import annotations

from typing import IO

from rich.table import Table
from rich.text import Text

from models.common.terminal import console_of, number_table, print_table
from models.common.words import percent

from ..taxonomy import PATTERNS, TITLES, Pattern
from .records import ComparisonSummary, KindChanges
from .words import changed_words, ends_words, pair_words

_SHORT = TITLES | {Pattern.VERTICAL_DIAGONAL: "both", Pattern.HETEROGENEOUS: "heterog."}


def print_comparison(
    summary: ComparisonSummary, *, file: IO[str] | None = None, width: int | None = None
) -> None:
    """Print what ``compare-heads`` found.

    Args:
        summary: what ``summary.json`` holds.
        file: where to print; standard output if not given.
        width: of the terminal, in characters; found out if not given.
    """
    console = console_of(file, width)
    for pair in summary["pairs"]:
        for (kind, found), words in zip(pair["maps"].items(), pair_words(pair), strict=True):
            console.print(Text(words, "bold"))
            console.print(Text(changed_words(found)))
            console.print()
            console.print(
                Text(
                    f"{kind} maps: pattern in {pair['a']} (rows) and in {pair['b']} (columns), percent of all maps "
                    "[95%]"
                )
            )
            print_table(console, _transitions(found))
            console.print()
            if found["measurements"]:
                print_table(console, _measurements(found))
                console.print()
    console.print(Text(f"The intervals cover {summary['covers']}.", "dim"))


def _transitions(found: KindChanges) -> Table:
    table = number_table("", *(_SHORT[pattern] for pattern in PATTERNS))
    for pattern in PATTERNS:
        cells = found["transitions"][pattern.value]
        table.add_row(
            _SHORT[pattern],
            *(
                f"{percent(cells[other.value]['share'])} {ends_words(cells[other.value]['ci95'])}".strip()
                if cells[other.value]["maps"]
                else "-"
                for other in PATTERNS
            ),
        )
    return table


def _measurements(found: KindChanges) -> Table:
    table = number_table("mean over heads and inputs", "before", "after", "change", "[95%]")
    for name, one in found["measurements"].items():
        low, high = one["ci95"]
        if one["change"] is None or one["a"] is None or one["b"] is None:
            table.add_row(name.replace("_", " "), "-", "-", "-", "")
            continue
        table.add_row(
            name.replace("_", " "),
            f"{one['a']:.3f}",
            f"{one['b']:.3f}",
            f"{one['change']:+.3f}",
            "" if low is None or high is None else f"[{low:+.3f}, {high:+.3f}]",
        )
    return table
