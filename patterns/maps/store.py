"""Maps on disk: Parquet files that stream in and out, and the check that a map is a map.

A folder holds ``maps-00000.parquet``, ``maps-00001.parquet``, ... with one row per map (see :data:`SCHEMA`).
The cells are float16, and a float32 column ``scale`` says what they were divided by: **stored map times scale
is the map**. The scale is 1 as long as the map's maximum lies in the range that float16 holds well
(2**-10 to 65504); beyond it, on either side, the map is divided by its maximum and the scale is that maximum.
So a cell is off by at most 1/2048 of itself, or by 1/32000 of the map's maximum where it is far smaller.
"""

import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from models.common.errors import InputError, is_unicode
from models.common.files import atomic_file
from models.common.footers import values_in_a_row
from models.common.reading import reading, regular_file

from ..taxonomy import KINDS

SCHEMA = pa.schema(
    [(name, pa.string()) for name in ("id", "kind", "base_model", "model", "task")]
    + [(name, pa.int64()) for name in ("example", "layer", "head", "n_tokens")]
    + [("segment_borders", pa.list_(pa.int64())), ("scale", pa.float32())]
    + [("map", pa.list_(pa.list_(pa.float16())))]
)
"""One row per map. Unknown numbers are -1, unknown strings are empty."""

METADATA: tuple[str, ...] = tuple(SCHEMA.names[:-2])
"""The columns that describe a map, in order."""

UNKNOWN: dict[str, Any] = dict(zip(METADATA, [""] * 5 + [-1] * 4 + [()], strict=True))
"""What stands for an unknown value of each of these columns."""

# Smallest and largest maximum of a map that is stored with scale 1.
_HELD_WELL = (2.0**-10, 65504.0)
# A row group is written once this many cells wait (8 MB of float16), so memory stays flat.
_CELLS_IN_MEMORY = 2**22
# A file may say that a map, or a text, has more values than memory: so many in a row at most, 8192 x 8192 cells.
_LARGEST_ROW = 2**26
# So many values are read at once, however many rows they are.
_VALUES_AT_ONCE = 2**24


def is_causal(values: np.ndarray) -> bool:
    """Whether nothing lies above the diagonal of a map ``[n, n]``."""
    return not np.triu(values, 1).any()


def check_map(values: Any, where: str, relative: bool = False) -> np.ndarray:
    """Return `values` as one map: float32 ``[n, n]``, finite, non-negative, not all zero.

    Args:
        values: a numpy array, a nested list or a torch tensor (any device, fp16, bf16, fp32, fp64).
        where: what the values are, for the message: a file or an id.
        relative: divide by the maximum, so that no scale is too large or too small for float32.

    Returns:
        Contiguous float32; the very array that was given if it is that already.

    Raises:
        InputError: one sentence with `where`, what is wrong and what would be right.
    """
    array = _as_array(values, where)
    if array.ndim != 2 or array.shape[0] != array.shape[1]:
        raise InputError(f"{where} is not a map: its shape is {array.shape}, and a map is square, (n, n).")
    if len(array) < 2:
        raise InputError(f"{where} is too small for a map: n is {len(array)}; at least 2 tokens are needed.")
    wrong = "negative" if (array < 0).any() else "" if np.isfinite(array).all() else "NaN or infinite"
    if wrong:
        raise InputError(f"{where} holds {wrong} values; the cells of a map are finite and at least 0.")
    if relative and array.any():
        array = array.astype(np.float64) / float(array.max())
    with np.errstate(over="ignore", under="ignore"):
        result = np.ascontiguousarray(array, dtype=np.float32)
    if not np.isfinite(result).all():
        raise InputError(f"{where} holds values beyond float32; divide the map by its maximum.")
    if not result.any():
        raise InputError(f"{where} is zero in every cell (as float32); a map has at least one positive cell.")
    return result


@dataclass(frozen=True, eq=False)
class MapRow:
    """One map and where it comes from. Building one checks it (InputError).

    ``id``: unique, not empty. ``kind``: ``raw`` or ``norm``. ``model``: the model observed; ``base_model``: the one
    it was fine-tuned or cut from; ``task``: the task of the input ("" if unknown, all three). ``example``: position
    of the input in its data; ``layer``, ``head``: from 0 (-1 if unknown, all three). ``n_tokens``: the n of the map,
    real tokens only. ``segment_borders``: positions of the separator tokens, from 0. ``map``: float32 ``[n, n]``,
    row = query token, column = key token.
    """

    id: str
    kind: str
    base_model: str
    model: str
    task: str
    example: int
    layer: int
    head: int
    n_tokens: int
    segment_borders: tuple[int, ...]
    map: np.ndarray = field(repr=False)

    def __post_init__(self) -> None:
        if not self.id:
            raise InputError("a map has an empty id; give every map a name of its own.")
        for name in ("id", "base_model", "model", "task"):
            if not is_unicode(getattr(self, name)):
                raise InputError(
                    f"map {self.id} has a {name} that is no UTF-8 text, {getattr(self, name)!r}; rename it."
                )
        if self.kind not in KINDS:
            raise InputError(f"map {self.id} has kind {self.kind!r}; choose one of {', '.join(KINDS)}.")
        changes: dict[str, Any] = {"map": check_map(self.map, f"map {self.id}")}
        changes |= {name: int(getattr(self, name)) for name in ("example", "layer", "head", "n_tokens")}
        changes["segment_borders"] = tuple(int(border) for border in self.segment_borders)
        for name, value in changes.items():
            object.__setattr__(self, name, value)
        n = len(self.map)
        outside = any(not 0 <= border < n for border in self.segment_borders)
        low = min(self.example, self.layer, self.head) < -1
        for wrong, what in (
            (self.n_tokens != n, f"{n} rows but n_tokens {self.n_tokens}; crop it to its real tokens"),
            (outside, f"segment borders {list(self.segment_borders)}; they lie between 0 and {n - 1}"),
            (low, "an example, layer or head below -1; they count from 0, and -1 means unknown"),
        ):
            if wrong:
                raise InputError(f"map {self.id} has {what}.")


class MapWriter:
    """Writes maps to a folder one by one, holding a few megabytes at most.

    ``with MapWriter(folder) as writer: writer.add(row)``. A file appears under its name only when it is whole;
    if the block fails, none of this writer's files stay. Without any map it leaves one file without rows.

    Raises:
        InputError: the folder holds maps already, or `rows_per_file` is below 1.
    """

    def __init__(self, folder: str | Path, rows_per_file: int = 1000) -> None:
        self.folder, self.rows_per_file = Path(folder), rows_per_file
        self._files: list[Path] = []
        self._waiting: list[MapRow] = []
        self._rows_in_file = self._cells_waiting = 0
        self._open_file = ExitStack()
        self._writer: pq.ParquetWriter | None = None

    def __enter__(self) -> Self:
        if self.rows_per_file < 1:
            raise InputError(f"rows_per_file is {self.rows_per_file}; it must be at least 1.")
        if map_files(self.folder):
            raise InputError(f"{self.folder} holds maps already; give a new or empty folder.")
        self.folder.mkdir(parents=True, exist_ok=True)
        return self

    def add(self, row: MapRow) -> None:
        """Add one map."""
        self._waiting.append(row)
        self._rows_in_file += 1
        self._cells_waiting += row.map.size
        if self._cells_waiting >= _CELLS_IN_MEMORY:
            self._write_waiting()
        if self._rows_in_file >= self.rows_per_file:
            self._finish_file()

    def __exit__(self, *error: Any) -> None:
        try:
            if error[0] is None and (self._rows_in_file or not self._files):
                self._finish_file()
        except BaseException:
            self._abandon(*sys.exc_info())
            raise
        if error[0] is not None:
            self._abandon(*error)

    def _abandon(self, *error: Any) -> None:
        if self._writer is not None:
            with suppress(OSError, pa.ArrowException):
                self._writer.close()
        self._open_file.__exit__(*error)
        for path in self._files:
            path.unlink(missing_ok=True)

    def _write_waiting(self) -> None:
        if self._writer is None:
            self._files.append(self.folder / f"maps-{len(self._files):05d}.parquet")
            temporary = self._open_file.enter_context(atomic_file(self._files[-1]))
            names: Any = ["kind", "base_model", "model", "task"]
            self._writer = pq.ParquetWriter(
                temporary, SCHEMA, compression="zstd", use_dictionary=names, write_page_checksum=True
            )
        self._writer.write_table(_to_table(self._waiting))
        self._waiting, self._cells_waiting = [], 0

    def _finish_file(self) -> None:
        if self._waiting or self._writer is None:
            self._write_waiting()
        if self._writer is not None:
            self._writer.close()
        self._open_file.close()
        self._writer, self._rows_in_file = None, 0


def write_maps(folder: str | Path, rows: Iterable[MapRow], rows_per_file: int = 1000) -> None:
    """Write `rows` to `folder` as ``maps-*.parquet``, streaming; errors as :class:`MapWriter`."""
    with MapWriter(folder, rows_per_file) as writer:
        for row in rows:
            writer.add(row)


def map_files(folder: str | Path) -> list[Path]:
    """Return the ``maps-*.parquet`` of a folder, in order; empty if there are none."""
    return sorted(Path(folder).glob("maps-*.parquet"))


def iter_maps(folder: str | Path) -> Iterator[MapRow]:
    """Yield the maps of a folder in the order they were written, a few hundred in memory at a time.

    Raises:
        InputError: there are none; or a file is truncated, lacks columns or holds what is no map (it is named).
    """
    files = map_files(folder)
    if not files:
        raise InputError(f"{folder} holds no maps-*.parquet; give a folder that headscope saved.")
    for path in files:
        for batch in read_parquet(path, SCHEMA.names):
            yield from _from_batch(batch, path)


def read_maps(folder: str | Path) -> list[MapRow]:
    """Read all maps of a folder; errors as :func:`iter_maps`."""
    return list(iter_maps(folder))


def read_parquet(path: Path, columns: Sequence[str], batch_size: int = 256) -> Iterator[pa.RecordBatch]:
    """Yield the record batches of a Parquet file with just these columns; checksums of its pages are compared.

    Raises:
        InputError: the file cannot be read, a column is missing, or a row would not fit in memory; it names the file.
    """
    path = regular_file(path, "a Parquet file")
    with (
        reading(path, "a whole Parquet file", "copy or write it again", verb="is not"),
        pq.ParquetFile(path, page_checksum_verification=True) as file,
    ):
        missing = [name for name in columns if name not in file.schema_arrow.names]
        if missing:
            raise InputError(f"{path} lacks the columns {', '.join(missing)}; it needs {', '.join(columns)}.")
        most = values_in_a_row(path, set(columns))
        if most > _LARGEST_ROW:
            raise ValueError(f"it says that a row has {most} values, and {_LARGEST_ROW} are the most")
        rows_at_once = min(batch_size, _VALUES_AT_ONCE // most or 1)
        for batch in file.iter_batches(rows_at_once, columns=list(columns)):
            batch.validate(full=True)
            yield batch


def stored(map: np.ndarray) -> tuple[np.ndarray, float]:
    """Return what is written for a map: float16 ``[n, n]`` and the scale, whose product is the map."""
    maximum = float(map.max())
    if _HELD_WELL[0] <= maximum <= _HELD_WELL[1]:
        return map.astype(np.float16), 1.0
    return (map.astype(np.float64) / maximum).astype(np.float16), maximum


def list_array(maps: Sequence[np.ndarray]) -> pa.ListArray:
    """Return the maps, ``[n, n]`` each, as one Arrow array of lists of lists, without a Python loop over cells."""
    sizes = [len(map) for map in maps]
    cells = np.concatenate([map.ravel() for map in maps]) if maps else np.empty(0, np.float16)
    row_starts = np.concatenate([[0], np.cumsum(np.repeat(sizes, sizes))]).astype(np.int32)
    map_starts = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int32)
    return pa.ListArray.from_arrays(map_starts, pa.ListArray.from_arrays(row_starts, pa.array(cells)))


def _as_array(values: Any, where: str) -> np.ndarray:
    try:
        if hasattr(values, "detach"):
            values = values.detach().cpu()
            if "bfloat16" in str(values.dtype):  # numpy has none
                values = values.float()
            values = values.numpy()
        array = np.asarray(values)
    except (ValueError, TypeError, RuntimeError) as error:
        raise InputError(f"{where} is not a map: it is no array; give n rows of n numbers.") from error
    if array.dtype.kind not in "fiub":
        raise InputError(f"{where} is not a map: it holds {array.dtype} instead of numbers.")
    return array


def _to_table(rows: Sequence[MapRow]) -> pa.Table:
    columns: dict[str, Any] = {name: [getattr(row, name) for row in rows] for name in METADATA}
    pairs = [stored(row.map) for row in rows]
    columns["scale"] = [scale for _, scale in pairs]
    columns["map"] = list_array([cells for cells, _ in pairs])
    return pa.table(columns, schema=SCHEMA)


def _from_batch(batch: pa.RecordBatch, path: Path) -> Iterator[MapRow]:
    kinds = {field.name: field.type for field in SCHEMA} | {"map": pa.list_(pa.list_(pa.float32()))}
    with reading(path, "a table of maps, a column is of the wrong type", verb="is not"):
        table = pa.table({name: batch.column(name).cast(kind) for name, kind in kinds.items()})
    for row, cells in zip(table.drop_columns("map").to_pylist(), table["map"], strict=True):
        name = f"{path}, map {row['id']}"
        scale = np.float32(row.pop("scale") or 0)
        if not 0 < scale < np.inf:
            raise InputError(f"{name}: the scale is {scale}; it must be a positive number.")
        values = check_map(_square(cells, name), name) * scale
        try:
            yield MapRow(map=values, **{key: UNKNOWN[key] if row[key] is None else row[key] for key in row})
        except InputError as error:
            raise InputError(f"{path}: {error}") from error


def _square(cells: Any, name: str) -> np.ndarray:
    """Return a list of lists as an array ``[n, n]`` by reshaping its flat cells."""
    rows = cells.values
    if rows is None or rows.null_count or (set(np.diff(rows.offsets.to_numpy()).tolist()) - {len(rows)}):
        raise InputError(f"{name} is not a map: its rows are missing or not as long as they are many.")
    flat: np.ndarray = rows.flatten().to_numpy(zero_copy_only=False)
    return flat.reshape(len(rows), len(rows))
