"""What is measured on an image is what it says, whatever the image's scale."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from patterns.classifier.features import SMALLEST, features_of


def means(values: np.ndarray, steady: np.ndarray) -> list[float]:
    """The measurements of one image, one after the other, slowly."""
    n = len(values)
    columns = [values[:, j].mean() for j in range(n)]
    rows = [values[i].mean() for i in range(n)]
    top = sorted(columns, reverse=True)[:3]
    total = values.sum()
    rest = np.array([[values[i, j] - steady[j] for j in range(n)] for i in range(n)])
    lines = [np.mean([values[i, i + k] for i in range(n) if 0 <= i + k < n]) for k in range(-6, 7)]
    contrasts = []
    for cut in range(max(3, n // 5), n - max(3, n // 5)):
        first, second = values[:cut, :cut].mean(), values[cut:, cut:].mean()
        across = np.concatenate([values[:cut, cut:].ravel(), values[cut:, :cut].ravel()]).mean()
        contrasts.append((min(first, second) - across) / max(first + second + across, 1e-9))
    shares = [cell / total for cell in values.ravel() if cell > 0]
    entropy = -sum(share * np.log(share) for share in shares) / np.log(n * n)
    near = [
        sum(values[i, j] for i in range(n) for j in range(n) if abs(i - j) <= k) / total for k in (1, 3, 6)
    ]
    beside = [np.mean([rest[i, i + k] for i in range(n) if 0 <= i + k < n]) for k in (-1, 0, 1)]
    return [
        values.mean(),
        np.std(columns, ddof=1),
        np.std(rows, ddof=1),
        np.abs(rest).mean(),
        rest.std(),
        max(lines),
        max(contrasts),
        entropy,
        sum(top) / sum(columns),
        *top,
        *sorted(steady, reverse=True)[:2],
        columns[0],
        columns[-1],
        *lines[2:-2],
        *near,
        *beside,
    ]


def slow(image: np.ndarray) -> list[float]:
    shown = image.astype(np.float64) / image.max()
    middle = (len(shown) - 1) // 2  # the lower one of two
    steady = np.array([sorted(shown[:, j])[middle] for j in range(len(shown))])
    return [*means(shown, steady), *means(np.sqrt(shown), np.sqrt(steady)), np.log(image.max())]


def images(size: int) -> dict[str, np.ndarray]:
    random = np.random.default_rng(size)
    one, corner, column = np.zeros((3, size, size))
    one[2, 5], corner[-1, 0], column[:, 3] = 1, 1e-6, 0.25
    border = size // 2
    block = np.full((size, size), 0.01)
    block[:border, :border] = block[border:, border:] = 0.5
    return {
        "random": random.random((size, size)),
        "attention": random.dirichlet(np.full(size, 0.2), size),
        "all equal": np.full((size, size), 3.0),
        "one cell": one,
        "one faint cell": corner,
        "column": column,
        "diagonal": np.eye(size, k=1),
        "block": block,
        "mostly empty": random.random((size, size)) * (random.random((size, size)) < 0.02) + one,
    }


@pytest.mark.parametrize("size", [SMALLEST, 15, 32])
def test_measurements_are_those_of_the_slow_way(size: int) -> None:
    shown = images(size)
    found = features_of(torch.tensor(np.stack(list(shown.values())), dtype=torch.float32))
    for name, measured in zip(shown, found, strict=True):
        np.testing.assert_allclose(measured, slow(shown[name]), atol=2e-4, rtol=2e-4, err_msg=name)


def test_of_the_scale_of_an_image_only_its_brightness_tells_and_of_its_neighbours_nothing() -> None:
    shown = torch.tensor(np.stack(list(images(16).values())), dtype=torch.float32)
    together = features_of(shown)
    for scale in (2.0**-5, 0.01, 1000.0):
        found = features_of(shown * scale)
        torch.testing.assert_close(found[:, :-1], together[:, :-1], atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(found[:, -1] - together[:, -1], torch.full((len(shown),), scale).log())
    for image, measured in zip(shown, together, strict=True):
        torch.testing.assert_close(features_of(image[None])[0], measured, atol=1e-5, rtol=1e-5)


def test_nothing_is_not_a_number_even_for_an_image_of_noughts() -> None:
    shown = torch.stack([torch.zeros(16, 16), torch.full((16, 16), 1e-38), torch.full((16, 16), 1e38)])
    assert features_of(shown).isfinite().all()
