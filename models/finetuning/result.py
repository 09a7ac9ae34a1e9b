"""What a fine-tuning ends with, as its ``metrics.json`` holds it, and the same of several seeds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NotRequired, TypedDict

from ..checkpoints import ModelRecord
from ..common.provenance import Provenance
from ..tasks.rows import RowsRecord

METRICS = "metrics.json"
"""A folder that has it is a finished fine-tuning."""


class Epoch(TypedDict):
    """How far the training was after an epoch."""

    epoch: float
    step: int
    loss: float
    """Mean over the epoch's steps."""
    learning_rate: float
    """At its end."""
    scores: dict[str, float]
    """On the dev rows that are selected on."""


class Training(TypedDict):
    """How the training went."""

    seconds: float
    examples_per_second: float
    resumed_at_steps: list[int]
    history: list[Epoch]


class Selection(TypedDict):
    """Which model is kept, and what a reader has to know of the rows it is scored on."""

    model: str
    holdout: float
    selected_on: int
    reported_on: int
    seen_by_search: int | None
    note: str


class FineTuneProvenance(Provenance):
    """Where a fine-tuning's result comes from."""

    model: ModelRecord
    data: dict[str, RowsRecord]
    device: str
    processes: int


class FineTuneResult(TypedDict):
    """What ``metrics.json`` holds."""

    model: str
    task: str
    task_definition: NotRequired[Mapping[str, object]]
    """Of a task of the user's own."""
    seed: int
    metric: str
    """The one that pruning goes by."""
    score: float
    """Its value."""
    scores: dict[str, float]
    selection: Selection
    baselines: dict[str, dict[str, float]]
    examples: dict[str, int]
    parameters: int
    subnetwork: dict[str, object] | None
    settings: dict[str, object]
    training: Training
    inputs: Mapping[str, object]
    warnings: list[str]
    config: Mapping[str, object]
    """All that decides the result."""
    provenance: FineTuneProvenance


class SeveralSeeds(TypedDict):
    """The runs of several seeds with the mean and the standard deviation (ddof 1) of each score."""

    task: str
    metric: str
    seeds: list[int]
    mean: dict[str, float]
    std: dict[str, float | None]
    runs: list[FineTuneResult]
