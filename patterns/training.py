"""Train a pattern classifier from plain maps and labels, and score it on heads that it has not seen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torchvision.transforms import v2

from models.errors import InputError

from .augmentation import RandomContrast, RandomNoise, RandomWindow
from .classifier import PatternClassifier, images_of
from .distribution import check_seed
from .images import IMAGE_SIZE
from .taxonomy import PATTERNS, Pattern


@dataclass(frozen=True)
class Training:
    """How a pattern classifier is trained.

    Raises:
        InputError: a number is out of range.
    """

    epochs: int = 25
    """Passes over the maps; more fit the heads at hand better and unseen heads worse."""
    batch_size: int = 64
    """Maps a step."""
    learning_rate: float = 2e-3
    """Peak of a one-cycle schedule for AdamW."""
    weight_decay: float = 1e-2
    """Of AdamW."""
    label_smoothing: float = 0.05
    """Annotators agree on nine maps of ten, so no label is certain."""
    dropout: float = 0.3
    """Before the last layer, in training only."""
    balance: float = 0.5
    """A map is drawn in proportion to its label's count to the power of minus this: 0 as it comes, 1 balanced."""
    size: int = IMAGE_SIZE
    """Side of the images."""
    stages: tuple[tuple[int, ...], ...] = ((16,), (32, 32), (64, 64))
    """Widths of the convolutions; the image is halved between stages."""
    seed: int = 0
    """Of weights, order and augmentation."""

    def __post_init__(self) -> None:
        check_seed(self.seed)
        for name in ("epochs", "batch_size", "learning_rate", "size"):
            if getattr(self, name) <= 0:
                raise InputError(f"{name}={getattr(self, name)}: give a number above 0.")


class _WithBatchNorm(nn.Module):
    """The classifier's layers while they learn: with batch normalisation, which is folded away afterwards."""

    def __init__(self, classifier: PatternClassifier, dropout: float) -> None:
        super().__init__()
        self.classifier = classifier
        self.norms = nn.ModuleList(
            nn.BatchNorm2d(layer.out_channels)
            for layer in classifier.features
            if isinstance(layer, nn.Conv2d)
        )
        self.dropout = nn.Dropout(dropout)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        features = self.classifier.channels_of(images)
        norms = iter(self.norms)
        for layer in self.classifier.features:
            features = layer(features)
            if isinstance(layer, nn.Conv2d):
                features = next(norms)(features)
        return self.classifier.head(self.dropout(self.classifier.pool(features)))

    def folded(self) -> PatternClassifier:
        norms = iter(self.eval().norms)
        with torch.no_grad():
            for layer in self.classifier.features:
                if isinstance(layer, nn.Conv2d):
                    fused: Any = fuse_conv_bn_eval(layer, cast(nn.BatchNorm2d, next(norms)))
                    layer.weight.copy_(fused.weight)
                    layer.bias.copy_(fused.bias)  # type: ignore[union-attr]
        return self.classifier.eval()


def train(
    kind: str,
    maps: Sequence[npt.NDArray[np.float32]],
    labels: Sequence[Pattern],
    training: Training = Training(),
    temperature: float = 1.0,
    weights: npt.NDArray[np.floating] | None = None,
    progress: bool = False,
) -> PatternClassifier:
    """Train a classifier; the same seed and thread count give the same weights.

    Args:
        kind: of the maps that it will be used on.
        maps: ``[n, n]`` each, checked.
        labels: one a map.
        training: how.
        temperature: kept with the classifier, see :func:`fit_temperature`.
        weights: ``[N]``, how often each map is drawn relative to the others; all the same if None.
        progress: show a progress bar on stderr.

    Raises:
        InputError: fewer than two labels occur, or maps and labels differ in number.
    """
    from tqdm import trange

    targets = _targets(maps, labels)
    lengths = torch.tensor([len(values) for values in maps])
    padded = torch.zeros(len(maps), int(lengths.max()), int(lengths.max()))
    for i, values in enumerate(maps):
        padded[i, : len(values), : len(values)] = torch.from_numpy(values / values.max())
    chance = (torch.bincount(targets, minlength=len(PATTERNS)).clamp_min(1.0) ** -training.balance)[targets]
    if weights is not None:
        chance = chance * torch.as_tensor(weights)
    augment = v2.Compose([RandomNoise(), RandomContrast()])
    window = RandomWindow(training.size)

    # The global generator is what torchvision's transforms draw from; the caller's is left as it was.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(training.seed)
        classifier = PatternClassifier(
            kind, training.size, training.stages, temperature=temperature, shortest=int(lengths.min())
        )
        model = _WithBatchNorm(classifier, training.dropout).train()
        optimiser = torch.optim.AdamW(
            model.parameters(), lr=training.learning_rate, weight_decay=training.weight_decay
        )
        steps = training.epochs * -(-len(maps) // training.batch_size)
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimiser, training.learning_rate, total_steps=max(steps, 2)
        )
        for _ in trange(steps, desc="training", unit="step", disable=None if progress else True):
            drawn = torch.multinomial(chance, training.batch_size, replacement=True)
            n = int(lengths[drawn].max())
            images = augment(window(padded[drawn, :n, :n], lengths[drawn]))
            loss = nn.functional.cross_entropy(
                model(images), targets[drawn], label_smoothing=training.label_smoothing
            )
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
        return model.folded()


def cross_validate(
    kind: str,
    maps: Sequence[npt.NDArray[np.float32]],
    labels: Sequence[Pattern],
    groups: Sequence[Any],
    training: Training = Training(),
    folds: int = 5,
    scored: npt.NDArray[np.bool_] | None = None,
    weights: npt.NDArray[np.floating] | None = None,
    progress: bool = False,
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    """Predict every map by a classifier that has seen no map of its group (the head it comes from).

    Args:
        kind: as :func:`train`.
        maps: ``[n, n]`` each.
        labels: one a map.
        groups: one a map; a group is never on both sides.
        training: how.
        folds: number of parts.
        scored: ``[N]``: which maps to predict, the others are only trained on; all if None.
        weights: as :func:`train`.
        progress: show a progress bar on stderr.

    Returns:
        Out-of-fold logits ``[scored, 5]`` before temperature, and the fold ``[scored]`` each comes from.

    Raises:
        InputError: fewer groups than folds.
    """
    from sklearn.model_selection import StratifiedGroupKFold

    targets = _targets(maps, labels).numpy()
    codes = np.unique(np.asarray(groups, dtype=str), return_inverse=True)[1]
    if len(set(codes)) < folds:
        raise InputError(
            f"{folds} folds need as many groups of maps (heads), but there are {len(set(codes))}."
        )
    wanted = np.ones(len(maps), dtype=bool) if scored is None else scored
    logits = np.zeros((len(maps), len(PATTERNS)))
    fold_of = np.zeros(len(maps), dtype=np.int64)
    splits = StratifiedGroupKFold(folds, shuffle=True, random_state=training.seed)
    for fold, (seen, unseen) in enumerate(splits.split(targets, targets, codes)):
        classifier = train(
            kind,
            [maps[i] for i in seen],
            [labels[i] for i in seen],
            training,
            weights=None if weights is None else weights[seen],
            progress=progress,
        )
        unseen = unseen[wanted[unseen]]
        if len(unseen):
            with torch.inference_mode():
                logits[unseen] = classifier(images_of([maps[i] for i in unseen], training.size)).numpy()
        fold_of[unseen] = fold
    return logits[wanted], fold_of[wanted]


def fit_temperature(logits: npt.NDArray[np.floating], labels: Sequence[Pattern]) -> float:
    """Return the temperature with the least log-loss on out-of-fold logits (Guo et al. 2017)."""
    from scipy.optimize import minimize_scalar
    from scipy.special import log_softmax

    targets = np.array([PATTERNS.index(label) for label in labels])

    def loss(log_temperature: float) -> float:
        scaled = log_softmax(logits / np.exp(log_temperature), axis=1)
        return -float(scaled[np.arange(len(targets)), targets].mean())

    return float(np.exp(minimize_scalar(loss, bounds=(-2.0, 2.0), method="bounded").x))


def _targets(maps: Sequence[Any], labels: Sequence[Pattern]) -> torch.Tensor:
    if len(maps) != len(labels):
        raise InputError(f"There are {len(maps)} maps but {len(labels)} labels.")
    if len(set(labels)) < 2:
        raise InputError(
            f"Training needs maps of at least two patterns; these {len(labels)} have "
            f"{', '.join(sorted(set(labels))) or 'none'}."
        )
    return torch.tensor([PATTERNS.index(label) for label in labels])
