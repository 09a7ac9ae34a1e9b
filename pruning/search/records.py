"""What the files of a search hold: lines of its history, and its summary."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NotRequired, TypedDict

from models.checkpoints import ModelRecord
from models.common.provenance import Provenance
from models.tasks.rows import RowsRecord


class SubjectRecord(TypedDict):
    """What decides a search's result, but for how it searches."""

    model: str
    revision: str | None
    model_sha256: str | None
    task: str
    task_definition: NotRequired[Mapping[str, object]]
    """Of a task of the user's own."""
    seed: int
    data: str
    data_sha256: str | None
    split: str
    examples: int
    holdout: float
    max_length: int


class SearchProvenance(Provenance):
    """Where a search's result comes from."""

    model: ModelRecord
    data: RowsRecord


class HeadsLine(TypedDict):
    """An iteration of ``prune-heads``, as ``history.jsonl`` has it."""

    iteration: int
    phase: str
    heads: int
    mlps: int
    metric: str
    score: float | None
    loss: float
    examples: int
    accepted: bool
    removed_heads: list[list[int]]
    removed_mlps: list[int]
    importances: NotRequired[str]
    """What those of this iteration are known by; headscope 0.1 did not say."""
    seconds: float


class WeightsLine(TypedDict):
    """An iteration of ``prune-weights``, as ``history.jsonl`` has it."""

    iteration: int
    step: int
    kept_share: float
    score: float | None
    accepted: bool
    metric: str
    seconds: float


class Size(TypedDict):
    """How much is kept of how much."""

    kept: int
    all: int


class Shares(TypedDict):
    """What is left of the encoder."""

    parameters: float
    flops: float


class Floor(TypedDict):
    """The score to reach beside that of always saying the commonest label."""

    threshold_score: float
    majority_score: float
    testable: bool


class ReportedOn(TypedDict):
    """The scores on examples that the search has not seen, or a note that there are none."""

    split: str
    held_out: bool
    note: NotRequired[str]
    examples: NotRequired[int]
    full: NotRequired[dict[str, float]]
    subnetwork: NotRequired[dict[str, float]]


class SearchSummary(SubjectRecord, Floor):
    """What every search's ``summary.json`` holds."""

    command: str
    threshold: float
    metric: str
    full_score: float
    score: float
    iterations: int
    reported_on: ReportedOn
    inputs: Mapping[str, object]
    warnings: list[str]
    provenance: SearchProvenance


class HeadsSettings(TypedDict):
    """The fields of :class:`pruning.StructuredSearch` that are read again; it has more."""

    what: str
    threshold: float


class HeadsSummary(SearchSummary):
    """Of ``prune-heads``."""

    what: str
    heads: Size
    mlps: Size
    encoder_share: Shares


class WeightsSummary(SearchSummary):
    """Of ``prune-weights``."""

    fraction: float
    max_steps: int | None
    last_bias: bool
    criterion: NotRequired[str]
    """Unless it is ``magnitude``."""
    weights: Size
    ended: str
