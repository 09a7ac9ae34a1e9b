"""The one door through which files are read: a regular file, a whole one, or one sentence that says what is wrong.

What headscope writes carries checksums, see :func:`save_safetensors` and :func:`json_digest`, and is compared with
them where it is read again. A file from elsewhere has none and is read as it is.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import stat
import struct
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import HeadscopeError, InputError, one_line

if TYPE_CHECKING:
    import numpy.typing as npt
    import pandas as pd

CHECKSUM = "headscope_sha256"
"""The key of a safetensors file's metadata that holds the SHA-256 of the file, itself counted as zeros."""
UNSET = "0" * 64
"""Keeps the place of a checksum while the rest is written."""
_READABLE = "a readable safetensors file but truncated or corrupt"
_DEEPEST = 100  # lists and tables within each other
_LARGEST_JSON = 256 * 2**20  # bytes; parsed, JSON takes about ten times as much
_LARGEST_HEADER = 100_000_000  # bytes, as the safetensors library has it


def reason(error: BaseException) -> str:
    """Return a library's message as part of one line, to end a sentence of ours with."""
    if isinstance(error, MemoryError):
        return "it asks for more memory than there is"
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    text = getattr(error, "strerror", None) or str(error)
    lines = [line.strip() for line in str(text).splitlines() if line.strip()] or [type(error).__name__]
    return one_line(" ".join(lines[:2]) if lines[0].endswith(":") else lines[0]).rstrip(".!")


def regular_file(path: Path | str, what: str = "a file") -> Path:
    """Return the path of a file that can be read to its end: no folder, pipe or device, of which one would wait.

    Raises:
        InputError: it is none, it does not exist, or one may not look; `what` says what it should have been.
    """
    path = Path(path)
    try:
        mode = path.stat().st_mode
    except FileNotFoundError as error:
        raise InputError(f"{one_line(str(path), 300)} does not exist; it should be {what}.") from error
    except (OSError, ValueError) as error:
        raise InputError(f"{one_line(str(path), 300)} cannot be read as {what}: {reason(error)}.") from error
    if not stat.S_ISREG(mode):
        kind = "a folder" if stat.S_ISDIR(mode) else "a pipe or a device, not a file"
        raise InputError(f"{path} is {kind}; it should be {what}.")
    return path


@contextmanager
def reading(path: Path | str, what: str, advice: str = "", verb: str = "cannot be read as") -> Iterator[None]:
    """Turn whatever a parser raises inside the block into one sentence with the file's name.

    Damaged bytes lead parsers to nearly any exception, Rust's panics included; only those of headscope pass.

    Raises:
        InputError: the block failed; `what` says what the file should have been, `advice` what to do;
            `verb` stands between the file and what it should have been.
    """
    try:
        yield
    except HeadscopeError:
        raise
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        told = f"{one_line(str(path), 300)} {verb} {what}: {reason(error)}"
        raise InputError(f"{told}; {advice}." if advice else f"{told}.") from error


def read_text(path: Path | str, what: str, most: int = _LARGEST_JSON) -> str:
    """Return a file's text in UTF-8, with or without a byte order mark.

    Raises:
        InputError: as :func:`regular_file`; it is no UTF-8, or has more than `most` bytes.
    """
    path = regular_file(path, what)
    with reading(path, what):
        if path.stat().st_size > most:
            raise ValueError(f"it has {path.stat().st_size} bytes, and {most} are the most")
        return path.read_text(encoding="utf-8-sig")


def parse_json(text: str) -> Any:
    """Parse JSON as the standard has it, and nothing that means one thing here and another there.

    Raises:
        ValueError: it is not JSON; a key stands twice; a number is NaN, infinite or too large for a float; or lists
            and tables are nested more than a hundred deep.
    """
    return _no_deeper(
        json.loads(
            text,
            object_pairs_hook=no_key_twice,
            parse_constant=_no_number,
            parse_float=_float,
            parse_int=_int,
        )
    )


def read_json(path: Path | str, what: str = "a JSON file") -> Any:
    """Read JSON, see :func:`parse_json`.

    Raises:
        InputError: the file is missing or is not JSON; `what` says what it should have been.
    """
    text = read_text(path, what)
    with reading(path, what):
        return parse_json(text)


_KINDS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "text": ("text", lambda value: isinstance(value, str)),
    "texts": (
        "a list of texts",
        lambda value: isinstance(value, list) and all(type(one) is str for one in value),
    ),
    "flag": ("true or false", lambda value: isinstance(value, bool)),
    "count": ("a whole number from 0 up", lambda value: type(value) is int and value >= 0),
    "number": ("a number", lambda value: type(value) in (int, float) and math.isfinite(value)),
    "score": ("a number, or null", lambda value: value is None or _is("number", value)),
    "numbers": ("a table of numbers, or nulls", lambda value: _all_are("score", value)),
    "counts": ("a table of whole numbers", lambda value: _all_are("count", value)),
    "texts by name": ("a table of texts", lambda value: _all_are("text", value)),
    "list": ("a list", lambda value: isinstance(value, list)),
}


def check_fields(where: Path | str, value: Any, fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return a table that was read from JSON, after a look at the fields that will be used.

    Args:
        where: the file, for the message.
        value: what was read.
        fields: the kind of each, one of text, texts, flag, count, number, score (or null), numbers, counts (tables
            of them), list; or, of a table within, its own fields.

    Raises:
        InputError: it is no table, or a field is missing or of another kind.
    """
    if not isinstance(value, dict):
        raise InputError(f"{where} holds {one_line(repr(value), 60)} where a table of fields should be.")
    for name, kind in fields.items():
        if name not in value:
            raise InputError(f"{where} lacks {name!r}.")
        if isinstance(kind, Mapping):
            check_fields(f"{where}, {name!r}", value[name], kind)
        elif not _is(kind, value[name]):
            found = one_line(repr(value[name]), 60)
            raise InputError(f"{where}: {name!r} is {found}; it should be {_KINDS[kind][0]}.")
    return value


def _is(kind: str, value: Any) -> bool:
    return _KINDS[kind][1](value)


def _all_are(kind: str, value: Any) -> bool:
    return isinstance(value, dict) and all(_is(kind, one) for one in value.values())


def json_digest(value: Any) -> str:
    """Return a SHA-256 of a value as JSON has it, however it is written: with its keys in order, without spaces."""
    plain = json.loads(json.dumps(value))  # keys as text, tuples as lists
    text = json.dumps(plain, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def file_digest(path: Path | str) -> str:
    """Return a file's SHA-256."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_array(path: Path | str, what: str = "a .npy file of numbers") -> npt.NDArray[Any]:
    """Read one ``.npy`` array of plain numbers or booleans; nothing is ever unpickled.

    Raises:
        InputError: it is no whole file of that kind; its header is compared with its size before anything is allocated.
    """
    import numpy as np

    path = regular_file(path, what)
    with reading(path, what, "pickled objects are never opened"), path.open("rb") as file:
        version = np.lib.format.read_magic(file)
        headers = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }
        if version not in headers:
            raise ValueError(f"its version is {version}")
        shape, fortran, dtype = headers[version](file)
        if dtype.kind not in "biuf":
            raise ValueError(f"it holds {dtype} instead of numbers")
        told, there = math.prod(shape) * dtype.itemsize, os.fstat(file.fileno()).st_size - file.tell()
        if any(type(n) is not int or n < 0 for n in shape) or told != there:
            raise ValueError(f"its header says {dtype} of shape {shape}, but {there} bytes follow")
        values: npt.NDArray[Any] = np.frombuffer(file.read(), dtype).reshape(
            shape, order="F" if fortran else "C"
        )
        if not booleans(values):
            raise ValueError("it holds booleans that are neither 0 nor 1")
    return values


def booleans(values: npt.NDArray[Any]) -> bool:
    """Return whether the bytes of a boolean array are all 0 or 1; others count differently in each operation."""
    import numpy as np

    return values.dtype != np.bool_ or not (values.view(np.uint8) > 1).any()


def read_frame(
    path: Path | str, columns: Mapping[str, str], what: str = "a Parquet file", *, others: bool = False
) -> pd.DataFrame:
    """Read these columns of a Parquet file, its pages' checksums compared where it has any.

    Args:
        path: of the file.
        columns: by name the kinds of numpy's types that each may have, ``iu`` for whole numbers, ``O`` for text.
        what: what the file should be.
        others: whether its other columns are read too.

    Raises:
        InputError: it is damaged, lacks a column, or one holds something else.
    """
    import pyarrow.parquet as pq

    path = regular_file(path, what)
    with reading(path, what):
        # Neither the tables that pandas describes in the file nor folders that look like columns are asked for.
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            missing = [name for name in columns if name not in file.schema_arrow.names]
            if missing:
                raise ValueError(f"it lacks the columns {', '.join(missing)}")
            table = file.read(columns=None if others else list(columns), use_pandas_metadata=False)
        table.validate(full=True)
        frame: pd.DataFrame = table.to_pandas(ignore_metadata=True)
        for name, kinds in columns.items():
            found = frame[name].dtype
            if getattr(found, "kind", "?") not in kinds or (kinds != "O" and frame[name].dtype == object):
                raise ValueError(f"its column {name} holds {found}")
    return frame


@contextmanager
def open_safetensors(
    path: Path | str, what: str = "a safetensors file", framework: str = "numpy"
) -> Iterator[Any]:
    """Yield an opened safetensors file whose checksum, if it has one, is right.

    Raises:
        InputError: it is damaged; or reading from it inside the block fails.
    """
    from safetensors import safe_open

    path = regular_file(path, what)
    verify_safetensors(path, what)
    with reading(path, _READABLE, verb="is not"), safe_open(path, framework=framework) as file:
        yield file


def plain_metadata(file: Any) -> dict[str, str]:
    """Return the metadata of an opened safetensors file without what this module put there."""
    return {key: value for key, value in (file.metadata() or {}).items() if key != CHECKSUM}


def tensors_in(path: Path | str, what: str = "a safetensors file") -> dict[str, tuple[str, tuple[int, ...]]]:
    """Return the type (``F32`` ...) and shape of each tensor in a safetensors file, from its header alone.

    Raises:
        InputError: it is no safetensors file.
    """
    path = regular_file(path, what)
    with reading(path, _READABLE, verb="is not"), path.open("rb") as file:
        told = json.loads(_header(file))
        return {
            name: (str(one["dtype"]), tuple(int(n) for n in one["shape"]))
            for name, one in told.items()
            if name != "__metadata__"
        }


def tensor_shapes(path: Path | str, what: str = "a safetensors file") -> dict[str, tuple[int, ...]]:
    """Return the shape of each tensor in a safetensors file; see :func:`tensors_in`."""
    return {name: shape for name, (_, shape) in tensors_in(path, what).items()}


def save_safetensors(
    save: Callable[..., Any],
    tensors: Mapping[str, Any],
    path: Path | str,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write tensors with `save`, a ``save_file`` of the library; the same ones and metadata give the same bytes.

    The library writes metadata in any order; here they are put in order, and the file's checksum is one of them.

    Raises:
        InputError: the metadata hold the checksum's key.
    """
    if CHECKSUM in (metadata or {}):
        raise InputError(f"The metadata's key {CHECKSUM!r} is for the file's checksum; give it another name.")
    save(dict(tensors), str(path), metadata={**(metadata or {}), CHECKSUM: UNSET})
    seal_safetensors(path)


def seal_safetensors(path: Path | str) -> None:
    """Put the metadata of a file in order, and its checksum where :data:`UNSET` keeps the place of it."""
    with Path(path).open("r+b") as file:
        raw = _header(file)
        header = json.loads(raw)
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        ordered = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode().ljust(len(raw))
        if len(ordered) != len(raw):
            raise ValueError("safetensors writes its header in another way than JSON is written here")
        digest = hashlib.sha256(ordered)
        for block in iter(lambda: file.read(2**20), b""):
            digest.update(block)
        file.seek(8)
        file.write(_with_checksum(ordered, UNSET, digest.hexdigest()))


def verify_safetensors(path: Path | str, what: str = "a safetensors file") -> bool:
    """Compare a safetensors file with the checksum that headscope wrote into it; False if it has none.

    Raises:
        InputError: it is no safetensors file, or is not what was written.
    """
    path = regular_file(path, what)
    with reading(path, _READABLE, verb="is not"), path.open("rb") as file:
        raw = _header(file)
        header = json.loads(raw)
        metadata = header.get("__metadata__") if isinstance(header, dict) else None
        known = metadata.get(CHECKSUM) if isinstance(metadata, dict) else None
        if known is None:
            return False
        digest = hashlib.sha256(_with_checksum(raw, str(known), UNSET))
        for block in iter(lambda: file.read(2**20), b""):
            digest.update(block)
        if digest.hexdigest() != known:
            raise ValueError("it is damaged: its bytes are not those that headscope wrote")
    return True


def _header(file: Any) -> bytes:
    """Return the header of a safetensors file that is at its beginning, and leave it at the first tensor."""
    start = file.read(8)
    if len(start) < 8:
        raise ValueError("it is shorter than a header")
    (size,) = struct.unpack("<Q", start)
    raw: bytes = file.read(size) if size <= _LARGEST_HEADER else b""
    if len(raw) != size:
        raise ValueError("it is cut off, or no safetensors file: its header is not whole")
    return raw


def _with_checksum(header: bytes, old: str, new: str) -> bytes:
    key = f'"{CHECKSUM}":"'.encode()
    return header.replace(key + old.encode(), key + new.encode(), 1)


def no_key_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return a JSON table of these pairs; of a key that stands twice, parsers take one or the other."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = Counter(name for name, _ in pairs)
        raise ValueError(f"the key {one_line(repr(names.most_common(1)[0][0]), 60)} stands twice")
    return found


def _no_number(text: str) -> Any:
    raise ValueError(f"{text} is not a number")


def _float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"the number {one_line(text, 40)} is too large")
    return value


def _int(text: str) -> int:
    if len(text) > 300:
        raise ValueError(f"the number {one_line(text, 40)} is too large")
    return int(text)


def _no_deeper(value: Any) -> Any:
    level = [value]
    for _ in range(_DEEPEST + 1):
        inside = [one for one in level if isinstance(one, dict | list)]
        if not inside:
            return value
        level = [part for one in inside for part in (one.values() if isinstance(one, dict) else one)]
    raise ValueError("it is nested too deeply")
