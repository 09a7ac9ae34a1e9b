"""Who survives, how reliably and with what patterns, on a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import IO

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from models.common.terminal import console_of, print_table
from models.common.words import interval, p_words, percent
from models.subnetwork import Subnetwork
from patterns.taxonomy import PATTERNS, TITLES, Pattern

from ..permutation import UNTESTABLE
from ..search.records import HeadsLine, HeadsSummary
from ..stability import HARDEST, WHAT, What
from .consistency import COCHRAN, PAIRS, Level, SharedHeads
from .summary import Patterns, Summary, TaskSummary, patterns_of
from .survivor_patterns import PatternComparison, SideName

INTERVALS = (
    "The intervals of shares cover which examples and seeds were drawn, alone. Of super - others, 'by layers' is what "
    "the layers explain in which super-survivors lie; the rest is the difference. Its interval and p are of one test, "
    "which permutes heads within layers, both corrected for the number of tasks and kinds (Holm): 0 lies in the "
    "interval if and only if p > .05."
)
_NONE = "-"
_TITLES: dict[What, str] = {"heads": "heads", "mlps": "MLPs"}
_WIDE = 76  # columns from which the table of tests fits
_SHORT = TITLES | {Pattern.VERTICAL_DIAGONAL: "both", Pattern.HETEROGENEOUS: "heterog."}
_MOST_PAIRS = 12  # more pairs of tasks than this are left to stability.csv


def print_comparison(summary: Summary, *, file: IO[str] | None = None, width: int | None = None) -> None:
    """Print what ``compare-survivors`` found: survivors, their stability, shared heads, and patterns if looked at.

    Args:
        summary: what ``summary.json`` holds.
        file: where to print; standard output if not given.
        width: of the terminal, in characters; found out if not given.
    """
    console = console_of(file, width)
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
            _shared(summary["shared_heads"], {name for name, task in tasks.items() if task["untestable"]}),
        )
        if (left := len(summary["shared_heads"]) - _MOST_PAIRS) > 0:
            console.print(Text(f"... and {left} more pairs: see stability.csv (--output) or --json", "dim"))
            console.print()
    for name, task in tasks.items():
        if task["untestable"]:
            console.print(Text(f"{name}: {UNTESTABLE}, {task['untestable']}.", "bold"))
            console.print()
    looked_at, kinds = patterns_of(summary), summary.get("maps", [])
    for kind in kinds:
        _print(
            console,
            f"Patterns of {kind} maps: shares over super-survivors, the other heads, and all; 95% intervals of "
            "heterogeneous",
            _patterns({name: found[kind] for name, found in looked_at.items()}),
        )
    if looked_at:
        title = "Are super-survivors more often heterogeneous than the other heads of their layers? In percent points"
        if console.width < _WIDE:
            console.print(Text(title, "bold"))
            for line in _test_lines(looked_at, kinds):
                console.print(line)
            console.print()
        else:
            _print(console, title, _tests(looked_at, kinds))
        console.print(Text(INTERVALS, "dim"))
        console.print()


def _survivors(tasks: Mapping[str, TaskSummary]) -> Table:
    table = _table("task", "seeds", "heads a seed", "super", "never", "MLPs a seed", "super", "never")
    for name, task in tasks.items():
        cells = []
        for what in WHAT:
            numbers = [run[what] for run in task["runs"]]
            cells += [
                f"{min(numbers)}-{max(numbers)} of {task[what]['all']}",
                str(task[what]["super_survivors"]),
                str(task[what]["never_survivors"]),
            ]
        table.add_row(name, str(len(task["seeds"])), *cells)
    return table


def _agreement(tasks: Mapping[str, TaskSummary]) -> Table:
    table = _table("task", "", "super", "chance", "kappa", "chance", "Cochran's Q", "p")
    for name, task in tasks.items():
        for what, title in _TITLES.items():
            part = task[what]
            q = part["cochran_q"]
            table.add_row(
                name if what == "heads" else "",
                title,
                str(part["super_survivors"]),
                _chance(part["chance"].get("super_survivors"), "{:.1f}"),
                _number(part["fleiss_kappa"], "{:.3f}"),
                _chance(part["chance"].get("fleiss_kappa"), "{:.3f}"),
                _number(q["statistic"] if q else None, "{:.1f}"),
                UNTESTABLE if task["untestable"] else p_words(q["p_value"]) if q else _NONE,
            )
    return table


def _shared(pairs: Sequence[SharedHeads], untestable: set[str]) -> Table:
    table = _table("tasks", "same seed", "chance", "p", "all pairs", "chance", "p")
    for pair in pairs[:_MOST_PAIRS]:
        cells = []
        for way in PAIRS:
            part = pair[way]
            cells += [
                _number(part["mean"] if part else None, "{:.1f}"),
                _chance(part["chance"] if part else None, "{:.1f}"),
                UNTESTABLE
                if untestable & set(pair["tasks"])
                else p_words(part["chance"][HARDEST]["p_value"])
                if part
                else _NONE,
            ]
        table.add_row(" - ".join(pair["tasks"]), *cells)
    return table


def print_kept(
    kept: Subnetwork,
    history: Sequence[HeadsLine],
    summary: HeadsSummary,
    *,
    file: IO[str] | None = None,
    width: int | None = None,
) -> None:
    """Print what a search for heads and MLPs kept: the grid of layers and heads, and the score against the size.

    Args:
        kept: what was found.
        history: its steps, as in ``history.jsonl``.
        summary: as in ``summary.json``.
        file: where to print; standard output if not given.
        width: of the terminal, in characters; found out if not given.
    """
    console = console_of(file, width)
    layers, heads = kept.heads.shape
    cell, first = max(2, len(str(heads - 1))), max(2, len(str(layers - 1)))
    grid = first + (cell + 1) * heads + 5
    console.print(Text("What is kept: x, what is not: .", "bold"))
    if grid <= console.width:
        console.print(" " * first + "".join(f" {head:>{cell}}" for head in range(heads)) + "  MLP")
        for layer in range(layers):
            marks = "".join(f" {_mark(one):>{cell}}" for one in kept.heads[layer])
            console.print(f"{layer:>{first}}{marks}  {_mark(kept.mlps[layer]):>3}")
    else:
        table = _table("layer", "heads kept", "MLP")
        for layer in range(layers):
            table.add_row(str(layer), str(int(kept.heads[layer].sum())), _mark(kept.mlps[layer]))
        console.print(table)
    console.print()
    table = _table("step", "heads", "MLPs", str(summary["metric"]), "")
    for one in history:
        failed = "" if one["accepted"] else "below the threshold, put back"
        score = _number(one["score"], "{:.4f}")
        table.add_row(str(one["iteration"]), str(one["heads"]), str(one["mlps"]), score, failed)
    if "threshold_score" in summary:  # headscope 0.1 did not say
        table.add_row("threshold", "", "", f"{summary['threshold_score']:.4f}", "")
        table.add_row("commonest label", "", "", f"{summary['majority_score']:.4f}", "")
    _print(console, "Score against size", table)


def _mark(kept: object) -> str:
    return "x" if kept else "."


_ROWS: dict[SideName, str] = {
    "super_survivors": "super",
    "super_survivors_alone": "super, alone",
    "non_survivors": "others",
    "all": "all",
}


def _patterns(found: Mapping[str, PatternComparison]) -> Table:
    table = _table("task", "heads", *_SHORT.values(), "[95%]")
    for name, one in found.items():
        first = name
        for side, words in _ROWS.items():
            if (part := one[side]) is None:
                if side == "super_survivors":
                    table.add_row(first, f"{words} 0", *([_NONE] * len(PATTERNS)), "")
                    first = ""
                continue
            shares = [percent(part["distribution"][pattern]) for pattern in _SHORT]
            table.add_row(
                first, f"{words} {part['heads']}", *shares, interval_words(part["interpretable_ratio_ci95"])
            )
            first = ""
    return table


def _tests(patterns: Patterns, kinds: Sequence[str]) -> Table:
    table = _table("task", "maps", "super - others", "by layers", "difference", "[95%]", "p", "verdict")
    for name, found in patterns.items():
        for kind in kinds:
            one = found[kind]["difference"]
            tested = one["verdict"] != UNTESTABLE
            points = [points_words(value) for value in (one["total"], one["by_layers"], one["value"])]
            bounds = interval_words(one["ci95"]) if tested else ""
            p = p_words(one["p_holm"])
            table.add_row(name if kind == kinds[0] else "", kind, *points, bounds, p, one["verdict"])
    return table


def _test_lines(patterns: Patterns, kinds: Sequence[str]) -> list[str]:
    """The same in sentences, where a table of eight columns does not fit."""
    lines = []
    for name, found in patterns.items():
        for kind in kinds:
            one = found[kind]["difference"]
            line = f"{name}, {kind} maps: {one['verdict']}"
            if one["verdict"] != UNTESTABLE:
                bounds, p = interval_words(one["ci95"]), p_words(one["p_holm"])
                line += f"; difference {points_words(one['value'])} {bounds}, p {p}"
            lines.append(
                f"{line}; super - others {points_words(one['total'])}, by layers {points_words(one['by_layers'])}"
            )
    return lines


def points_words(difference: float | None) -> str:
    """`-0.087` as `-8.7`, in percentage points."""
    return _NONE if difference is None else f"{100 * difference:+.1f}"


def _number(value: float | None, form: str) -> str:
    return _NONE if value is None else form.format(value)


def _chance(levels: Mapping[str, Level] | None, form: str) -> str:
    """The means by chance, one a null."""
    if not levels or all(level["mean"] is None for level in levels.values()):
        return _NONE
    return " | ".join(_number(level["mean"], form) for level in levels.values())


def interval_words(bounds: Sequence[float | None]) -> str:
    """`[0.101, 0.15]` as `[10.1, 15.0]`, in percent; nothing where a bound is not known."""
    low, high = bounds
    return "" if low is None or high is None else interval(low, high)


def _table(first: str, *others: str) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False, collapse_padding=True)
    table.add_column(first, no_wrap=True)
    for other in others:
        table.add_column(
            other, justify="right", overflow="fold", no_wrap=other in ("[95%]", "verdict", "difference")
        )
    return table


def _print(console: Console, title: str, table: Table) -> None:
    console.print(Text(title, "bold"))
    print_table(console, table)
    console.print()
