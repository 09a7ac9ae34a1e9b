"""Train a pattern classifier from plain maps and labels, and score it on heads that it has not seen."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
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
from ..maps.images import IMAGE_SIZE, image_pair, resampling_matrices, shown
from ..taxonomy import PATTERNS, Pattern
from .augmentation import RandomContrast, RandomNoise, RandomWindow
from .generator import generate_maps
from .network import STAGES, Member, PatternClassifier, images_of
from .profiles import SMALLEST, Profiles
from .scores import Groups

_GENERATED = 1000
_PASSES = 3  # of the networks on measurements, for each pass of the others
_VERSIONS = 12  # changed images of each map, drawn once for all networks
_UNCHANGED = 0.5  # share of the maps drawn that are measured as they are
_TOGETHER = 128  # maps measured at a time
_PROFILE_DROPOUT = 0.3
_MIXED, _LEAST_MIXED = 0.7, 0.1  # of the images a network is distilled on: how many are mixed, and how much
_JITTER = 0.1  # of what is measured, in standard deviations
_LONGEST = 4  # times the side of the images: what training keeps of a longer map is more than an image shows

_Step = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Training:
    """How a pattern classifier is trained.

    Raises:
        InputError: a number is out of range.
    """

    epochs: int = 20
    """Passes over the maps.

    More fit the heads at hand better and unseen heads worse.
    """
    batch_size: int = 64
    """Maps a step."""
    learning_rate: float = 2e-3
    """Peak of a one-cycle schedule for AdamW."""
    weight_decay: float = 1e-2
    """Of AdamW."""
    label_smoothing: float = 0.05
    """Annotators agree on nine maps of ten, so no label is certain."""
    dropout: float = 0.2
    """Before the last layer, in training only."""
    balance: float = 0.5
    """A map is drawn in proportion to its label's count to the power of minus this: 0 as it comes, 1 balanced."""
    generated: float = 0.08
    """Share of generated causal maps among those learned from; 0 for none.

    See :mod:`patterns.classifier.generator`. Generated two-sided maps are of no use beside real ones.
    """
    members: int = 3
    """Convolutional networks whose probabilities are averaged."""
    profiles: int = 2
    """Networks on hand-made measurements, averaged with those half and half; 0 for none.

    See :mod:`patterns.classifier.profiles`.
    """
    distilled: int = 40
    """Passes over the maps in which one network learns what all of those say together, and is kept instead of them; 0
    keeps them.

    On random versions of the maps, as they learned themselves, and on generated ones (Hinton et al. 2015).
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
            ("members", 1, 100, True),
            ("profiles", 0, 100, True),
            ("distilled", 0, 100_000, True),
            ("size", 1, 1024, True),
            ("learning_rate", 1e-9, 10.0, False),
            ("weight_decay", 0, 10.0, False),
            ("label_smoothing", 0, 0.99, False),
            ("dropout", 0, 0.99, False),
            ("balance", 0, 10.0, False),
            ("generated", 0, 0.99, False),
        ):
            value = getattr(self, name)
            if not (isinstance(value, int if whole else int | float) and least <= value <= most):
                raise InputError(
                    f"{name}={value}: give a {'whole ' if whole else ''}number from {least} to {most}."
                )
        if self.profiles and self.size < SMALLEST:
            raise InputError(f"size={self.size}: with profiles={self.profiles}, give at least {SMALLEST}.")


class _WithDropout(nn.Module):
    """A network on measurements while it learns."""

    def __init__(self, network: nn.Sequential, dropout: float) -> None:
        super().__init__()
        self.network = network
        self.dropout = nn.Dropout(dropout)

    def forward(self, usual: torch.Tensor) -> torch.Tensor:
        found = usual + _JITTER * torch.randn_like(usual)
        for layer in self.network:
            found = layer(found)
            if isinstance(layer, nn.GELU):
                found = self.dropout(found)
        return found


class _Images:
    """Images of maps, drawn from the maps anew each time."""

    def __init__(self, maps: Sequence[npt.NDArray[np.float32]], size: int) -> None:
        self.size = size
        self.padded, self.lengths = _stacked(maps, _LONGEST * size)
        self.augment = v2.Compose([RandomNoise(), RandomContrast()])
        self.window = RandomWindow(size)

    def changed(self, chosen: torch.Tensor) -> torch.Tensor:
        """Return images of the maps at these positions, changed at random."""
        n = int(self.lengths[chosen].max())
        images = self.window(self.padded[chosen, :n, :n], self.lengths[chosen])
        # Noise and contrast make images relative; how bright one is beside its map's largest cell stays.
        return shown(self.augment(images) * images.amax(dim=(1, 2), keepdim=True))

    def unchanged(self, chosen: torch.Tensor) -> torch.Tensor:
        """Return images of the maps at these positions as they are."""
        n = int(self.lengths[chosen].max())
        resampling = resampling_matrices(self.lengths[chosen], n, self.size)
        return shown(image_pair(self.padded[chosen, None, :n, :n], None, resampling)[0][:, 0])

    def of_all(self, show: _Step, measure: _Step) -> torch.Tensor:
        """Return what `measure` finds on every map's image, a few at a time."""
        order = self.lengths.argsort(stable=True)  # maps of like lengths together: little padding
        found = torch.cat([measure(show(part)) for part in order.split(_TOGETHER)])
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
    annotated, shortest = len(maps), min(map(len, maps))
    chance = _chance(targets, training.balance, weights)
    steps = training.epochs * -(-len(maps) // training.batch_size)
    if training.generated:
        share, (more, patterns) = training.generated, _generated(training.seed)
        more_targets = _targets(more, patterns)
        maps, targets = [*maps, *more], torch.cat([targets, more_targets])
        chance = torch.cat([(1 - share) * chance, share * _chance(more_targets, training.balance, None)])
    images = _Images(maps, training.size)

    # The global generator is what torchvision's transforms draw from; the caller's is left as it was.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(training.seed)
        classifier = PatternClassifier(
            kind,
            training.size,
            training.stages,
            training.members,
            temperature=temperature,
            shortest=shortest,
            profiles=training.profiles,
        )
        distilled = steps * training.distilled // training.epochs if classifier.several else 0
        bar = progress_bar(
            total=steps * (training.members + _PASSES * training.profiles) + distilled,
            what="training",
            unit="step",
            shown=progress,
        )

        fit = _Fit(training, targets, chance, bar.update)
        versions = torch.stack([images.of_all(images.changed, lambda shown: shown) for _ in range(_VERSIONS)])

        def changed(chosen: torch.Tensor) -> torch.Tensor:
            return versions[torch.randint(_VERSIONS, chosen.shape), chosen]

        for member in classifier.members:
            network = cast(Member, member).learn(training.dropout)
            fit(network, changed, steps)
            network.fold()
        if (profiles := classifier.profiles) is not None:
            torch.manual_seed(training.seed)  # whatever the others have drawn
            used = (chance > 0) & (torch.arange(len(chance)) < annotated)
            drawn = _measured(profiles, images, versions, used)
            for layers in profiles.networks:
                learning = _WithDropout(cast(nn.Sequential, layers), _PROFILE_DROPOUT)
                fit(learning.train(), drawn, _PASSES * steps)
        if distilled:
            classifier = _distil(classifier.eval(), fit, changed, distilled)
        bar.close()
        return classifier.eval()


def _distil(teacher: PatternClassifier, fit: _Fit, show: _Step, steps: int) -> PatternClassifier:
    """Return a classifier of one network that has learned what another says."""
    torch.manual_seed(fit.training.seed)
    how = fit.training
    student = PatternClassifier(
        teacher.kind, how.size, how.stages, temperature=teacher.temperature, shortest=teacher.shortest
    )
    network = cast(Member, student.members[0]).learn(0.0)

    def mixed(chosen: torch.Tensor) -> torch.Tensor:
        """Return images of these maps, most of them mixed with another: what the teacher has not learned by heart."""
        images = show(chosen)
        share = torch.rand(len(images), 1, 1).clamp_min(_LEAST_MIXED) * (torch.rand(len(images), 1, 1) < _MIXED)
        return (1 - share / 2) * images + share / 2 * images[torch.randperm(len(images))]

    def said(images: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return teacher.together(images)

    fit(network, mixed, steps, said)
    network.fold()
    return student


@dataclass(frozen=True)
class _Fit:
    """Trains one network after the other on the same maps."""

    training: Training
    targets: torch.Tensor
    chance: torch.Tensor
    """Of each map, to be drawn."""
    told: Callable[[], object]
    """Called after every step."""

    def __call__(self, model: nn.Module, show: _Step, steps: int, said: _Step | None = None) -> None:
        """Take so many steps on maps drawn by chance, as `show` shows them; towards their labels or what is `said`."""
        how = self.training
        optimiser = torch.optim.AdamW(model.parameters(), lr=how.learning_rate, weight_decay=how.weight_decay)
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimiser, how.learning_rate, total_steps=max(steps, 2)
        )
        for _ in range(steps):
            chosen = torch.multinomial(self.chance, how.batch_size, replacement=True)
            seen = show(chosen)
            if said is None:
                loss = nn.functional.cross_entropy(
                    model(seen), self.targets[chosen], label_smoothing=how.label_smoothing
                )
            else:
                loss = nn.functional.cross_entropy(model(seen), said(seen))
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
            self.told()


def _measured(
    profiles: Profiles, images: _Images, versions: torch.Tensor, used: torch.Tensor
) -> _Step:
    """Get profiles used to the maps that are used, and return what shows measurements of maps in random versions."""
    # Measured once for all of them, [1 + versions, N, F]; first as they are.
    parts = [images.of_all(images.unchanged, profiles.measure)]
    parts += [torch.cat([profiles.measure(some) for some in one.split(_TOGETHER)]) for one in versions]
    measured = torch.stack(parts)
    profiles.get_used_to(measured[0][used])
    usual = profiles.usual(measured)

    def drawn(chosen: torch.Tensor) -> torch.Tensor:
        """Return measurements of these maps, of each in a version drawn at random."""
        version = torch.randint(1, len(usual), chosen.shape)
        return usual[version * (torch.rand(chosen.shape) >= _UNCHANGED), chosen]

    return drawn


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
