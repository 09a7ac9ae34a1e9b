"""An attention mask that is made row by row: whole, it has as many cells as a map."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.utils._pytree import tree_map

MakeRows = Callable[[slice, slice], torch.Tensor]
"""``make(queries, keys)`` returns the mask ``[B, 1, m, k]`` of these queries and keys."""


class RowMask(torch.Tensor):
    """A mask ``[B, 1, n, m]``, to be added to scores, that takes no memory.

    To whoever computes with it, it is the whole mask, made then and kept; who needs a few rows asks for them.
    """

    _make: MakeRows
    _whole: torch.Tensor | None
    _keys: dict[tuple[int, int], slice]

    @staticmethod
    def __new__(
        cls: type[RowMask], shape: tuple[int, ...], dtype: torch.dtype, device: torch.device, make: MakeRows
    ) -> RowMask:
        """Make a mask of this shape from a function that makes a part of it."""
        mask: RowMask = torch.Tensor._make_wrapper_subclass(cls, shape, dtype=dtype, device=device)
        mask._make, mask._whole, mask._keys = make, None, {}
        return mask

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]  # as PyTorch's documentation has it
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Compute with the whole mask."""
        args, kwargs = tree_map(whole_mask, (args, kwargs or {}))
        return func(*args, **kwargs)

    def whole(self) -> torch.Tensor:
        """Return it as an ordinary tensor."""
        if self._whole is None:
            self._whole = self._make(slice(0, self.shape[2]), slice(0, self.shape[3]))
        return self._whole

    def part(self, rows: slice) -> tuple[torch.Tensor, slice]:
        """Return what :func:`mask_part` does; which keys these are is found out once and serves all layers."""
        place = (rows.start, rows.stop)
        if place in self._keys:
            return self._make(rows, self._keys[place]), self._keys[place]
        everything = self._make(rows, slice(0, self.shape[3]))
        self._keys[place] = keys = _seen(everything)
        return everything[..., keys], keys


def whole_mask(value: Any) -> Any:
    """Return a :class:`RowMask` as an ordinary tensor, and anything else as it is."""
    return value.whole() if isinstance(value, RowMask) else value


def mask_part(mask: torch.Tensor | None, rows: slice, n_keys: int) -> tuple[torch.Tensor | None, slice]:
    """Return the mask of some queries and of the keys that any of them sees, and which keys these are.

    Args:
        mask: ``[1 or B, 1 or H, n, n_keys]``, or None.
        rows: the queries.
        n_keys: how many keys there are.
    """
    if mask is None:
        return None, slice(0, n_keys)
    if isinstance(mask, RowMask):
        return mask.part(rows)
    part = mask[:, :, rows]
    keys = _seen(part)
    return part[..., keys], keys


def _seen(mask: torch.Tensor) -> slice:
    """Return the range of keys outside which every query of a mask ``[B, H, m, k]`` has a probability of 0.

    A query that sees nothing attends to all keys alike in eager attention, so that then nothing is left out.
    """
    seen = mask > torch.finfo(mask.dtype).min
    if not bool(seen.any(dim=-1).all()):
        return slice(0, mask.shape[-1])
    places = seen.flatten(0, 2).any(dim=0).nonzero()
    return slice(int(places[0]), int(places[-1]) + 1)
