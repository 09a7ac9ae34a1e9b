"""The job of ``compare-heads``: from several models to what their heads do otherwise on the same inputs."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from models.anatomy import anatomy_of
from models.checkpoints import (
    Checkpoint,
    check_loading,
    load_checkpoint,
    model_record,
    pick_device,
    precision_of,
)
from models.common.errors import InputError
from models.common.files import write_json
from models.common.options import listed
from models.common.outputs import Output
from models.common.papers import Figures, write_latex
from models.common.placement import home_of, placed_parts, weights_at_hand
from models.common.provenance import provenance
from models.families.family import check_stack
from models.tasks.inputs import as_texts, feed
from models.tasks.rows import Row, Rows, select_rows
from models.tasks.source import RowSource
from models.tasks.task import Task

from ..classifier.network import PatternClassifier, classifier_records, load_classifiers
from ..distribution import check_seed
from ..heads import NOT_CLASSIFIED, check_sizes, classify_heads
from ..maps.attention import check_kinds
from ..result import HeadPatterns
from ..taxonomy import KINDS
from .paired import COVERS, Pair, transitions_frame
from .records import ComparedModel, ComparisonSummary, PairRecord

if TYPE_CHECKING:
    import datasets
    import pandas as pd
    import torch
    from matplotlib.figure import Figure
    from transformers import PreTrainedModel

REPORT, SUMMARY = "report.html", "summary.json"
CHANGES, TRANSITIONS, GRIDS = "changes.parquet", "transitions.csv", "grids"

Say = Callable[[str], None]


@dataclass(frozen=True)
class CompareHeads:
    """One run of ``compare-heads``.

    Raises:
        InputError: an option is out of range, there are too few models, or the output folder is not empty.
    """

    models: tuple[str | Path, ...]
    """Hub ids or folders of models of one shape, the earlier one first; a compacted one is compared by the heads that
    it has left. With --revisions, one."""
    revisions: tuple[str, ...] = ()
    """Revisions of the one model, in their order: step1000,step2000."""
    task: str | Task | None = None
    data: str | None = None
    split: str = "validation"
    text: Path | None = None
    """Instead of --task: a file of one text a line, or of two with a tab between them."""
    examples: int = 100
    """Rows to draw at random, the same for all models."""
    maps: tuple[str, ...] = KINDS
    stack: str | None = None
    """Of an encoder-decoder (T5, BART), whose heads: encoder (the default) or decoder."""
    batch_size: int = 16
    max_length: int = 128
    seed: int = 0
    device: str = "auto"
    dtype: str = "float32"
    device_map: str | None = None
    output: Path | None = None
    overwrite: bool = False
    figures: Figures = field(default_factory=Figures)
    """How the figure is written."""

    def __post_init__(self) -> None:
        _ = self._source
        sources = self.sources
        check_kinds(self.maps)
        check_sizes(self.batch_size, self.max_length)
        check_seed(self.seed)
        check_loading(self.dtype, self.device_map, self.device)
        if self.examples < 1:
            raise InputError(f"--examples {self.examples}: give at least 1.")
        check_stack(self.stack)
        if self.stack == "cross":
            raise InputError(NOT_CLASSIFIED)
        if len({label for _, _, label in sources}) < len(sources):
            raise InputError(
                f"{' '.join(label for _, _, label in sources)}: give each model or revision once."
            )
        if self.output is not None:
            self._output.check()

    @property
    def sources(self) -> list[tuple[str, str | None, str]]:
        """Name, revision and label of each model.

        Raises:
            InputError: there are fewer than two, or revisions of several models.
        """
        models = [str(model) for model in self.models]
        revisions = [part for word in self.revisions for part in listed(word) if part]
        if revisions:
            if len(models) != 1:
                raise InputError(
                    "--revisions are of one model; give one, or several models without revisions."
                )
            if len(revisions) < 2:
                raise InputError(f"--revisions {revisions[0]}: give two or more to compare.")
            return [(models[0], revision, revision) for revision in revisions]
        if len(models) < 2:
            raise InputError("Give two models or more to compare, or one and --revisions A,B.")
        return [(model, None, model) for model in models]

    @property
    def _source(self) -> RowSource:
        return RowSource(self.task, self.data, self.split, self.text)

    @property
    def _output(self) -> Output:
        inputs = (*map(str, self.models), *self._source.inputs)
        return Output(Path(self.output or "."), "compare-heads", self.overwrite, inputs)

    def run(self, progress: bool = False, say: Say = lambda line: None) -> ComparedHeads:
        """Do it; with an output folder, everything is written there at once or not at all.

        Args:
            progress: show progress bars on stderr.
            say: called with a line about each model before it is run.

        Raises:
            HeadscopeError: a model or the data is not what it should be, or the models are of different shape.
        """
        with ExitStack() as stack:
            # Before hours of work that could not be written.
            folder = stack.enter_context(self._output.making()) if self.output is not None else None
            done = self._compared(progress, say)
            if folder is not None:
                done.write(folder, self)
        return done

    def _compared(self, progress: bool, say: Say) -> ComparedHeads:
        task, rows = self._source.load()
        drawn = select_rows(rows.numbered(), task, self.examples, self.seed)
        device = pick_device(self.device)
        classifiers = load_classifiers(check_kinds(self.maps))
        looked: list[_Looked] = []
        for name, revision, label in self.sources:
            say(f"{label}: {name}" if revision else label)
            looked.append(
                self._look(name, revision, label, task, drawn, classifiers, device, looked, progress)
            )
        pairs = self._pairs(looked)
        warnings = [
            *rows.shortage(self.examples),
            *(f"{one.label}: {message}" for one in looked for message in one.warnings),
            *_same_weights(looked),
            *_caveats(pairs, looked),
        ]
        return ComparedHeads(
            [pair for pair, _ in pairs],
            self._summary(pairs, looked, task, rows, classifiers, list(dict.fromkeys(warnings))),
            [one.patterns for one in looked],
        )

    def _look(
        self,
        name: str,
        revision: str | None,
        label: str,
        task: Task,
        rows: Sequence[Row],
        classifiers: dict[str, PatternClassifier],
        device: torch.device,
        before: Sequence[_Looked],
        progress: bool,
    ) -> _Looked:
        checkpoint = load_checkpoint(
            name, revision, device, dtype=self.dtype, device_map=self.device_map, quantised=True
        )
        model = checkpoint.model
        anatomy = anatomy_of(model, self.stack)
        shape = (anatomy.n_layers, anatomy.n_heads)
        if before and shape != (known := before[0].patterns.heads.shape):
            one, other = (" x ".join(map(str, of)) for of in (known, shape))
            raise InputError(
                f"{before[0].label} has {one} heads (layers x heads), but {label} has {other}; only models of one "
                "shape have the same heads."
            )
        found = classify_heads(
            model,
            checkpoint.tokenizer,
            rows,
            task=task,
            kinds=tuple(classifiers),
            classifiers=classifiers,
            batch_size=self.batch_size,
            max_length=self.max_length,
            seed=self.seed,
            progress=progress,
            stack=self.stack,
            measure=True,
        )
        fed = feed(model, checkpoint.tokenizer, as_texts(rows, task), self.max_length)
        return _Looked(
            label,
            checkpoint_record(checkpoint, label, weights_digest(model), int(found.heads.sum())),
            found,
            [tuple(one.input_ids) for one in fed.inputs],
            (*checkpoint.warnings, *found.warnings),
            str(home_of(model)),
        )

    def _pairs(self, looked: Sequence[_Looked]) -> list[tuple[Pair, int]]:
        """Return each model with the next, of several the first with the last, too; and how many inputs differ."""
        chosen = list(pairwise(looked))
        if len(looked) > 2:
            chosen.append((looked[0], looked[-1]))
        return [
            (
                Pair(one.patterns, other.patterns, (one.label, other.label)),
                sum(a != b for a, b in zip(one.tokens, other.tokens, strict=True)),
            )
            for one, other in chosen
        ]

    def _summary(
        self,
        pairs: Sequence[tuple[Pair, int]],
        looked: Sequence[_Looked],
        task: Task,
        rows: Rows,
        classifiers: dict[str, PatternClassifier],
        warnings: list[str],
    ) -> ComparisonSummary:
        shape = looked[0].patterns.heads.shape
        summary: ComparisonSummary = {
            "models": [one.label for one in looked],
            "task": task.name,
            "task_definition": dict(task.record() or {}),
            "split": self.split if self.task is not None else None,
            "examples": len(pairs[0][0].places[0]),
            "max_length": self.max_length,
            "seed": self.seed,
            "maps": list(looked[0].patterns.kinds),
            "layers": shape[0],
            "heads": shape[1],
            "pairs": [_record(pair, other_tokens, self.seed) for pair, other_tokens in pairs],
            "covers": COVERS,
            "warnings": warnings,
            "provenance": {
                **provenance(),
                "models": [one.record for one in looked],
                "data": rows.record(),
                "classifiers": classifier_records(classifiers),
                "device": ", ".join(sorted({one.home for one in looked})),
                "inputs": dict(looked[0].patterns.inputs),
            },
        }
        if not task.own:
            del summary["task_definition"]
        return summary


def _record(pair: Pair, other_tokens: int, seed: int) -> PairRecord:
    return {
        "a": pair.names[0],
        "b": pair.names[1],
        "heads": int(pair.heads.sum()),
        "only_a": int((pair.a.heads & ~pair.b.heads).sum()),
        "only_b": int((pair.b.heads & ~pair.a.heads).sum()),
        "examples": len(pair.places[0]),
        "other_tokens": other_tokens,
        "maps": {kind: pair.changes(kind, seed) for kind in pair.a.kinds},
    }


@dataclass(frozen=True, eq=False)
class _Looked:
    """What is kept of a model once it was looked at."""

    label: str
    record: ComparedModel
    patterns: HeadPatterns
    tokens: list[tuple[int, ...]]
    """Of each row."""
    warnings: tuple[str, ...]
    home: str
    """The device that it takes its inputs on."""


def checkpoint_record(checkpoint: Checkpoint, label: str, weights: str, heads: int) -> ComparedModel:
    """Return what the result says of one of the models."""
    return {
        **model_record(checkpoint),
        "label": label,
        "weights": weights,
        "heads": heads,
        "dtype": precision_of(checkpoint.model),
        "device_map": placed_parts(checkpoint.model),
    }


def weights_digest(model: PreTrainedModel) -> str:
    """Return a SHA-256 of a model's weights, but for its pooler, which is drawn anew where the files have none."""
    digest = hashlib.sha256()
    for name, weight in sorted(model.state_dict().items()):
        if "pooler" in name:
            continue
        if weight.is_meta:  # accelerate has left it in memory or on the disk
            place, _, leaf = name.rpartition(".")
            module = model.get_submodule(place)
            with weights_at_hand(module):
                array = _numbers(getattr(module, leaf))
        else:
            array = _numbers(weight)
        digest.update(f"{name} {array.shape}\n".encode())
        digest.update(array.data)
    return digest.hexdigest()


def _numbers(weight: torch.Tensor) -> npt.NDArray[np.float32]:
    return np.asarray(weight.detach().float().cpu().contiguous().numpy())


def _same_weights(looked: Sequence[_Looked]) -> list[str]:
    """Say which models hold the same weights."""
    found: dict[str, list[str]] = {}
    for one in looked:
        found.setdefault(one.record["weights"], []).append(one.label)
    return [
        f"{' and '.join(labels)} hold the same weights: nothing can differ between them."
        for labels in found.values()
        if len(labels) > 1
    ]


def _caveats(pairs: Sequence[tuple[Pair, int]], looked: Sequence[_Looked]) -> list[str]:
    """Say what makes models less alike than they look."""
    messages = []
    for pair, other_tokens in pairs:
        one, other = pair.names
        if other_tokens:
            messages.append(
                f"{other_tokens} of the inputs have other tokens in {other} than in {one}: the texts are the same, "
                "what the heads see is not."
            )
        for name, of, without in ((one, pair.a, pair.b), (other, pair.b, pair.a)):
            if lost := int((of.heads & ~without.heads).sum()):
                messages.append(
                    f"{lost} heads that {name} has were removed from {other if name == one else one}; they are left "
                    "out of the comparison."
                )
    precisions = {one.record["dtype"]: one.label for one in looked}
    if len(precisions) > 1:
        told = " and ".join(f"{label} computes in {name}" for name, label in precisions.items())
        messages.append(f"{told}: what differs may be the precision; give --dtype float32 for both.")
    types = {one.record["type"]: one.label for one in looked}
    if len(types) > 1:
        told = " and ".join(f"{label} is a {kind}" for kind, label in types.items())
        messages.append(f"{told}: heads of the same number have nothing else in common.")
    return messages


@dataclass(frozen=True, eq=False)
class ComparedHeads:
    """What a run of ``compare-heads`` ends with."""

    pairs: list[Pair]
    """Each model with the next; of more than two, last the first with the last."""
    summary: ComparisonSummary
    """What ``summary.json`` holds."""
    patterns: list[HeadPatterns]
    """Of each model."""

    def to_frame(self) -> pd.DataFrame:
        """Return a row a pair, kind and head: what ``changes.parquet`` holds."""
        import pandas as pd

        frames = [pair.frame(kind) for pair in self.pairs for kind in pair.a.kinds]
        return pd.concat(frames, ignore_index=True)

    def to_dataset(self) -> datasets.Dataset:
        """Return :meth:`to_frame` as a ``datasets.Dataset``."""
        import datasets

        return datasets.Dataset.from_pandas(self.to_frame(), preserve_index=False)

    def transitions(self) -> pd.DataFrame:
        """Return a row a pair, kind and transition: what ``transitions.csv`` holds."""
        return transitions_frame([(one["a"], one["b"], one["maps"]) for one in self.summary["pairs"]])

    def plot(self) -> Figure:
        """Draw every head's dominant pattern in each model, outlined where it is another than in the one before."""
        from .figures import changes_grid

        return changes_grid(self.summary["models"], self.patterns, self.pairs)

    def write(self, folder: Path, job: CompareHeads) -> None:
        """Write tables, the figure, the page and the summary into an existing folder."""
        from .report import write_report

        frame, transitions = self.to_frame(), self.transitions()
        figure = job.figures.drawn(self.plot)
        frame.to_parquet(folder / CHANGES, index=False)
        transitions.to_csv(folder / TRANSITIONS, index=False)
        frame.to_csv(folder / f"{GRIDS}.csv", index=False)
        for name, table in ((f"{GRIDS}.csv", frame), (TRANSITIONS, transitions)):
            write_latex(table, (folder / name).with_suffix(".tex"))
        job.figures.write(figure, folder, GRIDS)
        write_report(folder / REPORT, job, self.summary, frame, transitions, figure)
        write_json(folder / SUMMARY, self.summary)
