"""The job of ``classify-heads``: from a checkpoint and rows to tables, figures and a summary."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from models.anatomy import Anatomy, anatomy_of
from models.checkpoints import (
    Checkpoint,
    check_loading,
    load_checkpoint,
    model_record,
    pick_device,
    precision_of,
)
from models.common.errors import InputError
from models.common.files import known, write_json
from models.common.hub import check_repository, publish
from models.common.outputs import Output
from models.common.papers import Figures, write_latex
from models.common.placement import home_of, placed_parts
from models.common.progress import part
from models.common.provenance import provenance, source_record
from models.common.results import Tabular
from models.families.family import check_stack
from models.isolating import check_mode, isolated
from models.subnetwork import Subnetwork, mask_files
from models.tasks.rows import Rows, select_rows
from models.tasks.source import RowSource
from models.tasks.task import Task

from .classifier.left_out import errors_in_words
from .classifier.network import PatternClassifier, classifier_records, load_classifiers
from .control import redrawn
from .distribution import COVERS, EMPTY, check_seed, counts
from .estimate import COVERS as ESTIMATE_COVERS
from .estimate import FEW, FEW_INPUTS, FEWEST, Estimate, prediction_powered
from .heads import NOT_CLASSIFIED, MapSink, check_sizes, classify_heads
from .maps.attention import check_kinds
from .maps.examples import ExampleMaps
from .maps.names import MapNames
from .maps.sample import LabelledSample, Population, read_sample, sample_files
from .measures.measured import COVERS as MEASURED_COVERS
from .measures.measured import FALSE_DISCOVERIES, LEAST, ROLES
from .measures.words import roles_in
from .report.summary import (
    BARS,
    DISTRIBUTION,
    DISTRIBUTION_FIGURE,
    HEADS,
    HEADS_FIGURE,
    MAPS,
    REPORT,
    SUMMARY,
    EstimateSummary,
    KindSummary,
    RoleSummary,
    Shares,
    Summary,
)
from .result import CONTROLLED, HeadPatterns, bars_frame, errors_elsewhere, name_of
from .taxonomy import KINDS, PATTERNS

if TYPE_CHECKING:
    import datasets
    import numpy as np
    import numpy.typing as npt
    import pandas as pd
    from matplotlib.figure import Figure
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
    annotations: Path | None = None
    """Folder of maps of this model that annotate-maps sample --strategy random drew and people labelled.

    With them the shares become an estimate whose interval covers the classifier's errors.
    """
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
    device_map: str | None = None
    output: Path | None = None
    overwrite: bool = False
    figures: Figures = field(default_factory=Figures)
    """How figures are written."""
    push_to_hub: str | None = None
    """ORG/NAME: publish the output in this data set repository of the Hub, which load_dataset reads."""
    save_maps: bool = False
    """Write every map too (large).

    They go to the folder ``maps`` of the output.
    """
    stack: str | None = None
    """Of an encoder-decoder (T5, BART), whose heads: encoder (the default), decoder, or cross.

    Maps of cross-attention, with which the decoder reads the encoder, are shown and measured and not classified.
    """
    control: bool = False
    """Look at the same architecture with its weights redrawn too: what is there without training.

    The same heads, inputs and classifiers; the weights are those of :func:`patterns.redrawn` with this run's seed.
    """
    measure: bool = False
    """Say what each head does too, without any label.

    Where its attention goes beside chance (previous token, first token, separators, copies, segments ...), its roles,
    and how much it writes.
    """

    def __post_init__(self) -> None:
        _ = self.source
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
        check_stack(self.stack)
        if self.stack not in (None, "encoder") and self.subnetwork is not None:
            raise InputError(f"--stack {self.stack}: --subnetwork FILE is of an encoder's heads.")
        if self.annotations is not None and self.subnetwork_mode != "select":
            raise InputError(
                "--annotations are of maps that annotate-maps sample took from the model as it is, not of one with "
                f"--subnetwork-mode {self.subnetwork_mode}; leave out one of the two."
            )
        if self.save_maps and self.output is None:
            raise InputError("--save-maps needs --output DIR, the folder to write the maps to.")
        if self.push_to_hub is not None and self.output is None:
            raise InputError(
                f"--push-to-hub {self.push_to_hub} needs --output DIR, the folder that is published."
            )
        if self.output is not None:
            self.place.check()

    @property
    def source(self) -> RowSource:
        """Where rows come from."""
        return RowSource(self.task, self.data, self.split, self.text)

    @property
    def place(self) -> Output:
        """Where everything is written."""
        given = (self.annotations, self.subnetwork, *(self.classifiers or {}).values())
        inputs = (self.model, *self.source.inputs, *given)
        return Output(Path(self.output or "."), "classify-heads", self.overwrite, inputs)

    def run(self, progress: bool = False) -> Classified:
        """Do it; with an output folder, everything is written there at once or not at all.

        Raises:
            HeadscopeError: the model, the data or a classifier is not what it should be.
        """
        if self.stack == "cross":
            raise InputError(NOT_CLASSIFIED)
        if self.push_to_hub is not None:
            check_repository(self.push_to_hub, "--push-to-hub")
        task, rows = self.source.load()
        device = pick_device(self.device)
        classifiers = load_classifiers(check_kinds(self.maps), self.classifiers)
        subnetwork = Subnetwork.load(self.subnetwork) if self.subnetwork else None
        checkpoint = load_checkpoint(
            self.model, self.revision, device, dtype=self.dtype, device_map=self.device_map, quantised=True
        )
        drawn = select_rows(rows.numbered(), task, self.examples, self.seed)
        sample = self._sample(checkpoint, task, rows)

        with ExitStack() as stack:
            folder = writer = maps = None
            if self.output is not None:
                folder = stack.enter_context(self.place.making())
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
            sink = (
                _to_store(writer, MapNames(checkpoint, task.name, stack=anatomy.family.stack), anatomy)
                if writer
                else None
            )

            def classified(
                of: PreTrainedModel,
                sink: MapSink | None = None,
                examples: ExampleMaps | None = None,
                measure: bool = False,
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
                    measure=measure,
                )

            patterns = classified(model, sink, maps, self.measure)
            if self.control:
                new = redrawn(checkpoint.model, self.seed)
                if subnetwork is not None:
                    new = stack.enter_context(isolated(new, subnetwork, self.subnetwork_mode))
                patterns = replace(patterns, control=classified(new))
            observed = patterns
            if subnetwork is not None:
                patterns = patterns.select(subnetwork)
            if sample is not None:
                patterns = replace(patterns, estimates=estimates(patterns, sample, classifiers))
                observed = replace(observed, estimates=estimates(observed, sample, classifiers))
            few = rows.shortage(self.examples)
            warnings = (
                *few,
                *checkpoint.warnings,
                *patterns.warnings,
                *absent,
                *(() if sample is None else (*sample.warnings, *estimate_warnings(patterns))),
            )
            patterns = replace(patterns, warnings=warnings)
            summary = self._summary(patterns, checkpoint, task, rows, classifiers)
            if anatomy.family.stack:
                summary["stack"] = anatomy.family.stack
            if self.measure:
                summary["roles"] = role_summary(patterns)
            if folder is not None:
                with part(f"written to {self.output}"):
                    write_results(folder, patterns, summary, self.figures)
                    from .report.classified import repeat_command, write_classified

                    kept = None if subnetwork is None else subnetwork.heads
                    write_classified(folder / REPORT, self, patterns, summary, rows, maps, observed, kept)
                    if self.push_to_hub is not None:
                        from .report.card import write_card

                        write_card(folder, patterns, summary, repeat_command(self, summary), self.save_maps)
        published = None
        if self.push_to_hub is not None and self.output is not None:
            published = publish(self.output, self.push_to_hub, "dataset", "--push-to-hub")
        return Classified(patterns, summary, rows, published)

    def _sample(self, checkpoint: Checkpoint, task: Task, rows: Rows) -> LabelledSample | None:
        """Read the labels of a random sample of the maps that are looked at, if there is one."""
        if self.annotations is None:
            return None
        split = self.split if self.text is None else None
        return read_sample(
            self.annotations,
            Population(
                model_record(checkpoint),
                task.name,
                split,
                rows.record(),
                self.max_length,
                precision_of(checkpoint.model),
                anatomy_of(checkpoint.model, self.stack).family.stack,
            ),
        )

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
        from .report.classified import estimation_command

        summary: Summary = {
            "model": self.model,
            "task": task.name,
            "task_definition": task.record() or {},
            "split": self.split if self.task is not None else None,
            "examples": len(patterns.examples),
            "seed": self.seed,
            "annotations": None
            if self.annotations is None
            else source_record(self.annotations, sample_files(self.annotations)),
            "to_estimate": None if patterns.estimates else estimation_command(self),
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
                "device_map": placed_parts(checkpoint.model),
                "dtype": precision_of(checkpoint.model),
            },
        }
        if not task.own:
            del summary["task_definition"]
        return summary


@dataclass(frozen=True)
class Classified(Tabular):
    """What a run of ``classify-heads`` ends with."""

    patterns: HeadPatterns
    summary: Summary
    """What ``summary.json`` holds."""
    rows: Rows
    """Where the examples were drawn from."""
    published: str | None = None
    """Where the output was put on the Hub, if that was asked for."""

    def to_frame(self) -> pd.DataFrame:
        """Return :meth:`patterns.HeadPatterns.to_frame`: a row a kind and counted head."""
        return self.patterns.to_frame()

    def to_dataset(self) -> datasets.Dataset:
        """Return :meth:`patterns.HeadPatterns.to_dataset`: a row a kind, example and counted head."""
        return self.patterns.to_dataset()

    def plot(self) -> Figure:
        """Draw :meth:`patterns.HeadPatterns.plot`: the grid of heads, coloured by dominant pattern."""
        return self.patterns.plot()


def summarise(patterns: HeadPatterns, kind: str) -> KindSummary:
    """Return the part of ``summary.json`` about one kind of maps; an interval that has no value is null.

    ``estimate`` is null without labels, ``control`` if none was asked for.
    """
    control = patterns.control
    estimate = patterns.estimates.get(kind)
    return {
        "estimate": _estimate_summary(estimate) if estimate else None,
        **_shares_of(patterns, kind),
        "error_elsewhere": errors_in_words({kind: patterns.classifiers.get(kind, "")}, patterns.causal),
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


def role_summary(patterns: HeadPatterns) -> RoleSummary:
    """Return the part of ``summary.json`` about what heads do."""
    frame = patterns.measurements()
    heads: dict[str, dict[str, list[list[int]]]] = {}
    for kind in patterns.kinds:
        heads[kind] = {role: [] for role in ROLES}
        for row in frame[frame["kind"] == kind].to_dict("records"):
            for role in roles_in({str(column): value for column, value in row.items()}):
                heads[kind][role].append([int(row["layer"]), int(row["head"])])
    return {"heads": heads, "covers": MEASURED_COVERS, "false_discoveries": FALSE_DISCOVERIES, "least": LEAST}


def _estimate_summary(estimate: Estimate) -> EstimateSummary:
    ratio, alone = estimate.ratio, estimate.labels_alone
    return {
        "distribution": estimate.shares,
        "interpretable_ratio": ratio.share,
        "interpretable_ratio_ci95": [ratio.low, ratio.high],
        "interpretable_ratio_ci95_covers": ESTIMATE_COVERS,
        "standard_error": ratio.standard_error,
        "labels": estimate.labels,
        "inputs": estimate.inputs,
        "predictions": estimate.predictions,
        "tuning": estimate.tuning,
        "labels_alone": {
            "interpretable_ratio": alone.share,
            "interpretable_ratio_ci95": [alone.low, alone.high],
            "standard_error": alone.standard_error,
        },
    }


def estimates(
    patterns: HeadPatterns, sample: LabelledSample, classifiers: Mapping[str, PatternClassifier]
) -> dict[str, Estimate]:
    """Return, by kind, what the labels of a random sample and the predictions for all counted heads say together.

    The classifier that made the predictions is asked about the labelled maps, too, as they are stored. Of a subnetwork,
    labelled maps of other heads are left out: those of its heads are a random sample of its maps.

    Raises:
        InputError: labels of a kind are too few, or all of one input.
    """
    import numpy as np

    found = {}
    for kind in (kind for kind in patterns.kinds if kind in sample.rows):
        pairs = [
            (row, label)
            for row, label in zip(sample.rows[kind], sample.labels[kind], strict=True)
            if patterns.heads[row.layer, row.head]
        ]
        inputs = [row.example for row, _ in pairs]
        if len(pairs) < FEWEST or len(set(inputs)) < 2:
            raise InputError(
                f"--annotations: {len(pairs)} {kind} maps of the heads that are counted, of {len(set(inputs))} inputs, "
                f"have a label; an estimate takes {FEWEST} at least, of 2. Label more, or leave {kind} out with --maps."
            )
        counted = patterns.labels[kind] != EMPTY
        counted &= patterns.heads
        found[kind] = prediction_powered(
            np.array([PATTERNS.index(label) for _, label in pairs]),
            classifiers[kind].predict_proba([row.map for row, _ in pairs]),
            np.array(inputs),
            patterns.probabilities[kind][counted],
            patterns.examples[np.nonzero(counted)[0]],
        )
    return found


def estimate_warnings(patterns: HeadPatterns) -> list[str]:
    """Say which estimates rest on few labels, and which kind of maps has none."""
    messages = [
        f"The {kind} estimate rests on labels of {one.labels} maps of {one.inputs} inputs: below {FEW} maps or "
        f"{FEW_INPUTS} inputs its interval may be too narrow."
        for kind, one in patterns.estimates.items()
        if one.labels < FEW or one.inputs < FEW_INPUTS
    ]
    without = [kind for kind in patterns.kinds if kind not in patterns.estimates]
    return messages + [
        f"No {kind} map is labelled, so their shares are the classifier's alone." for kind in without
    ]


def write_results(
    folder: Path, patterns: HeadPatterns, summary: Summary, figures: Figures | None = None
) -> None:
    """Write tables, figures and the summary of one run into an existing folder."""
    import pandas as pd

    figures = figures or Figures()
    heads = patterns.to_frame()
    heads.to_parquet(folder / HEADS, index=False)
    patterns.maps_frame().to_parquet(folder / MAPS, index=False)
    shares = pd.DataFrame(
        {"kind": kind, "pattern": pattern.value, "count": int(count), "share": count / number.sum()}
        for kind in patterns.kinds
        for number in (counts(patterns.labels[kind][:, patterns.heads].ravel()),)
        for pattern, count in zip(PATTERNS, number, strict=True)
    )
    for name, table in (
        (DISTRIBUTION, shares),
        (f"{HEADS_FIGURE}.csv", heads),
        (f"{BARS}.csv", bars_frame(patterns)),
    ):
        table.to_csv(folder / name, index=False)
        write_latex(table, (folder / name).with_suffix(".tex"))
    figures.write(figures.drawn(patterns.plot), folder, HEADS_FIGURE)
    figures.write(figures.drawn(patterns.plot_distribution), folder, DISTRIBUTION_FIGURE)
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
    notes = [f"The 95% interval covers {COVERS}.", errors_elsewhere(patterns)]
    if patterns.estimates:
        notes = [
            f"The 95% interval of an estimate covers {ESTIMATE_COVERS}.",
            f"The other ones cover {COVERS}.",
            notes[1],
        ]
    if patterns.control:
        notes.append(f"Control: {CONTROL}.")
    return [note for note in notes if note]


def _to_store(writer: MapWriter, names: MapNames, anatomy: Anatomy) -> MapSink:
    def sink(example: int, layer: int, encoded: Encoded, kind: str, maps: npt.NDArray[np.float32]) -> None:
        for head, values in zip(anatomy.kept[layer], maps, strict=True):
            if values.any():  # a head whose weights are all zero shows nothing to look at
                writer.add(names.row(example, encoded, layer, head, kind, values))

    return sink
