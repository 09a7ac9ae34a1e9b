"""The job of ``annotate-maps sample``: from a checkpoint and rows to a folder of maps worth labelling.

Two passes, so that the maps of all heads are never held at once: the first classifies every map and keeps its
probabilities (for the diverse strategies also its image of 8 x 8 cells); the second takes the maps that were chosen.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, NotRequired, TypedDict

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from models.anatomy import Anatomy, anatomy_of
from models.checkpoints import (
    Checkpoint,
    ModelRecord,
    check_loading,
    load_checkpoint,
    model_record,
    pick_device,
    precision_of,
)
from models.common.errors import InputError
from models.common.files import write_json
from models.common.outputs import Output
from models.common.placement import home_of
from models.common.progress import progress_bar
from models.common.provenance import Provenance, SourceRecord, provenance
from models.families.family import check_stack
from models.tap import observe
from models.tasks.inputs import Encoded, as_texts, batches, feed, padding_of
from models.tasks.rows import RowsRecord, row_ids, select_rows
from models.tasks.source import RowSource
from models.tasks.task import Task
from models.tasks.token_text import shown_tokens
from patterns.classifier.network import classifier_records, load_classifiers
from patterns.distribution import by_pattern, check_seed
from patterns.heads import check_sizes, classify_heads
from patterns.maps import store
from patterns.maps.attention import ValueNorms, check_kinds
from patterns.maps.names import MapNames, head_id, of_one_head
from patterns.maps.store import MapRow
from patterns.result import HeadPatterns
from patterns.taxonomy import KINDS, PATTERNS

from ..dataset import AnnotatedMaps, records_of
from ..table import ANNOTATIONS, PREDICTIONS, SAMPLE, TEXTS, read_annotations
from .strategies import STRATEGIES, choose, image_features, margins

if TYPE_CHECKING:
    import pandas as pd


class Place(NamedTuple):
    """Where a map comes from: the example's id, layer and head from 0, the kind."""

    example: int
    layer: int
    head: int
    kind: str


class Excluded(TypedDict):
    """What was not to be chosen again."""

    folders: list[str]
    records: list[SourceRecord]
    found: int
    """Candidates that were left out."""


class SampleReport(TypedDict):
    """What ``sample.json`` holds."""

    model: ModelRecord
    base_model: str
    task: str
    task_definition: NotRequired[Mapping[str, object]]
    """Of a task of the user's own."""
    split: str | None
    """None of a file of texts."""
    data: RowsRecord
    not_read: list[str]
    examples: int
    maps: dict[str, int]
    """By kind."""
    candidates: dict[str, int]
    strategy: str
    count: int
    seed: int
    max_length: int
    dtype: str
    """Precision in which the model computed."""
    stack: NotRequired[str]
    """Of an encoder-decoder, whose maps they are."""
    fed: dict[str, object]
    exclude: Excluded
    classifiers: dict[str, dict[str, str]]
    predicted: dict[str, int]
    """By pattern."""
    mean_margin: float
    heads: int
    inputs: int
    warnings: list[str]
    provenance: Provenance


@dataclass(frozen=True)
class SampleMaps:
    """One run of ``annotate-maps sample``.

    Raises:
        InputError: an option is out of range, or the output folder is not empty or holds labels.
    """

    model: str
    output: Path
    """New or empty folder for the maps to label."""
    task: str | Task | None = None
    text: Path | None = None
    """Instead of --task: a file of one text a line, or of two with a tab between them."""
    strategy: str = "random"
    """One of :data:`annotations.sampling.strategies.STRATEGIES`."""
    count: int = 200
    """Maps to choose; of two kinds, half each."""
    maps: tuple[str, ...] = KINDS
    examples: int = 100
    """Rows to draw at random, of whose maps some are chosen."""
    data: str | None = None
    revision: str | None = None
    split: str = "validation"
    exclude: tuple[Path, ...] = ()
    """Folder of maps that are not to be chosen again; can be repeated.

    No map of an (example, layer, head) in one of them is chosen, of either kind.
    """
    classifiers: Mapping[str, str | None] = field(default_factory=dict)
    """By kind: folder or Hub id of a classifier to use instead of the shipped one."""
    base_model: str = ""
    """What the model was fine-tuned from, to know its heads again in other folders."""
    batch_size: int = 16
    max_length: int = 128
    seed: int = 0
    device: str = "auto"
    dtype: str = "float32"
    device_map: str | None = None
    stack: str | None = None
    overwrite: bool = False
    """Replace an earlier sample in the output folder; never one with labels."""

    def __post_init__(self) -> None:
        _ = self._source
        check_kinds(self.maps)
        check_sizes(self.batch_size, self.max_length)
        check_seed(self.seed)
        check_loading(self.dtype, self.device_map, self.device)
        check_stack(self.stack)
        if self.stack == "cross":
            raise InputError(
                "--stack cross: maps of cross-attention are measured (classify-heads) and not classified, so there is "
                "none to label; give encoder or decoder."
            )
        for name, value in (("--count", self.count), ("--examples", self.examples)):
            if value < 1:
                raise InputError(f"{name} {value}: give at least 1.")
        if self.strategy not in STRATEGIES:
            raise InputError(f"--strategy {self.strategy}: give one of {', '.join(STRATEGIES)}.")
        self._output.check()
        if self.overwrite and len(read_annotations(Path(self.output) / ANNOTATIONS)):
            raise InputError(
                f"--output {self.output} holds labels, so it is not replaced; give a new folder."
            )

    @property
    def _source(self) -> RowSource:
        return RowSource(self.task, self.data, self.split, self.text)

    @property
    def _output(self) -> Output:
        inputs = (self.model, *self._source.inputs, *self.exclude, *(self.classifiers or {}).values())
        return Output(self.output, "annotate-maps sample", self.overwrite, inputs)

    def run(self, progress: bool = False) -> SampleReport:
        """Choose the maps and write the folder, at once or not at all.

        Returns:
            What ``sample.json`` holds.

        Raises:
            HeadscopeError: the model, the data, a classifier or an excluded folder is not what it should be, or
                no map is left to choose.
        """
        excluded = excluded_places(self.exclude)
        task, rows = self._source.load()
        device = pick_device(self.device)
        classifiers = load_classifiers(check_kinds(self.maps), self.classifiers)
        checkpoint = load_checkpoint(
            self.model, self.revision, device, dtype=self.dtype, device_map=self.device_map, quantised=True
        )
        drawn = select_rows(rows.numbered(), task, self.examples, self.seed)
        anatomy = anatomy_of(checkpoint.model, self.stack)
        names = MapNames(checkpoint, task.name, self.base_model, anatomy.family.stack)
        look = _Look(anatomy, STRATEGIES[self.strategy].images)
        found = classify_heads(
            checkpoint.model,
            checkpoint.tokenizer,
            drawn,
            task=task,
            kinds=self.maps,
            classifiers=classifiers,
            batch_size=self.batch_size,
            max_length=self.max_length,
            seed=self.seed,
            progress=progress,
            sink=look,
            stack=self.stack,
        )
        taken = self._taken(found, look, names, excluded)
        free = {
            kind: np.stack([look.alive[kind][e] for e in found.examples.tolist()]) & found.heads & ~taken
            for kind in found.kinds
        }
        places, probabilities = self._choose(found, look, free)
        warnings = [*rows.shortage(self.examples), *checkpoint.warnings, *found.warnings]
        if len(places) < self.count:
            warnings.append(f"{self.count} maps were asked for, but only {len(places)} are left to choose.")
        # What is fed, which a decoder's maps are not of: these begin with a start token.
        fed = feed(checkpoint.model, checkpoint.tokenizer, as_texts(drawn, task), self.max_length).inputs
        inputs = dict(zip(row_ids(drawn), fed, strict=True))
        maps = take_maps(checkpoint, inputs, places, self.batch_size, progress, stack=self.stack)
        chosen = [
            names.row(place.example, look.encoded[place.example], place.layer, place.head, place.kind, values)
            for place, values in zip(places, maps, strict=True)
        ]
        predictions = prediction_frame(
            chosen, probabilities, {kind: classifier.version for kind, classifier in classifiers.items()}
        )
        report: SampleReport = {
            "model": model_record(checkpoint),
            "base_model": self.base_model,
            "task": task.name,
            "task_definition": task.record() or {},
            "split": self.split if self.text is None else None,
            "data": rows.record(),
            "not_read": list(rows.unread),
            "examples": len(found.examples),
            "maps": dict(Counter(place.kind for place in places)),
            "candidates": {kind: int(mask.sum()) for kind, mask in free.items()},
            "strategy": self.strategy,
            "count": len(places),
            "seed": self.seed,
            "max_length": self.max_length,
            "dtype": precision_of(checkpoint.model),
            "fed": dict(found.inputs),
            "exclude": {
                "folders": [str(folder) for folder in self.exclude],
                "records": records_of(self.exclude),
                "found": int(taken.sum()),
            },
            "classifiers": classifier_records(classifiers, self.classifiers),
            "predicted": by_pattern(predictions["label"]),
            "mean_margin": float(predictions["margin"].mean()),
            "heads": len({place[1:3] for place in places}),
            "inputs": len({place.example for place in places}),
            "warnings": warnings,
            "provenance": provenance(),
        }
        if not task.own:
            del report["task_definition"]
        if anatomy.family.stack:
            report["stack"] = anatomy.family.stack
        tokens = [
            shown_tokens(checkpoint.tokenizer, look.encoded[place.example].input_ids) for place in places
        ]
        with self._output.making() as folder:
            _write(folder, chosen, predictions, tokens, report)
        return report

    def _taken(
        self, found: HeadPatterns, look: _Look, names: MapNames, excluded: set[str]
    ) -> npt.NDArray[np.bool_]:
        """Return ``[E, L, H]``, of which (example, layer, head) an excluded folder has a map."""
        taken = np.zeros((len(found.examples), *found.heads.shape), dtype=bool)
        for e, example in enumerate(found.examples.tolist() if excluded else ()):
            start = names.example(example, look.encoded[example])
            for layer, head in np.ndindex(found.heads.shape):
                taken[e, layer, head] = head_id(start, layer, head) in excluded
        return taken

    def _choose(
        self, found: HeadPatterns, look: _Look, free: Mapping[str, npt.NDArray[np.bool_]]
    ) -> tuple[list[Place], npt.NDArray[np.float32]]:
        """Return the chosen places, the most wanted first, and their probabilities ``[N, 5]``."""
        if not any(mask.any() for mask in free.values()):
            raise InputError(
                "No map is left to choose: every one is in a folder given with --exclude, or zero in every cell; "
                "give other rows (--split, --data), more of them (--examples), or another --seed."
            )
        rng = np.random.default_rng(self.seed)
        open_places = np.ones(next(iter(free.values())).size, dtype=bool)
        picked: dict[str, npt.NDArray[np.int64]] = {}
        left = self.count
        for more, kind in zip(range(len(free), 0, -1), free, strict=True):
            candidates = np.flatnonzero(free[kind].ravel() & open_places)
            probabilities = found.probabilities[kind].reshape(-1, len(PATTERNS))[candidates]
            features = look.features(kind, found.examples).reshape(len(open_places), -1)[candidates]
            order = choose(self.strategy, probabilities, features, -(-left // more), rng)
            picked[kind] = candidates[order]
            open_places[picked[kind]] = False  # never both kinds of one place: they look alike
            left -= len(order)
        # The kinds take turns, so that whoever stops early has labelled as many of each.
        ranked = sorted(
            (rank, number, place)
            for number, places in enumerate(picked.values())
            for rank, place in enumerate(places.tolist())
        )
        kinds = list(picked)
        result, probabilities = [], np.zeros((len(ranked), len(PATTERNS)), dtype=np.float32)
        for row, (_, number, place) in enumerate(ranked):
            e, layer, head = map(int, np.unravel_index(place, free[kinds[number]].shape))
            result.append(Place(int(found.examples[e]), layer, head, kinds[number]))
            probabilities[row] = found.probabilities[kinds[number]][e, layer, head]
        return result, probabilities


_TOKENS = pa.list_(pa.string())


class _Look:
    """The sink of the first pass: what must be known of a map to choose it, besides its probabilities."""

    def __init__(self, anatomy: Anatomy, images: bool) -> None:
        self._anatomy, self._images = anatomy, images
        self.encoded: dict[int, Encoded] = {}
        self.alive: dict[str, dict[int, npt.NDArray[np.bool_]]] = {}
        """By kind and example ``[L, H]``: not zero in every cell, as the maps of a head without weights are."""
        self._features: dict[str, dict[int, npt.NDArray[np.float16]]] = {}

    def __call__(
        self, example: int, layer: int, encoded: Encoded, kind: str, maps: npt.NDArray[np.float32]
    ) -> None:
        """See :data:`patterns.heads.MapSink`."""
        self.encoded[example] = encoded
        heads = list(self._anatomy.kept[layer])
        shape = (self._anatomy.n_layers, self._anatomy.n_heads)
        alive = self.alive.setdefault(kind, {}).setdefault(example, np.zeros(shape, dtype=bool))
        alive[layer, heads] = maps.any(axis=(1, 2))
        if self._images:
            found = image_features(maps)
            kept = self._features.setdefault(kind, {})
            kept.setdefault(example, np.zeros((*shape, found.shape[1]), np.float16))[layer, heads] = found

    def features(self, kind: str, examples: npt.NDArray[np.int64]) -> npt.NDArray[np.float16]:
        """Return ``[E, L, H, F]``; without images, nothing: F = 0."""
        if not self._images:
            return np.zeros((len(examples), self._anatomy.n_layers, self._anatomy.n_heads, 0), np.float16)
        return np.stack([self._features[kind][example] for example in examples.tolist()])


def excluded_places(folders: Iterable[Path]) -> set[str]:
    """Return the ids of the maps in these folders, without the kind at their end: a map each place.

    Raises:
        InputError: a folder holds no maps.
    """
    ids: set[str] = set()
    for folder in folders:
        if store.map_files(folder):
            for path in store.map_files(folder):
                for batch in store.read_parquet(path, ["id"]):
                    ids.update(map(str, batch.column("id").to_pylist()))
        else:
            ids.update(row.id for row in AnnotatedMaps.load(folder).rows)
    return {head for id in ids if (head := of_one_head(id)) is not None}


def take_maps(
    checkpoint: Checkpoint,
    encoded: Mapping[int, Encoded],
    places: Sequence[Place],
    batch_size: int = 16,
    progress: bool = False,
    *,
    stack: str | None = None,
) -> list[npt.NDArray[np.float32]]:
    """Return the maps ``[n, n]`` of these places and no others.

    Args:
        checkpoint: the model.
        encoded: what is fed of every example among the places.
        places: which maps; a head that the model no longer has is an error.
        batch_size: inputs per forward pass.
        progress: show a progress bar on stderr.
        stack: of an encoder-decoder, whose maps.
    """
    model, anatomy = checkpoint.model, anatomy_of(checkpoint.model, stack)
    value_norms = ValueNorms(anatomy)
    examples = sorted({place.example for place in places})
    inputs = [encoded[example] for example in examples]
    wanted: dict[tuple[int, int], list[Place]] = {}
    for place in places:
        wanted.setdefault((place.example, place.layer), []).append(place)
    taken: dict[Place, npt.NDArray[np.float32]] = {}
    batch: list[int] = []

    def take(layer: int, probabilities: torch.Tensor, values: torch.Tensor) -> None:
        here = [(b, place) for b, e in enumerate(batch) for place in wanted.get((examples[e], layer), ())]
        norms = value_norms(layer, values) if any(place.kind == "norm" for _, place in here) else None
        for b, place in here:
            n, head = len(encoded[place.example]), anatomy.kept[layer].index(place.head)
            found = probabilities[b, head, :n, :n]
            if place.kind == "norm" and norms is not None:
                found = found * norms[b, head, :n]
            taken[place] = found.float().cpu().numpy().copy()

    with (
        torch.inference_mode(),
        observe(model, take, {place.layer for place in places}, stack=stack),
        progress_bar(total=len(inputs), unit="example", what="taking maps", shown=progress) as bar,
    ):
        for positions, tensors in batches(
            inputs, batch_size, padding_of(checkpoint.tokenizer), home_of(model)
        ):
            batch = positions
            model(**anatomy.fed(tensors))
            bar.update(len(positions))
    return [taken[place] for place in places]


def prediction_frame(
    rows: Sequence[MapRow], probabilities: npt.NDArray[np.float32], versions: Mapping[str, str]
) -> pd.DataFrame:
    """Return the table ``predictions.parquet``.

    Columns: ``id``, ``label``, ``prob_<p>``, ``margin`` (between the two most probable patterns), and
    ``classifier_version``.
    """
    import pandas as pd

    columns: dict[str, Any] = {
        "id": [row.id for row in rows],
        "label": [PATTERNS[i].value for i in probabilities.argmax(axis=1)],
    }
    columns |= {f"prob_{pattern}": probabilities[:, i] for i, pattern in enumerate(PATTERNS)}
    columns["margin"] = margins(probabilities)
    columns["classifier_version"] = [versions[row.kind] for row in rows]
    return pd.DataFrame(columns)


def _write(
    folder: Path,
    chosen: list[MapRow],
    predictions: pd.DataFrame,
    tokens: Sequence[Sequence[str]],
    report: SampleReport,
) -> None:
    """Write maps, what is predicted of each, each map's tokens, and how they were sampled."""
    AnnotatedMaps(chosen).save(folder)
    predictions.to_parquet(folder / PREDICTIONS, index=False, write_page_checksum=True)
    texts = {"id": pa.array([row.id for row in chosen]), "tokens": pa.array(tokens, _TOKENS)}
    pq.write_table(pa.table(texts), folder / TEXTS, write_page_checksum=True)
    write_json(folder / SAMPLE, report)
