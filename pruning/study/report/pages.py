"""The report of a study, from its finished steps alone: tables, figures with the data behind each, conclusions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from models.common.drawing import save_figure
from models.common.errors import InputError
from models.common.outputs import Output
from models.common.pages import FigureBlock, Section, TableBlock, command_line, short_name, write_page
from models.common.provenance import provenance

from ...comparison.job import patterns_frame
from ..folder import REPORT, StudyFolder
from ..job import read_plan
from .conclusions import conclusions, findings_frame, findings_of, in_short
from .data import MIN_VALUES, StudyData

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

FILE, PAGE = "report.md", "report.html"
_LONG = 60  # rows from which a LaTeX table runs over pages
_SHORT = 20  # rows up to which a table of the page is open
_FOREST = "6_comparisons"
_MOST = 400  # rows from which a table is no table for a paper


def write_report(folder: Path | str) -> dict[str, Any]:
    """Write tables, figures and conclusions of a study to the folder ``report`` within its own.

    Returns:
        What is shown on a terminal: ``done`` of how many ``steps``, ``scores``, ``conclusions``, ``warnings``.

    Raises:
        InputError: the folder holds no study, or none of its steps is done.
    """
    home = StudyFolder(folder)
    data = StudyData(read_plan(home.path), home)
    if not data.done:
        raise InputError(f"{folder}: no step of this study is done, so there is nothing to report.")
    found = findings_of(data)
    tables = tables_of(data) | {"conclusions": findings_frame(found)}
    told: dict[str, Any] = {
        "steps": len(data.plan.steps),
        "done": len(data.done),
        "scores": _records(data.score_summary),
        "in_short": in_short(found),
        "conclusions": conclusions(found),
        "warnings": data.warnings,
    }
    output = Output(home.path / REPORT, "run-study report", overwrite=True, option="The report's folder")
    figures = figures_of(data) | forests_of(tables["conclusions"])
    output.adopt(
        (
            *(FILE, PAGE),
            *(f"tables/{name}.{ending}" for name in tables for ending in ("parquet", "csv", "tex")),
            *(f"figures/{name}.{ending}" for name in figures for ending in ("png", "pdf", "csv")),
        )
    )
    with output.making() as made:
        for name, table in tables.items():
            write_table(table, made / "tables" / name)
        for name, (figure, behind) in figures.items():
            save_figure(figure, made / "figures" / f"{name}.png")
            save_figure(figure, made / "figures" / f"{name}.pdf")
            behind.to_csv(made / "figures" / f"{name}.csv", index=False)
        (made / FILE).write_text(markdown(told, data), encoding="utf-8")
        write_study_page(made / PAGE, told, data, figures, tables, home.path)
    return told


_SHOWN = {
    "4_scores": (
        "Good, random and bad subnetworks",
        "Scores of subnetworks, pruned and fine-tuned again, with intervals over seeds, beside those of the full "
        "model, of always saying the commonest label, and of guessing.",
    ),
    "1_survival": (
        "What survives",
        "Layer by head grids of each task: how often each head and MLP is kept over the seeds, and its standard "
        "deviation, by structured and by magnitude pruning. The numbers are in the table.",
    ),
    "5_patterns": (
        "Patterns of super-survivors and of all heads",
        "Stacked bars of how often each pattern occurs among super-survivors and among all heads, by task and kind "
        "of maps.",
    ),
    "3_shared_heads": (
        "Heads that tasks share",
        "How many heads two tasks keep in common under the same seed, beside what chance would give.",
    ),
    "2_importance": (
        "Importance before anything is pruned",
        "Histograms of the normalised importance of heads and MLPs in the full models, by task.",
    ),
}
"""Title and description of each figure, in the order in which the page shows them."""


def write_study_page(
    path: Path,
    told: Mapping[str, Any],
    data: StudyData,
    figures: Mapping[str, tuple[Figure, pd.DataFrame]],
    tables: Mapping[str, pd.DataFrame],
    home: Path,
) -> None:
    """Write the report as one page that needs no network."""
    study = data.plan.study
    seeds = ", ".join(map(str, study.seeds))
    shown = [
        Section(
            title,
            figures=(FigureBlock.of(figure, alt, table=TableBlock.of(behind, name, title, folded=True)),),
        )
        for name, (title, alt) in _SHOWN.items()
        if name in figures
        for figure, behind in (figures[name],)
    ]
    write_page(
        path,
        title=f"Lottery study of {short_name(study.model)}",
        about=f"{', '.join(study.tasks)}; seeds {seeds}; {told['done']} of {told['steps']} steps done.",
        facts=[
            (str(len(study.tasks)), "tasks"),
            (str(len(study.seeds)), "seeds"),
            (f"{told['done']} of {told['steps']}", "steps done"),
        ],
        findings=[*told["in_short"], _selection(data)],
        warnings=told["warnings"],
        sections=[
            *(_answered(one, tables["conclusions"], figures) for one in told["conclusions"]),
            *shown,
            *_of_models(data),
            Section(
                "The comparisons in words",
                tuple(answer for one in told["conclusions"] for answer in one["answers"]),
            ),
            Section(
                "All tables",
                tables=tuple(
                    TableBlock.of(table, name, name.replace("_", " "), folded=True)
                    for name, table in tables.items()
                ),
            ),
        ],
        provenance={
            **provenance(),
            "folder": str(home),
            "model": {"source": study.model, **data.plan.materials.model},
            "data": {"source": study.data, **data.plan.materials.data},
            "study": asdict(study),
        },
        command=command_line(["run-study", home, "--output", f"{home}-again"], {}),
        notes="it does the whole study again, beside the first one, as long as the data stay as they are",
    )


def _of_models(data: StudyData) -> list[Section]:
    """Links to the pages of single models."""
    links = tuple(
        (
            f"../{step.path}/{PAGE}",
            f"{step.task}, {'pre-trained' if step.seed is None else f'seed {step.seed}'}",
        )
        for step in data.done
        if (data.folder.of(step) / PAGE).is_file()
    )
    words = (
        "A page a model, with every head's maps. They lie in the study's folder, which has to stay together."
    )
    return [Section("Head by head", (words,), links=links)] if links else []


def _answered(
    one: Mapping[str, Any],
    conclusions: pd.DataFrame,
    figures: Mapping[str, tuple[Figure, pd.DataFrame]],
) -> Section:
    """A question: its comparisons as a forest plot, and all of them as a table."""
    of = conclusions[conclusions["question"] == one["key"]].drop(columns="question")
    first = ["comparison", "of", "n", "verdict"]
    of = of[[*first, *of.columns.drop(first)]]
    name = f"{_FOREST}_{one['key']}"
    drawn: tuple[FigureBlock, ...] = ()
    if name in figures:
        figure, behind = figures[name]
        alt = (
            f"{one['question']} A row a comparison: the difference as a mark, its 95% interval as a line, beside the "
            "line of no difference, and the verdict. The numbers are in the table."
        )
        caption = (
            "Filled: higher or lower after Holm's correction. Open: no difference shown. Grey: not testable. The "
            "interval is that of the test, corrected likewise: it holds 0 if and only if no difference is shown. A "
            "line that ends at its mark is a one-sided interval: at least so much."
        )
        block = TableBlock.of(behind, name, "Every comparison that is drawn", folded=True)
        drawn = (FigureBlock.of(figure, alt, caption, block),)
    table = TableBlock.of(of, f"conclusions-{one['key']}", "Every comparison", folded=len(of) > _SHORT)
    words = () if len(of) else tuple(one["answers"])
    return Section(one["question"], words, drawn, (table,) if len(of) else ())


def forests_of(conclusions: pd.DataFrame) -> dict[str, tuple[Figure, pd.DataFrame]]:
    """Return a forest plot of each question's comparisons, with the numbers behind it."""
    from . import figures as draw

    known = conclusions[conclusions["effect"].notna()]
    return {
        f"{_FOREST}_{key}": (draw.forest(part), part) for key, part in known.groupby("question", sort=False)
    }


def tables_of(data: StudyData) -> dict[str, pd.DataFrame]:
    """Return the tidy tables that there are steps for, by name."""
    tables = {
        "scores": data.scores,
        "score_summary": data.score_summary,
        "survivors": data.survivors,
        "weight_survival": data.weight_survival,
        "importance": data.importance,
        "stability": data.stability_frame,
        "patterns": patterns_frame(data.patterns) if data.patterns else None,
    }
    return {name: table for name, table in tables.items() if table is not None and len(table)}


def write_table(table: pd.DataFrame, path: Path) -> None:
    """Write a table as Parquet, CSV and, if it is not too long for that, LaTeX with booktabs."""
    path.parent.mkdir(parents=True, exist_ok=True)
    table.to_parquet(path.with_suffix(".parquet"), index=False)
    table.to_csv(path.with_suffix(".csv"), index=False)
    if len(table) > _MOST:
        return
    names = {name: name.replace("_", " ") for name in table.columns}
    text = table.rename(columns=names).to_latex(
        index=False, float_format="%.3f", na_rep="--", escape=True, longtable=len(table) > _LONG
    )
    path.with_suffix(".tex").write_text(text, encoding="utf-8")


def figures_of(data: StudyData) -> dict[str, tuple[Figure, pd.DataFrame]]:
    """Return the figures that there are steps for, each with the data behind it."""
    from ...comparison.figures import pattern_bars
    from . import figures as draw

    found: dict[str, tuple[Figure, pd.DataFrame]] = {}
    if len(data.survivors) or len(data.weight_survival):
        behind = draw.survival_frame(data)
        found["1_survival"] = draw.survival(behind), behind
    if len(data.importance):
        found["2_importance"] = draw.importance(data.importance), data.importance
    if data.shared:
        behind = draw.shared_frame(data.shared)
        found["3_shared_heads"] = draw.shared(behind), behind
    if len(data.score_summary):
        found["4_scores"] = draw.scores(data.score_summary, data.by_seed), data.score_summary
    if data.patterns:
        found["5_patterns"] = pattern_bars(data.patterns), patterns_frame(data.patterns)
    return found


def markdown(told: Mapping[str, Any], data: StudyData) -> str:
    """Return the report as text."""
    study = data.plan.study
    lines = [
        "# Lottery study",
        "",
        f"{study.model} on {', '.join(study.tasks)}; seeds {', '.join(map(str, study.seeds))}. "
        f"{told['done']} of {told['steps']} steps are done; what follows is from these alone.",
        "",
        _selection(data),
        "",
        "## In short",
        "",
        *(f"- {sentence}" for sentence in told["in_short"]),
        "",
        "## What these data support",
        "",
    ]
    for one in told["conclusions"]:
        lines += [f"**{one['question']}**", "", *(f"- {answer}" for answer in one["answers"]), ""]
    lines += [
        "Each difference has one test, and the 95% interval that belongs to it; p-values and intervals are adjusted by "
        "Holm within a question, and the interval holds 0 if and only if p > .05. Tests of pairs change signs: with "
        "five seeds no p below .062 is possible for one task, which then has no interval and no verdict, so that runs "
        "of all tasks, and tasks, are tested too. Tests of stability are one-sided. 'No difference shown' is not 'no "
        "difference'.",
        "",
        "## Scores",
        "",
        f"Means over seeds with their 95% intervals; of fewer than {MIN_VALUES} seeds each seed's score.",
        "",
        *_score_lines(data.score_summary),
        "",
    ]
    if told["warnings"]:
        lines += ["## Warnings", "", *(f"- {message}" for message in told["warnings"]), ""]
    return "\n".join(lines)


def _selection(data: StudyData) -> str:
    share = data.plan.study.holdout
    if share:
        return f"Scores are of {share:.0%} of the dev rows, which no search has seen."
    return "Searches and scores use the same dev rows, as published: what is found by a search is an upper bound."


def _score_lines(summary: pd.DataFrame) -> list[str]:
    """A Markdown table: a row a subnetwork and state, a column a task."""
    tasks = list(dict.fromkeys(summary["task"]))
    lines = ["| | " + " | ".join(tasks) + " |", "| --- |" + " ---: |" * len(tasks)]
    for names, part in summary.groupby(["method", "subnetwork", "state"], sort=False):
        cells = []
        for task in tasks:
            row = part[part["task"] == task]
            if not len(row):
                cells.append("")
                continue
            low, high = row["low"].item(), row["high"].item()
            if row["seeds"].item() < MIN_VALUES:
                cells.append(row["points"].item())
                continue
            bounds = "" if low != low else f" [{low:.3f}, {high:.3f}]"
            cells.append(f"{row['mean'].item():.3f}{bounds}")
        words = ", ".join(dict.fromkeys(str(name) for name in names if name))
        lines.append(f"| {words} | " + " | ".join(cells) + " |")
    for name in ("majority", "guessing"):
        values = summary.groupby("task", sort=False)[name].mean()
        lines.append(f"| {name} | " + " | ".join(f"{values[task]:.3f}" for task in tasks) + " |")
    return lines


def _records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows ready for JSON: None for NaN."""
    return [
        {str(key): None if value != value else value for key, value in row.items()}
        for row in table.to_dict(orient="records")
    ]
