"""A mask made row by row is, to whoever computes with it, the whole one."""

from __future__ import annotations

import torch

from models.common.row_mask import RowMask, mask_part, whole_mask

LOWEST = torch.finfo(torch.float32).min
WHOLE = torch.where(torch.ones(6, 6).tril().bool(), 0.0, LOWEST)[None, None].expand(2, 1, 6, 6)


def row_mask() -> tuple[RowMask, list[tuple[slice, slice]]]:
    asked: list[tuple[slice, slice]] = []

    def make(rows: slice, keys: slice) -> torch.Tensor:
        asked.append((rows, keys))
        return WHOLE[:, :, rows, keys]

    return RowMask((2, 1, 6, 6), torch.float32, torch.device("cpu"), make), asked


def test_it_looks_like_a_tensor_and_nothing_is_made_of_it_until_it_is_used() -> None:
    mask, asked = row_mask()
    assert (mask.shape, mask.dtype, mask.is_floating_point()) == ((2, 1, 6, 6), torch.float32, True)
    assert asked == []


def test_whoever_computes_with_it_computes_with_the_whole_mask_made_once() -> None:
    mask, asked = row_mask()
    scores = torch.randn(2, 3, 6, 6)
    assert torch.equal(scores + mask, scores + WHOLE)
    assert torch.equal(scores.clone().add_(mask), scores + WHOLE)
    assert torch.equal(mask[:, :, :, :4], WHOLE[..., :4])
    assert torch.equal(mask.to(torch.float64), WHOLE.double())
    assert torch.equal(whole_mask(mask), WHOLE)
    assert len(asked) == 1


def test_a_part_has_the_keys_that_are_seen_and_a_second_time_no_others_are_made() -> None:
    mask, asked = row_mask()
    for _ in range(2):
        part, keys = mask_part(mask, slice(2, 4), 6)
        assert keys == slice(0, 4)
        assert torch.equal(part, WHOLE[:, :, 2:4, :4])
    assert asked == [(slice(2, 4), slice(0, 6)), (slice(2, 4), slice(0, 4))]


def test_the_part_of_an_ordinary_mask_and_of_none() -> None:
    part, keys = mask_part(WHOLE, slice(2, 4), 6)
    assert keys == slice(0, 4)
    assert torch.equal(part, WHOLE[:, :, 2:4, :4])
    assert mask_part(None, slice(2, 4), 6) == (None, slice(0, 6))
