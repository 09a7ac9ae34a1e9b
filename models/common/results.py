"""What public functions return: the dictionary it always was, with a table and a figure of it."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

if TYPE_CHECKING:
    import datasets
    import pandas as pd
    from matplotlib.figure import Figure

_T = TypeVar("_T", bound=Mapping[str, Any])

PROVENANCE = "provenance"


class Tabular:
    """What has a table and a figure."""

    @abstractmethod
    def to_frame(self) -> pd.DataFrame:
        """Return its table."""

    def to_dataset(self) -> datasets.Dataset:
        """Return :meth:`to_frame` as a ``datasets.Dataset``."""
        import datasets

        return datasets.Dataset.from_pandas(self.to_frame(), preserve_index=False)

    @abstractmethod
    def plot(self) -> Figure:
        """Draw it."""


class Result(dict[str, Any], Tabular, Generic[_T]):
    """The dictionary that a function found, with a table and a figure of it.

    This one's table is a single row, so that those of several results can be put below each other. Results that hold
    a list of something have a row for each instead.
    """

    def __init__(self, found: _T, title: str = "", shown: Sequence[str] = ()) -> None:
        """Take what was found.

        Args:
            found: ready for JSON.
            title: of the figure.
            shown: the keys of numbers of one unit that the figure shows, or of a dictionary of such numbers.
        """
        super().__init__(found)
        self._title, self._shown = title, tuple(shown)

    @property
    def record(self) -> _T:
        """This dictionary, of which type checkers know the keys."""
        return cast("_T", self)

    def to_frame(self) -> pd.DataFrame:
        """Return one row with every number and text outside lists, a key within another as ``outer.inner``.

        Where the result comes from (``provenance``) is left out.
        """
        import pandas as pd

        return pd.DataFrame([dict(_flat({key: self[key] for key in self if key != PROVENANCE}))])

    def plot(self) -> Figure:
        """Draw its numbers, a mark each, with their 95% intervals where they have some."""
        from .marks import marks

        return marks(self._marks(), self._title)

    def _marks(self) -> pd.DataFrame:
        """Return what the figure shows: ``name, value, low, high``."""
        return marks_of(
            (name.replace(".", ": ", 1).replace("_", " "), value, None, None)
            for name, value in _flat({key: self[key] for key in self._shown})
        )


def marks_of(rows: Iterable[tuple[str, float | None, float | None, float | None]]) -> pd.DataFrame:
    """Return the table that :func:`models.common.marks.marks` draws: names, numbers, ends of their intervals."""
    import pandas as pd

    return pd.DataFrame([*rows], columns=["name", "value", "low", "high"])


def _flat(found: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in found.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{before}{key}.")
        elif not isinstance(value, list | tuple):
            yield f"{before}{key}", value
