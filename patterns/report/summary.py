"""What ``classify-heads`` found, as its ``summary.json`` holds it, and the names of its files."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NotRequired, TypedDict

from models.checkpoints import ModelRecord
from models.common.provenance import Provenance, SourceRecord
from models.tasks.rows import RowsRecord

SUMMARY, REPORT = "summary.json", "report.html"
HEADS, MAPS, DISTRIBUTION = "heads.parquet", "maps.parquet", "distribution.csv"
HEADS_FIGURE, DISTRIBUTION_FIGURE = "heads.png", "distribution.png"


class Shares(TypedDict):
    """How often which pattern occurs; an interval that has no value is null."""

    distribution: dict[str, float]
    interpretable_ratio: float
    interpretable_ratio_ci95: list[float | None]
    interpretable_ratio_ci95_covers: str
    classified_maps: int
    empty_maps: int


class Corrected(TypedDict):
    """The same, corrected for the classifier's errors."""

    distribution: dict[str, float]
    distribution_ci95: dict[str, list[float | None]]
    interpretable_ratio: float
    interpretable_ratio_ci95: list[float | None]
    interpretable_ratio_ci95_covers: str
    misfit: float | None


class KindSummary(Shares):
    """One kind of maps."""

    corrected: Corrected | None
    correction_misfit: float | None
    control: Shares | None
    warnings: list[str]


class Counted(TypedDict):
    """How many heads of how many are counted."""

    counted: int
    all: int


class Control(TypedDict):
    """What the control is, if one was asked for."""

    seed: int
    note: str


class ClassifiedProvenance(Provenance):
    """Where the numbers come from."""

    model: ModelRecord
    data: RowsRecord
    subnetwork: SourceRecord | None
    inputs: Mapping[str, object]
    classifiers: dict[str, dict[str, str]]
    device: str
    device_map: dict[str, str] | None
    """Where accelerate has put the parts of the model."""
    dtype: str


class Summary(TypedDict):
    """All of it: what ``summary.json`` holds."""

    model: str
    task: str
    task_definition: NotRequired[Mapping[str, object]]
    """Of a task of the user's own."""
    split: str | None
    examples: int
    seed: int
    maps: dict[str, KindSummary]
    """By kind."""
    heads: Counted
    subnetwork: str | None
    subnetwork_mode: str | None
    stack: NotRequired[str]
    """Of an encoder-decoder, whose heads they are."""
    max_length: int
    control: Control | None
    provenance: ClassifiedProvenance
