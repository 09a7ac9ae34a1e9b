"""How far the labelling of a folder of maps has come, and what is predicted for the rest of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TypedDict

import numpy as np
import pandas as pd
import pyarrow as pa

from models.common.errors import InputError
from patterns.distribution import by_pattern
from patterns.maps import store
from patterns.taxonomy import PATTERNS, Pattern

from .formats import majority, parse_label
from .labellers import notes_on, passes_among, read_passes
from .table import (
    ANNOTATIONS,
    PREDICTION_SCHEMA,
    PREDICTIONS,
    check_annotations,
    read_annotations,
    read_table,
)

_MAP_COLUMNS = ("id", "kind")


class OfKind(TypedDict):
    """One kind of maps."""

    maps: int
    labelled: int
    open: int


class OfAnnotator(TypedDict):
    """What one annotator labelled."""

    labelled: int
    open: int
    labels: dict[str, int]
    """By pattern."""
    last: str | None
    """ISO 8601."""


class Predicted(TypedDict):
    """What is predicted of the open maps; None is no number."""

    maps: int
    """Those with a prediction."""
    labels: dict[str, int]
    """By pattern."""
    mean_margin: float | None
    mean_margins: dict[str, float | None]
    """By pattern."""


class Status(TypedDict):
    """How far the labelling of a folder is, ready for JSON."""

    folder: str
    maps: int
    labelled: int
    """By at least one annotator."""
    open: int
    """By none."""
    undecided: int
    """Labelled, but without a majority."""
    by_labels: dict[str, int]
    """Maps by the number of their annotators."""
    kinds: dict[str, OfKind]
    annotators: dict[str, OfAnnotator]
    passes: dict[str, list[str]]
    """By labeller, those of the annotators that are its passes, where it has several."""
    patterns: dict[str, int]
    """Maps by the label of the majority."""
    predicted: Predicted | None
    notes: list[str]
    """Sentences about what is missing."""


def status(folder: str | Path) -> Status:
    """Return what is labelled and what is open in a folder of maps; the maps themselves are not read.

    Args:
        folder: as ``annotate-maps sample`` or :meth:`AnnotatedMaps.save` wrote it.

    Raises:
        InputError: there are no maps, or a file is not what it should be.
    """
    folder = Path(folder)
    maps = _maps(folder)
    try:
        table = check_annotations(read_annotations(folder / ANNOTATIONS), set(maps["id"]))
    except InputError as error:
        raise InputError(f"{folder}: {error}") from error
    table = table.sort_values("time", na_position="first", kind="stable")
    table = table.drop_duplicates(["id", "annotator"], keep="last")
    counts = maps["id"].map(table["id"].value_counts()).fillna(0).astype(int)
    votes = [majority(map(Pattern, labels)) for _, labels in table.groupby("id")["label"]]
    decided = [vote for vote in votes if vote is not None]
    is_open = counts == 0
    notes = []
    if not len(table):
        notes.append("No map has a label yet.")
    passes = passes_among(sorted(set(table["annotator"])), read_passes(folder))
    notes += notes_on(passes)
    predictions = _predictions(folder / PREDICTIONS)
    if predictions is None:
        notes.append(f"The folder has no {PREDICTIONS}, so nothing is predicted of the open maps.")
    return {
        "folder": str(folder),
        "maps": len(maps),
        "labelled": int((~is_open).sum()),
        "open": int(is_open.sum()),
        "undecided": votes.count(None),
        "by_labels": {str(n): int(found) for n, found in counts.value_counts().sort_index().items()},
        "kinds": {
            str(kind): {"maps": len(rows), "labelled": int((~rows).sum()), "open": int(rows.sum())}
            for kind, rows in is_open.groupby(maps["kind"])
        },
        "annotators": {
            str(name): {
                "labelled": len(rows),
                "open": len(maps) - len(rows),
                "labels": by_pattern(rows["label"]),
                "last": None if rows["time"].isna().all() else rows["time"].max().isoformat(),
            }
            for name, rows in table.groupby("annotator")
        },
        "passes": passes,
        "patterns": by_pattern(decided),
        "predicted": _predicted(predictions, set(maps["id"][is_open])),
        "notes": notes,
    }


def _maps(folder: Path) -> pd.DataFrame:
    """Return id and kind of every map."""
    files = store.map_files(folder)
    if not files:
        raise InputError(
            f"{folder} holds no maps-*.parquet; give a folder that `annotate-maps sample` wrote "
            "or AnnotatedMaps.save."
        )
    schema = pa.schema([(name, pa.string()) for name in _MAP_COLUMNS])
    return pd.concat([read_table(path, schema, "maps") for path in files], ignore_index=True)


def _predictions(path: Path) -> pd.DataFrame | None:
    """Return id, label and margin of each prediction, or None if there is no such file.

    Raises:
        InputError: it is corrupt, or a label is no pattern.
    """
    if not path.exists():
        return None
    frame = read_table(path, PREDICTION_SCHEMA, "predictions")
    frame["label"] = [parse_label(str(label), str(path)).value for label in frame["label"]]
    return frame


def _predicted(predictions: pd.DataFrame | None, ids: set[str]) -> Predicted | None:
    if predictions is None:
        return None
    here = predictions[predictions["id"].isin(ids)]
    return {
        "maps": len(here),
        "labels": by_pattern(here["label"]),
        "mean_margin": _mean(here["margin"]),
        "mean_margins": {p.value: _mean(here["margin"][here["label"] == p.value]) for p in PATTERNS},
    }


def _mean(values: Sequence[float] | pd.Series) -> float | None:
    return float(np.mean(values)) if len(values) else None
