"""Classifiers and annotated maps are published by the commands that write them, to a stand-in of the Hub."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hub import HubServer, standing_in

from annotations import AnnotatedMaps
from annotations.cli import app
from annotations.formats import Annotation
from annotations.training.cli import train_classifier
from patterns import load_classifier
from patterns.maps.store import MapRow

LABELS = ("vertical", "diagonal", "heterogeneous")


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    with standing_in(monkeypatch) as server:
        yield server


@pytest.fixture
def maps(tmp_path: Path) -> Path:
    random = np.random.default_rng(0)
    rows = [
        MapRow(f"m{i}", "raw", "base", "base/x", "qqp", i, i % 4, i % 7, 16, (15,), random.random((16, 16)))
        for i in range(12)
    ]
    labels = [Annotation(row.id, "me", LABELS[i % 3], "", "") for i, row in enumerate(rows)]
    AnnotatedMaps(rows, labels).save(tmp_path / "maps")
    return tmp_path / "maps"


def stored(hub: HubServer, repository: str, home: Path) -> Path:
    """A folder as the Hub has the repository."""
    for name, content in hub.repositories[repository].items():
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_bytes(content)
    return home


def test_a_trained_classifier_is_published_with_its_card(
    run_command: Any, hub: HubServer, maps: Path, tmp_path: Path
) -> None:
    words = ["--annotations", maps, "--epochs", 1, "--folds", 0, "--trees", 0, "--json"]
    words += ["--output", tmp_path / "out", "--push-to-hub", "org/mine"]
    code, out, err = run_command(train_classifier, *words)
    assert code == 0, err
    told = json.loads(out)
    assert told["published"].endswith("/models/org/mine/commit/1a2b")
    assert f"published: {told['published']}\n" in err
    there = hub.repositories["models/org/mine"]
    assert set(there) == {"README.md", "config.json", "model.safetensors", "training.json"}
    assert "published" not in json.loads(there["training.json"])
    copy = load_classifier(stored(hub, "models/org/mine", tmp_path / "copy"), "raw")
    assert copy.version == told["version"]


def test_annotated_maps_are_published_as_they_are_exported(
    run_command: Any, hub: HubServer, maps: Path, tmp_path: Path
) -> None:
    words = [maps, tmp_path / "out", "--format", "dataset", "--push-to-hub", "org/maps"]
    code, _, err = run_command(app, "export", *words)
    assert code == 0, err
    assert "published: http://127.0.0.1:" in err
    copy = AnnotatedMaps.load(stored(hub, "datasets/org/maps", tmp_path / "copy"))
    assert copy.info.equals(AnnotatedMaps.load(maps).info)
    assert "README.md" in hub.repositories["datasets/org/maps"]


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["--push-to-hub", "org/maps"], "publishes --format dataset, not label-studio; give that format."),
        (["--format", "dataset", "--push-to-hub", "maps"], "--push-to-hub: give the name of a repository"),
    ],
)
def test_what_cannot_be_published_is_refused_before_anything_is_written(
    run_command: Any, hub: HubServer, maps: Path, tmp_path: Path, words: list[str], why: str
) -> None:
    code, _, err = run_command(app, "export", maps, tmp_path / "out", *words)
    assert code == 2
    assert why in err
    assert not (tmp_path / "out").exists()
    assert hub.asked == []


def test_what_the_hub_does_not_take_stays_here(
    run_command: Any, hub: HubServer, maps: Path, tmp_path: Path
) -> None:
    hub.refuse["/commit/"] = 403
    words = [maps, tmp_path / "out", "--format", "dataset", "--push-to-hub", "org/maps"]
    code, _, err = run_command(app, "export", *words)
    assert code == 2
    assert f"`hf upload org/maps {tmp_path / 'out'} --repo-type dataset` tries again." in err
    assert len(AnnotatedMaps.load(tmp_path / "out")) == 12
