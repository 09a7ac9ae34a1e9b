"""How far a study is, told while it runs."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from threading import Event, Thread

from models.common.commands import say
from models.common.errors import HeadscopeError
from models.common.progress import EVERY

from .estimate import estimates
from .folder import StudyFolder
from .plan import Plan, Step
from .terminal import duration

_SECONDS = 2.0  # between two looks


@contextmanager
def told(plan: Plan, steps: Sequence[Step], folder: StudyFolder, jobs: int) -> Iterator[None]:
    """Say on stderr how many of the steps are done and how long the rest takes, whenever some have been done.

    Without a terminal, that is said once a minute too, with the steps that are at work. The workers are processes of
    their own, on other machines perhaps; what they begin and finish is seen in the folder.
    """
    over = Event()
    begun, begun_at = time.monotonic(), time.time() - 1.0  # a disk's clock may be a little behind

    def watch() -> None:
        before = first = _done(steps, folder)
        said = begun
        while not over.wait(_SECONDS):
            now, clock = _done(steps, folder), time.monotonic()
            due = clock - said >= EVERY and not (sys.stderr and sys.stderr.isatty())
            if (now != before or due) and now < len(steps):
                said = clock
                with suppress(
                    HeadscopeError, OSError
                ):  # a damaged or vanishing step is told of by whoever needs it
                    line = progress(plan, steps, folder, jobs, _rate(now - first, clock - begun))
                    say(
                        "; ".join(filter(None, [line, at_work(plan, steps, folder, begun_at) if due else ""]))
                    )
            before = now

    watcher = Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()


def progress(plan: Plan, steps: Sequence[Step], folder: StudyFolder, jobs: int, rate: str = "") -> str:
    """Return for instance "12 of 49, 38 min left": an estimate from the steps that are done; `rate` goes between."""
    found = estimates(plan, steps, folder)
    known = [one.left for one in found if one.left is not None]
    line = f"{sum(one.done for one in found)} of {len(steps)}" + (rate and f", {rate}")
    if sum(known) == 0:
        return line
    more = "more than " if len(known) < len(found) else ""
    return f"{line}, {more}{duration(sum(known) / jobs)} left"


def at_work(plan: Plan, steps: Sequence[Step], folder: StudyFolder, since: float) -> str:
    """Return for instance "at work: qqp/seed_42/fine-tune (3 min 5 s)": what was begun since then, and is not done."""
    found = []
    for step in steps:
        with suppress(FileNotFoundError):
            begun = folder.starts_file(step, plan.identity(step)).stat().st_mtime
            if begun >= since and not folder.is_done(step):
                found.append(f"{step.path} ({duration(max(0.0, time.time() - begun))})")
    return f"at work: {', '.join(found)}" if found else ""


def _rate(steps: int, seconds: float) -> str:
    """`12 an hour`; nothing as long as nothing is done."""
    if steps < 1 or seconds <= 0:
        return ""
    an_hour = 3600 * steps / seconds
    return f"{an_hour / 60:.1f} a minute" if an_hour >= 60 else f"{an_hour:.2g} an hour"


def _done(steps: Sequence[Step], folder: StudyFolder) -> int:
    return sum(folder.is_done(step) for step in steps)
