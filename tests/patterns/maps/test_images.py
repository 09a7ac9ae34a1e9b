"""Images of maps: exact area averages, whatever the length and whatever the padding holds."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from patterns.classifier.network import images_of
from patterns.maps.images import (
    Resampling,
    SummedImages,
    evened,
    image_pair,
    largest_cells,
    on_scale,
    relative,
    resampling_matrices,
)


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
    torch.testing.assert_close(images_of([values * np.float32(scale)]), images_of([values]))


def test_an_image_is_as_bright_as_its_cells_are_beside_the_maps_largest() -> None:
    values = np.full((64, 64), 0.01, dtype=np.float32)
    values[40, 3] = 0.5
    image = images_of([values])[0]  # cells of 2 x 2 tokens
    assert float(image[20, 1]) == pytest.approx((0.5 + 3 * 0.01) / 4 / 0.5)
    assert float(image[0, 0]) == pytest.approx(0.01 / 0.5)


@pytest.mark.parametrize("n", [7, 32, 100])
def test_an_even_causal_head_is_even_and_keeps_its_largest_cell(n: int) -> None:
    values = np.tril(np.ones((n, n), dtype=np.float32)) / np.arange(1, n + 1, dtype=np.float32)[:, None]
    image = images_of([values])[0]
    plain = image_pair(torch.from_numpy(values)[None, None], None, resampling_matrices(torch.tensor([n]), n))
    assert float(image.max()) == pytest.approx(float(plain[0].max()))
    inside = image[torch.arange(8, 32), 0]
    assert float(inside.max() / inside.min()) < 1.5
    before = plain[0][0, 0][torch.arange(8, 32), 0]
    assert float(before.max() / before.min()) > 2
    # One cell above the diagonal, and it is no causal map.
    values[0, -1] = 1e-6
    assert float(images_of([values])[0][31, 0]) == pytest.approx(float(plain[0][0, 0, 31, 0]), rel=1e-4)


def test_evened_images_may_be_of_any_shape_and_empty() -> None:
    images = torch.rand(2, 3, 8, 8).tril()
    torch.testing.assert_close(evened(images)[1, 2], evened(images[1, 2]))
    assert not evened(torch.zeros(1, 8, 8)).any()


@pytest.mark.parametrize("lengths", [(6, 6), (6, 3), (0, 6), (2, 0)])
def test_the_largest_cells_are_those_of_real_tokens(lengths: tuple[int, int]) -> None:
    values = torch.rand(2, 3, 6, 5)
    expected = torch.stack(
        [one[:, :n].amax(dim=1) if n else torch.zeros(3, 5) for one, n in zip(values, lengths, strict=True)]
    )
    assert torch.equal(largest_cells(values, lengths), expected)
    scaled = on_scale(values[:, :, :5], expected.amax(dim=-1))
    for b in range(2):
        if lengths[b] >= 5:
            assert float(scaled[b, 0].max()) <= 1
    assert not on_scale(torch.zeros(1, 4, 4), torch.zeros(1)).any()


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
