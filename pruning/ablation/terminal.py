"""What an ablation found, on a terminal."""

from __future__ import annotations

from typing import IO

from rich.text import Text

from models.common.terminal import console_of, number_table, print_table
from models.common.words import p_words

from ..permutation import UNTESTABLE
from .records import AblationSummary
from .words import headline, number_words


def print_ablation(
    summary: AblationSummary, *, file: IO[str] | None = None, width: int | None = None
) -> None:
    """Print what ``ablate-patterns`` found.

    Args:
        summary: what ``summary.json`` holds.
        file: where to print; standard output if not given.
        width: of the terminal, in characters; found out if not given.
    """
    console = console_of(file, width)
    console.print(Text(headline(summary)))
    console.print(Text(summary["notes"]["how"]))
    console.print()
    console.print(
        Text(
            f"All heads of a group closed: drop of {summary['metric']} with its 95% interval over inputs, beside "
            f"{summary['draws']} random sets of as many heads in every layer (mean, middle 95%)",
            "bold",
        )
    )
    table = number_table("group", "heads", "drop", "[95%]", "random", "[95%]", "p", "verdict")
    for one in summary["found"]:
        test, random = one["together"], one["together"]["random"]
        table.add_row(
            f"{one['kind']} {one['title']}",
            str(one["heads"]),
            number_words(test["drop"]),
            _bounds(test["drop_ci95"]),
            number_words(random["mean"]) if random else "-",
            _bounds(random["ci95"] if random else None),
            p_words(None if test["verdict"] == UNTESTABLE else test["p_holm"]),
            test["verdict"],
        )
    print_table(console, table)
    console.print()
    if any(one["one_by_one"] for one in summary["found"]):
        console.print(
            Text(
                "One head closed at a time: mean drop of a group's heads and of the others, what of the difference the "
                "layers explain, and the rest with its 95% interval",
                "bold",
            )
        )
        table = number_table("group", "drop", "others", "by layers", "difference", "[95%]", "p", "verdict")
        for one in summary["found"]:
            if (each := one["one_by_one"]) is None:
                continue
            table.add_row(
                f"{one['kind']} {one['title']}",
                *map(
                    number_words, (each["mean_drop"], each["others"], each["by_layers"], each["difference"])
                ),
                _bounds(each["ci95"]),
                p_words(each["p_holm"]),
                each["verdict"],
            )
        print_table(console, table)
        console.print()
    for one in summary["found"]:
        if one["together"]["verdict"] == UNTESTABLE:
            console.print(
                Text(f"{one['kind']} {one['title']} is {UNTESTABLE}: {one['together']['why']}.", "bold")
            )
    for name in ("together", "inputs", "alone"):
        if told := summary["notes"].get(name):
            console.print(Text(told, "dim"))


def _bounds(ends: list[float] | list[float | None] | None) -> str:
    if ends is None or None in ends:
        return ""
    return f"[{number_words(ends[0])}, {number_words(ends[1])}]"
