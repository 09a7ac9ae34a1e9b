"""Labels beside stored maps: who called which map what, and what most of them say."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import pandas as pd
import pyarrow as pa

from models.common.reading import reading

from ..taxonomy import Pattern
from . import store

ANNOTATION_SCHEMA = pa.schema(
    [(name, pa.string()) for name in ("id", "annotator", "label")]
    + [("time", pa.timestamp("us", tz="UTC")), ("source", pa.string())]
)
"""One row per annotator and map: when it was labelled (empty if unknown), and the file or tool it came from."""

ANNOTATIONS, SAMPLE = "annotations.parquet", "sample.json"
"""Beside the maps: who labelled which map as what; and how ``annotate-maps sample`` chose them."""


def read_annotations(path: Path) -> pd.DataFrame:
    """Read ``annotations.parquet``; a missing file is an empty table.

    Raises:
        InputError: the file is corrupt or lacks columns.
    """
    if not path.exists():
        return pd.DataFrame(columns=ANNOTATION_SCHEMA.names)
    batches = list(store.read_parquet(path, ANNOTATION_SCHEMA.names))
    with reading(path, "annotations", "save the folder again"):
        table = pa.Table.from_batches(batches, None if batches else ANNOTATION_SCHEMA)
        frame: pd.DataFrame = table.to_pandas(ignore_metadata=True)
        return frame


def votes(annotations: pd.DataFrame) -> dict[str, dict[str, Pattern]]:
    """Return the label of each annotator by map: the latest, where one gave several."""
    latest: dict[str, dict[str, Pattern]] = {}
    in_time = annotations.sort_values("time", na_position="first", kind="stable")
    for id, annotator, label in zip(*(in_time[name] for name in ("id", "annotator", "label")), strict=True):
        latest.setdefault(id, {})[annotator] = Pattern(label)
    return latest


def majority(labels: Iterable[Pattern]) -> Pattern | None:
    """Return the most frequent label; None for a tie or no labels."""
    ranked = Counter(labels).most_common(2)
    if not ranked or (len(ranked) == 2 and ranked[0][1] == ranked[1][1]):
        return None
    return ranked[0][0]
