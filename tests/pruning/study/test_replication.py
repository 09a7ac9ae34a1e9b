"""Tables of a study beside the paper's: each figure is that of the table that it stands for."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from pruning.study.report.pages import write_report
from pruning.study.report.tables import StudyTables

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
    told_of = claims(benchmark, study)
    assert told_of["Super-survivors are not more often heterogeneous, raw maps"] == ["–", "–", "–"]
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


def test_importance_of_the_full_models_stands_beside_that_of_the_papers_masks(
    benchmark: Any, study: Any
) -> None:
    told = study.table("importance").query("task == 'sst2' and component == 'head'")
    low = told.groupby("seed")["normalized"].apply(lambda values: (values < 0.2).mean())
    table = benchmark.importance(study)
    share = cells(table, "share of heads below .2")[0]
    assert share == f"{low.mean():.2f} ± {low.std():.2f}"
    assert "| the paper | 0.51 ± 0.06 | 0.62 ± 0.04 |" in table  # of SST-2 and MRPC


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
    one = tested.loc["structured: good - full model", "all tasks' runs"]
    found = cells(benchmark.comparisons(study, "full"), "structured: good - full model | all tasks' runs (4)")
    paper = pd.read_csv(study.home / "paper.csv").query("quantity == 'score' and task in ('sst2', 'mrpc')")
    means = paper.groupby("what")["value"].mean()
    assert found[0] == f"{one['effect']:+.3f}"
    assert found[-1] == f"{means['structured good fine-tuned'] - means['full']:+.3f}"


def claims(benchmark: Any, study: Any) -> dict[str, list[str]]:
    lines = benchmark.claims(study).splitlines()[2:]
    return {
        line.split(" | ")[0].removeprefix("| "): line.removesuffix(" |").split(" | ")[1:] for line in lines
    }


def test_each_claim_stands_with_the_papers_figure_the_studys_and_whether_they_agree(
    benchmark: Any, study: Any
) -> None:
    found = claims(benchmark, study)
    assert list(found) == list(benchmark.CLAIMS)
    told = study.table("stability").query("other == '' and what == 'heads' and null == 'size'")
    counts = told[told["statistic"] == "super_survivors"].set_index("task")
    paper, ours, same = found["Some heads survive under every seed (super-survivors)"]
    assert paper == "19 to 28 of 144 heads, 2.8 to 13.0 by chance"
    low, high = counts["value"].min(), counts["value"].max()
    assert ours.startswith(
        f"{low:.0f} of 12 heads" if low == high else f"{low:.0f} to {high:.0f} of 12 heads"
    )
    above = [task for task, one in counts.iterrows() if one["value"] > one["chance_high"]]
    assert same == {0: "no", 1: f"in {above[0]} only" if above else "", 2: "yes"}[len(above)]
    shares = study.table("patterns").query("pattern == 'heterogeneous' and kind == 'raw'")
    shares = 100 * shares.set_index(["task", "heads"])["share"]
    gaps = [
        shares[f"{task} fine-tuned", "super_survivors"] - shares[f"{task} fine-tuned", "all"]
        for task in ("sst2", "mrpc")
    ]
    raw = found["Super-survivors are not more often heterogeneous, raw maps"]
    assert raw[1].startswith(f"{min(gaps):+.0f} to {max(gaps):+.0f} points")


def compare(study: Any, comparison: str, *of_runs: Any) -> None:
    """Give a study one more comparison, of these values over all runs."""
    told = study.table("conclusions")
    rows = told[told["comparison"].eq("structured: good - random")].assign(comparison=comparison)
    runs = rows["of"].eq("all tasks' runs")
    assert runs.sum() == 1
    for name, value in zip(("effect", "low", "high", "verdict"), of_runs, strict=True):
        rows[name] = rows[name].where(~runs, value)
    pd.concat([told, rows]).to_parquet(study.home / "tables/conclusions.parquet")


@pytest.mark.parametrize(
    ("effect", "low", "high", "verdict", "same"),
    [
        (0.05, 0.01, 0.09, "higher", "yes"),
        (-0.05, -0.09, -0.01, "lower", "no"),
        (0.05, -0.01, 0.11, "no difference shown", "no difference shown"),
        (0.05, None, None, "not testable: too few seeds", "not testable"),
    ],
)
def test_a_difference_is_the_papers_if_it_is_shown_and_has_its_sign(
    effect: float, low: float | None, high: float | None, verdict: str, same: str, benchmark: Any, study: Any
) -> None:
    compare(study, "magnitude: good - random", effect, low, high, verdict)
    paper, ours, alike = claims(benchmark, study)["Magnitude: random ones to less (good - random)"]
    assert paper == f"{(0.9154 - 0.8291 + 0.8402 - 0.7034) / 2:+.3f}"
    ends = "" if low is None else f" [{low:+.3f}, {high:+.3f}]"
    assert ours.startswith(f"{effect:+.3f}{ends} over 4 runs (")
    assert alike == same


@pytest.mark.parametrize(
    ("sst2", "mrpc", "same"),
    [(-0.015, 0.05, "yes"), (-0.015, -0.025, "in sst2 only"), (-0.03, -0.2, "no")],
)
def test_what_trains_to_the_full_score_is_hardly_below_it_in_each_task(
    sst2: float, mrpc: float, same: str, benchmark: Any, study: Any
) -> None:
    compare(study, "magnitude: good - full model", -0.01, -0.02, 0.0, "lower")
    told = study.table("conclusions")
    for task, effect in (("sst2", sst2), ("mrpc", mrpc)):
        here = told["comparison"].eq("magnitude: good - full model") & told["of"].eq(task)
        told.loc[here, "effect"] = effect
    told.to_parquet(study.home / "tables/conclusions.parquet")
    row = claims(benchmark, study)["Magnitude: good subnetworks train to the full score (good - full model)"]
    assert row[1].startswith(f"-0.010 [-0.020, +0.000] over 4 runs (sst2 {sst2:+.2f}")
    assert row[2] == same
    vain = told["comparison"].eq("magnitude: good - full model") & told["of"].eq("sst2")
    told.loc[vain, "verdict"] = "not testable: the threshold lies below the commonest label's score"
    told.to_parquet(study.home / "tables/conclusions.parquet")
    row = claims(benchmark, study)["Magnitude: good subnetworks train to the full score (good - full model)"]
    assert "sst2" not in row[1]
    assert row[2] == ("yes" if mrpc >= -0.02 else "no")


def test_kinship_is_of_the_pairs_that_share_most(benchmark: Any, study: Any) -> None:
    words = "Which heads two tasks share does not follow their kinship"
    assert claims(benchmark, study)[words] == ["no pairs of both sorts", "no pairs of both sorts", "–"]
    told = study.table("stability")
    one = told[told["statistic"].eq("shared, same-seed pairs") & told["what"].eq("heads")].query(
        "null == 'size'"
    )
    pairs = [("qqp", "stsb", 1.5), ("sst2", "qqp", 1.2), ("qqp", "rte", 1.6)]
    for ratio in (1.5, 1.7):
        pairs[0] = ("qqp", "stsb", ratio)
        rows = [one.assign(task=a, other=b, chance=10.0, value=10 * by) for a, b, by in pairs]
        pd.concat([told[told["other"].eq("")], *rows]).to_parquet(study.home / "tables/stability.parquet")
        paper, ours, alike = claims(benchmark, study)[words]
        assert paper.startswith("shared over chance 1.12 (qqp–stsb, akin), 1.06 to 1.07")
        assert ours == f"shared over chance {ratio:.2f} (qqp–stsb, akin), 1.20 to 1.60 (the other pairs)"
        assert alike == ("yes" if ratio < 1.6 else "no")


def test_what_nothing_is_known_of_is_a_dash(benchmark: Any, study: Any) -> None:
    told = study.table("stability")
    pair = told["statistic"].eq("shared, same-seed pairs")
    told.loc[pair, ["value", "chance"]] = 0.0  # a search that leaves no head
    told[pair].to_parquet(study.home / "tables/stability.parquet")
    found = claims(benchmark, study)
    kinship = "Which heads two tasks share does not follow their kinship"
    for words in ("Some heads survive under every seed (super-survivors)", kinship):
        assert found[words][-1] == "–"
    assert "| – | 43.4 |" in benchmark.shared(study)


def test_a_page_is_filled_between_its_marks_alone(benchmark: Any, study: Any) -> None:
    page = "\n\n".join(f"# {name}\n<!-- {name} -->\n<!-- end -->\nmine" for name in benchmark.TABLES)
    once = benchmark.filled(page, study)
    assert benchmark.filled(once, study) == once
    assert once.count("\nmine") == len(benchmark.TABLES)
    assert len(re.findall(r"^\| --- \|", once, re.MULTILINE)) == len(benchmark.TABLES)
    with pytest.raises(KeyError, match="nothing"):
        benchmark.filled("<!-- nothing -->\n<!-- end -->", study)


def test_the_papers_figures_agree_with_its_masks(benchmark: Any, study: Any, shared: Path) -> None:
    told = json.loads((shared / "reference" / "prasanna2020_expected.json").read_text())["heads_mlps"]
    for task, name in (("sst2", "SST-2"), ("qnli", "QNLI")):
        for what in ("heads", "mlps"):
            one = study.of_paper("super_survivors", task, what)
            assert one["value"] == told[what][name]["super_survivors"]
            assert one["chance"] == pytest.approx(told[what][name]["chance_super_survivors"], abs=1e-4)


HOME = ROOT / "docs" / "replication"


def test_the_published_page_is_what_its_tables_say(benchmark: Any) -> None:
    page = (HOME / "README.md").read_text(encoding="utf-8")
    assert benchmark.filled(page, benchmark.Study(HOME)) == page


def test_the_published_tables_are_of_a_whole_study_and_name_no_folder(benchmark: Any) -> None:
    about = json.loads((HOME / "tables" / "study.json").read_text(encoding="utf-8"))
    published = StudyTables.load(HOME / "tables")
    assert len(published.done) == len(published.plan.steps) == 484
    assert not [text for text in strings(about) if text.startswith(("/", "~"))]


def strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for one in value.values() if isinstance(value, dict) else value:
            yield from strings(one)


@pytest.mark.slow
def test_the_published_report_is_made_again_of_its_tables(tmp_path: Path) -> None:
    write_report(HOME, output=tmp_path / "again")
    there = sorted(path.name for path in (HOME / "tables").glob("*.csv"))
    assert len(there) > 8
    for name in there:
        published, again = (pd.read_csv(home / "tables" / name) for home in (HOME, tmp_path / "again"))
        pd.testing.assert_frame_equal(published, again, rtol=1e-6, obj=name)
    assert (tmp_path / "again" / "report.html").is_file()
