"""Fine-tuning as its own processes: killed in the middle, and two at once."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from models import Subnetwork, load_checkpoint
from models.compaction import kept_of
from models.tasks.task import task_named
from models.weights import WeightMasks, prunable_weights

pytestmark = pytest.mark.slow
SST2 = task_named("sst2")
ROOT = Path(__file__).parents[3]


@pytest.fixture
def job(save_tiny: Any, tmp_path: Path) -> Any:
    """Start ``finetune-glue`` on a tiny model without dropout, in one process or in several."""
    base = save_tiny(
        labels=["negative", "positive"], hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0
    )
    words = ("good", "bad", "the film was rather long", "and the plot", "so is it")
    for split, n in (("train", 400), ("validation", 20)):
        rows = [{"sentence": " ".join(words[: 1 + i % 5]), "label": i % 2} for i in range(n)]
        (tmp_path / "data").mkdir(exist_ok=True)
        (tmp_path / "data" / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    script = tmp_path / "script.py"
    script.write_text("from models.finetuning.cli import finetune_glue\nfinetune_glue()\n")

    def start(out: Path, *more: Any, processes: int = 1) -> subprocess.Popen[str]:
        launcher = ["-m", "torch.distributed.run", "--nproc_per_node", processes] if processes > 1 else []
        options = [
            "--model", base, "--task", "sst2", "--data", tmp_path / "data", "--output", out, "--device", "cpu",
            "--batch-size", 8, "--learning-rate", 1e-3, "--checkpoint-steps", 5, *more,
        ]  # fmt: skip
        return subprocess.Popen(
            list(map(str, [sys.executable, *launcher, script, *options])),
            env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(out: Path, *more: Any, processes: int = 1) -> dict[str, torch.Tensor]:
        process = start(out, *more, processes=processes)
        _, stderr = process.communicate(timeout=300)
        assert process.returncode == 0, stderr
        weights = out / "model.safetensors"
        return load_file(weights if weights.is_file() else out / "headscope.safetensors")

    run.start = start  # type: ignore[attr-defined]
    run.base = base  # type: ignore[attr-defined]
    return run


def test_killed_it_goes_on_and_ends_as_if_nothing_had_happened(job: Any, tmp_path: Path) -> None:
    whole = job(tmp_path / "whole")
    out, checkpoints = tmp_path / "out", tmp_path / "out.partial" / "checkpoints"
    for least in (5, 60):
        process = job.start(out)
        while not any(
            int(p.parent.name.split("-")[1]) >= least for p in checkpoints.glob("*/headscope.json")
        ):
            assert process.poll() is None, process.communicate()[1]
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert not out.exists()
    after = job(out)
    assert all(torch.equal(tensor, after[name]) for name, tensor in whole.items())
    results = [json.loads((folder / "metrics.json").read_text()) for folder in (tmp_path / "whole", out)]
    assert results[0]["training"]["history"] == results[1]["training"]["history"]
    assert len(results[1]["training"]["resumed_at_steps"]) == 2


def test_two_processes_share_the_batches_and_hold_pruned_weights_at_zero(job: Any, tmp_path: Path) -> None:
    model = load_checkpoint(str(job.base), task=SST2).model
    draw = np.random.default_rng(0)
    masks = WeightMasks({name: draw.random(w.shape) < 0.6 for name, w in prunable_weights(model).items()})
    masks.save(tmp_path / "masks.safetensors")
    more = ("--subnetwork", tmp_path / "masks.safetensors", "--epochs", 1, "--weight-decay", 0.1)
    alone = job(tmp_path / "alone", *more)
    both = job(tmp_path / "both", *more, processes=2)
    after = load_checkpoint(str(tmp_path / "both"), task=SST2).model
    for name, weight in prunable_weights(after).items():
        assert not weight[~torch.tensor(masks.masks[name])].any()
    close = [torch.isclose(tensor, both[name], atol=2e-3).float().mean() for name, tensor in alone.items()]
    assert np.mean(close) > 0.98
    results = [json.loads((tmp_path / n / "metrics.json").read_text()) for n in ("alone", "both")]
    losses = [one["training"]["history"][0]["loss"] for one in results]
    assert losses[0] == pytest.approx(losses[1], rel=0.02)
    assert [one["provenance"]["processes"] for one in results] == [1, 2]


def test_two_processes_train_what_is_left_after_cutting_out(job: Any, tmp_path: Path) -> None:
    heads = np.array([[1, 0, 0, 1], [0, 0, 0, 0], [1, 1, 1, 1]], dtype=bool)
    subnetwork = Subnetwork(heads, np.array([True, False, True]))
    subnetwork.save(tmp_path / "half.safetensors")
    job(tmp_path / "out", "--subnetwork", tmp_path / "half.safetensors", "--epochs", 1, processes=2)
    assert kept_of(load_checkpoint(str(tmp_path / "out"), task=SST2).model) == subnetwork
    assert not (tmp_path / "out.partial").exists()
