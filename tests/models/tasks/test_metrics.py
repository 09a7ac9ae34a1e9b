"""Scores against scikit-learn, scipy and formulas written out; degenerate predictions; baselines."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models import InputError
from models.tasks.metrics import baselines, doubts, scores, threshold_metric
from models.tasks.task import TASKS, task_named

COLA, MNLI, STSB, QQP, MRPC, RTE = (task_named(n) for n in ("cola", "mnli", "stsb", "qqp", "mrpc", "rte"))
CLASSES = st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1)), min_size=1, max_size=40)
quick = settings(deadline=None, max_examples=60)


def logits_for(predictions: Any, width: int = 2) -> Any:
    return np.eye(width)[np.asarray(predictions, dtype=int)] * 3 - 1


def counted(pairs: Any) -> tuple[float, float, float, float]:
    """True and false positives, false and true negatives of (prediction, target) pairs."""
    return tuple(pairs.count(pair) for pair in [(1, 1), (1, 0), (0, 1), (0, 0)])  # type: ignore[return-value]


@quick
@given(pairs=CLASSES)
def test_accuracy_f1_and_matthews_are_those_of_the_confusion_matrix(pairs: Any) -> None:
    tp, fp, fn, tn = counted(pairs)
    predictions, targets = zip(*pairs, strict=True)
    found = scores(QQP, logits_for(predictions), targets)
    assert found["accuracy"] == pytest.approx((tp + tn) / len(pairs))
    assert found["f1"] == pytest.approx(2 * tp / (2 * tp + fp + fn) if tp else 0)
    root = math.sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn))
    assert scores(COLA, logits_for(predictions), targets)["matthews"] == pytest.approx(
        (tp * tn - fp * fn) / root if root else 0
    )


@quick
@given(pairs=CLASSES)
def test_the_scores_do_not_depend_on_the_models_order(pairs: Any) -> None:
    predictions, targets = np.array(pairs).T
    straight = scores(MRPC, logits_for(predictions), targets)
    assert scores(MRPC, logits_for(1 - predictions), 1 - targets, classes=(1, 0)) == pytest.approx(straight)


def test_correlations_are_those_of_scipy_on_real_valued_outputs() -> None:
    from scipy.stats import rankdata

    generator = np.random.default_rng(0)
    targets = generator.integers(0, 26, 200) / 5  # with ties, as in STS-B
    outputs = targets + generator.normal(0, 2, 200)
    found = scores(STSB, outputs[:, None].astype(np.float32), targets.astype(np.float32))
    pearson = np.corrcoef(outputs, targets)[0, 1]
    spearman = np.corrcoef(rankdata(outputs), rankdata(targets))[0, 1]
    assert found["pearson"] == pytest.approx(pearson, abs=1e-6)
    assert found["spearman"] == pytest.approx(spearman, abs=1e-6)
    assert found["pearson_spearman"] == pytest.approx((pearson + spearman) / 2, abs=1e-6)


@pytest.mark.parametrize("level", [0.0, 2.5, -1e-9])
@pytest.mark.filterwarnings("error")
def test_predictions_that_tell_nothing_apart_have_no_correlation(level: float) -> None:
    targets = np.linspace(0, 5, 50, dtype=np.float32)
    noise = np.random.default_rng(0).normal(0, 1e-7, (50, 1))  # as the padding of a batch makes it
    for outputs in (np.full((50, 1), level), (level * (1 + noise)).astype(np.float32)):
        assert set(scores(STSB, outputs, targets).values()) == {0.0}
    assert set(scores(STSB, targets[:, None], np.full(50, 2.0)).values()) == {0.0}
    assert set(scores(STSB, [[1.0]], [2.0]).values()) == {0.0}


@pytest.mark.filterwarnings("error")
def test_one_class_only_has_no_matthews_coefficient_and_no_f1() -> None:
    assert scores(COLA, logits_for([1, 1, 1]), [1, 0, 1])["matthews"] == 0
    assert scores(COLA, logits_for([1, 1]), [1, 1])["matthews"] == 0
    assert scores(QQP, logits_for([0, 0, 0]), [1, 0, 1])["f1"] == 0
    assert scores(QQP, logits_for([0, 0, 0]), [0, 0, 0])["f1"] == 0


def test_the_threshold_metric_is_the_published_one_and_among_the_scores() -> None:
    for task in TASKS.values():
        width = len(task.labels) or 1
        found = scores(task, np.arange(4.0 * width).reshape(4, width), np.array([0, 1, 0, 1]) % max(width, 2))
        assert threshold_metric(task) in found
    names = {name: threshold_metric(task) for name, task in TASKS.items()}
    assert names.pop("cola") == "matthews"
    assert names.pop("stsb") == "pearson_spearman"
    assert set(names.values()) == {"accuracy"}


class TestBaselines:
    def test_the_majority_is_that_of_training(self) -> None:
        found = baselines(RTE, [0, 0, 0, 1], [1, 1, 1, 0])
        assert found["majority"] == {"accuracy": 0.25}
        assert baselines(COLA, [1, 1, 0], [0, 1])["majority"] == {"accuracy": 0.5, "matthews": 0.0}

    def test_chance_agrees_as_often_as_the_shares_say(self) -> None:
        train, targets = np.repeat([0, 1, 2], [500, 300, 200]), np.repeat([0, 1, 2], [200, 200, 600])
        found = baselines(MNLI, train, targets)["random"]
        assert found["accuracy"] == pytest.approx(0.5 * 0.2 + 0.3 * 0.2 + 0.2 * 0.6, abs=0.02)
        assert abs(baselines(COLA, train.clip(0, 1), targets.clip(0, 1))["random"]["matthews"]) < 0.05

    def test_a_similarity_guessed_blindly_is_uncorrelated(self) -> None:
        train, targets = np.linspace(0, 5, 300), np.linspace(0, 5, 500)
        found = baselines(STSB, train, targets)
        assert set(found["majority"].values()) == {0.0}
        assert 0 < abs(found["random"]["pearson"]) < 0.05

    def test_the_seed_decides(self) -> None:
        train, targets = [0, 1, 1], [0, 1] * 50
        assert baselines(QQP, train, targets, seed=1) == baselines(QQP, train, targets, seed=1)
        assert baselines(QQP, train, targets, seed=1) != baselines(QQP, train, targets, seed=2)


@pytest.mark.parametrize(
    ("task", "logits", "targets", "problem"),
    [
        (COLA, np.zeros((2, 3)), [0, 1], r"\(2, 3\); cola needs \[examples, 2\]"),
        (COLA, np.zeros(2), [0, 1], r"\(2,\); cola needs"),
        (STSB, np.zeros((2, 2)), [0.0, 1.0], r"stsb needs \[examples, 1\]"),
        (COLA, np.zeros((0, 2)), [], "There is no example of cola"),
        (COLA, np.zeros((2, 2)), [0, 1, 1], "outputs for 2 examples and targets"),
        (
            COLA,
            [[0, 1], [math.nan, 0], [0, math.inf]],
            [0, 1, 1],
            "not finite for 2 of 3 examples, the first at 1",
        ),
        (COLA, np.zeros((2, 2)), [0, 2], "class ids from 0 to 1"),
        (COLA, np.zeros((2, 2)), [0, -1], "class ids from 0 to 1"),
        (COLA, np.zeros((2, 2)), [0.0, 1.0], "class ids from 0 to 1"),
        (STSB, np.zeros((2, 1)), [0.0, math.nan], "target of stsb is not finite"),
    ],
)
def test_what_cannot_be_scored_is_refused(task: Any, logits: Any, targets: Any, problem: str) -> None:
    with pytest.raises(InputError, match=problem):
        scores(task, logits, targets)


def wrong_in(targets: Any, share: float, classes: int, seed: int = 0) -> Any:
    """Predictions that are right but for a share."""
    generator = np.random.default_rng(seed)
    off = (generator.random(len(targets)) < share) * generator.integers(1, classes, len(targets))
    return (targets + off) % classes


class TestDoubts:
    @pytest.mark.parametrize("order", [(1, 2, 0), (2, 0, 1), (1, 0, 2), (0, 2, 1), (2, 1, 0)])
    def test_classes_in_another_order_are_found_from_the_outputs(self, order: tuple[int, ...]) -> None:
        targets = np.random.default_rng(1).integers(0, 3, 120)
        said = np.array(order)[wrong_in(targets, 0.15, 3)]
        (message,) = doubts(MNLI, logits_for(said, 3), targets, (0, 1, 2))
        right = ", ".join(MNLI.labels[order.index(i)] for i in range(3))
        assert (
            f"in the order {right} its accuracy would be {np.mean(said == np.array(order)[targets]):.4f}"
            in message
        )

    def test_the_names_are_those_of_the_models_own_order(self) -> None:
        targets = np.tile(
            [0, 1, 2], 30
        )  # ids of a model whose classes are contradiction, entailment, neutral
        (message,) = doubts(MNLI, logits_for((targets + 1) % 3, 3), targets, (1, 2, 0))
        assert (
            "another order than contradiction, entailment, neutral: in the order neutral, contradiction, "
            in message
        )

    @pytest.mark.parametrize("task", [COLA, QQP, RTE])
    def test_two_classes_that_are_swapped(self, task: Any) -> None:
        targets = np.random.default_rng(2).integers(0, 2, 80)
        assert doubts(task, logits_for(1 - wrong_in(targets, 0.15, 2)), targets, (0, 1))
        assert not doubts(task, logits_for(wrong_in(targets, 0.15, 2)), targets, (0, 1))

    @quick
    @given(seed=st.integers(0, 10_000), n=st.integers(1, 300), lean=st.floats(0.05, 0.95))
    def test_a_model_that_has_learned_nothing_is_not_doubted(self, seed: int, n: int, lean: float) -> None:
        generator = np.random.default_rng(seed)
        targets = (generator.random(n) < 0.3).astype(int)
        assert not doubts(QQP, logits_for(generator.random(n) < lean), targets, (0, 1))
        assert not doubts(QQP, logits_for(np.zeros(n)), targets, (0, 1))
        assert not doubts(STSB, generator.normal(size=(n, 1)) * 0.01, generator.random(n) * 5, (0,))

    @pytest.mark.parametrize(
        ("answer", "words"),
        [
            (lambda y: y / 5, "trained on another scale"),
            (lambda y: y * 20, "trained on another scale"),
            (lambda y: 2 * y / 5 - 1, "trained on another scale"),
            (lambda y: 5 - y, "run against them"),
            (lambda y: y, None),
            (lambda y: 2.5 + 0.6 * (y - 2.5), None),  # learned in part
        ],
    )
    def test_scores_on_another_scale_are_found_from_the_outputs(self, answer: Any, words: str | None) -> None:
        generator = np.random.default_rng(3)
        targets = generator.random(200) * 5
        noisy = answer(targets) * (1 + generator.normal(0, 0.02, 200))
        found = doubts(STSB, noisy[:, None], targets, (0,))
        assert [words in message for message in found] == [True] * len(found) if words else not found
        assert bool(found) == bool(words)


def test_few_rows_are_no_reason_to_doubt_the_order_of_classes() -> None:
    """Six rows, all of them wrong: one in 64 models that know nothing is so."""
    targets = np.array([0, 1, 1, 0, 0, 1])
    assert not doubts(QQP, logits_for(1 - targets), targets, (0, 1))
    many = np.tile(targets, 10)
    assert doubts(QQP, logits_for(1 - many), many, (0, 1))
