"""What gates, importances and smaller models cost and save, as ratios measured in the same run.

BERT-base shape with a classification head and random weights. :mod:`speed` runs it with the rest.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median
from typing import Any

import numpy as np
import torch

from models.compaction import compact, size_share
from models.gating import gated
from models.subnetwork import Subnetwork
from pruning.importance import head_importance
from pruning.structured import Measurement, StructuredSearch

BARS = {
    "importance": ("at most", 0.75),
    "gated": ("at most", 1.05),
    "compacted_of_ideal": ("at least", 0.95),  # norms and residual sums do not shrink
    "search_compacting": ("at most", 0.75),
}
_STEPS = 6  # of the joint phase, as many as published searches took


def build(small: bool, batch_size: int = 8) -> tuple[Any, dict[str, torch.Tensor]]:
    """A model with two classes, and a batch of 128 tokens with labels."""
    from transformers import BertConfig, BertForSequenceClassification

    torch.manual_seed(0)
    shape = {"num_hidden_layers": 3, "hidden_size": 96, "intermediate_size": 128} if small else {}
    model = BertForSequenceClassification(BertConfig(**shape, num_labels=2)).eval()
    ids = torch.randint(1000, 30000, (batch_size, 16 if small else 128))
    return model, {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "labels": torch.randint(0, 2, (batch_size,)),
    }


def interleaved(variants: dict[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    """Median seconds of each variant; the first round warms up and is not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for repeat in range(repeats + 1):
        for name, run in variants.items():
            start = time.perf_counter()
            run()
            if repeat:
                seconds[name].append(time.perf_counter() - start)
    return {name: median(values) for name, values in seconds.items()}


def pruning_ratios(small: bool, repeats: int) -> dict[str, float]:
    """Return importance and gates against plain passes, a smaller model against the ideal, and two searches."""
    model, batch = build(small)
    inputs = {name: values for name, values in batch.items() if name != "labels"}
    full = Subnetwork.full(model)

    def trained() -> None:
        model.zero_grad(set_to_none=True)
        model(**batch).loss.backward()

    def forward() -> None:
        with torch.inference_mode():
            model(**inputs)

    def with_gates() -> None:
        with torch.inference_mode(), gated(model, full.heads, full.mlps):
            model(**inputs)

    passes = interleaved(
        {
            "trained": trained,
            "importance": lambda: head_importance(model, [batch]),
            "forward": forward,
            "gated": with_gates,
        },
        repeats,
    )
    model.zero_grad(set_to_none=True)
    heads, mlps = full.heads.copy(), full.mlps.copy()
    heads[:, ::2] = mlps[::2] = False
    half = Subnetwork(heads, mlps)
    _, sixteen = build(small, 16)
    sixteen.pop("labels")
    small_model = compact(model, half)
    with torch.inference_mode():
        sizes = interleaved(
            {"full": lambda: model(**sixteen), "half": lambda: small_model(**sixteen)}, repeats
        )
    speedup = sizes["full"] / sizes["half"]
    return {
        "importance": passes["importance"] / passes["trained"],
        "gated": passes["gated"] / passes["forward"],
        "compacted_speedup": speedup,
        "compacted_of_ideal": speedup * size_share(model, half, sixteen["input_ids"].shape[1]).flops,
        "search_compacting": search_ratio(model, batch, full),
    }


def search_ratio(model: Any, batch: dict[str, torch.Tensor], full: Subnetwork) -> float:
    """Seconds of a whole search that takes out what is pruned, over those of one that gates it to zero."""

    def search(compacting: bool) -> tuple[float, list[Subnetwork]]:
        seen: list[Subnetwork] = []

        def measure(subnetwork: Subnetwork) -> Measurement:
            found = (
                head_importance(compact(model, subnetwork), [batch])
                if compacting
                else head_importance(model, [batch], subnetwork=subnetwork)
            )
            seen.append(subnetwork)
            # A random model has no score to hold: each phase ends after so many steps.
            return Measurement(0.0 if len(seen) in (_STEPS + 2, _STEPS + 4) else 1.0, found)

        start = time.perf_counter()
        for _ in zip(range(_STEPS + 5), StructuredSearch().run(full, measure), strict=False):
            pass
        return time.perf_counter() - start, seen

    search(True)  # warms up
    (fast, one), (slow, other) = search(True), search(False)
    assert all(np.array_equal(a.heads, b.heads) for a, b in zip(one, other, strict=True)), "other masks"
    return fast / slow
