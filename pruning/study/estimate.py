"""How far a study is, and how long the rest of it takes, from the times of the steps that are done."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from .folder import StudyFolder
from .plan import WAVES, Plan, Step

_LIKE = {"fine-tuned": ("fine-tune",)}
"""Kinds of steps whose time stands for another's as long as none of that was done."""


@dataclass(frozen=True)
class Estimate:
    """Steps of one kind: how many there are, and how long those left will take."""

    wave: str
    name: str
    """Of the step, as --only and --force take it; draws of random subnetworks are counted together, as random-*."""
    steps: int
    done: int
    seconds: float | None
    """Of one, on average; None if none of its kind was done yet."""
    left: float | None
    """Of all that are left together."""


def estimates(
    plan: Plan, steps: Sequence[Step], folder: StudyFolder, again: Collection[str] = ()
) -> list[Estimate]:
    """Return how far a study is and what is left, from the times that finished steps took.

    What is done of the steps whose paths are in `again` counts as to be done.

    A step takes as long as others of its name on its task, or else of its kind, or else on other tasks. What is
    fine-tuned again takes as long as the full model at most.
    """
    done = {step.path for step in plan.steps if folder.is_done(step)}
    measured: dict[tuple[str, str], list[float]] = {}
    for step in plan.steps:
        if step.path in done:
            seconds = folder.read(step)["step"]["seconds"]
            for key in (
                (step.alike, step.task),
                (step.alike, ""),
                (step.kind, step.task),
                (step.kind, ""),
            ):
                measured.setdefault(key, []).append(seconds)

    def expected(step: Step) -> float | None:
        kinds = (step.alike, step.kind, *_LIKE.get(step.kind, ()))
        keys = [(kind, task) for task in (step.task, "") for kind in kinds]
        return next((sum(measured[key]) / len(measured[key]) for key in keys if key in measured), None)

    found = []
    counts = Counter((step.wave, step.alike) for step in steps)
    for (wave, name), number in sorted(counts.items(), key=lambda item: WAVES.index(item[0][0])):
        alike = [step for step in steps if (step.wave, step.alike) == (wave, name)]
        times = [expected(step) for step in alike]
        open_ = [step.path not in done or step.path in again for step in alike]
        left = [time for time, is_open in zip(times, open_, strict=True) if is_open]
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
