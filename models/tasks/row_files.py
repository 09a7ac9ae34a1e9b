"""Rows in files as people have them: JSON, JSON lines, CSV and TSV, packed or not, and what ``datasets`` saves."""

from __future__ import annotations

import csv
import gzip
import io
import json
import re
import zlib
from collections import Counter
from collections.abc import Container, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from ..common.errors import InputError
from ..common.reading import no_key_twice, reason

if TYPE_CHECKING:
    import pyarrow

ENDINGS = (".jsonl", ".json", ".parquet", ".csv", ".tsv")
"""Of the files that are read; all but Parquet also packed, with .gz behind it."""
SAVED = "state.json"
"""Lies in every folder that ``Dataset.save_to_disk`` wrote, beside the .arrow files."""

_NOT_ROWS = (SAVED, "dataset_info.json", "dataset_dict.json", "dataset_infos.json")
_SHARD = re.compile(r"-(\d{5})-of-(\d{5})$")  # as the Hub names the parts of a split
_MOST_ROWS = 10_000_000  # of a split
_LARGEST = 512 * 2**20  # bytes of a packed file, unpacked; MNLI's training rows have about 400 MB


def ending_of(path: Path) -> str:
    """Return which of :data:`ENDINGS` a file has, or .arrow; empty if it is read as none."""
    name = path.name.lower()
    ending = Path(name.removesuffix(".gz")).suffix
    packed = name.endswith(".gz")
    known = ending in ENDINGS or ending == ".arrow"
    return ending if known and not (packed and ending in (".parquet", ".arrow")) else ""


def rows_in(home: Path) -> list[Path]:
    """Return a folder's data files, and the folders in it (or the folder itself) that ``save_to_disk`` wrote."""
    if (home / SAVED).is_file():
        return [home]
    found = []
    for path in sorted(home.iterdir()):
        if path.is_dir():
            found += [path] if (path / SAVED).is_file() else []
        elif ending_of(path) in ENDINGS and path.name not in _NOT_ROWS and path.is_file():
            found.append(path)
    return found


def split_of(path: Path, home: Path) -> str:
    """Return which split a file or folder out of :func:`rows_in` holds, by its name."""
    if path == home:  # saved on its own: it says itself which split it was, perhaps with a range
        return str(_state(path).get("_split") or "").partition("[")[0]
    if path.is_dir():
        return path.name
    return _SHARD.sub("", re.sub(r"\.[^.]*(\.gz)?$", "", path.name, flags=re.IGNORECASE))


def parts_of(matches: Sequence[Path]) -> tuple[str, list[Path]]:
    """Return what a split is called in a message, and the files to read one after another.

    Args:
        matches: all that :func:`rows_in` found of that split.

    Raises:
        InputError: they are not one file, one saved folder, or all shards of one set.
    """
    first = matches[0]
    if len(matches) == 1 and first.is_dir():
        return str(first), _arrow_files(first)
    stems = [re.sub(r"\.[^.]*(\.gz)?$", "", path.name, flags=re.IGNORECASE) for path in matches]
    shards = [_SHARD.search(stem) for stem in stems]
    if len(matches) == 1 and not shards[0]:
        return str(first), [first]
    ends = {path.name[len(stem) :] for path, stem in zip(matches, stems, strict=True)}
    totals = {shard[2] if shard else "" for shard in shards}
    if len(ends) > 1 or len(totals) > 1 or "" in totals:
        names = " and ".join(path.name for path in matches)
        raise InputError(f"{first.parent} holds {names}; keep one file per split.")
    (total,), (end,) = totals, ends
    there = {shard[1] for shard in shards if shard}
    missing = [f"{number:05d}" for number in range(int(total)) if f"{number:05d}" not in there]
    if missing or len(there) != int(total):
        what = f"{_SHARD.sub('', stems[0])}-{(missing or ['?'])[0]}-of-{total}{end}"
        raise InputError(f"{first.parent} lacks {what}: {len(there)} of the {int(total)} parts are there.")
    if len(matches) == 1:
        return str(first), [first]
    return str(first.parent / f"{_SHARD.sub('', stems[0])}-*-of-{total}{end}"), list(matches)


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """Read a JSON object a line.

    Raises:
        InputError: a line is something else, or names a column twice.
    """
    with _text(path, None) as file:
        return _json_lines(path, file)


def read_json(path: Path) -> list[dict[str, Any]]:
    """Read a list of JSON objects; under that ending, many files hold JSON lines.

    Raises:
        InputError: it holds neither.
    """
    with _text(path, None) as file:
        text = file.read()
    if not text.lstrip().startswith("["):
        try:
            return _json_lines(path, io.StringIO(text))
        except InputError as error:
            raise InputError(
                f"{path} holds neither a list of rows, [{{...}}, ...], nor a row a line ({error})."
            ) from error
    try:
        rows = json.loads(text, object_pairs_hook=no_key_twice)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not JSON: {reason(error)}.") from error
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, dict):
            raise InputError(f"{path}, row {number} is not a JSON object of columns.")
    return list(rows)


def _json_lines(path: Path, file: TextIO) -> list[dict[str, Any]]:
    rows = []
    for number, line in enumerate(file, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line, object_pairs_hook=no_key_twice)
        except (ValueError, RecursionError) as error:
            raise InputError(f"{path}, line {number} is not JSON: {reason(error)}.") from error
        if not isinstance(row, dict):
            raise InputError(f"{path}, line {number} is not a JSON object of columns.")
        rows.append(row)
    return rows


def read_tsv(path: Path) -> list[list[str]]:
    """Read a table whose fields are parted by tabs and whose lines end with a line feed.

    Nothing is quoted: a field may hold one quotation mark. A carriage return within a line belongs to its field,
    unless the whole file has no other line end.
    """
    with _text(path, "") as file:
        text = file.read()
    lines = (line.removesuffix("\r") for line in text.split("\n")) if "\n" in text else text.split("\r")
    return [line.split("\t") for line in lines if line]


def read_csv(path: Path) -> list[list[str]]:
    """Read a table with commas, whose quoted fields may hold commas and line ends.

    Raises:
        InputError: a quotation mark is not closed, or closed rows further down.
    """
    with _text(path, "") as file:
        text = file.read()
    lines = re.findall(r"[^\n]*\n|[^\n]+\Z" if "\n" in text else r"[^\r]*\r|[^\r]+\Z", text)
    table: list[list[str]] = []
    wide: dict[int, tuple[int, int]] = {}  # rows over several lines: the first and the one after the last
    reader, begun = csv.reader(lines, strict=True), 0
    try:
        for fields in reader:
            if reader.line_num > begun + 1 and table:
                wide[len(table)] = begun, reader.line_num
            begun = reader.line_num
            if fields:
                table.append(fields)
    except csv.Error as error:
        where = f"{path}, line {begun + 1}"
        if "unexpected end" in str(error):
            raise InputError(f"{where} opens a quotation mark that is never closed.") from error
        raise InputError(f"{where} is no CSV: {reason(error)}.") from error
    if wide:
        _check_quotes(path, table, [(start, lines[start:end]) for start, end in wide.values()], set(wide))
    return table


def _check_quotes(
    path: Path,
    table: Sequence[Sequence[str]],
    wide: Sequence[tuple[int, Sequence[str]]],
    known: Container[int],
) -> None:
    """Refuse lines that were read as one row, although each is a whole row: a quotation mark swallowed them.

    A text may well hold line ends and as many commas as a row. What tells them apart is a column whose values come
    again and again, such as labels, and whether every line has one of them there; without such a column, whether every
    line has anything there.

    Args:
        path: of the file.
        table: all rows, the first with the names of the columns.
        wide: rows that lie on several lines: where they begin, and their lines.
        known: their places in the table.
    """
    columns = len(table[0])
    others = [row for place, row in enumerate(table) if place and place not in known and len(row) == columns]
    seen = [{row[column] for row in others} for column in range(columns)]
    telling = [column for column in range(columns) if len(seen[column]) < len(others)]

    def fields(line: str) -> list[str]:
        closed = line.count('"') % 2 == 0
        bare = line.rstrip("\r\n").replace("\r", " ")
        return next(csv.reader([bare]), []) if closed else bare.split(",")

    for first, lines in wide:
        parts = [fields(line) for line in lines]
        if columns < 2 or any(len(part) != columns for part in parts):
            continue
        if any(
            all(part[column] in seen[column] if telling else part[column] for part in parts)
            for column in telling or range(columns)
        ):
            raise InputError(
                f"{path}, lines {first + 1} to {first + len(lines)} would be one row, although each is a whole one: "
                f"line {first + 1} opens a quotation mark that it does not close."
            )


def columns_of(path: Path, head: Sequence[str]) -> list[str]:
    """Return the names of a table's columns.

    Raises:
        InputError: one stands there twice.
    """
    if twice := [name for name, number in Counter(head).items() if name and number > 1]:
        raise InputError(f"{path} has two columns {twice[0]!r}; which one counts, nobody can tell.")
    return list(head)


def read_columns(path: Path) -> tuple[list[dict[str, Any]], pyarrow.Schema]:
    """Read a Parquet file, or an .arrow file that ``save_to_disk`` wrote; nothing in it is unpickled.

    Returns:
        The rows, and the schema, which may name a label's classes.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows: list[dict[str, Any]] = []
    if ending_of(path) == ".parquet":
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            columns_of(path, file.schema_arrow.names)
            if file.metadata.num_rows > _MOST_ROWS:
                raise ValueError(
                    f"it says that it has {file.metadata.num_rows} rows, and {_MOST_ROWS} are the most"
                )
            for batch in file.iter_batches(10_000):
                batch.validate(full=True)
                rows += batch.to_pylist()
            return rows, file.schema_arrow
    with pa.memory_map(str(path)) as mapped, pa.ipc.open_stream(mapped) as stream:
        columns_of(path, stream.schema.names)
        for batch in stream:
            batch.validate(full=True)
            rows += batch.to_pylist()
        return rows, stream.schema


def _state(folder: Path) -> dict[str, Any]:
    try:
        state = json.loads((folder / SAVED).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{folder / SAVED} cannot be read: {reason(error)}.") from error
    if not isinstance(state, dict):
        raise InputError(f"{folder / SAVED} is not what save_to_disk writes; save the data set again.")
    return state


def _arrow_files(folder: Path) -> list[Path]:
    """Return the .arrow files of a saved data set, in their order.

    Raises:
        InputError: its ``state.json`` names no files, others than .arrow files beside it, or a selection of rows.
    """
    state = _state(folder)
    listed = state.get("_data_files")
    files = listed if isinstance(listed, list) else []
    names = [one.get("filename") if isinstance(one, dict) else None for one in files]
    plain = [name for name in names if isinstance(name, str) and re.fullmatch(r"[\w.-]+\.arrow", name)]
    if (
        not plain
        or len(plain) != len(names)
        or state.get("_indices_data_files")
        or state.get("_indices_files")
    ):
        raise InputError(f"{folder / SAVED} does not name plain .arrow files; save the data set again.")
    for name in plain:
        if not (folder / name).is_file():
            raise InputError(f"{folder} lacks {name}, which its {SAVED} names; save the data set again.")
    return [folder / name for name in plain]


@contextmanager
def _text(path: Path, newline: str | None) -> Iterator[TextIO]:
    """Open a file as UTF-8 text, unpacked if it is packed; a packed file of absurd size is refused on the way."""
    if not path.name.lower().endswith(".gz"):
        with path.open(encoding="utf-8-sig", newline=newline) as plain:
            yield plain
        return
    try:
        with gzip.open(path, "rb") as packed:
            whole = io.BufferedReader(_Bounded(packed, path))
            yield io.TextIOWrapper(whole, encoding="utf-8-sig", newline=newline)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InputError(f"{path} is no whole gzip file: {reason(error)}.") from error


class _Bounded(io.RawIOBase):
    """A file being unpacked, up to :data:`_LARGEST` bytes."""

    def __init__(self, packed: Any, path: Path) -> None:
        self._packed, self._path, self._size = packed, path, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        number = int(self._packed.readinto(buffer))
        self._size += number
        if self._size > _LARGEST:
            raise InputError(
                f"{self._path} has more than {_LARGEST // 2**20} MB unpacked; unpack it yourself."
            )
        return number
