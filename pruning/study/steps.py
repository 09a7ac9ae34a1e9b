"""What the steps of a study do: each is a call of the job that its own command would be."""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from models.common.files import read_json, write_json
from models.common.session import SESSION, Session
from models.tasks.rows import load_rows
from models.tasks.task import MISMATCHED
from models.weights import SUBNETWORK_FILE, WEIGHT_MASKS_FILE, WeightMasks, load_masks

from ..permutation import HIGHER, LOWER
from .config import Study
from .folder import METRICS, StudyFolder, checksum
from .plan import JOINT, WEIGHTS, Drawn, Plan, Step, search_step
from .records import PrunedResult, SubnetworkRecord

if TYPE_CHECKING:
    from models.evaluation import Examples
    from models.finetuning.result import FineTuneResult
    from models.subnetwork import Subnetwork

    from ..ablation.records import AblationSummary
    from ..search.records import SearchSummary
    from ..search.subject import Loaded, Subject


@dataclass(frozen=True)
class Job:
    """A step as a worker gets it."""

    home: str
    """The study's folder."""
    study: Study
    step: Step
    inputs: tuple[Step, ...]
    identity: str
    config: Mapping[str, object]
    revision: str | None
    """Commit of a Hub model."""
    run: str
    """Names this run of ``run-study``."""
    parent: int
    """Process that runs the study."""
    keep_going: bool = False
    """Whether other steps are begun after one has failed."""
    session: Session = field(default_factory=lambda: replace(SESSION))
    """How ``run-study`` talks, and so its workers."""

    @classmethod
    def of(cls, plan: Plan, step: Step, folder: StudyFolder, run: str, keep_going: bool) -> Job:
        """Return the job of one step of a plan."""
        return cls(
            str(folder.path),
            plan.study,
            step,
            tuple(plan.by_path[path] for path in step.inputs),
            plan.identity(step),
            plan.configs[step.path],
            plan.materials.model.get("revision"),
            run,
            os.getpid(),
            keep_going,
        )

    @property
    def folder(self) -> StudyFolder:
        """The study's folder."""
        return StudyFolder(self.home)

    @property
    def work(self) -> Path:
        """Where the step is made."""
        return self.folder.in_the_making(self.step, self.identity)

    @property
    def made(self) -> Path:
        """What will be the step's folder."""
        return self.work / "made"

    @property
    def starts(self) -> int:
        """How often this run has begun the step."""
        file = self.folder.starts_file(self.step, self.identity)
        found = read_json(file, "a count") if file.is_file() else {}
        return int(found.get("starts", 0)) if found.get("run") == self.run else 0

    def input(self, name: str) -> Path:
        """Return the folder of the input with this name; of the step's own seed where there are several."""
        named = [step for step in self.inputs if step.name == name]
        return self.folder.of(next(step for step in named if len(named) == 1 or step.seed == self.step.seed))

    @property
    def stopped(self) -> bool:
        """Whether another step of this run has failed and no further one shall begin."""
        file = self.folder.stop_file
        return not self.keep_going and file.is_file() and file.read_text() == self.run

    def fail(self, error: str, trace: str = "") -> None:
        """Write down how the step failed."""
        told = {"identity": self.identity, "error": error, "starts": self.starts, "traceback": trace}
        write_json(self.folder.error_file(self.step), told)
        if not self.keep_going:
            self.folder.stop_file.write_text(self.run)


class Made(NamedTuple):
    """What a step gives, besides the files in its folder."""

    result: Mapping[str, object]
    """What ``metrics.json`` shall hold."""
    digest: str
    """What its outputs are known by to those that read them."""
    told: str
    """The result in a word, for the terminal."""


def _score(result: FineTuneResult | SearchSummary | PrunedResult | AblationSummary) -> str:
    return f"{result['metric']} {result['score']:.3f}"


def _fine_tune(job: Job, masks: Subnetwork | WeightMasks | None = None) -> Made:
    from models.finetuning.run import finetune

    from ..search.subject import draw_rows

    study, task = job.study, job.study.task(job.step.task)
    train, *dev = (load_rows(task, study.data, split) for split in study.splits(task.name))
    drawn = [replace(one, rows=draw_rows(one.rows, task, study.dev_examples)) for one in dev]
    result = finetune(
        study.model,
        task,
        train,
        drawn[0],
        study.fine_tuning_of(int(job.step.seed or 0)),
        job.made,
        job.revision,
        study.device,
        masks,
        mismatched_rows=drawn[1] if drawn[1:] else None,
    ).record
    (model,) = job.step.outputs or (None,)
    return Made(result, checksum(job.made / model) if model else "", _score(result))


def _fine_tune_again(job: Job) -> Made:
    from models.finetuning.run import CURVE

    (pruned,) = job.inputs
    made = _fine_tune(job, load_masks(job.folder.of(pruned)))
    if not job.study.keep_models:
        for file in job.made.iterdir():
            if file.name != METRICS and file.stem != CURVE:
                file.unlink()
    return made


def _subject(job: Job) -> Subject:
    from ..search.subject import Subject

    study = job.study
    return Subject(
        model=str(job.input("fine-tune")),
        task=job.study.task(job.step.task),
        data=study.data,
        examples=study.dev_examples,
        holdout=study.holdout,
        seed=job.step.seed,
        batch_size=study.batch_size,
        max_length=study.max_length,
        device=study.device,
    )


def _search(job: Job) -> Made:
    from models.subnetwork import Subnetwork

    from ..search.heads_job import PruneHeads

    how = replace(job.study.structured, what=str(job.step.settings["what"]), threshold=job.study.threshold)
    result = PruneHeads(_subject(job), job.made, how).run()
    return Made(result, Subnetwork.load(job.made / SUBNETWORK_FILE).digest(), _score(result))


def _search_weights(job: Job) -> Made:
    from ..search.weights_job import PruneWeights

    how = replace(job.study.magnitude, threshold=job.study.threshold)
    result = PruneWeights(_subject(job), job.made, how).run()
    return Made(result, WeightMasks.load(job.made / WEIGHT_MASKS_FILE).digest(), _score(result))


def _prune(job: Job) -> Made:
    """Draw a subnetwork, and score the fine-tuned model without the rest."""
    from models.compaction import size_share
    from models.evaluation import predict
    from models.isolating import without_the_rest

    loaded = _subject(job).load()
    examples = loaded.held_out or loaded.examples
    scored = {"": examples} | ({MISMATCHED: others} if (others := _mismatched(job, loaded)) else {})
    masks: Subnetwork | WeightMasks
    if _drawn(job).method == "magnitude":
        masks, about = _weight_masks(job, loaded)
        with masks.applied(loaded.model):
            logits = {of: predict(loaded.model, one, job.study.batch_size) for of, one in scored.items()}
        about |= {"weights": {"kept": masks.kept, "all": masks.total}, "encoder_share": masks.share}
        name = WEIGHT_MASKS_FILE
    else:
        masks, about = _subnetwork(job)
        with without_the_rest(loaded.model, masks) as left:
            logits = {of: predict(left, one, job.study.batch_size) for of, one in scored.items()}
        about |= {
            "heads": {"kept": masks.n_heads, "all": int(masks.heads.size)},
            "mlps": {"kept": masks.n_mlps, "all": int(masks.mlps.size)},
            "encoder_share": size_share(loaded.model, masks).parameters,
        }
        name = SUBNETWORK_FILE
    masks.save(job.made / name)
    scores = {
        f"{of}{name}": value for of, one in scored.items() for name, value in one.scores(logits[of]).items()
    }
    result: PrunedResult = {
        "task": job.step.task,
        "seed": job.step.seed,
        "metric": loaded.metric,
        "score": scores[loaded.metric],
        "scores": scores,
        "examples": len(examples),
        "subnetwork": about,
    }
    return Made(result, masks.digest(), _score(result))


def _mismatched(job: Job, loaded: Loaded) -> Examples | None:
    """Return the rows of other genres, as the loaded model reads them; None where they are not asked for."""
    from models.evaluation import examples_of

    from ..search.subject import draw_rows

    study, task = job.study, loaded.task
    if len(splits := study.splits(task.name)) < 3:
        return None
    rows = load_rows(task, study.data, splits[2])
    drawn = draw_rows(rows.rows, task, study.dev_examples)
    return examples_of(loaded.checkpoint, task, drawn, study.max_length, rows.source)


def _drawn(job: Job) -> Drawn:
    """Which subnetwork a step is of, which it must be."""
    assert job.step.drawn is not None
    return job.step.drawn


def _draw_seed(job: Job) -> int:
    """Of one draw of one kind for one task and seed: draws do not depend on each other, nor on what else there is."""
    told = {key: job.step.settings[key] for key in ("method", "subnetwork", "draw_seed")}
    return zlib.crc32(repr((job.step.task, job.step.seed, sorted(told.items()))).encode())


def _subnetwork(job: Job) -> tuple[Subnetwork, SubnetworkRecord]:
    from models.subnetwork import Subnetwork

    from ..controls import bad_subnetwork, random_subnetworks, super_bad_subnetwork
    from ..survivors import super_survivors

    drawn = _drawn(job)
    found = [
        Subnetwork.load(job.folder.of(one) / SUBNETWORK_FILE) for one in job.inputs if one.kind == "search"
    ]
    own = super_survivors(found) if drawn.of_all_seeds else found[0]
    if drawn.role == "good":
        return own, {}
    seed = _draw_seed(job)
    if drawn.role == "random":
        return random_subnetworks(own, drawn.draw or 1, seed)[-1], {"draw_seed": seed}
    bad = super_bad_subnetwork(found, seed) if drawn.of_all_seeds else bad_subnetwork(own, seed)
    return bad.subnetwork, {
        "topped_up_heads": bad.topped_up_heads,
        "topped_up_mlps": bad.topped_up_mlps,
        "good_heads": bad.good_heads,
        "good_mlps": bad.good_mlps,
        "draw_seed": seed,
    }


def _weight_masks(job: Job, loaded: Loaded) -> tuple[WeightMasks, SubnetworkRecord]:
    from ..magnitude import magnitude_masks, random_masks

    good = WeightMasks.load(job.input(search_step(WEIGHTS)) / WEIGHT_MASKS_FILE)
    role, how = _drawn(job).role, job.study.magnitude
    last_bias = how.last_bias
    if role == "good":
        return good, {}
    if role == "random":
        seed = _draw_seed(job)
        masks = random_masks(loaded.model, kept=good.kept, seed=seed, last_bias=last_bias)
        return masks, {"draw_seed": seed}
    masks = magnitude_masks(
        loaded.model, kept=good.kept, largest=True, last_bias=last_bias, criterion=how.criterion
    )
    common = sum(int((masks.masks[name] & kept).sum()) for name, kept in good.masks.items())
    return masks, {"good_weights": common / masks.kept if masks.kept else 0.0}


def _patterns(job: Job) -> Made:
    from patterns.job import ClassifyHeads

    study, tuned = job.study, job.step.seed is not None
    done = ClassifyHeads(
        model=str(job.input("fine-tune")) if tuned else study.model,
        task=job.study.task(job.step.task),
        revision=None if tuned else job.revision,
        data=study.data,
        examples=study.patterns.examples,
        maps=study.patterns.maps,
        max_length=study.max_length,
        seed=study.seed,
        device=study.device,
        output=job.made,
        overwrite=True,
    ).run()
    maps = done.summary["maps"]
    told = ", ".join(f"{kind} {one['interpretable_ratio']:.1%}" for kind, one in maps.items())
    return Made(done.summary, "", told)


def _ablate(job: Job) -> Made:
    from ..ablation.job import AblatePatterns

    study, subject, how = job.study, _subject(job), job.study.ablation
    masks = job.input(search_step(JOINT)) / SUBNETWORK_FILE if job.step.settings["of"] == "good" else None
    result = AblatePatterns(
        model=subject.model,
        task=subject.task,
        output=job.made,
        data=study.data,
        examples=study.dev_examples,
        subnetwork=None if masks is None else str(masks),
        maps=how.maps,
        groups=how.groups,
        by=how.by,
        share=how.share,
        how=how.how,
        draws=how.draws,
        alone=how.alone,
        pattern_examples=study.patterns.examples,
        seed=study.seed,
        batch_size=study.batch_size,
        max_length=study.max_length,
        device=study.device,
    ).on(subject.load(), held_out=True)
    beside = [one for one in result["found"] if one["together"]["verdict"] in (HIGHER, LOWER)]
    told = f"{_score(result)}, {len(beside)} of {len(result['found'])} groups cost more or less than chance"
    return Made(result, "", told)


JOBS: dict[str, Callable[[Job], Made]] = {
    "fine-tune": _fine_tune,
    "search": _search,
    "search-weights": _search_weights,
    "pruned": _prune,
    "fine-tuned": _fine_tune_again,
    "patterns": _patterns,
    "ablation": _ablate,
}
"""By kind of step: makes the folder ``job.made``."""
