"""What ``classify-heads`` found, as its ``summary.json`` holds it, and the names of its files."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NotRequired, TypedDict

from models.checkpoints import ModelRecord
from models.common.provenance import Provenance, SourceRecord
from models.tasks.rows import RowsRecord

SUMMARY, REPORT = "summary.json", "report.html"
HEADS, MAPS, DISTRIBUTION = "heads.parquet", "maps.parquet", "distribution.csv"
HEADS_FIGURE, DISTRIBUTION_FIGURE, BARS = "heads", "distribution", "distribution_bars"
"""Without their endings."""


class Shares(TypedDict):
    """How often which pattern occurs; an interval that has no value is null."""

    distribution: dict[str, float]
    interpretable_ratio: float
    interpretable_ratio_ci95: list[float | None]
    interpretable_ratio_ci95_covers: str
    classified_maps: int
    empty_maps: int


class EstimateSummary(TypedDict):
    """Shares from labels of some maps and predictions for all."""

    distribution: dict[str, float]
    interpretable_ratio: float
    interpretable_ratio_ci95: list[float]
    interpretable_ratio_ci95_covers: str
    standard_error: float
    labels: int
    inputs: int
    """That these are of."""
    predictions: int
    tuning: float
    """lambda of PPI++: 0 is labels alone, 1 takes predictions in full."""
    labels_alone: dict[str, float | list[float]]
    """Ratio, interval and standard error of the labels without predictions."""


class KindSummary(Shares):
    """One kind of maps."""

    estimate: EstimateSummary | None
    """What to read first, where there are labels."""
    error_elsewhere: str
    """How far the plain ratio was off on models that the classifier never saw, in words."""
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


class RoleSummary(TypedDict):
    """Which heads do what, where that was measured."""

    heads: dict[str, dict[str, list[list[int]]]]
    """By kind and role: layer and head of those that have it."""
    covers: str
    """What the tests behind the roles cover."""
    false_discoveries: float
    """Their rate, over heads."""
    least: float
    """What a role takes of what chance leaves over."""


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
    annotations: SourceRecord | None
    """Labels of a random sample that the estimates were made from."""
    to_estimate: str | None
    """Without these: the command that begins an estimate."""
    maps: dict[str, KindSummary]
    """By kind."""
    heads: Counted
    subnetwork: str | None
    subnetwork_mode: str | None
    stack: NotRequired[str]
    """Of an encoder-decoder, whose heads they are."""
    roles: NotRequired[RoleSummary]
    """Where heads were measured."""
    max_length: int
    control: Control | None
    provenance: ClassifiedProvenance
