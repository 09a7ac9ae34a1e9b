"""What closing the heads of a group costs beside as many others of the same layers, and what each costs alone."""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..permutation import (
    LEVEL,
    NO_DIFFERENCE,
    UNTESTABLE,
    PermutationTest,
    difference_test,
    holm,
    holm_at_best,
    holm_levels,
    verdict,
)
from .inputs import Ends
from .records import Beside, OneByOne, Tested

Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]

_TIE = 1e-9  # the same drop, but for rounding

TOGETHER = (
    "The drop of the score while all heads of a group are closed, beside that of random sets with as many heads in "
    "every layer, drawn from all heads of the layer, those of the group included: were the group any heads of its "
    "layers, its drop would be like any of these. p = (b + 1) / (m + 1), where b of m draws lie at least as far from "
    "the mean of all of them and the group's own (two-sided), corrected by Holm for the number of groups. It covers "
    "which heads of a layer are in the group, for this model and these inputs."
)
ALONE = (
    "Each head is closed alone. The difference is the mean drop of a group's heads less that of the others, less what "
    "the layers explain in which they lie; its interval and p are of one test, which permutes heads within layers, "
    "both corrected for the number of groups (Holm): 0 lies in the interval if and only if p > .05. They cover which "
    "heads of a layer are in the group, the others being interchangeable with them, for this model and these inputs."
)


def matched(heads: Bools, candidates: Bools, draws: int, seed: int, key: str) -> Bools:
    """Return random sets ``[D, L, H]`` with as many heads as a group has in every layer.

    They are drawn from all candidates of the layer, the group's own included. A draw depends on the seed, the key and
    its number alone.

    Args:
        heads: ``[L, H]`` of the group, all of them candidates.
        candidates: ``[L, H]``, the heads that there are.
        draws: how many sets.
        seed: of the draws.
        key: of the group.
    """
    found = np.zeros((draws, *heads.shape), dtype=bool)
    for draw in range(draws):
        rng = np.random.default_rng([seed, zlib.crc32(key.encode()), draw])
        for layer in np.flatnonzero(heads.any(axis=1)):
            there = np.flatnonzero(candidates[layer])
            found[draw, layer, rng.permutation(there)[: heads[layer].sum()]] = True
    return found


def arrangements(heads: Bools, candidates: Bools) -> int:
    """Return how many different sets have as many heads in every layer."""
    pairs = zip(candidates.sum(axis=1).tolist(), heads.sum(axis=1).tolist(), strict=True)
    return math.prod(math.comb(all_, own) for all_, own in pairs)


def layers_of(heads: Bools, candidates: Bools) -> dict[str, list[int]]:
    """Return by layer that has heads of a group how many, and how many others are in it."""
    return {
        str(layer): [int(own), int(of - own)]
        for layer, (own, of) in enumerate(zip(heads.sum(axis=1), candidates.sum(axis=1), strict=True))
        if own
    }


def shortage(layers: Mapping[str, Sequence[int]]) -> str:
    """Say in which layers a group has more heads than there are others, and what that means for the draws."""
    short = {layer: (own, others) for layer, (own, others) in layers.items() if own > others}
    if not short:
        return ""
    shared = sum(own - others for own, others in short.values())
    names = ", ".join(f"{layer} ({own} beside {others})" for layer, (own, others) in short.items())
    return (
        f"has more heads than there are others in layer {names}: random sets are drawn from all heads of a layer, so "
        f"that each has {shared} heads or more in common with it"
    )


def p_value(observed: float, drawn: Floats) -> float:
    """Return the two-sided ``(b + 1) / (m + 1)`` (Phipson & Smyth 2010) of one value beside m random ones.

    b of them lie at least as far as it from the mean of all m + 1, in which all have the same part: if the one is
    like any other, each place of it is as likely.
    """
    everything = np.append(drawn, observed)
    far = np.abs(everything - everything.mean())
    return (int((far[:-1] >= far[-1] - _TIE).sum()) + 1) / (len(drawn) + 1)


@dataclass(frozen=True, eq=False)
class Costs:
    """What closing one group costs; scores and losses are of the examples, drops less that with nothing closed."""

    heads: Bools
    candidates: Bools
    score: float
    drop: float
    loss: float
    loss_increase: float
    drawn: Floats
    """``[D]``: the drops of random sets."""
    ci95: Ends = (None, None)
    """Of the drop, over inputs: see :mod:`pruning.ablation.inputs`."""


def together(
    costs: Sequence[Costs | None],
    heads: Sequence[Bools],
    candidates: Bools,
    draws: int,
    floor: float = -math.inf,
) -> list[Beside]:
    """Return what closing each group costs beside chance, corrected by Holm over those that can be tested.

    Args:
        costs: of each group; None of one without heads.
        heads: ``[L, H]`` of each group.
        candidates: ``[L, H]``, the heads that there are.
        draws: random sets of each.
        floor: what the commonest label scores. A group that leaves no more than that cannot be told from random sets
            of which many do so too; that is no absence of a difference.
    """
    smallest, p_values, reasons = [], [], []
    for one, of in zip(costs, heads, strict=True):
        number = arrangements(of, candidates)
        least = max(1 / (draws + 1), 1 / number)
        reasons.append(_untestable(one is None, number, draws) if one is None or least > LEVEL else "")
        smallest.append(None if one is None else least)
        p_values.append(None if one is None or reasons[-1] else p_value(one.drop, one.drawn))
    tested = _corrected(
        [None if one is None else one.drop - float(one.drawn.mean()) for one in costs],
        p_values,
        smallest,
        reasons,
    )
    return [
        {
            **_on_floor(test, one, floor),
            "score": None if one is None else one.score,
            "drop": None if one is None else one.drop,
            "drop_ci95": [None, None] if one is None else list(one.ci95),
            "loss": None if one is None else one.loss,
            "loss_increase": None if one is None else one.loss_increase,
            "random": None
            if one is None
            else {
                "mean": float(one.drawn.mean()),
                "ci95": [float(end) for end in np.percentile(one.drawn, [2.5, 97.5])],
                "as_large": int((one.drawn >= one.drop - _TIE).sum()),
            },
            "draws": 0 if one is None else draws,
            "layers": layers_of(of, candidates),
        }
        for one, of, test in zip(costs, heads, tested, strict=True)
    ]  # fmt: skip


def _on_floor(test: Tested, costs: Costs | None, floor: float) -> Tested:
    """Return a test as it is, or as none where nothing could cost more than as many heads of the layers do."""
    if costs is None or test["verdict"] != NO_DIFFERENCE or costs.score > floor + _TIE:
        return test
    below = int((costs.score + costs.drop - costs.drawn <= floor + _TIE).sum())
    if below <= LEVEL * len(costs.drawn):
        return test
    why = (
        f"closing them leaves no more than the commonest label's score, {floor:.4f}, and so do {below} of "
        f"{len(costs.drawn)} random sets, so that none could cost much more; the group is too large to tell"
    )
    return {**test, "verdict": UNTESTABLE, "why": why}


def _untestable(empty: bool, number: int, draws: int) -> str:
    if empty:
        return "no head is of this group"
    if number == 1:
        return "all heads of its layers are of this group, so that there is no other set to draw"
    if number <= draws:
        return f"there are only {number} sets with as many heads in every layer"
    return f"{draws} draws are too few for any p of {LEVEL}"


def alone(
    drops: Floats, heads: Sequence[Bools], span: float, permutations: int, seed: int
) -> list[OneByOne | None]:
    """Return how far the score drops while single heads of each group are closed, beside the others of their layers.

    Args:
        drops: ``[L, H]`` of each head; NaN for those that are not there.
        heads: ``[L, H]`` of each group; None is returned for one without any.
        span: the largest difference that there can be.
        permutations: of each test.
        seed: of the tests.
    """
    there = np.isfinite(drops)
    tests = [difference_test(of, drops, permutations, seed) if of.any() else None for of in heads]
    reasons = [_no_others(test) for test in tests]
    smallest = [None if test is None else test.smallest_p for test in tests]
    p_values = [
        None if test is None or why else test.p_value for test, why in zip(tests, reasons, strict=True)
    ]
    differences = [None if test is None else test.difference for test in tests]
    found: list[OneByOne | None] = []
    levels = holm_levels(p_values)
    for of, test, tested, level in zip(
        heads, tests, _corrected(differences, p_values, smallest, reasons), levels, strict=True
    ):
        if test is None:
            found.append(None)
            continue
        others = drops[there & ~of]
        bounds: tuple[float, float] | tuple[None, None] = (None, None)
        if tested["verdict"] != UNTESTABLE:
            bounds = test.interval(level, (-span, span))
        found.append(
            {
                **tested,
                "mean_drop": float(drops[of].mean()),
                "others": float(others.mean()) if len(others) else None,
                "by_layers": test.by_layers,
                "difference": test.difference,
                "ci95": [None if end is None or not math.isfinite(end) else end for end in bounds],
                "permutations": permutations,
            }
        )
    return found


def _no_others(test: PermutationTest | None) -> str:
    if test is None:
        return "no head is of this group"
    return "" if test.testable else "too few heads of a layer are of this group beside others"


def _corrected(
    differences: Sequence[float | None],
    p_values: Sequence[float | None],
    smallest: Sequence[float | None],
    reasons: Sequence[str],
) -> list[Tested]:
    """Return the tests with what depends on how many there are; a reason is given for what cannot be tested."""
    possible = [None if why else least for least, why in zip(smallest, reasons, strict=True)]
    number = sum(one is not None for one in possible)
    found: list[Tested] = []
    for difference, p, holm_p, at_best, least, why in zip(
        differences, p_values, holm(p_values), holm_at_best(possible), smallest, reasons, strict=True
    ):
        if at_best is not None and at_best > LEVEL + _TIE:
            why = (
                f"p, corrected for {number} groups, is at least {at_best:.3f} with so few draws; "
                f"{draws_needed(number)} are enough"
            )
        found.append(
            {
                "p_value": p,
                "smallest_p": least,
                "p_holm": holm_p,
                "verdict": UNTESTABLE if why else verdict(difference, holm_p, least),
                "why": why,
            }
        )
    return found


def draws_needed(groups: int) -> int:
    """Return how many draws let the smallest p of so many groups be .05 after Holm's correction."""
    return math.ceil(groups / LEVEL - _TIE) - 1
