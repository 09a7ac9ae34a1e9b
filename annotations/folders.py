"""A saved folder of annotated maps, added to in place: labels and maps come in, no map is written again."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from models.common.errors import InputError
from models.common.files import atomic_file
from models.common.outputs import locked, staging
from patterns import Pattern
from patterns.maps import store
from patterns.maps.store import MapRow

from .formats import majority
from .labellers import Passes, labelled_by, passes_among, read_passes
from .table import ANNOTATION_SCHEMA, ANNOTATIONS, normalized, read_annotations, votes


@dataclass(frozen=True)
class AddedSummary:
    """What came of labels that were to be added to a folder."""

    added: int = 0
    """Labels that are new in the folder."""
    known: int = 0
    """Labels that the folder had already, or that were given twice."""
    replaced: int = 0
    """How many annotators' labels of a map are another one now."""
    left: dict[str, int] = field(default_factory=dict)
    """Why labels were left, and how many."""


_PATIENCE = 60.0  # seconds to wait for another run that adds to the same folder
UNKNOWN_MAP = "for a map that the folder does not hold"
SAME_TIME = "another label of the same annotator at the same time"


def add_annotations(folder: str | Path, annotations: pd.DataFrame) -> AddedSummary:
    """Add labels to the ``annotations.parquet`` of a folder and bring its ``README.md`` up to date.

    The same label of the same annotator at the same time counts once; all that an annotator ever said stays in the
    table, and the latest counts. The file is replaced as a whole or not at all; without anything new it stays.

    Args:
        folder: one that ``AnnotatedMaps.save`` or ``annotate-maps sample`` wrote.
        annotations: columns as :data:`~annotations.table.ANNOTATION_SCHEMA`; time and source may be missing.

    Raises:
        InputError: the folder holds no maps or a damaged file; or a label is no pattern, or a time is none.
    """
    folder = Path(folder)
    kinds = read_kinds(folder)
    lock = locked(folder, wait=_PATIENCE)
    try:
        return _add_annotations(folder, kinds, annotations)
    finally:
        lock.release()


def _add_annotations(folder: Path, kinds: dict[str, str], annotations: pd.DataFrame) -> AddedSummary:
    there = normalized(read_annotations(folder / ANNOTATIONS), kinds)
    inside = annotations["id"].isin(list(kinds))
    left = Counter({UNKNOWN_MAP: int((~inside).sum())})
    new = normalized(annotations[inside], kinds)
    key, vote = ["id", "annotator", "label", "time"], ["id", "annotator", "time"]
    new = new[~new.set_index(key).index.isin(there.set_index(key).index)]
    known = int(inside.sum()) - len(new)
    both = pd.concat([frame for frame in (there, new) if len(frame)] or [new], ignore_index=True)
    twice = both.duplicated(vote, keep=False).to_numpy()[len(both) - len(new) :]
    left[SAME_TIME] = int(twice.sum())
    new = new[~twice]
    if len(new):
        both = pd.concat([there, new], ignore_index=True) if len(there) else new
        _write_annotations(folder, kinds, both)
    before, after = votes(there), votes(pd.concat([there, new], ignore_index=True) if len(there) else new)
    replaced = sum(
        after[id][annotator] != label for id, one in before.items() for annotator, label in one.items()
    )
    return AddedSummary(len(new), known, replaced, {why: n for why, n in left.items() if n})


def withdraw_annotations(folder: str | Path, annotations: pd.DataFrame) -> int:
    """Take labels out of the ``annotations.parquet`` of a folder, bring its ``README.md`` up to date, and count them.

    Args:
        folder: as in :func:`add_annotations`.
        annotations: those to go, by id, annotator, label and time; what the folder does not hold is no matter.
    """
    folder = Path(folder)
    kinds, key = read_kinds(folder), ["id", "annotator", "label", "time"]
    lock = locked(folder, wait=_PATIENCE)
    try:
        there = normalized(read_annotations(folder / ANNOTATIONS), kinds)
        gone = there.set_index(key).index.isin(annotations.set_index(key).index)
        if gone.any():
            _write_annotations(folder, kinds, there[~gone])
        return int(gone.sum())
    finally:
        lock.release()


def _write_annotations(folder: Path, kinds: dict[str, str], annotations: pd.DataFrame) -> None:
    with atomic_file(folder / ANNOTATIONS) as temporary:
        table = pa.Table.from_pandas(annotations, ANNOTATION_SCHEMA, preserve_index=False)
        pq.write_table(table.replace_schema_metadata(), temporary, write_page_checksum=True)
    _write_readme(folder, kinds, annotations)


def add_maps(folder: str | Path, rows: Sequence[MapRow]) -> None:
    """Write further maps, whose ids are new, beside those that the folder holds.

    Raises:
        InputError: the folder holds no maps yet, or has an id already.
    """
    folder = Path(folder)
    read_kinds(folder)
    if not rows:
        return
    lock = locked(folder, wait=_PATIENCE)
    try:
        _add_maps(folder, rows)
    finally:
        lock.release()


def _add_maps(folder: Path, rows: Sequence[MapRow]) -> None:
    kinds = read_kinds(folder)
    for row in rows:
        if row.id in kinds:
            raise InputError(f"{folder} holds a map {row.id} already; give the new one another id.")
    numbers = [
        int(match[1]) for path in store.map_files(folder) if (match := re.search(r"(\d+)$", path.stem))
    ]
    first = max(numbers, default=-1) + 1
    # Written elsewhere first: a run that is cut off leaves no half of them here.
    with staging(folder) as temporary:
        store.write_maps(temporary, rows)
        for offset, path in enumerate(store.map_files(temporary)):
            path.replace(folder / f"maps-{first + offset:05d}.parquet")
    _write_readme(folder, read_kinds(folder), read_annotations(folder / ANNOTATIONS))


def read_kinds(folder: Path) -> dict[str, str]:
    """Return the kind of every map of a folder by its id, without reading a map.

    Raises:
        InputError: there are no maps, or a file is damaged.
    """
    files = store.map_files(folder)
    if not files:
        raise InputError(f"{folder} holds no maps-*.parquet; give a folder that headscope saved.")
    kinds: dict[str, str] = {}
    for path in files:
        for batch in store.read_parquet(path, ["id", "kind"]):
            kinds |= zip(batch["id"].to_pylist(), batch["kind"].to_pylist(), strict=True)
    return kinds


def readme(
    kinds: Iterable[str], labels: Iterable[Pattern | None], annotators: Iterable[str], passes: Passes
) -> str:
    """Return the ``README.md`` of a folder, by which ``datasets.load_dataset`` finds its tables.

    Args:
        kinds: the kind of each map.
        labels: the label of each map.
        annotators: who made each annotation; without any, the table is not named: ``load_dataset`` fails on one
            without rows.
        passes: which annotators are passes of one labeller.
    """
    counts = Counter((kind, label or "(none)") for kind, label in zip(kinds, labels, strict=True))
    table = "\n".join(f"| {kind} | {label} | {counts[kind, label]} |" for kind, label in sorted(counts))
    who = sorted(set(annotators))
    votes = "- config_name: annotations\n  data_files: annotations.parquet\n" if who else ""
    by = f", by {labelled_by(who, passes_among(who, passes))}" if who else ""
    labelled = sum(number for (_, label), number in counts.items() if label != "(none)")
    return f"""---
configs:
- config_name: maps
  default: true
  data_files: maps-*.parquet
{votes}---
# Annotated attention maps

{counts.total()} maps, {labelled} of them with a label{by}.

| kind | label of the majority | maps |
|---|---|---|
{table}

`maps`: one row per map. Its cells are `map` (float16) times `scale`; row = query token, column = key token.
Layers, heads and examples count from 0; -1 and empty mean unknown. `segment_borders`: positions of separators.
`annotations`: one row per annotator and map.
"""


def _write_readme(folder: Path, kinds: dict[str, str], annotations: pd.DataFrame) -> None:
    said = votes(annotations)
    labels = [majority(said.get(id, {}).values()) for id in kinds]
    with atomic_file(folder / "README.md") as temporary:
        text = readme(kinds.values(), labels, annotations["annotator"], read_passes(folder))
        temporary.write_text(text, encoding="utf-8")
