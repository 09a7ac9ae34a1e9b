"""The job of ``annotate-maps agreement``: the numbers, the labels that follow, and pictures of what is disputed."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from models.common.errors import InputError
from models.common.files import write_json
from models.common.outputs import Output
from models.common.papers import Figures, write_latex
from models.common.provenance import Provenance, SourceRecord, provenance
from patterns.distribution import check_seed
from patterns.taxonomy import ABBREVIATIONS, KINDS, PATTERNS, TITLES

from ..dataset import AnnotatedMaps, records_of
from .dawid_skene import dawid_skene
from .outcome import Agreed
from .statistics import Agreement, Votes, agreement

if TYPE_CHECKING:
    import pandas as pd

REPORT, LABELS = "agreement.json", "labels.parquet"
STATISTICS = "statistics"
"""The figure's name without its ending, which the data beside it share."""
_PER_SHEET = 20
_NAMED = 6  # with more annotators, a map's title counts their labels instead of listing them


class AgreementProvenance(Provenance):
    """Where the labels come from."""

    annotations: list[SourceRecord]


class Report(Agreement):
    """What ``agreement.json`` holds."""

    folders: list[str]
    kind: str | None
    """Of maps."""
    provenance: AgreementProvenance


@dataclass(frozen=True)
class MeasureAgreement:
    """One run of ``annotate-maps agreement``.

    Raises:
        InputError: an option is out of range, or the output folder is not empty.
    """

    folders: tuple[Path, ...]
    """Folders of annotated maps."""
    maps: str | None = None
    """raw or norm alone. Default: all."""
    output: Path | None = None
    """New or empty folder for numbers, labels and sheets of disputed maps."""
    seed: int = 0
    overwrite: bool = False
    figures: Figures = field(default_factory=Figures)
    """How the figure of the statistics is written; the sheets are pictures to look at, always PNG."""

    def __post_init__(self) -> None:
        if not self.folders:
            raise InputError("Give at least one folder of annotated maps.")
        check_seed(self.seed)
        if self.maps is not None and self.maps not in KINDS:
            raise InputError(f"--maps {self.maps}: give {' or '.join(KINDS)}.")
        if self.output is not None:
            Output(self.output, *self._written).check()

    @property
    def _written(self) -> tuple[str, bool, tuple[Path, ...]]:
        return "annotate-maps agreement", self.overwrite, self.folders

    def run(self) -> Report:
        """Compare, and write what was asked for.

        Returns:
            What ``agreement.json`` holds.

        Raises:
            InputError: a folder is not one of annotated maps, or has none of this kind.
        """
        first, *rest = (AnnotatedMaps.load(folder, self.maps) for folder in self.folders)
        maps = first.merge(*rest)
        report: Report = {
            "folders": [str(folder) for folder in self.folders],
            "kind": self.maps,
            **agreement(maps, self.seed),
            "provenance": {**provenance(), "annotations": records_of(self.folders)},
        }
        if self.output is not None:
            votes = Votes.of(maps)
            order = disputed(votes)
            with Output(self.output, *self._written).making() as folder:
                label_frame(votes, order).to_parquet(folder / LABELS, index=False)
                _draw(maps, votes, order, folder)
                self._write_statistics(Agreed(report), folder)
                write_json(folder / REPORT, report)
        return report

    def _write_statistics(self, found: Agreed, folder: Path) -> None:
        """Write the statistics as tables, and as a figure where there are two annotators to compare."""
        table = found.to_frame()
        table.to_csv(folder / f"{STATISTICS}.csv", index=False)
        write_latex(table, folder / f"{STATISTICS}.tex")
        if table["value"].notna().any():
            self.figures.write(self.figures.drawn(found.plot), folder, STATISTICS)


def disputed(votes: Votes) -> npt.NDArray[np.int64]:
    """Return the places of the maps with different labels, those first whose commonest label has the fewest votes."""
    places = np.flatnonzero(votes.disputed)
    counts = votes.counts[places]
    return places[np.argsort(counts.max(axis=1, initial=0) / counts.sum(axis=1), kind="stable")]


def label_frame(votes: Votes, order: npt.NDArray[np.int64]) -> pd.DataFrame:
    """Return the table ``labels.parquet``: one row per map with a label.

    Columns: ``id``; ``labels`` (their number); ``votes_<p>``; ``majority`` (None for a tie); ``dawid_skene`` and
    ``prob_<p>``, its estimate of the true label (None below three annotators); ``sheet`` and ``number`` on it
    (None where nobody differs).
    """
    import pandas as pd

    names = np.array([*(p.value for p in PATTERNS), None], dtype=object)
    frame = pd.DataFrame({"id": votes.ids, "labels": votes.counts.sum(axis=1)})
    for i, pattern in enumerate(PATTERNS):
        frame[f"votes_{pattern}"] = votes.counts[:, i]
    frame["majority"] = names[votes.majority]
    estimated = dawid_skene(votes.labels, len(PATTERNS)) if len(votes.annotators) > 2 else None
    frame["dawid_skene"] = None if estimated is None else names[estimated.probabilities.argmax(axis=1)]
    for i, pattern in enumerate(PATTERNS):
        frame[f"prob_{pattern}"] = None if estimated is None else estimated.probabilities[:, i]
    places = pd.Series(range(len(order)), index=order, dtype="Int64").reindex(range(len(frame)))
    frame["sheet"], frame["number"] = places // _PER_SHEET, places % _PER_SHEET + 1
    return frame[frame["labels"] > 0].reset_index(drop=True)


def _draw(maps: AnnotatedMaps, votes: Votes, order: npt.NDArray[np.int64], folder: Path) -> None:
    from patterns.maps.rendering import save_png

    from .sheets import draw_sheets

    key = ", ".join(f"{ABBREVIATIONS[p]} {TITLES[p]}" for p in PATTERNS)
    who = "annotators in the order " + " | ".join(votes.annotators)
    heading = (
        f"{len(order)} disputed maps; {who if len(votes.annotators) <= _NAMED else 'labels counted'}. {key}."
    )
    titles = [f"{i % _PER_SHEET + 1}:  {_said(votes, place)}" for i, place in enumerate(order)]
    rows = [maps.rows[place] for place in order]
    for number, sheet in enumerate(draw_sheets(rows, titles, heading=heading)):
        save_png(sheet, folder / f"disagreements-{number:03d}.png")


def _said(votes: Votes, place: int) -> str:
    if len(votes.annotators) <= _NAMED:
        letters = [ABBREVIATIONS[PATTERNS[i]] if i >= 0 else "." for i in votes.labels[place]]
        return " | ".join(letters)
    counts = votes.counts[place]
    return " ".join(f"{n} {ABBREVIATIONS[p]}" for n, p in zip(counts, PATTERNS, strict=True) if n)
