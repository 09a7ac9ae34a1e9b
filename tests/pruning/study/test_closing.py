"""Ablations of several models put together: made-up drops whose truth is known."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from patterns.taxonomy import PATTERNS, Pattern
from pruning.ablation.chance import alone
from pruning.permutation import HIGHER, LOWER, NO_DIFFERENCE, UNTESTABLE, sign_flip_test
from pruning.study.report import conclusions as conclusions_module
from pruning.study.report.closing import AblatedModel, Closed, comparisons
from pruning.study.report.conclusions import ACROSS_MODELS, Finding, adjusted, conclusions, in_short

NAMES = [pattern.value for pattern in PATTERNS]
BLOCK, HETEROGENEOUS = Pattern.BLOCK.value, Pattern.HETEROGENEOUS.value


def model(
    task: str,
    seed: int,
    costs: dict[str, float],
    each: float = 0.0,
    draws: int = 39,
    skewed: bool = False,
) -> AblatedModel:
    """Drops of groups that are those of random sets and so much more; heterogeneous heads cost `each` more."""
    rng = np.random.default_rng([seed, len(task)])

    def drops(number: int) -> np.ndarray:
        if skewed:  # one set in twenty has the head that all depends on
            return np.where(rng.random(number) < 0.05, 0.4, 0.0) + 0.001 * rng.random(number)
        return rng.normal(0.02, 0.01, number)

    groups = pd.DataFrame(
        [
            {"kind": "norm", "sort": "pattern", "name": name, "drop": float(drops(1)[0]) + costs[name]}
            for name in NAMES
            if name in costs
        ]
    )
    sets = pd.DataFrame(
        [
            {"kind": "norm", "sort": "pattern", "name": name, "heads": f"0.{i}", "drop": drop}
            for name in NAMES
            if name in costs
            for i, drop in enumerate(drops(draws))
        ]
    )
    layers = np.repeat(np.arange(4), 6)
    dominant = rng.choice(NAMES, 24)
    single = 0.01 * layers + rng.normal(0, 0.002, 24) + each * (dominant == HETEROGENEOUS)
    singles = pd.DataFrame({"kind": "norm", "layer": layers, "dominant": dominant, "drop": single})
    return AblatedModel(task, "full", (-1.0, 1.0), groups, sets, singles)


def by_place(models: list[AblatedModel], permutations: int = 1999) -> dict[tuple[str, str | None], Closed]:
    found = comparisons(models, permutations, 0)
    return {(one.comparison.removeprefix("norm maps, full models: "), one.task): one for one in found}


def told(models: list[AblatedModel]) -> list[Finding]:
    study = SimpleNamespace(patterns=SimpleNamespace(permutations=999), seed=0)
    data: Any = SimpleNamespace(plan=SimpleNamespace(study=study), ablated=models)
    return adjusted(conclusions_module._closed(data))


SEEDS = range(3)
COSTS = {name: 0.1 if name == BLOCK else 0.0 for name in NAMES if name != Pattern.VERTICAL.value}


def test_a_pattern_that_costs_more_is_found_and_heterogeneous_heads_that_do_are() -> None:
    models = [model(task, seed, COSTS, each=0.02) for task in ("qqp", "sst2") for seed in SEEDS]
    found = told(models)
    whole = {
        one.comparison.removeprefix("norm maps, full models: "): one
        for one in found
        if one.of == ACROSS_MODELS
    }
    together = {name.split(",")[0].lower(): one for name, one in whole.items() if "together" in name}
    block, vertical = (
        next(one for key, one in together.items() if word in key) for word in ("block", "vertical")
    )
    assert block.outcome == HIGHER
    assert block.n == 6
    own = [one.groups.set_index("name").loc[BLOCK, "drop"] for one in models]
    mean = [one.draws.loc[one.draws["name"] == BLOCK, "drop"].mean() for one in models]
    assert block.effect == pytest.approx(np.mean(own) - np.mean(mean))
    assert 0 < block.low < block.effect < block.high
    assert vertical.outcome == UNTESTABLE
    assert "no model has such heads" in vertical.verdict
    assert sum(one.outcome == HIGHER for one in together.values()) == 1
    (each,) = [one for name, one in whole.items() if "one at a time" in name]
    assert each.outcome == HIGHER
    assert each.low > 0
    answers = next(one["answers"] for one in conclusions(found) if one["key"] == "closed")
    assert "for 1 of 4 patterns (" in answers[0]
    assert "; not testable for " in answers[0]
    assert f"{each.effect:+.3f} [{each.low:+.3f}, {each.high:+.3f}] a head, higher." in answers[0]
    assert in_short(found)[-1] == f"Does the pattern of a head matter? {answers[0]}"
    assert {one.of for one in found} == {"qqp", "sst2", ACROSS_MODELS}


def test_of_one_model_it_is_what_its_own_ablation_says() -> None:
    one = model("qqp", 5, COSTS, each=0.004)
    found = by_place([one], 9999)
    drops = one.singles["drop"].to_numpy().reshape(4, 6)
    heads = (one.singles["dominant"] == HETEROGENEOUS).to_numpy().reshape(4, 6)
    (own,) = alone(drops, [heads], 2.0, 9999, 0)
    (each,) = [of for (name, task), of in found.items() if "one at a time" in name and task is None]
    assert own is not None
    assert each.test is not None
    assert each.test.difference == pytest.approx(own["difference"])
    assert each.test.p_value == own["p_value"]
    assert each.test.interval(0.05, (-2.0, 2.0)) == pytest.approx(tuple(own["ci95"]))


def test_where_one_set_in_twenty_costs_much_chance_is_no_finding() -> None:
    """Nearly every group costs less than the mean of its draws; a test by signs takes that for a difference."""
    outcomes, by_signs = [], []
    for trial in range(25):
        models = [model("qqp", 100 * trial + seed, {BLOCK: 0.0}, draws=19, skewed=True) for seed in range(8)]
        found = next(
            one
            for (name, task), one in by_place(models, 199).items()
            if name.lower().startswith("block") and task
        )
        assert found.test is not None
        assert found.test.p_value is not None
        outcomes.append(found.test.p_value <= 0.05)
        gaps = [one.groups["drop"].iloc[0] - one.draws["drop"].mean() for one in models]
        signs = sign_flip_test(np.array(gaps)).p_value
        assert signs is not None
        by_signs.append(signs <= 0.05)
    assert np.mean(outcomes) <= 0.2
    assert np.mean(by_signs) > 0.3


def test_what_has_nothing_to_be_compared_with_is_not_testable() -> None:
    """There is one set to draw, and all heads are heterogeneous; or there is no ablation."""
    one = model("qqp", 1, {BLOCK: 0.3})
    same = replace(
        one, draws=one.draws.assign(heads="0.1"), singles=one.singles.assign(dominant=HETEROGENEOUS)
    )
    found = told([same])
    assert {of.outcome for of in found} == {UNTESTABLE}
    answers = next(of["answers"] for of in conclusions(found) if of["key"] == "closed")
    assert "beside random sets is not testable" in answers[0]
    assert not {HIGHER, LOWER, NO_DIFFERENCE} & {of.outcome for of in told([])}
    last = conclusions(told([]))[-1]
    assert last["answers"] == ["not testable: no step of it is done."]


def test_interval_and_verdict_say_the_same_after_correction() -> None:
    for seed in range(2):
        for one in told([model("qqp", seed + i, dict.fromkeys(NAMES, 0.008)) for i in range(4)]):
            if one.low is not None:
                assert (one.low > 0 or one.high < 0) == (one.outcome in (HIGHER, LOWER))
