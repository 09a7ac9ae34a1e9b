"""The report of ``classify-heads --stack cross``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from models.common.pages import (
    FigureBlock,
    Section,
    TableBlock,
    command_line,
    options_of,
    short_name,
    write_page,
)
from models.common.words import percent

from .attention import CrossAttention
from .measures import MEASURES
from .summary import NOT_CLASSIFIED, CrossSummary

if TYPE_CHECKING:
    from models.tasks.rows import Rows


def write_measured(
    path: Path, found: CrossAttention, summary: CrossSummary, rows: Rows, asked: object
) -> None:
    """Write what one run found.

    Args:
        path: of the HTML file.
        found: what was measured.
        summary: what ``summary.json`` holds.
        rows: where the examples were drawn from.
        asked: the dataclass of the run's options.
    """
    layers, heads = found.shape
    frame = found.to_frame()
    sections = [
        Section("What is measured", tuple(f"{name}: {one.meaning}." for name, one in MEASURES.items()))
    ]
    for kind in found.kinds:
        mine = frame[frame["kind"] == kind].drop(columns="kind")
        means = found.means(kind)
        said = ", ".join(f"{name} {percent(means[name])}" for name in MEASURES)
        figure = FigureBlock.of(
            found.plot(kind),
            f"Mean {kind} map of each of {layers} x {heads} heads; over all of them: {said}.",
            "Each map is averaged to the same number of cells; the brightest cell is the head's own largest.",
        )
        table = TableBlock.of(
            mine, f"cross-attention-{kind}", f"Heads, {kind} maps", shares=tuple(MEASURES), folded=True
        )
        sections.append(
            Section(f"{kind.capitalize()} maps", (f"Over all heads: {said}.",), (figure,), (table,))
        )
    options = {"model": summary["model"], "revision": summary["provenance"]["model"]["revision"]}
    write_page(
        path,
        title=f"Cross-attention of {short_name(summary['model'])} on {summary['task']}",
        about=f"{summary['examples']} examples of {rows.source}; model {summary['model']}.",
        facts=[(str(layers * heads), "heads"), (str(summary["examples"]), "examples")],
        findings=[NOT_CLASSIFIED],
        warnings=summary["warnings"],
        sections=sections,
        provenance=summary["provenance"],
        command=command_line(
            ["classify-heads"], options | options_of(asked) | {"classifiers": None, "overwrite": None}
        ),
    )
