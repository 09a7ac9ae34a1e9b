"""What the ``metrics.json`` of a study's steps hold, as far as it is read again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NotRequired, Required, TypedDict

from ..search.records import Size


class StepRecord(TypedDict, total=False):
    """What is told of every step."""

    name: Required[str]
    identity: str
    config: Required[Mapping[str, object]]
    """All that decides its result; see :attr:`pruning.study.plan.Plan.configs`."""
    inputs: Required[dict[str, str | None]]
    """By path, what the steps' outputs that it read were known by."""
    seconds: Required[float]
    cpu_seconds: float
    starts: int
    digest: Required[str]
    """What its outputs are known by."""
    files: Required[dict[str, str]]
    """By name, their checksums."""
    checksum: str
    """Of all the rest of the file; headscope 0.1 wrote none."""


class SubnetworkRecord(TypedDict, total=False):
    """What a step says of the subnetwork that it drew."""

    topped_up_heads: float
    topped_up_mlps: float
    good_heads: float
    good_mlps: float
    good_weights: float
    draw_seed: int
    heads: Size
    mlps: Size
    weights: Size
    encoder_share: float


class PrunedResult(TypedDict):
    """The result of a step that scores the fine-tuned model without what a subnetwork leaves out."""

    task: str
    seed: int | None
    metric: str
    score: float
    scores: dict[str, float]
    examples: int
    subnetwork: SubnetworkRecord


class StepResult(TypedDict):
    """What is read of a finished step, whatever its kind; each kind has more."""

    step: StepRecord
    testable: NotRequired[bool]
    """Of a search: whether its threshold lies above the commonest label's score."""
    warnings: NotRequired[list[str]]


class ScoredResult(StepResult):
    """Of a step that scores a model."""

    metric: str
    score: float | None
    scores: dict[str, float | None]


class TunedResult(ScoredResult):
    """Of the full model's fine-tuning."""

    baselines: dict[str, dict[str, float]]


class PrunedStepResult(ScoredResult):
    """Of a step that scores what a subnetwork leaves."""

    subnetwork: SubnetworkRecord


class Outcome(TypedDict):
    """How many steps of a study are done, and which have failed or wait for one that has."""

    output: str
    steps: int
    done: int
    failed: dict[str, str]
    """By path, the error."""
    left: list[str]


class Conclusion(TypedDict):
    """A question with what a study's data support, a sentence each."""

    key: str
    question: str
    answers: list[str]


class ScoreRow(TypedDict):
    """A row of :attr:`pruning.study.report.data.StudyData.score_summary`; None is no number."""

    task: str
    method: str
    subnetwork: str
    state: str
    metric: str
    seeds: int
    mean: float
    std: float | None
    low: float | None
    high: float | None
    of_full: float | None
    encoder_share: float | None
    majority: float | None
    guessing: float | None
    points: str


class Report(TypedDict):
    """What is shown of a study's report on a terminal."""

    steps: int
    done: int
    """So many of them."""
    scores: list[ScoreRow]
    in_short: list[str]
    conclusions: list[Conclusion]
    warnings: list[str]


class StudyDone(Outcome):
    """What a run of a whole study ends with."""

    report: Report | None
    """None until all is done."""
