"""Scores of many resamples at once are those of each resample alone, by every metric."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from models import InputError
from models.tasks import metrics
from models.tasks.measures import OF_CLASSES, OF_NUMBERS, measure
from models.tasks.resamples import OF_RESAMPLES
from models.tasks.task import task_named


def test_every_metric_of_our_own_has_one() -> None:
    assert set(OF_RESAMPLES) == {*OF_CLASSES, *OF_NUMBERS}


@pytest.mark.parametrize("metric", OF_RESAMPLES)
@pytest.mark.parametrize("n", [3, 40])  # of three rows, many resamples have one label or one prediction
def test_each_resample_scores_as_it_does_alone(metric: str, n: int) -> None:
    rng = np.random.default_rng(1)
    targets: Any
    if metric in OF_NUMBERS:
        targets = rng.integers(0, 4, n).astype(float)
        said: Any = targets + rng.normal(size=n)
    else:
        targets = rng.integers(0, 2 if metric == "f1" else 4, n)
        said = np.where(rng.random(n) < 0.6, targets, rng.integers(0, 2, n))
    rows = rng.integers(n, size=(200, n))
    found = OF_RESAMPLES[metric](said[rows], targets[rows])
    outputs = None if metric in OF_NUMBERS else np.eye(4)[said]
    alone = [measure(metric, said[own], targets[own], outputs) for own in rows]
    np.testing.assert_allclose(found, alone, atol=1e-12)
    assert len(set(found.round(9))) > (1 if n == 3 else 10)


def test_outputs_are_read_in_the_order_of_the_models_classes() -> None:
    rng = np.random.default_rng(2)
    logits, targets = rng.normal(size=(30, 3)), rng.integers(0, 3, 30)
    rows = rng.integers(30, size=(50, 30))
    for metric in ("accuracy", "f1_macro"):
        task = task_named("mnli")
        found = metrics.resampled(task, metric, logits, targets, rows, classes=(2, 0, 1))
        order = np.argsort([2, 0, 1])
        alone = [
            measure(metric, order[logits[own].argmax(axis=1)], order[targets[own]], logits[own][:, [2, 0, 1]])
            for own in rows
        ]
        np.testing.assert_allclose(found, alone, atol=1e-12)


def test_a_resample_without_a_score_is_none_and_what_is_wrong_with_all_is_an_error() -> None:
    """The area under the curve takes both labels; of rows that all have one there is none."""
    logits, targets = np.array([[1.0, 0.0], [0.0, 1.0], [0.3, 0.5]]), np.array([0, 1, 1])
    rows = np.array([[0, 1, 2], [1, 2, 2], [0, 0, 0]])
    found = metrics.resampled("qqp", "roc_auc", logits, targets, rows)
    assert found[0] == 1.0
    assert np.isnan(found[1:]).all()
    with pytest.raises(InputError, match="not finite"):
        metrics.resampled("qqp", "accuracy", logits * np.nan, targets, rows)
