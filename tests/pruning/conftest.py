"""A tiny model that has learned its task, since the task's labels are what it says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch


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
