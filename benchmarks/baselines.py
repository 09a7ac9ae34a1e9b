"""What the shipped classifier is compared with: the published network by its recipe, and boosting on features.

The published network is re-written here from its description (Prasanna et al. 2020 and Kovaleva et al. 2019
with their released notebooks), faults included: maps are not scaled; training pads each map with zeros on all
sides to the largest one; the epoch that is best on a random fifth of the training maps is kept; at inference
the map is cut from the padded 128 x 128 input at max(tokens, smallest map + 20) instead. Our maps hold real
tokens only, so that what lies beyond them is zero, where theirs had rows of [PAD] queries.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.model_selection import train_test_split
from torch import nn

from patterns.taxonomy import PATTERNS

Maps = Sequence[npt.NDArray[np.float32]]

UPDATES = 1000
"""200 epochs, as published, over the about 400 maps that there were: five batches an epoch."""
LONGEST = 128
"""Tokens of the longest map it is trained on, as published; a longer one would blow up the padding of all."""


def published_network() -> nn.Sequential:
    """Six valid 3 x 3 convolutions (16, 16, 32, 32, 64, 64), a 1 x 1 one to 16, mean, a 1 x 1 one to classes."""
    layers: list[nn.Module] = []
    before = 1
    for width in (16, 32, 64):
        for _ in range(2):
            layers += [nn.Conv2d(before, width, 3), nn.ReLU()]
            before = width
        if width < 64:
            layers.append(nn.MaxPool2d(2))
    layers += [nn.Conv2d(64, 16, 1), nn.AdaptiveAvgPool2d(1), nn.Conv2d(16, len(PATTERNS), 1), nn.Flatten()]
    network = nn.Sequential(*layers)
    for layer in network:
        if isinstance(layer, nn.Conv2d) and layer.bias is not None:
            nn.init.xavier_normal_(layer.weight)
            nn.init.zeros_(layer.bias)
    return network.to(memory_format=torch.channels_last)


def padded(maps: Maps, size: int, centred: bool) -> torch.Tensor:
    """Maps with zeros around them (`centred`, as in the published training) or after them, ``[N, 1, size, size]``."""
    images = torch.zeros(len(maps), 1, size, size)
    for image, values in zip(images, maps, strict=True):
        n = len(values)
        start = (size - n) // 2 if centred else 0
        image[0, start : start + n, start : start + n] = torch.from_numpy(values)
    return images.contiguous(memory_format=torch.channels_last)


class PublishedRecipe:
    """The published network and training."""

    def __init__(self, seed: int = 13) -> None:
        self.seed = seed

    def fit(self, maps: Maps, labels: npt.NDArray[np.int64]) -> PublishedRecipe:
        """Train, and keep the epoch with the best validation accuracy (ties: the latest)."""
        torch.manual_seed(self.seed)
        short = [i for i, values in enumerate(maps) if len(values) <= LONGEST]
        maps, labels = [maps[i] for i in short], labels[short]
        self.smallest = min(map(len, maps))
        self.largest = max(map(len, maps))
        images = padded(maps, self.largest, centred=True)
        targets = torch.from_numpy(labels)
        stratify = labels if np.bincount(labels)[np.unique(labels)].min() > 1 else None
        seen, held = train_test_split(
            np.arange(len(maps)), test_size=0.2, random_state=self.seed, stratify=stratify
        )
        self.network = published_network()
        optimiser = torch.optim.Adam(self.network.parameters(), 1e-3)
        best, kept = -1.0, self.network.state_dict()
        for _ in range(max(1, round(UPDATES / -(-len(seen) // 64)))):
            self.network.train()
            for chosen in torch.from_numpy(seen)[torch.randperm(len(seen))].split(64):
                # bfloat16 where it is safe: the same recipe in a third of the time on a CPU
                with torch.autocast("cpu", torch.bfloat16):
                    scores = self.network(images[chosen])
                loss = nn.functional.cross_entropy(scores.float(), targets[chosen])
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
            accuracy = float((self._scores(images[held]).argmax(1) == targets[held]).float().mean())
            if accuracy >= best:
                best = accuracy
                kept = {name: values.clone() for name, values in self.network.state_dict().items()}
        self.network.load_state_dict(kept)
        self.validation_accuracy = best
        return self

    def _scores(self, images: torch.Tensor) -> torch.Tensor:
        self.network.eval()
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
            return torch.cat([self.network(part).float() for part in images.split(64)])

    def predict_proba(self, maps: Maps, as_trained: bool) -> npt.NDArray[np.float64]:
        """Probabilities ``[N, 5]``, with the padding of training (`as_trained`) or the published crops."""
        if as_trained:
            # A map longer than any in training keeps its middle, as torchvision's centre crop did there.
            cut = [self._middle(values) for values in maps]
            scores = self._scores(padded(cut, self.largest, centred=True))
        else:
            scores = torch.cat(
                [self._scores(padded([m], max(len(m), self.smallest + 20), centred=False)) for m in maps]
            )
        return scores.double().softmax(dim=1).numpy()

    def _middle(self, values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        start = round(max(len(values) - self.largest, 0) / 2)
        return values[start : start + self.largest, start : start + self.largest]


def features(values: npt.NDArray[np.float32]) -> list[float]:
    """Column mass, band mass, block contrast, entropy and the like, of one map at its own length."""
    n = len(values)
    distance = np.abs(np.subtract.outer(np.arange(n), np.arange(n)))
    found: list[float] = [float(n)]
    for shown in (values / values.max(), values / values.sum(axis=1, keepdims=True).clip(1e-12)):
        columns = shown.mean(axis=0)
        steady = np.median(shown, axis=0)  # a column that is bright in most rows
        largest = np.sort(columns)[::-1]
        found += [*largest[:3], largest[:3].sum() / columns.sum(), *np.sort(steady)[::-1][:2]]
        found += [columns[0], columns[-1], columns.std(), shown.mean(axis=1).std()]
        offsets = [np.diag(shown, k) for k in range(-4, 5)]
        found += [line.mean() for line in offsets if len(line)] + [0.0] * sum(
            not len(line) for line in offsets
        )
        found += [max(np.median(np.diag(shown, k)) for k in range(-min(6, n - 1), min(7, n)))]
        found += [shown[distance <= k].sum() / shown.sum() for k in (1, 3, 6)]
        rest = shown - steady  # what is left when steady columns are taken away
        found += [np.diag(rest, k).mean() for k in (-1, 0, 1)] + [np.abs(rest).mean(), rest.std()]
        found += [block_contrast(shown)]
        share = shown / shown.sum()
        found += [-(share * np.log(share + 1e-12)).sum() / np.log(n * n), shown.mean(), np.median(shown)]
    return [float(value) for value in found]


def block_contrast(shown: npt.NDArray[np.floating]) -> float:
    """How much brighter two diagonal blocks are than the other two, at the border where that is clearest."""
    n = len(shown)
    total = np.zeros((n + 1, n + 1))
    total[1:, 1:] = shown.cumsum(axis=0).cumsum(axis=1)
    best = -1.0
    for cut in range(max(3, n // 5), n - max(3, n // 5)):
        first = total[cut, cut] / cut**2
        second = (total[n, n] - total[cut, n] - total[n, cut] + total[cut, cut]) / (n - cut) ** 2
        across = (total[cut, n] + total[n, cut] - 2 * total[cut, cut]) / (2 * cut * (n - cut))
        best = max(best, (min(first, second) - across) / (first + second + across + 1e-9))
    return float(best)


class FeatureBoosting:
    """Histogram gradient boosting on :func:`features`."""

    def __init__(self, seed: int = 0) -> None:
        self.model = HistGradientBoostingClassifier(
            max_iter=150, learning_rate=0.05, max_leaf_nodes=12, l2_regularization=1.0, random_state=seed
        )

    def fit(
        self, maps: Maps, labels: npt.NDArray[np.int64], weights: npt.NDArray[np.floating]
    ) -> FeatureBoosting:
        """Train on features of the maps."""
        self.model.fit(np.array([features(values) for values in maps]), labels, sample_weight=weights)
        return self

    def predict_proba(self, maps: Maps) -> npt.NDArray[np.float64]:
        """Probabilities ``[N, 5]``, zero for a pattern that training had no map of."""
        found = np.zeros((len(maps), len(PATTERNS)))
        found[:, self.model.classes_] = self.model.predict_proba(np.array([features(m) for m in maps]))
        return found
