"""True labels and annotators' errors from what several annotators said (Dawid & Skene 1979).

Each annotator has a confusion matrix of their own, and given the true label annotators err independently. The
labels, the matrices and the shares of the classes are estimated together by expectation maximisation, from
the shares of votes. The library that has this (crowd-kit) brings a second stack of text tools along.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

_STEPS = 500
_CLOSE = 1e-8


class Estimate(NamedTuple):
    """What :func:`dawid_skene` returns."""

    probabilities: npt.NDArray[np.float64]
    """``[N, C]``: of each true label; an item without any vote has the shares."""
    confusions: npt.NDArray[np.float64]
    """``[A, C, C]``: how likely each annotator says a class (column) of an item of a class (row)."""
    shares: npt.NDArray[np.float64]
    """``[C]``: of the classes."""


def dawid_skene(votes: npt.NDArray[np.integer], classes: int) -> Estimate:
    """Estimate labels and errors.

    Args:
        votes: ``[N, A]``: what each annotator said of each item, from 0; -1 for nothing.
        classes: their number.

    A row of a confusion matrix about which nothing is known is uniform.
    """
    said = (votes[:, :, None] == np.arange(classes)).astype(float)  # [N, A, C]
    counts = said.sum(axis=1)
    voted = counts.any(axis=1)
    if not voted.any():
        uniform = np.full(classes, 1 / classes)
        flat = np.full((votes.shape[1], classes, classes), 1 / classes)
        return Estimate(np.tile(uniform, (len(votes), 1)), flat, uniform)
    said, counts = said[voted], counts[voted]
    probabilities = counts / counts.sum(axis=1, keepdims=True)
    for _ in range(_STEPS):
        shares = probabilities.mean(axis=0)
        confusions = np.einsum("nc,nak->ack", probabilities, said)
        total = confusions.sum(axis=2, keepdims=True)
        confusions = np.where(total > 1e-12, confusions / np.maximum(total, 1e-12), 1 / classes)
        with np.errstate(divide="ignore"):
            logs = np.log(shares) + np.einsum("nak,ack->nc", said, np.log(np.maximum(confusions, 1e-300)))
        before, probabilities = probabilities, np.exp(logs - logs.max(axis=1, keepdims=True))
        probabilities /= probabilities.sum(axis=1, keepdims=True)
        if np.abs(probabilities - before).max() < _CLOSE:
            break
    whole = np.tile(shares, (len(votes), 1))
    whole[voted] = probabilities
    return Estimate(whole, confusions, shares)
