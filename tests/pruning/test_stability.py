"""Survivors and stability: the published figures, slow definitions, and what chance would give."""

from __future__ import annotations

import json
import math
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models import InputError
from pruning import Subnetwork, controls, never_survivors, stability, super_survivors

SEEDS = ("1337", "42", "86", "71", "166")
TASKS = ("CoLA", "SST-2", "MRPC", "STS-B", "QQP", "MNLI", "QNLI", "RTE", "WNLI")


def random_subnetworks(number: int, seed: int = 0, layers: int = 4, heads: int = 6) -> list[Subnetwork]:
    rng = np.random.default_rng(seed)
    return [
        Subnetwork(rng.random((layers, heads)) < rng.uniform(0.3, 0.8), rng.random(layers) < 0.6)
        for _ in range(number)
    ]


@pytest.fixture(scope="module")
def published(shared: Path) -> dict[str, list[Subnetwork]]:
    with np.load(shared / "reference/prasanna2020_masks.npz", allow_pickle=False) as masks:
        return {
            task: [
                Subnetwork(*(masks[f"heads_mlps/{task}/seed_{seed}/{what}_mask"] for what in ("head", "mlp")))
                for seed in SEEDS
            ]
            for task in TASKS
        }


@pytest.fixture(scope="module")
def expected(shared: Path) -> Any:
    return json.loads((shared / "reference/prasanna2020_expected.json").read_text())


def test_the_published_masks_have_the_published_survivors(published: Any) -> None:
    found = {task: super_survivors(of).n_heads for task, of in published.items()}
    assert found == {
        "CoLA": 34, "SST-2": 19, "MRPC": 28, "STS-B": 24, "QQP": 23, "MNLI": 40, "QNLI": 31, "RTE": 11, "WNLI": 0,
    }  # fmt: skip


@pytest.mark.parametrize("what", ["heads", "mlps"])
def test_the_published_masks_have_the_published_statistics(published: Any, expected: Any, what: str) -> None:
    for task, of in published.items():
        figures = expected["heads_mlps"][what][task]
        count = f"n_{what}"
        assert getattr(super_survivors(of), count) == figures["super_survivors"]
        assert getattr(never_survivors(of), count) == figures["never_survive"]
        assert stability.survival_mean(of, what).mean() == pytest.approx(figures["mean_survival"])
        assert stability.survival_std(of, what).mean() == pytest.approx(figures["mean_std_ddof1"])
        for name, value in (
            ("fleiss_kappa", stability.fleiss_kappa(of, what)),
            ("cochran_Q", stability.cochran_q(of, what).statistic),
            ("cochran_p", stability.cochran_q(of, what).p_value),
        ):
            if figures[name] is None or math.isnan(figures[name]):
                assert math.isnan(value), (task, name)
            else:
                assert value == pytest.approx(figures[name], rel=1e-6, abs=1e-12), (task, name)
    assert stability.fleiss_kappa(published["QQP"]) == pytest.approx(0.19122505616492644)


def test_the_published_masks_share_the_published_heads(published: Any, expected: Any) -> None:
    table = expected["shared"]["heads_mlps"]["heads"]["same_seed_mean"]
    for one, other in product(TASKS, TASKS):
        found = stability.shared_heads(published[one], published[other])
        assert found.mean == pytest.approx(table[one][other])
    assert stability.shared_heads(published["QQP"], published["MRPC"]).mean == pytest.approx(52.2)
    assert stability.shared_heads(published["QQP"], published["MNLI"]).mean == pytest.approx(54.6)
    assert stability.shared_heads(published["QQP"], published["MRPC"], "all").mean == pytest.approx(52.68)


def test_chance_levels_of_the_published_masks(published: Any, expected: Any) -> None:
    def survivors(tasks: list[list[Subnetwork]]) -> float:
        return super_survivors(tasks[0]).n_heads

    figures = expected["heads_mlps"]["heads"]["QQP"]
    size = stability.chance_level(survivors, [published["QQP"]], draws=400)
    assert size.observed == 23
    assert size.mean == pytest.approx(figures["chance_super_survivors"], abs=0.4)
    assert size.p_value == pytest.approx(1 / 401)
    layers = stability.chance_level(survivors, [published["QQP"]], "size-per-layer", draws=400)
    assert layers.mean > size.mean  # seeds agree on layers too

    def common(tasks: list[list[Subnetwork]]) -> float:
        return stability.shared_heads(*tasks).mean

    pair = stability.chance_level(common, [published["QQP"], published["MRPC"]], draws=400)
    assert pair.mean == pytest.approx(48.3, abs=0.5)


@given(st.integers(0, 10_000), st.integers(2, 6))
@settings(max_examples=40, deadline=None)
def test_kappa_and_q_equal_their_definitions(seed: int, number: int) -> None:
    of = random_subnetworks(number, seed)
    masks = np.stack([one.heads.ravel() for one in of]).astype(int)
    n = len(masks)
    agree = [(k * (k - 1) + (n - k) * (n - k - 1)) / (n * (n - 1)) for k in masks.sum(axis=0)]
    kept = masks.mean()
    by_chance = kept**2 + (1 - kept) ** 2
    if by_chance < 1:
        kappa = (np.mean(agree) - by_chance) / (1 - by_chance)
        assert stability.fleiss_kappa(of) == pytest.approx(kappa)
    rows, columns = masks.sum(axis=0), masks.sum(axis=1)
    below = n * masks.sum() - (rows**2).sum()
    found = stability.cochran_q(of)
    if below:
        q = (n - 1) * (n * (columns**2).sum() - masks.sum() ** 2) / below
        assert found.statistic == pytest.approx(q)
        assert found.df == n - 1
    else:
        assert math.isnan(found.statistic)


@given(st.integers(0, 10_000), st.integers(1, 5))
@settings(max_examples=40, deadline=None)
def test_survivors_are_kept_always_or_never(seed: int, number: int) -> None:
    of = random_subnetworks(number, seed)
    mean = stability.survival_mean(of)
    assert np.array_equal(super_survivors(of).heads, mean == 1)
    assert np.array_equal(never_survivors(of).heads, mean == 0)
    assert super_survivors(of) & of[0] == super_survivors(of)
    assert super_survivors([of[0]]) == of[0]


@pytest.mark.parametrize("null", stability.NULLS)
def test_a_random_subnetwork_has_the_size_it_should(null: str) -> None:
    rng = np.random.default_rng(0)
    for one in random_subnetworks(20):
        other = stability.randomised(one, rng, null)
        assert (other.n_heads, other.n_mlps) == (one.n_heads, one.n_mlps)
        if null == "size-per-layer":
            assert np.array_equal(other.heads.sum(axis=1), one.heads.sum(axis=1))


def test_random_seeds_are_no_more_alike_than_chance() -> None:
    values = [
        stability.chance_level(
            lambda tasks: stability.fleiss_kappa(tasks[0]), [random_subnetworks(5, seed)], draws=60, seed=seed
        ).p_value
        for seed in range(30)
    ]
    assert 0.3 < np.mean(values) < 0.7
    assert stability.chance_level(
        lambda tasks: super_survivors(tasks[0]).n_heads, [random_subnetworks(5)], draws=20, seed=3
    ) == stability.chance_level(
        lambda tasks: super_survivors(tasks[0]).n_heads, [random_subnetworks(5)], draws=20, seed=3
    )


def test_where_there_is_nothing_to_compare_the_answer_is_nan() -> None:
    whole = Subnetwork(np.ones((2, 3), dtype=bool), np.ones(2, dtype=bool))
    assert math.isnan(stability.fleiss_kappa([whole, whole]))
    assert math.isnan(stability.cochran_q([whole, whole]).p_value)
    assert math.isnan(stability.shared_heads([whole], [whole]).std)
    level = stability.chance_level(lambda tasks: stability.fleiss_kappa(tasks[0]), [[whole, whole]], draws=20)
    assert math.isnan(level.p_value)
    assert stability.shared_heads([whole], [whole]).mean == 6


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda of: super_survivors([]), "at least one subnetwork"),
        (lambda of: super_survivors([*of, *random_subnetworks(1, heads=5)]), "different models"),
        (lambda of: stability.survival_mean([*of, *random_subnetworks(1, heads=5)]), "different models"),
        (lambda of: stability.fleiss_kappa(of[:1]), "at least 2 seeds; there are 1"),
        (lambda of: stability.fleiss_kappa(of, "layers"), "give heads or mlps"),
        (lambda of: stability.shared_heads(of, of[:2]), "there are 3 and 2"),
        (lambda of: stability.shared_heads(of, of, "some"), "same-seed or all"),
        (lambda of: stability.shared_heads(of, random_subnetworks(3, heads=5)), "different models"),
        (lambda of: stability.chance_level(len, [of], "layers"), "size or size-per-layer"),
        (lambda of: stability.chance_level(len, [of], draws=0), "at least 1"),
    ],
)
def test_bad_input_is_named(call: Any, match: str) -> None:
    with pytest.raises(InputError, match=match):
        call(random_subnetworks(3))


def test_one_more_null_is_an_entry_of_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many in the lower and in the upper half of the layers."""
    halves = stability.Null(lambda masks: masks.reshape(len(masks), 2, -1), "as many in each half")
    monkeypatch.setitem(stability.NULLS, "size-per-half", halves)  # type: ignore[arg-type]
    rng = np.random.default_rng(0)
    one = Subnetwork(rng.random((4, 6)) < 0.4, np.array([True, False, True, True]))
    for draw in controls.random_subnetworks(one, 20, seed=1, null="size-per-half"):
        assert draw.heads[:2].sum() == one.heads[:2].sum()
        assert draw.mlps[2:].all()
    assert any(
        (draw.heads != one.heads).any() for draw in controls.random_subnetworks(one, 3, 1, "size-per-half")
    )
    level = stability.chance_level(lambda tasks: tasks[0][0].n_heads, [[one]], null="size-per-half", draws=5)
    assert (level.mean, level.null) == (one.n_heads, "size-per-half")
