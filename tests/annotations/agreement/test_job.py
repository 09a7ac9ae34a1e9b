"""Coefficients of agreement beside published numbers and other libraries; what has no value; the labels that follow."""

from __future__ import annotations

import json
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from sklearn.metrics import cohen_kappa_score
from statsmodels.stats.inter_rater import aggregate_raters, fleiss_kappa

from annotations import AnnotatedMaps
from annotations.agreement.dawid_skene import dawid_skene
from annotations.agreement.statistics import agreement
from annotations.cli import app
from patterns.maps.store import MapRow
from patterns.taxonomy import PATTERNS


def annotated(votes: Any, layers: int = 4, kind: str = "raw") -> AnnotatedMaps:
    """Maps with these labels ``[N][A]`` (places in PATTERNS, -1 for none) by annotators a, b, c, ..."""
    values = np.random.default_rng(0).random((20, 20)).astype(np.float32)
    rows, frame = [], []
    for i, labels in enumerate(votes):
        rows.append(MapRow(f"{kind}{i}", kind, "base", "m", "qqp", i, i % layers, i % 5, 20, (9, 19), values))
        for a, label in enumerate(labels):
            if label >= 0:
                frame.append((f"{kind}{i}", "abcdefghij"[a], PATTERNS[label].value))
    return AnnotatedMaps(rows, pd.DataFrame(frame, columns=["id", "annotator", "label"]))


def values_in(report: Any) -> list[Any]:
    """Every number and None in a report, at any depth."""
    if isinstance(report, dict | list):
        return [
            value
            for part in (report.values() if isinstance(report, dict) else report)
            for value in values_in(part)
        ]
    return [report]


def test_krippendorffs_own_example() -> None:
    """Krippendorff (2011), section C: four observers, twelve units, missing data, nominal alpha .743."""
    o = -1
    reliability = [
        [1, 2, 3, 3, 2, 1, 4, 1, 2, o, o, o],
        [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, o, 3],
        [o, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, o],
        [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, o],
    ]
    votes = np.array(reliability).T
    found = agreement(annotated(np.where(votes > 0, votes - 1, -1)))
    assert found["alpha"]["value"] == pytest.approx(0.743, abs=5e-4)
    assert found["compared"] == 11


def slow_alpha(votes: np.ndarray) -> float:
    """From all pairs of labels of one map, and all pairs of labels at all."""
    units = [[v for v in row if v >= 0] for row in votes.tolist()]
    units = [unit for unit in units if len(unit) > 1]
    everything = [v for unit in units for v in unit]
    n = len(everything)
    observed = sum(sum(a != b for a, b in permutations(unit, 2)) / (len(unit) - 1) for unit in units) / max(
        n, 1
    )
    expected = sum(a != b for a, b in permutations(everything, 2)) / max(n * (n - 1), 1)
    return 1 - observed / expected if expected else float("nan")


@settings(max_examples=25, deadline=None)
@given(st.lists(st.lists(st.integers(-1, 4), min_size=4, max_size=4), min_size=1, max_size=12))
def test_agreement_is_that_of_other_libraries_whatever_was_labelled(votes: list[list[int]]) -> None:
    table = np.array(votes)
    found = agreement(annotated(votes))
    json.dumps(found, allow_nan=False)

    alpha = slow_alpha(table)
    if np.isnan(alpha):
        assert found["alpha"] == {"value": None, "ci95": [None, None]}
    else:
        assert found["alpha"]["value"] == pytest.approx(alpha)
    for pair in found["pairs"]:
        columns = table[:, ["abcd".index(pair["a"]), "abcd".index(pair["b"])]]
        both = columns[(columns >= 0).all(axis=1)]
        assert pair["maps"] == len(both)
        assert np.sum(pair["confusion"]) == len(both)
        if len(both):
            assert pair["percent"] == pytest.approx((both[:, 0] == both[:, 1]).mean())
        if len(np.unique(both)) > 1:
            assert pair["kappa"] == pytest.approx(cohen_kappa_score(both[:, 0], both[:, 1]))
        else:
            assert pair["kappa"] is None
    of = found["fleiss"]
    if of["value"] is not None:
        counted = (table >= 0).sum(axis=1) == of["labels"]
        assert of["maps"] == counted.sum()
        rows = np.array([[v for v in row if v >= 0] for row in table[counted].tolist()])
        assert of["value"] == pytest.approx(fleiss_kappa(aggregate_raters(rows)[0]))
    for bounds in (found["alpha"]["ci95"], found["percent"]["ci95"]):
        assert bounds == [None, None] or bounds[0] <= bounds[1]


def test_agreement_on_one_pattern_is_that_of_labels_beside_it() -> None:
    # Beside the label vertical stand: vertical twice, block once.
    found = agreement(annotated([[0, 0], [0, 3], [1, 1], [1, 1]]))["patterns"]
    assert found["vertical"]["labels"] == 3
    assert found["vertical"]["agreement"] == pytest.approx(2 / 3)
    assert found["block"]["agreement"] == 0
    assert found["diagonal"]["agreement"] == 1
    assert found["heterogeneous"] == {"labels": 0, "agreement": None, "alpha": None}
    votes = np.array([[0, 0], [0, 1], [1, 1], [1, 1]])  # vertical or not
    assert found["vertical"]["alpha"] == pytest.approx(slow_alpha(votes))


def test_intervals_resample_heads_not_maps() -> None:
    """All maps of one head behave alike: with few heads the interval is wide however many maps there are."""
    rng = np.random.default_rng(0)
    votes = []
    for i in range(200):
        label = int(rng.integers(5))
        votes.append(
            [label, label if i % 5 else (label + 1) % 5]
        )  # head number i % 5; that of head 0 differs
    few = agreement(annotated(votes, layers=1))["percent"]
    assert few["value"] == pytest.approx(0.8)
    assert few["ci95"][1] - few["ci95"][0] > 0.5
    unknown = [MapRow(**{**vars(row), "head": -1}) for row in annotated(votes).rows]
    many = agreement(AnnotatedMaps(unknown, annotated(votes).annotations))["percent"]
    assert many["ci95"][1] - many["ci95"][0] < 0.2


class TestWhatHasNoValue:
    def nothing(self, votes: Any, note: str) -> dict[str, Any]:
        found = agreement(annotated(votes))
        json.dumps(found, allow_nan=False)
        assert any(note in one for one in found["notes"]), found["notes"]
        assert found["alpha"]["value"] is None
        return found

    def test_no_annotation(self) -> None:
        found = self.nothing([[-1], [-1]], "No map has a label yet")
        assert (found["labelled"], found["annotators"], found["pairs"]) == (0, {}, [])
        assert found["dawid_skene"] is None

    def test_one_annotator(self) -> None:
        found = self.nothing([[0], [3], [-1]], "All labels are by one annotator, a")
        assert found["majority"]["block"] == 1
        assert found["percent"]["value"] is None

    def test_two_annotators_without_a_map_in_common(self) -> None:
        found = self.nothing([[0, -1], [-1, 3]], "No map has labels of two annotators")
        assert found["pairs"][0]["kappa"] is None
        assert found["fleiss"]["labels"] is None

    def test_one_pattern(self) -> None:
        found = self.nothing([[2, 2, 2], [2, 2, 2]], "correct for chance have no value")
        assert found["percent"]["value"] == 1
        assert found["dawid_skene"]["labels"]["vertical_diagonal"] == 2

    def test_one_map(self) -> None:
        found = agreement(annotated([[0, 1, 1]]))
        json.dumps(found, allow_nan=False)
        assert found["percent"] == {"value": pytest.approx(1 / 3), "ci95": [None, None]}

    def test_no_map(self) -> None:
        self.nothing([], "No map has a label yet")


def test_perfect_agreement_is_one() -> None:
    found = agreement(annotated([[i % 5] * 3 for i in range(20)]))
    for of in (found["alpha"], found["fleiss"], found["percent"]):
        assert of == {**of, "value": pytest.approx(1), "ci95": [pytest.approx(1)] * 2}
    assert [pair["kappa"] for pair in found["pairs"]] == [pytest.approx(1)] * 3
    assert (found["disputed"], found["dawid_skene"]["changed"], found["notes"]) == (0, 0, [])


def test_a_later_label_of_the_same_annotator_counts() -> None:
    maps = annotated([[0, 0]])
    later = pd.DataFrame(
        [("raw0", "a", "block", "2026-01-02"), ("raw0", "a", "diagonal", "2026-01-01")],
        columns=["id", "annotator", "label", "time"],
    )
    found = agreement(AnnotatedMaps(maps.rows, pd.concat([maps.annotations, later], ignore_index=True)))
    assert found["annotators"]["a"]["labels"]["block"] == 1
    assert found["annotators"]["a"]["maps"] == 1
    assert found["disputed"] == 1


class TestDawidSkene:
    @given(st.lists(st.lists(st.integers(-1, 2), min_size=3, max_size=3), min_size=1, max_size=15))
    def test_it_is_a_fixed_point_of_its_equations(self, votes: list[list[int]]) -> None:
        table = np.array(votes)
        found = dawid_skene(table, 3)
        assert found.probabilities.sum(axis=1) == pytest.approx(1)
        assert found.confusions.sum(axis=2) == pytest.approx(1)
        assert np.isfinite(found.probabilities).all()
        for row, probabilities in zip(votes, found.probabilities, strict=True):
            likely = found.shares.copy()
            for a, said in enumerate(row):
                if said >= 0:
                    likely = likely * found.confusions[a, :, said]
            assert probabilities == pytest.approx(likely / likely.sum(), abs=1e-4)

    def test_planted_errors_are_found_again_and_a_good_annotator_outvotes_two_poor_ones(self) -> None:
        rng = np.random.default_rng(0)
        truth = rng.choice(5, 3000, p=[0.3, 0.3, 0.2, 0.1, 0.1])
        planted = []
        for right in (0.97, 0.6, 0.55):
            confusion = np.full((5, 5), (1 - right) / 4)
            np.fill_diagonal(confusion, right)
            planted.append(confusion)
        votes = np.stack([[rng.choice(5, p=confusion[t]) for t in truth] for confusion in planted], axis=1)
        found = dawid_skene(votes, 5)
        assert found.confusions == pytest.approx(np.stack(planted), abs=0.09)
        assert found.shares == pytest.approx([0.3, 0.3, 0.2, 0.1, 0.1], abs=0.03)
        estimated = (found.probabilities.argmax(axis=1) == truth).mean()
        counts = (votes[:, :, None] == np.arange(5)).sum(axis=1)
        assert estimated > (counts.argmax(axis=1) == truth).mean() + 0.05


class TestCommand:
    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        votes = [[0, 0, 0], [0, 1, 2], [3, 3, 1], [4, 4, 4], [1, 1, 1], [-1, -1, -1]]
        annotated(votes).save(tmp_path / "maps")
        return tmp_path / "maps"

    def test_numbers_labels_and_sheets_are_written(
        self, run_command: Any, folder: Path, tmp_path: Path
    ) -> None:
        output = tmp_path / "out"
        code, out, err = run_command(app, "agreement", folder, "--output", output)
        assert code == 0, err
        assert "6 maps, 5 labelled by 3 annotators; 5 with two labels or more, 2 of them disputed" in out
        assert "a and b, 5 maps: percent 0.800" in out
        assert "1 tied" in out
        assert {path.name for path in output.iterdir()} == {
            ".headscope.json", "agreement.json", "labels.parquet", "disagreements-000.png",
            "statistics.png", "statistics.csv", "statistics.tex",
        }  # fmt: skip
        report = json.loads((output / "agreement.json").read_text())
        assert report["disputed"] == 2
        labels = pd.read_parquet(output / "labels.parquet").set_index("id")
        assert list(labels.index) == [f"raw{i}" for i in range(5)]
        assert labels["majority"].fillna("-").tolist() == [
            "vertical", "-", "block", "heterogeneous", "diagonal",
        ]  # fmt: skip
        # The most disputed map comes first.
        assert labels["number"].dropna().to_dict() == {"raw1": 1, "raw2": 2}
        assert labels.loc["raw2", ["votes_diagonal", "votes_block"]].tolist() == [1, 2]
        assert labels.filter(like="prob_").sum(axis=1).to_numpy() == pytest.approx(1)
        with Image.open(output / "disagreements-000.png") as sheet:
            assert sheet.width == 1250
            assert len(sheet.convert("RGB").getcolors(2**24) or []) > 50

    def test_the_figure_is_in_the_format_and_width_asked_for_with_its_data(
        self, run_command: Any, folder: Path, tmp_path: Path
    ) -> None:
        how = ["--figure-format", "pdf,svg", "--figure-width", "6.5"]
        code, _, err = run_command(app, "agreement", folder, "--output", tmp_path / "out", *how)
        assert code == 0, err
        names = {path.name for path in (tmp_path / "out").glob("statistics.*")}
        assert names == {"statistics.pdf", "statistics.svg", "statistics.csv", "statistics.tex"}
        assert (
            tmp_path / "out" / "disagreements-000.png"
        ).is_file()  # sheets are pictures, whatever is asked for
        svg = (tmp_path / "out" / "statistics.svg").read_text()
        assert 'width="468pt"' in svg  # 6.5 inches
        report = json.loads((tmp_path / "out" / "agreement.json").read_text())
        table = pd.read_csv(tmp_path / "out" / "statistics.csv").set_index(["statistic", "of"])
        assert table.loc[("percent", "a, b"), "value"] == report["pairs"][0]["percent"] == 0.8
        low, high = report["alpha"]["ci95"]
        assert table.loc[("alpha", "all"), ["value", "low", "high"]].tolist() == [
            report["alpha"]["value"],
            low,
            high,
        ]
        assert f">{report['alpha']['value']:.3f} [{low:.3f}, {high:.3f}]<" in svg

    def test_a_single_annotator_has_no_figure(self, run_command: Any, tmp_path: Path) -> None:
        annotated([[0], [1], [2]]).save(tmp_path / "maps")
        code, _, err = run_command(app, "agreement", tmp_path / "maps", "--output", tmp_path / "out")
        assert code == 0, err
        assert not (tmp_path / "out" / "statistics.png").exists()
        assert (tmp_path / "out" / "statistics.csv").is_file()

    def test_json_alone_is_printed(self, run_command: Any, folder: Path) -> None:
        code, out, _ = run_command(app, "agreement", folder, "--json")
        assert code == 0
        assert json.loads(out)["pairs"][0]["maps"] == 5

    def test_two_folders_are_taken_together(self, run_command: Any, folder: Path, tmp_path: Path) -> None:
        more = annotated([[1]])
        frame = more.annotations.assign(annotator="d")
        AnnotatedMaps(more.rows, frame).save(tmp_path / "more")
        code, out, err = run_command(app, "agreement", folder, tmp_path / "more", "--json")
        assert code == 0, err
        report = json.loads(out)
        assert report["disputed"] == 3
        assert set(report["annotators"]) == set("abcd")

    @pytest.mark.filterwarnings("error:Glyph")
    def test_names_from_a_file_cannot_command_the_terminal(self, run_command: Any, tmp_path: Path) -> None:
        maps = annotated([[0, 0], [0, 1]])
        names = maps.annotations["annotator"].map({"a": "\x1b[2Jevil", "b": "x\nFleiss' kappa: 1"})
        AnnotatedMaps(maps.rows, maps.annotations.assign(annotator=names)).save(tmp_path / "maps")
        code, out, err = run_command(app, "agreement", tmp_path / "maps", "--output", tmp_path / "out")
        assert code == 0, err
        assert "\x1b" not in out
        assert "\\x1b[2Jevil" in out
        assert "\nFleiss' kappa: 1" not in out
        assert (
            tmp_path / "out" / "statistics.png"
        ).is_file()  # drawn without a warning of characters without a shape

    @pytest.mark.parametrize(
        ("words", "match"),
        [
            (["--maps", "rollout"], "--maps rollout: give raw or norm"),
            (["--maps", "norm"], "holds no norm maps"),
            (["--seed", "-1"], "seed"),
            (["--output", "."], "cannot be replaced"),
        ],
    )
    def test_bad_input_is_one_sentence(
        self, run_command: Any, folder: Path, words: list[str], match: str
    ) -> None:
        code, out, err = run_command(app, "agreement", folder, *words)
        assert (code, out) == (2, "")
        assert match in err
        assert len(err.strip().splitlines()) == 1

    @pytest.mark.parametrize("kind", ["raw", "norm"])
    def test_the_published_maps(self, shared: Path, kind: str) -> None:
        table = pd.read_csv(shared / "annotations" / kind / "index.csv", keep_default_na=False)
        found = agreement(AnnotatedMaps.load(shared / "annotations", kind))
        assert found["labelled"] == len(table)
        for pair in found["pairs"]:
            assert pair["kappa"] == pytest.approx(cohen_kappa_score(table[pair["a"]], table[pair["b"]]))
        assert found["fleiss"]["value"] == pytest.approx(
            fleiss_kappa(aggregate_raters(table[["A", "B", "C"]].to_numpy())[0])
        )
