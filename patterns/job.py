"""The job of ``classify-heads``: from a checkpoint and rows to tables, figures and a summary."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from models.anatomy import Anatomy, anatomy_of
from models.checkpoints import Checkpoint, check_loading, load_checkpoint, model_record, pick_device
from models.common.errors import InputError
from models.common.files import known, write_json
from models.common.outputs import Output
from models.common.placement import home_of
from models.common.provenance import provenance, source_record
from models.common.words import percent
from models.families.family import STACKS
from models.isolating import check_mode, isolated
from models.subnetwork import Subnetwork, mask_files
from models.tasks.rows import Rows, select_rows
from models.tasks.source import RowSource
from models.tasks.task import Task

from .classifier.network import PatternClassifier, classifier_records, load_classifiers
from .control import redrawn
from .distribution import COVERS, check_seed, counts
from .estimate import COVERS as CORRECTED_COVERS
from .heads import MapSink, check_sizes, classify_heads
from .maps.attention import check_kinds
from .maps.examples import ExampleMaps
from .maps.names import MapNames
from .report.summary import (
    DISTRIBUTION,
    DISTRIBUTION_FIGURE,
    HEADS,
    HEADS_FIGURE,
    MAPS,
    REPORT,
    SUMMARY,
    Corrected,
    KindSummary,
    Shares,
    Summary,
)
from .result import CONTROLLED, HeadPatterns, name_of, shown_correction
from .taxonomy import INTERPRETABLE, KINDS, PATTERNS

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from transformers import PreTrainedModel

    from models.tasks.inputs import Encoded

    from .maps.store import MapWriter

CONTROL = "the same architecture with its weights redrawn, untrained, on the same examples"
"""What the control of a run is."""


@dataclass(frozen=True)
class ClassifyHeads:
    """One run of ``classify-heads``.

    Raises:
        InputError: an option is out of range, or the output folder is not empty.
    """

    model: str
    task: str | Task | None = None
    revision: str | None = None
    data: str | None = None
    split: str = "validation"
    text: Path | None = None
    """Instead of --task: a file of one text a line, or of two with a tab between them."""
    examples: int = 100
    """Rows to draw at random."""
    maps: tuple[str, ...] = KINDS
    subnetwork: str | None = None
    """File or folder of masks: count only the heads that it keeps."""
    subnetwork_mode: str = "select"
    """The rest of the model meanwhile: select leaves it in place, gate closes it, compact removes it."""
    classifiers: Mapping[str, str | None] | None = None
    """By kind: folder or Hub id of a classifier to use instead of the shipped one (None)."""
    batch_size: int = 16
    max_length: int = 128
    seed: int = 0
    device: str = "auto"
    dtype: str = "float32"
    """Precision of the model: float32, bfloat16, float16, or auto (that of its files). Probabilities are computed in
    float32 always, but from scores in this precision: bfloat16 and float16 move them."""
    device_map: str | None = None
    """auto: spread a large model over all devices, memory and the disk (accelerate); instead of --device."""
    output: Path | None = None
    overwrite: bool = False
    save_maps: bool = False
    """Write every map too (large).

    They go to the folder ``maps`` of the output.
    """
    stack: str | None = None
    """Of an encoder-decoder (T5, BART), whose heads: encoder (the default) or decoder."""
    control: bool = False
    """Look at the same architecture with its weights redrawn too: what is there without training.

    The same heads, inputs and classifiers; the weights are those of :func:`patterns.redrawn` with this run's seed.
    """

    def __post_init__(self) -> None:
        _ = self._source
        check_kinds(self.maps)
        check_sizes(self.batch_size, self.max_length)
        check_seed(self.seed)
        check_loading(self.dtype, self.device_map, self.device)
        if self.examples < 1:
            raise InputError(f"--examples {self.examples}: give at least 1.")
        check_mode(self.subnetwork_mode)
        if self.subnetwork_mode != "select" and self.subnetwork is None:
            raise InputError(
                f"--subnetwork-mode {self.subnetwork_mode} needs --subnetwork FILE, which says what is kept."
            )
        if self.stack is not None and self.stack not in STACKS:
            raise InputError(f"--stack {self.stack}: give one of {', '.join(STACKS)}.")
        if self.stack not in (None, "encoder") and self.subnetwork is not None:
            raise InputError(f"--stack {self.stack}: --subnetwork FILE is of an encoder's heads.")
        if self.save_maps and self.output is None:
            raise InputError("--save-maps needs --output DIR, the folder to write the maps to.")
        if self.output is not None:
            self._output.check()

    @property
    def _source(self) -> RowSource:
        return RowSource(self.task, self.data, self.split, self.text)

    @property
    def _output(self) -> Output:
        inputs = (self.model, *self._source.inputs, self.subnetwork, *(self.classifiers or {}).values())
        return Output(Path(self.output or "."), "classify-heads", self.overwrite, inputs)

    def run(self, progress: bool = False) -> Classified:
        """Do it; with an output folder, everything is written there at once or not at all.

        Raises:
            HeadscopeError: the model, the data or a classifier is not what it should be.
        """
        task, rows = self._source.load()
        device = pick_device(self.device)
        classifiers = load_classifiers(check_kinds(self.maps), self.classifiers)
        subnetwork = Subnetwork.load(self.subnetwork) if self.subnetwork else None
        checkpoint = load_checkpoint(
            self.model, self.revision, device, dtype=self.dtype, device_map=self.device_map
        )
        drawn = select_rows(rows.numbered(), task, self.examples, self.seed)

        with ExitStack() as stack:
            folder = writer = maps = None
            if self.output is not None:
                folder = stack.enter_context(self._output.making())
                maps = ExampleMaps(seed=self.seed)
                if self.save_maps:
                    from .maps.store import MapWriter

                    writer = stack.enter_context(MapWriter(folder / "maps"))
            model = checkpoint.model
            absent: list[str] = []
            if subnetwork is not None:
                subnetwork, absent = self._in_model(subnetwork, model)
                model = stack.enter_context(isolated(model, subnetwork, self.subnetwork_mode))
            anatomy = anatomy_of(model, self.stack)
            sink = _to_store(writer, MapNames(checkpoint, task.name), anatomy) if writer else None

            def classified(
                of: PreTrainedModel, sink: MapSink | None = None, examples: ExampleMaps | None = None
            ) -> HeadPatterns:
                return classify_heads(
                    of,
                    checkpoint.tokenizer,
                    drawn,
                    task=task,
                    kinds=self.maps,
                    classifiers=classifiers,
                    batch_size=self.batch_size,
                    max_length=self.max_length,
                    seed=self.seed,
                    progress=progress,
                    sink=sink,
                    examples=examples,
                    stack=self.stack,
                )

            patterns = classified(model, sink, maps)
            if self.control:
                new = redrawn(checkpoint.model, self.seed)
                if subnetwork is not None:
                    new = stack.enter_context(isolated(new, subnetwork, self.subnetwork_mode))
                patterns = replace(patterns, control=classified(new))
            observed = patterns
            if subnetwork is not None:
                patterns = patterns.select(subnetwork)
            few = rows.shortage(self.examples)
            warnings = (
                *few,
                *checkpoint.warnings,
                *patterns.warnings,
                *absent,
                *correction_notes(patterns),
            )
            patterns = replace(patterns, warnings=warnings)
            summary = self._summary(patterns, checkpoint, task, rows, classifiers)
            if anatomy.family.stack:
                summary["stack"] = anatomy.family.stack
            if folder is not None:
                write_results(folder, patterns, summary)
                from .report.classified import write_classified

                kept = None if subnetwork is None else subnetwork.heads
                write_classified(folder / REPORT, self, patterns, summary, rows, maps, observed, kept)
        return Classified(patterns, summary, rows)

    def _in_model(self, subnetwork: Subnetwork, model: PreTrainedModel) -> tuple[Subnetwork, list[str]]:
        """Return what of a subnetwork the model has, and a warning if that is not all of it."""
        full = Subnetwork.full(model)
        if subnetwork.heads.shape != full.heads.shape:
            raise InputError(
                f"--subnetwork {self.subnetwork} has {' x '.join(map(str, subnetwork.heads.shape))} heads, "
                f"but the model has {' x '.join(map(str, full.heads.shape))}."
            )
        there, lost = subnetwork & full, subnetwork & ~full
        if not there.n_heads:
            raise InputError(
                f"--subnetwork {self.subnetwork} keeps no head of the model, so there is none to count."
            )
        if not (lost.n_heads or lost.n_mlps):
            return subnetwork, []
        return there, [
            f"{lost.n_heads} heads and {lost.n_mlps} MLPs of the subnetwork were removed from this model before."
        ]

    def _summary(
        self,
        patterns: HeadPatterns,
        checkpoint: Checkpoint,
        task: Task,
        rows: Rows,
        classifiers: Mapping[str, PatternClassifier],
    ) -> Summary:
        summary: Summary = {
            "model": self.model,
            "task": task.name,
            "task_definition": task.record() or {},
            "split": self.split if self.task is not None else None,
            "examples": len(patterns.examples),
            "seed": self.seed,
            "maps": {kind: summarise(patterns, kind) for kind in patterns.kinds},
            "heads": {"counted": int(patterns.heads.sum()), "all": int(patterns.heads.size)},
            "subnetwork": self.subnetwork,
            "subnetwork_mode": self.subnetwork_mode if self.subnetwork else None,
            "max_length": self.max_length,
            "control": {"seed": self.seed, "note": CONTROL} if patterns.control else None,
            "provenance": {
                **provenance(),
                "model": model_record(checkpoint),
                "data": rows.record(),
                "subnetwork": source_record(self.subnetwork, mask_files(self.subnetwork))
                if self.subnetwork
                else None,
                "inputs": dict(patterns.inputs),
                "classifiers": classifier_records(classifiers, self.classifiers),
                "device": str(home_of(checkpoint.model)),
                "device_map": _placed(checkpoint.model),
                "dtype": str(checkpoint.model.dtype).removeprefix("torch."),
            },
        }
        if not task.own:
            del summary["task_definition"]
        return summary


@dataclass(frozen=True)
class Classified:
    """What a run of ``classify-heads`` ends with."""

    patterns: HeadPatterns
    summary: Summary
    """What ``summary.json`` holds."""
    rows: Rows
    """Where the examples were drawn from."""


def _placed(model: PreTrainedModel) -> dict[str, str] | None:
    """Return where accelerate has put the parts of a model; None where it was not asked to."""
    placed = getattr(model, "hf_device_map", None)
    return {part: str(where) for part, where in placed.items()} if placed else None


def summarise(patterns: HeadPatterns, kind: str) -> KindSummary:
    """Return the part of ``summary.json`` about one kind of maps; an interval that has no value is null.

    ``corrected`` is null if nothing is known of the classifier's errors, or what is known does not fit these maps
    (``correction_misfit`` says how badly); ``control`` if none was asked for.
    """
    control = patterns.control
    return {
        **_shares_of(patterns, kind),
        "corrected": _corrected(patterns, kind),
        "correction_misfit": patterns.correction_misfit(kind),
        "control": _shares_of(control, kind) if control else None,
        "warnings": list(patterns.warnings),
    }


def _shares_of(patterns: HeadPatterns, kind: str) -> Shares:
    empty = patterns.empty_maps(kind)
    return {
        "distribution": patterns.distribution(kind),
        "interpretable_ratio": patterns.interpretable_ratio(kind),
        "interpretable_ratio_ci95": list(map(known, patterns.interpretable_ratio_ci95(kind))),
        "interpretable_ratio_ci95_covers": COVERS,
        "classified_maps": len(patterns.examples) * int(patterns.heads.sum()) - empty,
        "empty_maps": empty,
    }


def _corrected(patterns: HeadPatterns, kind: str) -> Corrected | None:
    if (found := shown_correction(patterns, kind)) is None:
        return None
    shares, intervals = found
    return {
        "distribution": shares,
        "distribution_ci95": {pattern: list(map(known, bounds)) for pattern, bounds in intervals.items()},
        "interpretable_ratio": shares[INTERPRETABLE],
        "interpretable_ratio_ci95": list(map(known, intervals[INTERPRETABLE])),
        "interpretable_ratio_ci95_covers": CORRECTED_COVERS,
        "misfit": patterns.correction_misfit(kind),
    }


def correction_notes(patterns: HeadPatterns) -> list[str]:
    """Say in a sentence a kind that corrected shares are not shown, where they do not fit."""
    return [
        f"The {kind} shares corrected for the classifier's errors are not shown: they do not fit, since they would "
        f"leave {percent(gap)} of the predictions unexplained (it was wrong more often on the annotated maps)."
        for kind in patterns.kinds
        if (gap := patterns.correction_misfit(kind)) is not None and not patterns.correction_fits(kind)
    ]


def write_results(folder: Path, patterns: HeadPatterns, summary: Summary) -> None:
    """Write tables, figures and the summary of one run into an existing folder."""
    import pandas as pd

    from models.common.drawing import save_figure

    patterns.to_frame().to_parquet(folder / HEADS, index=False)
    patterns.maps_frame().to_parquet(folder / MAPS, index=False)
    pd.DataFrame(
        {"kind": kind, "pattern": pattern.value, "count": int(count), "share": count / number.sum()}
        for kind in patterns.kinds
        for number in (counts(patterns.labels[kind][:, patterns.heads].ravel()),)
        for pattern, count in zip(PATTERNS, number, strict=True)
    ).to_csv(folder / DISTRIBUTION, index=False)
    save_figure(patterns.plot(), folder / HEADS_FIGURE)
    save_figure(patterns.plot_distribution(), folder / DISTRIBUTION_FIGURE)
    write_json(folder / SUMMARY, summary)


def empty_maps(patterns: HeadPatterns) -> dict[str, int]:
    """Return how many maps are zero in every cell, under the names of :func:`distributions`; none where none are."""
    shown = {}
    for kind in patterns.kinds:
        shown[kind] = patterns.empty_maps(kind)
        if patterns.control:
            shown[name_of(kind, CONTROLLED)] = patterns.control.empty_maps(kind)
    return {name: number for name, number in shown.items() if number}


def interval_notes(patterns: HeadPatterns) -> list[str]:
    """Say what the intervals of columns (or bars) of :func:`distributions` cover, and what the control is."""
    corrected = any(shown_correction(patterns, kind) for kind in patterns.kinds)
    notes = [
        f"The 95% interval covers {COVERS}{'; of corrected shares ' + CORRECTED_COVERS if corrected else ''}."
    ]
    return [*notes, f"Control: {CONTROL}."] if patterns.control else notes


def _to_store(writer: MapWriter, names: MapNames, anatomy: Anatomy) -> MapSink:
    def sink(example: int, layer: int, encoded: Encoded, kind: str, maps: npt.NDArray[np.float32]) -> None:
        for head, values in zip(anatomy.kept[layer], maps, strict=True):
            if values.any():  # a head whose weights are all zero shows nothing to look at
                writer.add(names.row(example, encoded, layer, head, kind, values))

    return sink
