"""Find a subnetwork by removing the least important heads and MLPs while the score holds (Prasanna et al. 2020)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from models.common.errors import InputError
from models.subnetwork import Subnetwork

from .importance import CRITERIA, Criterion, Floats, Importance

WHAT = ("heads-and-mlps", "heads", "mlps")


class Measurement(NamedTuple):
    """What is measured of one subnetwork, in one pass."""

    score: float
    importance: Importance


class Step(NamedTuple):
    """One subnetwork that the search looked at."""

    iteration: int
    """0 is the full model."""
    phase: str
    """``full``, ``joint``, ``heads`` or ``mlps``."""
    subnetwork: Subnetwork
    measured: Measurement
    accepted: bool
    """Whether its score reached the threshold."""


@dataclass(frozen=True)
class StructuredSearch:
    """How to search; the paper's values are the defaults.

    Three phases, each until a step fails or nothing is left: `joint` removes heads and MLPs together, then `heads`
    only heads in smaller steps, then `mlps` only MLPs. With ``what="heads"`` or ``"mlps"`` there is one phase.

    Raises:
        InputError: a number is out of range, or a name unknown.
    """

    what: str = "heads-and-mlps"
    """heads-and-mlps, heads or mlps."""
    threshold: float = 0.9
    """Share of the full model's score to hold."""
    head_step: float = 0.1
    """Share of all heads that a step removes.

    Rounded down, at least one.
    """
    fine_head_step: float = 0.05
    """The same once removing heads and MLPs together fails."""
    mlp_step: int = 1
    """MLPs that a step removes."""
    protocol: str = "corrected"
    """corrected, or as-released: with the published code's importances.

    ``corrected``: what is removed next is chosen by importances of the subnetwork it is removed from, and only what
    is left is compared. ``as-released``: importances as the published code computes them, with what is removed
    among the normalised, and those of a failing subnetwork choose the first step of the next phase.
    """

    def __post_init__(self) -> None:
        if self.what not in WHAT:
            raise InputError(f"what={self.what!r}: give {', '.join(WHAT[:2])} or {WHAT[2]}.")
        if self.protocol not in CRITERIA:
            raise InputError(f"protocol={self.protocol!r}: give {' or '.join(CRITERIA)}.")
        for name in ("threshold", "head_step", "fine_head_step"):
            if not 0 < getattr(self, name) <= 1:
                raise InputError(f"{name}={getattr(self, name)}: give a share above 0 and up to 1.")
        if self.mlp_step < 1:
            raise InputError(f"mlp_step={self.mlp_step}: give at least 1.")

    @property
    def criterion(self) -> Criterion:
        """What decides which heads and MLPs go first."""
        return CRITERIA[self.protocol]

    def phases(self, n_heads: int) -> list[tuple[str, int, int]]:
        """Return name, heads a step and MLPs a step of each phase, for a model of so many heads."""
        coarse, fine = (max(1, int(n_heads * share)) for share in (self.head_step, self.fine_head_step))
        return {
            "heads-and-mlps": [
                ("joint", coarse, self.mlp_step),
                ("heads", fine, 0),
                ("mlps", 0, self.mlp_step),
            ],
            "heads": [("heads", coarse, 0)],
            "mlps": [("mlps", 0, self.mlp_step)],
        }[self.what]

    def run(self, full: Subnetwork, measure: Callable[[Subnetwork], Measurement]) -> Iterator[Step]:
        """Yield every subnetwork looked at, the full model first; the last accepted one is the result.

        There is no going back: what is removed stays removed, whatever it scores later.

        Args:
            full: where to start.
            measure: score and importance of a subnetwork.

        Raises:
            InputError: the full model's score is 0, negative or NaN, so that no share of it is a threshold.
        """
        kept, at = full, measure(full)
        check_score(at.score)
        yield Step(0, "full", full, at, True)
        least, last, iteration = self.threshold * at.score, at, 0
        for phase, heads, mlps in self.phases(full.n_heads):
            if self.criterion.of_kept:
                last = at
            while (heads == 0 or kept.n_heads) and (mlps == 0 or kept.n_mlps):
                candidate = without_least(kept, self._ranking(last.importance, kept), heads, mlps)
                last = measure(candidate)
                iteration += 1
                accepted = last.score >= least  # NaN is not
                yield Step(iteration, phase, candidate, last, accepted)
                if not accepted:
                    break
                kept, at = candidate, last

    def _ranking(self, importance: Importance, kept: Subnetwork) -> Importance:
        if self.criterion.of_kept:
            return importance.of(kept).normalized()
        return importance.normalized().of(kept)


def check_score(score: float) -> None:
    """Refuse a full model of whose score no share is a threshold.

    Raises:
        InputError: it is 0, negative or not a number.
    """
    if not score > 0:
        raise InputError(
            f"The full model scores {score:.4g}, so that no share of its score can be held: the model has not learned "
            "the task. Fine-tune it further (more epochs, another learning rate) or give more examples."
        )


def without_least(kept: Subnetwork, importance: Importance, heads: int, mlps: int) -> Subnetwork:
    """Return `kept` without its so many least important heads and MLPs, all that are left if there are fewer.

    Among equals the lower layer goes first, then the lower head.
    """
    left_heads, left_mlps = kept.heads.copy(), kept.mlps.copy()
    left_heads[_least(importance.heads, kept.heads, heads)] = False
    left_mlps[_least(importance.mlps, kept.mlps, mlps)] = False
    return Subnetwork(left_heads, left_mlps)


def _least(values: Floats, kept: np.ndarray, number: int) -> tuple[np.ndarray, ...]:
    order = np.argsort(np.where(kept, values, np.inf), axis=None, kind="stable")
    return np.unravel_index(order[: min(number, int(kept.sum()))], kept.shape)
