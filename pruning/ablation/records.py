"""What the files of ``ablate-patterns`` hold: lines of its history, and its summary."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NotRequired, TypedDict

from models.common.provenance import SourceRecord

from ..search.records import SearchProvenance


class SetsLine(TypedDict):
    """A pass over all examples, with some sets of heads closed, as ``history.jsonl`` has it."""

    iteration: int
    sets: int
    masks: str
    """What the sets of this pass are known by."""
    scores: list[float]
    losses: list[float]
    seconds: float


class Random(TypedDict):
    """The drops of random sets of as many heads."""

    mean: float
    ci95: list[float]
    """The middle 95% of the draws."""
    as_large: int
    """How many of them drop at least as far."""


class Tested(TypedDict):
    """A test, corrected for how many there are; None: it cannot be tested."""

    p_value: float | None
    smallest_p: float | None
    p_holm: float | None
    verdict: str
    why: str
    """Why it cannot be tested, where that is so."""


class Beside(Tested):
    """All heads of a group closed, beside random sets of as many in every layer."""

    score: float | None
    drop: float | None
    drop_ci95: list[float | None]
    """Over inputs; None where there is none."""
    loss: float | None
    loss_increase: float | None
    random: Random | None
    draws: int
    layers: dict[str, list[int]]
    """By layer that has heads of the group: how many, and how many others there are to draw."""


class OneByOne(Tested):
    """Heads of a group closed alone, beside the others of their layers closed alone."""

    mean_drop: float
    others: float | None
    """The mean drop of all other heads."""
    by_layers: float | None
    """What of the difference of these two is explained by the layers in which they lie."""
    difference: float | None
    """The rest, which is tested."""
    ci95: list[float | None]
    permutations: int


class GroupRecord(TypedDict):
    """A group of heads, and what closing them costs."""

    kind: str
    sort: str
    name: str
    title: str
    heads: int
    together: Beside
    one_by_one: OneByOne | None
    """None if single heads were not closed, or the group has none."""


class AblationProvenance(SearchProvenance):
    """Where an ablation's result comes from."""

    subnetwork: SourceRecord | None
    classifiers: dict[str, dict[str, str]]
    device: str


class HeadsCounted(TypedDict):
    """Which heads can be closed."""

    counted: int
    all: int


class AblationSummary(TypedDict):
    """What ``summary.json`` of ``ablate-patterns`` holds."""

    command: str
    model: str
    revision: str | None
    model_sha256: str | None
    task: str
    task_definition: NotRequired[Mapping[str, object]]
    data: str
    data_sha256: str | None
    split: str
    examples: int
    max_length: int
    subnetwork: str | None
    subnetwork_sha256: str | None
    maps: list[str]
    pattern_examples: int
    groups: list[str]
    by: str
    share: float | None
    how: str
    draws: int
    alone: bool
    permutations: int
    seed: int
    metric: str
    score: float
    loss: float
    majority_score: float
    heads: HeadsCounted
    found: list[GroupRecord]
    notes: dict[str, str]
    inputs: Mapping[str, object]
    warnings: list[str]
    provenance: AblationProvenance
