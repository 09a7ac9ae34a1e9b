"""What a search is about: a fine-tuned model, the examples that decide, and those that are reported on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import isnan
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch

from models.checkpoints import Checkpoint, load_checkpoint, model_record, pick_device
from models.common.errors import InputError
from models.common.provenance import provenance
from models.common.reading import read_json
from models.evaluation import Examples, examples_of, predict
from models.finetuning.result import METRICS
from models.tasks.metrics import baselines, threshold_metric
from models.tasks.rows import Row, Rows, apart, hold_out, load_rows
from models.tasks.task import Task, task_named

from ..importance import Importance
from .records import Floor, ReportedOn, SearchProvenance, SubjectRecord

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_DRAW = 0
"""Seed of the draw of examples: the same for the models of all seeds, so that they are compared on the same rows."""

BELOW_MAJORITY = "threshold_below_majority"
"""In the metadata of masks: ``yes`` where their search's threshold lies below the commonest label's score."""


@dataclass(frozen=True)
class Subject:
    """Which model is pruned, and on which examples.

    Raises:
        InputError: a number is out of range, or the task unknown.
    """

    model: str
    """Folder or Hub id of a model fine-tuned on the task."""
    task: str | Task
    data: str | None = None
    split: str = "validation"
    """Which split's score decides."""
    examples: int | None = None
    """Rows to draw at random, the same for every seed. Default: all."""
    holdout: float = 0.0
    """Share of the rows that the search does not see and is reported on too."""
    seed: int | None = None
    """Seed that the model was fine-tuned with. Default: as its metrics.json says."""
    revision: str | None = None
    batch_size: int = 32
    """Inputs per pass.

    It does not change the result, except as-released.
    """
    max_length: int = 128
    device: str = "auto"

    def __post_init__(self) -> None:
        task_named(self.task)
        if self.examples is not None and self.examples < 1:
            raise InputError(f"--examples {self.examples}: give at least 1.")
        if not 0 <= self.holdout < 1:
            raise InputError(f"--holdout {self.holdout}: give a share from 0 (none) to below 1.")
        if self.batch_size < 1:
            raise InputError(f"--batch-size {self.batch_size}: give at least 1.")
        if self.seed is not None and self.seed < 0:
            raise InputError(f"--seed {self.seed}: give a whole number of at least 0.")

    @property
    def inputs(self) -> tuple[str | None, ...]:
        """What is read, and no output may lie in."""
        return self.model, task_named(self.task).source(self.data)

    def load(self) -> Loaded:
        """Load the model and the examples.

        Raises:
            HeadscopeError: either is not what it should be, or all examples have the same label.
        """
        task = task_named(self.task)
        rows = load_rows(task, self.data, self.split)
        checkpoint = load_checkpoint(self.model, self.revision, pick_device(self.device), task=task)
        drawn = draw_rows(rows.rows, task, self.examples)
        seen, unseen = hold_out(drawn, task, self.holdout)
        examples = examples_of(checkpoint, task, seen, self.max_length, rows.source)
        if len(np.unique(examples.targets)) < 2:
            raise InputError(
                f"{rows.source}: all {len(examples)} examples have the same label, so that their score says nothing; "
                "give rows of two labels or more."
            )
        held = examples_of(checkpoint, task, unseen, self.max_length, rows.source) if unseen else None
        seed = _seed_of(self.model) if self.seed is None else self.seed
        return Loaded(self, checkpoint, task, rows, examples, held, seed)


@dataclass(frozen=True, eq=False)
class Loaded:
    """A subject with its model and examples in memory."""

    subject: Subject
    checkpoint: Checkpoint
    task: Task
    rows: Rows
    examples: Examples
    held_out: Examples | None
    seed: int

    @property
    def model(self) -> PreTrainedModel:
        """The model, with its classification head."""
        return self.checkpoint.model

    @property
    def metric(self) -> str:
        """The name of the score that decides."""
        return threshold_metric(self.task)

    def record(self) -> SubjectRecord:
        """Return what decides the result, ready for JSON."""
        model = model_record(self.checkpoint)
        record: SubjectRecord = {
            "model": self.subject.model,
            "revision": model["revision"],
            "model_sha256": model["sha256"],
            "task": self.task.name,
            "task_definition": self.task.record() or {},
            "seed": self.seed,
            "data": self.rows.source,
            "data_sha256": self.rows.sha256 or self.rows.revision,
            "split": self.subject.split,
            "examples": len(self.examples),
            "holdout": self.subject.holdout,
            "max_length": self.subject.max_length,
        }
        if not self.task.own:
            del record["task_definition"]
        return record

    def provenance(self) -> SearchProvenance:
        """Return where this run's results come from, ready for JSON."""
        return {**provenance(), "model": model_record(self.checkpoint), "data": self.rows.record()}

    def batches(self, in_order: bool = False) -> Iterator[tuple[list[int], dict[str, torch.Tensor]]]:
        """Yield positions and inputs of the examples that decide."""
        return self.examples.batches(self.subject.batch_size, device=self.model.device, in_order=in_order)

    def in_one_pass(
        self, importance: Callable[[Iterator[Mapping[str, torch.Tensor]]], Importance], in_order: bool = False
    ) -> Importance:
        """Measure importance, with the logits brought into the order of the examples."""
        order: list[int] = []

        def inputs() -> Iterator[Mapping[str, torch.Tensor]]:
            for positions, batch in self.batches(in_order):
                order.extend(positions)
                yield batch

        found = importance(inputs())
        return replace(found, logits=found.logits[np.argsort(order)])

    def score(self, logits: npt.NDArray[np.floating]) -> float:
        """Return the score that decides, of logits in the order of the examples."""
        return self.examples.scores(logits)[self.metric]

    def report(self, scored: Callable[[Examples], dict[str, float]]) -> ReportedOn:
        """Score the full model and what was found on the examples that the search has not seen, if there are some.

        Args:
            scored: scores of what was found, on these examples.
        """
        if self.held_out is None:
            return {
                "split": self.subject.split,
                "held_out": False,
                "note": "selected and reported on the same examples, as published: an upper bound",
            }
        full = self.held_out.scores(predict(self.model, self.held_out, self.subject.batch_size))
        return {
            "split": self.subject.split,
            "held_out": True,
            "examples": len(self.held_out),
            "full": full,
            "subnetwork": scored(self.held_out),
        }

    def check_meaning(self, logits: npt.NDArray[np.floating]) -> None:
        """Refuse a full model without a score if its outputs show why: its classes are in another order, say.

        Raises:
            InputError: that they are.
        """
        score = self.score(logits)
        if not score > 0 and (doubts := self.examples.doubts(logits)):
            raise InputError(
                f"The full model scores {score:.4g} in {self.metric}, so that no share of its score can be held. "
                f"{doubts[0]}"
            )

    @property
    def majority(self) -> float:
        """What always saying the commonest label scores on the examples that decide."""
        targets, classes = self.examples.targets, self.examples.classes
        return baselines(self.task, targets, targets, classes=classes)["majority"][self.metric]

    def floor(self, full_score: float, threshold: float) -> Floor:
        """Return, for a search's summary, the score to reach beside that of always saying the commonest label.

        Where the first is not above the second, anything holds the threshold: the search is done as the paper does
        it, and what survives is not testable.
        """
        least, always = threshold * full_score, self.majority
        return {"threshold_score": least, "majority_score": always, "testable": bool(least > always)}

    def warnings(self, full_score: float, threshold: float = 1.0) -> list[str]:
        """Return what a reader has to know of a full model with this score, searched with this threshold."""
        logits = predict(self.model, self.examples, self.subject.batch_size)
        found = [*self.examples.warnings, *self.examples.doubts(logits)]
        always = self.majority
        if isnan(full_score) or threshold * full_score > always:
            return found
        if full_score > always:
            return [
                *found,
                f"The threshold on {self.task.name}, {threshold * full_score:.4f}, is no better than the {self.metric} "
                f"of always saying the commonest label, {always:.4f}: a subnetwork that has forgotten the task holds "
                "it, and what survives is not testable.",
            ]
        return [
            *found,
            f"The full model's {self.metric} on {self.task.name}, {full_score:.4f}, is no better than that of always "
            f"saying the commonest label, {always:.4f}: anything holds the threshold, and what survives means nothing.",
        ]


def draw_rows(rows: Sequence[Row], task: Task, examples: int | None) -> list[Row]:
    """Return so many rows in their order, the same for the models of all seeds; all for None."""
    return apart(rows, task, examples, _DRAW)[0] if examples else list(rows)


def _seed_of(model: str) -> int:
    """Return the seed that a fine-tuned model's folder names, 0 if it names none."""
    try:
        seed = read_json(Path(model) / METRICS)["seed"]
    except (InputError, KeyError, TypeError):
        return 0
    return seed if type(seed) is int and seed >= 0 else 0
