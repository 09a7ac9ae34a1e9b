"""Statistics of labels against slow or independent computations."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import entropy

from patterns.distribution import (
    EMPTY,
    bootstrap_ci95,
    distribution,
    head_frame,
    interpretable_shares,
    seen_maps,
)
from patterns.taxonomy import PATTERNS

COLUMNS = [
    "kind", "layer", "head", "n",
    "count_vertical", "count_diagonal", "count_vertical_diagonal", "count_block", "count_heterogeneous",
    "mean_prob_vertical", "mean_prob_diagonal", "mean_prob_vertical_diagonal", "mean_prob_block",
    "mean_prob_heterogeneous",
    "dominant", "dominant_share", "entropy", "self_agreement", "count_empty",
]  # fmt: skip


@given(st.integers(1, 9), st.integers(1, 4), st.integers(1, 5), st.integers(0, 999))
@settings(max_examples=50, deadline=None)
def test_every_head_is_described_as_counting_by_hand_would(e: int, l: int, h: int, seed: int) -> None:  # noqa: E741
    random = np.random.default_rng(seed)
    labels = random.integers(0, 5, (e, l, h))
    probabilities = random.dirichlet(np.ones(5), (e, l, h))
    frame = head_frame("norm", labels, probabilities)
    assert list(frame.columns) == COLUMNS
    assert len(frame) == l * h
    for row in frame.to_dict("records"):
        mine = labels[:, row["layer"], row["head"]]
        number = [int((mine == i).sum()) for i in range(5)]
        assert [row[f"count_{p}"] for p in PATTERNS] == number
        assert sum(number) == row["n"] == e
        assert row["dominant"] == PATTERNS[number.index(max(number))]  # index: the first of equals
        assert row["dominant_share"] == max(number) / e
        assert row["entropy"] == pytest.approx(entropy(number, base=2), abs=1e-12)
        means = probabilities[:, row["layer"], row["head"]].mean(axis=0)
        np.testing.assert_allclose([row[f"mean_prob_{p}"] for p in PATTERNS], means)
        pairs = [a == b for a, b in permutations(mine.tolist(), 2)]
        assert row["self_agreement"] == pytest.approx(np.mean(pairs) if pairs else np.nan, nan_ok=True)


@given(st.integers(1, 30), st.integers(1, 20), st.integers(0, 999))
@settings(max_examples=50, deadline=None)
def test_shares_sum_to_one_and_the_ratio_is_the_heterogeneous_one(e: int, heads: int, seed: int) -> None:
    labels = np.random.default_rng(seed).integers(0, 5, (e, heads))
    shares = distribution(labels)
    assert list(shares) == list(PATTERNS)
    assert sum(shares.values()) == pytest.approx(1)
    assert interpretable_shares(labels).mean() == pytest.approx(shares["heterogeneous"])


def test_the_interval_is_that_of_a_slow_bootstrap() -> None:
    values = np.random.default_rng(1).beta(2, 5, 40)
    slow = np.random.default_rng(2)
    means = [slow.choice(values, len(values)).mean() for _ in range(20_000)]
    np.testing.assert_allclose(bootstrap_ci95(values, 0), np.percentile(means, [2.5, 97.5]), atol=4e-3)


def test_the_interval_depends_on_the_seed_and_not_on_the_order_of_examples() -> None:
    values = np.random.default_rng(1).random(25)
    assert bootstrap_ci95(values, 3) == bootstrap_ci95(values[::-1], 3)
    assert bootstrap_ci95(values, 3) != bootstrap_ci95(values, 4)


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    """Nominal 95%; the percentile interval of 40 draws from a skewed law is known to fall a little short."""
    random = np.random.default_rng(0)
    inside = [lo <= 2 / 7 <= hi for lo, hi in (bootstrap_ci95(random.beta(2, 5, 40), s) for s in range(200))]
    assert 0.89 <= np.mean(inside) <= 0.985


def test_one_example_has_no_interval_and_equal_examples_have_one_of_no_width() -> None:
    assert np.isnan(bootstrap_ci95(np.array([0.3]), 0)).all()
    assert bootstrap_ci95(np.full(9, 0.25), 0) == (0.25, 0.25)


def test_maps_of_zeros_are_left_out_of_everything_and_counted() -> None:
    random = np.random.default_rng(0)
    labels = random.integers(0, 5, (8, 2, 3))
    probabilities = random.dirichlet(np.ones(5), labels.shape)
    labels[:3, 0, 1] = EMPTY
    labels[:, 1, 2] = EMPTY
    probabilities[labels == EMPTY] = np.nan
    frame = head_frame("norm", labels, probabilities).set_index(["layer", "head"])
    alone = head_frame("norm", labels[3:, :1, 1:2], probabilities[3:, :1, 1:2]).iloc[0]
    same = [name for name in COLUMNS[3:] if name != "count_empty"]
    assert frame.loc[(0, 1), same].tolist() == alone[same].tolist()
    assert frame["count_empty"].tolist() == [0, 3, 0, 0, 0, 8]
    gone = frame.loc[(1, 2)]
    assert gone["n"] == 0
    assert pd.isna(gone["dominant"])
    assert gone[["dominant_share", "entropy", "self_agreement", "mean_prob_block"]].isna().all()
    seen = labels[labels != EMPTY]
    assert distribution(labels) == distribution(seen)
    shares, weights = interpretable_shares(labels), seen_maps(labels)
    assert weights.tolist() == [(row != EMPTY).sum() for row in labels]
    assert (shares * weights).sum() / weights.sum() == pytest.approx((seen == 4).mean())
    low, high = bootstrap_ci95(shares, 0, weights)
    assert low < (seen == 4).mean() < high
    nothing = np.full((4, 2), EMPTY)
    assert np.isnan(list(distribution(nothing).values())).all()
    assert np.isnan(interpretable_shares(nothing)).all()


def test_an_example_without_any_map_to_see_weighs_nothing() -> None:
    values = np.random.default_rng(3).random(20)
    more = np.append(values, np.nan), np.append(np.full(20, 7), 0)
    assert bootstrap_ci95(more[0], 0, more[1]) == pytest.approx(bootstrap_ci95(values, 0), abs=0.01)


@given(st.integers(2, 40), st.floats(0.001, 3), st.integers(0, 999))
@settings(max_examples=30, deadline=None)
def test_the_interval_of_a_mean_holds_it_however_skewed_the_values_are(
    n: int, shape: float, seed: int
) -> None:
    values = np.random.default_rng(seed).beta(0.05 * shape, shape, n)
    low, high = bootstrap_ci95(values, 0)
    assert low - 1e-12 <= values.mean() <= high + 1e-12


def test_one_more_measurement_is_a_column(monkeypatch: pytest.MonkeyPatch) -> None:
    from patterns.distribution import MEASUREMENTS, Measurement

    gini = Measurement(
        lambda number: 1 - ((number / number.sum(axis=-1, keepdims=True)) ** 2).sum(axis=-1),
        "impurity",
        False,
    )
    monkeypatch.setitem(MEASUREMENTS, "gini", gini)  # type: ignore[arg-type]
    labels = np.array([[[0, 1]], [[0, 1]], [[1, 1]], [[4, EMPTY]]])
    frame = head_frame("raw", labels, np.full((4, 1, 2, 5), 0.2))
    assert frame["gini"].tolist() == pytest.approx([1 - (4 + 1 + 1) / 16, 0])
    assert frame.columns.tolist()[-2:] == ["gini", "count_empty"]
