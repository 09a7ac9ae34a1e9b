"""The page of ``compare-heads``: the grids side by side, transitions, and what changed of every head."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from models.common.pages import FigureBlock, Section, TableBlock, command_line, options_of, write_page

from .records import ComparisonSummary
from .words import changed_words, pair_words

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

_MOST = 8  # findings at the top; all of them are in the sections


def write_report(
    path: Path,
    job: Any,
    summary: ComparisonSummary,
    frame: pd.DataFrame,
    transitions: pd.DataFrame,
    figure: Figure,
) -> None:
    """Write what one run found.

    Args:
        path: of the HTML file.
        job: of the run, to repeat it by.
        summary: what ``summary.json`` holds.
        frame: what ``changes.parquet`` holds.
        transitions: what ``transitions.csv`` holds.
        figure: every head in each model.
    """
    said = [words for pair in summary["pairs"] for words in pair_words(pair)]
    grids = FigureBlock.of(
        figure,
        "Grids of layers and heads, one a model and kind of maps, coloured by dominant pattern; heads with another one "
        "than in the model before are outlined. " + " ".join(said),
        "The colour is the dominant pattern, its strength the pattern's share of the head's maps. Outlined: another "
        "dominant pattern than in the model before (of two models, in both grids).",
    )
    sections = [Section("The same heads side by side", tuple(said), (grids,))]
    for number, pair in enumerate(summary["pairs"], start=1):
        here = (frame["a"] == pair["a"]) & (frame["b"] == pair["b"])
        there = (transitions["a"] == pair["a"]) & (transitions["b"] == pair["b"])
        words = [
            f"{pair['heads']} heads are in both, on {pair['examples']} inputs.",
            *(f"{kind} maps: {changed_words(found)}" for kind, found in pair["maps"].items()),
            f"Shares are of all maps; the intervals cover {summary['covers']}.",
        ]
        measured = _measurements_frame(summary, number - 1)
        tables = [
            TableBlock.of(
                transitions[there].drop(columns=["a", "b"]),
                f"transitions-{number}",
                "From pattern to pattern: heads by their dominant one, and maps",
                titles={"low": "95% from", "high": "to"},
                shares=("share", "low", "high"),
            ),
            TableBlock.of(
                frame[here].drop(columns=["a", "b"]),
                f"changes-{number}",
                "Every head",
                shares=("agreement",),
                folded=True,
            ),
        ]
        if len(measured):
            tables.insert(
                1,
                TableBlock.of(
                    measured,
                    f"measurements-{number}",
                    "What heads do, on average over heads and inputs",
                    titles={"low": "95% from", "high": "to"},
                ),
            )
        sections.append(Section(f"{pair['a']} to {pair['b']}", tuple(words), tables=tuple(tables)))
    options = {name: value for name, value in options_of(job).items() if name not in ("models", "overwrite")}
    if job.task is not None:
        options["task"] = getattr(job.task, "name", job.task)
    write_page(
        path,
        title="The same heads in several models",
        about=f"{', '.join(summary['models'])}; {summary['examples']} inputs of {summary['task']}.",
        facts=[
            (str(len(summary["models"])), "models"),
            (str(summary["layers"] * summary["heads"]), "heads"),
            (str(summary["examples"]), "inputs"),
        ],
        findings=said[:_MOST],
        warnings=summary["warnings"],
        sections=sections,
        provenance=summary["provenance"],
        command=command_line(["compare-heads", *job.models], options),
    )


def _measurements_frame(summary: ComparisonSummary, number: int) -> pd.DataFrame:
    import pandas as pd

    return pd.DataFrame(
        {
            "kind": kind,
            "measurement": name,
            "before": one["a"],
            "after": one["b"],
            "change": one["change"],
            "low": one["ci95"][0],
            "high": one["ci95"][1],
        }
        for kind, found in summary["pairs"][number]["maps"].items()
        for name, one in found["measurements"].items()
    )
