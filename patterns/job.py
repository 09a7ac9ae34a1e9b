"""The job of ``classify-heads``: from a checkpoint and rows to tables, figures and a summary."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from models.anatomy import Anatomy, anatomy_of
from models.checkpoints import Checkpoint, check_loading, load_checkpoint, model_record, pick_device
from models.common.errors import InputError
from models.common.files import known, write_json
from models.common.outputs import Output
from models.common.placement import home_of
from models.common.provenance import provenance, source_record
from models.isolating import check_mode, isolated
from models.subnetwork import Subnetwork, mask_files
from models.tasks.rows import Rows, load_rows, load_text, select_rows
from models.tasks.task import Task, task_named

from .classifier.network import PatternClassifier, classifier_records, load_classifiers
from .control import redrawn
from .distribution import COVERS, check_seed, counts
from .estimate import COVERS as CORRECTED_COVERS
from .heads import MapSink, check_sizes, classify_heads
from .maps.attention import check_kinds
from .maps.examples import ExampleMaps
from .maps.names import MapNames
from .result import HeadPatterns
from .tables import percent
from .taxonomy import INTERPRETABLE, KINDS, PATTERNS

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from models.tasks.inputs import Encoded

    from .maps.store import MapWriter

REPORT = "report.html"
CONTROL = "the same architecture with its weights redrawn, untrained, on the same examples"
"""What the control of a run is."""


@dataclass(frozen=True)
class ClassifyHeads:
    """One run of ``classify-heads``.

    Raises:
        InputError: an option is out of range, or the output folder is not empty.
    """

    model: str
    """Hub id or folder."""
    task: str | Task | None = None
    """A GLUE task in any spelling, or what describes one of the user's own: see
    :func:`models.tasks.task.task_named`."""
    revision: str | None = None
    """Branch, tag or commit of a Hub model."""
    data: str | None = None
    """Folder or Hub data set with the task's rows; what the task says if None, the Hub's GLUE for its nine."""
    split: str = "validation"
    """Which split of the data."""
    text: Path | str | None = None
    """In the place of a task, a file of one text a line, or of two with a tab between them."""
    examples: int = 100
    """Rows to draw at random."""
    maps: tuple[str, ...] = KINDS
    """Kinds of maps."""
    subnetwork: str | None = None
    """File or published-layout folder of a subnetwork, whose heads are counted."""
    subnetwork_mode: str = "select"
    """One of :data:`models.isolating.SUBNETWORK_MODES`: what happens to the rest of the model meanwhile."""
    classifiers: Mapping[str, str | None] | None = None
    """By kind: folder or Hub id of a classifier to use instead of the shipped one (None)."""
    batch_size: int = 16
    """Inputs per forward pass."""
    max_length: int = 128
    """Tokens; longer inputs are cut."""
    seed: int = 0
    """Of the draw of rows and of the bootstrap."""
    device: str = "auto"
    """auto, cpu, cuda or mps."""
    dtype: str = "float32"
    """One of :data:`models.checkpoints.DTYPES`: the model's precision. Attention probabilities are computed in float32
    whatever it is, from scores in that precision."""
    device_map: str | None = None
    """``auto`` lets accelerate spread the model over what devices and memory there are."""
    output: Path | None = None
    """Folder to write to; nothing is written if None."""
    overwrite: bool = False
    """Whether a non-empty output folder may be replaced."""
    save_maps: bool = False
    """Whether every map is written too, to the folder ``maps`` of the output."""
    control: bool = False
    """Whether the same architecture with its weights redrawn (:func:`patterns.redrawn`, with this run's seed) is looked
    at too: the same heads, inputs and classifiers."""

    def __post_init__(self) -> None:
        if (self.task is None) == (self.text is None):
            raise InputError(
                "Give either --task, whose rows are looked at, or --text FILE, with one text a line."
            )
        if self.task is not None:
            task_named(self.task)
        elif self.data is not None or self.split != "validation":
            raise InputError("--data and --split are of a task; --text FILE is read whole.")
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
        if self.save_maps and self.output is None:
            raise InputError("--save-maps needs --output DIR, the folder to write the maps to.")
        if self.output is not None:
            self._output.check()

    @property
    def _output(self) -> Output:
        data = self.data if self.task is None else task_named(self.task).source(self.data)
        inputs = (self.model, data, self.text, self.subnetwork, *(self.classifiers or {}).values())
        return Output(Path(self.output or "."), "classify-heads", self.overwrite, inputs)

    def run(self, progress: bool = False) -> Classified:
        """Do it; with an output folder, everything is written there at once or not at all.

        Raises:
            HeadscopeError: the model, the data or a classifier is not what it should be.
        """
        task, rows = self._rows()
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
            sink = _to_store(writer, MapNames(checkpoint, task.name), anatomy_of(model)) if writer else None

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
            if folder is not None:
                write_results(folder, patterns, summary)
                from .report.classified import write_classified

                kept = None if subnetwork is None else subnetwork.heads
                write_classified(folder / REPORT, self, patterns, summary, rows, maps, observed, kept)
        return Classified(patterns, summary, rows)

    def _rows(self) -> tuple[Task, Rows]:
        if self.text is not None:
            return load_text(self.text)
        task = task_named(self.task or "")
        return task, load_rows(task, self.data, self.split)

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
    ) -> dict[str, Any]:
        return {
            "model": self.model,
            "task": task.name,
            **({"task_definition": task.record()} if task.own else {}),
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
                "subnetwork": self.subnetwork and source_record(self.subnetwork, mask_files(self.subnetwork)),
                "inputs": dict(patterns.inputs),
                "classifiers": classifier_records(classifiers, self.classifiers),
                "device": str(home_of(checkpoint.model)),
                "device_map": _placed(checkpoint.model),
                "dtype": str(checkpoint.model.dtype).removeprefix("torch."),
            },
        }


@dataclass(frozen=True)
class Classified:
    """What a run of ``classify-heads`` ends with."""

    patterns: HeadPatterns
    summary: dict[str, Any]
    """What ``summary.json`` holds."""
    rows: Rows
    """Where the examples were drawn from."""


def _placed(model: PreTrainedModel) -> dict[str, str] | None:
    """Return where accelerate has put the parts of a model; None where it was not asked to."""
    placed = getattr(model, "hf_device_map", None)
    return {part: str(where) for part, where in placed.items()} if placed else None


def summarise(patterns: HeadPatterns, kind: str) -> dict[str, Any]:
    """Return the part of ``summary.json`` about one kind of maps; an interval that has no value is null.

    ``corrected`` is null if nothing is known of the classifier's errors, or what is known does not fit these maps
    (``correction_misfit`` says how badly); ``control`` if none was asked for.
    """
    control = patterns.control
    return {
        **_shares_of(patterns, kind),
        "corrected": _corrected(patterns, kind),
        "correction_misfit": patterns.correction_misfit(kind),
        "control": control and _shares_of(control, kind),
        "warnings": list(patterns.warnings),
    }


def _shares_of(patterns: HeadPatterns, kind: str) -> dict[str, Any]:
    empty = patterns.empty_maps(kind)
    return {
        "distribution": patterns.distribution(kind),
        "interpretable_ratio": patterns.interpretable_ratio(kind),
        "interpretable_ratio_ci95": list(map(known, patterns.interpretable_ratio_ci95(kind))),
        "interpretable_ratio_ci95_covers": COVERS,
        "classified_maps": len(patterns.examples) * int(patterns.heads.sum()) - empty,
        "empty_maps": empty,
    }


def _corrected(patterns: HeadPatterns, kind: str) -> dict[str, Any] | None:
    shares = patterns.corrected_distribution(kind)
    intervals = patterns.corrected_distribution_ci95(kind)
    if not (shares and intervals and patterns.correction_fits(kind)):
        return None
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


def write_results(folder: Path, patterns: HeadPatterns, summary: dict[str, Any]) -> None:
    """Write tables, figures and the summary of one run into an existing folder."""
    import pandas as pd

    from models.common.drawing import save_figure

    patterns.to_frame().to_parquet(folder / "heads.parquet", index=False)
    patterns.maps_frame().to_parquet(folder / "maps.parquet", index=False)
    pd.DataFrame(
        {"kind": kind, "pattern": pattern.value, "count": int(count), "share": count / number.sum()}
        for kind in patterns.kinds
        for number in (counts(patterns.labels[kind][:, patterns.heads].ravel()),)
        for pattern, count in zip(PATTERNS, number, strict=True)
    ).to_csv(folder / "distribution.csv", index=False)
    save_figure(patterns.plot(), folder / "heads.png")
    save_figure(patterns.plot_distribution(), folder / "distribution.png")
    write_json(folder / "summary.json", summary)


def empty_maps(patterns: HeadPatterns) -> dict[str, int]:
    """Return how many maps are zero in every cell, under the names of :func:`distributions`; none where none are."""
    shown = {}
    for kind in patterns.kinds:
        shown[kind] = patterns.empty_maps(kind)
        if patterns.control:
            shown[f"{kind}, control"] = patterns.control.empty_maps(kind)
    return {name: number for name, number in shown.items() if number}


def interval_notes(names: Mapping[str, Any]) -> list[str]:
    """Say what the intervals of columns (or bars) with these names cover, and what the control is."""
    corrected = any(name.endswith(", corrected") for name in names)
    notes = [
        f"The 95% interval covers {COVERS}{'; of corrected shares ' + CORRECTED_COVERS if corrected else ''}."
    ]
    return notes + [f"Control: {CONTROL}."] * any(name.endswith(", control") for name in names)


def _to_store(writer: MapWriter, names: MapNames, anatomy: Anatomy) -> MapSink:
    def sink(example: int, layer: int, encoded: Encoded, kind: str, maps: Any) -> None:
        for head, values in zip(anatomy.kept[layer], maps, strict=True):
            if values.any():  # a head whose weights are all zero shows nothing to look at
                writer.add(names.row(example, encoded, layer, head, kind, values))

    return sink
