"""An estimate from a few labels is right however wrong the classifier is, and says how sure it is."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from scipy.special import expit

from patterns.estimate import Estimate, prediction_powered
from patterns.taxonomy import PATTERNS

RATIO = PATTERNS.index("heterogeneous")
LABELS = 60


class Model:
    """Maps of a model that does not exist: heads and inputs differ, and a classifier may be wrong in any way."""

    def __init__(self, heads: int, seed: int, misread: str = "", inputs: float = 0.3) -> None:
        rng = np.random.default_rng(seed)
        self._heads, self._misread, self._inputs = rng.normal(-1.5, 3, heads), misread, inputs

    def maps(
        self, examples: int, rng: np.random.Generator
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64], npt.NDArray[np.int64]]:
        """Labels ``[N]``, probabilities ``[N, 5]`` and inputs ``[N]`` of all heads on new inputs."""
        effect = self._heads + rng.normal(0, self._inputs, (examples, 1))
        shape = effect.shape
        interpretable = (effect + rng.logistic(0, 0.3, shape) > 0).ravel()
        labels = np.where(interpretable, RATIO, rng.integers(0, RATIO, effect.size))
        taken_for = interpretable ^ (rng.random(effect.size) < 0.06)  # even a good one errs
        said = np.where(taken_for, 0.8, 0.1) + rng.normal(0, 0.05, effect.size)
        if self._misread == "inverted":
            said = 0.9 - said
        elif self._misread == "never":
            said = np.zeros_like(said)
        elif self._misread == "some heads":
            said = np.where(np.tile(np.arange(shape[1]) % 3 == 0, examples), 0.05, said)
        probabilities = np.zeros((effect.size, len(PATTERNS)))
        probabilities[:, RATIO] = said.clip(0, 1)
        others = np.where(labels == RATIO, 0, labels)
        probabilities[np.arange(effect.size), others] += 1 - probabilities.sum(axis=1)
        return labels, probabilities, np.repeat(np.arange(examples), shape[1])

    def estimate(self, rng: np.random.Generator, examples: int = 150, labels: int = LABELS) -> Estimate:
        """From labels of maps drawn at random."""
        truth, said, inputs = self.maps(examples, rng)
        chosen = rng.permutation(len(truth))[:labels]
        return prediction_powered(truth[chosen], said[chosen], inputs[chosen], said, inputs)

    def ratio(self) -> float:
        """The true one, over very many inputs."""
        effect = self._heads + np.random.default_rng(1).normal(0, self._inputs, (200_000, 1))
        return float(expit(effect / 0.3).mean())


@pytest.mark.parametrize("misread", ["", "inverted", "never", "some heads"])
def test_the_interval_holds_the_truth_as_often_as_it_says_and_the_mean_is_right(misread: str) -> None:
    model, rng = Model(24, 3, misread), np.random.default_rng(0)
    truth = model.ratio()
    found = [model.estimate(rng) for _ in range(1000)]
    shares = np.array([one.ratio.share for one in found])
    assert 0.93 <= np.mean([one.ratio.low <= truth <= one.ratio.high for one in found]) <= 0.97
    assert abs(shares.mean() - truth) < 0.1 * shares.std()
    assert np.mean([one.ratio.standard_error for one in found]) == pytest.approx(shares.std(), rel=0.12)
    assert all(one.ratio.width <= one.labels_alone.width for one in found)
    assert all(one.ratio.standard_error <= one.labels_alone.standard_error for one in found)
    assert all(0 <= one.tuning <= 1 for one in found)


def test_a_good_classifier_narrows_the_interval_and_one_that_knows_nothing_is_not_listened_to() -> None:
    rng = np.random.default_rng(0)
    good = [Model(24, 3).estimate(rng) for _ in range(50)]
    bad = [Model(24, 3, "inverted").estimate(rng) for _ in range(50)]
    assert np.mean([one.ratio.width / one.labels_alone.width for one in good]) < 0.7
    assert {one.tuning for one in bad} == {0.0}
    assert all(one.ratio == one.labels_alone for one in bad)


def test_labels_of_few_inputs_leave_wide_intervals() -> None:
    """Labels of one input are alike, so that sixty of eight inputs are worth less than sixty of many."""
    model = Model(24, 3, inputs=2)
    truth = model.ratio()
    rng = np.random.default_rng(0)
    few = [model.estimate(rng, examples=20) for _ in range(300)]
    many = [model.estimate(rng) for _ in range(300)]
    assert np.mean([one.ratio.width for one in few]) > 1.15 * np.mean([one.ratio.width for one in many])
    assert {one.inputs for one in few} <= set(range(10, 21))
    for found in (few, many):
        assert np.mean([one.ratio.low <= truth <= one.ratio.high for one in found]) > 0.92


def test_the_estimate_is_that_of_the_paper() -> None:
    """The numbers are those of ppi-python 0.2.3, ``ppi_mean_pointestimate`` and ``ppi_mean_ci`` (independent maps)."""
    rng = np.random.default_rng(0)
    n, others = 60, 2000
    labels = (rng.random(n + others) < 0.3).astype(int) * RATIO
    said = np.zeros((n + others, len(PATTERNS)))
    said[:, RATIO] = np.clip((labels == RATIO) * 0.6 + 0.1 + rng.normal(0, 0.15, n + others), 0, 1)
    said[:, 0] = 1 - said[:, RATIO]
    inputs = np.arange(n + others)
    found = prediction_powered(labels[:n], said[:n], inputs[:n], said, inputs)
    assert found.tuning == 1
    assert found.ratio.share == pytest.approx(0.28813852, abs=1e-7)
    half = (0.35446151 - 0.22181554) / 2
    assert found.ratio.standard_error == pytest.approx(half / 1.959964, rel=0.03)


def test_the_standard_error_is_that_of_resampling_inputs() -> None:
    model, rng = Model(12, 3, inputs=2), np.random.default_rng(0)
    truth, said, inputs = model.maps(40, rng)
    chosen = rng.permutation(len(truth))[:80]
    found = prediction_powered(truth[chosen], said[chosen], inputs[chosen], said, inputs)
    y, f, every = (truth[chosen] == RATIO), said[chosen, RATIO], said[:, RATIO]
    drawn = []
    for _ in range(4000):
        weights = np.bincount(rng.integers(40, size=40), minlength=40)
        here = weights[inputs[chosen]]
        all_said = np.average(every, weights=weights[inputs])
        drawn.append(np.average(y - found.tuning * f, weights=here) + found.tuning * all_said)
    assert found.ratio.standard_error == pytest.approx(np.std(drawn), rel=0.1)


def test_without_a_heterogeneous_map_among_the_labels_the_interval_says_how_many_there_may_be() -> None:
    said = np.full((500, len(PATTERNS)), 0.25)
    said[:, RATIO] = 0
    inputs = np.arange(500)
    found = prediction_powered(np.zeros(60, int), said[:60], inputs[:60], said, inputs)
    assert found.ratio.share == found.ratio.low == 0
    assert found.ratio.high == pytest.approx(4 / 64, abs=0.003)  # Wilson's, with Student's t


@pytest.mark.parametrize("seed", range(20))
def test_shares_are_shares_and_the_ratio_is_one_of_them(seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels = rng.choice(5, 12, p=rng.dirichlet(np.full(5, 0.3)))
    said, inputs = rng.dirichlet(np.full(5, 0.3), 100), rng.integers(0, 9, 100)
    inputs[:2] = 0, 1
    found = prediction_powered(labels, said[:12], inputs[:12], said, inputs)
    assert list(found.shares) == [p.value for p in PATTERNS]
    assert sum(found.shares.values()) == pytest.approx(1)
    assert min(found.shares.values()) >= 0
    assert found.shares["heterogeneous"] == found.ratio.share
    assert 0 <= found.ratio.low <= found.ratio.share <= found.ratio.high <= 1
