"""Attention maps of a model: raw, and norm-weighted (Kobayashi et al. 2020)."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING

import torch

from models.anatomy import Anatomy, anatomy_of
from models.common.errors import InputError
from models.tap import observe

from ..taxonomy import KINDS

if TYPE_CHECKING:
    from transformers import PreTrainedModel

LayerMaps = tuple[int, str, torch.Tensor, torch.Tensor]
"""``(layer, kind, maps [B, H, n, n] float32, lengths [B])``."""


class ValueNorms:
    """Norms of the transformed value vectors of a model: ``f[j] = ||(x_j W_V + b_V) W_O||`` per head.

    They are what norm-weighted attention multiplies probabilities with (Kobayashi et al. 2020, equation 5):
    since P[i, j] is a scalar, ``||P[i, j] f(x_j)|| = P[i, j] ||f(x_j)||``, and no ``[n, n, hidden]`` tensor is
    needed. With a triangular R such that ``W_O^T W_O = R^T R`` per head, the norm is that of ``R v_j``: d_head
    instead of hidden numbers per token. R is computed once per model.
    """

    def __init__(self, anatomy: Anatomy) -> None:
        self._anatomy = anatomy
        self._factors: dict[tuple[int, int], torch.Tensor] = {}

    def __call__(self, layer: int, values: torch.Tensor) -> torch.Tensor:
        """Return f ``[B, H, n]`` in float32 from the layer's values ``[B, H, n, d_head]``, value bias included."""
        factor = self._factor(layer, values.shape[1]).to(values.device)
        return torch.matmul(values.float(), factor).norm(dim=-1)

    def _factor(self, layer: int, n_heads: int) -> torch.Tensor:
        """R transposed, ``[H, d_head, d_head]``; layers that share a module share it."""
        key = (id(self._anatomy.outputs[layer]), n_heads)
        if key not in self._factors:
            self._factors[key] = _right_factor(self._anatomy.output_slices(layer, n_heads).detach())
        return self._factors[key]


class SharedValueNorms(ValueNorms):
    """Value norms for several observers of one model, which are shown the same values one after the other."""

    _last: tuple[int, torch.Tensor, torch.Tensor] | None = None

    def __call__(self, layer: int, values: torch.Tensor) -> torch.Tensor:
        """Return what :class:`ValueNorms` does; at once for the values that it was asked about last."""
        if self._last is None or self._last[0] != layer or self._last[1] is not values:
            self._last = layer, values, super().__call__(layer, values)
        return self._last[2]


def _right_factor(slices: torch.Tensor) -> torch.Tensor:
    """Return R transposed ``[H, d_head, d_head]`` float32, ``R^T R = W^T W``, of slices W ``[H, hidden, d_head]``.

    The Gram matrix in float64 is as exact as a QR decomposition in float32 and twice as fast; in float32 it
    would be off by percents for a head whose slice is nearly null.
    """
    wide = (slices.cpu() if slices.device.type == "mps" else slices).double()  # MPS has no float64
    factor, failed = torch.linalg.cholesky_ex(wide.transpose(1, 2) @ wide)
    if bool(failed.any()):  # a slice without full rank, such as that of a removed head
        factor = torch.linalg.qr(wide, mode="r").R.transpose(1, 2)
    return factor.float().to(slices.device).contiguous()


def lengths_of(attention_mask: torch.Tensor) -> torch.Tensor:
    """Return the number of real tokens of each input of a right-padded batch.

    Args:
        attention_mask: ``[B, n]``, 1 for real tokens.

    Raises:
        InputError: padding is not on the right, or an input is empty.
    """
    if attention_mask.ndim != 2:
        raise InputError(f"attention_mask has the shape {tuple(attention_mask.shape)}; it must be [B, n].")
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
    kinds = (kinds,) if isinstance(kinds, str) else kinds
    if not kinds or not set(kinds) <= set(KINDS):
        raise InputError(f"kinds={tuple(kinds)}: give one or both of {', '.join(KINDS)}.")
    return tuple(kind for kind in KINDS if kind in kinds)


def attention_maps(
    model: PreTrainedModel,
    batch: Mapping[str, torch.Tensor],
    kinds: Sequence[str] = KINDS,
    layers: Collection[int] | None = None,
    *,
    stack: str | None = None,
) -> list[LayerMaps]:
    """Run `model` on one batch and return its attention maps.

    Args:
        model: a model of a supported family in evaluation mode.
        batch: what the tokenizer returns, as tensors ``[B, n]`` padded on the right.
        kinds: ``raw`` (probabilities P) and ``norm`` (``P[i, j] * ||(x_j W_V + b_V) W_O||``).
        layers: layers wanted, 0-based; all if None. They are all held in memory at once;
            :func:`models.observe` is the way to see one at a time.
        stack: of an encoder-decoder, whose maps: ``encoder`` (also if None), ``decoder``, or ``cross``, whose rows are
            the decoder's tokens and whose columns are the encoder's. Where the batch has no ``decoder_input_ids``, the
            decoder reads the same tokens after a start token (:meth:`models.Anatomy.fed`).

    Returns:
        ``(layer, kind, maps, lengths)`` in the order of the layers, raw before norm: maps
        ``[B, H, n, n]`` float32, row = query, column = key; real tokens first, cells beyond an
        input's length are 0. They share one block of memory: clone what outlives the rest. Of a compacted
        model, H is the number of heads that the layer has left (``anatomy_of(model).kept[layer]`` are their
        numbers), and there is nothing of a layer without heads. Of a stack that is not the encoder, lengths are the
        decoder's; maps ``cross`` are ``[B, H, n, m]``.

    Raises:
        InputError: an unknown kind or layer, left padding, or a model in training mode.
        UnsupportedModelError: the model's family is not supported.
    """
    kinds = check_kinds(kinds)
    inputs = batch.get("input_ids")
    if not isinstance(inputs, torch.Tensor) or inputs.ndim != 2:
        raise InputError(
            "batch needs 'input_ids', a tensor [B, n]; ask the tokenizer for return_tensors=\"pt\"."
        )
    mask = batch.get("attention_mask", torch.ones_like(inputs))
    anatomy = anatomy_of(model, stack)
    batch = anatomy.fed(batch)
    decoded = batch.get("decoder_input_ids", inputs)
    of_decoder = batch.get("decoder_attention_mask", torch.ones_like(decoded))
    # The tokens of rows, and those of columns.
    queries = of_decoder if anatomy.family.stack in ("decoder", "cross") else mask
    keys = of_decoder if anatomy.family.stack == "decoder" else mask
    lengths, _ = lengths_of(queries), lengths_of(keys)
    padding = None
    if not bool((queries != 0).all() and (keys != 0).all()):
        padding = ~((queries != 0)[:, None, :, None] & (keys != 0)[:, None, None, :])
    value_norms = ValueNorms(anatomy)
    store = _Store(len(kinds) * (anatomy.n_layers if layers is None else len(set(layers))))
    found: list[LayerMaps] = []

    def keep(layer: int, probabilities: torch.Tensor, values: torch.Tensor) -> None:
        raw = probabilities.float()
        if padding is not None:
            raw = raw.masked_fill(padding, 0)
        if "raw" in kinds:
            found.append((layer, "raw", store.next_like(raw).copy_(raw), lengths))
        if "norm" in kinds:
            norm = torch.mul(raw, value_norms(layer, values)[:, :, None, :], out=store.next_like(raw))
            found.append((layer, "norm", norm, lengths))

    with torch.no_grad(), observe(model, keep, layers, stack=stack):
        model(**batch)
    return found


def for_bertviz(found: Sequence[LayerMaps], kind: str = "raw", example: int = 0) -> list[torch.Tensor]:
    """Return the maps of one input as ``bertviz.head_view(attention=..., tokens=...)`` takes them.

    Not for ``stack="cross"``, whose columns are other tokens. Norm-weighted maps are divided by the largest
    cell of each head, since bertviz draws a cell from 0 to 1.

    Args:
        found: what :func:`attention_maps` returned.
        kind: ``raw`` or ``norm``.
        example: which input of the batch.

    Returns:
        ``[1, H, n, n]`` float32 by layer, of the n real tokens.

    Raises:
        InputError: there are no such maps or no such input, or layers have different numbers of heads, as in a
            compacted model.
    """
    chosen = [(maps, lengths) for _, of_kind, maps, lengths in found if of_kind == kind]
    if not chosen:
        raise InputError(
            f"kind={kind!r}: there are no such maps; attention_maps(..., kinds=({kind!r},)) gives them."
        )
    if not 0 <= example < len(chosen[0][0]):
        raise InputError(f"example={example}: the batch has {len(chosen[0][0])} inputs.")
    if any(maps.shape[2] != maps.shape[3] for maps, _ in chosen):
        raise InputError("Maps of stack='cross' are of two sorts of tokens; give those of one stack.")
    if len({maps.shape[1] for maps, _ in chosen}) > 1:
        raise InputError("Layers have different numbers of heads, which bertviz cannot show.")
    shown = []
    for maps, lengths in chosen:
        n = int(lengths[example])
        own = maps[example : example + 1, :, :n, :n].detach().cpu().clone()
        if kind == "norm":
            own /= own.amax(dim=(2, 3), keepdim=True).clamp_min(torch.finfo(own.dtype).tiny)
        shown.append(own)
    return shown


class _Store:
    """Memory for a number of tensors of one shape, asked for in one piece: a fifth of a forward pass cheaper."""

    def __init__(self, number: int) -> None:
        self._number = number
        self._free: list[torch.Tensor] = []

    def next_like(self, values: torch.Tensor) -> torch.Tensor:
        if not self._free and self._number:
            block = torch.empty((self._number, *values.shape), dtype=values.dtype, device=values.device)
            self._free, self._number = list(block.unbind()), 0
        if self._free and self._free[-1].shape == values.shape:
            return self._free.pop()
        return torch.empty_like(values)  # a layer with another number of heads
