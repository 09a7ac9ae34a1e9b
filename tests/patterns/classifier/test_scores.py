"""Scores equal scikit-learn's, and their intervals resample heads."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score, log_loss

from patterns.classifier.scores import difference, score
from patterns.taxonomy import PATTERNS, Pattern


def sample(n: int, seed: int, signal: float = 1.5) -> tuple[list[Pattern], np.ndarray, np.ndarray]:
    """Labels, probabilities that know something of them, and groups of about five maps."""
    rng = np.random.default_rng(seed)
    truth = rng.choice(5, n, p=[0.4, 0.3, 0.15, 0.05, 0.1])
    logits = rng.normal(0, 1, (n, 5)) + signal * np.eye(5)[truth]
    found = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return [PATTERNS[i] for i in truth], found, rng.integers(0, n // 5, n)


def test_every_metric_equals_an_independent_one() -> None:
    labels, found, groups = sample(300, 0)
    truth, guess = np.array([PATTERNS.index(x) for x in labels]), found.argmax(axis=1)
    scores = score(labels, found, groups)
    assert scores["accuracy"] == pytest.approx(accuracy_score(truth, guess))
    assert scores["macro_f1"] == pytest.approx(f1_score(truth, guess, average="macro"))
    assert list(scores["f1"].values()) == pytest.approx(f1_score(truth, guess, average=None).tolist())
    assert scores["log_loss"] == pytest.approx(log_loss(truth, found, labels=range(5)))
    assert scores["brier"] == pytest.approx(np.mean(((found - np.eye(5)[truth]) ** 2).sum(axis=1)))
    assert scores["confusion"] == confusion_matrix(truth, guess, labels=range(5)).tolist()
    sure, error = found.max(axis=1), 0.0
    for low in np.arange(0, 1, 0.1):  # the definition, bin by bin
        inside = (low <= sure) & (sure < low + 0.1)
        if inside.any():
            error += inside.mean() * abs((truth == guess)[inside].mean() - sure[inside].mean())
    assert scores["ece"] == pytest.approx(error, abs=1e-9)
    assert scores["groups"] == len(set(groups))


def test_intervals_are_those_of_a_loop_over_resampled_heads() -> None:
    labels, found, groups = sample(200, 1)
    truth = np.array([PATTERNS.index(x) for x in labels])
    rng = np.random.default_rng(9)
    members = [np.flatnonzero(groups == g) for g in np.unique(groups)]
    drawn = []
    for _ in range(2000):
        at = np.concatenate([members[i] for i in rng.integers(0, len(members), len(members))])
        drawn.append(f1_score(truth[at], found[at].argmax(axis=1), average="macro"))
    ours = score(labels, found, groups)["ci95"]["macro_f1"]
    assert ours == pytest.approx(np.percentile(drawn, [2.5, 97.5]).tolist(), abs=0.012)


def test_maps_that_come_in_groups_tell_less_than_as_many_alone() -> None:
    labels, found, _ = sample(60, 2)
    labels, found = labels * 5, np.tile(found, (5, 1))
    groups = np.tile(np.arange(60), 5)
    grouped = np.diff(score(labels, found, groups)["ci95"]["accuracy"])
    alone = np.diff(score(labels, found, np.arange(300))["ci95"]["accuracy"])
    assert grouped > 1.8 * alone


def test_a_difference_is_paired() -> None:
    labels, found, groups = sample(400, 3)
    worse = found.copy()
    worse[:20] = np.roll(worse[:20], 1, axis=1)
    gap = difference(labels, found, worse, groups)
    expected = score(labels, found)["accuracy"] - score(labels, worse)["accuracy"]
    assert gap["accuracy"]["difference"] == pytest.approx(expected)
    unpaired = score(labels, found, groups)["ci95"]["accuracy"]
    assert np.diff(gap["accuracy"]["ci95"]) < np.diff(unpaired)
    assert gap["accuracy"]["ci95"][0] > 0
    same = difference(labels, found, found, groups)
    assert all(part["difference"] == 0 and part["ci95"] == [0, 0] for part in same.values())


def test_a_pattern_that_never_occurs_counts_for_nothing() -> None:
    labels = [Pattern.VERTICAL, Pattern.DIAGONAL] * 5
    found = np.eye(5)[[0, 1] * 5]
    scores = score(labels, found, np.arange(10))
    assert scores["macro_f1"] == scores["accuracy"] == 1
    assert scores["ci95"]["macro_f1"] == [1, 1]
    assert scores["f1"]["block"] is None
    assert scores["ci95"]["f1"]["block"] == [None, None]
    assert score(labels, found, np.zeros(10))["ci95"]["accuracy"] == [None, None]
    assert scores["log_loss"] == pytest.approx(0, abs=1e-9)
