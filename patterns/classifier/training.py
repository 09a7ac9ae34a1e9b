"""Train a pattern classifier from plain maps and labels, and score it on heads that it has not seen."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torchvision.transforms import v2

from models.common.errors import InputError
from models.common.progress import progress_bar

from ..distribution import check_seed
from ..maps.images import IMAGE_SIZE, evened, image_pair, resampling_matrices
from ..maps.store import is_causal
from ..taxonomy import PATTERNS, Pattern
from .augmentation import RandomContrast, RandomNoise, RandomWindow
from .features import SMALLEST, features_of
from .generator import generate_maps
from .network import STAGES, PatternClassifier, images_of
from .scores import Groups

_GENERATED = 1000
_VERSIONS = 8  # changed images of each map
_MIXTURES = 8  # of it with another map
# Shares of what a network learns from; of causal versions, where there are any.
_CHANGED, _MIXED, _MADE_CAUSAL = 0.45, 0.4, 0.15
_OTHER = (0.05, 0.55)  # least and largest share of the second image of a mixture
_LEFT = 0.4  # of the attention of most rows, before their own token: what a causal version of a map needs
_LEAF = 2  # maps in each leaf of a tree
_TOGETHER = 128  # images made at a time
_AT_ONCE = 4096  # mixtures
_LONGEST = 4  # times the side of the images: what training keeps of a longer map is more than an image shows

_Step = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Training:
    """How a pattern classifier is trained.

    Raises:
        InputError: a number is out of range.
    """

    epochs: int = 35
    """Passes over the maps."""
    batch_size: int = 64
    """Maps a step."""
    learning_rate: float = 2e-3
    """Peak of a one-cycle schedule for AdamW."""
    weight_decay: float = 1e-2
    """Of AdamW."""
    label_smoothing: float = 0.05
    """Annotators agree on nine maps of ten, so no label is certain."""
    balance: float = 0.5
    """A map is drawn in proportion to its label's count to the power of minus this: 0 as it comes, 1 balanced."""
    generated: float = 0.08
    """Share of generated causal maps among the maps; 0 for none.

    See :mod:`patterns.classifier.generator`. Generated two-sided maps are of no use beside real ones.
    """
    trees: int = 300
    """Randomised trees (Geurts et al. 2006) on hand-made features that the network learns from too; 0 for none.

    They err less than a network does on models that they have not seen, and can say what a map is that nobody has
    labelled: what the network learns (Hinton et al. 2015) are changed versions of the maps, towards what the label and
    the trees say, and mixtures of maps and causal versions of two-sided ones, towards what the trees say. See
    :mod:`patterns.classifier.features`.
    """
    size: int = IMAGE_SIZE
    """Side of the images."""
    stages: tuple[tuple[int, ...], ...] = STAGES
    """Widths of the convolutions; the image is halved before each stage."""
    seed: int = 0

    def __post_init__(self) -> None:
        check_seed(self.seed)
        for name, least, most, whole in (
            ("epochs", 1, 100_000, True),
            ("batch_size", 1, 100_000, True),
            ("trees", 0, 10_000, True),
            ("size", 1, 128, True),
            ("learning_rate", 1e-9, 10.0, False),
            ("weight_decay", 0, 10.0, False),
            ("label_smoothing", 0, 0.99, False),
            ("balance", 0, 10.0, False),
            ("generated", 0, 0.99, False),
        ):
            value = getattr(self, name)
            if not (isinstance(value, int if whole else int | float) and least <= value <= most):
                raise InputError(
                    f"{name}={value}: give a {'whole ' if whole else ''}number from {least} to {most}."
                )
        if self.trees and self.size < SMALLEST:
            raise InputError(f"size={self.size}: with trees={self.trees}, give at least {SMALLEST}.")


class _Images:
    """Images of maps as a network sees them, drawn from the maps anew each time."""

    def __init__(self, maps: Sequence[npt.NDArray[np.float32]], size: int) -> None:
        self.size = size
        self.causal = torch.tensor([is_causal(values) for values in maps])
        self.padded, self.lengths = _stacked(maps, _LONGEST * size)
        self.augment = v2.Compose([RandomNoise(), RandomContrast()])
        self.window = RandomWindow(size)

    def changed(self, chosen: torch.Tensor) -> torch.Tensor:
        """Return images of the maps at these positions, changed at random."""
        n = int(self.lengths[chosen].max())
        images = self.window(self.padded[chosen, :n, :n], self.lengths[chosen])
        # Noise and contrast make images relative; how bright one is beside its whole map's largest cell stays. No
        # noise where no token may look: it would make a causal map another sort of image.
        changed = self.augment(images) * images.amax(dim=(1, 2), keepdim=True)
        return self._evened(
            chosen, torch.where(self.causal[chosen, None, None], changed * (images > 0), changed)
        )

    def unchanged(self, chosen: torch.Tensor) -> torch.Tensor:
        """Return images of the maps at these positions as they are."""
        n = int(self.lengths[chosen].max())
        resampling = resampling_matrices(self.lengths[chosen], n, self.size)
        images = image_pair(self.padded[chosen, None, :n, :n], None, resampling)[0][:, 0]
        return self._evened(chosen, images)

    def _evened(self, chosen: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
        return torch.where(self.causal[chosen, None, None], evened(images), images)

    def of_all(self, show: _Step) -> torch.Tensor:
        """Return every map's image, made a few at a time."""
        order = self.lengths.argsort(stable=True)  # maps of like lengths together: little padding
        found = torch.cat([show(part) for part in order.split(_TOGETHER)])
        return found[order.argsort()]


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
    targets = _targets(maps, labels)
    chance = _chance(targets, training.balance, weights)
    steps = training.epochs * -(-len(maps) // training.batch_size)
    shortest = min(map(len, maps))
    if training.generated:
        share, (more, patterns) = training.generated, _generated(training.seed)
        more_targets = _targets(more, patterns)
        maps, targets = [*maps, *more], torch.cat([targets, more_targets])
        chance = torch.cat([(1 - share) * chance, share * _chance(more_targets, training.balance, None)])
    # The global generator is what torchvision's transforms draw from; the caller's is left as it was.
    with (
        torch.random.fork_rng(devices=[]),
        progress_bar(total=_VERSIONS + steps, what="training", unit="step", shown=progress) as bar,
    ):
        torch.manual_seed(training.seed)
        classifier = PatternClassifier(
            kind, training.size, training.stages, temperature=temperature, shortest=shortest
        )
        lessons = _lessons(maps, targets, chance, training, bar.update)
        _fit(classifier.network.learn(), lessons, steps, training, bar.update)
        classifier.network.fold()
        return classifier.eval()


@dataclass(frozen=True)
class _Lessons:
    """What a network learns from."""

    images: torch.Tensor
    """``[M, size, size]``, float16: so many that they take half the memory."""
    causal: torch.Tensor
    """``[M]``, whether each is of a causal map."""
    targets: torch.Tensor
    """``[M, 5]``, probabilities."""
    chance: torch.Tensor
    """``[M]``, of each image to be drawn, summing to 1."""

    @classmethod
    def together(cls, parts: Sequence[tuple[float, _Lessons]]) -> _Lessons:
        """Return several as one, each with its share of what is drawn."""
        total = sum(share for share, _ in parts)
        return cls(
            torch.cat([part.images for _, part in parts]),
            torch.cat([part.causal for _, part in parts]),
            torch.cat([part.targets for _, part in parts]),
            torch.cat([share / total * part.chance for share, part in parts]),
        )


def _lessons(
    maps: Sequence[npt.NDArray[np.float32]],
    targets: torch.Tensor,
    chance: torch.Tensor,
    how: Training,
    told: Callable[[], object],
) -> _Lessons:
    """Return changed versions of the maps; with trees, also mixtures of them and causal versions of two-sided ones."""
    images = _Images(maps, how.size)
    versions = []
    for _ in range(_VERSIONS):
        versions.append(images.of_all(images.changed).half())
        told()
    labels = nn.functional.one_hot(targets, len(PATTERNS)) * (1 - how.label_smoothing)
    labels = labels + how.label_smoothing / len(PATTERNS)
    changed = _Lessons(
        torch.cat(versions),
        images.causal.repeat(_VERSIONS),
        labels.repeat(_VERSIONS, 1),
        chance.repeat(_VERSIONS) / _VERSIONS,
    )
    del versions
    if not how.trees:
        return changed
    said = _trees(images.of_all(images.unchanged), targets, chance, how)
    del images
    parts = [
        (_CHANGED, replace(changed, targets=(changed.targets + said(changed.images)) / 2)),
        (_MIXED, _mixtures(changed, _MIXTURES * len(maps), said)),
    ]
    made = {i: values for i, one in enumerate(maps) if (values := _made_causal(one)) is not None}
    if made and float(of_made := chance[list(made)].sum()):
        causal = _Images(list(made.values()), how.size)
        more = torch.cat([causal.of_all(causal.changed).half() for _ in range(2)])
        lessons = _Lessons(
            more, causal.causal.repeat(2), said(more), (chance[list(made)] / of_made / 2).repeat(2)
        )
        parts.append((_MADE_CAUSAL, lessons))
    return _Lessons.together(parts)


def _mixtures(of: _Lessons, count: int, said: _Step) -> _Lessons:
    """Return means of two images each and what is said of them; of a causal image and another they are causal."""
    images, causal = [], []
    for some in torch.arange(count).split(_AT_ONCE):
        first, second = (torch.multinomial(of.chance, len(some), replacement=True) for _ in range(2))
        share = _OTHER[0] + (_OTHER[1] - _OTHER[0]) * torch.rand(len(some), 1, 1)
        other = torch.where(of.causal[first, None, None], of.images[second].tril(), of.images[second])
        images.append(((1 - share) * of.images[first] + share * other).half())
        causal.append(of.causal[first])
    mixed = torch.cat(images)
    return _Lessons(
        mixed, torch.cat(causal), said(mixed), torch.full((count,), 1 / count, dtype=torch.float64)
    )


def _made_causal(values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32] | None:
    """Return what a two-sided map would be if no token could look ahead, each row summing to what it summed to before.

    Of a raw map that is exact, of a norm-weighted one close. None of a map that is causal, or most of which goes.
    """
    past = np.tril(values)
    rows, left = values.sum(axis=1), past.sum(axis=1)
    later = slice(len(values) // 4, None)  # the first rows have few keys to look back at
    if is_causal(values) or np.median(left[later] / rows[later].clip(1e-9)) <= _LEFT:
        return None
    made: npt.NDArray[np.float32] = past * (rows / left.clip(1e-6 * rows.max()))[:, None]
    return made.astype(np.float32)


def _trees(images: torch.Tensor, targets: torch.Tensor, chance: torch.Tensor, how: Training) -> _Step:
    """Fit trees to the features of images ``[N, size, size]``, and return what gives their probabilities of others."""
    from sklearn.ensemble import ExtraTreesClassifier

    drawn = chance > 0
    features = _features(images[drawn])
    trees = ExtraTreesClassifier(
        how.trees,
        min_samples_leaf=_LEAF,
        max_features=cast(Any, 0.5),  # scikit-learn's own words know of names alone
        n_jobs=torch.get_num_threads(),
        random_state=how.seed,
    )
    trees.fit(features, targets[drawn].numpy(), sample_weight=chance[drawn].numpy() * len(features))
    trees.n_jobs = 1  # several threads add up in any order

    def said(images: torch.Tensor) -> torch.Tensor:
        found = torch.zeros(len(images), len(PATTERNS))
        found[:, torch.from_numpy(trees.classes_)] = torch.from_numpy(
            trees.predict_proba(_features(images))
        ).float()
        return found

    return said


def _features(images: torch.Tensor) -> npt.NDArray[np.float32]:
    found: npt.NDArray[np.float32] = torch.cat(
        [features_of(some.float()) for some in images.split(_TOGETHER)]
    ).numpy()
    return found


def _fit(model: nn.Module, lessons: _Lessons, steps: int, how: Training, told: Callable[[], object]) -> None:
    """Take so many steps on images drawn by chance, towards their targets."""
    optimiser = torch.optim.AdamW(model.parameters(), lr=how.learning_rate, weight_decay=how.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, how.learning_rate, total_steps=max(steps, 2))
    for _ in range(steps):
        chosen = torch.multinomial(lessons.chance, how.batch_size, replacement=True)
        loss = nn.functional.cross_entropy(model(lessons.images[chosen].float()), lessons.targets[chosen])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        told()


def split_folds(
    targets: npt.NDArray[np.integer],
    groups: Groups,
    inputs: Groups | None = None,
    folds: int = 5,
    seed: int = 0,
) -> Iterator[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]]:
    """Yield training and test positions, test parts of like label shares, no group or input on both sides.

    Args:
        targets: ``[N]`` label numbers.
        groups: one a map, the head it comes from; what the folds are made of.
        inputs: one a map, the input it is of: training leaves out what the test part has seen. None: unknown.
        folds: number of parts.
        seed: of the parts.

    Raises:
        InputError: fewer groups than folds, or too little left to train on.
    """
    from sklearn.model_selection import StratifiedGroupKFold

    codes = np.unique(np.asarray(groups, dtype=str), return_inverse=True)[1]
    if len(set(codes)) < folds:
        raise InputError(
            f"{folds} folds need as many groups of maps (heads), but there are {len(set(codes))}; "
            "give fewer folds, or none (--folds 0)."
        )
    if np.bincount(targets).max() < folds:
        raise InputError(
            f"{folds} folds need a pattern with as many maps; give fewer folds, or none (--folds 0)."
        )
    splits = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    for seen, unseen in _quietly(splits.split, targets, codes):
        if inputs is not None:
            names = np.asarray(inputs, dtype=str)
            seen = seen[~np.isin(names[seen], names[unseen])]
        if len(np.unique(targets[seen])) < 2:
            raise InputError(
                "The maps that share neither head nor input with a fold have fewer than two patterns; "
                "give fewer folds, or none (--folds 0)."
            )
        yield seen, unseen


def _quietly(split: Any, targets: npt.NDArray[np.integer], codes: npt.NDArray[np.integer]) -> list[Any]:
    """Scikit-learn warns of every pattern with fewer maps than folds, which is nothing to act on."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The least populated class", UserWarning)
        return list(split(targets, targets, codes))


def cross_validate(
    kind: str,
    maps: Sequence[npt.NDArray[np.float32]],
    labels: Sequence[Pattern],
    groups: Groups,
    training: Training = Training(),
    folds: int = 5,
    scored: npt.NDArray[np.bool_] | None = None,
    weights: npt.NDArray[np.floating] | None = None,
    inputs: Groups | None = None,
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
        inputs: as :func:`split_folds`.
        progress: show a progress bar on stderr.

    Returns:
        Out-of-fold logits ``[scored, 5]`` before temperature, and the fold ``[scored]`` each comes from.

    Raises:
        InputError: fewer groups than folds, among all maps or among the scored ones.
    """
    targets = _targets(maps, labels).numpy()
    wanted = np.ones(len(maps), dtype=bool) if scored is None else scored
    if (heads := len(set(np.asarray(groups, dtype=str)[wanted]))) < folds:
        raise InputError(
            f"{folds} folds need as many groups of scored maps (heads), but there are {heads}; "
            "give fewer folds, or none (--folds 0)."
        )
    logits = np.zeros((len(maps), len(PATTERNS)))
    fold_of = np.zeros(len(maps), dtype=np.int64)
    for fold, (seen, unseen) in enumerate(split_folds(targets, groups, inputs, folds, training.seed)):
        unseen = unseen[wanted[unseen]]
        if not len(unseen):
            continue
        classifier = train(
            kind,
            [maps[i] for i in seen],
            [labels[i] for i in seen],
            training,
            weights=None if weights is None else weights[seen],
            progress=progress,
        )
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

    best: Any = minimize_scalar(loss, bounds=(-2.0, 2.0), method="bounded")
    return float(np.exp(best.x))


def calibrated(
    logits: npt.NDArray[np.floating], labels: Sequence[Pattern], folds: npt.NDArray[np.integer]
) -> npt.NDArray[np.float64]:
    """Return probabilities ``[N, 5]``, those of each fold with the temperature that the other folds ask for."""
    from scipy.special import softmax

    found = np.zeros_like(logits, dtype=np.float64)
    for fold in np.unique(folds):
        rest = np.flatnonzero(folds != fold)
        temperature = fit_temperature(logits[rest], [labels[int(i)] for i in rest]) if len(rest) else 1.0
        found[folds == fold] = softmax(logits[folds == fold] / temperature, axis=1)
    return found


@lru_cache(maxsize=2)  # every fold of a cross-validation draws from the same
def _generated(seed: int) -> tuple[list[npt.NDArray[np.float32]], list[Pattern]]:
    return generate_maps(_GENERATED, seed, causal=True)


def _stacked(maps: Sequence[npt.NDArray[np.float32]], longest: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return relative maps ``[N, n, n]``, zero beyond their lengths ``[N]``; longer ones averaged to `longest`."""
    small = []
    for values in maps:
        shown = torch.from_numpy(values / values.max())
        if (n := len(shown)) > longest:
            average = resampling_matrices(torch.tensor([n]), n, longest)[0]
            shown = average @ shown @ average.T
        small.append(shown)
    lengths = torch.tensor([len(shown) for shown in small])
    padded = torch.zeros(len(small), int(lengths.max()), int(lengths.max()))
    for i, shown in enumerate(small):
        padded[i, : len(shown), : len(shown)] = shown
    return padded, lengths


def _chance(targets: torch.Tensor, balance: float, weights: npt.NDArray[np.floating] | None) -> torch.Tensor:
    """Return how likely each map is drawn, summing to 1."""
    chance = (torch.bincount(targets, minlength=len(PATTERNS)).clamp_min(1.0) ** -balance)[targets]
    if weights is not None:
        chance = chance * torch.as_tensor(weights)
        if not 0 < float(chance.sum()) < float("inf"):
            raise InputError("weights: give numbers of at least 0, not all 0.")
    return (chance / chance.sum()).double()


def _targets(maps: Sequence[Any], labels: Sequence[Pattern]) -> torch.Tensor:
    if len(maps) != len(labels):
        raise InputError(f"There are {len(maps)} maps but {len(labels)} labels.")
    if len(set(labels)) < 2:
        raise InputError(
            f"Training needs maps of at least two patterns; these {len(labels)} have "
            f"{', '.join(sorted(set(labels))) or 'none'}."
        )
    return torch.tensor([PATTERNS.index(label) for label in labels])
