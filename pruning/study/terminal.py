"""A study on a terminal: what there is to do, and what was found."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from models.common.terminal import print_table

from .records import Report

if TYPE_CHECKING:
    from .estimate import Estimate


def print_plan(found: Sequence[Estimate], jobs: int) -> None:
    """Print a plan's steps, how many are done, and how long the others take."""
    console = Console(highlight=False, markup=False, emoji=False)
    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for title in ("step", "done", "of", "each", "left"):
        table.add_column(title, justify="left" if title == "step" else "right", no_wrap=True)
    wave = ""
    for one in found:
        if one.wave != wave:
            wave = one.wave
            table.add_row(wave, style="bold")
        numbers = (str(one.done), str(one.steps), duration(one.seconds), duration(one.left))
        table.add_row(f"  {one.name}", *numbers)
    print_table(console, table)
    steps, done = sum(one.steps for one in found), sum(one.done for one in found)
    known = [one.left for one in found if one.left is not None]
    unknown = [one.name for one in found if one.left is None]
    line = f"{steps} steps, {done} done"
    if steps > done and done:
        line += f"; about {duration(sum(known) / jobs)} left with --jobs {jobs}, from the times of those done"
        if unknown:
            line += f", and what {', '.join(unknown[:3])}{' and others' if unknown[3:] else ''} will take"
    console.print(line)


def duration(seconds: float | None) -> str:
    """`75` as `1 min 15 s`."""
    if seconds is None:
        return "?"
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def print_report(told: Report) -> None:
    """Print what a report says: scores by subnetwork and task, and what the data support."""
    console = Console(highlight=False, markup=False, emoji=False)
    scores = told["scores"]
    tasks = list(dict.fromkeys(row["task"] for row in scores))
    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for title in ("", "", ""):
        table.add_column(title, no_wrap=True)
    for task in tasks:
        table.add_column(task, justify="right", no_wrap=True)
    cells: dict[tuple[str, str, str], dict[str, str]] = {}
    for row in scores:
        spread = "" if row["std"] is None else f" ±{row['std']:.3f}"
        key = (row["method"], row["subnetwork"], row["state"])
        cells.setdefault(key, {})[row["task"]] = f"{row['mean']:.3f}{spread}"
    last = ""
    for (method, subnetwork, state), by_task in cells.items():
        first, last = "" if method == last else method, method
        words = (first, subnetwork, "" if state == subnetwork else state)
        table.add_row(*words, *(by_task.get(task, "-") for task in tasks))
    for name in ("majority", "guessing"):
        values = {row["task"]: row[name] for row in scores}
        table.add_row(
            "", name, "", *("-" if values[task] is None else f"{values[task]:.3f}" for task in tasks)
        )
    console.print(
        Text(
            f"Scores: mean and standard deviation over seeds ({told['done']} of {told['steps']} steps)",
            "bold",
        )
    )
    print_table(console, table, keep=3)
    for one in told["conclusions"]:
        console.print()
        console.print(Text(one["question"], "bold"))
        for answer in one["answers"]:
            console.print(Padding(answer, (0, 0, 0, 2)))
    for message in told["warnings"]:
        console.print(Text(f"warning: {message}", "dim"))
