"""Heads that are set by hand (``benchmarks/planted.py``), without noise: every one is found, and nothing else."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models import Subnetwork
from patterns import classify_heads
from patterns.measures.measured import ROLES

SCRIPT = Path(__file__).parents[3] / "benchmarks" / "planted.py"
SORTS = ("two-sided", "causal")


@pytest.fixture(scope="module")
def benchmark() -> Any:
    spec = importlib.util.spec_from_file_location("planted", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    sys.modules["planted"] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    del sys.modules["planted"]


@pytest.mark.parametrize("sort", SORTS)
def test_every_planted_head_has_its_roles_and_no_other(benchmark: Any, sort: str) -> None:
    planted = benchmark.plant(sort)
    texts = [(row["text"], row.get("second")) for row in benchmark.rows(sort, 24)]
    found = classify_heads(planted.model, planted.tokenizer, texts, measure=True, batch_size=7)
    frame = found.measurements().set_index(["kind", "layer", "head"])
    for kind in ("raw", "norm"):
        for role in ROLES:
            for (layer, head), truth in np.ndenumerate(planted.roles(role)):
                row = frame.loc[(kind, layer, head)]
                assert (role in row["roles"].split(", ")) == truth, (kind, layer, head, role)
                if truth and role in (
                    "previous",
                    "next",
                    "self",
                    "first",
                    "separator",
                    "punctuation",
                    "duplicate",
                ):
                    assert row[f"share_{role}"] > 0.98
    assert {role for role in ROLES if planted.roles(role).any()} >= {
        "previous", "first", "duplicate", "induction", "even", "inactive",
        *({"next", "separator", "own_segment"} if sort == "two-sided" else {"self", "punctuation"}),
    }  # fmt: skip


@pytest.mark.parametrize("sort", SORTS)
def test_the_classifier_sees_the_planted_patterns(benchmark: Any, sort: str) -> None:
    assert benchmark.scores(benchmark.plant(sort), examples=12)["maps_with_the_right_pattern"] > 0.9


@pytest.mark.parametrize("sort", [pytest.param("two-sided", marks=pytest.mark.slow), "causal"])
def test_pruning_keeps_exactly_the_heads_that_the_planted_task_needs(
    benchmark: Any, sort: str, tmp_path: Path
) -> None:
    planted = benchmark.plant(sort)
    found, kept = benchmark.pruned(planted, tmp_path)
    assert found == {
        "score": 1.0,
        "needed_heads_kept": 1.0,
        "heads_kept": 2,
        "importance_above_other_heads": 1.0,
    }
    assert np.array_equal(kept.heads, planted.needed)


def test_super_survivors_are_compared_with_the_heads_that_the_planted_task_needs(benchmark: Any) -> None:
    needed = np.array([[True, False], [True, False]])
    mlps = np.ones(2, dtype=bool)
    kept = [
        Subnetwork(np.array(mask), mlps)
        for mask in ([[True, True], [True, False]], [[True, True], [False, False]])
    ]
    assert benchmark.survivors(needed, kept) == {
        "draws": 2,
        "super_survivors": 2,
        "needed_heads_survive": 0.5,
        "other_heads_survive": 0.5,
        "other_heads_kept": 0.5,
    }


def test_noise_hides_heads(benchmark: Any) -> None:
    found = benchmark.scores(benchmark.plant("two-sided", noise=30.0), examples=12)
    assert found["recall"] < 0.5
