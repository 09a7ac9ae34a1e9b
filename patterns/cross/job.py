"""The job of ``classify-heads --stack cross``: maps of cross-attention, shown and measured."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from models.checkpoints import load_checkpoint, model_record, pick_device, precision_of
from models.common.errors import InputError
from models.common.files import known, write_json
from models.common.placement import home_of, placed_parts
from models.common.provenance import provenance
from models.common.results import Tabular
from models.tasks.rows import Rows, select_rows

from ..job import ClassifyHeads
from ..report.summary import HEADS, MAPS, REPORT, SUMMARY
from .attention import CrossAttention, cross_attention
from .measures import MEASURES
from .summary import NOT_CLASSIFIED, CrossSummary

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

FIGURE = "cross_{kind}"
"""A figure's name without its ending, which the data beside it share."""


@dataclass(frozen=True)
class CrossMeasured(Tabular):
    """What a run of ``classify-heads --stack cross`` ends with."""

    attention: CrossAttention
    summary: CrossSummary
    """What ``summary.json`` holds."""
    rows: Rows
    """Where the examples were drawn from."""

    def to_frame(self) -> pd.DataFrame:
        """Return :meth:`CrossAttention.to_frame`: a row a kind and head."""
        return self.attention.to_frame()

    def plot(self) -> Figure:
        """Draw the mean map of every head, of the first kind that was measured; ``attention.plot(kind)`` any."""
        return self.attention.plot()


@dataclass(frozen=True)
class MeasureCross:
    """One run of ``classify-heads --stack cross``.

    Raises:
        InputError: an option that has no meaning for maps that are not classified was given.
    """

    asked: ClassifyHeads

    def __post_init__(self) -> None:
        asked = self.asked
        if asked.stack != "cross":
            raise InputError(
                f"--stack {asked.stack}: maps of self-attention are classified (patterns.classify_checkpoint); give "
                "cross."
            )
        classifiers = {f"{kind}-classifier": source for kind, source in (asked.classifiers or {}).items()}
        without = {
            "annotations": asked.annotations,
            "subnetwork": asked.subnetwork,
            **classifiers,
            "save-maps": asked.save_maps,
            "control": asked.control,
            "measure": asked.measure,
            "push-to-hub": asked.push_to_hub,
        }
        if given := [name for name, value in without.items() if value]:
            raise InputError(
                f"--stack cross --{given[0]}: maps of cross-attention are measured and neither classified nor stored, "
                "so this would have no effect; leave it out."
            )

    def run(self, progress: bool = False) -> CrossMeasured:
        """Do it; with an output folder, everything is written there at once or not at all.

        Raises:
            HeadscopeError: the model or the data is not what it should be.
        """
        asked = self.asked
        task, rows = asked.source.load()
        checkpoint = load_checkpoint(
            asked.model,
            asked.revision,
            pick_device(asked.device),
            dtype=asked.dtype,
            device_map=asked.device_map,
            quantised=True,
        )
        drawn = select_rows(rows.numbered(), task, asked.examples, asked.seed)
        with ExitStack() as stack:
            folder = None if asked.output is None else stack.enter_context(asked.place.making())
            found = cross_attention(
                checkpoint.model,
                checkpoint.tokenizer,
                drawn,
                task=task,
                kinds=asked.maps,
                batch_size=asked.batch_size,
                max_length=asked.max_length,
                progress=progress,
            )
            layers, heads = found.shape
            summary: CrossSummary = {
                "model": asked.model,
                "task": task.name,
                "task_definition": task.record() or {},
                "split": asked.split if asked.task is not None else None,
                "examples": len(found.examples),
                "seed": asked.seed,
                "stack": "cross",
                "note": NOT_CLASSIFIED,
                "measures": {name: measure.meaning for name, measure in MEASURES.items()},
                "maps": {
                    kind: {
                        "means": {name: known(value) for name, value in found.means(kind).items()},
                        "measured_maps": len(found.examples) * layers * heads - found.empty_maps(kind),
                        "empty_maps": found.empty_maps(kind),
                    }
                    for kind in found.kinds
                },
                "heads": layers * heads,
                "max_length": asked.max_length,
                "warnings": [*rows.shortage(asked.examples), *checkpoint.warnings, *found.warnings],
                "provenance": {
                    **provenance(),
                    "model": model_record(checkpoint),
                    "data": rows.record(),
                    "inputs": dict(found.inputs),
                    "device": str(home_of(checkpoint.model)),
                    "device_map": placed_parts(checkpoint.model),
                    "dtype": precision_of(checkpoint.model),
                },
            }
            if not task.own:
                del summary["task_definition"]
            done = CrossMeasured(found, summary, rows)
            if folder is not None:
                write_results(folder, done, asked)
        return done


def write_results(folder: Path, done: CrossMeasured, asked: ClassifyHeads) -> None:
    """Write tables, figures, the summary and the page of one run into an existing folder."""
    from .report import write_measured

    found = done.attention
    found.to_frame().to_parquet(folder / HEADS, index=False)
    found.maps_frame().to_parquet(folder / MAPS, index=False)
    for kind in found.kinds:
        name = FIGURE.format(kind=kind)
        asked.figures.write(asked.figures.drawn(partial(found.plot, kind)), folder, name)
        found.cells_frame(kind).to_csv(folder / f"{name}.csv", index=False)
    write_json(folder / SUMMARY, done.summary)
    write_measured(folder / REPORT, found, done.summary, done.rows, asked)
