"""Which maps are chosen, beside slow and obvious ways to choose."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from annotations.sampling.strategies import STRATEGIES, choose, image_features, margins, spread

Case = tuple[np.ndarray, np.ndarray, int]


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Probabilities [N, 5], features [N, 3] and a count; with ties, and with points that coincide."""
    n, count, seed = draw(st.integers(1, 40)), draw(st.integers(1, 50)), draw(st.integers(0, 1000))
    rng = np.random.default_rng(seed)
    weights = rng.integers(1, draw(st.sampled_from([2, 4, 1000])), (n, 5)).astype(float)
    features = rng.integers(0, draw(st.sampled_from([1, 2, 50])), (n, 3)).astype(np.float32)
    return weights / weights.sum(axis=1, keepdims=True), features, count


@pytest.mark.parametrize("strategy", STRATEGIES)
@given(case=cases(), seed=st.integers(0, 100))
def test_each_map_is_chosen_at_most_once_and_the_seed_decides(strategy: str, case: Case, seed: int) -> None:
    probabilities, features, count = case
    chosen, again = (
        choose(strategy, probabilities, features, count, np.random.default_rng(seed)) for _ in range(2)
    )
    assert chosen.tolist() == again.tolist()
    assert len(chosen) == len(set(chosen.tolist())) == min(count, len(probabilities))
    assert set(chosen.tolist()) <= set(range(len(probabilities)))


@given(case=cases())
def test_uncertain_takes_the_smallest_margins_first(case: Case) -> None:
    probabilities, features, count = case
    chosen = choose("uncertain", probabilities, features, count, np.random.default_rng(0))
    slow = []
    for row in probabilities.tolist():
        best, second = sorted(row, reverse=True)[:2]
        slow.append(best - second)
    assert margins(probabilities) == pytest.approx(slow)
    assert [slow[i] for i in chosen] == pytest.approx(sorted(slow)[:count])


@given(case=cases())
def test_balanced_takes_as_many_of_each_prediction_as_there_are(case: Case) -> None:
    probabilities, features, count = case
    there = np.bincount(probabilities.argmax(axis=1), minlength=5)
    chosen = choose("balanced", probabilities, features, count, np.random.default_rng(0))
    taken = np.bincount(probabilities[chosen].argmax(axis=1), minlength=5)
    for one in range(5):
        for other in range(5):
            # A pattern that lies behind by more than one has been used up.
            assert taken[one] >= taken[other] - 1 or taken[one] == there[one]


def clusters(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Four clusters of 100, 10, 3 and 1 points, far apart."""
    which = np.repeat(np.arange(4), [100, 10, 3, 1])
    features = np.eye(4, dtype=np.float32)[which] * 50 + rng.normal(0, 0.01, (len(which), 4))
    return which, features.astype(np.float32)


@pytest.mark.parametrize("seed", range(5))
def test_diverse_reaches_every_cluster_before_it_repeats_one(seed: int) -> None:
    rng = np.random.default_rng(seed)
    which, features = clusters(rng)
    probabilities = np.full((len(which), 5), 0.2)
    chosen = choose("diverse", probabilities, features, 4, rng)
    assert sorted(which[chosen]) == [0, 1, 2, 3]


@pytest.mark.parametrize("seed", range(5))
def test_uncertain_diverse_chooses_unlike_maps_among_the_uncertain_ones(seed: int) -> None:
    rng = np.random.default_rng(seed)
    which, features = clusters(rng)
    probabilities = np.full((len(which), 5), 0.2)
    sure = which == 3
    probabilities[sure] = [0.96, 0.01, 0.01, 0.01, 0.01]
    probabilities[:60, 0] += rng.uniform(0.3, 0.6, 60)  # sixty of the large cluster are surer than the rest
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    chosen = choose("uncertain-diverse", probabilities, features, 13, rng)
    pool = np.argsort(margins(probabilities))[: 4 * 13]
    assert set(chosen.tolist()) <= set(pool.tolist())
    assert sorted(which[chosen[:3]]) == [0, 1, 2]


def test_spread_takes_the_farthest_from_all_before() -> None:
    points = np.random.default_rng(1).normal(size=(30, 6)).astype(np.float32)
    chosen = [0]
    while len(chosen) < 12:
        distance = [min(((point - points[i]) ** 2).sum() for i in chosen) for point in points]
        chosen.append(int(np.argmax(distance)))
    assert spread(points, 12).tolist() == chosen


def test_random_favours_nothing() -> None:
    rng = np.random.default_rng(0)
    probabilities, features = np.full((10, 5), 0.2), np.zeros((10, 0), np.float32)
    counts = np.bincount(
        [i for _ in range(1000) for i in choose("random", probabilities, features, 3, rng)], minlength=10
    )
    assert counts.min() > 250
    assert counts.max() < 350


def test_features_are_the_picture_in_64_cells_on_any_scale() -> None:
    maps = np.random.default_rng(0).random((3, 24, 24), dtype=np.float32)
    cells = maps.reshape(3, 8, 3, 8, 3).mean(axis=(2, 4))
    wanted = np.sqrt(cells / cells.max(axis=(1, 2), keepdims=True)) / 4
    assert image_features(maps) == pytest.approx(wanted.reshape(3, 64), abs=1e-3)
    assert image_features(maps * 1e-6) == pytest.approx(wanted.reshape(3, 64), abs=1e-3)
    assert not image_features(np.zeros((1, 24, 24), np.float32)).any()


def test_every_one_is_offered_and_explained(run_command: Any) -> None:
    from annotations.cli import app

    code, out, _ = run_command(app, "sample", "--help")
    assert code == 0
    text = " ".join(re.sub(r"[│|]", " ", out).split())
    for name, strategy in STRATEGIES.items():
        assert f"{name}: {strategy.help}" in text
