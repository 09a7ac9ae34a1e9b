"""Which texts a model is looked at on: rows of a task, or a file of the user's own."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..common.errors import InputError
from .rows import Rows, load_rows, load_text
from .task import Task, task_named


@dataclass(frozen=True)
class RowSource:
    """Rows of a task, or the lines of a file of texts.

    Raises:
        InputError: there is neither or both, the task is unknown, or data or a split is given besides a file.
    """

    task: str | Task | None
    data: str | None
    split: str
    text: Path | str | None

    def __post_init__(self) -> None:
        if (self.task is None) == (self.text is None):
            raise InputError(
                "Give either --task, whose rows are looked at, or --text FILE, with one text a line."
            )
        if self.task is not None:
            task_named(self.task)
        elif self.data is not None or self.split != "validation":
            raise InputError("--data and --split are of a task; --text FILE is read whole.")

    @property
    def inputs(self) -> tuple[str | Path | None, ...]:
        """What is read, where no output may lie."""
        return (self.data if self.task is None else task_named(self.task).source(self.data), self.text)

    def load(self) -> tuple[Task, Rows]:
        """Return the task, for a file one that only says what its texts are, and the rows.

        Raises:
            InputError: as :func:`models.tasks.rows.load_rows` and :func:`models.tasks.rows.load_text`.
        """
        if self.text is not None:
            return load_text(self.text)
        task = task_named(self.task or "")
        return task, load_rows(task, self.data, self.split)
