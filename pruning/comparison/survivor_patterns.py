"""The patterns of survivors beside those of all heads, in each seed's own checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple, TypedDict

import numpy as np
import numpy.typing as npt

from models.anatomy import anatomy_of
from models.checkpoints import Checkpoint
from models.common.errors import InputError
from models.common.files import known
from models.isolating import isolated
from models.subnetwork import Mask
from models.tasks.rows import Row
from patterns import HeadPatterns, PatternClassifier, classify_heads
from patterns.distribution import EMPTY, distribution, interpretable_shares, seen_maps
from patterns.maps.examples import ExampleMaps
from patterns.taxonomy import INTERPRETABLE

from ..permutation import (
    LEVEL,
    UNTESTABLE,
    PermutationTest,
    crossed_ci95,
    difference_test,
    holm,
    holm_at_best,
    holm_levels,
    verdict,
)
from ..search.runs import Group, Run
from ..survivors import super_survivors

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

SideName = Literal["super_survivors", "non_survivors", "all", "super_survivors_alone"]
SIDES: tuple[SideName, ...] = ("super_survivors", "non_survivors", "all", "super_survivors_alone")
"""Whose patterns are shown: the heads that all seeds keep, the other heads, and all of them, each in the full model;
and the first where the rest is gone, if that was asked for."""

ComparisonName = Literal["difference", "each_seed"]
COMPARISONS: tuple[ComparisonName, ...] = ("difference", "each_seed")
"""Super-survivors against the other heads; and each seed's own survivors against its own pruned heads."""

INTERVALS = {
    "interpretable_ratio_ci95": "which examples and seeds were drawn, alone",
    "difference": "which heads of a layer survive, the others being interchangeable with them: it is the interval of "
    "the test, corrected for the number of comparisons as p_holm is",
}
"""What the intervals cover."""


class Side(TypedDict):
    """The patterns of some heads, ready for JSON."""

    heads: int
    empty_maps: int
    distribution: dict[str, float]
    """By pattern."""
    interpretable_ratio: float
    interpretable_ratio_ci95: list[float | None]


class Difference(TypedDict):
    """One comparison, corrected for how many there are, ready for JSON; None: it cannot be tested."""

    total: float | None
    by_layers: float | None
    value: float | None
    ci95: list[float | None]
    p_value: float | None
    smallest_p: float | None
    permutations: int
    verdict: str
    why: str
    p_holm: float | None


class PatternComparison(TypedDict):
    """The patterns of super-survivors, of the other heads, and of all heads, ready for JSON; None: no such head."""

    super_survivors: Side | None
    non_survivors: Side | None
    all: Side | None
    super_survivors_alone: Side | None
    difference: Difference
    each_seed: Difference


@dataclass(frozen=True)
class Tested:
    """One comparison before it is known how many others there are."""

    test: PermutationTest
    untestable: str
    """Why survivors mean nothing, if that is so."""

    @property
    def p_value(self) -> float | None:
        """None if it cannot be tested."""
        return None if self.untestable or not self.test.testable else self.test.p_value

    @property
    def smallest_p(self) -> float | None:
        """Likewise, what the test could have given at best."""
        return None if self.p_value is None else self.test.smallest_p

    def corrected(self, p_holm: float | None, level: float, at_best: float | None, number: int) -> Difference:
        """Return it with what depends on how many comparisons there are.

        Args:
            p_holm: its p-value, adjusted by Holm.
            level: that of its interval.
            at_best: the smallest adjusted p-value that was possible.
            number: of comparisons.
        """
        test = self.test
        why = self.untestable or ("" if test.testable else "too few heads of a layer survive beside others")
        vain = at_best is not None and at_best > LEVEL
        if vain:
            why = (
                f"with {test.permutations} permutations no comparison of {number} can be "
                f"significant: p, corrected for their number, is at least {at_best:.3f}"
            )
        bounds = (None, None) if self.p_value is None or vain else test.interval(level)
        return {
            "total": test.total,
            "by_layers": test.by_layers,
            "value": test.difference,
            "ci95": [bound if bound is None else known(bound) for bound in bounds],
            "p_value": self.p_value,
            "smallest_p": test.smallest_p,
            "permutations": test.permutations,
            "verdict": UNTESTABLE if vain else verdict(test.difference, p_holm, test.smallest_p),
            "why": why,
            "p_holm": p_holm,
        }


@dataclass(frozen=True)
class Uncorrected:
    """How often which pattern occurs, and tests that are not yet corrected for how many there are."""

    sides: Mapping[SideName, Side | None]
    tests: Mapping[ComparisonName, Tested]


class Source(NamedTuple):
    """A checkpoint to look at."""

    name: str
    """Hub id or folder."""
    revision: str | None = None


@dataclass(frozen=True)
class Measured:
    """The patterns of all heads of the full model on the same examples, for each run of a group."""

    labels: Mapping[str, npt.NDArray[np.int8]]
    """By kind, ``[S, E, L, H]``: index into ``PATTERNS``."""
    alone: Mapping[str, npt.NDArray[np.int8]]
    """Likewise where all but the super-survivors is gone; only their places mean something. Empty if not asked for."""
    models: tuple[Source, ...]
    """The checkpoint of each run, by seed."""
    patterns: tuple[HeadPatterns, ...]
    """What was found in each of these, before examples that another lacks were left out."""
    warnings: tuple[str, ...]
    """What :func:`patterns.classify_heads` warned of, once each; checkpoints changed since they were pruned."""

    @property
    def n_models(self) -> int:
        """Number of different checkpoints."""
        return len(set(self.models))


def measure(
    group: Group,
    models: Sequence[Source],
    load: Callable[[Source], Checkpoint],
    rows: Sequence[Row],
    classifiers: Mapping[str, PatternClassifier],
    cache: dict[tuple[Source, str], HeadPatterns],
    *,
    batch_size: int = 16,
    seed: int = 0,
    announce: Callable[[str], None] | None = None,
    mode: str = "select",
    examples: ExampleMaps | None = None,
    stack: str | None = None,
) -> Measured:
    """Classify the heads of each run's checkpoint; a checkpoint that was seen on this task is not run again.

    With ``mode="gate"`` or ``"compact"``, super-survivors are looked at a second time, in a model of which the rest
    is silenced or removed, as Prasanna et al. (2020) did.

    Args:
        group: the runs of one task.
        models: the checkpoint of each.
        load: loads one.
        rows: the task's, the same for each; examples that one tokenizer makes too short are left out for all.
        classifiers: by kind.
        cache: what was classified so far, by checkpoint and task; added to.
        batch_size: inputs per forward pass.
        seed: goes into the result of each.
        announce: called with a line about each checkpoint before it is run, and then there is a progress bar.
        mode: one of :data:`models.isolating.SUBNETWORK_MODES`.
        examples: keeps a few maps of the full models to look at.
        stack: of an encoder-decoder, whose heads; None and ``encoder`` are those that searches prune.

    Raises:
        HeadscopeError: a checkpoint cannot be loaded, is of another size than the subnetwork, or shares no
            example with the others.
    """
    found: list[HeadPatterns] = []
    alone: dict[Source, HeadPatterns] = {}
    survivors = super_survivors(group.subnetworks)
    separately, warnings = mode != "select" and survivors.n_heads > 0, list[str]()

    def classified(
        model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, keep: ExampleMaps | None = None
    ) -> HeadPatterns:
        return classify_heads(
            model,
            tokenizer,
            rows,
            task=group.described,
            kinds=tuple(classifiers),
            classifiers=classifiers,
            batch_size=batch_size,
            seed=seed,
            progress=announce is not None,
            examples=keep,
            stack=stack,
        )

    for run, model in zip(group.runs, models, strict=True):
        key = model, run.task
        if key not in cache or (separately and model not in alone):
            if announce:
                announce(f"{group.name}, seed {run.seed}: {model.name}")
            checkpoint = load(model)
            warnings += _checked(run, model, checkpoint)
            if key not in cache:
                if examples is not None and len(set(models)) > 1:
                    examples.source = f"seed {run.seed}"
                cache[key] = classified(checkpoint.model, checkpoint.tokenizer, examples)
            if separately:
                with isolated(checkpoint.model, survivors, mode) as left:
                    alone[model] = classified(left, checkpoint.tokenizer)
        found.append(cache[key])
    common = _common(group, found)
    return Measured(
        labels=_labels_of(found, common),
        alone=_labels_of([alone[model] for model in models], common) if separately else {},
        models=tuple(models),
        patterns=tuple(found),
        warnings=(*warnings, *_told(group, found)),
    )


def _common(group: Group, found: Sequence[HeadPatterns]) -> set[int]:
    """Return the examples that all have."""
    common = set.intersection(*(set(patterns.examples.tolist()) for patterns in found))
    if not common:
        raise InputError(f"The checkpoints of {group.name} have no usable example in common.")
    return common


def _told(group: Group, found: Sequence[HeadPatterns]) -> list[str]:
    """Return what was warned of when a group's models were looked at, once each."""
    return list(dict.fromkeys(f"{group.name}: {message}" for one in found for message in one.warnings))


def _labels_of(several: Sequence[HeadPatterns], common: Set[int]) -> dict[str, npt.NDArray[np.int8]]:
    """Return by kind the labels ``[S, E, L, H]`` of the examples in common."""
    chosen = [[i for i, example in enumerate(p.examples.tolist()) if example in common] for p in several]
    return {
        kind: np.stack([p.labels[kind][places] for p, places in zip(several, chosen, strict=True)])
        for kind in several[0].kinds
    }


def compare(
    group: Group,
    labels: npt.NDArray[np.int8],
    permutations: int = 9999,
    seed: int = 0,
    alone: npt.NDArray[np.int8] | None = None,
) -> Uncorrected:
    """Return the patterns of super-survivors, of the other heads, and of all heads.

    ``difference`` is the one comparison of the first two, with its interval, its test and its verdict; see
    :func:`pruning.permutation.difference_test`. Its ``total`` is the interpretable ratio of super-survivors less that
    of the other heads, ``by_layers`` what of it the layers explain in which they lie, and ``value`` the rest, which is
    tested. ``each_seed`` compares in the same way each seed's own survivors with its own pruned heads. The intervals
    of shares resample seeds and examples together, the set of super-survivors as it is. Maps that are zero in every
    cell are left out, and so are heads without any other. None: there is no such head, or it cannot be tested.

    Args:
        group: the runs.
        labels: ``[S, E, L, H]`` of one kind of maps.
        permutations: of each test.
        seed: of the resampling and the permutations.
        alone: the labels of super-survivors where the rest is gone, for ``super_survivors_alone``. The comparison is
            always of the full model, the only one in which the other heads have maps.
    """
    survivors = super_survivors(group.subnetworks).heads
    looked_at: dict[SideName, tuple[npt.NDArray[np.int8], Mask]] = {
        "super_survivors": (labels, survivors),
        "non_survivors": (labels, ~survivors),
        "all": (labels, np.ones_like(survivors)),
    }
    if alone is not None:
        looked_at["super_survivors_alone"] = (alone, survivors)
    sides: dict[SideName, Side | None] = dict.fromkeys(SIDES)
    sides |= {name: _side(of[:, :, mask], seed) for name, (of, mask) in looked_at.items()}
    shares = _shares(labels)  # [S, L, H]
    known_in_some = np.isfinite(shares).any(axis=0)
    mean = np.where(known_in_some, np.nanmean(np.where(known_in_some, shares, 0.0), axis=0), np.nan)
    own = np.stack([one.heads for one in group.subnetworks])
    tests: dict[ComparisonName, tuple[Mask, npt.NDArray[np.float64]]]
    tests = {"difference": (survivors, mean), "each_seed": (own, shares)}
    return Uncorrected(
        sides,
        {
            name: Tested(difference_test(kept, values, permutations, seed), group.untestable)
            for name, (kept, values) in tests.items()
        },
    )


def _side(labels: npt.NDArray[np.int8], seed: int) -> Side | None:
    """The patterns of some heads, from ``[S, E, N]``; None if they have no map to see."""
    if not (labels != EMPTY).any():
        return None
    weights = np.stack([seen_maps(one) for one in labels]).astype(float)
    values = np.stack([interpretable_shares(one) for one in labels])
    shares = distribution(labels.ravel())
    return {
        "heads": int(labels.shape[2]),
        "empty_maps": int((labels == EMPTY).sum()),
        "distribution": shares,
        "interpretable_ratio": shares[INTERPRETABLE],
        "interpretable_ratio_ci95": [known(bound) for bound in crossed_ci95(values, weights, seed)],
    }


def _shares(labels: npt.NDArray[np.int8]) -> npt.NDArray[np.float64]:
    """Each head's share of heterogeneous maps, ``[S, L, H]`` from ``[S, E, L, H]``; NaN without a map to see."""
    S, E, L, H = labels.shape
    by_head = np.moveaxis(labels, 1, -1).reshape(S * L * H, E)
    return interpretable_shares(by_head).reshape(S, L, H)


def adjust(found: Sequence[Uncorrected]) -> list[PatternComparison]:
    """Return the comparisons, ready for JSON, completed by what depends on how many there are.

    That is the p-value adjusted by Holm over all of them, the 95% interval corrected in the same way, and the
    verdict; all three say the same. What cannot come out significant beside so many has no interval and no verdict.
    """
    by_name = {name: _corrected([one.tests[name] for one in found]) for name in COMPARISONS}
    return [
        {
            "super_survivors": one.sides["super_survivors"],
            "non_survivors": one.sides["non_survivors"],
            "all": one.sides["all"],
            "super_survivors_alone": one.sides["super_survivors_alone"],
            "difference": by_name["difference"][place],
            "each_seed": by_name["each_seed"][place],
        }
        for place, one in enumerate(found)
    ]


def _corrected(tests: Sequence[Tested]) -> list[Difference]:
    p_values = [one.p_value for one in tests]
    best = holm_at_best([one.smallest_p for one in tests])
    return [
        one.corrected(p, level, at_best, len(tests))
        for one, p, level, at_best in zip(tests, holm(p_values), holm_levels(p_values), best, strict=True)
    ]


def _checked(run: Run, model: Source, checkpoint: Checkpoint) -> list[str]:
    """Refuse a checkpoint of another size than a run's subnetwork; return what else to say of it."""
    anatomy = anatomy_of(checkpoint.model)
    shape = (anatomy.n_layers, anatomy.n_heads)
    if shape != run.subnetwork.heads.shape:
        one, other = (" x ".join(map(str, of)) for of in (run.subnetwork.heads.shape, shape))
        raise InputError(
            f"{run.source} is of a model of {one} heads (layers x heads), but --model {checkpoint.name} has {other}."
        )
    warnings = list(checkpoint.warnings)
    if model.name == run.model and run.sha256 not in (None, checkpoint.sha256):
        warnings.append(f"{model.name} has other weights now than when {run.source} pruned it.")
    return warnings
