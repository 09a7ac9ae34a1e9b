"""Magnitude pruning: the smallest weights go first, without retraining in between.

A step removes a fraction of the weights that are left. Prasanna et al. (2020) published steps of 5% without a cap;
their released code has 10% and keeps at most 9 steps (``fraction=0.1``, ``max_steps=9``).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, NotRequired, TypedDict

import numpy as np
import numpy.typing as npt

from models.common.errors import InputError
from models.weights import Survival, WeightMasks, prunable_weights, survival

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel

__all__ = [
    "CRITERIA",
    "Iteration",
    "MagnitudeOrder",
    "MagnitudePruning",
    "MagnitudeSearch",
    "Survival",
    "WeightMasks",
    "magnitude_masks",
    "magnitude_search",
    "masks_at",
    "prunable_weights",
    "random_masks",
    "survival",
]

_POSITION = np.uint64(0xFFFFFFFF)


def _magnitude(values: npt.NDArray[np.float32]) -> npt.NDArray[np.uint32]:
    return np.abs(values).view(np.uint32)  # the bits of floats that are not negative order as the floats do


def _share_of_tensor(values: npt.NDArray[np.float32]) -> npt.NDArray[np.uint32]:
    places = np.empty(values.size, dtype=np.uint64)
    places[np.argsort(np.abs(values), kind="stable")] = np.arange(values.size, dtype=np.uint64)
    return ((places << np.uint64(32)) // np.uint64(values.size)).astype(np.uint32)


@dataclass(frozen=True)
class WeightCriterion:
    """Which weights go first."""

    order: Callable[[npt.NDArray[np.float32]], npt.NDArray[np.uint32]]
    """Of one tensor's values ``[N]``, numbers that are compared over all tensors; the smallest go first."""
    help: str


CRITERIA: Mapping[str, WeightCriterion] = {
    "magnitude": WeightCriterion(_magnitude, "the smallest of all tensors together"),
    "uniform-magnitude": WeightCriterion(_share_of_tensor, "the same share of every tensor, its smallest"),
}
"""By name; one more is an entry here."""


class MagnitudeRecord(TypedDict):
    """What decides the result of a search by magnitude."""

    threshold: float
    fraction: float
    max_steps: int | None
    last_bias: bool
    criterion: NotRequired[str]


@dataclass(frozen=True)
class MagnitudePruning:
    """How to search by magnitude; the paper's values are the defaults.

    Raises:
        InputError: a number is out of range, or the criterion unknown.
    """

    threshold: float = 0.9
    """Share of the full model's score to hold."""
    fraction: float = 0.05
    """Share of the weights left that a step removes (published: 0.05).

    The released code has 0.1.
    """
    max_steps: int | None = None
    """Steps at most. Default: no limit.

    The released code keeps 9.
    """
    last_bias: bool = False
    """Prune the bias of each MLP's last layer too."""
    criterion: str = "magnitude"
    """Which weights go first: magnitude, the smallest of all tensors together; or uniform-magnitude, the same share of
    every tensor, its smallest."""

    def __post_init__(self) -> None:
        if not 0 < self.threshold <= 1:
            raise InputError(f"threshold={self.threshold}: give a share above 0 and up to 1.")
        if not 0 < self.fraction < 1:
            raise InputError(f"fraction={self.fraction}: give a share above 0 and below 1.")
        if self.max_steps is not None and self.max_steps < 1:
            raise InputError(f"max_steps={self.max_steps}: give at least 1.")
        criterion_of(self.criterion)

    def record(self) -> MagnitudeRecord:
        """Return what decides the result."""
        found: MagnitudeRecord = {
            "threshold": self.threshold,
            "fraction": self.fraction,
            "max_steps": self.max_steps,
            "last_bias": self.last_bias,
        }
        if self.criterion != "magnitude":  # searches of before had no choice of it
            found["criterion"] = self.criterion
        return found


def criterion_of(name: str) -> WeightCriterion:
    """Return a criterion by its name.

    Raises:
        InputError: there is none of it.
    """
    if name not in CRITERIA:
        raise InputError(f"criterion={name!r}: give one of {', '.join(CRITERIA)}.")
    return CRITERIA[name]


class MagnitudeOrder:
    """The masks of every step of magnitude pruning, from one sort.

    Step k removes ``round(fraction * left)`` of the weights left after step k - 1, as
    ``torch.nn.utils.prune.global_unstructured`` with ``L1Unstructured`` does, ties to even included; of equal
    magnitudes the earlier goes first (in the order of :func:`prunable_weights`, then row by row). Magnitudes are
    compared in float32. What it holds does not change when the model does: for each weight the step that removes it.

    Memory: about 10 bytes a weight while it is made, then 1 or 2 (4 beyond 65,535 steps).

    Args:
        model: a model of a supported family with or without a task head.
        fraction: share of the weights left that a step removes, above 0 and at most 1.
        last_bias: as for :func:`prunable_weights`.
        criterion: one of :data:`CRITERIA`.

    Raises:
        InputError: the fraction is out of range, the criterion unknown, or a weight is not finite.
        UnsupportedModelError: as :func:`prunable_weights`.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        fraction: float = 0.05,
        last_bias: bool = False,
        criterion: str = "magnitude",
    ) -> None:
        if not 0 < fraction <= 1:
            raise InputError(
                f"fraction={fraction}: give the share that a step removes, above 0 and at most 1."
            )
        weights = prunable_weights(model, last_bias)
        kept = [sum(weight.numel() for weight in weights.values())]
        while removed := round(fraction * kept[-1]):
            kept.append(kept[-1] - removed)
        self.kept: tuple[int, ...] = tuple(kept)
        """Number of weights kept after each step; the first is the whole model, after the last no step removes any."""
        order = _smallest_first(weights, criterion)
        step_of = np.full(kept[0], len(kept), dtype=np.min_scalar_type(len(kept)))  # what stays has no step
        for step in range(1, len(kept)):
            step_of[order[kept[0] - kept[step - 1] : kept[0] - kept[step]] & _POSITION] = step
        self._step_of = _per_tensor(step_of, weights)

    @property
    def n_steps(self) -> int:
        """Number of steps that remove something."""
        return len(self.kept) - 1

    @property
    def shares(self) -> tuple[float, ...]:
        """Share of the prunable weights kept after each step, 1 first."""
        return tuple(kept / self.kept[0] for kept in self.kept)

    def masks(self, step: int) -> WeightMasks:
        """Return the masks after `step` steps; 0 keeps everything, and nothing changes beyond the last step.

        Raises:
            InputError: `step` is negative.
        """
        if step < 0:
            raise InputError(f"step={step}: steps are counted from 0, the whole model.")
        step = min(step, self.n_steps)
        return WeightMasks({name: steps > step for name, steps in self._step_of.items()})


def masks_at(
    model: PreTrainedModel, step: int, fraction: float = 0.05, last_bias: bool = False
) -> WeightMasks:
    """Return the masks after `step` steps; for more than one step of a model, keep a :class:`MagnitudeOrder`.

    Raises:
        InputError: as :class:`MagnitudeOrder` and its :meth:`~MagnitudeOrder.masks`.
    """
    return MagnitudeOrder(model, fraction, last_bias).masks(step)


def magnitude_masks(
    model: PreTrainedModel,
    *,
    kept: int | None = None,
    share: float | None = None,
    largest: bool = False,
    last_bias: bool = False,
    criterion: str = "magnitude",
) -> WeightMasks:
    """Return masks that keep a given number of weights, the others being pruned in one shot.

    Args:
        model: a model of a supported family.
        kept: number of weights that are kept.
        share: instead, the share kept, rounded to a number of weights.
        largest: prune the largest magnitudes instead of the smallest: the "bad" masks of Prasanna et al. (2020).
            Of equal magnitudes the earlier goes first either way.
        last_bias: as for :func:`prunable_weights`.
        criterion: one of :data:`CRITERIA`.

    Raises:
        InputError: neither or both of `kept` and `share` are given or out of range, or a weight is not finite.
    """
    weights = prunable_weights(model, last_bias)
    total = sum(weight.numel() for weight in weights.values())
    removed = total - _number(total, kept, share)
    mask = np.ones(total, dtype=bool)
    mask[_smallest_first(weights, criterion, largest)[:removed] & _POSITION] = False
    return WeightMasks(_per_tensor(mask, weights))


def random_masks(
    model: PreTrainedModel,
    *,
    kept: int | None = None,
    share: float | None = None,
    seed: int = 0,
    last_bias: bool = False,
) -> WeightMasks:
    """Return masks that keep exactly a given number of weights, drawn uniformly from all prunable ones together.

    Args:
        model: a model of a supported family.
        kept: number of weights that are kept.
        share: instead, the share kept, rounded to a number of weights.
        seed: of the draw.
        last_bias: as for :func:`prunable_weights`.

    Raises:
        InputError: neither or both of `kept` and `share` are given or out of range.
    """
    weights = prunable_weights(model, last_bias)
    total = sum(weight.numel() for weight in weights.values())
    mask = np.zeros(total, dtype=bool)
    mask[: _number(total, kept, share)] = True
    np.random.default_rng(seed).shuffle(mask)
    return WeightMasks(_per_tensor(mask, weights))


class Iteration(NamedTuple):
    """One line of a search's history."""

    iteration: int
    """0 is the whole model."""
    step: int
    kept_share: float
    score: float
    """NaN if it is undefined, e.g. a correlation with constant predictions; then the step is not accepted."""
    accepted: bool


@dataclass(frozen=True)
class MagnitudeSearch:
    """The result of :func:`magnitude_search`."""

    history: tuple[Iteration, ...]
    """Every model that was measured, the whole one first."""
    ended: str
    """Why it ended: ``"threshold"``, a score below it; ``"max-steps"``; or ``"exhausted"``, nothing left to remove."""

    @property
    def found(self) -> Iteration:
        """The last accepted iteration: the result."""
        return [one for one in self.history if one.accepted][-1]

    @property
    def full_score(self) -> float:
        """Score of the whole model."""
        return self.history[0].score


def magnitude_search(
    measure: Callable[[int], float],
    shares: Sequence[float],
    threshold: float = 0.9,
    *,
    max_steps: int | None = None,
    metric: str = "score",
    record: Callable[[Iteration], Any] | None = None,
) -> MagnitudeSearch:
    """Take steps as long as the score is at least ``threshold`` times that of the whole model.

    There is no going back and no step is left out; the result is the last step that passed, the whole model if
    the first one fails.

    Args:
        measure: the score of the model with the masks of a step, larger is better. It is asked for step 0 (the
            whole model), 1, 2, ...; answering from an earlier run's history continues that run.
        shares: share of the weights kept after each step, :attr:`MagnitudeOrder.shares`.
        threshold: above 0 and at most 1.
        max_steps: take at most so many steps.
        metric: what the score is, for messages.
        record: called with each iteration as soon as it is known.

    Raises:
        InputError: the threshold or `max_steps` is out of range, or the whole model's score is not above 0.
    """
    if not 0 < threshold <= 1:
        raise InputError(f"threshold={threshold}: give a share of the full score, above 0 and at most 1.")
    if max_steps is not None and max_steps < 1:
        raise InputError(f"max_steps={max_steps}: give at least 1, or None for no limit.")
    history: list[Iteration] = []

    def note(step: int, score: float, accepted: bool) -> None:
        history.append(Iteration(len(history), step, float(shares[step]), score, accepted))
        if record is not None:
            record(history[-1])

    full = float(measure(0))
    if not 0 < full < math.inf:
        raise InputError(
            f"The whole model's {metric} is {full:g}, so no score can be compared with {threshold:g} times it; "
            f"pruning needs a model whose {metric} is above 0, such as one fine-tuned on the task."
        )
    note(0, full, True)
    last = len(shares) - 1 if max_steps is None else min(len(shares) - 1, max_steps)
    for step in range(1, last + 1):
        score = float(measure(step))
        note(step, score, score >= threshold * full)  # never for NaN
        if not history[-1].accepted:
            return MagnitudeSearch(tuple(history), "threshold")
    return MagnitudeSearch(tuple(history), "exhausted" if last == len(shares) - 1 else "max-steps")


def _smallest_first(
    weights: dict[str, nn.Parameter], criterion: str, largest: bool = False
) -> npt.NDArray[np.uint64]:
    """Return a key for each weight, sorted by a criterion, then position; its lower half is the position.

    Sorting whole numbers in place takes less than half the memory and the time of a stable argsort.
    """
    order = criterion_of(criterion).order
    total = sum(weight.numel() for weight in weights.values())
    if total > int(_POSITION):
        raise InputError(
            f"The model has {total:,} prunable weights; headscope sorts at most {int(_POSITION):,}."
        )
    keys = np.empty(total, dtype=np.uint64)
    start = 0
    for name, weight in weights.items():
        values = weight.detach().float().cpu().reshape(-1).numpy()
        if not np.isfinite(values).all():
            raise InputError(
                f"The model's {name!r} holds weights that are not finite numbers; load a sound model."
            )
        end = start + values.size
        bits = order(values)
        keys[start:end] = ~bits if largest else bits
        keys[start:end] <<= np.uint64(32)
        keys[start:end] |= np.arange(start, end, dtype=np.uint64)
        start = end
    keys.sort()
    return keys


def _per_tensor(flat: npt.NDArray[Any], weights: dict[str, nn.Parameter]) -> dict[str, npt.NDArray[Any]]:
    """Cut what is one long row for all weights into arrays of their shapes."""
    ends = np.cumsum([weight.numel() for weight in weights.values()])
    pieces = np.split(flat, ends[:-1])
    return {
        name: piece.reshape(weight.shape)
        for (name, weight), piece in zip(weights.items(), pieces, strict=True)
    }


def _number(total: int, kept: int | None, share: float | None) -> int:
    """Return the number of weights to keep.

    Raises:
        InputError: neither or both are given, or out of range.
    """
    if (kept is None) == (share is None):
        raise InputError("Give either kept, a number of weights, or share, from 0 to 1.")
    if kept is None and share is not None:
        if not 0 <= share <= 1:
            raise InputError(f"share={share}: give a share from 0 to 1.")
        return round(share * total)
    if kept is None or not 0 <= kept <= total:
        raise InputError(f"kept={kept}: give a number from 0 to the {total:,} prunable weights.")
    return kept
