"""The commands as functions: the same result as the command gives, and no option is dropped."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import pruning
from models import InputError, Subnetwork
from pruning.cli import prune_heads as prune_heads_command


def test_a_search_from_python_is_the_commands(tuned: Path, tmp_path: Path, run_command: Any) -> None:
    where = {"data": str(tuned / "data"), "device": "cpu"}
    done = pruning.prune_heads(
        str(tuned / "model"), "QQP", tmp_path / "a", what="heads", threshold=0.8, **where
    )
    code, _, err = run_command(
        prune_heads_command, "--model", tuned / "model", "--task", "qqp", "--output", tmp_path / "b",
        "--data", tuned / "data", "--device", "cpu", "--what", "heads", "--threshold", 0.8,
    )  # fmt: skip
    assert code == 0, err
    other = json.loads((tmp_path / "b" / "summary.json").read_text())
    assert {**done, "provenance": 0} == {**other, "provenance": 0}
    one, two = (Subnetwork.load(tmp_path / name / "subnetwork.safetensors") for name in "ab")
    assert one == two

    weights = pruning.prune_weights(
        str(tuned / "model"), "qqp", tmp_path / "w", fraction=0.5, max_steps=2, **where
    )
    assert weights["command"] == "prune-weights"
    assert (tmp_path / "w" / "weight_masks.safetensors").is_file()

    compared = pruning.compare_survivors(tmp_path / "a", task="qqp", seed=3)
    assert compared.summary["seed"] == 3
    assert list(compared.summary["tasks"]) == ["qqp"]


def test_an_unknown_option_is_named_with_those_that_there_are(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"prune_heads\(\) has no option 'treshold'; it has .*threshold"):
        pruning.prune_heads("m", "qqp", tmp_path / "o", treshold=0.5)
    with pytest.raises(InputError, match=r"compare_survivors\(\) has no option 'runs'"):
        pruning.compare_survivors("m", runs=3)


def test_the_smaller_model_is_saved_with_its_tokenizer(tuned: Path, tmp_path: Path, run_command: Any) -> None:
    """It answers as the gated model does, and every command takes its folder."""
    import torch
    from transformers import AutoModelForSequenceClassification

    from models import gated, load_checkpoint
    from patterns.cli import classify_heads

    words = ["--model", tuned / "model", "--task", "qqp", "--data", tuned / "data", "--device", "cpu"]
    words += ["--output", tmp_path / "search", "--save-model", tmp_path / "small"]
    assert run_command(prune_heads_command, *words)[0] == 0
    kept = Subnetwork.load(tmp_path / "search")
    small, whole = (load_checkpoint(str(f), task="qqp") for f in (tmp_path / "small", tuned / "model"))
    batch = small.tokenizer("w1 w2 w3", "w4 w5", return_tensors="pt")
    with torch.no_grad(), gated(whole.model, kept.heads, kept.mlps):
        expected = whole.model(**batch).logits
    with torch.no_grad():
        torch.testing.assert_close(small.model(**batch).logits, expected, rtol=0, atol=1e-5)
        plain = AutoModelForSequenceClassification.from_pretrained(tmp_path / "small")
        torch.testing.assert_close(plain(**batch).logits, expected, rtol=0, atol=1e-5)
    words = ["--task", "qqp", "--data", tuned / "data", "--device", "cpu", "--examples", 4, "--maps", "raw"]
    code, out, err = run_command(classify_heads, "--model", tmp_path / "small", *words)
    assert code == 0, err
    assert f"{kept.n_heads} of" in out
    code, _, err = run_command(
        classify_heads, "--model", tuned / "model", "--subnetwork", tmp_path / "search", *words
    )
    assert code == 0, err
    code, _, err = run_command(
        prune_heads_command, "--model", tuned / "model", "--task", "qqp", "--data", tuned / "data",
        "--output", tmp_path / "other", "--save-model", tuned / "model" / "small",
    )  # fmt: skip
    assert code == 2
    assert "--save-model" in err
    assert "which is read" in err
    assert not (tmp_path / "other").exists()
