"""What tests of several rooms share: words that the tiny tokenizer knows, rows of them, weights that are not zero."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from models.tasks.task import task_named
from patterns import Pattern

FILLERS = ("the", "film", "was", "rather", "long", "but", "really", "so", "and", "it", "is", "plot")
WORDS = ("good", "bad", *FILLERS)


def write_rows(folder: Path, *tasks: str, train: int = 64, dev: int = 32) -> Path:
    """Write rows of tasks whose last text is of class 1 if it says good, and of class 0 if it says bad."""
    for task in tasks:
        (folder / task).mkdir(parents=True)
        *others, last = task_named(task).columns
        for split, number in (("train", train), ("validation", dev)):
            draw = random.Random(f"{task}/{split}")
            lines = []
            for i in range(number):
                words = draw.choices(FILLERS, k=draw.randint(2, 6))
                words.insert(draw.randint(0, len(words)), "good" if i % 2 else "bad")
                row = {**dict.fromkeys(others, "the film"), last: " ".join(words), "label": i % 2, "idx": i}
                lines.append(json.dumps(row) + "\n")
            (folder / task / f"{split}.jsonl").write_text("".join(lines))
    return folder


def head_frame(layers: int, heads: int, kinds: tuple[str, ...] = ("norm", "raw")) -> pd.DataFrame:
    """A row a head, as figures and tables take them: every pattern in turn, with shares from 0.3 to 1.0."""
    rows = [
        (kind, layer, head, list(Pattern)[(layer * heads + head + len(kind)) % 5], 0.3 + 0.1 * (head % 8))
        for kind in kinds
        for layer in range(layers)
        for head in range(heads)
    ]
    return pd.DataFrame(rows, columns=["kind", "layer", "head", "dominant", "dominant_share"])


def snapshot(folder: Path) -> dict[str, bytes]:
    """The bytes of every file below a folder, by its path; links are not followed."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.is_symlink()
    }


def redraw(model: Any, seed: int = 7) -> Any:
    """Draw every parameter anew: a fresh model has zero biases and nearly uniform attention."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            spread = 0.2 if name.endswith("bias") else 0.5  # larger biases make all tokens alike
            centre = 1.0 if "norm" in name.lower() and name.endswith("weight") else 0.0
            parameter.copy_(centre + torch.randn(parameter.shape, generator=generator) * spread)
    return model.eval()
