"""The nine GLUE tasks (Wang et al. 2019): their columns and labels, and rows from wherever they lie."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import InputError

Row = Mapping[str, Any]
"""One example in the Hub's column names, or as read from a file after renaming."""

HUB_DATASET = "nyu-mll/glue"


@dataclass(frozen=True)
class Task:
    """One GLUE task."""

    name: str
    columns: tuple[str, ...]
    """The one or two text columns, in the order in which the model reads them."""
    labels: tuple[str, ...] = ()
    """Label names in label order; empty for a regression task."""


TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        Task("cola", ("sentence",), ("unacceptable", "acceptable")),
        Task("sst2", ("sentence",), ("negative", "positive")),
        Task("mrpc", ("sentence1", "sentence2"), ("not_equivalent", "equivalent")),
        Task("stsb", ("sentence1", "sentence2")),
        Task("qqp", ("question1", "question2"), ("not_duplicate", "duplicate")),
        Task("mnli", ("premise", "hypothesis"), ("entailment", "neutral", "contradiction")),
        Task("qnli", ("question", "sentence"), ("entailment", "not_entailment")),
        Task("rte", ("sentence1", "sentence2"), ("entailment", "not_entailment")),
        Task("wnli", ("sentence1", "sentence2"), ("not_entailment", "entailment")),
    )
}

# What the files that the GLUE authors distribute call the Hub's columns.
_TSV_COLUMNS: dict[str, dict[str, str]] = {
    "mrpc": {"#1 String": "sentence1", "#2 String": "sentence2", "Quality": "label"},
    "mnli": {"sentence1": "premise", "sentence2": "hypothesis", "gold_label": "label"},
    "qqp": {"is_duplicate": "label"},
    "stsb": {"score": "label"},
}
_COLA_TSV = ["source", "label", "star", "sentence"]  # the only file of the nine without a header line
_SPLITS = {
    "validation": ("validation", "validation_matched", "dev", "dev_matched"),
    "validation_matched": ("validation_matched", "validation", "dev_matched", "dev"),
    "validation_mismatched": ("validation_mismatched", "dev_mismatched"),
}
_ENDINGS = (".jsonl", ".parquet", ".csv", ".tsv")


def task_named(name: str) -> Task:
    """Return a task by any common spelling: ``SST-2``, ``sst2``, ``STS-B``, ``MNLI-m``.

    Raises:
        InputError: it is none of the nine.
    """
    key = re.sub(r"[^a-z0-9]", "", name.lower())
    key = {"mnlim": "mnli", "mnlimatched": "mnli", "sst": "sst2", "sts": "stsb"}.get(key, key)
    if key not in TASKS:
        raise InputError(f"Unknown task {name!r}; the nine GLUE tasks are {', '.join(TASKS)}.")
    return TASKS[key]


@dataclass(frozen=True)
class Rows:
    """The rows of one split and where they come from."""

    rows: list[Row]
    source: str
    """The file, or ``dataset/config/split`` of the Hub."""
    unread: tuple[str, ...] = ()
    """Data files that lay beside it and were not read."""
    revision: str | None = None
    """Of a Hub data set: its fingerprint."""
    sha256: str | None = None
    """Of a file: its digest."""


def load_rows(task: Task, data: str | Path | None = None, split: str = "validation") -> Rows:
    """Read one split of a task.

    Args:
        task: which task; decides the columns that a row must have.
        data: a folder that holds ``<task>/<split>.*`` or ``<split>.*`` (jsonl, parquet, csv, GLUE's tsv), or
            the id of a Hub data set; the Hub's ``nyu-mll/glue`` if None.
        split: ``validation`` also finds ``validation_matched`` and ``dev``.

    Raises:
        InputError: nothing to read, more than one file that fits, or a row without the task's columns.
    """
    if data is not None and Path(data).is_dir():
        return _from_folder(task, Path(data), split)
    if data is not None and (Path(data).exists() or not re.fullmatch(r"[\w.-]+/[\w.-]+", str(data))):
        raise InputError(
            f"--data {data} is not a folder; give one that holds {task.name}/{split}.jsonl "
            "(or .parquet, .csv, .tsv), or the id of a Hub data set."
        )
    return _from_hub(task, str(data or HUB_DATASET), split)


def texts_of(row: Row, task: Task) -> tuple[str, str | None]:
    """Return the one or two texts of a row, in the order in which the model reads them."""
    return row[task.columns[0]], row[task.columns[1]] if len(task.columns) == 2 else None


def select_rows(rows: Sequence[Row], task: Task, examples: int, seed: int) -> list[Row]:
    """Draw `examples` rows at random; the draw depends on the texts and the seed, not on the rows' order.

    Each row's place in the draw is a hash of its texts. All rows if there are fewer.
    """

    def place(row: Row) -> bytes:
        return hashlib.sha256(
            "\x1f".join([str(seed), *(str(row[c]) for c in task.columns)]).encode()
        ).digest()

    return sorted(rows, key=place)[:examples]


def check_rows(rows: Sequence[Row], task: Task, source: str) -> None:
    """Refuse rows that lack one of the task's text columns, or hold something else than text there.

    Raises:
        InputError: naming the source, the row (counted from 1) and the columns wanted.
    """
    for number, row in enumerate(rows, start=1):
        for column in task.columns:
            if not isinstance(row.get(column), str):
                wanted = " and ".join(repr(c) for c in task.columns)
                found = ", ".join(repr(c) for c in row) or "nothing"
                problem = "no text in" if column in row else "no"
                raise InputError(
                    f"{source}, row {number} has {problem} column {column!r}: {task.name} needs the text "
                    f"column{'s' if len(task.columns) > 1 else ''} {wanted}, found {found}."
                )


def _from_folder(task: Task, folder: Path, split: str) -> Rows:
    homes = [home for home in (folder / task.name, folder) if home.is_dir()]
    seen: list[Path] = []
    for home in homes:
        files = sorted(path for path in home.iterdir() if path.suffix in _ENDINGS and path.is_file())
        seen += files
        for stem in _SPLITS.get(split, (split,)):
            matches = [path for path in files if path.stem == stem]
            if len(matches) > 1:
                raise InputError(
                    f"{home} holds {' and '.join(path.name for path in matches)}; keep one file per split."
                )
            if matches:
                path = matches[0]
                rows = _read(path, task)
                if not rows:
                    raise InputError(f"{path} holds no rows.")
                check_rows(rows, task, str(path))
                unread = tuple(str(other) for other in files if other != path)
                with path.open("rb") as file:
                    digest = hashlib.file_digest(file, "sha256").hexdigest()
                return Rows(rows, str(path), unread, sha256=digest)
    there = f"found only {', '.join(str(path) for path in seen)}" if seen else "it holds no data files"
    raise InputError(
        f"--data {folder} has no {task.name}/{split}.* and no {split}.* ({', '.join(_ENDINGS)}): {there}."
    )


def _read(path: Path, task: Task) -> list[Row]:
    try:
        if path.suffix == ".jsonl":
            rows = _read_jsonl(path)
        elif path.suffix == ".parquet":
            import pyarrow.parquet

            rows = pyarrow.parquet.read_table(path).to_pylist()
        else:
            rows = _read_table(path, task)
    except (OSError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path} cannot be read: {error}.") from error
    names = _TSV_COLUMNS.get(task.name, {}) if path.suffix == ".tsv" else {}
    return [{names.get(column, column): value for column, value in row.items()} for row in rows]


def _read_jsonl(path: Path) -> list[dict[str, Any]]:
    rows = []
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError as error:
                raise InputError(f"{path}, line {number} is not JSON: {error}.") from error
            if not isinstance(row, dict):
                raise InputError(f"{path}, line {number} is not a JSON object of columns.")
            rows.append(row)
    return rows


def _read_table(path: Path, task: Task) -> list[dict[str, Any]]:
    import csv

    import pandas as pd

    options: dict[str, Any] = {"dtype": str, "keep_default_na": False}
    if path.suffix == ".tsv":
        # GLUE's files do not quote: a field may hold one quotation mark.
        options |= {"sep": "\t", "quoting": csv.QUOTE_NONE}
        if task.name == "cola":
            with path.open(encoding="utf-8") as file:
                if "sentence" not in file.readline().rstrip("\n").split("\t"):
                    options |= {"header": None, "names": _COLA_TSV}
    return pd.read_csv(path, **options).to_dict("records")


def _from_hub(task: Task, dataset: str, split: str) -> Rows:
    import datasets

    if split == "validation" and task.name == "mnli" and dataset == HUB_DATASET:
        split = "validation_matched"
    try:
        configs = datasets.get_dataset_config_names(dataset)
        table = datasets.load_dataset(dataset, task.name if task.name in configs else None, split=split)
    except (OSError, ValueError, RuntimeError) as error:
        if isinstance(error, datasets.exceptions.DataFilesNotFoundError) or "nknown split" in str(error):
            raise InputError(f"The Hub data set {dataset} has no split {split!r}: {error}") from error
        raise InputError(
            f"The Hub data set {dataset} cannot be reached ({type(error).__name__}); give --data DIR with "
            f"DIR/{task.name}/{split}.jsonl (or .parquet, .csv, .tsv) to use rows on this machine."
        ) from error
    rows: list[Row] = [dict(row) for row in table]
    source = f"{dataset}/{task.name}/{split}"
    check_rows(rows, task, source)
    return Rows(rows, source, revision=getattr(table, "_fingerprint", None))
