"""Training learns, repeats itself, and never sees the head it is scored on."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, softmax

import patterns.classifier.training
from models import InputError
from patterns import Pattern
from patterns.classifier.augmentation import RandomContrast, RandomNoise, RandomWindow
from patterns.classifier.generator import generate_maps
from patterns.classifier.network import ConvNet, PatternClassifier, images_of
from patterns.classifier.scores import score
from patterns.classifier.training import (
    Training,
    _Images,
    _Lessons,
    _lessons,
    _made_causal,
    _mixtures,
    _stacked,
    _targets,
    _trees,
    calibrated,
    cross_validate,
    fit_temperature,
    split_folds,
    train,
)
from patterns.maps.images import image_pair, relative, resampling_matrices
from patterns.taxonomy import PATTERNS

QUICK = Training(
    epochs=25,
    batch_size=32,
    size=16,
    stages=((8,), (16,)),
    balance=0.0,
    generated=0.0,
    trees=0,
)

QUICK_TREES = replace(QUICK, trees=30)


def drawn(number: int, seed: int) -> tuple[list[np.ndarray], list[Pattern]]:
    """Noisy columns, diagonals and scatter of many lengths."""
    random = np.random.default_rng(seed)
    maps, labels = [], []
    for i in range(number):
        n = int(random.integers(16, 60))
        values = random.random((n, n)) * 0.3
        label = (Pattern.VERTICAL, Pattern.DIAGONAL, Pattern.HETEROGENEOUS)[i % 3]
        if label is Pattern.VERTICAL:
            values[:, random.integers(n)] += 1
        elif label is Pattern.DIAGONAL:
            values += np.eye(n)
        else:
            values = random.random((n, n)) ** 4
        maps.append(values.astype(np.float32))
        labels.append(label)
    return maps, labels


def test_it_learns() -> None:
    classifier = train("raw", *drawn(120, 0), QUICK)
    maps, labels = drawn(60, 1)
    assert np.mean([a == b for a, b in zip(classifier.predict(maps), labels, strict=True)]) > 0.9
    assert classifier.kind == "raw"
    assert classifier.shortest == min(len(values) for values in drawn(120, 0)[0])
    assert not classifier.training


def test_the_same_seed_gives_the_same_weights_and_leaves_the_generator_alone() -> None:
    maps, labels = drawn(40, 0)
    short = Training(epochs=2, size=16, stages=((4,),), generated=0.0, trees=10)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = train("norm", maps, labels, short)
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(3)
    assert train("norm", maps, labels, short).version == first.version
    assert train("norm", maps, labels, replace(short, seed=1)).version != first.version


def test_folding_batch_normalisation_away_changes_nothing() -> None:
    torch.manual_seed(0)
    member = ConvNet(16, ((4,), (6, 6))).learn()
    images = torch.rand(32, 16, 16)
    member(images)  # moves the running statistics
    for norm in member.norms:
        torch.nn.init.normal_(norm.weight)
        torch.nn.init.normal_(norm.bias)
    with torch.no_grad():
        expected = member.eval()(images)
        member.fold()
        assert member.norms is None
        torch.testing.assert_close(member(images), expected, rtol=1e-4, atol=1e-5)


def test_the_network_learns_what_the_trees_say() -> None:
    maps, labels = drawn(120, 0)
    quick = replace(QUICK, epochs=60)
    trees = _trees(
        _Images(maps, 16).of_all(_Images(maps, 16).unchanged),
        _targets(maps, labels),
        torch.ones(120) / 120,
        QUICK_TREES,
    )
    new, truth = drawn(60, 1)
    said = trees(images_of(new, 16)).numpy()
    assert np.mean([PATTERNS[i] == label for i, label in zip(said.argmax(1), truth, strict=True)]) > 0.9
    alone = train("raw", maps, labels, quick).predict_proba(new)
    taught = train("raw", maps, labels, replace(quick, trees=30)).predict_proba(new)
    assert np.abs(taught - said).mean() < np.abs(alone - said).mean()


def test_lessons_are_what_their_shares_say() -> None:
    maps, labels = drawn(40, 0)
    targets = _targets(maps, labels)
    chance = torch.arange(40).double() / sum(range(40))
    torch.manual_seed(0)
    lessons = _lessons(maps, targets, chance, QUICK_TREES, lambda: None)
    assert float(lessons.chance.sum()) == pytest.approx(1)
    assert float(lessons.chance[: 8 * 40].sum()) == pytest.approx(0.45)
    assert float(lessons.chance[8 * 40 : 16 * 40].sum()) == pytest.approx(0.4)
    made = lessons.causal[16 * 40 :]
    assert made.all()
    assert len(made) in range(2 * 30, 2 * 40 + 1)
    torch.testing.assert_close(lessons.targets.sum(dim=1), torch.ones(len(lessons.targets)))
    # Half of what versions are learned towards is the label, and the trees say of learned maps what they learned.
    right = lessons.targets[: 8 * 40].argmax(dim=1) == targets.repeat(8)
    assert float(right.float().mean()) > 0.95
    assert float(lessons.targets[: 8 * 40].amax(dim=1).min()) > 0.47
    torch.manual_seed(0)
    alone = _lessons(maps, targets, chance, QUICK, lambda: None)
    assert torch.equal(alone.images, lessons.images[: 8 * 40])


def test_a_changed_version_of_a_causal_map_is_causal() -> None:
    torch.manual_seed(0)
    maps = [np.tril(values) for values in drawn(50, 0)[0]]
    images = _Images(maps, 16)
    assert images.causal.all()
    # A token may fill two or three cells, so that its own block of cells lies above the diagonal too.
    assert not images.of_all(images.unchanged).triu(2).any()
    assert not images.of_all(images.changed).triu(4).any()


def test_a_causal_version_is_what_the_head_would_give_if_no_token_looked_ahead() -> None:
    scores = np.random.default_rng(0).normal(0, 1, (20, 20))
    raw = softmax(scores, axis=1).astype(np.float32)
    expected = softmax(np.where(np.tri(20, dtype=bool), scores, -np.inf), axis=1)
    np.testing.assert_allclose(_made_causal(raw), expected, atol=1e-6)
    assert _made_causal(expected.astype(np.float32)) is None  # it is already
    ahead = np.full((20, 20), 1e-3, dtype=np.float32)
    ahead[np.arange(19), np.arange(1, 20)] = 1
    assert _made_causal(ahead) is None  # what made it diagonal would be gone
    assert np.isfinite(_made_causal(np.tril(raw, -1) + np.triu(raw, 5))).all()  # rows that end up empty


def test_mixtures_of_a_causal_image_are_causal() -> None:
    torch.manual_seed(0)
    images = torch.rand(10, 16, 16)
    causal = torch.arange(10) < 5
    images[causal] = images[causal].tril()
    lessons = _Lessons(images.half(), causal, torch.zeros(10, 5), torch.full((10,), 0.1, dtype=torch.float64))
    mixed = _mixtures(lessons, 200, lambda x: torch.full((len(x), 5), 0.2))
    assert mixed.images.shape == (200, 16, 16)
    assert 60 < int(mixed.causal.sum()) < 140
    assert not mixed.images[mixed.causal].triu(1).any()
    assert mixed.images[~mixed.causal].triu(1).flatten(1).any(dim=1).all()


def test_it_learns_all_five_patterns_from_generated_maps() -> None:
    quick = replace(QUICK, epochs=8, size=24, stages=((8,), (16,), (16,)), trees=30)
    classifier = train("norm", *generate_maps(400, seed=0), quick)
    maps, labels = generate_maps(100, seed=1)
    right = np.array([a == b for a, b in zip(classifier.predict(maps), labels, strict=True)])
    assert right.mean() > 0.8
    for pattern in PATTERNS:
        assert right[[label == pattern for label in labels]].mean() >= 0.5, pattern


def test_generated_maps_teach_a_pattern_that_the_annotations_lack() -> None:
    maps, labels = drawn(60, 0)  # no block among them
    quick = replace(QUICK, epochs=100, generated=0.5, stages=((8,), (16,), (16,)))
    blocks = generate_maps(50, seed=3, causal=True)[0][3::5]
    found = train("raw", maps, labels, quick).predict(blocks)
    assert found.count(Pattern.BLOCK) >= 7
    assert Pattern.BLOCK not in train("raw", maps, labels, QUICK).predict(blocks)


def test_maps_of_weight_nought_are_not_learned_from() -> None:
    maps, labels = drawn(40, 0)
    short = Training(epochs=2, batch_size=20, size=16, stages=((4,),), balance=0.0, generated=0.0, trees=10)
    weights = np.arange(40) % 2
    wrong = [label if w else Pattern.BLOCK for label, w in zip(labels, weights, strict=True)]
    assert train("raw", maps, wrong, short, weights=weights).version == (
        train("raw", maps, labels, short, weights=weights).version
    )
    assert train("raw", maps, wrong, short).version != train("raw", maps, labels, short).version


def test_a_group_is_never_on_both_sides(monkeypatch: pytest.MonkeyPatch) -> None:
    maps, labels = drawn(60, 0)
    groups = [i % 12 for i in range(60)]
    position = {id(values): i for i, values in enumerate(maps)}
    trained: list[set[int]] = []

    def spy(kind: str, some: Any, *rest: Any, **options: Any) -> PatternClassifier:
        trained.append({position[id(values)] for values in some})
        return PatternClassifier(kind, 16, ((4,),)).eval()

    monkeypatch.setattr(patterns.classifier.training, "train", spy)
    logits, folds = cross_validate("raw", maps, labels, groups, QUICK, folds=4)
    assert logits.shape == (60, 5)
    for fold, seen in enumerate(trained):
        held_out = set(np.flatnonzero(folds == fold))
        assert seen | held_out == set(range(60))
        assert not {groups[i] for i in seen} & {groups[i] for i in held_out}
    assert len(set(folds)) == 4


def test_training_sees_no_input_that_is_scored() -> None:
    targets = np.arange(60) % 3
    heads, inputs = np.arange(60) % 12, np.arange(60) // 2
    for seen, unseen in split_folds(targets, heads, inputs, 4):
        assert not set(heads[seen]) & set(heads[unseen])
        assert not set(inputs[seen]) & set(inputs[unseen])
        kept = set(range(60)) - set(unseen) - set(np.flatnonzero(np.isin(inputs, inputs[unseen])))
        assert set(seen) == kept


def test_calibration_uses_the_other_folds_only() -> None:
    random = np.random.default_rng(0)
    honest = random.normal(0, 2, (3000, 5))
    labels = [PATTERNS[random.choice(5, p=row)] for row in softmax(honest, axis=1)]
    folds = np.arange(3000) % 2
    scale = np.where(folds == 0, 2.0, 4.0)[:, None]
    found = calibrated(honest * scale, labels, folds)
    expected = softmax(honest[folds == 0] * 2.0 / 4.0, axis=1)
    np.testing.assert_allclose(found[folds == 0], expected, atol=0.05)


def test_only_the_scored_maps_are_predicted_but_all_are_trained_on(monkeypatch: pytest.MonkeyPatch) -> None:
    maps, labels = drawn(30, 0)
    sizes: list[int] = []

    def spy(kind: str, some: Any, *rest: Any, **options: Any) -> PatternClassifier:
        sizes.append(len(some))
        return PatternClassifier(kind, 16, ((4,),)).eval()

    monkeypatch.setattr(patterns.classifier.training, "train", spy)
    scored = np.arange(30) % 2 == 0
    logits, _ = cross_validate("raw", maps, labels, range(30), QUICK, folds=3, scored=scored)
    assert len(logits) == 15
    assert sum(sizes) == 2 * 30


def test_the_temperature_is_the_one_that_was_put_in() -> None:
    random = np.random.default_rng(0)
    honest = random.normal(0, 2, (4000, 5))
    labels = [PATTERNS[random.choice(5, p=row)] for row in softmax(honest, axis=1)]
    found = fit_temperature(honest * 3, labels)
    assert found == pytest.approx(3, rel=0.1)
    rows = np.arange(len(labels)), [PATTERNS.index(label) for label in labels]
    assert log_softmax(honest * 3 / found, axis=1)[rows].mean() > log_softmax(honest * 3, axis=1)[rows].mean()


@pytest.mark.parametrize(
    ("maps", "labels", "match"),
    [
        ([np.eye(3)], [], "1 maps but 0 labels"),
        ([np.eye(3)] * 2, [Pattern.BLOCK] * 2, "at least two patterns; these 2 have block"),
        ([], [], "these 0 have none"),
    ],
)
def test_what_cannot_be_learned_from_is_refused(maps: Any, labels: Any, match: str) -> None:
    with pytest.raises(InputError, match=match):
        train("raw", maps, labels, QUICK)


def test_fewer_groups_than_folds_are_refused() -> None:
    maps, labels = drawn(9, 0)
    with pytest.raises(InputError, match="5 folds need as many groups"):
        cross_validate("raw", maps, labels, ["a", "b", "c"] * 3, QUICK)


@pytest.mark.parametrize(
    "bad",
    [
        {"epochs": 0},
        {"epochs": 1.5},
        {"batch_size": -1},
        {"learning_rate": 0},
        {"learning_rate": float("nan")},
        {"size": 0},
        {"trees": -1},
        {"trees": 1.5},
        {"generated": 1.0},
        {"weight_decay": -1},
        {"balance": float("nan")},
    ],
)
def test_settings_out_of_range_are_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=f"{next(iter(bad))}=.*number from"):
        Training(**bad)


def test_images_too_small_to_be_measured_are_refused() -> None:
    with pytest.raises(InputError, match="size=4: with trees=1, give at least 8"):
        Training(size=4, trees=1)
    assert Training(size=4, trees=0).size == 4


@pytest.mark.parametrize(
    ("number", "groups", "inputs", "scored", "match"),
    [
        (8, range(8), None, None, "a pattern with as many maps"),
        (30, [0, 1, 2] * 10, None, None, "but there are 3; give fewer folds"),
        (30, range(30), [0] * 30, None, "fewer than two patterns"),
        (30, range(30), None, np.arange(30) < 3, "scored maps .heads., but there are 3"),
    ],
)
def test_what_cannot_be_split_is_said_before_anything_is_trained(
    number: int, groups: Any, inputs: Any, scored: Any, match: str
) -> None:
    maps, labels = drawn(number, 0)
    with pytest.raises(InputError, match=match):
        cross_validate("raw", maps, labels, list(groups), QUICK, 5, scored, inputs=inputs)


def test_weights_that_are_all_nought_are_refused() -> None:
    with pytest.raises(InputError, match="weights"):
        train("raw", *drawn(10, 0), QUICK, weights=np.zeros(10))


class TestAugmentation:
    def test_without_crop_and_warp_the_window_is_the_plain_image(self) -> None:
        maps, lengths = torch.rand(3, 40, 40), torch.tensor([40, 21, 12])
        plain = image_pair(maps[:, None], None, resampling_matrices(lengths, 40, 16))[0][:, 0]
        torch.testing.assert_close(RandomWindow(16, crop=0, warp=0)(maps, lengths), plain)

    def test_a_window_keeps_the_diagonal_on_the_diagonal_and_columns_columns(self) -> None:
        torch.manual_seed(0)
        lengths = torch.tensor([64] * 50)
        diagonal = RandomWindow(16)(torch.eye(64).repeat(50, 1, 1), lengths)
        off = diagonal * (1 - torch.eye(16)).tril(-2) + diagonal * (1 - torch.eye(16)).triu(2)
        assert float(off.abs().max()) == 0
        column = torch.zeros(50, 64, 64)
        column[:, :, 30:34] = 1
        images = RandomWindow(16)(column, lengths)
        torch.testing.assert_close(images, images[:, :1].expand_as(images), rtol=0, atol=1e-5)

    def test_a_window_never_reaches_into_the_padding(self) -> None:
        torch.manual_seed(0)
        maps = torch.ones(200, 50, 50)
        maps[:, 20:] = 1e6
        maps[:, :, 20:] = 1e6
        images = RandomWindow(16)(maps, torch.full((200,), 20))
        torch.testing.assert_close(images, torch.ones_like(images))

    def test_noise_and_contrast_keep_images_between_0_and_1_and_differ_between_images(self) -> None:
        torch.manual_seed(0)
        images = torch.rand(1, 8, 8).expand(6, 8, 8) * 7
        for change in (RandomNoise(0.2), RandomContrast(0.5)):
            changed = change(images)
            assert float(changed.min()) >= 0
            assert float(changed.max()) <= 1
            assert float((changed - relative(images)).abs().amax(dim=(1, 2)).min()) > 1e-3
            assert float((changed[0] - changed[1]).abs().max()) > 1e-3


def test_scores_are_those_of_scikit_learn() -> None:
    from sklearn.metrics import accuracy_score, f1_score, log_loss

    random = np.random.default_rng(0)
    probabilities = random.dirichlet(np.ones(5), 200)
    truth = random.integers(0, 4, 200)  # one pattern never occurs among the labels
    found = probabilities.argmax(axis=1)
    scores = score([PATTERNS[i] for i in truth], probabilities)
    assert scores["accuracy"] == accuracy_score(truth, found)
    assert scores["macro_f1"] == pytest.approx(f1_score(truth, found, average="macro"))
    assert scores["log_loss"] == pytest.approx(log_loss(truth, probabilities, labels=range(5)))
    assert np.sum(scores["confusion"]) == scores["maps"] == 200
    assert np.trace(scores["confusion"]) == (truth == found).sum()
    assert scores["support"]["heterogeneous"] == 0
    assert scores["majority_accuracy"] == np.bincount(truth).max() / 200


def test_a_perfect_classifier_of_few_patterns_scores_one() -> None:
    scores = score([Pattern.BLOCK, Pattern.DIAGONAL], np.eye(5)[[3, 1]])
    assert scores["accuracy"] == scores["macro_f1"] == 1


def test_images_for_training_and_for_prediction_are_the_same() -> None:
    maps, _ = drawn(5, 3)
    padded = torch.zeros(5, 60, 60)
    for i, values in enumerate(maps):
        padded[i, : len(values), : len(values)] = torch.from_numpy(values)
    lengths = torch.tensor([len(values) for values in maps])
    window = RandomWindow(32, crop=0, warp=0)(padded, lengths)
    torch.testing.assert_close(relative(window), relative(images_of(maps)))


def test_a_long_map_is_averaged_before_it_is_learned_from() -> None:
    long, short = generate_maps(2, seed=5)[0]
    long = np.repeat(np.repeat(long, 5, axis=0), 5, axis=1)
    padded, lengths = _stacked([long, short], 64)
    assert lengths.tolist() == [64, min(len(short), 64)]
    before = relative(images_of([long], 16))
    after = relative(images_of([padded[0].numpy()], 16))
    torch.testing.assert_close(after, before, atol=0.01, rtol=0.01)
    assert not padded[1, int(lengths[1]) :].any()
