"""compare-survivors: the tests against slow definitions, the published masks, and whole runs on small models."""

from __future__ import annotations

import copy
import itertools
import json
import re
import shutil
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from models import InputError, UnsupportedModelError, load_checkpoint
from models.gating import gated
from models.tasks.rows import load_rows, row_ids, select_rows
from models.tasks.task import task_named
from patterns import classify_heads
from patterns.distribution import bootstrap_ci95
from pruning import Subnetwork, cli, compare_survivors, stability, super_survivors
from pruning.comparison.consistency import kappas, shared_by_pairs, stability_of
from pruning.comparison.survivor_patterns import adjust, compare
from pruning.permutation import crossed_ci95, difference_test, holm, holm_levels, verdict
from pruning.search.runs import Group, Run, find_groups

EXAMPLES = Path(__file__).parents[3] / "examples"
SUPER = {
    "cola": 34,
    "sst2": 19,
    "mrpc": 28,
    "stsb": 24,
    "qqp": 23,
    "mnli": 40,
    "qnli": 31,
    "rte": 11,
    "wnli": 0,
}


def some(rng: np.random.Generator, layers: int = 3, heads: int = 4) -> Subnetwork:
    return Subnetwork(rng.random((layers, heads)) < 0.6, rng.random(layers) < 0.6)


def search(folder: Path, subnetwork: Subnetwork, task: str = "qqp", seed: int = 1, **config: Any) -> Path:
    """Write what a search leaves behind."""
    usual = {"command": "prune-heads", "what": "heads-and-mlps", "threshold": 0.9, "split": "validation"}
    folder.mkdir(parents=True, exist_ok=True)
    subnetwork.save(folder / "subnetwork.safetensors")
    (folder / "config.json").write_text(
        json.dumps(usual | {"task": task, "seed": seed, "model": None} | config)
    )
    return folder


def masks(folder: Path, subnetwork: Subnetwork) -> Path:
    """Write the published layout."""
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / "head_mask.npy", subnetwork.heads.astype(float))
    np.save(folder / "mlp_mask.npy", subnetwork.mlps.astype(float))
    return folder


@pytest.fixture
def command(run_command: Any) -> Any:
    return partial(run_command, cli.compare_survivors)


@pytest.fixture(scope="module")
def published(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("published") / "masks"
    with np.load(shared / "reference/prasanna2020_masks.npz", allow_pickle=False) as arrays:
        for name in arrays.files:
            if name.startswith("heads_mlps/") and name.endswith("_mask"):
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                np.save(folder / f"{name}.npy", arrays[name].astype(float))
    return folder


# Permutation tests and intervals


def difference(survivors: Any, shares: Any) -> float:
    """Averaged over seeds, as its definition says."""
    return float(np.mean([s[k].mean() - s[~k].mean() for k, s in zip(survivors, shares, strict=True)]))


def every_permutation(layers: int, heads: int) -> Any:
    """Each way to exchange heads within their layers, as positions [L * H]."""
    for rows in itertools.product(itertools.permutations(range(heads)), repeat=layers):
        yield [layer * heads + head for layer, row in enumerate(rows) for head in row]


@pytest.mark.parametrize("seeds", [1, 3])
def test_the_permutation_test_equals_the_enumeration_of_all_permutations(seeds: int) -> None:
    rng = np.random.default_rng(seeds)
    survivors = np.array(
        [[[1, 0, 0], [1, 1, 0]], [[0, 1, 0], [1, 0, 0]], [[1, 1, 0], [1, 1, 1]]], dtype=bool
    )[:seeds]
    shares = rng.random((seeds, 2, 3)) + 0.5 * survivors
    found = difference_test(survivors, shares, permutations=19_999)
    observed = difference(survivors, shares)
    assert found.total == pytest.approx(observed)
    values = np.array(
        [
            difference(survivors.reshape(seeds, -1)[:, list(places)].reshape(survivors.shape), shares)
            for places in every_permutation(2, 3)
        ]
    )
    exact = (np.abs(values - values.mean()) >= abs(observed - values.mean()) - 1e-12).mean()
    assert found.p_value == pytest.approx(exact, abs=0.02)
    assert found.by_layers == pytest.approx(values.mean())
    assert found.difference == pytest.approx(observed - values.mean())


def test_the_permutation_test_equals_a_slow_one() -> None:
    rng = np.random.default_rng(5)
    survivors, shares = rng.random((4, 6)) < 0.4, rng.random((4, 6))
    shares += 0.25 * survivors
    observed = difference(survivors[None], shares[None])
    drawn = [
        difference(np.stack([rng.permutation(row) for row in survivors])[None], shares[None])
        for _ in range(4000)
    ]
    as_far = int((np.abs(np.array(drawn) - np.mean(drawn)) >= abs(observed - np.mean(drawn))).sum())
    found = difference_test(survivors, shares, permutations=4000)
    assert found.p_value == pytest.approx((as_far + 1) / 4001, abs=0.03)
    assert found.by_layers == pytest.approx(np.mean(drawn), abs=0.01)


def test_the_interval_is_that_of_the_test() -> None:
    """0 lies within if and only if p > .05; taking off an end of it is at the edge; it holds the difference."""
    rng = np.random.default_rng(8)
    agree = []
    for draw in range(60):
        survivors = rng.random((2, 4, 6)) < 0.5
        shares = np.repeat(rng.random((1, 4, 6)), 2, axis=0) + rng.choice([0, 0.15, 0.3]) * survivors
        found = difference_test(survivors, shares, 499, seed=draw)
        low, high = found.interval()
        assert -1 <= low <= found.difference <= high <= 1
        agree.append((low <= 0 <= high) == (found.p_value > 0.05))
    assert all(agree)
    survivors, shares = rng.random((4, 8)) < 0.5, rng.random((4, 8))
    found = difference_test(survivors, shares, 999)
    unit = difference_test(survivors, survivors.astype(float), 999).difference
    for end, inwards in zip(found.interval(), (0.01, -0.01), strict=True):
        inside, outside = (
            difference_test(survivors, shares - (end + step) / unit * survivors, 999).p_value
            for step in (inwards, -inwards)
        )
        assert inside > 0.05 >= outside


def test_the_interval_covers_the_difference_that_there_is() -> None:
    rng = np.random.default_rng(4)
    held = []
    for draw in range(200):
        survivors = rng.random((4, 8)) < 0.5
        shares = 0.3 + 0.1 * np.arange(4)[:, None] / 3 + rng.normal(0, 0.08, (4, 8))
        found = difference_test(survivors, shares + 0.1 * survivors, 399, seed=draw)
        true = 0.1 * difference_test(survivors, survivors.astype(float), 1).difference
        low, high = found.interval()
        held.append(low <= true <= high)
    assert 0.9 <= np.mean(held) <= 0.99


def test_a_head_without_a_share_is_left_out() -> None:
    rng = np.random.default_rng(6)
    survivors, shares = rng.random((3, 5)) < 0.5, rng.random((3, 5))
    wide = difference_test(
        np.hstack([survivors, [[True], [False], [True]]]),
        np.hstack([shares, np.full((3, 1), np.nan)]),
        999,
    )
    assert wide == difference_test(survivors, shares, 999)


def test_interval_p_and_verdict_of_several_comparisons_say_the_same() -> None:
    rng = np.random.default_rng(3)
    disagreed = 0
    for draw in range(5):
        tests = []
        for _ in range(4):
            survivors = rng.random((4, 8)) < 0.5
            shares = rng.random((4, 8)) + rng.choice([0, 0.15, 0.4]) * survivors
            tests.append(difference_test(survivors, shares, 999, seed=draw))
        p_values = [None if i == 2 and draw % 2 else test.p_value for i, test in enumerate(tests)]
        for test, p, level in zip(tests, holm(p_values), holm_levels(p_values), strict=True):
            if p is None:
                continue
            low, high = test.interval(level)
            assert low <= test.difference <= high
            assert (low <= 0 <= high) == (p > 0.05)
            assert verdict(test.difference, p, 0.001) == (
                "no difference shown" if low <= 0 <= high else "higher" if low > 0 else "lower"
            )
            uncorrected = test.interval()
            disagreed += (uncorrected[0] <= 0 <= uncorrected[1]) != (p > 0.05)
    assert disagreed  # without the correction they would have


def test_what_too_few_permutations_cannot_show_beside_so_many_has_no_verdict() -> None:
    rng = np.random.default_rng(0)
    survivors = rng.random((2, 4, 8)) < 0.5
    labels = rng.integers(0, 5, (2, 6, 4, 8)).astype(np.int8)
    runs = tuple(
        Run(Path("x"), Subnetwork(of, np.ones(4, bool)), "qqp", seed, "heads")
        for seed, of in enumerate(survivors)
    )
    group = Group("qqp", "qqp", "heads", runs)
    for number, vain in ((5, False), (6, True)):
        found = adjust([compare(group, labels, 99, seed) for seed in range(number)])
        for one in found:
            told = one["difference"]
            assert (told["verdict"] == "not testable") == vain
            assert (told["ci95"] == [None, None]) == vain
            assert (
                "of 6 can be significant: p, corrected for their number, is at least 0.060" in told["why"]
            ) == vain


def test_a_verdict_follows_from_the_adjusted_p_alone() -> None:
    assert verdict(0.1, 0.05, 0.001) == "higher"
    assert verdict(-0.1, 0.01, 0.001) == "lower"
    assert verdict(0.1, 0.051, 0.001) == "no difference shown"
    for nothing in ((None, 0.01, 0.001), (0.1, None, None), (0.1, 0.01, 0.1)):
        assert verdict(*nothing) == "not testable"


def test_layers_that_explain_everything_are_not_taken_for_heads() -> None:
    """Survivors and heterogeneous heads both lie in the upper layers, and otherwise have nothing in common."""
    rng = np.random.default_rng(0)
    p_values, totals = [], []
    for draw in range(60):
        in_layer = np.array([0.2, 0.2, 0.8, 0.8])[:, None]
        survivors = rng.random((4, 12)) < in_layer
        shares = in_layer + 0.2 * rng.random((4, 12))
        found = difference_test(survivors, shares, 199, seed=draw)
        p_values.append(found.p_value)
        totals.append(found.total)
        assert abs(found.difference) < 0.1
    assert np.mean(totals) > 0.2
    assert np.mean(np.array(p_values) < 0.05) < 0.15


def test_p_values_are_uniform_under_the_null() -> None:
    rng = np.random.default_rng(1)
    several = [
        difference_test(rng.random((3, 4, 6)) < 0.5, np.repeat(rng.random((1, 4, 6)), 3, axis=0), 99, seed)
        for seed in range(300)
    ]
    p = np.sort([one.p_value for one in several])
    assert np.abs(p - (np.arange(300) + 0.5) / 300).max() < 0.1
    assert (p <= 0.05).mean() < 0.1
    assert p.min() >= 0.01  # (0 + 1) / (99 + 1)


def test_seeds_with_the_same_heads_count_once() -> None:
    """Five copies of a seed are no more evidence than one."""
    rng = np.random.default_rng(2)
    survivors, shares = rng.random((3, 8)) < 0.5, rng.random((3, 8))
    once = difference_test(survivors, shares, 999)
    five = difference_test(np.stack([survivors] * 5), np.stack([shares] * 5), 999)
    assert (five.p_value, five.smallest_p) == (once.p_value, once.smallest_p)
    assert (five.total, five.difference, *five.interval()) == pytest.approx(
        (once.total, once.difference, *once.interval())
    )


def test_what_cannot_be_tested_is_none() -> None:
    whole_layers = np.array([[True] * 4, [False] * 4])
    found = difference_test(whole_layers, np.random.default_rng(0).random((2, 4)), 99)
    assert (found.p_value, found.difference) == (None, None)
    assert np.isnan(found.interval()).all()
    assert found.total == found.by_layers
    assert not found.testable
    for value in (True, False):
        found = difference_test(np.full((2, 4), value), np.zeros((2, 4)), 99)
        assert (found.total, found.difference, found.p_value) == (None, None, None)
    flat = difference_test(np.eye(4, dtype=bool), np.full((4, 4), 0.3), 99)
    assert (flat.p_value, flat.difference) == (1, pytest.approx(0))
    few = difference_test(np.array([[True, False, False]]), np.array([[0.9, 0.1, 0.2]]), 99)
    assert few.smallest_p == pytest.approx(1 / 3)  # there are three ways to have one survivor of three heads
    assert not few.testable
    assert few.interval() == (-1, 1)
    hardly = difference_test(np.eye(4, dtype=bool), np.random.default_rng(0).random((4, 4)), 9)
    assert not hardly.testable
    assert hardly.interval() == (-1, 1)
    with pytest.raises(InputError, match="permutations 0"):
        difference_test(np.eye(4, dtype=bool), np.zeros((4, 4)), 0)


def test_holm_multiplies_the_smallest_by_how_many_there_are() -> None:
    assert holm([0.04, None, 0.01, 0.03, 0.9]) == pytest.approx([0.09, None, 0.04, 0.09, 0.9])
    assert holm([0.6, 0.7]) == [1, 1]
    assert holm([None, None]) == [None, None]


def test_intervals_resample_seeds_and_examples_together() -> None:
    rng = np.random.default_rng(0)
    one = rng.normal(0, 1, (4, 1)) + rng.normal(0, 0.5, (1, 20)) + rng.normal(0, 0.2, (4, 20))
    other = one + rng.normal(0.3, 0.05, one.shape)
    first, second = (crossed_ci95(side, seed=3) for side in (one, other))
    draws = []
    for _ in range(3000):
        seeds, examples = rng.integers(0, 4, 4), rng.integers(0, 20, 20)
        draws.append([side[np.ix_(seeds, examples)].mean() for side in (one, other)])
    slow = np.array(draws)
    np.testing.assert_allclose(first, np.percentile(slow[:, 0], [2.5, 97.5]), atol=0.08)
    np.testing.assert_allclose(second, np.percentile(slow[:, 1], [2.5, 97.5]), atol=0.08)
    weights = np.ones(one.shape)
    weights[1, 3] = weights[:, 5] = 0
    holes = np.where(weights > 0, one, np.nan)
    weighted = crossed_ci95(holes, weights, seed=3)
    assert weighted == pytest.approx(first, abs=0.1)
    assert weighted != first


def test_of_one_seed_only_examples_are_resampled() -> None:
    values = np.random.default_rng(0).random(30)
    assert crossed_ci95(values[None]) == pytest.approx(bootstrap_ci95(values, 0), abs=0.01)
    assert np.isnan(crossed_ci95(values[None, :1])).all()


# Stability beside chance


def test_kappas_of_many_sets_equal_those_one_by_one() -> None:
    rng = np.random.default_rng(0)
    drawn = rng.random((20, 4, 12)) < rng.random((20, 1, 1))
    drawn[0], drawn[1] = True, False
    slow = [
        stability.fleiss_kappa([Subnetwork(m.reshape(3, 4), np.ones(3, dtype=bool)) for m in one])
        for one in drawn
    ]
    np.testing.assert_allclose(kappas(drawn), slow, atol=1e-12)
    assert np.isnan(slow[:2]).all()


def test_chance_levels_are_those_of_the_slow_way(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    base = rng.random((6, 8))
    for task, seed in itertools.product(("qqp", "cola"), (1, 2, 3)):
        heads = base + rng.normal(0, 0.3, base.shape) > np.linspace(0.2, 0.8, 6)[:, None]
        search(tmp_path / f"{task}{seed}", Subnetwork(heads, rng.random(6) < 0.6), task, seed)
    groups, _ = find_groups([tmp_path])
    one, other = (group.subnetworks for group in groups)
    found = stability_of(groups[0], "heads")
    pair = shared_by_pairs(groups)[0]
    ways: Any = {
        "super_survivors": (lambda tasks: super_survivors(tasks[0]).n_heads, [one]),
        "fleiss_kappa": (lambda tasks: stability.fleiss_kappa(tasks[0]), [one]),
        "same-seed": (lambda tasks: stability.shared_heads(*tasks).mean, [one, other]),
        "all": (lambda tasks: stability.shared_heads(*tasks, "all").mean, [one, other]),
    }
    for null, (name, (statistic, tasks)) in itertools.product(stability.NULLS, ways.items()):
        slow = stability.chance_level(statistic, tasks, null, draws=300)
        fast = found["chance"][name][null] if name in found["chance"] else pair[name]["chance"][null]
        width = slow.ci95[1] - slow.ci95[0]
        assert fast["mean"] == pytest.approx(slow.mean, abs=0.1 * width)
        assert fast["ci95"] == pytest.approx(slow.ci95, abs=0.2 * width)
        assert fast["p_value"] == pytest.approx(slow.p_value, abs=0.1)


def test_a_task_has_the_same_chance_levels_whatever_else_is_compared(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for task, seed in itertools.product(("qqp", "cola"), (1, 2)):
        search(tmp_path / f"{task}{seed}", some(rng), task, seed)
    together = next(group for group in find_groups([tmp_path])[0] if group.task == "qqp")
    alone = find_groups([tmp_path], task="QQP")[0]
    assert [group.task for group in alone] == ["qqp"]
    assert stability_of(alone[0], "heads") == stability_of(together, "heads")


# The published masks


def test_the_published_masks_give_the_published_figures(
    command: Any, published: Path, tmp_path: Path
) -> None:
    code, out, err = command(published, "--json", "--output", tmp_path / "out")
    assert code == 0, err
    summary = json.loads(out)
    tasks = summary["tasks"]
    assert {name: task["heads"]["super_survivors"] for name, task in tasks.items()} == SUPER
    assert list(tasks) == list(SUPER)
    assert tasks["qqp"]["seeds"] == [42, 71, 86, 166, 1337]
    assert {task["method"] for task in tasks.values()} == {"heads_mlps"}
    qqp = tasks["qqp"]["heads"]
    assert qqp["fleiss_kappa"] == pytest.approx(0.191, abs=5e-4)
    assert qqp["chance"]["super_survivors"]["size"]["mean"] == pytest.approx(6.2, abs=0.4)
    assert qqp["chance"]["super_survivors"]["size-per-layer"]["mean"] > 7
    assert qqp["unstable_share"] == (144 - 23 - 10) / 144  # whose standard deviation is .45 to .55
    by_chance = qqp["chance"]["never_survivors"]["size"]["mean"]
    assert by_chance == pytest.approx(2.5, abs=0.3)
    assert qqp["chance"]["unstable_share"]["size"]["mean"] == pytest.approx(
        (144 - 6.2 - by_chance) / 144, abs=0.01
    )
    assert len(qqp["super_survivors_list"]) == 23
    assert len(tasks["cola"]["mlps"]["super_survivors_list"]) == 9
    assert tasks["mnli"]["heads"]["cochran_q"]["p_value"] == pytest.approx(0.39, abs=0.01)
    shared = {frozenset(pair["tasks"]): pair for pair in summary["shared_heads"]}
    assert len(shared) == 36
    assert shared[frozenset(("qqp", "mrpc"))]["same-seed"]["mean"] == pytest.approx(52.2)
    assert shared[frozenset(("qqp", "mrpc"))]["all"]["mean"] == pytest.approx(52.68)
    assert shared[frozenset(("qqp", "mnli"))]["same-seed"]["mean"] == pytest.approx(54.6)
    chance = shared[frozenset(("qqp", "mrpc"))]["same-seed"]["chance"]["size"]
    assert chance["mean"] == pytest.approx(48.3, abs=0.3)
    assert tasks["wnli"]["mlps"]["fleiss_kappa"] is None
    assert json.loads((tmp_path / "out/summary.json").read_text()) == summary
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        ".headscope.json", "summary.json", "survivors.parquet", "stability.csv", "survival.png", "report.html",
        "survival.csv", "stability.tex",
    }  # fmt: skip
    frame = pd.read_parquet(tmp_path / "out/survivors.parquet")
    assert len(frame) == 9 * (144 + 12)
    heads = frame[frame.what == "head"].groupby("task")
    assert heads["super"].sum().to_dict() == SUPER
    assert set(frame["std"].round(3)) <= {0.0, 0.447, 0.548}
    table = pd.read_csv(tmp_path / "out/stability.csv").fillna({"other": "", "null": ""})
    row = table[(table.task == "qqp") & (table.what == "heads") & (table.statistic == "fleiss_kappa")]
    assert row["null"].tolist() == list(stability.NULLS)
    assert row["value"].tolist() == pytest.approx([qqp["fleiss_kappa"]] * 2)


def test_the_tables_are_to_be_read(command: Any, published: Path) -> None:
    code, out, _ = command(published)
    assert code == 0
    assert "qqp       5  67-102 of 144     23     10" in out
    assert "0.191" in out
    assert "not whether they keep the same ones" in " ".join(out.split())
    assert "24 more pairs" in out
    assert "nan" not in out.lower()


def test_sixty_columns_hold_the_tables(
    command: Any, published: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    _, wide, _ = command(published)
    monkeypatch.setenv("COLUMNS", "60")
    code, out, _ = command(published)
    assert code == 0
    assert max(map(len, out.splitlines())) <= 60
    numbers = re.findall(r"\d*\.\d+|\d+-\d+", wide)
    assert len(numbers) > 100
    assert not Counter(numbers) - Counter(re.findall(r"\d*\.\d+|\d+-\d+", out))


# Reading runs


def test_every_layout_is_read(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    three = [some(rng) for _ in range(3)]
    search(tmp_path / "a/search", three[0], "QQP", 1)
    masks(tmp_path / "b/QQP/seed_2", three[1])
    about = {"task": "qqp", "seed": "3"}
    Subnetwork(three[2].heads, three[2].mlps, about).save(tmp_path / "plain.safetensors")
    from safetensors.numpy import save_file

    save_file({"weight": np.zeros(3)}, tmp_path / "a/model.safetensors")  # of a model: not a run
    by_folder = find_groups([tmp_path])[0]
    one_by_one = find_groups(
        [
            tmp_path / "a/search/subnetwork.safetensors",
            tmp_path / "b/QQP/seed_2",
            tmp_path / "plain.safetensors",
        ]
    )[0]
    for groups in (by_folder, one_by_one):
        found = {run.seed: run for group in groups for run in group.runs}
        assert {run.task for run in found.values()} == {"qqp"}
        assert [found[seed].subnetwork for seed in (1, 2, 3)] == three
    assert [group.method for group in by_folder] == ["", "prune-heads heads-and-mlps"]


def test_methods_are_told_apart_where_they_differ(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for what, seed in itertools.product(("heads", "heads-and-mlps"), (1, 2)):
        search(tmp_path / f"{what}-{seed}", some(rng), "rte", seed, what=what)
        search(
            tmp_path / f"{what}-{seed}-released", some(rng), "rte", seed, what=what, protocol="as-released"
        )
    groups, _ = find_groups([tmp_path])
    assert [group.name for group in groups] == [
        "rte, prune-heads heads",
        "rte, prune-heads heads as-released",
        "rte, prune-heads heads-and-mlps",
        "rte, prune-heads heads-and-mlps as-released",
    ]
    assert shared_by_pairs(groups) == []
    masks(tmp_path / "masks/heads_mlps/RTE/seed_1", some(rng))
    masks(tmp_path / "masks/heads_mlps_random/RTE/seed_1", some(rng))
    groups, _ = find_groups([tmp_path / "masks"])
    assert [group.method for group in groups] == ["heads_mlps", "heads_mlps_random"]


def test_a_folder_given_twice_counts_once_and_an_unfinished_search_is_named(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    search(tmp_path / "one", some(rng), seed=1)
    (search(tmp_path / "two", some(rng), seed=2) / "subnetwork.safetensors").unlink()
    groups, warnings = find_groups([tmp_path, tmp_path / "one"])
    assert groups[0].seeds == [1]
    assert any(
        "two is an unfinished search: it has no subnetwork.safetensors yet; it was left out." in warning
        for warning in warnings
    )
    assert any("one seed of qqp" in warning for warning in warnings)
    found = stability_of(groups[0], "heads")
    assert found["fleiss_kappa"] is None
    assert found["super_survivors"] == groups[0].subnetworks[0].n_heads


def test_searches_with_other_settings_come_with_a_warning(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    search(tmp_path / "1", some(rng), seed=1, threshold=0.9)
    search(tmp_path / "2", some(rng), seed=2, threshold=0.8)
    assert find_groups([tmp_path])[1] == ["The searches of qqp differ in threshold: 0.8, 0.9."]


def test_tasks_without_a_common_seed_have_no_same_seed_pairs(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for task, seed in (("qqp", 1), ("qqp", 2), ("rte", 2), ("cola", 3)):
        search(tmp_path / f"{task}{seed}", some(rng), task, seed)
    pairs = {tuple(pair["tasks"]): pair for pair in shared_by_pairs(find_groups([tmp_path])[0])}
    assert pairs["cola", "qqp"]["same-seed"] is None
    assert pairs["cola", "qqp"]["all"]["pairs"] == 2
    assert pairs["qqp", "rte"]["same-seed"]["pairs"] == 1


BAD: dict[str, tuple[Any, str]] = {
    "nothing there": (lambda at: ["missing"], "missing does not exist"),
    "an empty folder": (lambda at: [(at / "empty").mkdir() or "empty"], "empty holds no subnetwork"),
    "an unfinished search": (
        lambda at: [(search(at / "a", some(RNG)) / "subnetwork.safetensors").unlink() or "a"],
        "a is an unfinished search",
    ),
    "a search of weights": (
        lambda at: [
            (search(at / "a", some(RNG), command="prune-weights") / "subnetwork.safetensors").unlink() or "a"
        ],
        "a is a search of single weights, which keeps no whole heads",
    ),
    "the same seed twice": (
        lambda at: [search(at / "a", some(RNG)).name, search(at / "b", some(RNG)).name],
        "a and b are both of qqp with seed 1 (prune-heads heads-and-mlps)",
    ),
    "another model": (
        lambda at: [search(at / "a", some(RNG)).name, search(at / "b", some(RNG, 2, 4), seed=2).name],
        "a is of a model of 3 x 4 heads (layers x heads), but b of one of 2 x 4",
    ),
    "no task": (lambda at: [masks(at / "seed_1", some(RNG)).name], "seed_1 does not say its task"),
    "no seed": (lambda at: ["--task", "qqp", masks(at / "qqp", some(RNG)).name], "qqp does not say its seed"),
    "an unknown task": (lambda at: [search(at / "a", some(RNG), "squad").name], "a: Unknown task 'squad'"),
    "a strange seed": (lambda at: [search(at / "a", some(RNG), seed="x").name], "its seed is 'x'"),  # type: ignore
    "no run of the task": (
        lambda at: ["--task", "rte", search(at / "a", some(RNG)).name],
        "is of the task rte",
    ),
    "half a published mask": (
        lambda at: [(masks(at / "QQP/seed_1", some(RNG)) / "mlp_mask.npy").unlink() or "QQP"],
        "mlp_mask.npy does not exist",
    ),
    "a corrupt subnetwork": (
        lambda at: [(search(at / "a", some(RNG)) / "subnetwork.safetensors").write_text("x") and "a"],
        "is not a readable safetensors file",
    ),
    "a corrupt config": (
        lambda at: [(search(at / "a", some(RNG)) / "config.json").write_text("{") and "a"],
        "cannot be read as a search's config",
    ),
    "a model without data": (
        lambda at: ["--model", "m", search(at / "a", some(RNG)).name],
        "--model needs --data",
    ),
    "a precision without data": (
        lambda at: ["--dtype", "bfloat16", search(at / "a", some(RNG)).name],
        "--dtype needs --data DIR, the examples to look at models with.",
    ),
    "an unknown precision": (
        lambda at: ["--dtype", "half", search(at / "a", some(RNG)).name],
        "--dtype half: give one of float32, bfloat16, float16, auto.",
    ),
    "a device beside a map of devices": (
        lambda at: ["--device", "cpu", "--device-map", "auto", search(at / "a", some(RNG)).name],
        "the map chooses devices itself",
    ),
    "an unknown stack": (
        lambda at: ["--stack", "both", search(at / "a", some(RNG)).name],
        "--stack both: give one of encoder, decoder, cross.",
    ),
    "a stack that is not searched": (
        lambda at: ["--stack", "decoder", "--data", str(EXAMPLES), search(at / "a", some(RNG)).name],
        "--stack decoder: of an encoder-decoder, searches find out which of the encoder's heads survive",
    ),
    "data without a model": (
        lambda at: ["--data", str(EXAMPLES), search(at / "a", some(RNG)).name],
        "a does not say which model it is of; give --model, e.g. models/{task}/seed_{seed}",
    ),
    "a model that is not there": (
        lambda at: [
            "--data",
            str(EXAMPLES),
            "--model",
            "no/such/{task}_{seed}",
            search(at / "a", some(RNG)).name,
        ],
        "--model gives no/such/qqp_1, which is no folder",
    ),
    "no permutations": (
        lambda at: ["--permutations", 0, search(at / "a", some(RNG)).name],
        "--permutations 0",
    ),
    "no examples": (lambda at: ["--examples", 0, search(at / "a", some(RNG)).name], "--examples 0"),
    "an unknown kind": (lambda at: ["--maps", "grey", search(at / "a", some(RNG)).name], "raw, norm"),
    "another mode": (
        lambda at: ["--subnetwork-mode", "half", search(at / "a", some(RNG)).name],
        "--subnetwork-mode half: give one of select, gate, compact",
    ),
    "an output that holds something": (
        lambda at: ["--output", search(at / "a", some(RNG)).name, "a"],
        "a is a, which is read",
    ),
}
RNG = np.random.default_rng(9)


@pytest.mark.parametrize("what", BAD)
def test_bad_input_ends_in_one_sentence(
    what: str, command: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words, match = BAD[what]
    code, out, err = command(*words(tmp_path))
    assert (code, out) == (2, "")
    assert match in err
    assert err.strip().count("\n") == 0
    assert not list(tmp_path.glob(".*"))


# Whole runs


@pytest.fixture(scope="module")
def two_models(all_tiny: Any, minilm_folder: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two tiny checkpoints of random weights with a real tokenizer: models/qqp/seed_<n>."""
    folder = tmp_path_factory.mktemp("models")
    tiny = copy.deepcopy(all_tiny["bert"])
    tiny.config.vocab_size, tiny.config.max_position_embeddings = 30_522, 128
    for seed in (1, 2):
        model = tiny.build()
        with torch.no_grad():
            generator = torch.Generator().manual_seed(seed)
            for parameter in model.parameters():
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.3)
        at = folder / "qqp" / f"seed_{seed}"
        model.save_pretrained(at)
        for file in Path(minilm_folder).glob("*token*"):
            shutil.copy(file, at)
        shutil.copy(Path(minilm_folder) / "vocab.txt", at) if (
            Path(minilm_folder) / "vocab.txt"
        ).exists() else None
    return folder


@pytest.fixture(scope="module")
def tiny_runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    kept = np.array([[1, 1, 0, 0], [0, 1, 1, 0], [1, 0, 1, 1]], dtype=bool)
    for seed in (1, 2):
        heads = kept.copy()
        heads[0, seed + 1] = True
        masks(folder / f"QQP/seed_{seed}", Subnetwork(heads, np.ones(3, dtype=bool)))
    return folder


def test_survivors_are_measured_in_each_seeds_own_full_model(
    command: Any, two_models: Path, tiny_runs: Path, tmp_path: Path
) -> None:
    words = ["--data", EXAMPLES, "--examples", 4, "--device", "cpu", "--permutations", 199]
    words += ["--model", two_models / "{task}/seed_{seed}"]
    code, out, err = command(tiny_runs, *words, "--json", "--output", tmp_path / "out")
    assert code == 0, err
    summary = json.loads(out)
    task = summary["tasks"]["qqp"]
    assert task["models"] == [str(two_models / f"qqp/seed_{seed}") for seed in (1, 2)]
    assert len({record["sha256"] for record in summary["provenance"]["models"]}) == 2
    qqp = task_named("qqp")
    rows = load_rows(qqp, EXAMPLES).rows
    numbered = [{**row, "idx": i} for row, i in zip(rows, row_ids(rows), strict=True)]
    drawn = select_rows(numbered, qqp, 4, 0)
    found = []
    for name in task["models"]:
        checkpoint = load_checkpoint(name)
        found.append(classify_heads(checkpoint.model, checkpoint.tokenizer, drawn, task=qqp))
    groups, _ = find_groups([tiny_runs])
    survivors = super_survivors(groups[0].subnetworks)
    for kind in ("raw", "norm"):
        one = task["patterns"][kind]
        for side, subnetwork in (
            ("super_survivors", survivors),
            ("non_survivors", ~survivors),
            ("all", survivors | ~survivors),
        ):
            each = [patterns.select(subnetwork) for patterns in found]
            ratio = np.mean([patterns.interpretable_ratio(kind) for patterns in each])
            assert one[side]["interpretable_ratio"] == pytest.approx(ratio)
            for pattern, share in one[side]["distribution"].items():
                assert share == pytest.approx(np.mean([p.distribution(kind)[pattern] for p in each]))
            low, high = one[side]["interpretable_ratio_ci95"]
            assert low <= ratio <= high
        ratios = {
            side: one[side]["interpretable_ratio"] for side in ("super_survivors", "all", "non_survivors")
        }
        found_one = one["difference"]
        assert found_one["total"] == pytest.approx(ratios["super_survivors"] - ratios["non_survivors"])
        assert found_one["value"] == pytest.approx(found_one["total"] - found_one["by_layers"])
        assert found_one["ci95"][0] <= found_one["value"] <= found_one["ci95"][1]
        own = [
            patterns.select(run.subnetwork).interpretable_ratio(kind)
            - patterns.select(~run.subnetwork).interpretable_ratio(kind)
            for patterns, run in zip(found, groups[0].runs, strict=True)
        ]
        assert one["each_seed"]["total"] == pytest.approx(np.mean(own))
    raw, norm = (task["patterns"][kind]["difference"] for kind in ("raw", "norm"))
    assert [raw["p_holm"], norm["p_holm"]] == pytest.approx(holm([raw["p_value"], norm["p_value"]]))
    table = pd.read_csv(tmp_path / "out/patterns.csv")
    assert len(table) == 2 * 3 * 5
    assert table.groupby(["kind", "heads"])["share"].sum().to_numpy() == pytest.approx(1)


def test_models_are_looked_at_in_another_precision_or_where_accelerate_puts_them(
    two_models: Path, tiny_runs: Path
) -> None:
    where = {"data": EXAMPLES, "model": str(two_models / "{task}/seed_{seed}")}
    options: dict[str, Any] = {**where, "examples": 3, "maps": ("raw",), "permutations": 9}
    whole, placed, half = (
        compare_survivors(tiny_runs, **options, **more)
        for more in ({"device": "cpu"}, {"device_map": "auto"}, {"device": "cpu", "dtype": "bfloat16"})
    )
    assert placed.patterns == whole.patterns
    said = [one.summary["provenance"] for one in (whole, placed, half)]
    assert [one["dtype"] for one in said] == ["float32", "float32", "bfloat16"]
    assert [one["device_map"] for one in said] == [None, "auto", None]
    assert any("computes in bfloat16" in one for one in half.summary["warnings"])
    with pytest.raises(UnsupportedModelError, match="--stack encoder: a BERT model has none to choose from"):
        compare_survivors(tiny_runs, **options, stack="encoder")


@pytest.mark.parametrize("mode", [pytest.param("gate", marks=pytest.mark.slow), "compact"])
def test_survivors_can_be_looked_at_where_the_rest_is_gone(
    command: Any, two_models: Path, tiny_runs: Path, mode: str
) -> None:
    words = [
        tiny_runs,
        "--data",
        EXAMPLES,
        "--examples",
        4,
        "--device",
        "cpu",
        "--permutations",
        99,
        "--json",
    ]
    words += ["--model", two_models / "{task}/seed_{seed}", "--maps", "raw"]
    full = json.loads(command(*words)[1])["tasks"]["qqp"]["patterns"]["raw"]
    code, out, err = command(*words, "--subnetwork-mode", mode)
    assert code == 0, err
    found = json.loads(out)["tasks"]["qqp"]["patterns"]["raw"]
    survivors = super_survivors(find_groups([tiny_runs])[0][0].subnetworks)
    qqp = task_named("qqp")
    drawn = select_rows(load_rows(qqp, EXAMPLES).numbered(), qqp, 4, 0)
    ratios = []
    for seed in (1, 2):
        checkpoint = load_checkpoint(str(two_models / f"qqp/seed_{seed}"))
        with gated(checkpoint.model, heads=survivors.heads, mlps=survivors.mlps):
            seen = classify_heads(checkpoint.model, checkpoint.tokenizer, drawn, task=qqp, kinds=("raw",))
        ratios.append(seen.select(survivors).interpretable_ratio("raw"))
    assert found["super_survivors_alone"]["interpretable_ratio"] == pytest.approx(np.mean(ratios))
    assert found["super_survivors_alone"]["distribution"] != full["super_survivors"]["distribution"]
    assert full["super_survivors_alone"] is None
    for same in ("super_survivors", "all", "non_survivors", "difference", "each_seed"):
        assert found[same] == full[same]


def test_a_model_of_another_size_is_named(command: Any, minilm_folder: str, tiny_runs: Path) -> None:
    code, _, err = command(tiny_runs, "--data", EXAMPLES, "--model", minilm_folder)
    assert code == 2
    assert "seed_1 is of a model of 3 x 4 heads (layers x heads), but --model" in err
    assert err.strip().endswith("has 6 x 12.")


def test_a_run_on_a_real_model_writes_tables_and_pictures(
    command: Any, minilm_folder: str, tmp_path: Path
) -> None:
    from PIL import Image

    rng = np.random.default_rng(0)
    base = rng.random((6, 12))
    for seed in (1, 2, 3):
        heads = base + rng.normal(0, 0.1, base.shape) > 0.4
        search(
            tmp_path / f"qqp/{seed}", Subnetwork(heads, rng.random(6) < 0.7), "qqp", seed, model=minilm_folder
        )
        changed = {"model_sha256": "0" * 64} if seed == 1 else {}
        nothing = Subnetwork(np.zeros((6, 12), dtype=bool), np.zeros(6, dtype=bool))
        search(tmp_path / f"cola/{seed}", nothing, "cola", seed, model=minilm_folder, **changed)
    words = [tmp_path / "qqp", tmp_path / "cola", "--data", EXAMPLES, "--examples", 2]
    words += ["--device", "cpu", "--permutations", 99]
    code, out, err = command(*words, "--output", tmp_path / "out")
    assert code == 0, err
    folder = tmp_path / "out"
    assert {path.name for path in folder.iterdir()} == {
        "summary.json", "survivors.parquet", "stability.csv", "patterns.csv", "survival.png", "patterns.png",
        "report.html", ".headscope.json", "survival.csv", "survival.tex", "stability.tex", "patterns.tex",
    }  # fmt: skip
    for name in ("survival.png", "patterns.png"):
        with Image.open(folder / name) as image:
            image.verify()
            assert min(image.size) > 300
    summary = json.loads((folder / "summary.json").read_text())
    cola, qqp = (summary["tasks"][name]["patterns"]["raw"] for name in ("cola", "qqp"))
    assert cola["super_survivors"] is None
    assert cola["difference"]["value"] is None
    assert cola["difference"]["p_value"] is None
    assert cola["difference"]["p_holm"] is None
    assert cola["difference"]["verdict"] == "not testable"
    assert qqp["difference"]["p_value"] is not None
    assert "not testable" in out
    assert "one model, " in err
    assert "for all 3 seeds" in err
    assert err.count("has other weights now than when") == 1
    assert "qqp, seed 1: " in err
    assert "seed 2: " not in err  # the same checkpoint is run once for each task
    assert len(summary["provenance"]["models"]) == 1
    code, _, err = command(*words, "--output", folder)
    assert code == 2
    assert "not empty" in err
