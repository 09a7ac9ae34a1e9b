"""How good predicted patterns are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from .taxonomy import PATTERNS, Pattern


def score(labels: Sequence[Pattern], probabilities: npt.NDArray[np.floating]) -> dict[str, Any]:
    """Compare probabilities ``[N, 5]`` with labels.

    Returns:
        ``maps``; ``accuracy``; ``majority_accuracy`` (always the commonest label); ``macro_f1`` over the
        patterns that occur among labels or predictions; ``log_loss``; ``f1`` and ``support`` per pattern;
        ``confusion`` ``[5][5]``, rows labels, columns predictions, in Pattern order.
    """
    from sklearn.metrics import confusion_matrix, f1_score, log_loss

    truth = np.array([PATTERNS.index(label) for label in labels])
    found = probabilities.argmax(axis=1)
    every = range(len(PATTERNS))
    support = np.bincount(truth, minlength=len(PATTERNS))
    f1 = f1_score(truth, found, labels=every, average=None, zero_division=0)
    occurring = sorted({*truth.tolist(), *found.tolist()})
    total = probabilities.sum(axis=1, keepdims=True)
    return {
        "maps": len(truth),
        "accuracy": float((truth == found).mean()),
        "majority_accuracy": float(support.max() / len(truth)),
        "macro_f1": float(np.mean(f1[occurring])),
        "log_loss": float(log_loss(truth, probabilities / total, labels=list(every))),
        "f1": {pattern.value: float(f1[i]) for i, pattern in enumerate(PATTERNS)},
        "support": {pattern.value: int(support[i]) for i, pattern in enumerate(PATTERNS)},
        "confusion": confusion_matrix(truth, found, labels=list(every)).tolist(),
    }
