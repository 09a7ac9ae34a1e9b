"""The search removes the least important first, holds the threshold, and never goes back."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models import InputError, Subnetwork
from pruning import Importance, StructuredSearch
from pruning.structured import Measurement, Step, without_least


def full(layers: int = 12, heads: int = 12) -> Subnetwork:
    return Subnetwork(np.ones((layers, heads), bool), np.ones(layers, bool))


def importance(heads: np.ndarray, mlps: np.ndarray) -> Importance:
    return Importance(heads, mlps, 1, 0.0, np.zeros((1, 2), np.float32))


def measured_by(score: Callable[[Subnetwork], float], seed: int = 0) -> Callable[[Subnetwork], Measurement]:
    """Importances that depend on the subnetwork, as real ones do."""

    def measure(subnetwork: Subnetwork) -> Measurement:
        rng = np.random.default_rng([seed, subnetwork.n_heads, subnetwork.n_mlps])
        found = importance(rng.random(subnetwork.heads.shape), rng.random(len(subnetwork.mlps)))
        return Measurement(score(subnetwork), found)

    return measure


def share(subnetwork: Subnetwork) -> float:
    return (subnetwork.heads.mean() + subnetwork.mlps.mean()) / 2


def last_accepted(steps: list[Step]) -> Subnetwork:
    return [step for step in steps if step.accepted][-1].subnetwork


def test_sizes_are_those_that_the_published_steps_give() -> None:
    """144 - 14 a - 7 b heads (or 0) and 12 - a - c MLPs, as all 45 published masks have."""
    for seed in range(5):
        for drop in (0.7, 0.8, 0.9):
            score = measured_by(lambda s, drop=drop: 1.0 if share(s) > drop else 0.5, seed)
            steps = list(StructuredSearch().run(full(), score))
            kept = last_accepted(steps)
            a = sum(step.accepted for step in steps if step.phase == "joint")
            b = sum(step.accepted for step in steps if step.phase == "heads")
            c = sum(step.accepted for step in steps if step.phase == "mlps")
            assert kept.n_heads == max(0, 144 - 14 * a - 7 * b)
            assert kept.n_mlps == 12 - a - c
            assert [step.phase for step in steps] == sorted(
                (step.phase for step in steps), key=["full", "joint", "heads", "mlps"].index
            )


@given(st.integers(0, 1000), st.floats(0.05, 1.0), st.sampled_from(["heads-and-mlps", "heads", "mlps"]))
@settings(max_examples=60, deadline=None)
def test_masks_only_shrink_and_the_result_reached_the_threshold(
    seed: int, threshold: float, what: str
) -> None:
    rng = np.random.default_rng(seed)
    noise = rng.random(10_000)
    score = measured_by(lambda s: share(s) + 0.3 * noise[s.n_heads * 20 + s.n_mlps], seed)
    steps = list(StructuredSearch(what, threshold).run(full(5, 7), score))
    kept = steps[0].subnetwork
    for step in steps[1:]:
        assert not (step.subnetwork.heads & ~kept.heads).any()
        assert not (step.subnetwork.mlps & ~kept.mlps).any()
        assert (step.subnetwork.n_heads, step.subnetwork.n_mlps) < (kept.n_heads, kept.n_mlps) or (
            step.subnetwork.n_mlps < kept.n_mlps
        )
        assert step.accepted == (step.measured.score >= threshold * steps[0].measured.score)
        if what == "heads":
            assert step.subnetwork.mlps.all()
        if what == "mlps":
            assert step.subnetwork.heads.all()
        if step.accepted:
            kept = step.subnetwork
    assert last_accepted(steps).n_heads == kept.n_heads


@given(st.integers(0, 500), st.integers(0, 30), st.integers(0, 6))
@settings(max_examples=60, deadline=None)
def test_what_goes_is_less_important_than_what_stays(seed: int, heads: int, mlps: int) -> None:
    rng = np.random.default_rng(seed)
    kept = Subnetwork(rng.random((5, 6)) < 0.7, rng.random(5) < 0.7)
    # Few values, so that there are ties.
    scores = importance(rng.integers(0, 4, (5, 6)).astype(float), rng.integers(0, 3, 5).astype(float))
    left = without_least(kept, scores, heads, mlps)
    assert left.n_heads == max(0, kept.n_heads - heads)
    assert left.n_mlps == max(0, kept.n_mlps - mlps)
    gone = kept.heads & ~left.heads
    if gone.any() and left.n_heads:
        assert scores.heads[gone].max() <= scores.heads[left.heads].min()
    # a slow, obvious reference, ties by layer and head
    order = sorted((scores.heads[i], i) for i in map(tuple, np.argwhere(kept.heads)))
    assert {i for _, i in order[:heads]} == set(map(tuple, np.argwhere(gone)))


def test_each_phase_of_the_corrected_protocol_starts_from_the_kept_model() -> None:
    """The published code chose the first step of the next phase by the importances of the failing model."""
    ascending, descending = np.arange(144.0).reshape(12, 12) + 1, 144 - np.arange(144.0).reshape(12, 12)

    def measure(subnetwork: Subnetwork) -> Measurement:
        failing = subnetwork.n_heads == 130 and subnetwork.n_mlps == 11
        heads = descending if failing else ascending
        score = 0.0 if failing or subnetwork.n_heads < 137 else 1.0
        return Measurement(score, importance(heads, np.arange(12.0)))

    first = {
        protocol: next(
            step.subnetwork
            for step in StructuredSearch(protocol=protocol).run(full(), measure)
            if step.phase == "heads"
        )
        for protocol in ("corrected", "as-released")
    }
    row_norms = np.linalg.norm(ascending, axis=1, keepdims=True)
    expected = np.argsort((ascending / row_norms).ravel(), kind="stable")[:7]
    assert set(np.flatnonzero(~first["corrected"].heads)) == set(expected)
    assert set(np.flatnonzero(~first["as-released"].heads)) != set(expected)


def test_a_first_step_that_fails_keeps_everything() -> None:
    steps = list(StructuredSearch().run(full(), measured_by(lambda s: float(share(s) == 1))))
    assert last_accepted(steps) == full()
    assert [step.phase for step in steps] == ["full", "joint", "heads", "mlps"]


def test_a_score_that_never_falls_ends_with_nothing_left() -> None:
    kept = last_accepted(list(StructuredSearch().run(full(), measured_by(lambda s: 1.0))))
    assert (kept.n_heads, kept.n_mlps) == (0, 0)


def test_a_score_that_is_not_a_number_on_the_way_fails_its_step() -> None:
    steps = list(
        StructuredSearch().run(full(), measured_by(lambda s: 1.0 if s.n_heads > 100 else float("nan")))
    )
    assert last_accepted(steps).n_heads > 100


@pytest.mark.parametrize("score", [0.0, -0.1, float("nan")])
def test_a_full_model_without_a_score_is_refused(score: float) -> None:
    with pytest.raises(InputError, match="no share of its score"):
        list(StructuredSearch().run(full(), measured_by(lambda s: score)))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("threshold", 0),
        ("threshold", 1.1),
        ("threshold", float("nan")),
        ("head_step", 0),
        ("mlp_step", 0),
        ("what", "neurons"),
        ("protocol", "mine"),
    ],
)
def test_options_out_of_range_are_named(name: str, value: object) -> None:
    with pytest.raises(InputError, match=f"{name}="):
        StructuredSearch(**{name: value})  # type: ignore[arg-type]


def test_a_small_model_loses_at_least_one_head_a_step() -> None:
    assert StructuredSearch().phases(4) == [("joint", 1, 1), ("heads", 1, 0), ("mlps", 0, 1)]
    assert StructuredSearch().phases(144) == [("joint", 14, 1), ("heads", 7, 0), ("mlps", 0, 1)]
    assert StructuredSearch("heads").phases(144) == [("heads", 14, 0)]
