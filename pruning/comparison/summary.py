"""What ``compare-survivors`` found, as its ``summary.json`` and ``patterns.csv`` hold it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, NotRequired, TypedDict

from models.checkpoints import ModelRecord
from models.common.provenance import Provenance
from models.tasks.rows import RowsRecord
from patterns.taxonomy import INTERPRETABLE

from .consistency import SharedHeads, Stable
from .survivor_patterns import SIDES, PatternComparison

if TYPE_CHECKING:
    import pandas as pd


class RunRecord(TypedDict):
    """One search: what was read of it, and how much it keeps."""

    seed: int
    source: str
    files: NotRequired[list[str] | int]
    sha256: str
    heads: int
    mlps: int
    model: str | None


class TaskSummary(Stable):
    """The searches of one task; the last four where patterns were looked at."""

    task: str
    method: str
    seeds: list[int]
    untestable: str | None
    """Why nothing can be said of these survivors, if that is so."""
    runs: list[RunRecord]
    examples: NotRequired[int]
    models: NotRequired[list[str]]
    inputs: NotRequired[dict[str, object]]
    patterns: NotRequired[dict[str, PatternComparison]]
    """By kind of maps."""


class LookedAt(TypedDict):
    """What heads were looked at with."""

    models: list[ModelRecord]
    data: dict[str, RowsRecord]
    classifiers: dict[str, dict[str, str]]
    device: str
    device_map: str | None
    """How accelerate was asked to spread them."""
    dtype: str
    """Precision in which they compute."""


class ComparisonProvenance(Provenance):
    """Where the numbers come from; what follows where patterns were looked at."""

    models: NotRequired[list[ModelRecord]]
    data: NotRequired[dict[str, RowsRecord]]
    classifiers: NotRequired[dict[str, dict[str, str]]]
    device: NotRequired[str]
    device_map: NotRequired[str | None]
    dtype: NotRequired[str]


class Summary(TypedDict):
    """All of it: what ``summary.json`` holds. Split, mode and maps where patterns were looked at."""

    tasks: dict[str, TaskSummary]
    shared_heads: list[SharedHeads]
    seed: int
    notes: dict[str, object]
    provenance: ComparisonProvenance
    split: NotRequired[str]
    subnetwork_mode: NotRequired[str]
    maps: NotRequired[list[str]]
    warnings: list[str]


Patterns = Mapping[str, Mapping[str, PatternComparison]]
"""By task (or whatever stands for one on a page) and kind of maps."""


def patterns_of(summary: Summary) -> dict[str, dict[str, PatternComparison]]:
    """Return by task and kind of maps what :func:`pruning.comparison.survivor_patterns.adjust` returned."""
    return {name: task["patterns"] for name, task in summary["tasks"].items() if "patterns" in task}


def patterns_frame(patterns: Patterns) -> pd.DataFrame:
    """Return one row per task, kind, set of heads and pattern: what ``patterns.csv`` holds.

    Columns: ``task, kind, heads, n_heads, pattern, share, low, high``; the 95% interval is known for
    heterogeneous only.
    """
    import pandas as pd

    rows = []
    for task, kinds in patterns.items():
        for kind, found in kinds.items():
            for side in SIDES:
                if (part := found[side]) is None:
                    continue
                for pattern, share in part["distribution"].items():
                    low, high = part["interpretable_ratio_ci95"] if pattern == INTERPRETABLE else (None, None)
                    row = {"task": task, "kind": kind, "heads": side, "n_heads": part["heads"]}
                    rows.append(row | {"pattern": pattern, "share": share, "low": low, "high": high})
    return pd.DataFrame(rows)
