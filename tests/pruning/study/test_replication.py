"""Tables of a study beside the paper's: each figure is that of the table that it stands for."""

from __future__ import annotations

import importlib.util
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

ROOT = Path(__file__).parents[3]
SCRIPT = ROOT / "benchmarks" / "replication.py"


@pytest.fixture(scope="module")
def benchmark() -> Iterator[Any]:
    spec = importlib.util.spec_from_file_location("replication", SCRIPT)
    assert spec
    assert spec.loader
    sys.modules["replication"] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    del sys.modules["replication"]


@pytest.fixture
def study(benchmark: Any, reported_study: Path, tmp_path: Path) -> Any:
    home = tmp_path / "replication"
    shutil.copytree(reported_study / "report/tables", home / "tables")
    shutil.copy(ROOT / "docs/replication/paper.csv", home)
    return benchmark.Study(home)


def cells(table: str, row: str) -> list[str]:
    (line,) = re.findall(rf"^\| {re.escape(row)} \| (.*) \|$", table, re.MULTILINE)
    return line.split(" | ")


def test_what_survives_stands_beside_chance_and_the_papers(benchmark: Any, study: Any) -> None:
    kept = study.table("survivors")
    supers = kept[kept["super"] & (kept["what"] == "head")].groupby("task").size()
    table = benchmark.stability(study)
    found = cells(table, "heads that every seed keeps, of 12")
    assert [cell.split(" ")[0] for cell in found] == [str(supers[task]) for task in ("sst2", "mrpc")]
    assert "the paper, of 144 | 19 (2.8) | 28 (13.0) |" in table
    told = study.table("stability").query(
        "what == 'heads' and statistic == 'fleiss_kappa' and null == 'size'"
    )
    kappas = told.set_index("task")["value"]
    found = cells(table, "Fleiss' kappa of heads")
    assert [cell.split(" ")[0] for cell in found] == [f"{kappas[task]:.2f}" for task in ("sst2", "mrpc")]


def test_a_study_that_is_not_finished_has_dashes(benchmark: Any, study: Any) -> None:
    (study.home / "tables/patterns.parquet").unlink()
    told = study.table("stability")
    of_mrpc = (told["task"] == "mrpc") & (told["statistic"] == "fleiss_kappa")
    told[~of_mrpc].to_parquet(study.home / "tables/stability.parquet")
    assert benchmark.patterns(study) == "No step of patterns is done.\n"
    assert cells(benchmark.stability(study), "Fleiss' kappa of heads")[1] == "–"


def test_shared_heads_and_ratios_stand_under_their_names(benchmark: Any, study: Any) -> None:
    told = study.table("stability").query("statistic == 'shared, same-seed pairs' and null == 'size'").iloc[0]
    shared = cells(benchmark.shared(study), "sst2, mrpc")
    assert shared[0] == f"{told['value']:.1f}"
    assert shared[2:] == [f"{told['value'] / told['chance']:.2f}", "43.4", "41.2", "1.05"]
    shares = study.table("patterns").query("pattern == 'heterogeneous' and kind == 'raw'")
    shares = shares.set_index(["task", "heads"])["share"]
    found = cells(benchmark.patterns(study), "raw, fine-tuned, sst2")
    ours = [f"{100 * shares['sst2 fine-tuned', heads]:.1f}%" for heads in ("super_survivors", "all")]
    assert [*found[:2], *found[3:]] == [*ours, "34.9%", "22.8%"]


def test_scores_are_means_over_seeds_and_the_papers_below(benchmark: Any, study: Any) -> None:
    scores = study.table("scores")
    table = benchmark.scores(study, "structured")
    for subnetwork in ("good", "random"):
        of = scores[(scores["subnetwork"] == subnetwork) & (scores["state"] == "fine-tuned")]
        means = of.groupby(["task", "seed"])["score"].mean().groupby("task").mean()
        assert cells(table, f"{subnetwork}, fine-tuned") == [
            f"{means[task]:.2f}" for task in ("sst2", "mrpc")
        ]
    assert "| good, fine-tuned | " in table
    assert "| the paper | 0.87 ± 0.07 | 0.77 ± 0.06 |" in table


def test_differences_are_the_reports_and_those_of_the_papers_means(benchmark: Any, study: Any) -> None:
    tested = study.table("conclusions").set_index(["comparison", "of"])
    one = tested.loc["structured: good - full model", "tasks"]
    found = cells(benchmark.comparisons(study, "full"), "structured: good - full model | tasks (2)")
    paper = pd.read_csv(study.home / "paper.csv").query("quantity == 'score' and task in ('sst2', 'mrpc')")
    means = paper.groupby("what")["value"].mean()
    assert found[0] == f"{one['effect']:.3f}"
    assert found[-1] == f"{means['structured good fine-tuned'] - means['full']:.3f}"


def test_a_page_is_filled_between_its_marks_alone(benchmark: Any, study: Any) -> None:
    page = "\n\n".join(f"# {name}\n<!-- {name} -->\n<!-- end -->\nmine" for name in benchmark.TABLES)
    once = benchmark.filled(page, study)
    assert benchmark.filled(once, study) == once
    assert once.count("\nmine") == len(benchmark.TABLES)
    assert len(re.findall(r"^\| --- \|", once, re.MULTILINE)) == len(benchmark.TABLES)
    with pytest.raises(KeyError, match="nothing"):
        benchmark.filled("<!-- nothing -->\n<!-- end -->", study)


def test_the_papers_figures_agree_with_its_masks(benchmark: Any, study: Any, shared: Path) -> None:
    import json

    told = json.loads((shared / "reference" / "prasanna2020_expected.json").read_text())["heads_mlps"]
    for task, name in (("sst2", "SST-2"), ("qnli", "QNLI")):
        for what in ("heads", "mlps"):
            one = study.of_paper("super_survivors", task, what)
            assert one["value"] == told[what][name]["super_survivors"]
            assert one["chance"] == pytest.approx(told[what][name]["chance_super_survivors"], abs=1e-4)
