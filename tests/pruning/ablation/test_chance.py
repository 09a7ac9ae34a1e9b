"""Draws that are matched by layer, and p-values, against slow definitions."""

from __future__ import annotations

from itertools import combinations, product

import numpy as np
import pytest
from statsmodels.stats.multitest import multipletests

from pruning.ablation.chance import (
    Costs,
    alone,
    arrangements,
    draws_needed,
    layers_of,
    matched,
    p_value,
    shortage,
    together,
)
from pruning.permutation import HIGHER, LOWER, NO_DIFFERENCE, UNTESTABLE


def mask(*rows: str) -> np.ndarray:
    return np.array([[letter == "x" for letter in row] for row in rows])


def test_draws_have_as_many_heads_in_every_layer_and_all_such_sets_are_as_likely() -> None:
    heads, there = mask("xx..", "....", "x..."), mask("xxxx", "xxxx", "xxx.")
    drawn = matched(heads, there, 5400, 0, "norm/pattern/block")
    assert (drawn.sum(axis=2) == heads.sum(axis=1)).all()
    assert not (drawn & ~there).any()
    possible = [(a, b) for a, b in product(combinations(range(4), 2), range(3))]
    assert len(possible) == arrangements(heads, there) == 18
    number = dict.fromkeys(possible, 0)
    for one in drawn:
        number[tuple(np.flatnonzero(one[0])), int(np.flatnonzero(one[2])[0])] += 1
    from scipy.stats import chisquare

    assert chisquare(list(number.values())).pvalue > 0.001


def test_a_draw_depends_on_its_number_alone() -> None:
    heads, there = mask("xx..", "x..."), np.ones((2, 4), dtype=bool)
    few, many = (matched(heads, there, draws, 3, "a") for draws in (5, 20))
    assert (few == many[:5]).all()
    assert (many != matched(heads, there, 20, 3, "b")).any()
    assert (many != matched(heads, there, 20, 4, "a")).any()


def test_a_shortage_of_other_heads_is_said() -> None:
    heads, there = mask("xxx.", "x...", "xxx."), mask("xxxx", "xxxx", "xxx.")
    layers = layers_of(heads, there)
    assert layers == {"0": [3, 1], "1": [1, 3], "2": [3, 0]}
    told = shortage(layers)
    assert "layer 0 (3 beside 1), 2 (3 beside 0)" in told
    assert "each has 5 heads or more in common" in told
    drawn = matched(heads, there, 200, 0, "a")
    assert (drawn & heads).sum(axis=(1, 2)).min() == 5
    assert shortage({"1": [1, 3]}) == ""


def test_the_p_value_is_the_share_of_all_values_that_lie_as_far_out() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        drawn, observed = rng.normal(size=19), rng.normal() * 2
        everything = [*drawn, observed]
        middle = sum(everything) / 20
        as_far = sum(abs(value - middle) >= abs(observed - middle) - 1e-9 for value in everything)
        assert p_value(observed, drawn) == as_far / 20


def test_under_the_null_p_is_uniform() -> None:
    """All places are as likely: of 20 values p <= k / 20 in k of 20 cases, whatever their distribution."""
    rng = np.random.default_rng(1)
    values = rng.exponential(size=(4000, 20))
    found = np.array([p_value(float(row[0]), row[1:]) for row in values])
    for share in (0.05, 0.1, 0.5):
        assert abs((found <= share + 1e-9).mean() - share) < 4 * np.sqrt(share * (1 - share) / 4000)


def costs(heads: np.ndarray, there: np.ndarray, drop: float, drawn: np.ndarray) -> Costs:
    return Costs(heads, there, 0.9 - drop, drop, 0.3 + drop, drop, drawn)


def test_groups_are_judged_together_and_corrected_by_holm() -> None:
    there = np.ones((4, 6), dtype=bool)
    heads = [mask("x.....", "x.....", "......", "xx....") for _ in range(3)]
    drawn = np.linspace(-0.05, 0.05, 100)
    given = [
        costs(heads[0], there, 0.3, drawn),
        costs(heads[1], there, -0.2, drawn),
        costs(heads[2], there, 0.01, drawn),
    ]
    found = together([*given, None], [*heads, np.zeros_like(there)], there, 100)
    raw = [p_value(one.drop, one.drawn) for one in given]
    assert raw[:2] == [1 / 101] * 2
    adjusted = multipletests(raw, method="holm")[1]
    assert [one["p_holm"] for one in found[:3]] == pytest.approx(list(adjusted))
    assert [one["verdict"] for one in found] == [HIGHER, LOWER, NO_DIFFERENCE, UNTESTABLE]
    assert found[0]["random"] is not None
    assert found[0]["random"]["as_large"] == 0
    assert found[1]["random"]["as_large"] == 100  # type: ignore[index]
    assert found[3]["why"] == "no head is of this group"
    assert found[3]["random"] is None


def test_a_group_that_is_all_of_its_layers_or_has_too_few_others_is_not_testable() -> None:
    there = mask("xxxx", "xxxx")
    whole, single = mask("xxxx", "...."), mask("x...", "....")
    drawn = np.zeros(100)
    one, other = together(
        [costs(whole, there, 0.5, drawn), costs(single, there, 0.5, drawn)], [whole, single], there, 100
    )
    assert one["verdict"] == other["verdict"] == UNTESTABLE
    assert "no other set to draw" in one["why"]
    assert "only 4 sets" in other["why"]
    assert one["p_holm"] is other["p_value"] is None


def test_too_few_draws_for_so_many_groups_say_how_many_are_enough() -> None:
    there = np.ones((4, 6), dtype=bool)
    heads = [mask("xx....", "xx....", "......", "xx....")] * 6
    given = [costs(of, there, 0.5, np.linspace(0, 0.1, 100)) for of in heads]
    found = together(given, heads, there, 100)
    assert {one["verdict"] for one in found} == {UNTESTABLE}
    assert "119 are enough" in found[0]["why"]
    assert draws_needed(6) == 119
    enough = [costs(of, there, 0.5, np.linspace(0, 0.1, 119)) for of in heads]
    assert {one["verdict"] for one in together(enough, heads, there, 119)} == {HIGHER}
    assert draws_needed(5) == 99


def test_single_heads_are_compared_within_their_layers() -> None:
    """A layer whose heads all cost much says nothing of a pattern that lies in it."""
    rng = np.random.default_rng(2)
    heads = rng.random((8, 12)) < 0.4
    drops = rng.normal(0, 0.001, (8, 12))
    drops[0] += 0.5
    heads[0] = True
    heads[0, :2] = False
    (by_layer,) = alone(drops, [heads], 1.0, 999, 0)
    assert by_layer is not None
    assert by_layer["verdict"] == NO_DIFFERENCE
    assert by_layer["mean_drop"] == pytest.approx(drops[heads].mean())
    assert by_layer["others"] == pytest.approx(drops[~heads].mean())
    assert by_layer["by_layers"] > 0.05
    assert by_layer["difference"] + by_layer["by_layers"] == pytest.approx(
        drops[heads].mean() - drops[~heads].mean()
    )
    drops[heads] += 0.01
    (found,) = alone(drops, [heads], 1.0, 999, 0)
    assert found is not None
    assert found["verdict"] == HIGHER
    low, high = found["ci95"]
    assert 0 < low < found["difference"] < high < 0.02


def test_a_group_without_heads_or_without_others_has_no_test_of_single_heads() -> None:
    drops = np.linspace(0, 1, 8).reshape(2, 4)
    none, all_ = alone(drops, [np.zeros((2, 4), dtype=bool), np.ones((2, 4), dtype=bool)], 1.0, 99, 0)
    assert none is None
    assert all_ is not None
    assert all_["verdict"] == UNTESTABLE
    assert all_["others"] is None
    assert all_["ci95"] == [None, None]


def test_a_group_on_the_floor_among_draws_on_the_floor_is_too_large_to_tell() -> None:
    """Where as many heads of the layers leave nothing, no group could cost more: that is no absence of a difference."""
    there = np.ones((4, 6), dtype=bool)
    heads = mask("xx....", "xx....", "......", "xx....")
    floor = 0.5  # of a full score of 0.9
    for drawn, drop, verdict in (
        (np.full(100, 0.4), 0.4, UNTESTABLE),
        (np.r_[np.full(20, 0.4), np.full(80, 0.1)], 0.4, UNTESTABLE),
        (np.r_[np.full(3, 0.4), np.linspace(0, 0.1, 97)], 0.4, HIGHER),
        (np.full(100, 0.4) + np.linspace(-0.01, 0.01, 100), 0.1, LOWER),
        (np.linspace(0, 0.2, 100), 0.1, NO_DIFFERENCE),
    ):
        (found,) = together([costs(heads, there, drop, drawn)], [heads], there, 100, floor)
        assert found["verdict"] == verdict, (drop, found)
        assert ("too large to tell" in found["why"]) == (verdict == UNTESTABLE)
        assert found["p_value"] is not None
