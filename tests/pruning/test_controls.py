"""Controls: exactly the size they stand for, made of what they say, and the same for the same seed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from models import InputError
from pruning import (
    Subnetwork,
    bad_subnetwork,
    never_survivors,
    random_subnetworks,
    super_bad_subnetwork,
    super_survivors,
)
from pruning.stability import NULLS

SEEDS = st.integers(0, 2**32)


@st.composite
def same_model(draw: Any, least: int = 1, most: int = 5) -> list[Subnetwork]:
    """Subnetworks of one model; empty and full ones come up as well."""
    layers, heads = draw(st.integers(1, 5)), draw(st.integers(1, 6))
    masks = st.tuples(arrays(bool, (layers, heads)), arrays(bool, layers))
    return [Subnetwork(*draw(masks)) for _ in range(draw(st.integers(least, most)))]


def size(subnetwork: Subnetwork) -> tuple[int, int]:
    return subnetwork.n_heads, subnetwork.n_mlps


def of_shape(value: bool) -> Subnetwork:
    return Subnetwork(np.full((3, 4), value), np.full(3, value))


@given(same_model(most=1), SEEDS, st.sampled_from(list(NULLS)))
@settings(max_examples=60, deadline=None)
def test_random_subnetworks_have_exactly_the_size(of: list[Subnetwork], seed: int, null: str) -> None:
    drawn = random_subnetworks(of[0], 4, seed, null)
    assert [size(one) for one in drawn] == [size(of[0])] * 4
    if null == "size-per-layer":
        for one in drawn:
            assert np.array_equal(one.heads.sum(axis=1), of[0].heads.sum(axis=1))
            assert np.array_equal(one.mlps, of[0].mlps)
    assert random_subnetworks(of[0], 2, seed, null) == drawn[:2]


def test_random_draws_are_independent_and_uniform() -> None:
    good = Subnetwork(np.arange(12).reshape(3, 4) < 5, np.array([True, False, False]))
    drawn = random_subnetworks(good, 2000, seed=3)
    heads = np.stack([one.heads.ravel() for one in drawn]).astype(float)
    assert np.abs(heads.mean(axis=0) - 5 / 12).max() < 0.05
    assert np.abs(np.stack([one.mlps for one in drawn]).mean(axis=0) - 1 / 3).max() < 0.05
    # Two draws share no more heads than chance has it: 5 * 5 / 12.
    assert (heads[::2] * heads[1::2]).sum(axis=1).mean() == pytest.approx(25 / 12, abs=0.1)
    assert random_subnetworks(good, 5, seed=4) != drawn[:5]


@given(same_model(most=1), SEEDS)
@settings(max_examples=80, deadline=None)
def test_a_bad_subnetwork_is_what_was_pruned_as_far_as_that_goes(of: list[Subnetwork], seed: int) -> None:
    good = of[0]
    bad = bad_subnetwork(good, seed)
    assert size(bad.subnetwork) == size(good)
    for what, topped_up in (("heads", bad.topped_up_heads), ("mlps", bad.topped_up_mlps)):
        mask, kept = getattr(bad.subnetwork, what), getattr(good, what)
        lacking = max(0, int(kept.sum() - (~kept).sum()))
        assert (mask & kept).sum() == lacking
        assert topped_up == pytest.approx(lacking / kept.sum() if kept.any() else 0)
        if lacking:
            assert mask[~kept].all()
    assert (bad.good_heads, bad.good_mlps) == (bad.topped_up_heads, bad.topped_up_mlps)
    assert bad_subnetwork(good, seed) == bad


@given(same_model(), SEEDS)
@settings(max_examples=80, deadline=None)
def test_a_super_bad_subnetwork_takes_what_never_survives_first(of: list[Subnetwork], seed: int) -> None:
    good, never = super_survivors(of), never_survivors(of)
    bad = super_bad_subnetwork(of, seed)
    assert size(bad.subnetwork) == size(good)
    for what, topped_up, shared in (
        ("heads", bad.topped_up_heads, bad.good_heads),
        ("mlps", bad.topped_up_mlps, bad.good_mlps),
    ):
        mask, kept, none = (getattr(one, what) for one in (bad.subnetwork, good, never))
        total, between = int(mask.sum()), ~kept & ~none
        assert (mask & none).sum() == min(total, none.sum())
        assert (mask & between).sum() == min(total - (mask & none).sum(), between.sum())
        assert topped_up == pytest.approx((mask & ~none).sum() / total if total else 0)
        assert shared == pytest.approx((mask & kept).sum() / total if total else 0)
    assert super_bad_subnetwork(of, seed) == bad


@pytest.mark.parametrize("value", [False, True])
def test_empty_and_full_subnetworks_have_controls(value: bool) -> None:
    whole = of_shape(value)
    assert random_subnetworks(whole, 2, seed=0) == [whole, whole]
    for bad in (bad_subnetwork(whole, 0), super_bad_subnetwork([whole, whole], 0)):
        assert bad.subnetwork == whole
        assert bad[1:] == (float(value),) * 4


def test_the_metadata_says_what_it_is_and_not_how_the_good_one_scored() -> None:
    known = {"model": "m", "task": "qqp", "seed": "42", "score": "0.9", "method": "prune-heads"}
    good = Subnetwork(np.eye(4, dtype=bool), np.ones(4, dtype=bool), known)
    random = random_subnetworks(good, 2, seed=7)[1].metadata
    assert random == {
        "model": "m", "task": "qqp", "seed": "42", "method": "random", "null": "size", "draw": "1", "control_seed": "7",
    }  # fmt: skip
    bad = bad_subnetwork(good, seed=7).subnetwork.metadata
    assert bad == {
        "model": "m", "task": "qqp", "seed": "42", "method": "bad", "control_seed": "7",
        "topped_up_heads": "0", "topped_up_mlps": "1", "good_heads": "0", "good_mlps": "1",
    }  # fmt: skip
    several = super_bad_subnetwork([good, good], seed=7).subnetwork.metadata
    assert (several["method"], several["task"]) == ("super-bad", "qqp")
    assert "seed" not in several


def test_different_seeds_draw_different_ones() -> None:
    good = Subnetwork(np.arange(144).reshape(12, 12) % 3 == 0, np.arange(12) < 4)
    assert bad_subnetwork(good, 0).subnetwork != bad_subnetwork(good, 1).subnetwork
    assert super_bad_subnetwork([good], 0).subnetwork != super_bad_subnetwork([good], 1).subnetwork
    assert len(set(random_subnetworks(good, 20, 0))) == 20


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda one: random_subnetworks(one, 0, 0), "draws=0: give at least 1"),
        (lambda one: random_subnetworks(one, 1, 0, "layers"), "size or size-per-layer"),
        (lambda one: random_subnetworks(one, 1, -1), "seed=-1"),
        (lambda one: bad_subnetwork(one, -1), "seed=-1"),
        (lambda one: super_bad_subnetwork([], 0), "at least one subnetwork"),
    ],
)
def test_bad_input_is_named(call: Any, match: str) -> None:
    with pytest.raises(InputError, match=match):
        call(of_shape(True))
