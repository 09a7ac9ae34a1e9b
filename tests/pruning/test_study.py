"""A whole study of a tiny model: its plan, its steps on disk, stopping, going on, and what is refused."""

from __future__ import annotations

import gc
import json
import random
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from models import InputError, Subnetwork
from models.weights import WeightMasks
from pruning import study_steps
from pruning.study import Materials, Plan, Step, plan_of
from pruning.study_cli import run_study
from pruning.study_config import STRUCTURED, Study, read_study
from pruning.study_folder import METRICS, StudyFolder
from pruning.study_run import RunStudy, estimates, read_plan

FILLERS = ("the", "film", "was", "rather", "long", "but", "really", "so", "and", "it", "is", "plot")
TOML = """
model = "{model}"
data = "{data}"
tasks = ["sst2", "mrpc"]
seeds = [1, 2]
max_length = 16
searches = ["heads-and-mlps", "weights"]

[fine_tuning]
epochs = 8
learning_rate = 3e-3
batch_size = 16

[structured]
head_step = 0.3

[magnitude]
fraction = 0.4
max_steps = 3

[subnetworks]
structured = ["good", "random"]
magnitude = ["good"]

[patterns]
maps = ["raw"]
examples = 6
permutations = 99
"""


@pytest.fixture(autouse=True, scope="module")
def little_garbage() -> Iterator[None]:
    """The Trainer collects garbage before each run: half of a test's time, if it looked at all that is imported."""
    import datasets  # noqa: F401
    import sklearn.metrics  # noqa: F401
    import transformers.trainer  # noqa: F401

    gc.freeze()
    yield
    gc.unfreeze()


def write_rows(folder: Path, n: int = 48) -> Path:
    """A text is of class 1 if it says good, of class 0 if it says bad."""
    for task in ("sst2", "mrpc"):
        (folder / task).mkdir(parents=True)
        for split, rows in (("train", n), ("validation", n // 2)):
            draw = random.Random(f"{task}/{split}")
            lines = []
            for i in range(rows):
                words = draw.choices(FILLERS, k=draw.randint(2, 6))
                words.insert(draw.randint(0, len(words)), "good" if i % 2 else "bad")
                text = " ".join(words)
                row = {"sentence": text} if task == "sst2" else {"sentence1": "the film", "sentence2": text}
                lines.append(json.dumps({**row, "label": i % 2, "idx": i}) + "\n")
            (folder / task / f"{split}.jsonl").write_text("".join(lines))
    return folder


@pytest.fixture(scope="module")
def materials(tmp_path_factory: pytest.TempPathFactory, all_tiny: Any, tiny_tokenizer: Any) -> Path:
    """A folder with ``model``, ``data`` and ``study.toml``."""
    from transformers import AutoModel

    home = tmp_path_factory.mktemp("materials")
    config = all_tiny["bert"].config.__class__(**all_tiny["bert"].config.to_diff_dict())
    config.update({"initializer_range": 0.1})
    torch.manual_seed(7)
    AutoModel.from_config(config).save_pretrained(home / "model")
    tiny_tokenizer.save_pretrained(home / "model")
    write_rows(home / "data")
    (home / "study.toml").write_text(TOML.format(model=home / "model", data=home / "data"))
    return home


@pytest.fixture
def study(materials: Path) -> Study:
    return read_study(materials / "study.toml")


@pytest.fixture(scope="module")
def finished(materials: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a study that was run in this process."""
    folder = tmp_path_factory.mktemp("finished") / "study"
    done = RunStudy(read_study(materials / "study.toml"), folder).run()
    assert done["done"] == done["steps"] == 42, done
    return folder


def test_report(finished):
    from pruning.study_report import write_report
    from pruning.study_tables import print_report
    print_report(write_report(finished))
    import subprocess
    subprocess.run(f"rm -rf /tmp/dev/st/tiny; cp -r {finished} /tmp/dev/st/tiny; find /tmp/dev/st/tiny/report", shell=True)
