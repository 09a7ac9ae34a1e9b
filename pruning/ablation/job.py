"""The job of ``ablate-patterns``: from a fine-tuned model to what its heads' patterns are worth to its task."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence, Set
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch

from models.common.errors import InputError
from models.common.files import atomic_file
from models.common.papers import Figures
from models.common.placement import home_of
from models.common.progress import progress_bar
from models.common.provenance import source_record
from models.evaluation import losses, predict
from models.isolating import without_the_rest
from models.subnetwork import Subnetwork, mask_files
from models.tasks.measures import range_of
from models.tasks.rows import select_rows
from models.tasks.task import Task
from patterns import classify_heads
from patterns.classifier.network import classifier_records, load_classifiers
from patterns.distribution import check_seed
from patterns.heads import check_sizes
from patterns.maps.attention import check_kinds

from ..permutation import LEVEL
from ..search.folder import Say
from ..search.subject import Loaded, Subject
from .chance import ALONE, TOGETHER, Costs, alone, draws_needed, layers_of, matched, shortage, together
from .closing import WAYS, Closing, check_way
from .folder import COMMAND, DRAWS, GROUPS, GROUPS_FIGURE, SINGLE, AblationFolder
from .groups import SORTS, Bools, Group, check_grouping, groups_of
from .inputs import INPUTS, drop_intervals
from .records import AblationProvenance, AblationSummary, GroupRecord, SetsLine

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from models.evaluation import Examples
    from patterns import HeadPatterns

_ROUNDING = 1e-6
_AT_ONCE = 32  # sets of heads that one pass over the examples closes, each for itself


@dataclass(frozen=True)
class AblatePatterns:
    """One run of ``ablate-patterns``.

    Raises:
        InputError: an option is out of range.
    """

    model: str
    """Folder or Hub id of a model fine-tuned on the task."""
    task: str | Task
    output: Path
    """Folder of the ablation; one that was stopped is continued."""
    data: str | None = None
    split: str = "validation"
    """Which split's score is looked at."""
    examples: int | None = 500
    """Rows to draw at random and to score."""
    revision: str | None = None
    subnetwork: str | None = None
    """File or folder of masks: close heads of this subnetwork, the rest of the model being gone."""
    maps: tuple[str, ...] = ("norm",)
    """By which maps heads have a pattern: raw, norm, or raw,norm for groups of both."""
    groups: tuple[str, ...] = ("pattern",)
    """What heads are put into groups by: pattern, role (what they were measured to do), or pattern,role."""
    by: str = "dominant"
    """When a head belongs to a pattern: dominant, it is the most frequent one of its maps; share, --share of its maps
    or more are of it, so that a head may belong to several or to none."""
    share: float = 0.5
    """Least share of a head's maps, with --by share."""
    how: str = "zero"
    """What a closed head's output is: zero; mean, over all tokens of all inputs; resample, that on another input."""
    draws: int = 100
    """Random sets of as many heads in every layer, for each group."""
    alone: bool = True
    """Close each head alone, too."""
    pattern_examples: int = 100
    """Rows to draw at random and to look at patterns with, as classify-heads does."""
    permutations: int = 9999
    """Of each permutation test of single heads."""
    seed: int = 0
    batch_size: int = 32
    max_length: int = 128
    device: str = "auto"
    overwrite: bool = False
    """Replace an earlier ablation in the output folder."""
    figures: Figures = field(default_factory=Figures)
    """How figures are written."""

    def __post_init__(self) -> None:
        _ = self._subject
        check_kinds(self.maps)
        check_grouping(self.groups, self.by, self.share)
        check_way(self.how)
        check_sizes(self.batch_size, self.max_length)
        check_seed(self.seed)
        for name in ("draws", "pattern_examples", "permutations"):
            if getattr(self, name) < 1:
                raise InputError(f"--{name.replace('_', '-')} {getattr(self, name)}: give at least 1.")

    @property
    def _subject(self) -> Subject:
        return Subject(
            self.model,
            self.task,
            self.data,
            self.split,
            self.examples,
            revision=self.revision,
            seed=self.seed,
            batch_size=self.batch_size,
            max_length=self.max_length,
            device=self.device,
        )

    def run(self, progress: bool = False, say: Say = lambda line: None) -> AblationSummary:
        """Do it, or go on with it, and return what ``summary.json`` holds.

        Args:
            progress: show progress bars on stderr.
            say: told what to know before hours of work.

        Raises:
            HeadscopeError: the model or the data is not what it should be, or the folder holds another ablation.
        """
        return self.on(self._subject.load(), progress, say)

    def on(
        self, loaded: Loaded, progress: bool = False, say: Say = lambda line: None, held_out: bool = False
    ) -> AblationSummary:
        """Do it with a model and rows that are loaded already.

        Args:
            loaded: the model and its examples.
            progress: as for :meth:`run`.
            say: likewise.
            held_out: score the rows that a search has not seen, where there are some.
        """
        subnetwork = Subnetwork.load(self.subnetwork) if self.subnetwork else None
        examples = (loaded.held_out or loaded.examples) if held_out else loaded.examples
        folder = AblationFolder(
            self.output,
            self._config(loaded, examples, subnetwork),
            {**loaded.provenance(), "device": str(loaded.model.device)},
            self.overwrite,
            (*self._subject.inputs, self.subnetwork),
        )
        try:
            if folder.finished and _has_intervals(found := folder.read_summary()):
                if not all((folder.path / name).is_file() for name in self.figures.names(GROUPS_FIGURE)):
                    say(
                        f"{folder.path} was there already, with its figures in another format; --overwrite does it anew"
                    )
                return found
            if folder.finished:
                say(
                    f"{folder.path} was made before drops had an interval over inputs, and is completed: what it "
                    "recorded stays, and the heads of each group are closed once more."
                )
            with ExitStack() as stack:
                model = loaded.model
                if subnetwork is not None:
                    model = stack.enter_context(
                        without_the_rest(model, _within(subnetwork, model, self.subnetwork))
                    )
                return _Run(self, folder, loaded, examples, model, subnetwork, progress, say).finish()
        finally:
            folder.close()

    def _config(self, loaded: Loaded, examples: Examples, subnetwork: Subnetwork | None) -> dict[str, object]:
        """Return all that decides the result."""
        record: dict[str, object] = {**loaded.record(), "examples": len(examples)}
        for name in ("seed", "holdout"):  # of a search
            del record[name]
        return {
            "command": COMMAND,
            **record,
            "subnetwork": self.subnetwork,
            "subnetwork_sha256": subnetwork.digest() if subnetwork else None,
            "maps": list(check_kinds(self.maps)),
            "pattern_examples": self.pattern_examples,
            "groups": list(self.groups),
            "by": self.by,
            "share": self.share if self.by == "share" else None,
            "how": self.how,
            "draws": self.draws,
            "alone": self.alone,
            "permutations": self.permutations,
            "seed": self.seed,
        }


def _has_intervals(found: AblationSummary) -> bool:
    """Whether a summary says how its drops vary with inputs."""
    return all("drop_ci95" in one["together"] for one in found["found"])


def _within(subnetwork: Subnetwork, model: PreTrainedModel, name: str | None) -> Subnetwork:
    """Return what of a subnetwork the model has.

    Raises:
        InputError: it is of another model, or the model has no head of it.
    """
    full = Subnetwork.full(model)
    if subnetwork.heads.shape != full.heads.shape:
        one, other = (" x ".join(map(str, of.heads.shape)) for of in (subnetwork, full))
        raise InputError(
            f"--subnetwork {name} is of a model of {one} heads (layers x heads), but the model has {other}."
        )
    there = subnetwork & full
    if not there.n_heads:
        raise InputError(f"--subnetwork {name} keeps no head of the model, so there is none to close.")
    return there


class _Run:
    """A run with all that it needs at hand."""

    def __init__(
        self,
        job: AblatePatterns,
        folder: AblationFolder,
        loaded: Loaded,
        examples: Examples,
        model: PreTrainedModel,
        subnetwork: Subnetwork | None,
        progress: bool,
        say: Say,
    ) -> None:
        self._job, self._folder, self._loaded = job, folder, loaded
        self._examples, self._model, self._subnetwork = examples, model, subnetwork
        self._progress, self._say = progress, say
        self._drift = 0.0  # of scores that were recorded, where their sets were closed once more
        self._candidates = Subnetwork.full(model).heads
        if subnetwork is not None:
            self._candidates = self._candidates & subnetwork.heads
        self._classifiers = load_classifiers(check_kinds(job.maps))
        self._patterns = self._looked_at()
        self._groups = groups_of(self._patterns, job.groups, job.by, job.share)
        for group in self._groups:
            assert not (group.heads & ~self._candidates).any()

    def _looked_at(self) -> HeadPatterns:
        job, loaded = self._job, self._loaded
        rows = select_rows(loaded.rows.numbered(), loaded.task, job.pattern_examples, job.seed)
        found = classify_heads(
            self._model,
            loaded.checkpoint.tokenizer,
            rows,
            task=loaded.task,
            kinds=tuple(self._classifiers),
            classifiers=self._classifiers,
            batch_size=job.batch_size,
            max_length=job.max_length,
            seed=job.seed,
            progress=self._progress,
            measure=any(SORTS[name].measured for name in job.groups),
        )
        return found if self._subnetwork is None else found.select(self._subnetwork)

    def _sets(self) -> tuple[list[Bools], dict[str, Bools], list[tuple[int, int]]]:
        """Return all sets to close, each once; those drawn for each group; and the single heads."""
        job = self._job
        drawn = {
            group.key: matched(group.heads, self._candidates, job.draws, job.seed, group.key)
            for group in self._groups
            if group.heads.any()
        }
        single = list(zip(*np.nonzero(self._candidates), strict=True)) if job.alone else []
        sets = [np.zeros_like(self._candidates), *(group.heads for group in self._groups)]
        for layer, head in single:
            sets.append(np.zeros_like(self._candidates))
            sets[-1][layer, head] = True
        sets += [one for several in drawn.values() for one in several]
        unique = {one.tobytes(): one for one in sets}
        return list(unique.values()), drawn, [(int(layer), int(head)) for layer, head in single]

    def _measured(
        self, sets: Sequence[Bools], keep: Set[bytes]
    ) -> tuple[dict[bytes, tuple[float, float]], dict[bytes, npt.NDArray[np.float32]]]:
        """Return score and loss of each set, those that the folder holds first; and the outputs of some.

        The folder does not hold outputs, so what is to be kept is closed once more, in the same company: the same
        numbers come out.

        Args:
            sets: to close, each once.
            keep: of which sets outputs ``[N, C]`` are returned.
        """
        folder, job = self._folder, self._job
        found: dict[bytes, tuple[float, float]] = {}
        kept: dict[bytes, npt.NDArray[np.float32]] = {}
        closing: Closing | None = None
        total = len(sets) * len(self._examples)
        with progress_bar(total=total, unit="row", what="closing heads", shown=self._progress) as bar:
            line: SetsLine
            for number, start in enumerate(range(0, len(sets), _AT_ONCE)):
                some = np.stack(sets[start : start + _AT_ONCE])
                keys = [one.tobytes() for one in some]
                digest = hashlib.sha256(some.tobytes()).hexdigest()
                if number < len(folder.history):
                    line = folder.history[number]
                    if line["masks"] != digest or len(line["scores"]) != len(some):
                        raise InputError(
                            f"{folder.path} cannot be continued: what it recorded of pass {number} is of other heads "
                            "than this ablation closes there; --overwrite starts anew."
                        )
                    if keep.isdisjoint(keys):
                        bar.update(len(some) * len(self._examples))
                        found |= _pairs(keys, line)
                        continue
                began = time.monotonic()
                closing = closing or Closing(self._model, self._examples, job.how, job.batch_size, job.seed)
                answers = closing.answers(some, bar.update)
                kept |= {key: one for key, one in zip(keys, answers, strict=True) if key in keep}
                scores, costs = self._scored(answers)
                if number < len(folder.history):
                    line = folder.history[number]
                    self._drift = max(self._drift, *np.abs(np.subtract(scores, line["scores"])).tolist())
                else:
                    line = {
                        "iteration": number,
                        "sets": len(some),
                        "masks": digest,
                        "scores": scores,
                        "losses": costs,
                        "seconds": round(time.monotonic() - began, 3),
                    }
                    folder.add(line)
                found |= _pairs(keys, line)
        return found, kept

    def _scored(self, answers: npt.NDArray[np.float32]) -> tuple[list[float], list[float]]:
        """Return the score that decides, and the mean loss, of outputs ``[K, N, C]``."""
        labels = torch.as_tensor(self._examples.targets)
        name = self._loaded.metric
        return (
            [self._examples.scores(one)[name] for one in answers],
            [float(losses(torch.as_tensor(one), labels).double().mean()) for one in answers],
        )

    def finish(self) -> AblationSummary:
        """Close all sets, and write what was found."""
        job, candidates = self._job, self._candidates
        filled = [group for group in self._groups if group.heads.any()]
        warnings = self._warnings(filled)
        for message in warnings:
            self._say(f"warning: {message}")
        sets, drawn, single = self._sets()
        nothing = np.zeros_like(candidates).tobytes()
        measured, outputs = self._measured(sets, {nothing, *(group.heads.tobytes() for group in filled)})
        score, loss = measured[nothing]
        intervals = iter(
            drop_intervals(
                self._examples,
                self._loaded.metric,
                outputs[nothing],
                [outputs[group.heads.tobytes()] for group in filled],
                job.seed,
            )
        )
        costs: list[Costs | None] = []
        for group in self._groups:
            if group.key not in drawn:
                costs.append(None)
                continue
            own = measured[group.heads.tobytes()]
            drops = np.array([score - measured[one.tobytes()][0] for one in drawn[group.key]])
            costs.append(
                Costs(
                    group.heads,
                    candidates,
                    own[0],
                    score - own[0],
                    own[1],
                    own[1] - loss,
                    drops,
                    next(intervals),
                )
            )
        singles = np.full((*candidates.shape, 2), np.nan)
        for layer, head in single:
            mask = np.zeros_like(candidates)
            mask[layer, head] = True
            singles[layer, head] = measured[mask.tobytes()]
        heads = [group.heads for group in self._groups]
        majority = _majority(self._loaded, self._examples)
        low, high = range_of(self._loaded.metric)
        each = (
            alone(score - singles[..., 0], heads, high - low, job.permutations, job.seed)
            if job.alone
            else [None] * len(heads)
        )
        found: list[GroupRecord] = [
            {
                "kind": group.kind,
                "sort": group.sort,
                "name": group.name,
                "title": group.title,
                "heads": int(group.heads.sum()),
                "together": test,
                "one_by_one": one,
            }
            for group, test, one in zip(
                self._groups, together(costs, heads, candidates, job.draws, majority), each, strict=True
            )
        ]
        summary = self._summary(found, score, loss, majority, warnings)
        self._folder.reopen()  # of one that is completed, the files are another's for a moment
        self._write(summary, drawn, measured, singles)
        self._folder.finish(summary)
        return summary

    def _warnings(self, filled: Sequence[Group]) -> list[str]:
        """Return what a reader has to know, but for what depends on the score."""
        job = self._job
        found = [*self._examples.warnings, *self._patterns.warnings]
        if job.draws < (needed := draws_needed(len(filled))):
            found.append(
                f"With --draws {job.draws} no group of {len(filled)} can come out significant after Holm's correction "
                f"(p above {LEVEL}); give --draws {needed} or more."
            )
        for group in filled:
            if told := shortage(layers_of(group.heads, self._candidates)):
                found.append(f"The group {group.title} of {group.kind} maps {told}.")
        return list(dict.fromkeys(found))

    def _summary(
        self, found: list[GroupRecord], score: float, loss: float, majority: float, warnings: list[str]
    ) -> AblationSummary:
        job, loaded = self._job, self._loaded
        config = job._config(loaded, self._examples, self._subnetwork)
        made: AblationProvenance = {
            **loaded.provenance(),
            "subnetwork": source_record(job.subnetwork, mask_files(job.subnetwork))
            if job.subnetwork
            else None,
            "classifiers": classifier_records(self._classifiers),
            "device": str(home_of(self._model)),
        }
        summary = {
            **config,
            "metric": loaded.metric,
            "score": score,
            "loss": loss,
            "majority_score": majority,
            "heads": {"counted": int(self._candidates.sum()), "all": int(self._candidates.size)},
            "found": found,
            "notes": {
                "how": f"A closed head's output is {WAYS[job.how].words}.",
                "together": TOGETHER,
                "inputs": INPUTS,
                **({"alone": ALONE} if job.alone else {}),
            },
            "inputs": self._examples.inputs,
            "warnings": [*warnings, *_of_score(score, majority, loaded), *self._drifted(), *self._doubts()],
            "provenance": made,
        }
        return summary  # type: ignore[return-value]

    def _drifted(self) -> list[str]:
        if self._drift <= _ROUNDING:
            return []
        return [
            f"What was recorded was continued elsewhere: sets of heads that were closed once more score up to "
            f"{self._drift:.2g} otherwise than before (another device or library); intervals over inputs are of the "
            "new outputs."
        ]

    def _doubts(self) -> list[str]:
        """Return why the model's outputs may mean something else than they are taken for."""
        return self._examples.doubts(predict(self._model, self._examples, self._job.batch_size))

    def _write(
        self,
        summary: AblationSummary,
        drawn: dict[str, Bools],
        measured: dict[bytes, tuple[float, float]],
        singles: npt.NDArray[np.float64],
    ) -> None:
        from .report import write_report
        from .tables import draws_frame, groups_frame, singles_frame

        folder = self._folder.path
        tables = {DRAWS: draws_frame(self._groups, drawn, measured, summary["score"], summary["loss"])}
        if self._job.alone:
            tables[SINGLE] = singles_frame(self._patterns, self._candidates, singles, summary)
        for name, table in tables.items():
            with atomic_file(folder / name) as temporary:
                table.to_parquet(temporary, index=False, write_page_checksum=True)
        groups = groups_frame(summary["found"])
        with atomic_file(folder / GROUPS) as temporary:
            groups.to_csv(temporary, index=False)
        heads = [group.heads for group in self._groups]
        write_report(folder, self._job, summary, groups, tables[DRAWS], tables.get(SINGLE), heads)


def _pairs(keys: Sequence[bytes], line: SetsLine) -> dict[bytes, tuple[float, float]]:
    """Return score and loss of each set of a pass."""
    return dict(zip(keys, zip(line["scores"], line["losses"], strict=True), strict=True))


def _majority(loaded: Loaded, examples: Examples) -> float:
    from models.tasks.metrics import baselines

    found = baselines(loaded.task, examples.targets, examples.targets, classes=examples.classes)
    return found["majority"][loaded.metric]


def _of_score(score: float, majority: float, loaded: Loaded) -> list[str]:
    if score > majority:
        return []
    return [
        f"The model's {loaded.metric} on {loaded.task.name}, {score:.4f}, is no better than that of always saying the "
        f"commonest label, {majority:.4f}: it has not learned the task, and what closing heads costs means nothing."
    ]
