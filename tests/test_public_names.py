"""What users read imports what is public, and each function of a job takes what the job does."""

from __future__ import annotations

import ast
import importlib
import inspect
import json
import re
import textwrap
import typing
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

import annotations
import models
import patterns
import pruning
from models import FineTuning, InputError

ROOT = Path(__file__).parents[1]
ROOMS: dict[str, Any] = {room.__name__: room for room in (models, patterns, annotations, pruning)}
SHOWN = sorted(
    path
    for pattern in (
        "*.md",
        "docs/**/*.md",
        "examples/**/*.md",
        "examples/**/*.ipynb",
        "patterns/weights/*/README.md",
    )
    for path in ROOT.glob(pattern)
)
"""Every text that a user may copy code from."""


def code_of(path: Path) -> Iterator[str]:
    """Yield the Python in a notebook's cells, or a text's fenced blocks, and what is called within its sentences."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".ipynb":
        for cell in json.loads(text)["cells"]:
            if cell["cell_type"] == "code":
                yield "".join(cell["source"])
        return
    yield from re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    for inline in re.findall(r"`([^`\n]+)`", text):
        if inline.startswith(("from ", "import ")):
            yield inline
        yield from re.findall(rf"\b(?:{'|'.join(ROOMS)})\.\w+(?=[.\w]*\()", inline)


def hidden(code: str) -> list[str]:
    """Return what the code takes from a room that is none of the room's public names."""
    found = []
    tree = ast.parse(textwrap.dedent(code))
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            room, _, inside = node.module.partition(".")
            if room in ROOMS:
                names = [inside.split(".")[0]] if inside else [alias.name for alias in node.names]
                found += [f"{room}.{name}" for name in names if name not in ROOMS[room].__all__]
        elif isinstance(node, ast.Import):
            parts = (alias.name.split(".") for alias in node.names)
            found += [
                ".".join(part[:2])
                for part in parts
                if part[0] in ROOMS and part[1:] and part[1] not in ROOMS[part[0]].__all__
            ]
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            room = node.value.id
            if room in ROOMS and node.attr not in ROOMS[room].__all__:
                found.append(f"{room}.{node.attr}")
    return found


@pytest.mark.parametrize("path", SHOWN, ids=[str(path.relative_to(ROOT)) for path in SHOWN])
def test_shown_code_takes_public_names_alone(path: Path) -> None:
    for code in code_of(path):
        assert hidden(code) == [], code


def test_there_is_code_to_look_at() -> None:
    found = {path.name: len(list(code_of(path))) for path in SHOWN}
    assert found["tour.ipynb"] > 10
    assert sum(path.suffix == ".md" for path in SHOWN) > 5
    assert found["classify.md"] > 2


@pytest.mark.parametrize(
    ("code", "names"),
    [
        ("from patterns.job import ClassifyHeads", ["patterns.job"]),
        ("import pruning.comparison.figures", ["pruning.comparison"]),
        ("import pruning\npruning.figures.pattern_bars({})", ["pruning.figures"]),
        ("from annotations import stages", ["annotations.stages"]),
        ("from pruning.stability import fleiss_kappa\nfrom models import save\nimport json", []),
    ],
)
def test_names_that_are_not_public_are_seen(code: str, names: list[str]) -> None:
    assert hidden(code) == names


def jobs() -> dict[str, tuple[Any, tuple[type[Any], ...], set[str]]]:
    """By function: itself, the dataclasses of its job, and the fields that it does not take as they are."""
    from annotations.agreement.job import MeasureAgreement
    from annotations.label_studio.import_export import Export, Import
    from annotations.label_studio.push_pull import Pull, Push
    from annotations.sampling.job import SampleMaps
    from annotations.training.job import EvaluateClassifier, TrainClassifier
    from models.common.papers import Figures
    from models.finetuning.job import FineTuneGlue
    from patterns.classifier.training import Training
    from patterns.job import ClassifyHeads

    return {
        "sample": (annotations.sample_maps, (SampleMaps,), set()),
        "push": (annotations.push_maps, (Push,), set()),
        "pull": (annotations.pull_labels, (Pull,), set()),
        "import": (annotations.import_labels, (Import,), set()),
        "export": (annotations.export_maps, (Export,), set()),
        "agreement": (annotations.measure_agreement, (MeasureAgreement, Figures), {"figures"}),
        "train-classifier": (annotations.train_classifier, (TrainClassifier, Training), {"training"}),
        "evaluate-classifier": (annotations.evaluate_classifier, (EvaluateClassifier,), set()),
        "finetune-glue": (models.finetune_glue, (FineTuneGlue, FineTuning, Figures), {"settings", "figures"}),
        "classify-heads": (patterns.classify_checkpoint, (ClassifyHeads, Figures), {"figures"}),
        "classify-heads --stack cross": (
            patterns.measure_cross_attention,
            (ClassifyHeads, Figures),
            {"figures"},
        ),
    }


@pytest.mark.parametrize("command", jobs())
def test_a_function_takes_the_options_of_its_job(command: str) -> None:
    function, classes, not_taken = jobs()[command]
    named = inspect.signature(function).parameters
    taken = set(named) - {"progress", "options"}
    if "options" in named:
        module = importlib.import_module(function.__module__)
        options = typing.get_args(eval(function.__annotations__["options"], vars(module)))[0]
        assert not taken & set(options.__annotations__)
        taken |= set(options.__annotations__)
    assert taken == {field.name for job in classes for field in fields(job)} - not_taken


def test_every_command_has_a_public_function() -> None:
    import tomllib

    import typer.main

    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    words = set()
    for name, where in scripts.items():
        module, function = where.split(":")
        click: Any = typer.main.get_command(getattr(importlib.import_module(module), function).app)
        words |= set(click.commands) if hasattr(click, "commands") else {name}
    elsewhere = {  # without a dataclass of options, or with several (tests/pruning/test_jobs.py)
        "status": annotations.labelling_status,
        "prune-heads": pruning.prune_heads,
        "prune-weights": pruning.prune_weights,
        "ablate-patterns": pruning.ablate_patterns,
        "compare-survivors": pruning.compare_survivors,
        "compare-heads": patterns.compare_heads,
        "run-study": pruning.run_study,
    }
    assert words == {name.partition(" ")[0] for name in jobs()} | elsewhere.keys()


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (
            lambda: annotations.sample_maps("m", "qqp", "o", cuont=3),
            r"sample_maps\(\) has no option 'cuont'.*count",
        ),
        (lambda: annotations.push_maps("m", "heads", token="t", blnid=True), r"push_maps\(\) has no .*blind"),
        (lambda: annotations.export_maps("m", "o", fmt="csv"), r"export_maps\(\) has no .*format"),
        (lambda: annotations.measure_agreement("m", kind="raw"), r"measure_agreement\(\) has no .*maps"),
        (lambda: annotations.measure_agreement(), "at least one folder"),
        (lambda: annotations.train_classifier("m", output="o", training=3), r"no option 'training'.*epochs"),
        (lambda: annotations.evaluate_classifier(), "at least one folder"),
        (lambda: patterns.classify_checkpoint("m", "qqp", task_name="x"), "has no option 'task_name'"),
        (lambda: models.finetune_glue("m", "qqp", "o", epoch=3), r"finetune_glue\(\) has no .*epochs"),
        (lambda: models.finetune_glue("m", "qqp", "o", seeds=(1, 1)), "give each seed once"),
        (lambda: models.finetune_glue("m", "qpq", "o"), "qpq"),
        (lambda: pruning.run_study("study.toml", job=2), r"run_study\(\) has no option 'job'.*jobs"),
    ],
)
def test_what_a_function_does_not_take_is_named(
    call: Any, match: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=match):
        call()
    assert not list(tmp_path.iterdir())
