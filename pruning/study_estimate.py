"""How far a study is, and how long the rest of it takes, from the times of the steps that are done."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from .study import Plan, Step
from .study_folder import StudyFolder


@dataclass(frozen=True)
class Estimate:
    """Steps of one kind: how many there are, and how long those left will take."""

    wave: str
    name: str
    """Of the step; draws of random subnetworks are counted together."""
    steps: int
    done: int
    seconds: float | None
    """Of one, on average; None if none of its kind was done yet."""
    left: float | None
    """Of all that are left together."""


def estimates(plan: Plan, steps: Sequence[Step], folder: StudyFolder) -> list[Estimate]:
    """Return how far a study is and what is left, from the times that finished steps took.

    A step takes as long as others of its name on its task, or else on other tasks.
    """
    done = {step.path for step in plan.steps if folder.is_done(step)}
    measured: dict[tuple[str, str], list[float]] = {}
    for step in plan.steps:
        if step.path in done:
            seconds = folder.read(step)["step"]["seconds"]
            for key in (
                (_plain(step), step.task),
                (_plain(step), ""),
                (step.kind, step.task),
                (step.kind, ""),
            ):
                measured.setdefault(key, []).append(seconds)

    def expected(step: Step) -> float | None:
        keys = ((_plain(step), step.task), (step.kind, step.task), (_plain(step), ""), (step.kind, ""))
        return next((sum(measured[key]) / len(measured[key]) for key in keys if key in measured), None)

    found = []
    counts = Counter((step.wave, _plain(step)) for step in steps)
    for (wave, name), number in counts.items():
        alike = [step for step in steps if (step.wave, _plain(step)) == (wave, name)]
        times = [expected(step) for step in alike]
        left = [time for step, time in zip(alike, times, strict=True) if step.path not in done]
        known = [time for time in times if time is not None]
        found.append(
            Estimate(
                wave,
                name,
                number,
                number - len(left),
                sum(known) / len(known) if known else None,
                None if None in left else float(sum(time for time in left if time is not None)),
            )
        )
    return found


def _plain(step: Step) -> str:
    """The step's name, without the number of a draw."""
    return "-".join(part for part in step.name.split("-") if not part.isdecimal())
