"""The page and the figures of ``ablate-patterns``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from models.common.pages import (
    FigureBlock,
    Section,
    TableBlock,
    command_line,
    options_of,
    short_name,
    write_page,
)
from models.common.papers import Figures, write_latex

from .chance import ALONE, TOGETHER
from .figures import groups_figure, singles_figure
from .folder import COMMAND, GROUPS_FIGURE, REPORT, SINGLE_FIGURE
from .inputs import INPUTS
from .records import AblationSummary
from .words import alone_words, headline, together_words

if TYPE_CHECKING:
    import pandas as pd


def write_report(
    folder: Path,
    job: Any,
    summary: AblationSummary,
    groups: pd.DataFrame,
    draws: pd.DataFrame,
    singles: pd.DataFrame | None,
    heads: Sequence[npt.NDArray[np.bool_]],
) -> None:
    """Write figures and the page of one run into its folder.

    Args:
        folder: where.
        job: of the run, to repeat it by.
        summary: what ``summary.json`` holds.
        groups: what ``groups.csv`` holds.
        draws: what ``draws.parquet`` holds.
        singles: what ``single_heads.parquet`` holds, if single heads were closed.
        heads: ``[L, H]`` of each group.
    """
    metric, found = summary["metric"], summary["found"]
    said = tuple(together_words(one, metric) for one in found)
    figures: Figures = job.figures
    figure = figures.drawn(lambda: groups_figure(summary, draws))
    figures.write(figure, folder, GROUPS_FIGURE)
    write_latex(groups, folder / f"{GROUPS_FIGURE}.tex")
    block = FigureBlock.of(
        figure,
        "A row a group of heads: how far the score drops while they are closed, beside random sets of as many heads. "
        + " ".join(said),
        "Dots: random sets with as many heads in every layer; grey line: the middle 95% of them, with their mean. "
        "The line with ends at a mark is the drop's 95% interval over inputs. "
        "Filled marks are higher or lower than these after Holm's correction; open ones show no difference.",
        TableBlock.of(draws, "draws", "Every random set", folded=True),
    )
    table = TableBlock.of(
        groups,
        "groups",
        "Each group in numbers",
        titles={
            "drop_low": "95% over inputs from",
            "drop_high": "to",
            "random_low": "95% from",
            "random_high": "to",
            "alone_low": "95% from",
            "alone_high": "to",
        },
        folded=True,
    )
    sections = [Section("All heads of a group closed", (*said, TOGETHER, INPUTS), (block,), (table,))]
    findings = list(said)
    if singles is not None:
        each = tuple(alone_words(one, metric) for one in found)
        closed = singles
        figure = figures.drawn(lambda: singles_figure(summary, closed, heads))
        figures.write(figure, folder, SINGLE_FIGURE)
        singles.to_csv(folder / f"{SINGLE_FIGURE}.csv", index=False)
        write_latex(singles, folder / f"{SINGLE_FIGURE}.tex")
        block = FigureBlock.of(
            figure,
            "A row a group of heads: how far the score drops while each of them is closed alone. "
            + " ".join(each),
            "A dot a head; the mark is their mean, filled where it is higher or lower than that of the other heads of "
            "the same layers after Holm's correction.",
            TableBlock.of(
                singles, "single-heads", "Every head closed alone", shares=("dominant_share",), folded=True
            ),
        )
        sections.append(Section("One head closed at a time", (*each, ALONE), (block,)))
        findings += each
    options = {name: value for name, value in options_of(job).items() if name != "overwrite"}
    options["task"] = getattr(job.task, "name", job.task)
    if options.pop("alone", True) is False:
        options["no_alone"] = True
    write_page(
        folder / REPORT,
        title=f"What patterns are worth to {short_name(summary['model'])} on {summary['task']}",
        about=headline(summary),
        facts=[
            (f"{summary['score']:.3f}", metric),
            (str(summary["heads"]["counted"]), "heads"),
            (str(summary["draws"]), "random sets a group"),
            (summary["how"], "is what a closed head puts out"),
        ],
        findings=findings,
        warnings=summary["warnings"],
        sections=sections,
        provenance=summary["provenance"],
        command=command_line([COMMAND], options),
        notes=summary["notes"]["how"],
    )
