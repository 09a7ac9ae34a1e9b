"""Sixty columns hold what every command prints: no line is longer, and no number is lost or broken."""

from __future__ import annotations

import re
import shutil
import tomllib
from collections import Counter
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from annotations import AnnotatedMaps
from annotations.cli import _print_agreement
from annotations.training.cli import _print_scores
from models import Subnetwork
from models.common.terminal import print_text
from models.finetuning.run import score_table
from models.tasks.task import TASKS
from patterns.maps.store import MapRow
from patterns.taxonomy import PATTERNS

ROOT = Path(__file__).parents[2]
NUMBERS = re.compile(r"\d+(?:\.\d+)?")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Maps that three people with long names have labelled, and two searches."""
    path = tmp_path_factory.mktemp("widths")
    random = np.random.default_rng(0)
    people = [f"a.person.with.a.long.name.{i}@department.university.example" for i in range(3)]
    rows, said = [], []
    for i in range(60):
        values = random.random((20, 20)) + (i % 2) * np.eye(20) * 20
        rows.append(MapRow(f"m_{i}", "raw", "b", "b/x", "qqp", i, i % 5, i % 7, 20, (19,), values))
        for person in people:
            label = PATTERNS[i % 2 if random.random() < 0.8 else random.integers(5)]
            said.append({"id": f"m_{i}", "annotator": person, "label": label.value})
    AnnotatedMaps(rows, pd.DataFrame(said)).save(path / "maps")
    for seed in (1, 2):
        (path / "searches" / "qqp" / f"seed_{seed}").mkdir(parents=True)
        kept = Subnetwork(random.random((3, 4)) < 0.6, np.array([True, False, True]))
        kept.save(path / "searches" / "qqp" / f"seed_{seed}" / "found.safetensors")
    return path


RUNS = {
    "classify-heads": "MODEL --examples 4",
    "finetune-glue": "TUNE",
    "prune-heads": "MODEL --what mlps",
    "prune-weights": "MODEL --max-steps 2",
    "compare-survivors": "searches",
    "ablate-patterns": "MODEL --examples 20 --draws 3 --pattern-examples 4",
    "compare-heads": "OTHERS --examples 4 --maps raw",
    "train-classifier": "--annotations maps --epochs 1 --folds 2 --trees 0",
    "evaluate-classifier": "--annotations maps",
    "annotate-maps sample": "MODEL --examples 4 --count 4",
    "annotate-maps status": "maps",
    "annotate-maps agreement": "maps",
}
"""A short run of each command; below it, what writes nothing."""
SILENT = ("annotate-maps status", "evaluate-classifier")


@pytest.mark.parametrize("name", RUNS)
def test_sixty_columns_hold_it(
    name: str,
    home: Path,
    tuned: Path,
    study_materials: Path,
    tmp_path: Path,
    run_command: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    script, *sub = name.split()
    module, function = scripts[script].split(":")
    model = f"--model {tuned / 'model'} --task qqp --data {tuned / 'data'} --device cpu"
    tune = (
        f"--model {study_materials / 'model'} --task sst2 --data {study_materials / 'data'} --device cpu "
        "--epochs 1 --train-examples 16 --seeds 1 2"
    )
    others = f"{tuned / 'model'} other --task qqp --data {tuned / 'data'} --device cpu"
    words = RUNS[name].replace("MODEL", model).replace("TUNE", tune).replace("OTHERS", others).split()
    if not (home / "other").exists():
        shutil.copytree(tuned / "model", home / "other")
    monkeypatch.chdir(home)
    found = {}
    for columns in (60, 1000):
        monkeypatch.setenv("COLUMNS", str(columns))
        output = [] if name in SILENT else ["--output", tmp_path / f"out{columns}"]
        code, out, err = run_command(getattr(import_module(module), function), *sub, *words, *output)
        assert code == 0, err
        found[columns] = out.replace(f"out{columns}", "out")
    for line in found[60].splitlines():
        # A path or an address alone may be longer: it is whole.
        assert len(line) <= 60 or " " not in line.strip(), line
    wide, narrow = (Counter(NUMBERS.findall(found[columns])) for columns in (1000, 60))
    assert len(wide) > 2
    assert not wide - narrow


def test_a_large_score_table_fits(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    scores: dict[str, Any] = dict.fromkeys(("accuracy", "majority_accuracy", "macro_f1", "log_loss"), 0.5)
    scores |= {
        "maps": 99_999,
        "f1": dict.fromkeys(PATTERNS, 0.25),
        "support": dict.fromkeys(PATTERNS, 99_999),
    }
    _print_scores(scores | {"confusion": [[99_999 - i - 5 * j for i in range(5)] for j in range(5)]})
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 60
    assert {99_999 - i for i in range(25)} <= set(map(int, re.findall(r"\b\d{5}\b", out)))


def test_a_large_agreement_table_fits(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, home: Path
) -> None:
    from annotations.agreement.statistics import agreement

    monkeypatch.setenv("COLUMNS", "60")
    report = agreement(AnnotatedMaps.load(home / "maps"))
    for pair in report["pairs"]:
        pair["confusion"] = [[999_999 - i - 5 * j for i in range(5)] for j in range(5)]
    _print_agreement(report)
    out = capsys.readouterr().out
    assert all(len(line) <= 60 or " " not in line.strip() for line in out.splitlines())
    assert {999_999 - i for i in range(25)} <= set(map(int, re.findall(r"\b\d{6}\b", out)))


@pytest.mark.parametrize("task", TASKS)
def test_the_scores_of_every_task_fit(task: str) -> None:
    from models.tasks.metrics import baselines

    targets = np.array([0, 1, 1, 0])
    names = baselines(TASKS[task], targets, targets, seed=0)["majority"]
    names |= {f"mismatched_{name}": 0.5 for name in names} if task == "mnli" else {}
    result = {
        "task": task,
        "metric": "",
        "seed": 4_000_000_000,
        "scores": names,
        "baselines": {"majority": names, "random": names},
    }
    assert max(map(len, score_table([result, result | {"seed": 1}]).splitlines())) <= 60


def test_sentences_break_between_words_on_a_terminal_alone(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "word " * 20 + "x" * 70 + "\n\nshort"
    monkeypatch.delenv("COLUMNS", raising=False)
    print_text(text)
    assert capsys.readouterr().out == text + "\n"
    monkeypatch.setenv("COLUMNS", "60")
    print_text(text)
    lines = capsys.readouterr().out.splitlines()
    assert lines[2:] == ["  " + "x" * 70, "", "short"]
    assert [len(line) <= 60 for line in lines] == [True, True, False, True, True]
    assert " ".join(line.strip() for line in lines[:3]) == text.split("\n")[0]
