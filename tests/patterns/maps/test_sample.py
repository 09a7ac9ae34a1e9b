"""Which folders of annotated maps an estimate is made from, and why the others are refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from models import InputError
from patterns.maps.sample import LabelledSample, Population, read_sample
from patterns.maps.store import MapRow, write_maps

MODEL = {
    "name": "org/model", "revision": None, "sha256": "a" * 64, "files": {"tokenizer.json": "b" * 64}, "type": "bert",
    "parameters": 1,
}  # fmt: skip
DATA = {"source": "data/qqp/validation.jsonl", "revision": None, "sha256": "c" * 64}
POPULATION = Population(MODEL, "qqp", "validation", DATA, 128)  # type: ignore[arg-type]
RECORD = {
    "strategy": "random", "count": 40, "max_length": 128, "task": "qqp", "split": "validation", "model": MODEL,
    "data": DATA, "exclude": {"folders": [], "records": [], "found": 0},
}  # fmt: skip


def row(number: int) -> MapRow:
    values = np.random.default_rng(number).random((6, 6), dtype=np.float32)
    return MapRow(
        f"m{number}", ("raw", "norm")[number % 2], "", "model", "qqp", number, 0, 0, 6, (5,), values
    )


def annotations(labels: dict[int, str | list[str]]) -> pd.DataFrame:
    frame = pd.DataFrame(
        [
            {"id": f"m{number}", "annotator": f"annotator {i}", "label": label, "time": pd.NaT, "source": ""}
            for number, said in labels.items()
            for i, label in enumerate([said] if isinstance(said, str) else said)
        ],
        columns=["id", "annotator", "label", "time", "source"],
    )
    return frame.assign(time=pd.to_datetime(frame["time"], utc=True))


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    def write(labels: dict[int, str | list[str]], maps: int = 40, **changes: Any) -> Path:
        folder = tmp_path / "sample"
        write_maps(folder, map(row, range(maps)))
        annotations(labels).to_parquet(folder / "annotations.parquet")
        (folder / "sample.json").write_text(json.dumps(RECORD | changes))
        return folder

    return write


EVERY: dict[int, str | list[str]] = {
    number: "block" if number % 3 else "heterogeneous" for number in range(40)
}


def test_labels_come_in_the_order_in_which_maps_were_drawn(write: Any) -> None:
    found = read_sample(write(EVERY), POPULATION)
    assert isinstance(found, LabelledSample)
    assert [one.id for one in found.rows["norm"]] == [f"m{number}" for number in range(1, 40, 2)]
    assert found.labels["raw"] == [EVERY[number] for number in range(0, 40, 2)]
    assert found.warnings == ()


def test_whoever_stops_early_has_labelled_a_random_sample(write: Any) -> None:
    found = read_sample(write({number: EVERY[number] for number in range(22)}), POPULATION)
    assert {kind: len(labels) for kind, labels in found.labels.items()} == {"raw": 11, "norm": 11}
    assert found.warnings == ()


def test_a_kind_without_labels_is_left_out(write: Any) -> None:
    found = read_sample(write({number: EVERY[number] for number in range(0, 40, 2)}), POPULATION)
    assert list(found.labels) == list(found.rows) == ["raw"]


def test_a_few_maps_that_were_passed_over_are_warned_about_and_many_refused(write: Any) -> None:
    labels = EVERY | {4: ["block", "vertical"]}  # a tie
    found = read_sample(write(labels), POPULATION)
    assert len(found.labels["raw"]) == 19
    (warning,) = found.warnings
    assert warning.startswith("1 of the first 20 raw maps of")
    assert "off by up to 5.0 points" in warning


def test_many_maps_that_were_passed_over_are_refused(write: Any) -> None:
    folder = write({number: label for number, label in EVERY.items() if number not in (2, 6, 10)})
    with pytest.raises(
        InputError, match=r"3 of the first 20 raw maps of .* Maps that are passed over are mostly hard"
    ):
        read_sample(folder, POPULATION)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        (
            {"strategy": "uncertain-diverse"},
            "--strategy uncertain-diverse, which chooses maps by what they show",
        ),
        ({"strategy": "balanced"}, "give a sample of --strategy random"),
        ({"exclude": {"found": 12}}, "with --exclude, which left 12 places out"),
        ({"model": MODEL | {"sha256": "d" * 64}}, "is a sample of another model"),
        ({"model": MODEL | {"files": {"tokenizer.json": "d" * 64}}}, "is a sample of another model"),
        ({"data": DATA | {"sha256": "d" * 64}}, "is a sample of maps of other texts"),
        ({"split": "test"}, "validation.jsonl (qqp, split test), not data/qqp"),
        ({"task": "mrpc"}, "is a sample of maps of other texts"),
        ({"max_length": 64}, "was sampled with --max-length 64, not 128"),
        ({"count": 39}, "holds 40 maps, but sample.json tells of 39"),
        ({"strategy": 3}, "sample.json"),
        ({"model": None}, "sample.json"),
    ],
)
def test_what_is_no_random_sample_of_this_model_is_refused_with_the_reason(
    write: Any, changes: dict[str, Any], reason: str
) -> None:
    with pytest.raises(InputError) as refused:
        read_sample(write(EVERY, **changes), POPULATION)
    assert reason in str(refused.value)


def test_the_same_model_and_rows_elsewhere_are_the_same(write: Any) -> None:
    moved = {"model": MODEL | {"name": "copy"}, "data": DATA | {"source": "copy.jsonl"}}
    assert read_sample(write(EVERY, **moved), POPULATION).labels["raw"]


def test_a_hub_model_without_a_digest_is_known_by_its_commit(write: Any) -> None:
    there = MODEL | {"sha256": None, "revision": "1"}
    folder = write(EVERY, model=there)
    other = Population(there | {"revision": "2"}, "qqp", "validation", DATA, 128)  # type: ignore[arg-type]
    assert read_sample(folder, Population(there, "qqp", "validation", DATA, 128)).labels  # type: ignore[arg-type]
    with pytest.raises(InputError, match="another model"):
        read_sample(folder, other)


def test_a_folder_that_does_not_say_how_it_was_chosen_is_refused(write: Any) -> None:
    folder = write(EVERY)
    (folder / "sample.json").unlink()
    with pytest.raises(InputError, match=r"does not say how its maps were chosen \(no sample.json\)"):
        read_sample(folder, POPULATION)
    with pytest.raises(InputError, match="does not say how its maps were chosen"):
        read_sample(folder / "nowhere", POPULATION)


def test_a_folder_without_labels_or_with_labels_of_nothing_is_refused(write: Any, tmp_path: Path) -> None:
    folder = write({})
    with pytest.raises(InputError, match="no map has a label yet"):
        read_sample(folder, POPULATION)
    annotations({99: "block"}).to_parquet(folder / "annotations.parquet")
    with pytest.raises(InputError, match="is for a map that is not in the folder: m99"):
        read_sample(folder, POPULATION)
    annotations({1: "stripes"}).to_parquet(folder / "annotations.parquet")
    with pytest.raises(InputError, match="is no pattern: stripes"):
        read_sample(folder, POPULATION)
