"""What a worker gets and does: one step of a study, from its inputs on disk to its own folder."""

from __future__ import annotations

import os
import shutil
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

from models.common.commands import quiet_libraries, say, say_error
from models.common.errors import HeadscopeError
from models.common.files import disk_is_full, reason, write_json
from models.common.memory import keep_freed_memory
from models.common.session import SESSION
from models.common.threads import share_the_machine

from . import steps as study_steps
from .backends import end_with
from .steps import Job

STARTS = 3
"""How often a step is begun in one run: once, and again if its worker was killed."""


def execute(job: Job) -> None:
    """Do one step, unless it is done; how it ended stands on disk.

    Raises:
        OSError: the disk is full.
    """
    quiet_libraries()
    if os.getpid() != job.parent:  # a worker's process is ours
        keep_freed_memory()
        share_the_machine()  # a worker on another machine of a cluster has not inherited it
        SESSION.set(job.session)
    if os.getppid() == job.parent:
        end_with(job.parent)
    folder, step = job.folder, job.step
    with folder.step_locked(step), _threads(job.study.threads):
        if folder.is_done(step) or job.stopped or job.starts >= STARTS:
            return
        started, cpu = time.monotonic(), time.process_time()
        try:
            job.work.mkdir(parents=True, exist_ok=True)
            write_json(folder.starts_file(step, job.identity), {"run": job.run, "starts": job.starts + 1})
            made = study_steps.JOBS[step.kind](job)
            result = {name: value for name, value in made.result.items() if name != "step"}
            seconds = round(time.monotonic() - started, 3)
            record = {
                "identity": job.identity,
                "config": job.config,
                "inputs": {one.path: folder.digest(one) for one in job.inputs},
                "seconds": seconds,
                "cpu_seconds": round(time.process_time() - cpu, 3),
                "starts": job.starts,
            }
            folder.seal(step, job.made, result, made.digest, record)
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
            say_error(f"{step.path}: failed: {told}")
        else:
            say(f"{step.path}: {made.told} ({seconds:.0f} s)")


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
