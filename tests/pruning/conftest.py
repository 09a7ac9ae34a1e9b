"""A tiny model that has learned its task, since the task's labels are what it says; and a whole tiny study."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import write_rows

import pruning
from pruning.study.config import read_study
from pruning.study.job import RunStudy
from pruning.study.report.outcome import StudyReport

TOML = """
model = "{home}/model"
data = "{home}/data"
tasks = {tasks}
seeds = [1, 2]
max_length = 16
{top}
[fine_tuning]
epochs = 6
learning_rate = 3e-3
batch_size = 16

[structured]
head_step = 0.3
{tables}
"""
TABLES = """
[magnitude]
fraction = 0.4
max_steps = 3

[subnetworks]
structured = ["good", "random"]
magnitude = []

[patterns]
maps = ["raw"]
examples = 6
permutations = 99
"""


@pytest.fixture(scope="session")
def make_study(tmp_path_factory: pytest.TempPathFactory, all_tiny: Any, tiny_tokenizer: Any) -> Any:
    """Make a folder with ``model``, which learns quickly, ``data`` and ``study.toml``: ``make(tables, *tasks)``.

    To the file go `tables` and, at its top, what `top` says.
    """
    from transformers import AutoModel

    def make(tables: str, *tasks: str, top: str = "") -> Path:
        home = tmp_path_factory.mktemp("materials")
        config = all_tiny["bert"].config.__class__(**all_tiny["bert"].config.to_diff_dict())
        config.update({"initializer_range": 0.1})
        torch.manual_seed(7)
        AutoModel.from_config(config).save_pretrained(home / "model")
        tiny_tokenizer.save_pretrained(home / "model")
        write_rows(home / "data", *tasks)
        text = TOML.format(home=home, tasks=json.dumps(tasks), top=top, tables=tables)
        (home / "study.toml").write_text(text)
        return home

    return make


@pytest.fixture(scope="session")
def study_materials(make_study: Any) -> Path:
    """A folder with ``model``, ``data`` and ``study.toml``."""
    home: Path = make_study(TABLES, "sst2", "mrpc", top='searches = ["heads-and-mlps", "weights"]')
    return home


@pytest.fixture(scope="session")
def finished_study(study_materials: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a study that was run in this process."""
    folder = tmp_path_factory.mktemp("finished") / "study"
    done = RunStudy(read_study(study_materials / "study.toml"), folder).run()
    assert done["done"] == done["steps"] == 34, done
    return folder


@pytest.fixture(scope="session")
def study_report(finished_study: Path, tmp_path_factory: pytest.TempPathFactory) -> StudyReport:
    """The report of a copy of the finished study; it takes seconds to make."""
    folder = shutil.copytree(finished_study, tmp_path_factory.mktemp("reported") / "study")
    return pruning.write_report(folder)


@pytest.fixture(scope="session")
def reported_study(study_report: StudyReport) -> Path:
    """The finished study with its report; copy it before you change it."""
    return study_report.place.parent


def words(number: int, seed: int) -> list[str]:
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(3, 9, (number,), generator=generator)
    return [
        " ".join(f"w{int(i)}" for i in torch.randint(0, 40, (int(n),), generator=generator)) for n in lengths
    ]


@pytest.fixture(scope="session")
def tuned(tmp_path_factory: pytest.TempPathFactory, all_tiny: Any) -> Path:
    """A folder with ``model``, a tiny BERT for QQP, and ``data/qqp/validation.jsonl``, 60 rows of two classes."""
    from tokenizers import BertWordPieceTokenizer
    from transformers import BertForSequenceClassification, BertTokenizerFast

    home = tmp_path_factory.mktemp("tuned")
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    vocabulary = {token: i for i, token in enumerate([*special, *(f"w{i}" for i in range(40))])}
    tokenizer = BertTokenizerFast(tokenizer_object=BertWordPieceTokenizer(vocab=vocabulary)._tokenizer)
    config = all_tiny["bert"].config.__class__(
        **{
            **all_tiny["bert"].config.to_diff_dict(),
            "num_labels": 2,
            "id2label": {0: "not_duplicate", 1: "duplicate"},
            "label2id": {"not_duplicate": 0, "duplicate": 1},
        }
    )
    model = BertForSequenceClassification(config)
    generator = torch.Generator().manual_seed(19)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            centre = 1.0 if "LayerNorm.weight" in name else 0.0
            # What attention and MLPs add is small, so that some of it can go before the labels change.
            spread = 0.05 if "output.dense" in name else 0.25
            parameter.copy_(centre + torch.randn(parameter.shape, generator=generator) * spread)
    model.eval()
    rows = [{"question1": a, "question2": b} for a, b in zip(words(60, 1), words(60, 2), strict=True)]
    with torch.no_grad():
        batch = tokenizer(
            [r["question1"] for r in rows], [r["question2"] for r in rows], padding=True, return_tensors="pt"
        )
        logits = model(**batch).logits
    margin = logits[:, 1] - logits[:, 0]
    middle = margin.sort().values[29:31].mean()
    with torch.no_grad():  # half of the rows in each class
        model.classifier.bias[1] -= middle
    labels = (margin > middle).long().tolist()
    (home / "data" / "qqp").mkdir(parents=True)
    (home / "data" / "qqp" / "validation.jsonl").write_text(
        "".join(
            json.dumps({**row, "label": label, "idx": i}) + "\n"
            for i, (row, label) in enumerate(zip(rows, labels, strict=True))
        )
    )
    model.save_pretrained(home / "model")
    tokenizer.save_pretrained(home / "model")
    (home / "model" / "metrics.json").write_text(json.dumps({"seed": 42}))
    return home
