"""Names that are no UTF-8, of files, people and options: right, or one sentence, in every command."""

from __future__ import annotations

import importlib
import json
import os
import re
import shutil
import sys
import tomllib
from io import BytesIO, TextIOWrapper
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import typer.main

from annotations import AnnotatedMaps
from annotations.cli import app
from annotations.folders import add_annotations
from annotations.training.cli import train_classifier
from models import InputError, Subnetwork
from patterns.cli import classify_heads
from patterns.maps.store import MapRow
from pruning.cli import compare_survivors, prune_heads

ROOT = Path(__file__).parents[2]
ODD = os.fsdecode(b"caf\xe9")  # as a folder is called that was made under Latin-1


def takes_text() -> list[tuple[str, str]]:
    """Every option and argument of every command that takes a text or a path."""
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    found = []
    for where in scripts.values():
        module, function = where.split(":")
        click: Any = typer.main.get_command(getattr(importlib.import_module(module), function).app)
        for word, one in getattr(click, "commands", {"": click}).items():
            for parameter in one.params:
                known = getattr(parameter, "type_descriptor", None)  # of newer versions of Typer
                kind = str(known.annotation) if known else parameter.type.name
                if re.search(r"\b(str|Path|text|path|file|directory)\b", kind):
                    found.append((f"{where} {word}".strip(), parameter.opts[0]))
    return found


@pytest.mark.parametrize(("command", "option"), takes_text())
def test_every_option_refuses_it_by_name(
    command: str, option: str, run_command: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    where, *sub = command.split()
    module, function = where.split(":")
    words = [option, ODD] if option.startswith("-") else [ODD]
    code, out, err = run_command(getattr(importlib.import_module(module), function), *sub, *words)
    assert code == 2
    assert out == ""
    (line,) = err.splitlines()
    assert "caf\\udce9" in line
    assert "no UTF-8 text" in line
    assert option in line or not option.startswith("-")
    assert not list(tmp_path.iterdir())


def one_sentence(code: int, err: str) -> None:
    """Either all is well, or the error is one line that shows the name."""
    assert code in (0, 2)
    if code == 2:
        (line,) = (line for line in err.splitlines() if not line.startswith("warning:"))
        assert "caf" in line
        assert len(line) < 400


def maps(folder: Path) -> Path:
    random = np.random.default_rng(0)
    rows = [MapRow(f"m_{i}", "raw", "b", "b", "qqp", i, 0, i, 9, (8,), random.random((9, 9))) for i in (0, 1)]
    AnnotatedMaps(rows).save(folder)
    return folder


def test_a_file_among_the_data(tuned: Path, tmp_path: Path, run_command: Any) -> None:
    """It is not read; whoever looks at the report learns so."""
    shutil.copytree(tuned / "data", tmp_path / "data")
    (tmp_path / "data" / "qqp" / f"{ODD}.jsonl").write_text("{}")
    words = ["--model", tuned / "model", "--task", "qqp", "--data", tmp_path / "data", "--examples", 4]
    code, _, err = run_command(
        classify_heads, *words, "--maps", "raw", "--device", "cpu", "--output", tmp_path / "out"
    )
    one_sentence(code, err)
    assert (tmp_path / "out" / "report.html").exists() == (code == 0)
    code, _, err = run_command(app, "sample", *words, "--count", 4, "--output", tmp_path / "maps")
    one_sentence(code, err)


def test_a_current_folder(
    tuned: Path, tmp_path: Path, run_command: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Relative paths in it are text."""
    home = tmp_path / ODD
    home.mkdir()
    shutil.copytree(tuned, home / "tuned")
    monkeypatch.chdir(home)
    words = ["--model", "tuned/model", "--task", "qqp", "--data", "tuned/data", "--device", "cpu"]
    code, _, err = run_command(classify_heads, *words, "--examples", 4, "--maps", "raw", "--output", "heads")
    one_sentence(code, err)
    code, _, err = run_command(prune_heads, *words, "--what", "mlps", "--output", "search")
    one_sentence(code, err)
    code, _, err = run_command(app, "sample", *words, "--examples", 4, "--count", 4, "--output", "maps")
    one_sentence(code, err)


def test_a_folder_of_searches(tmp_path: Path, run_command: Any) -> None:
    folder = tmp_path / "searches" / "qqp" / ODD / "seed_1"
    folder.mkdir(parents=True)
    Subnetwork(np.ones((3, 4), bool), np.ones(3, bool)).save(folder / "found.safetensors")
    code, _, err = run_command(compare_survivors, tmp_path / "searches", "--output", tmp_path / "out")
    one_sentence(code, err)
    assert (tmp_path / "out").exists() == (code == 0)


def test_a_map(tmp_path: Path, run_command: Any) -> None:
    (tmp_path / "raw" / "for_training").mkdir(parents=True)
    (tmp_path / "raw" / "labels.txt").write_text("block = 0001\n")
    for name in ("0001", ODD):
        np.save(tmp_path / "raw" / "for_training" / f"{name}.npy", np.eye(9, dtype=np.float32))
    for words in (
        [app, "import", tmp_path / "raw", tmp_path / "new"],
        [app, "agreement", tmp_path / "raw"],
        [train_classifier, "--annotations", tmp_path / "raw", "--output", tmp_path / "new"],
        [app, "export", tmp_path / "raw", tmp_path / "new"],
    ):
        code, _, err = run_command(*words)
        assert code == 2
        assert "has a id that is no UTF-8 text" in err
        one_sentence(code, err)
        assert not (tmp_path / "new").exists()


def test_a_person(tmp_path: Path, run_command: Any) -> None:
    """As an escape in JSON, of an export or of annotators.json; the folder stays as it was."""
    folder = maps(tmp_path / "maps")
    before = {path: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    region = {"from_name": "pattern", "type": "choices", "value": {"choices": ["Block"]}}
    name = ODD
    for key, who in (("completed_by", {"email": name}), ("annotator", name), ("source", name)):
        one = {"result": [region], "completed_by": "ann", key: who}
        task = {"data": {"headscope_id": "m_0"}, "annotations": [one]}
        (tmp_path / "e.json").write_text(json.dumps([task]))
        code, _, err = run_command(app, "import", tmp_path / "e.json", folder)
        assert code == 2
        assert len(err.splitlines()) == 1
        assert {path: path.read_bytes() for path in before} == before
    (folder / "annotators.json").write_text(json.dumps({"passes": {"gpt": [name]}}))
    code, _, err = run_command(app, "status", folder)
    assert code == 2
    assert len(err.splitlines()) == 1
    said = pd.DataFrame({"id": ["m_0"], "label": ["block"], "annotator": pd.Series([name], dtype=object)})
    with pytest.raises(InputError, match="no UTF-8 text"):
        add_annotations(folder, said)
    (folder / "annotators.json").unlink()
    with pytest.raises(InputError, match="no UTF-8 text"):
        AnnotatedMaps(AnnotatedMaps.load(folder).rows, said)


def test_what_a_terminal_does_not_know_is_shown_as_an_escape(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of people who are called something that is not in the terminal's encoding."""
    folder = maps(tmp_path / "maps")
    add_annotations(folder, pd.DataFrame([{"id": "m_0", "annotator": "Zoë", "label": "block"}]))
    out = TextIOWrapper(BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "argv", ["annotate-maps", "status", str(folder)])
    monkeypatch.setattr("signal.signal", lambda *_: None)
    with pytest.raises(SystemExit) as end:
        app()
    assert not end.value.code
    out.flush()
    assert b"Zo\\xeb: 1 labelled" in out.buffer.getvalue()
