"""The job of ``prune-heads``: a structured search on disk, from a fine-tuned model and its dev set."""

from __future__ import annotations

import hashlib
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias, cast

import numpy as np
import pandas as pd

from models.common.errors import InputError
from models.common.files import known
from models.common.outputs import Output
from models.compaction import compact, size_share, why_not_cut
from models.evaluation import predict
from models.isolating import without_the_rest
from models.saving import save
from models.subnetwork import Subnetwork
from models.weights import SUBNETWORK_FILE

from ..importance import Importance, head_importance
from ..structured import Measurement, Step, StructuredSearch
from .folder import IMPORTANCE, Say, SearchFolder, components
from .records import HeadsLine, HeadsSettings, HeadsSummary
from .subject import BELOW_MAJORITY, Loaded, Subject

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from models.evaluation import Examples

Folder: TypeAlias = SearchFolder[HeadsLine, HeadsSummary]


@dataclass(frozen=True)
class PruneHeads:
    """One run of ``prune-heads``.

    Raises:
        InputError: an option is out of range.
    """

    subject: Subject
    """The model and the examples."""
    output: Path
    """Folder of the search; one that was stopped is continued."""
    search: StructuredSearch = field(default_factory=StructuredSearch)
    """How to search."""
    compaction: bool = True
    """Take out what is pruned while searching (faster); else gate it to zero.

    The masks are the same. The as-released protocol always gates.
    """
    overwrite: bool = False
    """Replace an earlier search in the output folder."""
    save_model: Path | None = None
    """New folder for the model without what was pruned, with its tokenizer: a --model of every command."""

    def _smaller_model(self) -> Output | None:
        inputs = (*self.subject.inputs, self.output)
        if self.save_model is None:
            return None
        return Output(self.save_model, "models.save", self.overwrite, inputs, "--save-model")

    def run(self, progress: bool = False, say: Say = lambda line: None) -> HeadsSummary:
        """Search, or go on searching, and return what ``summary.json`` holds.

        Raises:
            HeadscopeError: the model or the data is not what it should be, or the folder holds another search.
        """
        if place := self._smaller_model():
            place.check()
        loaded = self.subject.load()
        if place and (why := why_not_cut(loaded.model, self._nothing_left(loaded.model))):
            raise InputError(f"--save-model {self.save_model}: {why}.")
        summary = self._search(loaded, progress, say)
        if self.save_model is not None:
            smaller = compact(loaded.model, Subnetwork.load(self.output / SUBNETWORK_FILE), unshare=True)
            save(
                smaller,
                self.save_model,
                tokenizer=loaded.checkpoint.tokenizer,
                plain=True,
                overwrite=self.overwrite,
            )
        return summary

    def _nothing_left(self, model: PreTrainedModel) -> Subnetwork:
        """Return what is left after a search that never stops."""
        full = Subnetwork.full(model)
        parts = self.search.what.split("-and-")
        heads, mlps = (
            part & (name not in parts) for name, part in (("heads", full.heads), ("mlps", full.mlps))
        )
        return Subnetwork(heads, mlps)

    def _scores(self, loaded: Loaded, kept: Subnetwork, held: Examples) -> dict[str, float]:
        with without_the_rest(loaded.model, kept) as model:
            return held.scores(predict(model, held, self.subject.batch_size))

    def _search(self, loaded: Loaded, progress: bool, say: Say) -> HeadsSummary:
        folder: Folder = SearchFolder(
            self.output,
            {"command": "prune-heads", **loaded.record(), **asdict(self.search)},
            {**loaded.provenance(), "device": str(loaded.model.device), "compaction": self.compaction},
            self.overwrite,
            self.subject.inputs,
        )
        if folder.finished:
            return folder.read_summary()
        model, metric = loaded.model, loaded.metric
        recall = Recall(folder, model)
        full = Subnetwork.full(model)
        criterion = self.search.criterion
        gates = criterion.gated or not self.compaction

        def measure(subnetwork: Subnetwork) -> Measurement:
            if (recalled := recall.next(subnetwork)) is not None:
                return recalled
            # Where heads cannot be cut out exactly they are gated, whatever --compaction says.
            closed = gates or (subnetwork != full and why_not_cut(model, subnetwork) is not None)
            smaller = model if closed or subnetwork == full else compact(model, subnetwork)
            found = loaded.in_one_pass(
                lambda batches: head_importance(
                    smaller,
                    batches,
                    subnetwork=subnetwork if closed else None,
                    protocol=self.search.protocol,
                    progress=progress,
                ),
                in_order=criterion.in_order,
            )
            if subnetwork == full:
                loaded.check_meaning(found.logits)
            score = loaded.score(found.logits)
            # Closed gates have gradients too, which only the published code looks at.
            return Measurement(score, found.of(subnetwork) if criterion.of_kept else found)

        steps: list[Step] = []
        kept, started = full, time.monotonic()
        for step in self.search.run(full, measure):
            steps.append(step)
            if len(folder.history) == step.iteration:
                recall.write(steps)
                digest, seconds = recall.digest(step.iteration), time.monotonic() - started
                folder.add(_line(step, kept, metric, digest, round(seconds, 3)))
            say(
                f"{step.iteration:3d} {step.phase:5s} {step.subnetwork.n_heads} heads, {step.subnetwork.n_mlps} MLPs: "
                f"{metric} {step.measured.score:.4f}{'' if step.accepted else ', below the threshold'}"
            )
            if step.accepted:
                kept = step.subnetwork
            started = time.monotonic()
        return self._finish(folder, loaded, steps)

    def _finish(self, folder: Folder, loaded: Loaded, steps: list[Step]) -> HeadsSummary:
        full, last = steps[0], [step for step in steps if step.accepted][-1]
        metadata = {
            "method": f"structured, {self.search.what}, {self.search.protocol}",
            "model": self.subject.model,
            "task": loaded.task.name,
            "seed": str(loaded.seed),
            "metric": loaded.metric,
            "score": f"{last.measured.score:.6f}",
            "full_score": f"{full.measured.score:.6f}",
            "threshold": str(self.search.threshold),
        }
        floor = loaded.floor(full.measured.score, self.search.threshold)
        metadata[BELOW_MAJORITY] = "no" if floor["testable"] else "yes"
        kept = Subnetwork(last.subnetwork.heads, last.subnetwork.mlps, metadata)
        kept.save(folder.path / SUBNETWORK_FILE)
        share = size_share(loaded.model, kept)
        summary: HeadsSummary = {
            "command": "prune-heads",
            **loaded.record(),
            **cast("HeadsSettings", asdict(self.search)),
            "metric": loaded.metric,
            "full_score": full.measured.score,
            "score": last.measured.score,
            **floor,
            "heads": {"kept": kept.n_heads, "all": full.subnetwork.n_heads},
            "mlps": {"kept": kept.n_mlps, "all": full.subnetwork.n_mlps},
            "encoder_share": {"parameters": share.parameters, "flops": share.flops},
            "iterations": len(steps) - 1,
            "reported_on": loaded.report(lambda held: self._scores(loaded, kept, held)),
            "inputs": loaded.examples.inputs,
            "warnings": [
                *loaded.warnings(full.measured.score, self.search.threshold),
                *_warnings(kept, steps),
            ],
            "provenance": loaded.provenance(),
        }
        folder.finish(summary)
        return summary


class Recall:
    """The measurements that a folder holds, given out again in their order."""

    def __init__(self, folder: Folder, model: PreTrainedModel) -> None:
        self._folder = folder
        self._shape = Subnetwork.full(model).heads.shape
        self._records = list(folder.history)
        table = folder.read_importance()
        self._table = {} if table is None else dict(iter(table.groupby("iteration")))
        self._frames: list[pd.DataFrame] = []
        self._asked = 0

    def next(self, subnetwork: Subnetwork) -> Measurement | None:
        """Return the next recorded measurement, or None when all are given out.

        Raises:
            InputError: the record is of another subnetwork than the search now looks at.
        """
        iteration = self._asked
        self._asked += 1
        if iteration >= len(self._records):
            return None
        record, frame = self._records[iteration], self._table.get(iteration)
        same = (record.get("heads"), record.get("mlps")) == (subnetwork.n_heads, subnetwork.n_mlps)
        if frame is None or not same or not _is_of(frame, subnetwork):
            raise InputError(
                f"{self._folder.path} cannot be continued: what it recorded of iteration {iteration} is not what "
                "this search does there; --overwrite starts anew."
            )
        if record.get("importances", digest := _digest(frame)) != digest:
            raise InputError(
                f"{self._folder.path / IMPORTANCE} is not what headscope wrote of iteration {iteration}; "
                "--overwrite starts the search anew."
            )
        heads = frame[frame["component"] == "head"]["importance"].to_numpy(dtype=np.float64)
        mlps = frame[frame["component"] == "mlp"]["importance"].to_numpy(dtype=np.float64)
        score = record["score"] if record["score"] is not None else float("nan")
        importance = Importance(
            heads.reshape(self._shape), mlps, record["examples"], record["loss"], np.zeros((0, 0), np.float32)
        )
        return Measurement(score, importance)

    def write(self, steps: list[Step]) -> None:
        """Write the importances of all steps so far, before the history says that the last one is done."""
        self._frames += [importance_frame(step) for step in steps[len(self._frames) :]]
        self._folder.write_importance(pd.concat(self._frames, ignore_index=True))

    def digest(self, iteration: int) -> str:
        """Return what the importances of an iteration that were written are known by."""
        return _digest(self._frames[iteration])


def importance_frame(step: Step) -> pd.DataFrame:
    """Return one row a head and MLP.

    Columns: ``iteration, component, layer, head, kept, importance, normalized``; the head of an MLP is -1; NaN for
    what is removed.
    """
    raw, scaled = step.measured.importance, step.measured.importance.normalized()
    return pd.DataFrame(
        {
            "iteration": step.iteration,
            **components(*step.subnetwork.heads.shape),
            "kept": np.r_[step.subnetwork.heads.ravel(), step.subnetwork.mlps],
            "importance": np.r_[raw.heads.ravel(), raw.mlps],
            "normalized": np.r_[scaled.heads.ravel(), scaled.mlps],
        }
    )


def _is_of(frame: pd.DataFrame, subnetwork: Subnetwork) -> bool:
    """Whether recorded importances are of this subnetwork, with a number for each part kept."""
    kept = np.r_[subnetwork.heads.ravel(), subnetwork.mlps]
    if len(frame) != len(kept):
        return False
    places = components(*subnetwork.heads.shape)
    return (
        all(np.array_equal(frame[name].to_numpy(), places[name]) for name in places)
        and np.array_equal(frame["kept"].to_numpy(), kept)
        and bool(np.isfinite(frame["importance"].to_numpy()[kept]).all())
    )


def _digest(frame: pd.DataFrame) -> str:
    """Return a SHA-256 of the importances of an iteration."""
    columns = (frame[name].to_numpy(dtype=np.float64) for name in ("kept", "importance", "normalized"))
    return hashlib.sha256(
        b"".join(np.where(np.isnan(one), np.nan, one).tobytes() for one in columns)
    ).hexdigest()


def _line(step: Step, before: Subnetwork, metric: str, importances: str, seconds: float) -> HeadsLine:
    return {
        "iteration": step.iteration,
        "phase": step.phase,
        "heads": step.subnetwork.n_heads,
        "mlps": step.subnetwork.n_mlps,
        "metric": metric,
        "score": known(step.measured.score),
        "loss": step.measured.importance.loss,
        "examples": step.measured.importance.examples,
        "accepted": step.accepted,
        "removed_heads": np.argwhere(before.heads & ~step.subnetwork.heads).tolist(),
        "removed_mlps": np.flatnonzero(before.mlps & ~step.subnetwork.mlps).tolist(),
        "importances": importances,
        "seconds": seconds,
    }


def _warnings(kept: Subnetwork, steps: list[Step]) -> list[str]:
    found = []
    if len(steps) > 1 and not any(step.accepted for step in steps[1:]):
        found.append(
            "The first step of every phase falls below the threshold, so that the whole model is kept."
        )
    if kept.n_heads == 0:
        found.append("No head is left: the score holds without any attention.")
    return found
