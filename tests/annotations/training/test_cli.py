"""``train-classifier`` and ``evaluate-classifier`` as their users meet them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from annotations import AnnotatedMaps
from annotations.formats import Annotation
from annotations.training import cli
from patterns import load_classifier
from patterns.maps.store import MapRow

LABELS = ("vertical", "diagonal", "heterogeneous")


def annotated(number: int, kind: str, seed: int = 0) -> AnnotatedMaps:
    random = np.random.default_rng(seed)
    rows, annotations = [], []
    for i in range(number):
        n = int(random.integers(16, 40))
        values = random.random((n, n)) * 0.3
        label = LABELS[i % 3]
        if label == "vertical":
            values[:, random.integers(n)] += 1
        elif label == "diagonal":
            values += np.eye(n)
        else:
            values = random.random((n, n)) ** 4
        if i % 6 == 5:
            values = np.tril(values)
        rows.append(
            MapRow(
                f"{kind}{seed}_{i}",
                kind,
                "base",
                "base/x",
                f"qqp-{kind}",
                i,
                i % 4,
                i % 7,
                n,
                (n - 1,),
                values,
            )
        )
        annotations.append(Annotation(rows[-1].id, "me", label, "", ""))
    return AnnotatedMaps(rows, annotations)


@pytest.fixture
def command(run_command: Any) -> Any:
    return run_command


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("annotated") / "maps"
    annotated(60, "raw").merge(annotated(45, "norm")).save(path)
    return path


@pytest.mark.slow
def test_a_classifier_is_trained_scored_used_and_evaluated(
    command: Any, folder: Path, tmp_path: Path
) -> None:
    output = tmp_path / "classifier"
    words = ["--annotations", folder, "--maps", "norm", "--epochs", 60, "--folds", 2, "--output", output]
    words += ["--note", "Labelled by nobody."]
    code, out, err = command(cli.train_classifier, *words)
    assert code == 0, err
    assert "trained on 60 raw and 45 norm maps of 28 heads" in out
    assert "2-fold cross-validation over heads" in out
    report = json.loads((output / "training.json").read_text())
    assert report["maps"] == {"raw": 60, "norm": 45}
    assert report["annotators"] == ["me"]
    assert report["out_of_fold"]["maps"] == 45
    assert report["out_of_fold"]["accuracy"] > report["out_of_fold"]["majority_accuracy"] + 0.2
    classifier = load_classifier(output, "norm")
    assert classifier.version == report["version"]
    assert classifier.temperature == report["temperature"]
    low, high = report["out_of_fold"]["ci95"]["accuracy"]
    assert low <= report["out_of_fold"]["accuracy"] <= high
    assert (
        f"{report['out_of_fold']['accuracy']:.3f} [{low:.3f}, {high:.3f}]"
        in (output / "README.md").read_text()
    )
    assert [(one["base_model"], one["causal"], one["maps"]) for one in report["by_base"]] == [
        ("base", False, 38),
        ("base", True, 7),
    ]
    assert "| base, causal maps | 7 |" in (output / "README.md").read_text()
    whole = sum(one["accuracy"] * one["maps"] for one in report["by_base"]) / 45
    assert whole == pytest.approx(report["out_of_fold"]["accuracy"])
    assert "Labelled by nobody." in (output / "README.md").read_text()

    new = tmp_path / "new"
    annotated(30, "norm", seed=1).save(new)
    code, out, err = command(cli.evaluate_classifier, "--annotations", new, "--classifier", output, "--json")
    assert code == 0, err
    scores = json.loads(out)
    assert scores["maps"] == 30
    assert scores["trained_on"] == 0
    assert "warning" not in err
    found = classifier.predict(AnnotatedMaps.load(new).maps)
    labels = AnnotatedMaps.load(new).labels
    assert scores["accuracy"] == np.mean([a == b for a, b in zip(found, labels, strict=True)])

    code, out, err = command(cli.evaluate_classifier, "--annotations", folder, "--classifier", output)
    assert code == 0
    assert "45 of these 45 maps were used to train this classifier" in err


def test_one_kind_alone_can_be_trained_on(command: Any, folder: Path, tmp_path: Path) -> None:
    words = [
        "--annotations",
        folder,
        "--maps",
        "raw",
        "--other-kind",
        0,
        "--epochs",
        1,
        "--folds",
        0,
        "--json",
    ]
    code, out, err = command(cli.train_classifier, *words, "--output", tmp_path / "c")
    assert code == 0, err
    report = json.loads(out)
    assert report["maps"] == {"raw": 60, "norm": 0}
    assert report["out_of_fold"] is None
    assert "not cross-validated" in (tmp_path / "c" / "README.md").read_text()


def test_several_folders_are_trained_on_together(command: Any, folder: Path, tmp_path: Path) -> None:
    annotated(9, "raw", seed=2).save(tmp_path / "more")
    words = [
        "--annotations",
        folder,
        "--annotations",
        tmp_path / "more",
        "--epochs",
        1,
        "--folds",
        0,
        "--json",
    ]
    code, out, err = command(cli.train_classifier, *words, "--output", tmp_path / "c")
    assert code == 0, err
    assert json.loads(out)["maps"]["raw"] == 69


def test_the_shipped_classifiers_know_their_training_maps(command: Any, shared: Path) -> None:
    for kind, number in (("raw", 516), ("norm", 511)):
        code, out, err = command(
            cli.evaluate_classifier, "--annotations", shared / "annotations", "--classifier", kind, "--json"
        )
        assert code == 0, err
        scores = json.loads(out)
        assert scores["maps"] == scores["trained_on"] == number
        assert "the score is no estimate for new maps" in err
        assert scores["accuracy"] > 0.8  # half of these maps were chosen because they are hard


class TestBadInput:
    def refused(self, command: Any, tmp_path: Path, match: str, main: Any, *words: Any) -> None:
        before = sorted(tmp_path.rglob("*"))
        code, out, err = command(main, *words)
        assert code == 2
        assert out == ""
        assert match in err
        assert len(err.strip().splitlines()) == 1
        assert sorted(tmp_path.rglob("*")) == before

    @pytest.mark.parametrize(
        ("words", "match"),
        [
            (["--maps", "rollout"], "give raw or norm"),
            (["--other-kind", "-1"], "give 0 for never"),
            (["--folds", "1"], "give 0 for none, or at least 2"),
            (["--epochs", "0"], "--epochs 0"),
            (["--folds", "50"], "50 folds need as many groups"),
        ],
    )
    def test_training_options(
        self, command: Any, tmp_path: Path, folder: Path, words: list[str], match: str
    ) -> None:
        good = ["--annotations", folder, "--output", tmp_path / "c"]
        self.refused(command, tmp_path, match, cli.train_classifier, *good, *words)

    def test_no_maps_of_the_kind(self, command: Any, tmp_path: Path) -> None:
        annotated(6, "raw").save(tmp_path / "maps")
        words = ["--annotations", tmp_path / "maps", "--maps", "norm", "--output", tmp_path / "c"]
        self.refused(command, tmp_path, "no labelled norm maps", cli.train_classifier, *words)
        words = ["--annotations", tmp_path / "maps", "--classifier", "norm"]
        self.refused(command, tmp_path, "no labelled norm maps", cli.evaluate_classifier, *words)

    def test_nothing_labelled(self, command: Any, tmp_path: Path) -> None:
        AnnotatedMaps(annotated(6, "raw").rows).save(tmp_path / "maps")
        words = ["--annotations", tmp_path / "maps", "--output", tmp_path / "c"]
        self.refused(command, tmp_path, "no map has a label", cli.train_classifier, *words)

    def test_a_published_folder_with_faults(self, command: Any, tmp_path: Path) -> None:
        (tmp_path / "raw" / "for_training").mkdir(parents=True)
        np.save(tmp_path / "raw" / "for_training" / "0001.npy", np.eye(20, dtype=np.float32))
        words = ["--annotations", tmp_path / "raw", "--output", tmp_path / "c"]
        for text, match in (
            ("vertical = 1, 2\n", "2"),
            ("wavy = 1\n", "wavy"),
            ("vertical = 1\nblock = 1\n", "block"),
        ):
            (tmp_path / "raw" / "labels.txt").write_text(text)
            self.refused(command, tmp_path, match, cli.train_classifier, *words)

    def test_the_wrong_kind_of_classifier(self, command: Any, tmp_path: Path, folder: Path) -> None:
        words = ["--annotations", folder, "--classifier", "raw", "--maps", "norm"]
        self.refused(command, tmp_path, "classifier for raw maps", cli.evaluate_classifier, *words)

    def test_a_folder_that_holds_no_annotations(self, command: Any, tmp_path: Path) -> None:
        (tmp_path / "none").mkdir()
        words = ["--annotations", tmp_path / "none", "--output", tmp_path / "c"]
        self.refused(command, tmp_path, "is empty", cli.train_classifier, *words)
