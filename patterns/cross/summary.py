"""What ``classify-heads --stack cross`` found, as its ``summary.json`` holds it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NotRequired, TypedDict

from models.checkpoints import ModelRecord
from models.common.provenance import Provenance
from models.tasks.rows import RowsRecord

NOT_CLASSIFIED = (
    "Maps of cross-attention are measured and not classified: the patterns are defined by a map's diagonal, and these "
    "have none to speak of. So there are no patterns and no interpretable ratio."
)


class Measured(TypedDict):
    """One kind of maps."""

    means: dict[str, float | None]
    """Of each measure, over all examples and heads."""
    measured_maps: int
    empty_maps: int


class CrossProvenance(Provenance):
    """Where the numbers come from."""

    model: ModelRecord
    data: RowsRecord
    inputs: Mapping[str, object]
    device: str
    device_map: dict[str, str] | None
    dtype: str


class CrossSummary(TypedDict):
    """All of it: what ``summary.json`` holds."""

    model: str
    task: str
    task_definition: NotRequired[Mapping[str, object]]
    """Of a task of the user's own."""
    split: str | None
    examples: int
    seed: int
    stack: str
    note: str
    """That nothing was classified."""
    measures: dict[str, str]
    """What each means."""
    maps: dict[str, Measured]
    """By kind."""
    heads: int
    max_length: int
    warnings: list[str]
    provenance: CrossProvenance
