"""The footer of a Parquet file, read here: of a damaged one, pyarrow's own view of its columns ends the process."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

_DEEPEST = 32  # structures within each other
_BOOLS = (1, 2)


def values_in_a_row(path: Path, columns: set[str]) -> int:
    """Return how many values the longest of these columns has in a row, on average over a row group; 1 at least.

    Raises:
        ValueError, IndexError, KeyError, TypeError, AttributeError: the footer is damaged.
    """
    most = 1
    for group in _footer(path).get(4, ()):
        for chunk in group[1]:
            about = chunk[3]
            if about[3][0].decode(errors="replace") in columns:
                most = max(most, -(-about[5] // max(group[3], 1)))
    return most


def _footer(path: Path) -> dict[int, Any]:
    """Return a file's metadata by the numbers of their fields (``FileMetaData`` of parquet.thrift)."""
    with path.open("rb") as file:
        end = file.seek(-8, 2)
        size = int.from_bytes(file.read(4), "little")
        if size > end:
            raise ValueError("its footer is longer than the file")
        file.seek(end - size)
        found: dict[int, Any] = _Compact(file.read(size)).structure(0)
    return found


class _Compact:
    """Thrift's compact protocol: structures as tables by the numbers of their fields."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    def structure(self, depth: int) -> dict[int, Any]:
        if depth > _DEEPEST:
            raise ValueError("its footer is nested too deeply")
        fields: dict[int, Any] = {}
        number = 0
        while head := self._byte():
            step, kind = head >> 4, head & 15
            number = number + step if step else self._number()
            fields[number] = kind == 1 if kind in _BOOLS else self._value(kind, depth)
        return fields

    def _byte(self) -> int:
        self._at += 1
        return self._data[self._at - 1]

    def _bytes(self, size: int) -> bytes:
        if size > len(self._data) - self._at:
            raise ValueError("its footer is cut off")
        self._at += size
        return self._data[self._at - size : self._at]

    def _count(self) -> int:
        value = shift = 0
        while (byte := self._byte()) & 128:
            value |= (byte & 127) << shift
            shift += 7
            if shift > 63:
                raise ValueError("a number in its footer is too large")
        return value | byte << shift

    def _number(self) -> int:
        value = self._count()
        return (value >> 1) ^ -(value & 1)

    def _items(self, depth: int) -> list[Any]:
        head = self._byte()
        size, kind = head >> 4, head & 15
        size = self._count() if size == 15 else size
        if size > len(self._data) - self._at:  # each takes a byte or more
            raise ValueError("its footer is cut off")
        return [self._byte() if kind in _BOOLS else self._value(kind, depth) for _ in range(size)]

    def _pairs(self, depth: int) -> list[Any]:
        if not (size := self._count()):
            return []
        kinds = divmod(self._byte(), 16)
        if size > len(self._data) - self._at:
            raise ValueError("its footer is cut off")
        return [tuple(self._value(kind, depth) for kind in kinds) for _ in range(size)]

    def _value(self, kind: int, depth: int) -> Any:
        readers: dict[int, Callable[[], Any]] = {
            **dict.fromkeys(_BOOLS, self._byte),
            3: self._byte,
            **dict.fromkeys((4, 5, 6), self._number),
            7: lambda: self._bytes(8),
            8: lambda: self._bytes(self._count()),
            **dict.fromkeys((9, 10), lambda: self._items(depth + 1)),
            11: lambda: self._pairs(depth + 1),
            12: lambda: self.structure(depth + 1),
            13: lambda: self._bytes(16),
        }
        if kind not in readers or depth > _DEEPEST:
            raise ValueError("its footer is damaged")
        return readers[kind]()
