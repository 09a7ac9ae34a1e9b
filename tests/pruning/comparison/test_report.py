"""The report of compare-survivors: its heads, its sentences, its tables."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from pruning import Subnetwork
from pruning.comparison import figures
from pruning.comparison.consistency import Stability
from pruning.comparison.job import CompareSurvivors
from pruning.comparison.report import pattern_words, survival_words
from pruning.comparison.summary import Summary, TaskSummary
from pruning.comparison.survivor_patterns import Difference, PatternComparison, Side

KEPT = np.random.default_rng(3).random((3, 3, 4)) < 0.6  # seeds, layers, heads


def search(folder: Path, heads: np.ndarray, seed: int, model: Path) -> None:
    """What prune-heads leaves behind, importances included."""
    folder.mkdir(parents=True)
    Subnetwork(heads, np.ones(3, dtype=bool)).save(folder / "subnetwork.safetensors")
    config = {"command": "prune-heads", "what": "heads-and-mlps", "threshold": 0.9, "split": "validation"}
    config |= {"task": "qqp", "seed": seed, "model": str(model)}
    (folder / "config.json").write_text(json.dumps(config))
    rows = [
        {
            "iteration": step,
            "component": "head",
            "layer": layer,
            "head": head,
            "normalized": seed + layer + head / 10,
        }
        for step in (0, 1)
        for layer in range(3)
        for head in range(4 if step == 0 else 2)
    ]
    pd.DataFrame(rows).to_parquet(folder / "importance.parquet")


@pytest.fixture(scope="module")
def compared(tuned: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    home = tmp_path_factory.mktemp("compared")
    for seed, heads in enumerate(KEPT, start=1):
        search(home / f"searches/seed_{seed}", heads, seed, tuned / "model")
    job = CompareSurvivors(
        runs=(home / "searches",), data=str(tuned / "data"), examples=8, permutations=99, device="cpu",
        output=home / "out",
    )  # fmt: skip
    return home / "out", job.run()


def data_of(folder: Path) -> Any:
    html = (folder / "report.html").read_text(encoding="utf-8")
    return json.loads(re.findall(r'<script type="application/json" id="data">(.*?)</script>', html)[0])


def test_the_page_says_of_every_head_what_survives(compared: Any) -> None:
    folder, _ = compared
    (view,) = data_of(folder)["views"]
    survivors = pd.read_parquet(folder / "survivors.parquet").query("what == 'head'")
    shown = pd.DataFrame(view["heads"]).merge(survivors, on=["layer", "head"], suffixes=("", "_file"))
    assert len(shown) == 2 * 12
    assert (shown["survives"] == shown["super"]).all()
    assert (shown["seeds_kept"] == shown["kept"]).all()
    assert (view["seeds"], view["name"]) == (3, "qqp")
    first = next(row for row in view["heads"] if (row["layer"], row["head"]) == (1, 3))
    assert first["importance"] == pytest.approx(
        2 + 1 + 0.3
    )  # the full model's, averaged over the seeds 1, 2, 3
    assert {row["n"] for row in view["heads"]} == {8}  # one model for three seeds is looked at once


def test_its_bars_and_tables_hold_the_summarys_numbers(compared: Any) -> None:
    folder, done = compared
    html = (folder / "report.html").read_text(encoding="utf-8")
    for found in done.summary["tasks"]["qqp"]["patterns"].values():
        for side in ("super_survivors", "non_survivors", "all"):
            assert f"<strong>{100 * found[side]['interpretable_ratio']:.1f}%</strong>" in html
    shares = pd.read_csv(folder / "patterns.csv")
    table = html[html.index('id="table-patterns"') :]
    assert table[: table.index("</table>")].count("<tr>") == 1 + len(shares)
    assert "compare-survivors " in html
    assert "--examples 8" in html


def test_the_summary_has_the_keys_of_its_types(compared: Any) -> None:
    _, done = compared
    assert set(done.summary) == set(Summary.__annotations__)
    task = done.summary["tasks"]["qqp"]
    assert set(task) == set(TaskSummary.__annotations__)
    assert set(task["heads"]) == set(task["mlps"]) == set(Stability.__annotations__)
    for found in task["patterns"].values():
        assert set(found) == set(PatternComparison.__annotations__)
        assert set(found["difference"]) == set(found["each_seed"]) == set(Difference.__annotations__)
        assert set(found["all"]) == set(Side.__annotations__)


def test_without_data_there_are_survivors_and_no_heads(
    compared: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[str] = []
    draw = figures.survival_maps
    monkeypatch.setattr(figures, "survival_maps", lambda groups: (drawn.append("map"), draw(groups))[1])
    folder, _ = compared
    CompareSurvivors(runs=(folder.parent / "searches",), output=tmp_path / "out").run()
    assert drawn == ["map"]  # once, for its file and for the page
    html = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "Who survives" in html
    assert 'id="data"' not in html


def found(value: float, p: float | None, holm: float | None, verdict: str) -> dict[str, Any]:
    return {
        "super_survivors": {"heads": 5, "interpretable_ratio": 0.3},
        "non_survivors": {"heads": 7, "interpretable_ratio": 0.2},
        "all": {"heads": 12, "interpretable_ratio": 0.24},
        "difference": {
            "total": 0.1, "by_layers": 0.1 - value, "value": value, "ci95": [value - 0.05, value + 0.05],
            "p_value": p, "p_holm": holm, "permutations": 999, "verdict": verdict, "why": "too few heads",
        },
    }  # fmt: skip


def test_the_test_is_told_in_plain_language() -> None:
    said, tested = pattern_words("qqp", "raw", found(0.08, 0.0004, 0.001, "higher"))
    assert (
        "30.0% of the maps of the 5 super-survivors are heterogeneous, 20.0% of those of the 7 others"
        in said.replace("other heads", "others")
    )
    assert (
        "more often than the layers they lie in explain (+8.0 percentage points [3.0, 13.0], p = .001)"
        in said
    )
    assert "of the +10.0 points" in tested
    assert "+2.0 are explained by the layers" in tested
    assert "+8.0 percentage points [3.0, 13.0]" in tested
    assert "a share of p < .001" in tested


def test_what_is_not_significant_is_not_called_equal() -> None:
    said, tested = pattern_words("qqp", "raw", found(0.03, 0.2, 0.4, "no difference shown"))
    assert "no difference shown to the other heads of their layers" in said
    assert "[-2.0, 8.0]" in said
    assert "[-2.0, 8.0]" in tested


def test_what_cannot_be_tested_says_so() -> None:
    said, tested = pattern_words("qqp", "raw", found(0.08, None, None, "not testable"))
    assert "not testable: too few heads" in said
    assert not tested
    none = found(0.08, None, None, "not testable") | {"super_survivors": None}
    assert "nothing to compare" in pattern_words("qqp", "raw", none)[0]


def test_one_search_has_no_agreement() -> None:
    task = {"heads": {"all": 12, "super_survivors": 7}, "runs": [{"heads": 7}], "untestable": None}
    assert survival_words("qqp", task) == "qqp: the one search keeps 7 of 12 heads."
