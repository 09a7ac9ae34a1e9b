"""Small classifiers in place of the shipped ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from patterns import PatternClassifier


@pytest.fixture(scope="module")
def quick_classifiers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Untrained small networks that call maps all sorts of things, in place of the shipped ones."""
    folder = tmp_path_factory.mktemp("weights")
    for kind in ("raw", "norm"):
        torch.manual_seed(4)
        classifier = PatternClassifier(kind, stages=((2,), (4,))).eval()
        with torch.no_grad():
            head = classifier.network.head[-1]
            head.weight *= 20
            maps = [values / values.max() for values in np.random.default_rng(0).random((20, 16, 16))]
            head.bias -= torch.log(torch.from_numpy(classifier.predict_proba(maps))).mean(dim=0)
        classifier.save_pretrained(folder / kind)
    return folder


@pytest.fixture(autouse=True)
def quick(quick_classifiers: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("patterns.classifier.network.SHIPPED", quick_classifiers)
