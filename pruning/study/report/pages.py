"""The report of a study, from its finished steps alone: tables, figures with the data behind each, conclusions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

from models.common.errors import InputError
from models.common.outputs import Output
from models.common.pages import FigureBlock, Section, TableBlock, command_line, short_name, write_page
from models.common.papers import Figures, write_latex
from models.common.provenance import provenance
from models.common.words import markdown_table
from patterns.report.summary import REPORT as MODEL_PAGE

from ..config import Reference
from ..folder import REPORT, StudyFolder
from ..records import Conclusion, Report, ScoreRow
from .conclusions import Finding, conclusions, findings_frame, findings_of, in_short
from .data import MIN_VALUES, StudyData
from .outcome import StudyReport
from .tables import COLUMNS, RECORD, TABLES, StudyTables, is_report, plan_at, read_steps

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from .figures import StudyFigure

FILE, PAGE = "report.md", "report.html"
_FORMATS = ("png", "pdf")
_SHORT = 20  # rows up to which a table of the page is open
_CONCLUSIONS = "conclusions"


@dataclass(frozen=True)
class DrawnFigure:
    """A figure of a study with the data behind it."""

    about: StudyFigure
    behind: pd.DataFrame
    figure: Figure
    sources: str = ""
    """Of published scores that are drawn in it."""

    def block(self, table: TableBlock | None = None) -> FigureBlock:
        """Return it as a part of a page.

        Args:
            table: what is shown of its data; all of them if None.
        """
        one = self.about
        table = table or TableBlock.of(self.behind, one.name, one.title, folded=True)
        return FigureBlock.of(
            self.figure, one.alt, " ".join(filter(None, (one.caption, self.sources))), table
        )


def write_report(
    folder: Path | str,
    how: Figures | None = None,
    output: Path | str | None = None,
    references: Sequence[Reference] | None = None,
) -> StudyReport:
    """Write tables, figures and conclusions of a study.

    They are made of its steps, or again of the tables that an earlier report holds.

    Args:
        folder: the study's, or that of a report.
        how: figures are written, besides PNG and PDF.
        output: where to; the folder ``report`` within the study's, or in the place of the earlier report, if None.
            What an earlier report of this study left there is replaced.
        references: published scores to stand beside the study's; those that it was run with if None.

    Returns:
        What is shown on a terminal; its table and figure are of the scores.

    Raises:
        InputError: the folder holds neither, or none of the study's steps is done; or as any other output.
    """
    home, again = StudyFolder(folder), is_report(folder)
    read = StudyTables.load(home.path / TABLES) if again else read_steps(home)
    data = StudyData(read if references is None else read.beside(references))
    if not data.done:
        raise InputError(f"{folder}: no step of this study is done, so there is nothing to report.")
    command = "run-study report"
    if output is None:
        report = Output(home.path if again else home.path / REPORT, command, True, (), "The report's folder")
    else:
        report = Output(Path(output), command, True, (home.path / TABLES if again else home.path,))
        report.check()
        if is_report(output) and not read.of_same_study(plan_at(output)):
            raise InputError(f"--output {output} holds the report of another study; give another folder.")
    found = findings_of(data)
    tables = tables_of(data) | {_CONCLUSIONS: findings_frame(found)}
    told: Report = {
        "steps": len(data.plan.steps),
        "done": len(data.done),
        "scores": _records(data.score_summary),
        "in_short": in_short(found),
        "conclusions": conclusions(found),
        "warnings": data.warnings,
    }
    how = how or Figures()
    formats = tuple(dict.fromkeys((*_FORMATS, *how.figure_format)))
    figures = how.drawn(lambda: figures_of(data, found))
    if output is None:
        ours = [RECORD, *_files(COLUMNS, ("parquet",)), *_files(tables, ("parquet", "csv", "tex"))]
        adopted = [f"{TABLES}/{name}" for name in ours]
        if not again:  # where there are tables alone, whatever lies beside them may be somebody's own
            drawn = _files([one.about.name for one in figures], (*formats, "csv", "tex"))
            adopted += [FILE, PAGE, *(f"figures/{name}" for name in drawn)]
        report.adopt(adopted)
    with report.making() as made:
        for name, table in tables.items():
            write_table(table, made / TABLES / name)
        data.tables.save(made / TABLES)
        for one in figures:
            replace(how, figure_format=formats).write(one.figure, made / "figures", one.about.name)
            behind = made / "figures" / f"{one.about.name}.csv"
            one.behind.to_csv(behind, index=False)
            write_latex(one.behind, behind.with_suffix(".tex"))
        (made / FILE).write_text(markdown(told, data), encoding="utf-8")
        links = _of_models(data, home) if output is None and not again else []
        write_study_page(
            made / PAGE, told, data, figures, tables, Path(folder) if again else home.path, links
        )
    return StudyReport(told, report.path, data)


def _files(names: Iterable[str], endings: Iterable[str]) -> list[str]:
    return [f"{name}.{ending}" for name in names for ending in endings]


def write_study_page(
    path: Path,
    told: Report,
    data: StudyData,
    figures: Sequence[DrawnFigure],
    tables: Mapping[str, pd.DataFrame],
    home: Path,
    more: Sequence[Section],
) -> None:
    """Write the report as one page that needs no network, with every table once.

    Args:
        path: of the page.
        told: what it says in words.
        data: that it is of.
        figures: of the study.
        tables: of the study.
        home: the folder that the data were read from: the study's, or a report's.
        more: parts that only this page has.
    """
    study = data.plan.study
    seeds = ", ".join(map(str, study.seeds))
    plain = [one for one in figures if not one.about.question]
    by_question = {one.about.question: one for one in figures if one.about.question}
    left = {
        name: table
        for name, table in tables.items()
        if name != _CONCLUSIONS and not any(table is one.behind for one in plain)
    }
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
            *(
                _answered(one, tables[_CONCLUSIONS], by_question.get(one["key"]))
                for one in told["conclusions"]
            ),
            *(Section(one.about.title, figures=(one.block(),)) for one in plain),
            *more,
            Section(
                "The comparisons in words",
                tuple(answer for one in told["conclusions"] for answer in one["answers"]),
            ),
            Section(
                "More tables",
                tables=tuple(
                    TableBlock.of(table, name, name.replace("_", " "), folded=True)
                    for name, table in left.items()
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
        **_repeat(home),
    )


def _repeat(home: Path) -> dict[str, str]:
    """The command that a page ends with, and what it does."""
    if is_report(home):
        return {
            "command": command_line(["run-study", "report", home], {}),
            "notes": "it makes this report again from its tables",
        }
    return {
        "command": command_line(["run-study", home, "--output", f"{home}-again"], {}),
        "notes": "it does the whole study again, beside the first one, as long as the data stay as they are",
    }


_CLOSED = {"ablation": ": heads closed", "good-ablation": ": heads of its subnetwork closed"}


def _of_models(data: StudyData, home: StudyFolder) -> list[Section]:
    """Links to the pages of single models."""
    links = tuple(
        (
            f"../{step.path}/{MODEL_PAGE}",
            f"{step.task}, {'pre-trained' if step.seed is None else f'seed {step.seed}'}"
            f"{_CLOSED.get(step.name, '')}",
        )
        for step in data.done
        if (home.of(step) / MODEL_PAGE).is_file()
    )
    words = (
        "A page a model, with every head's maps. They lie in the study's folder, which has to stay together."
    )
    return [Section("Head by head", (words,), links=links)] if links else []


def _answered(one: Conclusion, conclusions: pd.DataFrame, drawn: DrawnFigure | None) -> Section:
    """A question: its comparisons as a forest plot, and all of them as a table."""
    of = conclusions[conclusions["question"] == one["key"]].drop(columns="question")
    if not len(of):
        return Section(one["question"], tuple(one["answers"]))
    first = ["comparison", "of", "n", "verdict"]
    of = of[[*first, *of.columns.drop(first)]]
    name = f"{_CONCLUSIONS}-{one['key']}"
    table = TableBlock.of(of, name, "Every comparison", folded=len(of) > _SHORT)
    if drawn is None:
        return Section(one["question"], tables=(table,))
    return Section(one["question"], figures=(drawn.block(table),))


def tables_of(data: StudyData) -> dict[str, pd.DataFrame]:
    """Return the tidy tables that there are steps for, by name."""
    tables = {
        "scores": data.scores,
        "score_summary": data.score_summary,
        "survivors": data.survivors,
        "weight_survival": data.weight_survival,
        "importance": data.tables.importance,
        "importance_summary": data.importance_summary,
        "stability": data.stability_frame,
        "patterns": data.patterns_frame,
        "ablation": data.tables.ablation,
        "references": data.references,
        "timings": data.timings,
    }
    return {name: table for name, table in tables.items() if len(table)}


def write_table(table: pd.DataFrame, path: Path) -> None:
    """Write a table as Parquet, CSV and, if it is not too long for that, LaTeX with booktabs."""
    path.parent.mkdir(parents=True, exist_ok=True)
    table.to_parquet(path.with_suffix(".parquet"), index=False)
    table.to_csv(path.with_suffix(".csv"), index=False)
    write_latex(table, path.with_suffix(".tex"))


def figures_of(data: StudyData, found: Sequence[Finding]) -> list[DrawnFigure]:
    """Draw the figures that there are steps for."""
    from .figures import FIGURES

    sources = " ".join(f"{one.name}: {one.source}." for one in data.drawn_references)
    return [
        DrawnFigure(one, behind, one.draw(behind, data, found), sources if one.references else "")
        for one in FIGURES
        if len(behind := one.frame(data, found))
    ]


def markdown(told: Report, data: StudyData) -> str:
    """Return the report as text."""
    study = data.plan.study
    lines = [
        "# Lottery study",
        "",
        f"{short_name(study.model)} on {', '.join(study.tasks)}; seeds {', '.join(map(str, study.seeds))}. "
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
        "of all tasks, and tasks, are tested too. Tests of stability are one-sided. What closing heads "
        "costs is tested within models, by exchanging a group with random sets, or heads with others of their layers, "
        "so that it is of these models. 'No difference shown' is not 'no difference'.",
        "",
        "## Scores",
        "",
        f"Means over seeds with their 95% intervals; of fewer than {MIN_VALUES} seeds each seed's score.",
        "",
        _score_table(data.score_summary, data.drawn_references),
    ]
    if told["warnings"]:
        lines += ["## Warnings", "", *(f"- {message}" for message in told["warnings"]), ""]
    return "\n".join(lines)


def _selection(data: StudyData) -> str:
    share = data.plan.study.holdout
    if share:
        return f"Scores are of {share:.0%} of the dev rows, which no search has seen."
    return "Searches and scores use the same dev rows, as published: what is found by a search is an upper bound."


def _score_table(summary: pd.DataFrame, references: Sequence[Reference]) -> str:
    """A Markdown table: a row a subnetwork and state, a column a task."""
    tasks = list(dict.fromkeys(summary["task"]))
    rows = []
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
        rows.append([words, *cells])
    for name in ("majority", "guessing"):
        values = summary.groupby("task", sort=False)[name].mean()
        rows.append([name, *(f"{values[task]:.3f}" for task in tasks)])
    for one in references:
        cells = [f"{one.scores[task]:.3f}" if task in one.scores else "" for task in tasks]
        rows.append([f"{one.name} ({one.source})", *cells])
    return markdown_table(["", *tasks], rows)


def _records(table: pd.DataFrame) -> list[ScoreRow]:
    """Rows ready for JSON: None for NaN."""
    rows = [
        {str(key): None if value != value else value for key, value in row.items()}
        for row in table.to_dict(orient="records")
    ]
    return cast("list[ScoreRow]", rows)
