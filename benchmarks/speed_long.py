"""What classifying costs on a long input: one of 4,096 tokens, in blocks of queries against whole maps.

The shape of SmolLM2-135M, of which three layers are enough, with random weights. :mod:`speed` runs it with the rest.
Peak memory is that above a plain forward pass, one process a variant.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from speed_pruning import interleaved

from models.anatomy import anatomy_of
from models.tap import observe
from patterns.classifier.network import load_classifier
from patterns.heads import Classification
from patterns.taxonomy import KINDS, PATTERNS

BARS = {
    "long_memory": ("at most", 0.1),
    "long_time": ("at most", 1.0),
}
VARIANTS = ("forward", "whole", "blocks")
_TOKENS = 4096


class Whole(Classification):
    """The observer that wants every map whole, as all did before there were blocks."""

    in_blocks = False  # type: ignore[assignment]


def variants(small: bool) -> dict[str, Callable[[], None]]:
    """A plain forward pass, and one whose maps are classified, whole and in blocks."""
    from transformers import LlamaConfig, LlamaModel

    torch.manual_seed(0)
    shape = {
        "hidden_size": 576,
        "intermediate_size": 1536,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
    }
    n = _TOKENS // 2 if small else _TOKENS
    config = LlamaConfig(
        **shape, num_hidden_layers=1 if small else 3, vocab_size=1000, max_position_embeddings=_TOKENS
    )
    model = LlamaModel(config).eval()
    batch: dict[str, Any] = {"input_ids": torch.randint(0, 1000, (1, n)), "use_cache": False}
    anatomy = anatomy_of(model)
    kept = {
        kind: np.empty((1, anatomy.n_layers, anatomy.n_heads, len(PATTERNS)), np.float32) for kind in KINDS
    }
    classifiers = {kind: load_classifier(kind) for kind in KINDS}

    def classified(observer: type[Classification]) -> Callable[[], None]:
        seen = observer(anatomy, classifiers, kept)
        seen.start([0], torch.tensor([n]))

        def run() -> None:
            with torch.inference_mode(), observe(model, seen):
                model(**batch)

        return run

    def forward() -> None:
        with torch.inference_mode():
            model(**batch)

    return {"forward": forward, "whole": classified(Whole), "blocks": classified(Classification)}


def long_ratios(script: str, small: bool, repeats: int) -> dict[str, float | None]:
    """Return time and peak extra memory of blocks over whole maps.

    Args:
        script: prints, with ``--peak long-VARIANT``, the bytes that a variant takes at its peak.
        small: half as many tokens, one layer.
        repeats: of the timing.
    """
    seconds = interleaved(variants(small), repeats)
    return {"long_time": seconds["blocks"] / seconds["whole"], "long_memory": _memory(script, small)}


def _memory(script: str, small: bool) -> float | None:
    if not Path("/proc/self/clear_refs").exists():
        return None  # measured on Linux only
    peaks = {}
    for name in VARIANTS:
        command = [sys.executable, script, "--peak", f"long-{name}", *(["--small"] if small else [])]
        peaks[name] = int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    return (peaks["blocks"] - peaks["forward"]) / (peaks["whole"] - peaks["forward"])
