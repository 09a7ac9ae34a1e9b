"""A search that closes gates, since nothing can be cut out exactly or on demand, ends and goes on as any other."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from conformance import FAMILIES, config_of, redraw
from tiny import write_rows

from models import Subnetwork, gated, load_checkpoint
from models.evaluation import examples_of, predict
from models.tasks.rows import load_rows
from models.tasks.task import task_named
from pruning.cli import prune_heads

BY_TYPE = {family.model_type: family for family in FAMILIES}


@pytest.fixture(params=["mpnet", "mixtral"])  # one without exact cuts of heads, one of MLPs
def materials(request: pytest.FixtureRequest, tmp_path: Path, tiny_tokenizer: Any) -> Path:
    """A folder with ``model``, a classifier of two labels, and ``data``."""
    from transformers import AutoModelForSequenceClassification

    config = config_of(BY_TYPE[request.param])
    config.pad_token_id = 0
    config.id2label, config.label2id = {0: "0", 1: "1"}, {"0": 0, "1": 1}
    model = redraw(AutoModelForSequenceClassification.from_config(config))
    model.save_pretrained(tmp_path / "model")
    tiny_tokenizer.save_pretrained(tmp_path / "model")
    write_rows(tmp_path / "data", "sst2")
    return tmp_path


def words_for(home: Path, output: Path, *more: Any) -> tuple[Any, ...]:
    return (
        *("--model", home / "model", "--task", "sst2", "--data", home / "data", "--output", output),
        *("--device", "cpu", "--threshold", "0.7", *more),
    )


def outcome(folder: Path) -> tuple[Subnetwork, float, list[Any]]:
    history = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
    kept = Subnetwork.load(folder / "subnetwork.safetensors")
    said = [{name: value for name, value in one.items() if name != "seconds"} for one in history]
    return kept, json.loads((folder / "summary.json").read_text())["score"], said


def interrupted(folder: Path, copy: Path, records: int) -> None:
    """Leave a copy of a search as if it had been killed after so many iterations."""
    shutil.copytree(folder, copy)
    for name in ("summary.json", "subnetwork.safetensors"):
        (copy / name).unlink()
    lines = (folder / "history.jsonl").read_text().splitlines(keepends=True)
    assert len(lines) > records
    (copy / "history.jsonl").write_text("".join(lines[:records]))


def test_what_cannot_be_cut_out_is_gated(materials: Path, tmp_path: Path, run_command: Any) -> None:
    code, _, err = run_command(prune_heads, *words_for(materials, tmp_path / "out"))
    assert code == 0, err
    kept, score, _ = outcome(tmp_path / "out")
    assert kept.n_heads < 12
    task = task_named("sst2")
    checkpoint = load_checkpoint(str(materials / "model"), task=task)
    examples = examples_of(checkpoint, task, load_rows(task, materials / "data").rows)
    with torch.no_grad(), gated(checkpoint.model, kept.heads, kept.mlps):
        logits = predict(checkpoint.model, examples)
    assert score == pytest.approx(float((logits.argmax(1) == examples.targets).mean()))

    interrupted(tmp_path / "out", tmp_path / "again", 2)
    code, _, err = run_command(prune_heads, *words_for(materials, tmp_path / "again"))
    assert code == 0, err
    assert outcome(tmp_path / "again") == outcome(tmp_path / "out")


def test_a_smaller_model_that_cannot_be_is_refused_before_the_search(
    materials: Path, tmp_path: Path, run_command: Any
) -> None:
    words = words_for(materials, tmp_path / "out", "--save-model", tmp_path / "small")
    code, _, err = run_command(prune_heads, *words)
    assert code == 2
    assert "--save-model" in err
    assert "cut out" in err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("options", [("--no-compaction",), ("--protocol", "as-released")])
def test_a_search_by_gates_is_continued(
    options: tuple[str, ...], tuned: Path, tmp_path: Path, run_command: Any
) -> None:
    """Gates that are closed have gradients too, which were taken for another search's."""
    words = (
        "--model",
        tuned / "model",
        "--task",
        "qqp",
        "--data",
        tuned / "data",
        "--device",
        "cpu",
        *options,
    )
    code, _, err = run_command(prune_heads, *words, "--output", tmp_path / "out")
    assert code == 0, err
    interrupted(tmp_path / "out", tmp_path / "again", 3)
    code, _, err = run_command(prune_heads, *words, "--output", tmp_path / "again")
    assert code == 0, err
    assert outcome(tmp_path / "again") == outcome(tmp_path / "out")
