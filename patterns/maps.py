"""Attention maps of a model: raw, and norm-weighted (Kobayashi et al. 2020)."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING

import torch

from models.anatomy import Anatomy, anatomy_of
from models.errors import InputError
from models.tap import observe

from .taxonomy import KINDS

if TYPE_CHECKING:
    from transformers import PreTrainedModel

LayerMaps = tuple[int, str, torch.Tensor, torch.Tensor]
"""``(layer, kind, maps [B, H, n, n] float32, lengths [B])``."""


class ValueNorms:
    """Norms of the transformed value vectors of a model: ``f[j] = ||(x_j W_V + b_V) W_O||`` per head.

    They are what norm-weighted attention multiplies probabilities with (Kobayashi et al. 2020, equation 5):
    since P[i, j] is a scalar, ``||P[i, j] f(x_j)|| = P[i, j] ||f(x_j)||``, and no ``[n, n, hidden]`` tensor is
    needed. With ``W_O = Q R`` per head (Q has orthonormal columns), the norm is that of ``R v_j``: d_head
    instead of hidden numbers per token. R is computed once per model.
    """

    def __init__(self, anatomy: Anatomy) -> None:
        self._anatomy = anatomy
        self._factors: dict[tuple[int, int], torch.Tensor] = {}

    def __call__(self, layer: int, values: torch.Tensor) -> torch.Tensor:
        """Return f ``[B, H, n]`` in float32 from the layer's values ``[B, H, n, d_head]``, value bias included."""
        return torch.matmul(values.float(), self._factor(layer, values.shape[1])).norm(dim=-1)

    def _factor(self, layer: int, n_heads: int) -> torch.Tensor:
        """R transposed, ``[H, d_head, d_head]``; layers that share a module share it."""
        key = (id(self._anatomy.outputs[layer]), n_heads)
        if key not in self._factors:
            slices = self._anatomy.output_slices(layer, n_heads).detach().float()  # [H, hidden, d_head]
            # QR and not the Gram matrix: where a head's slice is nearly null, the Gram form is off by percents.
            self._factors[key] = torch.linalg.qr(slices, mode="r").R.transpose(1, 2).contiguous()
        return self._factors[key]


def lengths_of(attention_mask: torch.Tensor) -> torch.Tensor:
    """Return the number of real tokens of each input of a right-padded batch.

    Args:
        attention_mask: ``[B, n]``, 1 for real tokens.

    Raises:
        InputError: padding is not on the right, or an input is empty.
    """
    mask = attention_mask.bool()
    lengths = mask.sum(dim=1)
    if not torch.equal(mask, torch.arange(mask.shape[1], device=mask.device) < lengths[:, None]):
        raise InputError(
            "The batch is not padded on the right; with absolute positions, left-padded inputs are other inputs."
        )
    if not bool((lengths > 0).all()):
        raise InputError("The batch holds an input without tokens.")
    return lengths


def check_kinds(kinds: Sequence[str]) -> tuple[str, ...]:
    """Return the wanted kinds in their fixed order, raw first.

    Raises:
        InputError: none, or one that does not exist.
    """
    if not kinds or not set(kinds) <= set(KINDS):
        raise InputError(f"kinds={tuple(kinds)}: give one or both of {', '.join(KINDS)}.")
    return tuple(kind for kind in KINDS if kind in kinds)


def attention_maps(
    model: PreTrainedModel,
    batch: Mapping[str, torch.Tensor],
    kinds: Sequence[str] = KINDS,
    layers: Collection[int] | None = None,
) -> list[LayerMaps]:
    """Run `model` on one batch and return its attention maps.

    Args:
        model: a model of a supported family in evaluation mode.
        batch: what the tokenizer returns, as tensors ``[B, n]`` padded on the right.
        kinds: ``raw`` (probabilities P) and ``norm`` (``P[i, j] * ||(x_j W_V + b_V) W_O||``).
        layers: layers wanted, 0-based; all if None. They are all held in memory at once;
            :func:`models.observe` is the way to see one at a time.

    Returns:
        ``(layer, kind, maps, lengths)`` in the order of the layers, raw before norm: maps
        ``[B, H, n, n]`` float32, row = query, column = key; real tokens first, cells beyond an
        input's length are 0.

    Raises:
        InputError: an unknown kind or layer, left padding, or a model in training mode.
        UnsupportedModelError: the model's family is not supported.
    """
    kinds = check_kinds(kinds)
    inputs = batch["input_ids"]
    mask = batch.get("attention_mask", torch.ones_like(inputs))
    lengths = lengths_of(mask)
    real = mask.bool()
    cells = None if bool(real.all()) else real[:, None, :, None] & real[:, None, None, :]
    value_norms = ValueNorms(anatomy_of(model))
    found: list[LayerMaps] = []

    def keep(layer: int, probabilities: torch.Tensor, values: torch.Tensor) -> None:
        raw = probabilities.float()
        if cells is not None:
            raw = raw * cells
        if "raw" in kinds:
            found.append((layer, "raw", raw, lengths))
        if "norm" in kinds:
            found.append((layer, "norm", raw * value_norms(layer, values)[:, :, None, :], lengths))

    with torch.inference_mode(), observe(model, keep, layers):
        model(**batch)
    return found
