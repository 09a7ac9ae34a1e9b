"""How far a study is, told while it runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from threading import Event, Thread

from models.common.commands import say
from models.common.errors import HeadscopeError

from .estimate import estimates
from .folder import StudyFolder
from .plan import Plan, Step
from .terminal import duration

_SECONDS = 2.0  # between two looks


@contextmanager
def told(plan: Plan, steps: Sequence[Step], folder: StudyFolder, jobs: int) -> Iterator[None]:
    """Say on stderr how many of the steps are done and how long the rest takes, whenever some have been done.

    The workers are processes of their own, on other machines perhaps; what they finish is seen in the folder.
    """
    over = Event()

    def watch() -> None:
        before = _done(steps, folder)
        while not over.wait(_SECONDS):
            now = _done(steps, folder)
            if now != before and now < len(steps):
                with suppress(
                    HeadscopeError, OSError
                ):  # a damaged or vanishing step is told of by whoever needs it
                    say(progress(plan, steps, folder, jobs))
            before = now

    watcher = Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()


def progress(plan: Plan, steps: Sequence[Step], folder: StudyFolder, jobs: int) -> str:
    """Return for instance "12 of 49, 38 min left": an estimate from the steps that are done."""
    found = estimates(plan, steps, folder)
    known = [one.left for one in found if one.left is not None]
    line = f"{sum(one.done for one in found)} of {len(steps)}"
    if sum(known) == 0:
        return line
    more = "more than " if len(known) < len(found) else ""
    return f"{line}, {more}{duration(sum(known) / jobs)} left"


def _done(steps: Sequence[Step], folder: StudyFolder) -> int:
    return sum(folder.is_done(step) for step in steps)
