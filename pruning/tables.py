"""Who survives, how reliably and with what patterns, on a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import IO, Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from models.terminal import print_table
from patterns.tables import interval, percent
from patterns.taxonomy import PATTERNS, TITLES, Pattern

from .consistency import COCHRAN
from .stability import NULLS

INTERVALS = (
    "The intervals say how far other examples and seeds could move these very heads' shares; the tests, whether heads "
    "that survive differ from other heads. 'by layers' is the difference that the layers of the survivors explain."
)
_NONE = "-"
_UNTESTABLE = "not testable"
_SHORT = TITLES | {Pattern.VERTICAL_DIAGONAL: "both", Pattern.HETEROGENEOUS: "heterog."}
_MOST_PAIRS = 12  # more pairs of tasks than this are left to stability.csv


def print_comparison(
    summary: Mapping[str, Any], *, file: IO[str] | None = None, width: int | None = None
) -> None:
    """Print what ``compare-survivors`` found: survivors, their stability, shared heads, and patterns if looked at.

    Args:
        summary: what ``summary.json`` holds.
        file: where to print; standard output if not given.
        width: of the terminal, in characters; found out if not given.
    """
    console = Console(file=file, width=width, highlight=False, markup=False, emoji=False)
    tasks = summary["tasks"]
    _print(console, "Survivors", _survivors(tasks))
    _print(
        console,
        "Agreement of the seeds: number of super-survivors and Fleiss' kappa, each with its mean by chance "
        "for random subnetworks of the same size | the same size in every layer",
        _agreement(tasks),
    )
    console.print(Text(COCHRAN, "dim"))
    console.print()
    if summary["shared_heads"]:
        _print(
            console,
            "Heads shared by two tasks, on average over pairs of searches; mean by chance as above, p by the second",
            _shared(summary["shared_heads"]),
        )
        if (left := len(summary["shared_heads"]) - _MOST_PAIRS) > 0:
            console.print(Text(f"... and {left} more pairs: see stability.csv (--output) or --json", "dim"))
            console.print()
    looked_at = {name: task for name, task in tasks.items() if "patterns" in task}
    for kind in summary.get("maps", ()):
        _print(
            console,
            f"Patterns of {kind} maps: shares over super-survivors and over all heads; 95% intervals of heterogeneous",
            _patterns({name: task["patterns"][kind] for name, task in looked_at.items()}),
        )
    if looked_at:
        _print(
            console,
            "Are survivors heterogeneous more often than the other heads? Difference of the means, p of a "
            "permutation within layers (Holm over tasks and kinds), and p of a free permutation",
            _tests(looked_at, summary["maps"]),
        )
        console.print(Text(INTERVALS, "dim"))
        console.print()


def _survivors(tasks: Mapping[str, Any]) -> Table:
    table = _table("task", "seeds", "heads a seed", "super", "never", "MLPs a seed", "super", "never")
    for name, task in tasks.items():
        cells = []
        for what in ("heads", "mlps"):
            numbers = [run[what] for run in task["runs"]]
            cells += [
                f"{min(numbers)}-{max(numbers)} of {task[what]['all']}",
                str(task[what]["super_survivors"]),
                str(task[what]["never_survivors"]),
            ]
        table.add_row(name, str(len(task["seeds"])), *cells)
    return table


def _agreement(tasks: Mapping[str, Any]) -> Table:
    table = _table("task", "", "super", "chance", "kappa", "chance", "Cochran's Q", "p")
    for name, task in tasks.items():
        for what, title in (("heads", "heads"), ("mlps", "MLPs")):
            part = task[what]
            q = part["cochran_q"]
            table.add_row(
                name if what == "heads" else "",
                title,
                str(part["super_survivors"]),
                _chance(part["chance"].get("super_survivors"), "{:.1f}"),
                _number(part["fleiss_kappa"], "{:.3f}"),
                _chance(part["chance"].get("fleiss_kappa"), "{:.3f}"),
                _number(q and q["statistic"], "{:.1f}"),
                p_words(q["p_value"]) if q else _NONE,
            )
    return table


def _shared(pairs: Sequence[Mapping[str, Any]]) -> Table:
    table = _table("tasks", "same seed", "chance", "p", "all pairs", "chance", "p")
    for pair in pairs[:_MOST_PAIRS]:
        cells = []
        for way in ("same-seed", "all"):
            part = pair[way]
            cells += [
                _number(part and part["mean"], "{:.1f}"),
                _chance(part and part["chance"], "{:.1f}"),
                p_words(part["chance"][NULLS[-1]]["p_value"]) if part else _NONE,
            ]
        table.add_row(" - ".join(pair["tasks"]), *cells)
    return table


def _patterns(found: Mapping[str, Mapping[str, Any]]) -> Table:
    table = _table("task", "heads", *_SHORT.values(), "[95%]")
    for name, one in found.items():
        for side, words in (("super_survivors", "super"), ("all", "all")):
            part, first = one[side], name if side == "super_survivors" else ""
            if part is None:
                table.add_row(first, f"{words} 0", *([_NONE] * len(PATTERNS)), "")
                continue
            shares = [percent(part["distribution"][pattern]) for pattern in _SHORT]
            table.add_row(
                first, f"{words} {part['heads']}", *shares, _interval(part["interpretable_ratio_ci95"])
            )
        if apart := one["difference"]:
            empty = [""] * (len(PATTERNS) - 1)
            table.add_row("", "difference", *empty, _points(apart["value"]), _interval(apart["ci95"]))
    return table


def _tests(tasks: Mapping[str, Any], kinds: Sequence[str]) -> Table:
    table = _table("task", "maps", "survivors", "difference", "by layers", "p in layers", "(Holm)", "p free")
    for name, task in tasks.items():
        for kind in kinds:
            for key, words in (("test", "super"), ("test_each_seed", "each seed's")):
                test = task["patterns"][kind][key]
                points = [_points(test[of]) for of in ("difference", "expected_by_layers")]
                ps = [
                    p_words(test["p_layers"], _UNTESTABLE),
                    *(p_words(test[of]) for of in ("p_layers_holm", "p_free")),
                ]
                first = kind == kinds[0] and key == "test"
                table.add_row(name if first else "", kind if key == "test" else "", words, *points, *ps)
    return table


def count_words(number: int, what: str) -> str:
    """`1, "head"` as `1 head`, `2` as `2 heads`."""
    return f"{number} {what}{'' if number == 1 else 's'}"


def p_words(p: float | None, unknown: str = _NONE) -> str:
    """`0.0321` as `.032`, `0.00001` as `<.001`."""
    if p is None:
        return unknown
    return "<.001" if p < 0.001 else f"{p:.3f}".removeprefix("0")


def _points(difference: float | None) -> str:
    """`-0.087` as `-8.7`, in percentage points."""
    return _NONE if difference is None else f"{100 * difference:+.1f}"


def _number(value: float | None, form: str) -> str:
    return _NONE if value is None else form.format(value)


def _chance(levels: Mapping[str, Any] | None, form: str) -> str:
    """The means by chance, one a null."""
    if not levels or all(level["mean"] is None for level in levels.values()):
        return _NONE
    return " | ".join(_number(level["mean"], form) for level in levels.values())


def _interval(bounds: Sequence[float | None]) -> str:
    low, high = bounds
    return "" if low is None or high is None else interval(low, high)


def _table(first: str, *others: str) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False, collapse_padding=True)
    table.add_column(first, no_wrap=True)
    for other in others:
        table.add_column(other, justify="right", overflow="fold", no_wrap=other == "[95%]")
    return table


def _print(console: Console, title: str, table: Table) -> None:
    console.print(Text(title, "bold"))
    print_table(console, table)
    console.print()
