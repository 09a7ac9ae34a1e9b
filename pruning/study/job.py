"""The engine of a study: what is to be done is handed to joblib level by level, and what is done stands on disk.

The same few lines serve one process, several (loky), Ray and Dask.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from models.checkpoints import load_checkpoint, model_record, pick_device
from models.common.commands import say, say_error
from models.common.errors import InputError
from models.common.files import disk_is_full, read_json, reason, write_json
from models.common.outputs import apart
from models.common.papers import Figures
from models.common.provenance import provenance, source_record
from models.common.reading import check_fields, reading
from models.tasks.rows import load_rows

from .backends import BACKENDS, Workers, workers
from .config import ELSEWHERE, Study, from_table, read_study
from .folder import STUDY, StudyFolder
from .plan import Materials, Plan, Step, plan_of
from .progress import told
from .records import Outcome
from .steps import Job
from .worker import STARTS, execute

_MOST_NAMED = 3


@dataclass(frozen=True)
class RunStudy:
    """One run of ``run-study``.

    Raises:
        InputError: an option is out of range or of no effect, or the output folder holds something else.
    """

    study: Study
    """What to do."""
    output: Path
    """Folder of the study. Default: as the file says, or the folder given."""
    backend: str = "loky"
    """loky, ray or dask."""
    jobs: int = 1
    """Steps at once.

    With loky, one is done in this very process.
    """
    address: str | None = None
    """Of a Ray or Dask cluster. Default: one is started on this machine."""
    gpus: float | None = None
    """GPUs of each step, on Ray; two steps share one with 0.5."""
    only: tuple[str, ...] = ()
    """Do only this step and what it needs: fine-tune, ``'qqp/seed_42/*'``.

    See :meth:`pruning.study.plan.Plan.matching`.
    """
    force: tuple[str, ...] = ()
    """Do this step again, and what it changes."""
    keep_going: bool = False
    """Begin other steps after one has failed."""
    repair: bool = False
    """Do damaged steps again.

    Else they are named, and nothing is done.
    """
    source: Path | None = None
    """The file that the study was read from, for the record."""
    figures: Figures = field(default_factory=Figures)
    """How the report's figures are written; it has them as PNG and PDF always."""

    def __post_init__(self) -> None:
        if self.backend not in BACKENDS:
            raise InputError(f"--backend {self.backend}: give {', '.join(BACKENDS[:-1])} or {BACKENDS[-1]}.")
        if self.jobs < 1:
            raise InputError(f"--jobs {self.jobs}: give at least 1.")
        if self.backend == "loky" and self.address is not None:
            raise InputError("--address is of a Ray or Dask cluster; give --backend ray or dask.")
        if self.gpus is not None and (self.backend != "ray" or self.gpus <= 0):
            raise InputError("--gpus is the number of GPUs of each step on Ray, above 0; give --backend ray.")

    def plan(self) -> Plan:
        """Return all steps, for the model and the data as they are now.

        Raises:
            HeadscopeError: the model cannot be loaded, a task has no data, or the folder holds something else.
        """
        StudyFolder(self.output).check()
        apart(self.output, self.study.inputs)
        study = _absolute(self.study)
        pick_device(study.device)
        data = {}
        for name in study.tasks:
            task = study.task(name)
            rows = {split: load_rows(task, study.data, split) for split in study.splits(name)}
            data[name] = {split: one.sha256 or one.revision for split, one in rows.items()}
        record = model_record(load_checkpoint(study.model, study.revision))
        known: dict[str, str | None] = {"sha256": record["sha256"]}
        if not record["sha256"]:
            known = {"name": record["name"], "revision": record["revision"]}
        return plan_of(study, Materials(known, data))

    def run(self) -> Outcome:
        """Do what is to be done, and return how many steps are done, and what failed.

        Raises:
            HeadscopeError: as :meth:`plan`; a finished step is damaged or of another config; another process is at
                work on the folder.
            OSError: the disk is full.
        """
        plan, folder = self.plan(), StudyFolder(self.output)  # before the folder is made
        chosen = plan.matching(self.only, needed=True) if self.only else list(plan.steps)
        with folder.locked():
            self._make_way(plan, folder)
            write_json(
                folder.path / STUDY,
                {
                    "study": asdict(plan.study),
                    "materials": asdict(plan.materials),
                    "provenance": {**provenance(), "file": self.source and source_record(self.source)},
                },
            )
            try:
                with told(plan, chosen, folder, self.jobs):
                    self._do(plan, chosen, folder)
            finally:
                folder.stop_file.unlink(missing_ok=True)
            return outcome(plan, chosen, folder)

    def _make_way(self, plan: Plan, folder: StudyFolder) -> None:
        """Remove what is to be done again.

        Raises:
            InputError: something stands in the way that was not said to be done again.
        """
        forced = {step.path for step in plan.matching(self.force)} if self.force else set()
        found = []
        for step in plan.steps:
            damage = folder.damage(plan, step)
            if damage and damage.changed and forced & set(step.inputs):
                forced.add(step.path)
            if step.path in forced:
                folder.remove(step)
            elif damage:
                found.append(damage)
        changed = [damage for damage in found if damage.changed]
        if changed:
            first = changed[0]
            more = f" (and so in {len(changed) - 1} other steps)" if len(changed) > 1 else ""
            raise InputError(
                f"{folder.of(first.step)} is of another config: {first.what}{more}. Give another --output, or "
                f"--force {first.step.name} to do such steps, and those made from them, again."
            )
        if found and not self.repair:
            named = "; ".join(f"{folder.of(one.step)}: {one.what}" for one in found[:_MOST_NAMED])
            more = f"; and {len(found) - _MOST_NAMED} more" if len(found) > _MOST_NAMED else ""
            raise InputError(f"Damaged steps: {named}{more}. --repair does them again.")
        for damage in found:
            say(f"{damage.step.path} is done again: {damage.what}")
            folder.remove(damage.step)

    def _do(self, plan: Plan, steps: Sequence[Step], folder: StudyFolder) -> None:
        run = uuid.uuid4().hex
        for step in steps:
            folder.error_file(step).unlink(missing_ok=True)
        with ExitStack() as stack:
            pool: Workers | None = None
            for level in plan.levels(steps):
                jobs = []
                for step in level:
                    inputs = [plan.by_path[path] for path in step.inputs]
                    if folder.is_done(step):
                        known = folder.read(step)["step"]["inputs"]
                        if all(folder.digest(one) in (None, known[one.path]) for one in inputs):
                            continue
                        say(f"{step.path} is done again: what it was made from has changed")
                        folder.remove(step)
                    if all(folder.is_done(one) for one in inputs):
                        jobs.append(Job.of(plan, step, folder, run, self.keep_going))
                if jobs:
                    if pool is None:
                        pool = stack.enter_context(workers(self.backend, self.jobs, self.address, self.gpus))
                    self._submit(jobs, pool)
                if any(job.stopped for job in jobs):
                    return

    def _submit(self, jobs: Sequence[Job], pool: Workers) -> None:
        """Have jobs done; those left over by workers that were killed are submitted again, at most twice.

        Raises:
            OSError: the disk is full.
            Exception: no job could be begun.
        """
        left = list(jobs)
        while left:
            before = [job.starts for job in left]
            cause: Exception | None = None
            try:
                pool(execute, left)
            except Exception as error:  # each engine has its own type for a worker that is gone
                if disk_is_full(error):
                    raise
                cause = error
            over = [job for job in left if _unfinished(job)]
            if cause is not None and [job.starts for job in left] == before and len(over) == len(left):
                raise cause
            left = []
            for job in over:
                if job.starts >= STARTS:
                    job.fail(
                        f"its worker was killed {STARTS} times, perhaps for want of memory "
                        f"({type(cause).__name__}: {reason(cause) if cause else 'no word'})"
                    )
                    say_error(f"{job.step.path}: failed: its worker was killed {STARTS} times")
                elif not job.stopped:
                    left.append(job)
            if left:
                say(f"{len(left)} unfinished steps are submitted again, as a worker is gone")


def outcome(plan: Plan, steps: Sequence[Step], folder: StudyFolder) -> Outcome:
    """Return how many of the steps are done, and which have failed or wait for one that has."""
    failed = {step.path: found["error"] for step in steps if (found := folder.error(step))}
    left = [step.path for step in steps if not folder.is_done(step) and step.path not in failed]
    return {
        "output": str(folder.path),
        "steps": len(steps),
        "done": len(steps) - len(failed) - len(left),
        "failed": failed,
        "left": left,
    }


def read_plan(path: Path) -> Plan:
    """Return the plan of the study that a folder holds.

    Raises:
        InputError: it holds none.
    """
    file = Path(path) / STUDY
    found = read_json(file, "a study's record")
    if isinstance(found, dict) and "tables" in found:
        raise InputError(f"{path} holds the tables of a report, and no study; give the report's folder.")
    return plan_in(file, found)


def plan_in(file: Path, found: Any) -> Plan:
    """Return the plan of the study that a file is the record of.

    Args:
        file: for errors.
        found: what it holds.

    Raises:
        InputError: it is none.
    """
    if not isinstance(found, dict) or not {"study", "materials"} <= set(found):
        raise InputError(f"{file} is not a study's record; give the folder of a study.")
    check_fields(
        file, found, {"study": {"fine_tuning": {}, "structured": {}}, "materials": {"model": {}, "data": {}}}
    )
    table = _without_none(found["study"])
    for part in fields(Study):
        for key in ELSEWHERE.get(part.default_factory, ()):
            if isinstance(of_part := table.get(part.name), dict):
                of_part.pop(key, None)
    try:
        study: Study = from_table(Study, table)
    except InputError as error:
        raise InputError(f"{file}: {error}") from error
    with reading(file, "a study's record"):
        return plan_of(study, Materials(**found["materials"]))


def _without_none(table: dict[str, Any]) -> dict[str, Any]:
    return {
        key: _without_none(value) if isinstance(value, dict) else value
        for key, value in table.items()
        if value is not None
    }


def _unfinished(job: Job) -> bool:
    return not job.folder.is_done(job.step) and job.folder.error(job.step) is None


def _absolute(study: Study) -> Study:
    """Paths as they are from here: a worker may stand elsewhere."""
    paths: dict[str, Any] = {
        name: str(Path(value).resolve())
        for name in ("model", "data")
        if (value := getattr(study, name)) is not None and Path(value).exists()
    }
    return replace(study, **paths)


def study_of(
    given: Study | Path | str, output: Path | str | None, *, model: str | None = None, data: str | None = None
) -> tuple[Study, Path]:
    """Return the study that is meant, and its folder; see :func:`pruning.run_study`.

    Raises:
        InputError: the file or the folder is none of a study, or nothing says where to write.
    """
    replaced: dict[str, Any] = {}
    replaced |= {name: value for name, value in (("model", model), ("data", data)) if value is not None}
    if isinstance(given, Study):
        study = replace(given, **replaced)
    elif not Path(given).is_dir():
        study = read_study(given, model=model, data=data)
    else:
        plan = read_plan(Path(given))
        study, output = replace(plan.study, **replaced), output or given
        if model is not None:
            study = replace(study, revision=None)
        elif Path(output) != Path(given):  # a branch may have moved since
            study = replace(study, revision=plan.materials.model.get("revision") or study.revision)
    return study, study_folder(study, output)


def study_folder(study: Study, output: Path | str | None) -> Path:
    """Return the folder of a study, as given or as its file says.

    Raises:
        InputError: neither says it.
    """
    if output is None and study.output is None:
        raise InputError("Give --output DIR, the folder of the study, or set output in the file.")
    return Path(output or study.output or ".")
