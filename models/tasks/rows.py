"""Rows of a task from wherever they lie, and their labels as a model's classes."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

from ..common.errors import InputError, MissingSplitError, is_unicode, one_line
from ..common.files import reason
from ..common.progress import timed
from ..common.reading import file_digest, read_text
from . import row_files
from .task import HUB_DATASET, Task, plain_label, plain_name, task_named

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from transformers import PreTrainedConfig

Row = Mapping[str, Any]
"""One example in the Hub's column names, or as read from a file after renaming."""

_SPLITS = {
    "validation": ("validation", "validation_matched", "dev", "dev_matched"),
    "validation_matched": ("validation_matched", "validation", "dev_matched", "dev"),
    "validation_mismatched": ("validation_mismatched", "dev_mismatched"),
}
_LARGEST_ID = 2**63 - 1
_PACKED = (".bz2", ".xz", ".zst", ".zip", ".tar", ".lz4", ".7z", ".Z")
_LARGEST_TEXT = 2**30  # bytes of a file of texts
_LONGEST = 1_000_000  # characters of a text; of longer ones, tokenizers take gigabytes
_BROKEN_OFF = 100  # GLUE's QQP files have lines that break off: at most one row in so many may be left out


class FileRow(dict[str, Any]):
    """A row that keeps its number in the file, counted from 1, through every draw."""

    __slots__ = ("number",)

    def __init__(self, row: Row, number: int) -> None:
        super().__init__(row)
        self.number = number


def row_number(row: Any, otherwise: int) -> int:
    """Return a row's number in its file, or `otherwise` of a row that comes from none."""
    return int(getattr(row, "number", otherwise))


class RowsRecord(TypedDict):
    """What a result says of where its rows come from."""

    source: str
    revision: str | None
    sha256: str | None


@dataclass(frozen=True)
class Rows:
    """The rows of one split and where they come from."""

    rows: list[Row]
    source: str
    """The file, or ``dataset/config/split`` of the Hub."""
    unread: tuple[str, ...] = ()
    """Data files that lay beside it and were not read, such as other splits."""
    broken: str = ""
    """Which rows of a tsv file break off and are left out."""
    revision: str | None = None
    """Of a Hub data set: its fingerprint."""
    sha256: str | None = None
    """Of a file: its digest."""

    def record(self) -> RowsRecord:
        """Return what a result says of where its rows come from."""
        return {"source": self.source, "revision": self.revision, "sha256": self.sha256}

    def shortage(self, examples: int) -> list[str]:
        """Return a warning if there are fewer rows than the examples asked for, and one if rows are left out."""
        broken = [f"{self.broken} are left out."] if self.broken else []
        if len(self.rows) >= examples:
            return broken
        return [f"{examples} examples were asked for, but {self.source} has {len(self.rows)}.", *broken]

    def numbered(self) -> list[Row]:
        """Return the rows with ``idx`` set: see :func:`row_ids`."""
        ids = row_ids(self.rows)
        return [
            FileRow({**row, "idx": i}, row_number(row, number))
            for number, (row, i) in enumerate(zip(self.rows, ids, strict=True), start=1)
        ]


@timed(lambda rows: f"{len(rows.rows):,} rows read from {rows.source}")
def load_rows(task: str | Task, data: str | Path | None = None, split: str = "validation") -> Rows:
    """Read one split of a task.

    Args:
        task: which task; decides the columns that a row must have.
        data: a folder that holds ``<task>/<split>.*`` or ``<split>.*`` (jsonl, json, parquet, csv, GLUE's tsv, all
            but parquet also with .gz; in one file or in the Hub's shards; or a folder that ``save_to_disk`` wrote; the
            task in any spelling), or the id of a Hub data set; if None, what the task says, of GLUE the Hub's
            ``nyu-mll/glue``.
        split: ``validation`` also finds ``validation_matched`` and ``dev``; a task of one's own says what its data call
            ``train`` and ``validation``.

    Raises:
        InputError: nothing to read, more than one file that fits, or a row without the task's columns.
    """
    task = task_named(task)
    split = task.split(split)
    data = task.source(data)
    if data is None and task.own:
        raise InputError(
            f"{task.name} does not say where its rows lie: give --data, or data in the task's file."
        )
    if data is not None and Path(data).is_dir():
        return _from_folder(task, Path(data), split)
    if data is not None and (Path(data).exists() or not re.fullmatch(r"[\w.-]+/[\w.-]+", str(data))):
        raise InputError(
            f"--data {data} is not a folder; give one that holds {task.name}/{split}.jsonl "
            "(or .parquet, .csv, .tsv), or the id of a Hub data set."
        )
    return _from_hub(task, HUB_DATASET if data is None else str(data), split)


@timed(lambda found: f"{len(found[1].rows):,} texts read from {found[1].source}")
def load_text(path: str | Path) -> tuple[Task, Rows]:
    """Read a file of one text a line, or of two with a tab between them: rows without a task.

    Returns:
        A task that only says what the texts are, called like the file; and the rows. Empty lines are left out.

    Raises:
        InputError: the file is missing, no UTF-8, without a text, or has lines of one text and lines of two.
    """
    path = Path(path)
    lines = read_text(path, "a file with one text a line", most=_LARGEST_TEXT).split("\n")
    texts = [(number, line.rstrip("\r").split("\t")) for number, line in enumerate(lines, 1) if line.strip()]
    if not texts:
        raise InputError(f"{path} holds no text.")
    first, wanted = texts[0][0], len(texts[0][1])
    for number, parts in texts:
        if len(parts) > 2:
            raise InputError(
                f"{path}, line {number} has {len(parts) - 1} tabs; a line is a text, or two with a tab between them."
            )
        if len(parts) != wanted:
            words = ("one text", "two texts")
            raise InputError(
                f"{path}, line {number} has {words[len(parts) - 1]}, but line {first} {words[wanted - 1]}; "
                "give all lines as many."
            )
    task = Task(path.name, ("text", "second_text")[:wanted])
    rows: list[Row] = [
        FileRow(dict(zip(task.columns, parts, strict=True)), number) for number, parts in texts
    ]
    check_rows(rows, task, str(path))
    empty = len(lines) - (lines[-1] == "") - len(texts)
    broken = f"{empty} empty lines of {path}" if empty else ""
    return task, Rows(rows, str(path), broken=broken, sha256=file_digest(path))


def load_mismatched(task: str | Task, data: str | Path | None = None) -> Rows | None:
    """Read MNLI's dev rows of other genres than the training rows', if there are any; None for tasks without.

    Raises:
        InputError: there are some and they cannot be read.
    """
    task = task_named(task)
    if task.mismatched is None:
        return None
    try:
        return load_rows(task, data, task.mismatched)
    except MissingSplitError:
        return None


def texts_of(row: Row, task: str | Task) -> tuple[str, str | None]:
    """Return the one or two texts of a row, in the order in which the model reads them."""
    task = task_named(task)
    return row[task.columns[0]], row[task.columns[1]] if len(task.columns) == 2 else None


def class_ids(task: str | Task, config: PreTrainedConfig) -> tuple[int, ...]:
    """Return, for each of the task's labels in its order, the class id that this model gives it.

    The names in the config decide (:func:`class_names`), in any case and spelling; ``LABEL_0`` or a bare number is
    the place in the task's own order. A regression task has the one output 0.

    Raises:
        InputError: the model's classes are not this task's labels, or it is for another kind of problem.
    """
    task = task_named(task)
    check_problem(task, config)
    names = class_names(config.id2label, getattr(config, "label2id", None))
    places = ("label",) if task.numbered else ("label", "")  # of stars, 3 is no place
    known = {f"{prefix}{i}": i for i in range(len(task.labels)) for prefix in places}
    known |= {plain_label(label): i for i, label in enumerate(task.labels)}
    found = [known.get(plain_label(name), -1) for name in names]
    if not task.labels and len(names) == 1:
        return (0,)
    if not task.labels or sorted(found) != list(range(len(task.labels))):
        wanted = f"{len(task.labels)}: {', '.join(task.labels)}" if task.labels else "one output, a number"
        raise InputError(
            f"The model has {len(names)} classes ({', '.join(names)}), but {task.name} has {wanted}."
        )
    return tuple(found.index(i) for i in range(len(task.labels)))


def check_problem(task: Task, config: PreTrainedConfig) -> None:
    """Refuse a model whose outputs mean something else than one class of several, or one number.

    Raises:
        InputError: naming its ``problem_type``.
    """
    right = "single_label_classification" if task.labels else "regression"
    said = getattr(config, "problem_type", None)
    if said is not None and said != right:
        raise InputError(
            f"The model's config says problem_type {said!r}, but {task.name} needs {right!r}: its outputs mean "
            "something else."
        )


def class_names(id2label: Any, label2id: Any) -> list[str]:
    """Return the names of a model's classes, in the order of their ids; nothing if a config names none.

    A config names them twice, ``{id: name}`` and ``{name: id}``; where the first only numbers them (``LABEL_0``) or
    is missing, the second counts.

    Raises:
        InputError: the two contradict each other, or one is no such table.
    """
    try:
        one = {int(i): str(name) for i, name in (id2label or {}).items()}
        other = {str(name): int(i) for name, i in (label2id or {}).items()}
    except (AttributeError, TypeError, ValueError) as error:
        raise InputError(
            f"id2label and label2id in the model's config must be tables of ids and names, not {id2label!r} and "
            f"{label2id!r}."
        ) from error
    told = {plain_label(name): i for name, i in other.items()}
    ids = {name: i for name, i in told.items() if not _is_number(name)}
    for i, name in one.items():
        if told.get(plain_label(name), i) != i:
            raise InputError(
                f"The model's config contradicts itself: class {i} is {name!r} in id2label "
                f"({', '.join(one[i] for i in sorted(one))}), but {name!r} is class {told[plain_label(name)]} in "
                f"label2id ({', '.join(sorted(other, key=lambda name: other[name]))}); correct the wrong one."
            )
    named = sorted(other, key=lambda name: other[name])
    if ids and all(_is_number(name) for name in one.values()):
        if len(ids) < len(other) or [other[name] for name in named] != list(range(max(len(other), len(one)))):
            raise InputError(
                "label2id in the model's config must give the classes' ids from 0 on, each once and none left out, "
                f"where id2label gives no names, not {one_line(repr(other), 120)}."
            )
        return named
    if sorted(one) != list(range(len(one))):
        raise InputError(
            "id2label in the model's config must name the classes from 0 on, none left out, not "
            f"{one_line(repr(one), 120)}."
        )
    return [one[i] for i in sorted(one)]


def _is_number(name: str) -> bool:
    """Return whether a class is only numbered."""
    return re.fullmatch(r"(label)?\d+", plain_label(name)) is not None


def targets_of(
    rows: Sequence[Row], task: str | Task, config: PreTrainedConfig, source: str = "rows"
) -> npt.NDArray[np.int64] | npt.NDArray[np.float32]:
    """Return the rows' labels ``[N]`` as class ids of the model, or for a regression as float32 numbers.

    A row's label is a place in the task's order (as on the Hub), digits included, or a label's name.

    Args:
        rows: with their labels.
        task: whose rows they are.
        config: the model's; see :func:`class_ids`.
        source: what to call the rows in an error.

    Raises:
        InputError: a label is missing, NaN, unknown or out of range, naming source and row; or as :func:`class_ids`.
    """
    import numpy as np

    task = task_named(task)
    ids = class_ids(task, config)
    labels = [
        _label_of(row, task, f"{source}, row {row_number(row, number)}")
        for number, row in enumerate(rows, start=1)
    ]
    if not task.labels:
        return np.array(labels, dtype=np.float32)
    return np.array([ids[int(label)] for label in labels], dtype=np.int64)


def _label_of(row: Row, task: Task, where: str) -> float:
    """Return the place in the task's order, or the score."""
    right = _wanted(task)
    value = row.get(task.label)
    if value is None or value == "":
        problem = "has no label" if task.label in row else f"has no column {task.label!r}"
        raise InputError(f"{where} {problem}; {task.name} needs {right}.")
    names = {plain_label(label): i for i, label in enumerate(task.labels)}
    number = _as_number(value)
    said = f"{number:.17g}" if task.numbered and number is not None else value
    if isinstance(said, str) and plain_label(said) in names:
        return names[plain_label(said)]
    low, high = (0, len(task.labels) - 1) if task.labels else task.span
    # A comparison with NaN is false.
    fits = number is not None and low <= number <= high and math.isfinite(number)
    if number is None or not fits or (task.labels and (task.numbered or number != int(number))):
        hint = " (-1 stands in splits without labels, such as test)" if number == -1 else ""
        raise InputError(f"{where} has the label {_quoted(value)}{hint}; {task.name} needs {right}.")
    return number


def _wanted(task: Task) -> str:
    """Return in words what labels a task has."""
    if task.numbered:
        return " or ".join(task.labels)
    if task.labels:
        return " or ".join(f"{i} ({name})" for i, name in enumerate(task.labels))
    low, high = task.span
    ends = (f"from {low:g}" if math.isfinite(low) else "", f"to {high:g}" if math.isfinite(high) else "")
    return " ".join(("a number", *(end for end in ends if end)))


def _as_number(value: Any) -> float | None:
    try:
        return float(value) if isinstance(value, str | Real) and not isinstance(value, bool) else None
    except (ValueError, OverflowError):
        return None


def _quoted(value: Any) -> str:
    """Return a value in a few words: a row may hold anything, a number too long to be written down included."""
    try:
        return one_line(repr(value), 80)
    except ValueError:
        return f"of type {type(value).__name__}, too long to show"


def select_rows(rows: Sequence[Row], task: str | Task, examples: int, seed: int) -> list[Row]:
    """Draw `examples` rows at random; the draw depends on the texts and the seed, not on the rows' order.

    Each row's place in the draw is a hash of its texts. All rows if there are fewer.
    """
    task = task_named(task)

    def place(row: Row) -> tuple[bytes, str]:
        texts = "\x1f".join([str(seed), *(str(row[c]) for c in task.columns)])
        return hashlib.sha256(texts.encode()).digest(), str(row.get("idx"))  # the same texts may stand twice

    return sorted(rows, key=place)[:examples]


def hold_out(rows: Sequence[Row], task: str | Task, share: float) -> tuple[list[Row], list[Row]]:
    """Part rows into those that something is selected on and those that it is reported on, each in their order.

    Whoever holds out the same share of the same rows holds out the same ones: the draw depends on their texts only.

    Args:
        rows: all.
        task: whose.
        share: of the rows reported on; 0 for none.

    Raises:
        InputError: nothing would be left on one side.
    """
    task = task_named(task)
    number = round(len(rows) * share)
    if share and not 0 < number < len(rows):
        raise InputError(f"--holdout {share} of {len(rows)} rows leaves nothing on one side; give more rows.")
    reported, selected = apart(rows, task, number, seed=1)
    return selected, reported


def apart(rows: Sequence[Row], task: str | Task, examples: int, seed: int) -> tuple[list[Row], list[Row]]:
    """Return the rows that :func:`select_rows` draws, and the others, each in their order."""
    task = task_named(task)
    chosen = {id(row) for row in select_rows(rows, task, examples, seed)}
    return [row for row in rows if id(row) in chosen], [row for row in rows if id(row) not in chosen]


def row_ids(rows: Sequence[Any]) -> list[int]:
    """Return the rows' own ``idx`` (a number, or digits as a tsv has it) where all differ, else their positions."""
    own = [row.get("idx") if isinstance(row, Mapping) else None for row in rows]
    numbers = [
        int(i)
        for i in own
        if isinstance(i, Integral) or (isinstance(i, str) and re.fullmatch(r"\d{1,19}", i))
    ]
    if any(abs(i) > _LARGEST_ID for i in numbers):  # tables hold 64 bits
        return list(range(len(rows)))
    return numbers if len(set(numbers)) == len(rows) else list(range(len(rows)))


def check_rows(rows: Sequence[Row], task: str | Task, source: str, first: int = 1) -> None:
    """Refuse rows that lack one of the task's text columns, or hold something else than Unicode text there.

    Raises:
        InputError: naming the source, the row (counted from `first`) and the columns wanted.
    """
    task = task_named(task)
    for place, row in enumerate(rows, start=first):
        number = row_number(row, place)
        for column in task.columns:
            text = row.get(column)
            if not isinstance(text, str):
                wanted = " and ".join(repr(c) for c in task.columns)
                found = ", ".join(repr(c) for c in row) or "nothing"
                problem = "no text in" if column in row else "no"
                raise InputError(
                    f"{source}, row {number} has {problem} column {column!r}: {task.name} needs the text "
                    f"column{'s' if len(task.columns) > 1 else ''} {wanted}, found {found}."
                )
            if len(text) > _LONGEST:
                raise InputError(
                    f"{source}, row {number}: column {column!r} holds {len(text)} characters; {_LONGEST} are the most, "
                    "far more than a model reads."
                )
            if not is_unicode(text):
                raise InputError(
                    f"{source}, row {number}: column {column!r} is not Unicode text, it holds half a surrogate pair."
                )


def _called(name: str, task: Task) -> bool:
    """Return whether a name is the task's, GLUE's in any spelling."""
    return (name if task.own else plain_name(name)) == task.name


def _from_folder(task: Task, folder: Path, split: str) -> Rows:
    homes = [home for home in folder.iterdir() if home.is_dir() and _called(home.name, task)]
    homes.sort(key=lambda home: (home.name != task.name, home.name))
    seen: list[Path] = []
    for home in [*homes, folder]:
        files = row_files.rows_in(home)
        seen += files
        for stem in _SPLITS.get(split, (split,)):
            matches = [path for path in files if row_files.split_of(path, home) == stem]
            if matches:
                unread = [str(other) for other in files if other not in matches]
                return _from_files(task, *row_files.parts_of(matches), unread)
    named = ", ".join(str(path) for path in seen[:9]) + (", ..." if len(seen) > 9 else "")
    packed = [path for home in [*homes, folder] for path in sorted(home.iterdir()) if path.suffix in _PACKED]
    there = f"found only {named}" if seen else "it holds no data files"
    if packed:
        there += f"; {packed[0]} is packed in a way that is not read: unpack it, or pack it with gzip"
    raise MissingSplitError(
        f"--data {folder} has no {task.name}/{split}.* and no {split}.* ({', '.join(row_files.ENDINGS)}): {there}."
    )


def _from_files(task: Task, source: str, paths: Sequence[Path], unread: Sequence[str]) -> Rows:
    rows: list[Row] = []
    broken_off = []
    digest = hashlib.sha256()
    for path in paths:
        part = _read(path, task)
        if row_files.ending_of(path) == ".tsv":
            broken = [n for n, row in enumerate(part, start=1) if not row.keys() >= set(task.columns)]
            if broken and len(broken) * _BROKEN_OFF <= len(part):
                part = [row for row in part if row.keys() >= set(task.columns)]
                broken_off.append(
                    f"{len(broken)} rows of {path} that break off, the first of them row {broken[0]},"
                )
        check_rows(part, task, str(path))
        rows += part
        with path.open("rb") as file:
            while block := file.read(2**20):
                digest.update(block)
    if not rows:
        raise InputError(f"{source} holds no rows.")
    return Rows(rows, source, tuple(unread), " and ".join(broken_off), sha256=digest.hexdigest())


def _read(path: Path, task: Task) -> list[Row]:
    named: list[str] = []
    ending = row_files.ending_of(path)
    try:
        if ending == ".jsonl":
            rows = row_files.read_jsonl(path)
        elif ending == ".json":
            rows = row_files.read_json(path)
        elif ending in (".parquet", ".arrow"):
            rows, schema = row_files.read_columns(path)
            named = _schema_names(schema, task)
        else:
            rows = _read_table(path, task)
    except InputError:
        raise
    except Exception as error:  # a damaged file leads parsers to nearly any
        raise InputError(f"{path} cannot be read: {reason(error)}.") from error
    names = task.tsv_columns if ending == ".tsv" or not task.tsv_only else {}
    card = _card_names(path.parent, task)
    if named and card and list(map(plain_label, named)) != list(map(plain_label, card)):
        raise InputError(
            f"{path} names the classes of its labels {one_line(', '.join(named), 120)} in its schema, and the "
            f"README.md of the data set {one_line(', '.join(card), 120)}; correct one of them."
        )
    named = named or card
    return [
        FileRow(_by_name(_renamed(row, names, f"{path}, row {number}"), task, named), number)
        for number, row in enumerate(rows, start=1)
    ]


def _schema_names(schema: Any, task: Task) -> list[str]:
    """Return the names of the label's classes that the ``datasets`` library wrote into a file's schema, if it did."""
    try:
        said = json.loads((schema.metadata or {})[b"huggingface"])
        names = said["info"]["features"][task.label]["names"]
    except (KeyError, TypeError, ValueError, RecursionError):
        return []
    return [str(name) for name in names] if isinstance(names, list) else []


def _card_names(folder: Path, task: Task) -> list[str]:
    """Return the names of the label's classes that the card of a data set gives, which ``datasets`` goes by too."""
    from huggingface_hub import metadata_load

    for card in (folder / "README.md", folder.parent / "README.md"):
        try:
            said = (metadata_load(card) or {}).get("dataset_info") if card.is_file() else None
        except Exception:  # notes that are no card
            continue
        infos = [info for info in (said if isinstance(said, list) else [said]) if isinstance(info, dict)]
        for info in infos:
            if len(infos) > 1 and not _called(str(info.get("config_name")), task):
                continue
            for column in info.get("features") or []:
                try:
                    names = column["dtype"]["class_label"]["names"] if column["name"] == task.label else {}
                    if isinstance(names, list):
                        return [str(name) for name in names]
                    if names:
                        return [str(names[i]) for i in sorted(names, key=int)]
                except (KeyError, TypeError, ValueError):
                    continue
    return []


def _by_name(row: Row, task: Task, names: Sequence[str]) -> dict[str, Any]:
    """Return a row whose label is the place in the task's order, where its own order of the classes is known.

    A class that the task does not have goes by its name, and is refused by it when labels are looked up.
    """
    said = row.get(task.label)
    label = _place(said) if names and said not in names else None  # a name may be a number: of stars
    if label is None or not 0 <= label < len(names):
        return dict(row)
    name = plain_label(names[label])
    places = {plain_label(known): i for i, known in enumerate(task.labels)}
    if _is_number(name) and name not in places:
        places[name] = int(name.removeprefix("label"))
    place = places.get(name, -1)
    if task.numbered and 0 <= place < len(task.labels):  # a number is no place there
        return {**row, task.label: task.labels[place]}
    return {**row, task.label: names[label] if place < 0 else place}


def _place(label: Any) -> int | None:
    """Return a label that is a whole number, however it is written (csv has digits, a column with gaps 1.0)."""
    if not isinstance(label, str | Real) or isinstance(label, bool):
        return None
    try:
        number = float(label)
        return int(number) if number == int(number) else None
    except (ValueError, OverflowError):
        return None


def _renamed(row: Row, names: Mapping[str, str], where: str) -> Row:
    """Return a row in the Hub's column names; a text column that has its own there keeps it.

    Raises:
        InputError: it has two labels, under different names.
    """
    known = {column: names.get(column, column) for column in row}
    for column, name in known.items():
        if column != name and name in row:
            if name == "label":
                raise InputError(f"{where} has both a column {column!r} and a column 'label'; keep one.")
            known[column] = column
    return {known[column]: value for column, value in row.items()}


def _read_table(path: Path, task: Task) -> list[dict[str, Any]]:
    """Every value is text; a row with fewer fields than the header lacks the last columns."""
    tsv = row_files.ending_of(path) == ".tsv"
    table = row_files.read_tsv(path) if tsv else row_files.read_csv(path)
    if not table:
        return []
    if tsv and task.tsv_header and not set(task.columns) & set(table[0]):
        table.insert(0, list(task.tsv_header))
    columns = row_files.columns_of(path, table[0])
    for number, fields in enumerate(table[1:], start=1):
        if len(fields) > len(columns):
            raise InputError(
                f"{path}, row {number} has {len(fields)} fields, but the first line names {len(columns)} columns."
            )
    return [dict(zip(columns, fields, strict=False)) for fields in table[1:]]


def _from_hub(task: Task, dataset: str, split: str) -> Rows:
    import datasets

    from ..common.hub import hub_answers

    if split == "validation" and task.name == "mnli" and dataset == HUB_DATASET:
        split = "validation_matched"
    advice = (
        f"give --data DIR with DIR/{task.name}/{split}.jsonl (or .parquet, .csv, .tsv) "
        "to use rows on this machine"
    )
    online = hub_answers(dataset, "dataset", "--data")
    try:
        if online:
            configs = datasets.get_dataset_config_names(dataset)
            config = task.config or (task.name if task.name in configs else None)
            table = datasets.load_dataset(dataset, config, split=split)
        else:
            table = _from_cache(dataset, task.config or task.name, split)
    # Besides its own, the library lets errors of the HTTP client through, which are of no common type.
    except Exception as error:
        from datasets.exceptions import DataFilesNotFoundError

        if isinstance(error, DataFilesNotFoundError) or "nknown split" in str(error):
            raise MissingSplitError(
                f"The Hub data set {dataset} has no split {split!r}: {reason(error)}."
            ) from error
        what = f"The Hub data set {dataset}"
        if dataset != HUB_DATASET:
            what = f"--data {dataset} is not a folder, and the Hub data set of that name"
        problem = f"cannot be loaded ({type(error).__name__}: {reason(error)})"
        if not online:
            problem = "is not in the cache while the Hub cannot be reached"
        raise InputError(f"{what} {problem}; {advice}.") from error
    label = (getattr(table, "features", None) or {}).get(task.label)
    names = list(getattr(label, "names", None) or [])
    read: Iterable[Any] = table
    rows: list[Row] = [
        FileRow(_by_name(row, task, names), number) for number, row in enumerate(read, start=1)
    ]
    source = f"{dataset}/{task.config or task.name}/{split}"
    check_rows(rows, task, source)
    return Rows(rows, source, revision=getattr(table, "_fingerprint", None))


def _from_cache(dataset: str, config: str, split: str) -> Any:
    """Read what an earlier download left; ``load_dataset`` would ask the Hub for half a minute first."""
    from datasets.packaged_modules.cache.cache import Cache

    options: dict[str, Any]
    options = {"repo_id": dataset, "dataset_name": dataset.split("/")[-1], "version": "auto", "hash": "auto"}
    try:
        cached = Cache(config_name=config, **options)
    except ValueError:
        cached = Cache(config_name="default", **options)
    return cached.as_dataset(split=split)
