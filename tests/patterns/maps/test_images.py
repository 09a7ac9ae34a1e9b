"""Images of maps: exact area averages, whatever the length and whatever the padding holds."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from patterns.classifier.network import images_of
from patterns.maps.images import Resampling, SummedImages, image_pair, relative, resampling_matrices


def slow_image(values: np.ndarray, size: int) -> np.ndarray:
    """The obvious way: repeat every cell `size` times, then average blocks of n x n."""
    n = len(values)
    fine = np.kron(values.astype(np.float64), np.ones((size, size)))
    return fine.reshape(size, n, size, n).mean(axis=(1, 3))


@given(n=st.integers(1, 70), size=st.integers(1, 40), seed=st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_an_image_is_the_area_average_of_its_map(n: int, size: int, seed: int) -> None:
    values = np.random.default_rng(seed).random((n, n)).astype(np.float32)
    R = resampling_matrices(torch.tensor([n]), n, size)
    image = image_pair(torch.from_numpy(values)[None, None], None, R)[0][0, 0]
    np.testing.assert_allclose(image, slow_image(values, size), rtol=1e-5, atol=1e-7)


@given(lengths=st.lists(st.integers(1, 300), min_size=1, max_size=5), extra=st.integers(0, 9))
@settings(max_examples=60, deadline=None)
def test_rows_of_a_resampling_matrix_sum_to_one_and_leave_padding_alone(
    lengths: list[int], extra: int
) -> None:
    n = max(lengths) + extra
    R = resampling_matrices(torch.tensor(lengths), n)
    torch.testing.assert_close(R.sum(dim=2), torch.ones(len(lengths), R.shape[1]))
    for i, length in enumerate(lengths):
        assert R[i, :, length:].abs().sum() == 0


def test_what_lies_in_the_padding_does_not_change_an_image() -> None:
    maps = torch.rand(2, 3, 20, 20)
    dirty = maps.clone()
    dirty[1, :, 12:] = 1e6
    dirty[1, :, :, 12:] = 1e6
    R = resampling_matrices(torch.tensor([20, 12]), 20)
    f = torch.rand(2, 3, 20)
    for clean, image in zip(image_pair(maps, f, R), image_pair(dirty, f, R), strict=True):
        assert clean is not None
        assert image is not None
        torch.testing.assert_close(image, clean)


def test_the_norm_image_is_the_image_of_the_norm_map() -> None:
    P, f = torch.rand(2, 3, 17, 17), torch.rand(2, 3, 17) * 9
    R = resampling_matrices(torch.tensor([17, 11]), 17)
    _, norm = image_pair(P, f, R)
    direct, _ = image_pair(P * f[:, :, None, :], None, R)
    torch.testing.assert_close(norm, direct)


def test_rows_stay_rows_and_columns_stay_columns() -> None:
    values = np.zeros((64, 64), dtype=np.float32)
    values[:, 10] = 1  # every query attends to token 10
    image = images_of([values])[0]
    assert (image[:, 5] == 0.5).all()
    assert float(image.sum()) == pytest.approx(16)


@pytest.mark.parametrize("scale", [1e-30, 1e-4, 7.0, 1e30])
def test_the_scale_of_a_map_does_not_matter(scale: float) -> None:
    values = np.random.default_rng(0).random((23, 23)).astype(np.float32)
    torch.testing.assert_close(
        relative(images_of([values * np.float32(scale)])), relative(images_of([values]))
    )


def test_an_image_that_is_all_zero_stays_so() -> None:
    assert relative(torch.zeros(2, 4, 4)).abs().sum() == 0


@given(
    lengths=st.lists(st.integers(1, 70), min_size=1, max_size=4),
    size=st.integers(1, 40),
    step=st.integers(1, 80),
    causal=st.booleans(),
    seed=st.integers(0, 99),
)
@settings(max_examples=60, deadline=None)
def test_images_put_together_from_blocks_of_rows_are_those_of_whole_maps(
    lengths: list[int], size: int, step: int, causal: bool, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    n = max(lengths)
    P = torch.rand(len(lengths), 3, n, n, generator=generator)
    P = P.tril() if causal else P
    norms, values = torch.rand(len(lengths), 3, n, generator=generator), torch.zeros(len(lengths), 3, n, 2)
    resampling = Resampling.of(torch.tensor(lengths), n, size)
    images = SummedImages(resampling, norms, values)
    for first in range(0, n, step):
        rows = slice(first, min(first + step, n))
        keys = slice(0, rows.stop if causal else n)
        images.add(P[:, :, rows, keys], rows, keys)
    raw, norm = image_pair(P, norms, resampling.matrices)
    torch.testing.assert_close(images.raw, raw, rtol=0, atol=1e-6)
    torch.testing.assert_close(images.norm, norm, rtol=0, atol=1e-6)
