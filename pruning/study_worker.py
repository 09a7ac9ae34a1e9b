"""What a worker gets and does: one step of a study, from its inputs on disk to its own folder."""

from __future__ import annotations

import os
import shutil
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from threading import Thread
from typing import Any

from models.cli import quiet_libraries, say
from models.errors import HeadscopeError
from models.files import disk_is_full, read_json, reason, write_json
from models.memory import keep_freed_memory

from . import study_steps
from .study import Plan, Step
from .study_config import Study
from .study_folder import StudyFolder

STARTS = 3
"""How often a step is begun in one run: once, and again if its worker was killed."""


@dataclass(frozen=True)
class Job:
    """A step as a worker gets it."""

    home: str
    """The study's folder."""
    study: Study
    step: Step
    inputs: tuple[Step, ...]
    identity: str
    config: dict[str, Any]
    revision: str | None
    """Commit of a Hub model."""
    run: str
    """Names this run of ``run-study``."""
    parent: int
    """Process that runs the study."""
    keep_going: bool = False
    """Whether other steps are begun after one has failed."""

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
        file = self.work / "starts.json"
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


def execute(job: Job) -> None:
    """Do one step, unless it is done; how it ended stands on disk.

    Raises:
        OSError: the disk is full.
    """
    quiet_libraries()
    if os.getpid() != job.parent:  # a worker's process is ours
        keep_freed_memory()
    if os.getppid() == job.parent:
        _end_with(job.parent)
    folder, step = job.folder, job.step
    with folder.step_locked(step), _threads(job.study.threads):
        if folder.is_done(step) or job.stopped or job.starts >= STARTS:
            return
        started, cpu = time.monotonic(), time.process_time()
        try:
            job.work.mkdir(parents=True, exist_ok=True)
            write_json(job.work / "starts.json", {"run": job.run, "starts": job.starts + 1})
            result, digest = study_steps.JOBS[step.kind](job)
            result.pop("step", None)
            record = {
                "identity": job.identity,
                "config": job.config,
                "inputs": {one.path: folder.digest(one) for one in job.inputs},
                "seconds": round(time.monotonic() - started, 3),
                "cpu_seconds": round(time.process_time() - cpu, 3),
                "starts": job.starts,
            }
            folder.seal(step, job.made, result, digest, record)
            shutil.rmtree(job.work, ignore_errors=True)
        except Exception as error:
            if disk_is_full(error):
                raise
            told = (
                str(error)
                if isinstance(error, HeadscopeError)
                else f"{type(error).__name__}: {reason(error)}"
            )
            job.fail(told, "" if isinstance(error, HeadscopeError) else traceback.format_exc())
            say(f"{step.path}: failed: {told}")
        else:
            say(f"{step.path}: {_told(result)} ({record['seconds']:.0f} s)")


def _told(result: dict[str, Any]) -> str:
    if "score" in result:
        return f"{result['metric']} {result['score']:.3f}"
    return ", ".join(f"{kind} {one['interpretable_ratio']:.1%}" for kind, one in result["maps"].items())


@cache
def _end_with(parent: int) -> None:
    """Have this process end when its parent is gone: that one was killed, and nobody waits for the result."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    Thread(target=watch, daemon=True).start()


@contextmanager
def _threads(number: int) -> Iterator[None]:
    import torch
    from threadpoolctl import threadpool_limits

    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        with threadpool_limits(number):
            yield
    finally:
        torch.set_num_threads(before)
