"""The job of ``prune-weights``: a magnitude search on disk, from a fine-tuned model and its dev set."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

import numpy as np
import pandas as pd

from models.common.files import atomic_file, known
from models.evaluation import Examples, predict
from models.weights import WEIGHT_MASKS_FILE, WeightMasks, survival

from ..magnitude import Iteration, MagnitudeOrder, MagnitudePruning, MagnitudeSearch, magnitude_search
from ..structured import check_score
from .folder import SURVIVAL, Say, SearchFolder, components
from .records import WeightsLine, WeightsSummary
from .subject import Loaded, Subject

Folder: TypeAlias = SearchFolder[WeightsLine, WeightsSummary]


@dataclass(frozen=True)
class PruneWeights:
    """One run of ``prune-weights``.

    Raises:
        InputError: an option is out of range.
    """

    subject: Subject
    """The model and the examples."""
    output: Path
    """Folder of the search; one that was stopped is continued."""
    search: MagnitudePruning = field(default_factory=MagnitudePruning)
    """How to search."""
    overwrite: bool = False
    """Replace an earlier search in the output folder."""

    def run(self, progress: bool = False, say: Say = lambda line: None) -> WeightsSummary:
        """Search, or go on searching, and return what ``summary.json`` holds.

        Raises:
            HeadscopeError: the model or the data is not what it should be, or the folder holds another search.
        """
        loaded, how = self.subject.load(), self.search
        folder: Folder = SearchFolder(
            self.output,
            {"command": "prune-weights", **loaded.record(), **self.search.record()},
            {**loaded.provenance(), "device": str(loaded.model.device)},
            self.overwrite,
            self.subject.inputs,
        )
        if folder.finished:
            return folder.read_summary()
        model, metric = loaded.model, loaded.metric
        order = MagnitudeOrder(model, how.fraction, how.last_bias, how.criterion)
        recorded = [float("nan") if line["score"] is None else line["score"] for line in folder.history]
        started = time.monotonic()

        def measure(step: int) -> float:
            nonlocal started
            started = time.monotonic()
            if step < len(recorded):
                return recorded[step]
            with order.masks(step).applied(model):
                logits = predict(model, loaded.examples, self.subject.batch_size, progress)
            score = loaded.score(logits)
            if step == 0:
                loaded.check_meaning(logits)
                check_score(score)
            return score

        def record(one: Iteration) -> None:
            if one.iteration >= len(folder.history):
                seconds = round(time.monotonic() - started, 3)
                folder.add(
                    {
                        "iteration": one.iteration,
                        "step": one.step,
                        "kept_share": one.kept_share,
                        "score": known(one.score),
                        "accepted": one.accepted,
                        "metric": metric,
                        "seconds": seconds,
                    }
                )
            failed = "" if one.accepted else ", below the threshold"
            say(f"{one.step:3d} {one.kept_share:6.1%} of the weights: {metric} {one.score:.4f}{failed}")

        found = magnitude_search(
            measure, order.shares, how.threshold, max_steps=how.max_steps, metric=metric, record=record
        )
        return self._finish(folder, loaded, found, order.masks(found.found.step))

    def _finish(
        self,
        folder: Folder,
        loaded: Loaded,
        found: MagnitudeSearch,
        masks: WeightMasks,
    ) -> WeightsSummary:
        masks.save(folder.path / WEIGHT_MASKS_FILE)
        with atomic_file(folder.path / SURVIVAL) as temporary:
            survival_frame(masks, loaded).to_parquet(temporary, index=False, write_page_checksum=True)
        summary: WeightsSummary = {
            "command": "prune-weights",
            **loaded.record(),
            **self.search.record(),
            "metric": loaded.metric,
            "full_score": found.full_score,
            "score": found.found.score,
            **loaded.floor(found.full_score, self.search.threshold),
            "weights": {"kept": masks.kept, "all": masks.total},
            "ended": found.ended,
            "iterations": len(found.history) - 1,
            "reported_on": loaded.report(lambda held: _scored(masks, loaded, held)),
            "inputs": loaded.examples.inputs,
            "warnings": loaded.warnings(found.full_score, self.search.threshold),
            "provenance": loaded.provenance(),
        }
        folder.finish(summary)
        return summary


def _scored(masks: WeightMasks, loaded: Loaded, examples: Examples) -> dict[str, float]:
    with masks.applied(loaded.model):
        return examples.scores(predict(loaded.model, examples, loaded.subject.batch_size))


def survival_frame(masks: WeightMasks, loaded: Loaded) -> pd.DataFrame:
    """Return the share of weights kept, a row a head and MLP: ``component, layer, head, kept_share``."""
    heads, mlps = survival(masks, loaded.model)
    return pd.DataFrame(
        {
            **components(*heads.shape),
            "kept_share": np.r_[heads.ravel(), mlps],
        }
    )
