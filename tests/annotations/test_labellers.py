"""Passes of one labeller are told from people: where it is said, in every command, and through every format."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from annotations import AnnotatedMaps, measure_agreement
from annotations.cli import app
from annotations.label_studio.import_export import FORMATS, Export, Import
from annotations.labellers import ANNOTATORS, labelled_by, passes_among, read_passes, united, who_labelled
from annotations.training.cli import train_classifier
from annotations.training.job import card
from models import InputError
from patterns.maps.store import MapRow

ROOT = Path(__file__).parents[2]
TOLD = {"gpt": ("x", "y")}


def labelled(passes: Any = None, number: int = 4, first: int = 0) -> AnnotatedMaps:
    random = np.random.default_rng(first)
    rows = [
        MapRow(f"m_{i}", "raw", "bert", "bert/qqp", "qqp", i, 0, i, 20, (19,), random.random((20, 20)))
        for i in range(first, first + number)
    ]
    said = [
        {"id": one.id, "annotator": who, "label": ("block", "vertical")[i % 2]}
        for i, one in enumerate(rows)
        for who in ("x", "y", "ann")
    ]
    return AnnotatedMaps(rows, pd.DataFrame(said), passes)


def test_names_alone_say_it_in_one_form_only() -> None:
    names = ["gpt, pass 1", "gpt, pass 2", "gpt, pass 3"]
    assert passes_among(names, {}) == {"gpt": names}
    assert passes_among(["pass A", "pass B"], {}) == {"": ["pass A", "pass B"]}
    assert passes_among(["x (pass 1)", "x (pass 2)", "ann"], {}) == {"x": ["x (pass 1)", "x (pass 2)"]}
    # Different people, for all that their names say.
    for people in (
        ["ann-1", "ann-2"],
        ["A", "B", "C"],
        ["gpt, pass 1", "ann"],
        ["bypass 1", "bypass 2"],
        ["passmore", "passarelli"],
        ["Ann Passmore", "Ann Passini"],
        [],
    ):
        assert passes_among(people, {}) == {}


def test_what_the_folder_says_comes_before_what_names_say() -> None:
    names = ["gpt, pass 1", "gpt, pass 2", "A", "B"]
    told = {"claude": ("A", "B"), "someone": ("gpt, pass 2",)}
    assert passes_among(names, told) == {"claude": ["A", "B"]}
    assert passes_among(["A"], told) == {}


def test_who_labelled_in_words() -> None:
    assert labelled_by(["x", "y"], TOLD) == "2 passes of one labeller"
    assert labelled_by(["x", "y", "ann"], TOLD) == "2 passes of one labeller and 1 annotator"
    assert labelled_by(["a", "b"], {}) == "2 annotators"
    assert labelled_by([*"abcd"], {"one": ["a", "b"], "two": ["c", "d"]}) == (
        "2 passes of one labeller and 2 of another"
    )
    assert who_labelled(["ann", "x", "y"], TOLD) == "ann and 2 passes of one labeller, gpt (x, y)"
    assert who_labelled(["ann", "bob"], {}) == "ann, bob"


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ('{"passes": ["x"]}', "should be a table of lists"),
        ('{"passes": {"gpt": "x"}}', "should be a table of lists"),
        ('{"passes": {"gpt": ["x", ""]}}', "should be a table of lists"),
        ('{"passes": {"": ["x"]}}', "should be a table of lists"),
        ('{"passes": {"gpt": ["x"], "other": ["x"]}}', "x is a pass of gpt and of other"),
        ('{"gpt": ["x", "y"]}', "and nothing else"),
        ('{"passes": {}, "people": {}}', "and nothing else"),
        ("[]", "and nothing else"),
        ("{", "cannot be read"),
    ],
)
def test_a_file_that_says_something_else_is_refused(tmp_path: Path, text: str, match: str) -> None:
    labelled().save(tmp_path / "maps")
    (tmp_path / "maps" / ANNOTATORS).write_text(text)
    with pytest.raises(InputError, match=match) as caught:
        AnnotatedMaps.load(tmp_path / "maps")
    assert ANNOTATORS in str(caught.value)


def test_passes_stay_with_the_maps(tmp_path: Path) -> None:
    maps = labelled(TOLD)
    other = labelled({"gpt": ("z",), "someone": ("ann",)}, first=4)
    both = maps.select([0, 2]).merge(other).labelled()
    assert both.passes == {"gpt": ("x", "y", "z"), "someone": ("ann",)}
    both.save(tmp_path / "maps")
    assert AnnotatedMaps.load(tmp_path / "maps").passes == both.passes
    assert AnnotatedMaps.load(tmp_path / "maps", "raw").passes == both.passes
    assert "6 of them with a label, by 2 passes of one labeller and 1 annotator." in (
        tmp_path / "maps" / "README.md"
    ).read_text(encoding="utf-8")
    labelled().save(tmp_path / "plain")
    assert not (tmp_path / "plain" / ANNOTATORS).exists()
    assert "by 3 annotators" in (tmp_path / "plain" / "README.md").read_text(encoding="utf-8")
    with pytest.raises(InputError, match="y is a pass of gpt and of other"):
        maps.merge(labelled({"other": ["y"]}, first=4))
    assert united([TOLD, {}, TOLD], "here") == TOLD


@pytest.mark.parametrize("format", [one for one in FORMATS if one != "published"])
def test_passes_go_through_every_format_that_has_annotators(tmp_path: Path, format: str) -> None:
    labelled(TOLD).save(tmp_path / "maps")
    AnnotatedMaps(labelled().rows).save(tmp_path / "new")
    Export(tmp_path / "maps", tmp_path / "out", format, pictures=False).run()
    done = Import(tmp_path / "out", tmp_path / "new").run()
    assert done["added"] == 12
    found = AnnotatedMaps.load(tmp_path / "new")
    assert found.passes == TOLD
    pd.testing.assert_frame_equal(
        found.annotations.drop(columns="source"), labelled().annotations.drop(columns="source")
    )
    assert "2 passes of one labeller and 1 annotator" in (tmp_path / "new" / "README.md").read_text()


@pytest.mark.parametrize("format", ["label-studio", "csv", "dataset"])
def test_what_contradicts_the_folder_changes_nothing(tmp_path: Path, format: str) -> None:
    labelled(TOLD).save(tmp_path / "maps")
    AnnotatedMaps(labelled().rows, None, {"other": ["x"]}).save(tmp_path / "new")
    Export(tmp_path / "maps", tmp_path / "out", format, pictures=False).run()
    before = {path.name: path.read_bytes() for path in (tmp_path / "new").iterdir() if path.is_file()}
    with pytest.raises(InputError, match="x is a pass of"):
        Import(tmp_path / "out", tmp_path / "new").run()
    after = {path.name: path.read_bytes() for path in (tmp_path / "new").iterdir() if path.is_file()}
    assert {name: after.get(name) for name in before} == before
    assert len(AnnotatedMaps.load(tmp_path / "new").annotations) == 0


def test_every_command_says_so(tmp_path: Path, run_command: Any) -> None:
    labelled(TOLD).save(tmp_path / "maps")
    note = "x, y are passes of one labeller, gpt: where they agree, that says how steady it is"
    code, out, err = run_command(app, "agreement", tmp_path / "maps")
    assert code == 0, err
    assert "4 labelled by 2 passes of one labeller and 1 annotator" in out
    assert note in out
    code, out, err = run_command(app, "status", tmp_path / "maps")
    assert code == 0, err
    assert note in out
    code, out, err = run_command(app, "status", tmp_path / "maps", "--json")
    assert json.loads(out)["passes"] == {"gpt": ["x", "y"]}
    words = ["--annotations", tmp_path / "maps", "--output", tmp_path / "c", "--epochs", 1, "--folds", 0]
    code, out, err = run_command(train_classifier, *words, "--trees", 0)
    assert code == 0, err
    assert json.loads((tmp_path / "c" / "training.json").read_text())["passes"] == {"gpt": ["x", "y"]}
    assert "labelled by ann and 2 passes of one labeller, gpt (x, y)." in (
        tmp_path / "c" / "README.md"
    ).read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("folder", "names"),
    [
        ("annotations", ["vlm-A", "vlm-B", "vlm-C"]),
        ("annotations-minilm", ["A", "B", "C"]),
        ("annotations-bases", ["fair-A", "fair-B", "fair-C"]),
        ("annotations-causal", ["causal-A", "causal-B", "causal-C"]),
    ],
)
def test_the_shipped_folders_say_that_theirs_are_three_passes(
    folder: str, names: list[str], tmp_path: Path
) -> None:
    """As their README does: a vision-language model, three times."""
    path = ROOT / "examples" / folder
    assert "three passes" in " ".join(
        (path / "README.md").read_text(encoding="utf-8").replace("\n", " ").split()
    )
    ((labeller, found),) = read_passes(path).items()
    assert list(found) == names
    assert "a vision-language model" in labeller
    told = measure_agreement(path, maps="norm")
    assert told["passes"] == {labeller: names}
    assert labelled_by(told["annotators"], told["passes"]) == "3 passes of one labeller"


@pytest.mark.parametrize("kind", ["raw", "norm"])
def test_the_shipped_cards_say_who_labelled(kind: str) -> None:
    folder = ROOT / "patterns" / "weights" / kind
    report = json.loads((folder / "training.json").read_text(encoding="utf-8"))
    told: dict[str, set[str]] = {}
    for path in sorted((ROOT / "examples").glob("annotations*")):
        for labeller, names in read_passes(path).items():
            told.setdefault(labeller, set()).update(names)
    assert {labeller: set(names) for labeller, names in report["passes"].items()} == told
    (line,) = (line for line in card(report).splitlines() if "labelled by" in line and "maps of" in line)
    assert line in (folder / "README.md").read_text(encoding="utf-8").splitlines()


def test_a_published_folder_may_say_it_too(tmp_path: Path) -> None:
    labelled().save(tmp_path / "maps")
    Export(tmp_path / "maps", tmp_path / "out", "published").run()
    shutil.move(tmp_path / "out" / "raw", tmp_path / "raw")
    (tmp_path / "raw" / ANNOTATORS).write_text(json.dumps({"passes": {"gpt": ["published"]}}))
    assert AnnotatedMaps.load(tmp_path / "raw").passes == {"gpt": ("published",)}
    Import(tmp_path / "raw" / "labels.txt", tmp_path / "new").run()
    assert read_passes(tmp_path / "new") == {"gpt": ("published",)}
