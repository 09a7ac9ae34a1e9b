"""Annotated maps written as Label Studio exports them: JSON, JSON_MIN, CSV and TSV; :mod:`.exports` reads them."""

import csv
import json
from collections.abc import Iterator
from datetime import UTC
from pathlib import Path
from typing import Any

import pandas as pd

from models.common.files import atomic_file
from patterns import Pattern

from ..dataset import AnnotatedMaps
from .matching import CONTROL
from .reading import LABELLER, OURS, escaped
from .tasks import CHOICES, picture, result, task_data

_COLUMNS = ("id", "annotation_id", "annotator", CONTROL, "updated_at", "source")


def write_json(path: Path, maps: AnnotatedMaps, tokens: dict[str, list[str]], pictures: bool = True) -> None:
    """Write one task per map with its annotations, as Label Studio can import it.

    An annotator who is an e-mail address stays one there (the server must know it); all are named in ``annotator``.

    Args:
        path: the file.
        maps: what to write.
        tokens: of each map by id, for the pictures' axes.
        pictures: whether each task holds its picture.
    """
    with atomic_file(path) as temporary, temporary.open("w", encoding="utf-8") as handle:
        handle.write("[")
        labellers = _labellers(maps)
        for number, (row, votes) in enumerate(_by_map(maps), 1):
            data = task_data(row)
            if pictures:
                data = {"image": picture(row, tokens.get(row.id))} | data
            annotations = []
            for key, vote in votes:
                one: dict[str, Any] = {"id": key, "annotator": vote["annotator"], "source": vote["source"]}
                if vote["annotator"] in labellers:
                    one[LABELLER] = labellers[vote["annotator"]]
                if "@" in vote["annotator"]:
                    one["completed_by"] = {"email": vote["annotator"]}
                label = CHOICES[Pattern(vote["label"])]
                one |= {"result": result(label), "was_cancelled": False, "ground_truth": False}
                annotations.append(one | ({"updated_at": vote["time"]} if vote["time"] else {}))
            task = {"id": number, "data": data, "annotations": annotations, "predictions": []}
            handle.write((",\n" if number > 1 else "\n") + json.dumps(task, ensure_ascii=False))
        handle.write("\n]\n")


def write_json_min(path: Path, maps: AnnotatedMaps) -> None:
    """Write one flat object per annotation, and one per map without any."""
    with atomic_file(path) as temporary, temporary.open("w", encoding="utf-8") as handle:
        handle.write("[")
        for number, row in enumerate(_flat(maps)):
            handle.write((",\n" if number else "\n") + json.dumps(row, ensure_ascii=False))
        handle.write("\n]\n")


def write_table(path: Path, maps: AnnotatedMaps, delimiter: str) -> None:
    """Write a line per annotation, and one per map without any; no cell can act as a formula in a spreadsheet."""
    names = (name for row in maps.rows for name in task_data(row))
    more = (LABELLER,) if maps.passes else ()
    columns = [*dict.fromkeys([*_COLUMNS, *more, *names, OURS])]
    with atomic_file(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as handle:
        writer = csv.writer(handle, delimiter=delimiter)
        writer.writerow(columns)
        for row in _flat(maps):
            cells = (row.get(name) for name in columns)
            writer.writerow(["" if cell is None else escaped(str(cell)) for cell in cells])


def _labellers(maps: AnnotatedMaps) -> dict[str, str]:
    """Return by annotator the labeller whose pass it is, where it is one."""
    return {name: labeller for labeller, names in maps.passes.items() for name in names}


def _flat(maps: AnnotatedMaps) -> Iterator[dict[str, Any]]:
    labellers = _labellers(maps)
    for number, (row, votes) in enumerate(_by_map(maps), 1):
        task = task_data(row) | {"id": number, OURS: 1}
        empty = {"annotation_id": None, "annotator": None, CONTROL: None, "updated_at": None, "source": None}
        if not votes:
            yield task | empty
        for key, vote in votes:
            label = CHOICES[Pattern(vote["label"])]
            yield (
                task
                | {
                    "annotation_id": key,
                    "annotator": vote["annotator"],
                    CONTROL: label,
                    "updated_at": vote["time"],
                    "source": vote["source"],
                }
                | ({LABELLER: labellers.get(vote["annotator"])} if labellers else {})
            )


def _by_map(maps: AnnotatedMaps) -> Iterator[tuple[Any, list[tuple[int, dict[str, Any]]]]]:
    """Yield each map with its annotations, numbered; a time is ISO 8601 in UTC, None if unknown."""
    frame = maps.annotations
    times = [None if pd.isna(t) else t.astimezone(UTC).isoformat() for t in frame["time"]]
    frame["time"] = pd.Series(times, index=frame.index, dtype=object)
    votes: dict[str, list[tuple[int, dict[str, Any]]]] = {}
    for key, vote in enumerate(frame.to_dict("records"), 1):
        votes.setdefault(vote["id"], []).append((key, {str(name): value for name, value in vote.items()}))
    for row in maps.rows:
        yield row, votes.get(row.id, [])
