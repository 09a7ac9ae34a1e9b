"""What ``compare-heads`` found, as its ``summary.json`` holds it."""

from __future__ import annotations

from typing import NotRequired, TypedDict

from models.checkpoints import ModelRecord
from models.common.provenance import Provenance
from models.tasks.rows import RowsRecord


class Share(TypedDict):
    """How many maps show one pattern in the one model and one in the other."""

    maps: int
    share: float
    ci95: list[float | None]


class Change(TypedDict):
    """A number of both models, and how much more it is in the second."""

    a: float | None
    b: float | None
    change: float | None
    ci95: list[float | None]


class KindChanges(TypedDict):
    """What changed in one kind of maps."""

    maps: int
    """That have a pattern in both."""
    agreement: float
    """Share of them that have the same one in both."""
    agreement_ci95: list[float | None]
    transitions: dict[str, dict[str, Share]]
    """From the first model's pattern to the second's."""
    dominant: dict[str, dict[str, int]]
    """Likewise, heads by their dominant patterns."""
    changed: list[list[int]]
    """[layer, head] of those with another dominant pattern."""
    js_distance: float | None
    """The mean over heads."""
    patterns: dict[str, Change]
    """By pattern, its share of the maps."""
    measurements: dict[str, Change]
    """By measurement, its mean over heads and inputs."""


class PairRecord(TypedDict):
    """Two of the models."""

    a: str
    b: str
    heads: int
    """That both have."""
    only_a: int
    only_b: int
    examples: int
    other_tokens: int
    """Inputs of other tokens in the second."""
    maps: dict[str, KindChanges]


class ComparedModel(ModelRecord):
    """One of the models."""

    label: str
    weights: str
    """SHA-256 of the weights as they were loaded, but for task heads and poolers."""
    heads: int
    dtype: str
    device_map: dict[str, str] | None
    """By part, where accelerate has put it; None where it was not asked to."""


class ComparisonProvenance(Provenance):
    """Where the numbers come from."""

    models: list[ComparedModel]
    data: RowsRecord
    classifiers: dict[str, dict[str, str]]
    device: str
    inputs: dict[str, object]


class ComparisonSummary(TypedDict):
    """All of it."""

    models: list[str]
    task: str
    task_definition: NotRequired[dict[str, object]]
    split: str | None
    examples: int
    max_length: int
    seed: int
    maps: list[str]
    layers: int
    heads: int
    """Of each layer of the whole model."""
    pairs: list[PairRecord]
    covers: str
    warnings: list[str]
    provenance: ComparisonProvenance
