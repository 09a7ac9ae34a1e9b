"""Corrected shares recover what a classifier with known errors hid, and say how sure they are."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from scipy.optimize import minimize

from patterns.estimate import corrected_shares, misfit, most_likely
from patterns.job import correction_notes, summarise
from patterns.report.view import HeadsView
from patterns.result import HeadPatterns, distributions, ratios


def sample(shares: np.ndarray, given: np.ndarray, examples: int, maps: int, seed: int) -> np.ndarray:
    """Counts of predictions ``[E, 5]`` of maps with these shares, misread by `given`."""
    rng = np.random.default_rng(seed)
    return rng.multinomial(maps, shares @ given, examples)


def annotated(given: np.ndarray, heads: int, maps: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.stack([[rng.multinomial(rng.poisson(maps), row) for row in given] for _ in range(heads)])


GIVEN = np.array(
    [
        [0.9, 0.0, 0.05, 0.0, 0.05],
        [0.0, 0.8, 0.15, 0.05, 0.0],
        [0.3, 0.2, 0.5, 0.0, 0.0],
        [0.0, 0.1, 0.0, 0.7, 0.2],
        [0.2, 0.0, 0.0, 0.1, 0.7],
    ]
)
SHARES = np.array([0.3, 0.1, 0.35, 0.05, 0.2])


def test_true_shares_are_found_from_confused_predictions() -> None:
    counts = sample(SHARES, GIVEN, 100, 144, 0)
    found, intervals = corrected_shares(counts, annotated(GIVEN, 300, 8, 1))
    plain = counts.sum(axis=0) / counts.sum()
    assert np.abs(found - SHARES).max() < 0.03
    assert np.abs(plain - SHARES).max() > 0.1
    assert ((intervals[:, 0] <= found) & (found <= intervals[:, 1])).all()
    assert found.sum() == pytest.approx(1)


def test_intervals_hold_the_truth_about_as_often_as_they_say() -> None:
    inside = []
    for seed in range(40):
        counts = sample(SHARES, GIVEN, 60, 72, seed)
        _, intervals = corrected_shares(counts, annotated(GIVEN, 80, 2, 1000 + seed), seed)
        inside.append((intervals[:, 0] <= SHARES) & (intervals[:, 1] >= SHARES))
    assert 0.88 <= np.mean(inside) <= 1.0


def test_fewer_annotated_heads_leave_wider_intervals() -> None:
    counts = sample(SHARES, GIVEN, 100, 144, 0)
    errors = annotated(GIVEN, 200, 2, 3)
    wide = corrected_shares(counts, errors[:20])[1]
    narrow = corrected_shares(counts, errors)[1]
    assert np.diff(wide).sum() > 2 * np.diff(narrow).sum()


def test_the_same_seed_gives_the_same_numbers() -> None:
    counts, errors = sample(SHARES, GIVEN, 20, 72, 0), annotated(GIVEN, 20, 2, 3)
    for one, other in zip(
        corrected_shares(counts, errors, 7), corrected_shares(counts, errors, 7), strict=True
    ):
        assert np.array_equal(one, other)
    assert not np.array_equal(corrected_shares(counts, errors, 8)[1], corrected_shares(counts, errors, 7)[1])


def test_a_faultless_classifier_is_left_alone() -> None:
    counts = sample(SHARES, np.eye(5), 50, 100, 0)
    found, _ = corrected_shares(counts, np.repeat(1000 * np.eye(5, dtype=int)[None], 5, axis=0))
    np.testing.assert_allclose(found, counts.sum(axis=0) / counts.sum(), atol=1e-3)


def test_it_is_the_maximum_of_the_likelihood() -> None:
    counts = np.array([[10.0, 4.0, 30.0, 2.0, 9.0]])
    errors = annotated(GIVEN, 30, 3, 0).sum(axis=0)[None].astype(float)
    found = most_likely(counts, errors)[0]
    right = np.trace(errors[0]) / errors[0].sum()
    filled = errors[0] + right * np.eye(5) + (1 - right) * errors[0].sum(axis=0) / errors[0].sum()
    given = filled / filled.sum(axis=1, keepdims=True)

    def loss(free: np.ndarray) -> float:
        shares = np.exp(free) / np.exp(free).sum()
        return -float(counts[0] @ np.log(shares @ given))

    best = min(loss(minimize(loss, start).x) for start in np.random.default_rng(0).normal(0, 1, (5, 5)))
    assert -float(counts[0] @ np.log(found @ given)) == pytest.approx(best, abs=1e-3)


def test_a_pattern_without_annotated_maps_is_not_made_up() -> None:
    good = 0.9 * np.eye(5) + 0.02
    errors = annotated(good, 60, 3, 0)
    errors[:, 3] = errors[:, :, 3] = 0  # no block, and none predicted
    shares = np.array([0.4, 0.2, 0.2, 0.0, 0.2])
    counts = sample(shares, np.where(np.arange(5) == 3, 0, good) / 0.98, 20, 72, 0)
    found, intervals = corrected_shares(counts, errors)
    assert found[3] < 0.01
    assert intervals[3, 1] < 0.05
    rare = errors.copy()
    rare[:2, 3, 3] = 3  # in two heads of sixty, so that many a resample has none
    found, intervals = corrected_shares(counts, rare)
    assert found[3] < 0.01
    assert intervals[3, 1] < 0.05


def test_nothing_can_be_drawn_anew_from_one_example_or_one_head() -> None:
    counts, errors = sample(SHARES, GIVEN, 20, 72, 0), annotated(GIVEN, 20, 2, 3)
    for some in (corrected_shares(counts[:1], errors), corrected_shares(counts, errors[:1])):
        assert np.isfinite(some[0]).all()
        assert np.isnan(some[1]).all()


def test_what_the_errors_cannot_explain_is_said() -> None:
    errors = annotated(GIVEN, 60, 4, 0)
    fitting = sample(SHARES, GIVEN, 60, 72, 0)
    assert misfit(fitting, errors, corrected_shares(fitting, errors)[0]) < 0.005
    sure = np.tile([60, 0, 12, 0, 0], (60, 1))  # fewer stray labels than GIVEN lets happen
    gap = misfit(sure, errors, corrected_shares(sure, errors)[0])
    assert gap > 0.02
    given = errors.sum(axis=0) / errors.sum(axis=(0, 2))[:, None]
    shares = corrected_shares(sure, errors)[0]
    assert gap == pytest.approx(np.abs(sure[0] / 72 - shares @ given).sum() / 2, abs=0.01)


def found(confusions: dict[str, np.ndarray]) -> HeadPatterns:
    rng = np.random.default_rng(0)
    labels = rng.choice(5, (30, 4, 6), p=SHARES @ GIVEN).astype(np.int8)
    heads = np.ones((4, 6), dtype=bool)
    heads[0] = False
    return HeadPatterns(
        labels={"raw": labels},
        probabilities={"raw": np.eye(5, dtype=np.float32)[labels]},
        examples=np.arange(30),
        n_tokens=np.full(30, 20),
        heads=heads,
        confusions=confusions,
    )


def test_a_result_corrects_the_heads_it_counts() -> None:
    errors = annotated(GIVEN, 60, 4, 0)
    patterns = found({"raw": errors})
    labels = patterns.labels["raw"][:, 1:].reshape(30, -1)
    counts = np.stack([np.bincount(row, minlength=5) for row in labels])
    shares, intervals = corrected_shares(counts, errors)
    assert list(patterns.corrected_distribution("raw").values()) == pytest.approx(shares)
    assert list(patterns.corrected_distribution_ci95("raw").values()) == [tuple(row) for row in intervals]
    part = summarise(patterns, "raw")["corrected"]
    assert part["interpretable_ratio"] == patterns.corrected_distribution("raw")["heterogeneous"]
    assert list(distributions(patterns)) == list(ratios(patterns)) == ["raw", "raw, corrected"]


def test_corrected_shares_that_do_not_fit_are_shown_nowhere_and_a_sentence_says_so() -> None:
    patterns = found({"raw": annotated(GIVEN, 60, 4, 0)})
    sure = np.where(np.arange(24).reshape(4, 6) < 20, 0, 2).astype(np.int8)
    patterns = dataclasses.replace(patterns, labels={"raw": np.tile(sure, (30, 1, 1))})
    assert patterns.correction_misfit("raw") > 0.01
    assert not patterns.correction_fits("raw")
    assert list(distributions(patterns)) == list(ratios(patterns)) == ["raw"]
    part = summarise(patterns, "raw")
    assert part["corrected"] is None
    assert part["correction_misfit"] == patterns.correction_misfit("raw")
    assert "corrected" not in HeadsView("", patterns).share_table().caption
    (note,) = correction_notes(patterns)
    assert "are not shown: they do not fit" in note


@pytest.mark.parametrize("seed", range(8))
def test_corrected_shares_lie_in_their_intervals(seed: int) -> None:
    """Also where a share is pushed against 0, or few examples and heads are known."""
    rng = np.random.default_rng(seed)
    shares = rng.dirichlet(np.full(5, 0.4))
    counts = sample(shares, GIVEN, int(rng.integers(2, 12)), 30, seed)
    found_shares, intervals = corrected_shares(
        counts, annotated(GIVEN, int(rng.integers(2, 9)), 3, seed), seed
    )
    assert (intervals[:, 0] <= found_shares + 1e-12).all()
    assert (found_shares <= intervals[:, 1] + 1e-12).all()
    assert ((intervals >= 0) & (intervals <= 1)).all()


def test_nothing_is_corrected_by_a_classifier_whose_errors_are_unknown() -> None:
    patterns = found({})
    assert patterns.corrected_distribution("raw") is None
    assert patterns.corrected_distribution_ci95("raw") is None
    assert summarise(patterns, "raw")["corrected"] is None
    assert list(distributions(patterns)) == list(ratios(patterns)) == ["raw"]


def test_a_single_example_has_no_interval_in_the_summary() -> None:
    patterns = found({"raw": annotated(GIVEN, 60, 4, 0)})
    single = dataclasses.replace(
        patterns,
        labels={"raw": patterns.labels["raw"][:1]},
        probabilities={"raw": patterns.probabilities["raw"][:1]},
        examples=patterns.examples[:1],
        n_tokens=patterns.n_tokens[:1],
    )
    part = summarise(single, "raw")["corrected"]
    assert part["interpretable_ratio_ci95"] == [None, None]
    assert part["distribution_ci95"]["block"] == [None, None]
    json.dumps(part, allow_nan=False)
