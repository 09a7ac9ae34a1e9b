"""Exports of Label Studio, read: JSON, JSON_MIN, CSV and TSV, of our own projects and of others.

A file is streamed, task by task, whatever its size. Pictures are never opened, neither those inside a task nor
those it points to: a task is matched to a map by the id that ``push`` put into it or, failing that, by the name
of its picture's file. What is not taken is counted, with the reason.
"""

import csv
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from models.common.errors import InputError
from models.common.files import reason
from models.common.progress import progress_bar
from models.common.reading import regular_file

from ..formats import Annotation, parse_label
from .matching import (
    CONTROL,
    DRAFT,
    EMPTY,
    MALFORMED,
    NO_ANNOTATOR,
    OTHER_CONTROL,
    SEVERAL,
    SKIPPED,
    UNKNOWN_CHOICE,
    Left,
    MapIndex,
)

OURS = "headscope_export"
"""The field that marks a row of JSON_MIN, CSV or TSV as written by headscope: the annotator is a name as it is."""
LABELLER = "labeller"
"""Where our exports say whose pass an annotator is."""
FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠", "'")
"""How a cell begins that a spreadsheet might take for a formula (OWASP, "CSV Injection"), or that looks escaped."""

MAX_TASK_BYTES = 64 * 2**20
"""The largest task that is read: a picture of 48 MB."""
_GAPS = ("NaN", "nan", "NaT", "<NA>")
_MAX_DEPTH = 100  # of lists and records in each other


def number_name(number: object, server: str = "") -> str:
    """Return what an annotator is called of whom only the number is known, on a server if it is known which."""
    return f"user {number} of {server}" if server else f"user {number}"


def number_of(name: str) -> str:
    """Return the number in a :func:`number_name`; nothing of another name."""
    match = re.fullmatch(r"user (\d+)( of .+)?", name)
    return match[1] if match else ""


@dataclass
class Reading:
    """What a file holds: the labels taken, and of everything else how much and why."""

    annotations: list[Annotation] = field(default_factory=list)
    """The labels taken."""
    tasks_of: list[int | None] = field(default_factory=list)
    """Of each label taken, the number of its task on the server; of JSON only."""
    numbers_of_tasks: set[int] = field(default_factory=set)
    """The numbers of all tasks in the file; of JSON only."""
    tasks: int = 0
    """Tasks in the file; of CSV, TSV and JSON_MIN, which have a row per annotation, rows."""
    unlabelled: int = 0
    """Tasks without any annotation or draft."""
    left: Counter[str] = field(default_factory=Counter)
    """Why annotations were left, and how many."""
    notes: Counter[str] = field(default_factory=Counter)
    """What is worth knowing of the labels taken, and of how many."""
    numbers: dict[str, str] = field(default_factory=dict)
    """By annotator, what the number is called that the export, or the caller, gives for the name: "user 3"."""
    passes: dict[str, list[str]] = field(default_factory=dict)
    """By labeller, the annotators that our own exports say are its passes."""
    details: dict[str, Counter[str]] = field(default_factory=dict)
    """By reason, the texts it is about (choices, controls, ids), each with its number; at most 20 texts."""

    def pass_of(self, labeller: Any, annotator: str) -> None:
        """Note that an annotator is a pass of a labeller, if one is given."""
        if isinstance(labeller, str) and labeller:
            names = self.passes.setdefault(labeller, [])
            if annotator not in names:
                names.append(annotator)

    def leave(self, error: Left) -> None:
        """Count an annotation that is left."""
        why, *about = error.args
        self.left[why] += 1
        for text in about:
            texts = self.details.setdefault(why, Counter())
            if text[:60] in texts or len(texts) < 20:
                texts[text[:60]] += 1


def read_export(
    path: Path,
    maps: MapIndex,
    *,
    control: str = CONTROL,
    id_field: str | None = None,
    annotators: Mapping[str, str] | None = None,
    server: str = "",
    progress: bool = False,
) -> Reading:
    """Read an export in any of the four formats; which one it is, is seen from what is in it.

    Args:
        path: the file.
        maps: what the labels may be for.
        control: the name of the choices.
        id_field: see :meth:`MapIndex.find`.
        annotators: names for annotators that the file gives as numbers, by number.
        server: where the file comes from, if that is known: a number without a name is ``user 3 of SERVER`` then.
        progress: whether to show a bar.

    Raises:
        InputError: the file is not such an export; the message says where.
    """
    path = regular_file(path, "an export of Label Studio; save it as a file first")
    try:
        with path.open("rb") as handle:
            start = handle.read(4096).removeprefix(b"\xef\xbb\xbf").lstrip()
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}.") from error
    if not start:
        raise InputError(f"{path} is empty; give an export as JSON, JSON_MIN, CSV or TSV.")
    reader = _Reader(maps, control, id_field, annotators or {}, server)
    reading = reader.reading
    reading.numbers |= {name: number_name(number) for number, name in (annotators or {}).items()}
    with path.open("rb") as handle:
        if handle.read(3) != b"\xef\xbb\xbf":
            handle.seek(0)
        is_json = start[:1] in b"[{"
        items = _json_items(handle, path) if is_json else _table_items(handle, path)
        for item in _watched(items, handle, path, progress):
            reading.tasks += 1
            if not isinstance(item, dict):
                reading.leave(Left(MALFORMED))
            elif isinstance(item.get("annotations", ""), list | None) and "data" in item:
                reader.read_task(item)
            else:
                reader.read_row(item if item.get(OURS) else _without_gaps(item))
    if maps.by_name:
        reading.notes["matched by the name of the picture's file alone"] = maps.by_name
    return reading


def _watched(items: Iterator[Any], handle: IO[bytes], path: Path, progress: bool) -> Iterable[Any]:
    if not progress:
        yield from items
        return
    # How many tasks there are nobody knows before the end, but how many bytes.
    size = path.stat().st_size
    with progress_bar(
        total=size,
        what=f"reading {path.name}",
        unit="B",
        shown=True,
        unit_scale=True,
        leave=False,
        delay=2,
    ) as bar:
        for item in items:
            bar.update(handle.tell() - bar.n)
            yield item


@dataclass
class _Reader:
    """Takes labels task by task, see :func:`read_export`."""

    maps: MapIndex
    control: str
    id_field: str | None
    names: Mapping[str, str]
    server: str
    reading: Reading = field(default_factory=Reading)

    def read_task(self, task: dict[str, Any]) -> None:
        """Take the labels of a task as JSON has it: the only format with skips, drafts and who did what."""
        drafts, annotations = task.get("drafts"), task["annotations"] or ()
        number_of_task = task.get("id") if isinstance(task.get("id"), int) else None
        if number_of_task is not None:
            self.reading.numbers_of_tasks.add(number_of_task)
        for _ in drafts if isinstance(drafts, list) else ():
            self.reading.leave(Left(DRAFT))
        if not annotations and not drafts:
            self.reading.unlabelled += 1
        for one in annotations:
            try:
                if not isinstance(one, dict):
                    raise Left(MALFORMED)
                # A skip made in the page keeps what was chosen before: only the flag tells.
                if one.get("was_cancelled"):
                    raise Left(SKIPPED)
                label, origin = _choice_of(one, self.control)
                data = task["data"]
                if not isinstance(data, dict):
                    raise Left(MALFORMED)
                id = self.maps.find(data, self.id_field)
                who = one.get("completed_by")
                ours = one.get("annotator")  # our own exports name whoever made the label
                annotator = ours if isinstance(ours, str) and ours else self._annotator(who)
                if number := _number(who.get("id") if isinstance(who, dict) else self.server and who):
                    self.reading.numbers.setdefault(annotator, number_name(number))
                source = one.get("source") if isinstance(one.get("source"), str) else None
                if source is None:
                    source = "label-studio" + {
                        "prediction": ", prediction accepted",
                        "prediction-changed": ", prediction changed",
                    }.get(origin, "")
                # An export's prediction score stays the model's even where the class was changed: it is not read.
                labeller = one.get(LABELLER) if annotator == ours else None
                self.reading.annotations.append(Annotation(id, annotator, label, _time(one), source))
                self.reading.tasks_of.append(number_of_task)
                self.reading.pass_of(labeller, annotator)
            except Left as error:
                self.reading.leave(error)
                continue
            if origin == "prediction":
                self.reading.notes["accepted a pre-annotation as it was"] += 1
            if origin == "prediction-changed":
                self.reading.notes["changed a pre-annotation"] += 1
            first = who.get("id") if isinstance(who, dict) else who
            if isinstance(first, int) and one.get("updated_by") not in (None, first):
                self.reading.notes["edited later by somebody else, counted for the first annotator"] += 1

    def read_row(self, row: dict[str, Any]) -> None:
        """Take the label of a row of JSON_MIN, CSV or TSV; skips and drafts are not in these."""
        try:
            ours = str(row.get(OURS) or "") == "1"
            annotator, text = row.get("annotator"), row.get(self.control)
            if "annotator" not in row or (
                self.control not in row and not {"annotation_id", "id"} & row.keys()
            ):
                raise Left(MALFORMED)
            if annotator in (None, "") and row.get("annotation_id") in (None, "") and text in (None, ""):
                self.reading.unlabelled += 1
                return
            if isinstance(text, str) and text.lstrip().startswith("{"):
                try:
                    text = json.loads(text)
                except (ValueError, RecursionError):
                    raise Left(MALFORMED) from None
            if isinstance(text, dict):
                text = text.get("choices")
            texts = text if isinstance(text, list) else [text] if text not in (None, "") else []
            label = _pattern(texts)
            id = self.maps.find(row, self.id_field)
            if not (ours and isinstance(annotator, str) and annotator):
                annotator = self._annotator(annotator)
            source = str(row.get("source") or "") if ours else "label-studio"
            labeller = row.get(LABELLER) if ours else None
            self.reading.annotations.append(Annotation(id, annotator, label, _time(row), source))
            self.reading.pass_of(labeller, annotator)
        except Left as error:
            self.reading.leave(error)

    def _annotator(self, who: Any) -> str:
        if isinstance(who, dict):
            who = who.get("email") or who.get("username") or who.get("id")
        text = _number(who) or (who.strip() if isinstance(who, str) else "")
        if not text:
            raise Left(NO_ANNOTATOR)
        if text in self.names:
            return self.names[text]
        if text.isdecimal():
            return number_name(text, self.server)
        return text


def _choice_of(annotation: dict[str, Any], control: str) -> tuple[Any, str]:
    """Return the pattern chosen, and where the choice came from: manual, prediction, prediction-changed or ""."""
    result = annotation.get("result")
    if not result:
        raise Left(EMPTY)
    if not isinstance(result, list) or not all(isinstance(region, dict) for region in result):
        raise Left(MALFORMED)
    ours = [region for region in result if region.get("from_name") == control]
    if not ours:
        raise Left(OTHER_CONTROL, *{str(region.get("from_name")) for region in result})
    texts: list[Any] = []
    for region in ours:
        value = region.get("value")
        chosen = value.get("choices") if isinstance(value, dict) else None
        texts += chosen if isinstance(chosen, list) else [chosen] if chosen else []
    return _pattern(texts), str(ours[0].get("origin") or "")


def _pattern(texts: list[Any]) -> Any:
    chosen = list(dict.fromkeys(str(text) for text in texts if text is not None))
    if not chosen:
        raise Left(EMPTY)
    if len(chosen) > 1:
        raise Left(SEVERAL)
    try:
        return parse_label(chosen[0], "")
    except InputError:
        raise Left(UNKNOWN_CHOICE, chosen[0]) from None


def _number(who: Any) -> str:
    """Return a user's number as digits; a table with gaps makes 3.0 of 3."""
    if isinstance(who, str) and re.fullmatch(r"\s*\d+(\.0+)?\s*", who):
        return who.strip().partition(".")[0]
    whole = isinstance(who, int) or (isinstance(who, float) and who.is_integer())
    return str(int(who)) if whole and not isinstance(who, bool) else ""


def _without_gaps(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row of somebody else's table with nothing where pandas writes what it calls a missing value."""
    return {name: None if isinstance(cell, str) and cell in _GAPS else cell for name, cell in row.items()}


def _time(row: Mapping[str, Any]) -> datetime | None:
    text = row.get("updated_at") or row.get("created_at")
    if not text:
        return None
    try:
        time = datetime.fromisoformat(str(text))
    except ValueError:
        raise Left(MALFORMED) from None
    if not 1970 < time.year < 2262:  # what pandas can hold in nanoseconds
        raise Left(MALFORMED)
    return time if time.tzinfo else time.replace(tzinfo=UTC)


class _Gauge:
    """A file that counts what is read, so that one endless task does not fill the memory."""

    def __init__(self, handle: "IO[bytes] | _WithoutNaN", path: Path) -> None:
        self._handle, self._path = handle, path
        self.since_task = 0

    def read(self, size: int = -1) -> bytes:
        part = self._handle.read(size)
        self.since_task += len(part)
        if self.since_task > MAX_TASK_BYTES:
            raise InputError(
                f"{self._path} has a task of more than {MAX_TASK_BYTES // 2**20} MB; export it without its pictures."
            )
        return part


class _WithoutNaN:
    """A JSON file with ``null`` for each NaN outside its texts: Python writes it, and the parser does not read it."""

    _END = re.compile(rb'[^"\\]*(?:\\.[^"\\]*)*', re.DOTALL)  # up to the end of a text

    def __init__(self, handle: IO[bytes]) -> None:
        self._handle, self._rest, self._inside = handle, b"", False

    def read(self, size: int = -1) -> bytes:
        """Return the next part, in length about what is asked for; nothing at the end alone."""
        while True:
            part = self._handle.read(size)
            text, self._rest = self._rest + part, b""
            if part:  # what may be half an escape, or half a NaN, waits for the next
                cut = len(text.rstrip(b"\\"))
                if not text.endswith(b"NaN"):
                    cut -= next((len(half) for half in (b"Na", b"N") if text.endswith(half)), 0)
                text, self._rest = text[:cut], text[cut:]
            text = self._replaced(text)
            if text or not part:
                return text

    def _replaced(self, text: bytes) -> bytes:
        parts, at = [], 0
        while at < len(text):
            if self._inside:
                end = self._END.match(text, at).end()  # type: ignore[union-attr]
                parts.append(text[at:end])
            else:
                end = text.find(b'"', at)
                end = len(text) if end < 0 else end
                parts.append(_NAN.sub(b"null", text[at:end]))
            if text[end : end + 1] == b'"':
                self._inside = not self._inside
            parts.append(text[end : end + 1])
            at = end + 1
        return b"".join(parts)


_NAN = re.compile(rb"\bNaN\b")


def _json_items(handle: IO[bytes], path: Path) -> Iterator[Any]:
    """Yield the items of a list; ``ijson.items`` would, but a few megabytes of nested lists fill the memory there."""
    import ijson

    gauge = _Gauge(_WithoutNaN(handle), path)
    builder, depth = ijson.ObjectBuilder(), 0
    try:
        for event, value in ijson.basic_parse(gauge, use_float=True):
            begins, ends = event in ("start_array", "start_map"), event in ("end_array", "end_map")
            depth -= ends
            if depth == 0:
                if event not in ("start_array", "end_array"):
                    raise InputError(f"{path} is no list of tasks; export the project as JSON.")
                depth += begins
                continue
            builder.event(event, value)
            depth += begins
            if depth > _MAX_DEPTH:
                raise InputError(
                    f"{path} is nested {depth} deep, as no export is; export the project as JSON."
                )
            if depth == 1:
                yield builder.value
                builder, gauge.since_task = ijson.ObjectBuilder(), 0
    except InputError:
        raise
    except (ijson.JSONError, ValueError, OverflowError) as error:
        raise InputError(f"{path} is no whole JSON file: {reason(error)}; export it again.") from error


def _table_items(handle: IO[bytes], path: Path) -> Iterator[dict[str, Any]]:
    lines = _decoded(handle, path)
    first = next(lines)
    delimiter = "\t" if "\t" in first else ","
    with _long_fields():
        reader = csv.DictReader(_chained(first, lines), delimiter=delimiter, strict=True)
        try:
            columns = reader.fieldnames or ()
            if twice := [name for name, number in Counter(columns).items() if number > 1]:
                raise InputError(f"{path} has two columns {twice[0]!r}; which one counts, nobody can tell.")
            if missing := [name for name in ("annotator", "id") if name not in columns]:
                raise InputError(
                    f"{path} has no column {' and no column '.join(missing)}, so it is no export of Label Studio as "
                    "CSV or TSV; give one, or a folder with maps for a published layout."
                )
            for row in reader:
                if None in row or None in row.values():
                    raise InputError(
                        f"{path}, line {reader.line_num} has not as many cells as the head; export it again."
                    )
                yield {name: _plain(cell) for name, cell in row.items()} if row.get(OURS) == "1" else row
        except csv.Error as error:
            raise InputError(
                f"{path}, line {reader.line_num} is no CSV ({error}); export it again."
            ) from error


def _decoded(handle: IO[bytes], path: Path) -> Iterator[str]:
    """Yield lines, no longer than a task may be."""
    number = 0
    while line := handle.readline(MAX_TASK_BYTES):
        number += 1
        if len(line) == MAX_TASK_BYTES:
            raise InputError(
                f"{path}, line {number} has more than {MAX_TASK_BYTES // 2**20} MB; it is no export."
            )
        try:
            text = line.decode("utf-8")
        except UnicodeDecodeError as error:
            raise InputError(f"{path}, line {number} is not UTF-8 text; export it again.") from error
        yield text


def _chained(first: str, rest: Iterator[str]) -> Iterator[str]:
    yield first
    yield from rest


@contextmanager
def _long_fields() -> Iterator[None]:
    """Let a cell hold a picture; the module's limit is one for all readers, so it is put back."""
    before = csv.field_size_limit(MAX_TASK_BYTES)
    try:
        yield
    finally:
        csv.field_size_limit(before)


def escaped(cell: str) -> str:
    """Return a cell that no spreadsheet takes for a formula; :func:`_plain` undoes it."""
    return f"'{cell}" if cell.startswith(FORMULA) else cell


def _plain(cell: str) -> str:
    return cell[1:] if cell.startswith("'") and cell[1:].startswith(FORMULA) else cell
