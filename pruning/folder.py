"""The folder of one search: written after every step, so that a search that was stopped goes on where it was."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from models.errors import InputError
from models.files import atomic_file, differences, read_json, reason, write_json
from models.outputs import Output
from models.weights import SUBNETWORK_FILE, WEIGHT_MASKS_FILE

CONFIG, HISTORY, IMPORTANCE, SUMMARY = "config.json", "history.jsonl", "importance.parquet", "summary.json"
SURVIVAL = "survival.parquet"
_OURS = (SUMMARY, HISTORY, IMPORTANCE, SUBNETWORK_FILE, WEIGHT_MASKS_FILE, SURVIVAL, CONFIG)


Say = Callable[[str], None]
"""What a search tells its lines to."""


class SearchFolder:
    """A search on disk: its config, its history so far, and at the end its result.

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

    def __init__(
        self,
        path: Path,
        config: Mapping[str, Any],
        provenance: Mapping[str, Any],
        overwrite: bool = False,
        inputs: tuple[Path | str | None, ...] = (),
    ) -> None:
        self.path = Path(path)
        earlier = self.path / CONFIG
        going_on = earlier.is_file() and not overwrite
        output = Output(self.path, str(config["command"]), overwrite, inputs)
        if going_on:
            self._check_same(config)
        # Held until the process ends, or nobody has this object any more.
        self._lock = output.begin(_OURS, going_on)
        if not going_on:
            write_json(earlier, {**config, "provenance": dict(provenance)})
        self.history: list[dict[str, Any]] = self._read_history()
        """One record an iteration."""

    @property
    def finished(self) -> bool:
        """Whether the search came to its end."""
        return (self.path / SUMMARY).is_file()

    def read_summary(self) -> dict[str, Any]:
        """Return the summary of a finished search.

        Raises:
            InputError: it cannot be read.
        """
        found = read_json(self.path / SUMMARY, "the summary of a search")
        if not isinstance(found, dict):
            raise InputError(
                f"{self.path / SUMMARY} is not the summary of a search; --overwrite starts anew."
            )
        return found

    def _check_same(self, config: Mapping[str, Any]) -> None:
        file = self.path / CONFIG
        found = read_json(file, "the config of a search")
        if not isinstance(found, dict):
            raise InputError(f"{file} is not the config of a search; give a new folder.")
        found.pop("provenance", None)
        if told := differences(found, config):
            raise InputError(
                f"--output {self.path} holds another search ({told}); give a new folder, or --overwrite to replace it."
            )

    def _read_history(self) -> list[dict[str, Any]]:
        file = self.path / HISTORY
        if not file.is_file():
            return []
        try:
            records = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
            if [record["iteration"] for record in records] != list(range(len(records))):
                raise ValueError("its iterations are not numbered 0, 1, 2")
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise InputError(
                f"{file} is not the history of a search ({reason(error)}); --overwrite starts anew."
            ) from error
        return records

    def add(self, record: dict[str, Any]) -> None:
        """Append one iteration to the history."""
        self.history.append(record)
        lines = "".join(json.dumps(one, allow_nan=False) + "\n" for one in self.history)
        with atomic_file(self.path / HISTORY) as temporary:
            temporary.write_text(lines, encoding="utf-8")

    def write_importance(self, table: pd.DataFrame) -> None:
        """Write the importances of all iterations so far."""
        with atomic_file(self.path / IMPORTANCE) as temporary:
            table.to_parquet(temporary, index=False)

    def read_importance(self) -> pd.DataFrame | None:
        """Read what :meth:`write_importance` wrote; None if nothing was.

        Raises:
            InputError: it cannot be read.
        """
        file = self.path / IMPORTANCE
        if not file.is_file():
            return None
        try:
            return pd.read_parquet(file)
        except (OSError, ValueError) as error:
            raise InputError(
                f"{file} cannot be read ({reason(error)}); --overwrite starts the search anew."
            ) from error


def components(n_layers: int, n_heads: int) -> dict[str, Any]:
    """Return the columns ``component, layer, head`` of a table with a row a head, then a row an MLP (head -1)."""
    layers = np.arange(n_layers)
    return {
        "component": ["head"] * (n_layers * n_heads) + ["mlp"] * n_layers,
        "layer": np.r_[np.repeat(layers, n_heads), layers],
        "head": np.r_[np.tile(np.arange(n_heads), n_layers), np.full(n_layers, -1)],
    }
