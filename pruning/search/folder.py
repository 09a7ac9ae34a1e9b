"""The folder of one search: written after every step, so that a search that was stopped goes on where it was."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar, cast

import numpy as np
import numpy.typing as npt
import pandas as pd

from models.common.errors import InputError
from models.common.files import atomic_file, differences, read_json, write_json
from models.common.outputs import Output, apart
from models.common.reading import (
    check_fields,
    file_digest,
    json_digest,
    parse_json,
    read_frame,
    read_text,
    reading,
)
from models.subnetwork import IMPORTANCE_FILE
from models.weights import SUBNETWORK_FILE, WEIGHT_MASKS_FILE

CONFIG, HISTORY, IMPORTANCE, SUMMARY = "config.json", "history.jsonl", IMPORTANCE_FILE, "summary.json"
SURVIVAL, CHECKSUMS = "survival.parquet", "checksums.json"
"""The checksums are those of all other files of a finished search, and written just before its summary."""
_OURS = (SUMMARY, HISTORY, IMPORTANCE, SUBNETWORK_FILE, WEIGHT_MASKS_FILE, SURVIVAL, CHECKSUMS, CONFIG)
_DAMAGED = "--overwrite starts it anew"

IMPORTANCE_COLUMNS = {
    "iteration": "iu",
    "component": "O",
    "layer": "iu",
    "head": "iu",
    "kept": "b",
    "importance": "f",
    "normalized": "f",
}
"""Columns of ``importance.parquet`` and the kinds of their numpy types."""
SURVIVAL_COLUMNS = {"component": "O", "layer": "iu", "head": "iu", "kept_share": "f"}
"""Likewise of ``survival.parquet``."""

_RECORD = {
    "prune-heads": {
        "phase": "text",
        "heads": "count",
        "mlps": "count",
        "score": "score",
        "loss": "number",
        "examples": "count",
        "accepted": "flag",
    },
    "prune-weights": {"step": "count", "kept_share": "number", "score": "score", "accepted": "flag"},
}
_SIZE = {"kept": "count", "all": "count"}
_OF_SUMMARY: dict[str, dict[str, Any]] = {
    "prune-heads": {
        "heads": _SIZE,
        "mlps": _SIZE,
        "encoder_share": {"parameters": "number", "flops": "number"},
    },
    "prune-weights": {"weights": _SIZE, "ended": "text"},
}
_OF_EVERY_SUMMARY = {
    **dict.fromkeys(("command", "model", "task", "split", "metric"), "text"),
    **dict.fromkeys(("threshold", "full_score", "score"), "number"),
    **dict.fromkeys(("examples", "iterations"), "count"),
    "warnings": "texts",
    "reported_on": {"held_out": "flag"},
}

Say = Callable[[str], None]
"""What a search tells its lines to."""


Line = TypeVar("Line", bound=Mapping[str, object])
Summary = TypeVar("Summary", bound=Mapping[str, object])


class SearchFolder(Generic[Line, Summary]):
    """A search on disk: its config, its history so far, and at the end its result.

    Its lines and its summary are those of one command: see :mod:`pruning.search.records`.

    Args:
        path: a new or empty folder, or that of a search with the same config, which is continued.
        config: everything that decides the result; ready for JSON.
        provenance: written with the config, and not compared.
        overwrite: delete the files of an earlier search first.
        inputs: what is read, from which the folder has to be apart.

    Raises:
        InputError: the folder holds something else, or a search with another config; the differences are named.
            Or another run is at work on it.
    """

    noun: ClassVar[str] = "a search"
    """What errors call it."""
    config_file: ClassVar[str] = CONFIG
    files: ClassVar[Sequence[str]] = _OURS
    """All that may come to lie in the folder."""
    fields: ClassVar[Mapping[str, Mapping[str, Any]]] = _RECORD
    """By command, what is read of each line of the history."""

    def __init__(
        self,
        path: Path,
        config: Mapping[str, object],
        provenance: Mapping[str, object],
        overwrite: bool = False,
        inputs: tuple[Path | str | None, ...] = (),
    ) -> None:
        self.path = Path(path)
        self._config = dict(config)
        earlier = self.path / self.config_file
        output = Output(self.path, str(config["command"]), overwrite, inputs)
        apart(self.path, inputs)  # before anything is advised
        found: dict[str, object] = {}
        if earlier.is_file() and not overwrite:
            found = check_fields(earlier, read_json(earlier, f"the config of {self.noun}"), {})
        if going_on := "command" in found:  # a model's folder has such a file too
            self._check_same(found, config)
        # Held until the process ends, or nobody has this object any more.
        self._lock = output.begin(self.files, going_on)
        if not going_on:
            write_json(earlier, {**config, "provenance": dict(provenance)})
        self.history: list[Line] = self._read_history()
        """One record an iteration."""

    def close(self) -> None:
        """Let others write to the folder; the end of the process does so too."""
        self._lock.release()

    @property
    def finished(self) -> bool:
        """Whether the search came to its end."""
        return (self.path / SUMMARY).is_file()

    def read_summary(self) -> Summary:
        """Return the summary of a finished search.

        Raises:
            InputError: it cannot be read.
        """
        check_search(self.path, self.files, self.noun)
        file = self.path / SUMMARY
        found = read_json(file, f"the summary of {self.noun}")
        self.check_summary(file, found)
        return cast("Summary", found)  # as far as it is read again, it was looked at above

    def check_summary(self, file: Path, found: Any) -> None:
        """Refuse a summary without what will be read of it.

        Raises:
            InputError: naming the field.
        """
        command = str(self._config.get("command"))
        check_fields(file, found, _OF_EVERY_SUMMARY | _OF_SUMMARY.get(command, {}))
        report = found["reported_on"]
        told = {"examples": "count", "full": "numbers", "subnetwork": "numbers"}
        check_fields(f"{file}, 'reported_on'", report, told if report["held_out"] else {"note": "text"})

    def finish(self, summary: Summary) -> None:
        """Write the summary, by which the search is finished, and before it the checksums of all files."""
        there = {name: file_digest(self.path / name) for name in self.files if (self.path / name).is_file()}
        there.pop(CHECKSUMS, None)
        write_json(self.path / CHECKSUMS, there | {SUMMARY: json_digest(summary)})
        write_json(self.path / SUMMARY, summary)

    def _check_same(self, found: dict[str, object], config: Mapping[str, object]) -> None:
        found.pop("provenance", None)
        if told := differences(found, config):
            raise InputError(
                f"--output {self.path} holds another {self.noun.split()[-1]} ({told}); give a new folder, or "
                "--overwrite to replace it."
            )

    def _read_history(self) -> list[Line]:
        file, what = self.path / HISTORY, f"the history of {self.noun}"
        if not file.is_file():
            return []
        text = read_text(file, what)
        with reading(file, what, _DAMAGED):
            records = [parse_json(line) for line in text.splitlines()]
        fields = {"iteration": "count", **self.fields.get(str(self._config.get("command")), {})}
        known = []
        for number, record in enumerate(records):
            where = f"{file}, line {number + 1}"
            check_fields(where, record, fields)
            if record["iteration"] != number:
                raise InputError(
                    f"{where} is of iteration {record['iteration']} instead of {number}; {_DAMAGED}."
                )
            known.append(record.pop("checksum", None))
        for number, (one, right) in enumerate(zip(known, self._chain(records), strict=True)):
            # Headscope 0.1 wrote none; whatever follows one that has one has one too.
            if one != right and (one is not None or any(known[:number])):
                raise InputError(
                    f"{file}, line {number + 1}, or {self.config_file} beside it, is not what headscope wrote; "
                    f"{_DAMAGED}."
                )
        return cast("list[Line]", records)

    def _chain(self, records: Sequence[Mapping[str, object]]) -> list[str]:
        """Return a checksum for each record, of all that decides the search up to there."""
        last, found = json_digest(self._config), []
        for record in records:
            decides = {key: value for key, value in record.items() if key != "seconds"}
            last = hashlib.sha256((last + json_digest(decides)).encode()).hexdigest()
            found.append(last)
        return found

    def add(self, record: Line) -> None:
        """Append one iteration to the history."""
        self.history.append(record)
        records = zip(self.history, self._chain(self.history), strict=True)
        lines = (
            json.dumps({**one, "checksum": checksum}, allow_nan=False) + "\n" for one, checksum in records
        )
        with atomic_file(self.path / HISTORY) as temporary:
            temporary.write_text("".join(lines), encoding="utf-8")

    def write_importance(self, table: pd.DataFrame) -> None:
        """Write the importances of all iterations so far."""
        with atomic_file(self.path / IMPORTANCE) as temporary:
            table.to_parquet(temporary, index=False, write_page_checksum=True)

    def read_importance(self) -> pd.DataFrame | None:
        """Read what :meth:`write_importance` wrote; None if nothing was.

        Raises:
            InputError: it cannot be read.
        """
        file = self.path / IMPORTANCE
        return read_frame(file, IMPORTANCE_COLUMNS, "the importances of a search") if file.is_file() else None


def check_search(folder: Path, files: Sequence[str] = _OURS, noun: str = "a search") -> None:
    """Compare the files of a finished search with their checksums; one from headscope 0.1 has none.

    Args:
        folder: that it lies in.
        files: that it may have.
        noun: what errors call it.

    Raises:
        InputError: a file is missing or is not what headscope wrote.
    """
    file = folder / CHECKSUMS
    if not file.is_file():
        return
    known = check_fields(file, read_json(file, f"the checksums of {noun}"), {})
    check_fields(folder, {file.name: known}, {file.name: "texts by name"})
    for name, checksum in known.items():
        if name not in files:
            raise InputError(f"{file} names {name!r}, which is no file of {noun}; {_DAMAGED}.")
        if not (folder / name).is_file():
            if name == SUMMARY:  # it was stopped between the two
                continue
            raise InputError(f"{folder} lacks {name}, which was there when it ended; {_DAMAGED}.")
        found = (
            json_digest(read_json(folder / name, f"the summary of {noun}"))
            if name == SUMMARY
            else file_digest(folder / name)
        )
        if found != checksum:
            raise InputError(f"{folder / name} is not what headscope wrote there; {_DAMAGED}.")


def components(n_layers: int, n_heads: int) -> dict[str, npt.ArrayLike]:
    """Return the columns ``component, layer, head`` of a table with a row a head, then a row an MLP (head -1)."""
    layers = np.arange(n_layers)
    return {
        "component": ["head"] * (n_layers * n_heads) + ["mlp"] * n_layers,
        "layer": np.r_[np.repeat(layers, n_heads), layers],
        "head": np.r_[np.tile(np.arange(n_heads), n_layers), np.full(n_layers, -1)],
    }
