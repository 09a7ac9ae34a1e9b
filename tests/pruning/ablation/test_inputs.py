"""Intervals of drops over inputs, beside another bootstrap and for each kind of score."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.stats import bootstrap, rankdata

from models.evaluation import Examples
from models.tasks.task import task_named
from pruning.ablation import inputs as inputs_module
from pruning.ablation.inputs import drop_intervals


def examples(task: str, targets: np.ndarray, classes: tuple[int, ...]) -> Examples:
    return Examples(task_named(task), [np.zeros(3)] * len(targets), targets, classes, 0)  # type: ignore[list-item]


def answered(task: str, n: int, seed: int = 0) -> tuple[Examples, Any, Any]:
    """Rows, outputs of a good model, and of a worse one that answers much alike."""
    rng = np.random.default_rng(seed)
    labels = task_named(task).labels
    targets: Any = rng.integers(0, 2, n) if labels else (rng.random(n) * 5).astype(np.float32)
    full = rng.normal(size=(n, len(labels) or 1)).astype(np.float32)
    if labels:
        full[np.arange(n), targets] += 1.5
    else:
        full[:, 0] += targets
    worse = full + 1.2 * rng.normal(size=full.shape).astype(np.float32)
    return examples(task, targets, tuple(range(len(labels))) or (0,)), full, worse


@pytest.mark.parametrize(
    ("task", "metric"),
    [("qqp", "accuracy"), ("qqp", "f1"), ("cola", "matthews"), ("stsb", "pearson"), ("stsb", "spearman")],
)
def test_the_interval_is_that_of_another_bootstrap_that_scores_each_resample(task: str, metric: str) -> None:
    """Scores written out; Matthews' coefficient of two classes is Pearson's of zeros and ones."""
    scored, full, worse = answered(task, 150)
    by: dict[str, Any] = {
        "accuracy": lambda t, p: (t == p).mean(),
        "f1": lambda t, p: 2 * (t * p).sum() / (t.sum() + p.sum()),
        "matthews": lambda t, p: np.corrcoef(t, p)[0, 1],
        "pearson": lambda t, p: np.corrcoef(t, p)[0, 1],
        "spearman": lambda t, p: np.corrcoef(rankdata(t), rankdata(p))[0, 1],
    }
    answers = [of.argmax(axis=1) if task != "stsb" else of[:, 0] for of in (full, worse)]

    def drop(targets: Any, one: Any, other: Any) -> float:
        return float(by[metric](targets, one) - by[metric](targets, other))

    other = bootstrap(
        (scored.targets, *answers),
        drop,
        paired=True,
        vectorized=False,
        n_resamples=1500,
        method="percentile",
        rng=np.random.default_rng(5),
    ).confidence_interval
    (found,) = drop_intervals(scored, metric, full, [worse], seed=0, resamples=6000)
    width = other.high - other.low
    assert found == pytest.approx((other.low, other.high), abs=0.08 * width)
    assert width > 0.02


def test_it_is_paired_and_covers_as_often_as_it_says() -> None:
    """Rows of which one in five changes from right to wrong: the true drop lies in about 95 of 100 intervals."""
    inside, widths, alone = [], [], []
    for seed in range(150):
        rng = np.random.default_rng(seed)
        targets = rng.integers(0, 2, 100)
        right = rng.random(100) < 0.8
        said = np.where(right, targets, 1 - targets)
        lost = right & (rng.random(100) < 0.25)
        closed = np.where(lost, 1 - targets, said)
        ((low, high),) = drop_intervals(
            examples("qqp", targets, (0, 1)),
            "accuracy",
            np.eye(2, dtype=np.float32)[said],
            [np.eye(2, dtype=np.float32)[closed]],
            seed,
            999,
        )
        assert low is not None
        assert high is not None
        inside.append(low <= 0.2 <= high)
        widths.append(high - low)
        alone.append(2 * 1.96 * np.sqrt(0.8 * 0.2 / 100 + 0.6 * 0.4 / 100))  # had both rows of their own
    assert 0.89 <= np.mean(inside) <= 0.99
    assert np.mean(widths) < 0.75 * np.mean(alone)


def test_all_groups_have_the_same_resamples_whatever_is_done_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    scored, full, worse = answered("cola", 60)
    one, two, none = drop_intervals(scored, "matthews", full, [worse, worse, full], seed=3)
    assert one == two
    assert one != drop_intervals(scored, "matthews", full, [worse], seed=4)[0]
    assert none == (None, None)  # the same drop, none, in every resample: no width is no interval
    monkeypatch.setattr(inputs_module, "_CELLS", 100)
    assert drop_intervals(scored, "matthews", full, [worse], seed=3) == [one]


def test_there_is_none_of_one_row_or_where_many_resamples_have_no_score() -> None:
    scored, full, worse = answered("qqp", 1)
    assert drop_intervals(scored, "accuracy", full, [worse], 0) == [(None, None)]
    targets = np.array([1, *[0] * 11])
    rng = np.random.default_rng(0)
    full, worse = (rng.normal(size=(12, 2)).astype(np.float32) for _ in range(2))
    assert drop_intervals(examples("qqp", targets, (0, 1)), "roc_auc", full, [worse], 0, 40) == [(None, None)]
    targets[:6] = 1
    ((low, high),) = drop_intervals(examples("qqp", targets, (0, 1)), "roc_auc", full, [worse], 0, 40)
    assert low is not None
    assert high is not None
    assert low < high
