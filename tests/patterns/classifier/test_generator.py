"""Generated maps are attention, are what they are called, and repeat themselves."""

from __future__ import annotations

import numpy as np
import pytest

from models import InputError
from patterns import Pattern
from patterns.classifier.generator import LENGTHS, generate_maps
from patterns.taxonomy import PATTERNS

MAPS, LABELS = generate_maps(300)


def of(pattern: Pattern) -> list[np.ndarray]:
    return [m / m.max() for m, label in zip(MAPS, LABELS, strict=True) if label == pattern]


def brightest_column(values: np.ndarray) -> float:
    return float(np.median(values, axis=0).max())


def brightest_diagonal(values: np.ndarray) -> float:
    return max(float(np.median(np.diag(values, k))) for k in range(-3, 4))


def test_they_are_maps_of_every_pattern_and_many_lengths() -> None:
    assert {label: LABELS.count(label) for label in PATTERNS} == dict.fromkeys(PATTERNS, 60)
    lengths = [len(values) for values in MAPS]
    assert LENGTHS[0] <= min(lengths) < 20
    assert 85 < max(lengths) <= LENGTHS[1]
    for values in MAPS:
        assert values.dtype == np.float32
        assert values.shape == (len(values), len(values))
        assert np.isfinite(values).all()
        assert (values >= 0).all()
        assert values.max() > 0


def test_about_half_are_attention_and_the_rest_is_weighted_by_key() -> None:
    sums = np.array([np.abs(values.sum(axis=1) - 1).max() < 0.35 for values in MAPS])
    assert sums.mean() > 0.3


def test_the_structure_is_the_one_in_the_name() -> None:
    column = {pattern: np.median([brightest_column(m) for m in of(pattern)]) for pattern in PATTERNS}
    diagonal = {pattern: np.median([brightest_diagonal(m) for m in of(pattern)]) for pattern in PATTERNS}
    for pattern in (Pattern.VERTICAL, Pattern.VERTICAL_DIAGONAL):
        assert column[pattern] > 2 * max(column[Pattern.DIAGONAL], column[Pattern.HETEROGENEOUS])
    for pattern in (Pattern.DIAGONAL, Pattern.VERTICAL_DIAGONAL):
        assert diagonal[pattern] > 2 * max(diagonal[Pattern.VERTICAL], diagonal[Pattern.HETEROGENEOUS])


def test_the_same_seed_gives_the_same_maps_and_a_longer_list_begins_with_the_shorter() -> None:
    again, _ = generate_maps(20)
    assert all(np.array_equal(a, b) for a, b in zip(again, MAPS, strict=False))
    other, _ = generate_maps(20, seed=1)
    assert not any(np.array_equal(a, b) for a, b in zip(again, other, strict=True))
    assert generate_maps(0) == ([], [])


@pytest.mark.parametrize(("count", "seed", "named"), [(-1, 0, "count"), (3, -1, "seed")])
def test_bad_numbers_are_named(count: int, seed: int, named: str) -> None:
    with pytest.raises(InputError, match=named):
        generate_maps(count, seed)


def test_every_pattern_has_its_record_and_its_parts() -> None:
    from patterns.classifier.generator import _PARTS
    from patterns.taxonomy import RECORDS

    assert list(RECORDS) == list(_PARTS) == list(Pattern)
    for field in (
        "title",
        "abbreviation",
        "colour",
        "colour_of_16",
        "hotkey",
        "published_raw",
        "published_norm",
    ):
        assert len({getattr(record, field) for record in RECORDS.values()}) == len(Pattern)
