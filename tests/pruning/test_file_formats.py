"""docs/formats.md names every file of these folders, and each table's columns as they are."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pandas as pd
import pytest

from patterns import Pattern
from pruning.study.report.tables import COLUMNS

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "formats.md").read_text(encoding="utf-8")
TABLES = {
    file: {
        name.replace("<p>", pattern)
        for cell in re.findall(r"^\| (`.+?`) \|", body, re.MULTILINE)
        for name in re.findall(r"`([^`]+)`", cell)
        for pattern in (Pattern if "<p>" in name else [""])
    }
    for file, body in re.findall(r"^### `(.+?)`\n(.*?)(?=^###? |\Z)", TEXT, re.MULTILINE | re.DOTALL)
}
"""By file, the columns (or keys) that its table lists; none where it is told in a sentence."""


def columns_of(path: Path) -> set[str]:
    if path.suffix == ".json":
        return set(json.loads(path.read_text(encoding="utf-8")))
    return set(pd.read_parquet(path) if path.suffix == ".parquet" else pd.read_csv(path))


STEPS = {
    "heads.parquet": "patterns",
    "maps.parquet": "patterns",
    "distribution.csv": "patterns",
    "summary.json": "patterns",
    "importance.parquet": "search-heads-and-mlps",
    "survival.parquet": "search-weights",
    "metrics.json": "fine-tune",
}
"""In which step of a study each file of a command lies."""
REPORTED = ("survivors.parquet", "stability.csv", "patterns.csv", "scores.parquet", "score_summary.parquet",
            "weight_survival.parquet", "importance_summary.parquet", "timings.parquet",
            "conclusions.parquet")  # fmt: skip
ANNOTATED = ("maps-*.parquet", "annotations.parquet", "texts.parquet", "predictions.parquet")
JUDGED = ("labels.parquet", "statistics.csv")
CLOSED = ("groups.csv", "draws.parquet", "single_heads.parquet")
COMPARED = ("changes.parquet", "transitions.csv")


def test_every_table_is_looked_at_below() -> None:
    told = {file for file, columns in TABLES.items() if columns}
    assert told == {*STEPS, *REPORTED, *ANNOTATED, *JUDGED, *CLOSED, *COMPARED}


def test_every_table_that_a_study_leaves_is_told_with_its_columns() -> None:
    rows = re.findall(r"^\| (`\w+`(?:, `\w+`)*) \|.*?\| (.*) \|$", TEXT, re.MULTILINE)
    told = {name: cells for names, cells in rows for name in re.findall(r"`(\w+)`", names)}
    assert set(COLUMNS) <= set(told)
    for table in ("warnings", "kept", "maps"):
        assert set(re.findall(r"`(\w+)`", told[table])) == set(COLUMNS[table])


@pytest.mark.parametrize("file", STEPS)
def test_files_of_searches_classifications_and_fine_tunings(file: str, finished_study: Path) -> None:
    found = columns_of(finished_study / "sst2" / "seed_1" / STEPS[file] / file)
    # A study records what identifies a step itself; a command, in its own result.
    own = {"metrics.json": {"step"}}.get(file, set())
    commands = {"metrics.json": {"checksum"}}.get(file, set())
    assert found - own == TABLES[file] - commands


@pytest.fixture
def report(reported_study: Path) -> Path:
    return reported_study / "report"


@pytest.mark.parametrize("file", REPORTED)
def test_tables_of_comparisons_and_reports(file: str, report: Path) -> None:
    assert columns_of(report / "tables" / file) == TABLES[file]


def test_every_table_of_a_report_is_named(report: Path) -> None:
    part = TEXT[TEXT.index("## run-study") :]
    for path in (report / "tables").glob("*.csv"):
        assert f"`{path.stem}" in part, path.name


@pytest.fixture(scope="module")
def sampled(tuned: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from annotations import sample_maps

    output = tmp_path_factory.mktemp("sampled") / "maps"
    sample_maps(str(tuned / "model"), "qqp", output, data=str(tuned / "data"), count=4, examples=4)
    return output


@pytest.mark.parametrize("file", ANNOTATED)
def test_files_of_a_folder_of_maps(file: str, sampled: Path) -> None:
    (path,) = sampled.glob(file)
    assert columns_of(path) == TABLES[file]


def test_every_file_of_a_folder_of_maps_is_named(sampled: Path) -> None:
    for path in sampled.iterdir():
        assert re.sub(r"maps-\d+", "maps-*", path.name) in TEXT


def test_the_table_of_labels(sampled: Path, tmp_path: Path) -> None:
    from annotations import import_labels, measure_agreement

    import_labels(ROOT / "examples" / "annotations-minilm", maps := tmp_path / "maps")
    measure_agreement(maps, maps="raw", output=tmp_path / "out")
    assert columns_of(tmp_path / "out" / "labels.parquet") == TABLES["labels.parquet"]
    assert columns_of(tmp_path / "out" / "statistics.csv") == TABLES["statistics.csv"]
    assert "agreement.json" in TEXT


def test_the_tables_of_ablations_and_comparisons(tuned: Path, tmp_path: Path) -> None:
    import shutil

    from patterns import compare_heads
    from pruning import ablate_patterns

    model, data = str(tuned / "model"), str(tuned / "data")
    ablate_patterns(
        model, "qqp", tmp_path / "a", data=data, examples=20, draws=2, pattern_examples=4, device="cpu"
    )
    shutil.copytree(tuned / "model", tmp_path / "other")
    options = {"task": "qqp", "data": data, "examples": 4, "device": "cpu"}
    compare_heads(model, tmp_path / "other", output=tmp_path / "c", **options)
    for folder, files in (("a", CLOSED), ("c", COMPARED)):
        for file in files:
            assert columns_of(tmp_path / folder / file) == TABLES[file], file
        for path in (tmp_path / folder).iterdir():
            # The same table for LaTeX lies beside each; the beginning of the page says so of all.
            name = path.with_suffix(".csv").name if path.suffix == ".tex" else path.name
            assert name.startswith(".") or f"`{name}`" in TEXT, path.name
