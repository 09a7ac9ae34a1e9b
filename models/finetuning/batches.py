"""Which rows make a batch of a fine-tuning, and how they become one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch.utils.data import Sampler

from ..evaluation import Examples
from ..tasks.inputs import Encoded, padded

Row = tuple[Encoded, float | int]
"""An input that is tokenised already, and its label."""


def training_rows(examples: Examples) -> list[Row]:
    """Return what the Trainer takes: a list of rows."""
    return list(zip(examples.encoded, examples.targets.tolist(), strict=True))


class Collator:
    """Makes a batch of rows: model inputs ``[B, n]``, padded on the right, and ``labels`` ``[B]``."""

    def __init__(self, pad_token_id: int) -> None:
        self.pad_token_id = pad_token_id

    def __call__(self, rows: Sequence[Row]) -> dict[str, torch.Tensor]:
        """Return the batch."""
        batch = padded([encoded for encoded, _ in rows], self.pad_token_id)
        return {**batch, "labels": torch.tensor([label for _, label in rows])}


class LengthGroups(Sampler[int]):
    """Row numbers, so that each ``batch_size`` of them in turn are inputs of like length, in random order.

    Without `sort`, they are in random order and no more.

    Rows are shuffled, sorted by length within pools of up to 50 batches, and the batches shuffled. The library's
    own sampler leaves the batches of a pool in order of length, from which a model learns less. The order of an
    epoch depends on the seed and the epoch only, not on what was drawn before.
    """

    def __init__(self, lengths: Sequence[int], batch_size: int, seed: int, sort: bool = True) -> None:
        self.lengths, self.batch_size, self.seed, self.sort, self.epoch = lengths, batch_size, seed, sort, 0
        self.drawn = False

    def __len__(self) -> int:
        return len(self.lengths)

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch comes next."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        self.drawn = True
        generator = np.random.default_rng((self.seed, self.epoch))
        order, size = generator.permutation(len(self.lengths)), self.batch_size
        if not self.sort:
            return iter(order.tolist())
        pool = size * max(1, min(50, len(order) // (4 * size)))  # at least four, or batches would not change
        batches = []
        for start in range(0, len(order), pool):
            rows = sorted(order[start : start + pool].tolist(), key=lambda row: -self.lengths[row])
            batches += [rows[i : i + size] for i in range(0, len(rows), size)]
        last = [batches.pop()] if len(batches[-1]) < size else []  # elsewhere it would shift all that follow
        generator.shuffle(batches)
        return (row for batch in batches + last for row in batch)
