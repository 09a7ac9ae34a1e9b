"""Annotated maps: load them from any known layout, look at them, merge, split, and save them as Parquet."""

import hashlib
import tempfile
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, overload

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from models.common.errors import InputError
from models.common.hub import check_repository, publish
from models.common.outputs import Output
from models.common.provenance import SourceRecord, source_record
from patterns import Pattern
from patterns.maps import store
from patterns.maps.store import METADATA, UNKNOWN, MapRow
from patterns.taxonomy import KINDS, PATTERNS

from .folders import AddedSummary as AddedSummary
from .folders import add_annotations as add_annotations
from .folders import readme
from .formats import EXPORT, LAYOUTS, Annotation, find_published, majority, read_published
from .labellers import Passes, checked, read_passes, united, write_passes
from .table import ANNOTATION_SCHEMA, ANNOTATIONS, check_annotations, read_annotations, votes

if TYPE_CHECKING:
    import datasets

_TYPES = {field.name: field.type for field in store.SCHEMA} | {"label": pa.string()}

HEADS: tuple[str, ...] = ("base_model", "layer", "head")
"""The default groups of a split: maps of one head look alike, whatever was fine-tuned from the base model."""

Groups: TypeAlias = Sequence[Hashable] | np.ndarray | pd.Series
"""Columns of :attr:`AnnotatedMaps.info`, or one value per map."""


def records_of(folders: Iterable[Path | str]) -> list[SourceRecord]:
    """Return what a result says of the folders of annotated maps that it was made from."""
    return [source_record(folder, map_sources(folder)) for folder in folders]


def map_sources(folder: Path | str) -> list[Path]:
    """Return the files that :meth:`AnnotatedMaps.load` reads in a folder."""
    folder = Path(folder)
    if store.map_files(folder):
        return [*store.map_files(folder), folder / ANNOTATIONS]
    return [
        path
        for kind, home in find_published(folder)
        for path in (
            home / LAYOUTS[kind].label_file,
            home / "index.csv",
            *(home / LAYOUTS[kind].map_folder).glob("[!.]*.npy"),
        )
    ]


class AnnotatedMaps:
    """Maps with any number of annotations each; unchanging: every method returns a new one.

    Args:
        rows: the maps; their ids differ.
        annotations: one row per annotation: ``id``, ``annotator``, ``label`` and, if known, ``time`` (ISO 8601 or
            datetimes; without a zone, UTC) and ``source``. None: nothing is labelled yet.
        passes: by labeller, those annotators that are its passes; all others are different people.

    Raises:
        InputError: two maps share an id; an annotation has no annotator, a label that is no pattern or an id
            without a map; one annotator gives a map two labels at the same time, or is a pass of two labellers.
    """

    def __init__(
        self,
        rows: Iterable[MapRow],
        annotations: pd.DataFrame | Sequence[Annotation] | None = None,
        passes: Passes | None = None,
    ) -> None:
        self.rows: tuple[MapRow, ...] = tuple(rows)
        self._position = {row.id: index for index, row in enumerate(self.rows)}
        if len(self._position) < len(self.rows):
            twice = next(row for index, row in enumerate(self.rows) if self._position[row.id] != index)
            raise InputError(
                f"two maps have the id {twice.id}; give each its own, or load one kind (kind='raw' or 'norm')."
            )
        self._annotations = check_annotations(annotations, self._position)
        self._passes = checked(passes or {}, "passes")
        said = votes(self._annotations)
        self._labels = [majority(said.get(row.id, {}).values()) for row in self.rows]

    def __len__(self) -> int:
        return len(self.rows)

    def __repr__(self) -> str:
        labelled = sum(label is not None for label in self._labels)
        return f"AnnotatedMaps({len(self)} maps, {labelled} labelled, {' and '.join(self.kinds) or 'empty'})"

    @property
    def maps(self) -> list[np.ndarray]:
        """The maps, float32 ``[n, n]`` each."""
        return [row.map for row in self.rows]

    @property
    def labels(self) -> list[Pattern | None]:
        """The label of most annotators, map by map; None where they tie or nobody labelled it."""
        return list(self._labels)

    @property
    def annotations(self) -> pd.DataFrame:
        """One row per annotation: id, annotator, label, time (UTC, NaT if unknown), source."""
        return self._annotations.copy()

    @property
    def passes(self) -> dict[str, tuple[str, ...]]:
        """By labeller, those annotators that are its passes; all others are different people."""
        return dict(self._passes)

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of maps there are: ``raw``, ``norm``."""
        return tuple(kind for kind in KINDS if any(row.kind == kind for row in self.rows))

    @property
    def info(self) -> pd.DataFrame:
        """One row per map: everything but the map, and the label (None if it has none)."""
        columns = self._columns()
        return pd.DataFrame(columns).assign(label=pd.Series(columns["label"], dtype=object))

    def select(self, indices: Iterable[int]) -> "AnnotatedMaps":
        """Return the maps at these positions, with their annotations."""
        rows = [self.rows[index] for index in indices]
        ids = {row.id for row in rows}
        return AnnotatedMaps(rows, self._annotations[self._annotations["id"].isin(ids)], self._passes)

    def labelled(self) -> "AnnotatedMaps":
        """Return the maps that have a label."""
        return self.select(index for index, label in enumerate(self._labels) if label is not None)

    def merge(self, *others: "AnnotatedMaps") -> "AnnotatedMaps":
        """Return the union of the maps and of their annotations; each identical annotation counts once.

        A map with an id that is known already must be the same map, up to what float16 storage rounds off;
        its unknown metadata are filled in.

        Raises:
            InputError: one id stands for two maps, or for one map with two different metadata; or an annotator is a
                pass of one labeller here and of another there.
        """
        rows = {row.id: row for row in self.rows}
        for row in (row for other in others for row in other.rows):
            rows[row.id] = _united(rows[row.id], row) if row.id in rows else row
        frames = [frame for one in (self, *others) if len(frame := one._annotations)]
        passes = united((one._passes for one in (self, *others)), "passes")
        return AnnotatedMaps(rows.values(), pd.concat(frames, ignore_index=True) if frames else None, passes)

    @overload
    def split(
        self, groups: Groups = ..., *, fraction: float = ..., seed: int = ..., folds: None = ...
    ) -> tuple["AnnotatedMaps", "AnnotatedMaps"]: ...

    @overload
    def split(
        self, groups: Groups = ..., *, seed: int = ..., folds: int
    ) -> list[tuple["AnnotatedMaps", "AnnotatedMaps"]]: ...

    def split(
        self, groups: Groups = HEADS, *, fraction: float = 0.2, seed: int = 0, folds: int | None = None
    ) -> Any:
        """Split so that no group is on both sides, each side with its share of every label as far as groups allow.

        Args:
            groups: columns of :attr:`info`, or one value per map.
            fraction: share of the maps in the second part; not used with `folds`.
            seed: same seed, same split.
            folds: number of folds for cross-validation.

        Returns:
            (rest, part of about `fraction`); with `folds`, a list of (rest, fold), each map in one fold.

        Raises:
            InputError: unknown columns, a wrong number of values, fewer groups than parts, or a `fraction` or
                `folds` out of range.
        """
        if not 0 < fraction < 1:
            raise InputError(f"fraction is {fraction}; it must lie between 0 and 1.")
        if folds is not None and folds < 2:
            raise InputError(f"folds is {folds}; at least 2 are needed.")
        codes, names = self._groups(groups)
        shares = [1 - fraction, fraction] if folds is None else [1 / folds] * folds
        if (found := len(set(codes.tolist()))) < len(shares):
            raise InputError(
                f"the maps form {found} group(s) of {names} and cannot be split into {len(shares)} parts; "
                "give other groups=, for instance ('id',)."
            )
        labels = np.array([-1 if label is None else PATTERNS.index(label) for label in self._labels])
        part = _parts(codes, labels, shares, seed)
        pairs = [
            (self.select(np.flatnonzero(part != index)), self.select(np.flatnonzero(part == index)))
            for index in range(len(shares))
        ]
        return pairs[1] if folds is None else pairs

    def _groups(self, groups: Any) -> tuple[np.ndarray, str]:
        """Return a group number per map, and what the groups are called."""
        info = self.info
        names = [groups] if isinstance(groups, str) else list(groups)
        if names and all(isinstance(name, str) and name in info for name in names):
            return info.groupby(names, dropna=False).ngroup().to_numpy(), ", ".join(names)
        if isinstance(groups, str) or len(names) != len(self):
            columns = ", ".join(info.columns)
            raise InputError(
                f"groups= needs columns of info ({columns}), or {len(self)} values, one per map."
            )
        return pd.factorize(pd.Series(names, dtype=object), use_na_sentinel=False)[0], "the given values"

    def to_dataset(self) -> "datasets.Dataset":
        """Return a ``datasets.Dataset``: the columns of :attr:`info`, ``label`` by name, and ``map`` (float32)."""
        import datasets

        columns = {name: pa.array(values, _TYPES[name]) for name, values in self._columns().items()}
        step = 100  # an Arrow list array holds 2**31 cells at most
        parts = [store.list_array(self.maps[start : start + step]) for start in range(0, len(self), step)]
        columns["map"] = pa.chunked_array(parts, pa.list_(pa.list_(pa.float32())))
        return datasets.Dataset(pa.table(columns))

    def _columns(self) -> dict[str, list[Any]]:
        columns: dict[str, list[Any]] = {name: [getattr(row, name) for row in self.rows] for name in METADATA}
        return columns | {"label": [None if label is None else label.value for label in self._labels]}

    @classmethod
    def load(cls, path: str | Path, kind: str | None = None) -> "AnnotatedMaps":
        """Read a folder: one that :meth:`save` wrote, a published one, or one with ``raw/`` and ``norm/`` of these.

        Args:
            path: the folder.
            kind: ``raw`` or ``norm``: only these maps. None: all.

        Raises:
            InputError: no known layout, no maps of this kind, or something in a file is wrong (it is named).
        """
        folder = Path(path)
        if kind is not None and kind not in KINDS:
            raise InputError(f"kind is {kind!r}; choose one of {', '.join(KINDS)}.")
        if not folder.is_dir() or not any(folder.iterdir()):
            raise InputError(f"{folder} is no folder or is empty; give {_KNOWN_LAYOUTS}.")
        rows: list[MapRow] = []
        annotations: Any = []
        if store.map_files(folder):
            rows = [row for row in store.iter_maps(folder) if kind in (None, row.kind)]
            annotations = read_annotations(folder / ANNOTATIONS)
            if kind is not None:
                annotations = annotations[annotations["id"].isin({row.id for row in rows})]
        elif published := find_published(folder):
            for found, subfolder in published:
                if kind in (None, found):
                    more_rows, more_annotations = read_published(subfolder, found)
                    rows += more_rows
                    annotations += more_annotations
        else:
            raise InputError(f"{folder} has no known layout; give {_KNOWN_LAYOUTS}.")
        if kind is not None and not rows:
            raise InputError(f"{folder} holds no {kind} maps; choose the other kind.")
        try:
            return cls(rows, annotations, read_passes(folder))
        except InputError as error:
            raise InputError(f"{folder}: {error}") from error

    def save(self, path: str | Path, overwrite: bool = False) -> None:
        """Write ``maps-*.parquet``, ``annotations.parquet`` and a ``README.md`` for ``datasets.load_dataset``.

        Where there are passes of one labeller, ``annotators.json`` says so.

        The folder is whole or absent. Cells are rounded to float16 (see :mod:`patterns.maps.store`).

        Raises:
            InputError: `path` is not empty and `overwrite` is false.
        """
        with Output(Path(path), EXPORT, overwrite, option="path").making() as temporary:
            store.write_maps(temporary, self.rows)
            table = pa.Table.from_pandas(self._annotations, ANNOTATION_SCHEMA, preserve_index=False)
            pq.write_table(table.replace_schema_metadata(), temporary / ANNOTATIONS, write_page_checksum=True)
            kinds = (row.kind for row in self.rows)
            text = readme(kinds, self._labels, self._annotations["annotator"], self._passes)
            write_passes(temporary, self._passes)
            (temporary / "README.md").write_text(text, encoding="utf-8")

    def push_to_hub(self, repo: str, private: bool | None = None) -> str:
        """Put what :meth:`save` writes into a data set repository of the Hub, from which ``load_dataset`` reads it.

        Args:
            repo: ORG/NAME; made if it is not there.
            private: whether a new one is; None: as the organisation has it.

        Returns:
            The address of the commit.

        Raises:
            InputError: nobody is logged in to the Hub, or it does not take it.
        """
        check_repository(repo, "push_to_hub")
        with tempfile.TemporaryDirectory() as folder:
            self.save(Path(folder) / "maps")
            return publish(Path(folder) / "maps", repo, "dataset", "push_to_hub", private)


_KNOWN_LAYOUTS = (
    "a folder with maps-*.parquet, or as published with "
    + " or ".join(
        f"{layout.label_file} and {layout.map_folder}/ ({kind})" for kind, layout in LAYOUTS.items()
    )
    + ", or one with such subfolders raw/ and norm/"
)


def _united(one: MapRow, other: MapRow) -> MapRow:
    """Return `one` with what only `other` knows; refuse two maps under one id."""
    size = float(one.map.max())
    # float16 keeps 11 bits of a cell, and no cell smaller than 2**-24 of a scaled map.
    if one.map.shape != other.map.shape or not np.allclose(one.map, other.map, 2.0**-10, size * 2.0**-14):
        raise InputError(f"map {one.id} is one map here and another there; rename one of the two.")
    fields = {}
    for name in METADATA:
        here, there = getattr(one, name), getattr(other, name)
        if here != there and UNKNOWN[name] not in (here, there):
            raise InputError(f"map {one.id} has {name} {here} here and {there} there; correct one of them.")
        fields[name] = there if here == UNKNOWN[name] else here
    return replace(one, **fields)


def _parts(groups: np.ndarray, labels: np.ndarray, shares: Sequence[float], seed: int) -> np.ndarray:
    """Return the part of every map, [N]: group by group, each to the part that lacks its labels most.

    A rare label weighs as much as a frequent one (-1: no label), and weighty groups go first, so that small ones
    even things out (after Sechidis et al. 2011); the seed shakes that order.
    scikit-learn's StratifiedGroupKFold, which cross-validation uses, makes parts of one size only, and its
    GroupShuffleSplit knows no labels.
    """
    counts = np.zeros((groups.max() + 1, len(PATTERNS) + 1))  # [G, C + 1]; the last column is the size
    np.add.at(counts, (groups, labels), 1)
    counts[:, -1] = np.bincount(groups)
    counts /= np.maximum(counts.sum(0), 1)
    missing = np.outer(shares, np.ones(counts.shape[1]))  # [K, C + 1]
    weights = counts.sum(1) * np.random.default_rng(seed).uniform(0.5, 1.5, len(counts))
    part_of = np.full(len(counts), -1)
    for left, group in zip(range(len(counts), 0, -1), np.argsort(-weights), strict=True):
        empty = [part for part in range(len(shares)) if part not in part_of]
        choice = empty if len(empty) == left else range(len(shares))
        part_of[group] = max(choice, key=(missing @ counts[group]).__getitem__)
        missing[part_of[group]] -= counts[group]
    return part_of[groups]


def load_labelled(folders: Sequence[Path]) -> AnnotatedMaps:
    """Read and merge annotated folders and keep what has a label.

    Raises:
        InputError: no folder, a folder that is not one, or nothing labelled.
    """
    if not folders:
        raise InputError("--annotations: give at least one folder of annotated maps.")
    first, *rest = (AnnotatedMaps.load(folder) for folder in folders)
    maps = first.merge(*rest).labelled()
    if not len(maps):
        raise InputError(f"{', '.join(str(folder) for folder in folders)}: no map has a label.")
    return maps


def digest(map: np.ndarray) -> str:
    """Return eight hexadecimal digits by which a map is recognised again wherever it lies."""
    return hashlib.sha256(np.ascontiguousarray(map, dtype=np.float16).tobytes()).hexdigest()[:8]


def digests(maps: AnnotatedMaps) -> list[str]:
    """Return the :func:`digest` of each map."""
    return [digest(values) for values in maps.maps]


def groups_of(maps: AnnotatedMaps) -> tuple[np.ndarray, np.ndarray]:
    """Return the head ``[N]`` that each map comes from and the input ``[N]`` it is of, as names.

    An input that is not known (example -1) is one of its own.
    """
    info = maps.info
    heads = ["/".join(map(str, head)) for head in zip(*(info[column] for column in HEADS), strict=True)]
    inputs = [
        f"{task}/{example}" if example >= 0 else id
        for task, example, id in zip(info["task"], info["example"], info["id"], strict=True)
    ]
    return np.array(heads), np.array(inputs)
