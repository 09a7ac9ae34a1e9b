"""The layouts in which annotated maps have been published, read and written.

raw: ``labels.txt`` (lines ``label = id, id, ...``) and ``for_training/<id>.npy``.
norm: ``attention_norm_annotated.tsv`` (lines ``name<TAB>label``) and ``data/<name>.npy``.
Either may have an ``index.csv`` beside it: column ``map`` (the id) and, as far as known, ``batch``, ``model``,
``task``, ``example``, ``layer``, ``head``, ``n_tokens``, ``sep`` (a list of positions), ``label`` (the majority)
and one column per annotator, named by one capital letter.
"""

import csv
import json
import operator
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, NamedTuple

import numpy as np

from models.common.errors import InputError
from models.common.outputs import Output
from models.common.reading import read_array, read_text, reading, regular_file
from patterns import Pattern
from patterns.maps.labels import majority as majority
from patterns.maps.store import UNKNOWN, MapRow, check_map
from patterns.taxonomy import RECORDS

EXPORT = "annotate-maps export"
"""Who writes folders of annotated maps, as their marker says."""


@dataclass(frozen=True)
class Layout:
    """Where one kind of maps lies, and what the labels are called there."""

    label_file: str
    map_folder: str
    subfolders: tuple[str, ...]
    names: Mapping[Pattern, str]


LAYOUTS: dict[str, Layout] = {
    "raw": Layout(
        "labels.txt",
        "for_training",
        ("raw",),
        {pattern: one.published_raw for pattern, one in RECORDS.items()},
    ),
    "norm": Layout(
        "attention_norm_annotated.tsv",
        "data",
        ("norm", "normed"),
        {pattern: one.published_norm for pattern, one in RECORDS.items()},
    ),
}
"""The published layout of each kind of map."""

PUBLISHED = "published"
"""The annotator of a label whose annotators are not known."""

_LARGEST = 2**63 - 1  # of a number in a table
# Keys have no spaces, "_", "-" or "+", and are lower case: see parse_label.
_PATTERNS: dict[str, Pattern] = {
    **{pattern.replace("_", ""): pattern for pattern in Pattern},
    "mix": Pattern.VERTICAL_DIAGONAL,
    "other": Pattern.HETEROGENEOUS,
    "singlevertical": Pattern.VERTICAL,
    "doublevertical": Pattern.VERTICAL,
    "multiplevertical": Pattern.VERTICAL,
}


class Annotation(NamedTuple):
    """One annotator's label of one map."""

    id: str
    annotator: str
    label: Pattern
    time: datetime | None
    source: str


class _Indexed(NamedTuple):
    """A map in an index.csv; `claims` is what the index says the label is, and in which words."""

    line: int
    metadata: dict[str, Any]
    votes: dict[str, Pattern]
    claims: dict[str, Pattern | None]
    source: str


def parse_label(text: str, where: str) -> Pattern:
    """Return the pattern that `text` names, by our name or a published one; case and spaces do not matter.

    Raises:
        InputError: it names none; the message begins with `where` and lists the five.
    """
    try:
        return _PATTERNS[re.sub(r"[\s_+-]+", "", text.casefold())]
    except KeyError:
        raise InputError(f"{where}: {text!r} is no pattern; the five are {', '.join(Pattern)}.") from None


def find_published(folder: Path) -> list[tuple[str, Path]]:
    """Return (kind, folder) of every published layout in `folder` itself or, if none, in its raw/ and norm/."""
    here = [(kind, folder) for kind, layout in LAYOUTS.items() if (folder / layout.label_file).is_file()]
    below = [
        (kind, folder / name)
        for kind, layout in LAYOUTS.items()
        for name in layout.subfolders
        if (folder / name / layout.label_file).is_file()
    ]
    return here or below


def read_published(folder: Path, kind: str) -> tuple[list[MapRow], list[Annotation]]:
    """Read one published folder: all its maps, labelled or not, and its annotations.

    Annotators come from ``index.csv`` if it is there and has any; else a label counts as one annotation by
    :data:`PUBLISHED`. Metadata that no index gives is unknown ("" or -1).

    Raises:
        InputError: something in the folder is not as published; the message names the file and the line.
    """
    layout = LAYOUTS[kind]
    label_file, index_file = folder / layout.label_file, folder / "index.csv"
    index = _read_index(index_file, kind) if index_file.is_file() else {}
    listed = _read_labels(label_file, kind)
    if not listed and not index:
        raise InputError(f"{label_file} holds no labels; its lines are {_example(kind)}.")
    if not (folder / layout.map_folder).is_dir():
        raise InputError(
            f"{folder} has no folder {layout.map_folder}; the maps of {label_file} belong there."
        )
    files = {path.stem: path for path in sorted((folder / layout.map_folder).glob("[!.]*.npy"))}
    where = {id: f"{index_file}, line {entry.line}" for id, entry in index.items()}
    where |= {id: f"{label_file}, line {line}" for id, (_, line) in listed.items()}
    for id in where:
        if id not in files:
            raise InputError(f"{where[id]}: map {id} has no file {layout.map_folder}/{id}.npy.")
    rows, annotations = [], []
    for id in dict.fromkeys([*index, *files]):
        known, (label, _) = index.get(id), listed.get(id, (None, 0))
        values = read_npy(files[id])
        task = re.match(r"(.+)_seed_\d+_\d+$", id) if kind == "norm" else None
        fields = UNKNOWN | {"id": id, "kind": kind, "n_tokens": len(values), "task": task[1] if task else ""}
        votes, source = {PUBLISHED: label} if label else {}, layout.label_file
        if known:
            here = f"{index_file}, line {known.line}"
            for name, claim in known.claims.items():
                if claim != label:
                    raise InputError(
                        f"{here}: map {id} has the {name} {claim or 'none'}, but {label_file} says "
                        f"{label or 'none'}; correct one of the two."
                    )
            fields, votes, source = fields | known.metadata, known.votes or votes, known.source
        try:
            rows.append(MapRow(**fields, map=values))
        except InputError as error:
            raise InputError(f"{here if known else files[id]}: {error}") from error
        annotations += [Annotation(id, annotator, vote, None, source) for annotator, vote in votes.items()]
    return rows, annotations


def read_npy(path: Path) -> np.ndarray:
    """Read one map, float32 ``[n, n]``; nothing is ever unpickled.

    Raises:
        InputError: not a whole .npy file of numbers, or not a map; it names the file.
    """
    return check_map(read_array(path, "a whole .npy file of numbers"), str(path))


def write_published(
    folder: str | Path, rows: Iterable[MapRow], labels: Mapping[str, Pattern | None], overwrite: bool = False
) -> None:
    """Write maps (float32) and one label per id as published, in ``raw/`` and ``norm/``; metadata is left out.

    A raw id without "_" is padded with zeros to 4 characters, as the layout wants it.

    Raises:
        InputError: `folder` is not empty, an id does not fit the layout, or a kind has no label at all.
    """
    listed: dict[str, dict[str, Pattern | None]] = {}
    with Output(Path(folder), EXPORT, overwrite, option="folder").making() as temporary:
        for row in rows:
            layout, ids = LAYOUTS[row.kind], listed.setdefault(row.kind, {})
            id = _map_id(row.id, row.kind, f"map {row.id!r}")
            if re.search(r"[=,\s]", id) or id.startswith(".") or id in ids:
                raise InputError(
                    f"map {row.id!r} cannot be published under that id; "
                    "give it one of its own without spaces, commas, '=' and a leading dot."
                )
            ids[id] = labels.get(row.id)
            maps = temporary / row.kind / layout.map_folder
            maps.mkdir(parents=True, exist_ok=True)
            np.save(maps / f"{id}.npy", row.map)
        for kind, ids in listed.items():
            layout = LAYOUTS[kind]
            pairs = [(layout.names[label], id) for id, label in ids.items() if label is not None]
            if not pairs:
                raise InputError(f"none of the {kind} maps has a label; publish the labelled ones.")
            lines = [f"{id}\t{name}" for name, id in pairs]
            if kind == "raw":
                names = dict.fromkeys(name for name, _ in pairs)
                lines = [f"{name} = {', '.join(id for one, id in pairs if one == name)}" for name in names]
            (temporary / kind / layout.label_file).write_text("\n".join([*lines, ""]), encoding="utf-8")


def _read_labels(path: Path, kind: str) -> dict[str, tuple[Pattern, int]]:
    """Return id -> (label, line)."""
    text = read_text(path, "UTF-8 text")
    listed: dict[str, tuple[Pattern, int]] = {}
    for number, line in enumerate(text.split("\n"), 1):
        fields = [field.strip() for field in line.split("=" if kind == "raw" else "\t")]
        if not line.strip() or (number, fields) == (1, ["image_name", "label"]):
            continue
        where = f"{path}, line {number}"
        if len(fields) != 2:
            what = "'='" if kind == "raw" else "tabs"
            raise InputError(
                f"{where} has {len(fields) - 1} {what} instead of one; a line is {_example(kind)}."
            )
        label = parse_label(fields[kind == "norm"], where)
        ids = filter(None, map(str.strip, fields[1].split(","))) if kind == "raw" else fields[:1]
        for id in (_map_id(text, kind, where) for text in ids):
            first, first_line = listed.setdefault(id, (label, number))
            if first != label:
                raise InputError(
                    f"{path}: map {id} is {first} on line {first_line} and {label} on line {number}; keep one."
                )
    return listed


def _example(kind: str) -> str:
    return "'block = 12, 40'" if kind == "raw" else "'mnli_seed_0_12<TAB>Block'"


def _map_id(text: str, kind: str, where: str) -> str:
    """Return the id, padded if it is raw; refuse what is not a plain file name."""
    plain = {text} == {PurePosixPath(text).name, PureWindowsPath(text).name}
    if not (text and plain) or text == ".." or not text.isprintable():
        raise InputError(f"{where}: {text!r} is no map id; an id is a plain file name without its .npy.")
    return text.rjust(4, "0") if kind == "raw" and "_" not in text else text


def _read_index(path: Path, kind: str) -> dict[str, _Indexed]:
    index: dict[str, _Indexed] = {}
    regular_file(path, "a table of maps")
    with reading(path, "CSV in UTF-8"), path.open(encoding="utf-8-sig", newline="") as handle:
        reader = csv.DictReader(handle, strict=True)
        names = list(reader.fieldnames or ())
        if "map" not in names:
            raise InputError(f"{path} has no column map; it holds the ids of the maps.")
        if twice := [name for name in names if name and names.count(name) > 1]:
            raise InputError(f"{path} has more than one column {twice[0]!r}; keep one.")
        for cells in reader:
            where = f"{path}, line {reader.line_num}"
            id = _map_id((cells["map"] or "").strip(), kind, where)
            if id in index:
                raise InputError(f"{where}: map {id} is already on line {index[id].line}; keep one.")
            index[id] = _indexed(cells, where, reader.line_num)
    return index


def _indexed(cells: Mapping[str, Any], where: str, line: int) -> _Indexed:
    given = {name: text.strip() for name, text in cells.items() if isinstance(text, str) and text.strip()}
    metadata: dict[str, Any] = {name: given[name] for name in ("model", "task") if name in given}
    metadata["base_model"] = given.get("model", "").partition("/")[0]
    numbers = [name for name in ("example", "layer", "head", "n_tokens") if name in given]
    try:
        metadata |= {name: int(given[name]) for name in numbers}
        metadata["segment_borders"] = tuple(map(operator.index, json.loads(given.get("sep", "[]"))))
    except (ValueError, TypeError, RecursionError) as error:
        raise InputError(f"{where} has a number that is not whole, or a sep that is no list.") from error
    if any(abs(metadata[name]) > _LARGEST for name in numbers):
        raise InputError(f"{where} has a number beyond {_LARGEST}.")
    votes = {name: parse_label(given[name], where) for name in given if re.fullmatch("[A-Z]", name)}
    claims: dict[str, Pattern | None] = {}
    if "label" in cells:
        claims["label"] = parse_label(given["label"], where) if "label" in given else None
    if votes:
        claims["majority of annotators"] = majority(votes.values())
    source = "index.csv" + (f", batch {given['batch']}" if "batch" in given else "")
    return _Indexed(line, metadata, votes, claims, source)
