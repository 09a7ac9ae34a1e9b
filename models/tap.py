"""Watch the attention of a model while it runs.

Transformers v5 lets a library register an attention function. Ours is that function: it computes
what the library's eager attention computes, and hands the probabilities and the values of the layers
that somebody observes to the observers. Nothing is kept, so memory is one layer at a time,
and of a long input a few queries at a time if all observers can do with that. Families that
compute attention on their own are observed through :mod:`models.families.modules` instead.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, cast
from weakref import WeakKeyDictionary

import torch
from torch import nn
from torch.nn import functional
from transformers import AttentionInterface, AttentionMaskInterface

from .anatomy import Anatomy, anatomy_of
from .common.errors import InputError, TapError
from .common.internals import attend_by, biased, changed, check_call, eager_mask, rows_of_mask
from .common.row_mask import RowMask, mask_part, whole_mask
from .families.modules import Watched

if TYPE_CHECKING:
    from transformers import PreTrainedModel

IMPLEMENTATION = "headscope"

Observer = Callable[[int, torch.Tensor, torch.Tensor], None]
"""Called as ``observer(layer, P, V)``: layer 0-based, probabilities ``P [B, H, n, n]`` and values
``V [B, H, n, d_head]`` (value bias included, key/value groups expanded to H), padded positions included.
Where a model has attention sinks (gpt-oss), rows of P sum to less than 1: the rest goes to no token.
Cross-attention has ``P [B, H, n, m]`` with ``V [B, H, m, d_head]``: n tokens of the decoder read m of the encoder.
Of a compacted model, H is the number of heads that the layer has left, ``Anatomy.kept[layer]`` are their
numbers, and a layer without heads is not observed.

An observer that is a :class:`BlockObserver` too is shown long inputs in blocks of queries."""


@dataclass(frozen=True)
class Block:
    """The probabilities of some of a layer's queries."""

    probabilities: torch.Tensor
    """``[B, H, m, k]``, float32."""
    rows: slice
    """Which queries these are."""
    keys: slice
    """Which keys: no other is seen by any of these queries, so that the rest of their rows is 0."""
    last: bool
    """Whether the layer has no more queries."""


class BlockObserver(Protocol):
    """An observer that can do with a layer's queries one block after the other, so that no map is ever whole."""

    @property
    def in_blocks(self) -> bool:
        """Whether it can do so now; asked before each layer."""
        ...

    def __call__(self, layer: int, probabilities: torch.Tensor, values: torch.Tensor) -> None:
        """Look at a layer of a short input; see :data:`Observer`."""
        ...

    def block(self, layer: int, block: Block, values: torch.Tensor) -> None:
        """Look at some queries of a layer of a long input, the first ones first; `values` are those of all keys."""
        ...


_WHOLE = 2**25  # cells of probabilities up to which a layer's are whole, and as fast
_CELLS = 2**23  # of a block's probabilities, on a CPU: what its caches can about hold
_CELLS_ELSEWHERE = 2**26  # on a GPU, which is idle if it gets little to do at a time
_LEAST_ROWS = 16  # of a block: products of thinner matrices are slow


class _Tap:
    """What is attached to one model while it is observed."""

    def __init__(self, model: PreTrainedModel, anatomy: Anatomy) -> None:
        self.anatomy = anatomy
        self._layers = [layer for layer, heads in enumerate(anatomy.kept) if heads]
        self.observers: list[tuple[Observer, frozenset[int]]] = []
        self._model = model
        self._calls = 0
        self._previous: Any = ""
        self._hooks: list[Any] = []

    def install(self) -> None:
        self._previous = self._model.config._attn_implementation
        runs = self.anatomy.runs
        self._hooks = [
            runs.register_forward_pre_hook(self._start),
            runs.register_forward_hook(self._finish),
        ]
        for module in self.anatomy.attentions:
            _TAPS[module] = self
        if self.anatomy.family.tap == "module":
            self._hooks += [self._watched(layer) for layer in self._layers]
            attend_by(self._model, "eager")
            return
        self._model.set_attn_implementation(IMPLEMENTATION)
        if self._model.config._attn_implementation != IMPLEMENTATION:
            changed(f"{type(self._model).__name__} does not take another attention function")

    def _watched(self, layer: int) -> Watched:
        anatomy = self.anatomy
        *_, values = anatomy.projections[layer]
        rows = anatomy.head_rows(layer, values)[-1]
        return Watched(anatomy.attentions[layer], values, rows, anatomy.outputs[layer], self._show)

    def _show(self, module: nn.Module, probabilities: torch.Tensor, values: torch.Tensor) -> None:
        layer = self.next_layer(module)
        for callback in self.callbacks(layer):
            callback(layer, probabilities, values)

    def callbacks(self, layer: int) -> list[Observer]:
        """Return the observers of a layer."""
        return [callback for callback, layers in self.observers if layer in layers]

    def remove(self) -> None:
        for hook in self._hooks:
            hook.remove()
        for module in self.anatomy.attentions:
            _TAPS.pop(module, None)
        if self.anatomy.family.tap == "module":
            attend_by(self._model, self._previous)
        else:
            self._model.set_attn_implementation(self._previous)

    def next_layer(self, module: nn.Module) -> int:
        """Return the layer that `module` now serves; modules shared by layers are told apart by order."""
        layer = self._layers[self._calls] if self._calls < len(self._layers) else self.anatomy.n_layers
        if layer == self.anatomy.n_layers or module is not self.anatomy.attentions[layer]:
            raise TapError(
                f"Attention call {self._calls + 1} of this forward pass was not made by layer {layer} of "
                f"{self.anatomy.n_layers}: the layers ran out of order, or outside the model's forward."
            )
        if module.training:
            raise InputError(_IN_TRAINING)
        self._calls += 1
        return layer

    def _start(self, *_: Any) -> None:
        self._calls = 0

    def _finish(self, *_: Any) -> None:
        if self._calls != len(self._layers):
            unread = self.anatomy.family.stack == "cross" and not self._calls
            why = "; cross-attention needs an encoder's input (input_ids, or encoder_hidden_states)" * unread
            raise TapError(
                f"The forward pass went through {self._calls} of {len(self._layers)} attention layers{why}."
            )


_IN_TRAINING = "The model is in training mode, so its attention is after dropout; call model.eval() first."
_TAPS: WeakKeyDictionary[nn.Module, _Tap] = WeakKeyDictionary()


@contextmanager
def observe(
    model: PreTrainedModel,
    callback: Observer,
    layers: Collection[int] | None = None,
    *,
    stack: str | None = None,
) -> Iterator[Anatomy]:
    """Call ``callback(layer, P, V)`` for every attention layer of every forward pass inside the block.

    Args:
        model: a model of a supported family in evaluation mode, loaded with any attention implementation.
        callback: see :data:`Observer`. It must not change P or V in place.
        layers: layers to watch (0-based), all if None. Others run as fast as without headscope.
        stack: of an encoder-decoder, whose attention, see :func:`models.anatomy_of`; one at a time.

    The model is as before afterwards, whatever happens inside. Blocks can be nested; one model must not run
    in two threads at once. With a key/value cache, a later forward has fewer queries than keys.

    Raises:
        UnsupportedModelError: the model's family is not supported.
        InputError: the model is in training mode, or a layer does not exist.
        TapError: a forward pass did not run every attention layer exactly once, in order.
    """
    anatomy = anatomy_of(model, stack)
    wanted = frozenset(range(anatomy.n_layers) if layers is None else layers)
    if not wanted <= set(range(anatomy.n_layers)):
        raise InputError(
            f"layers={sorted(wanted)}: this model has {anatomy.n_layers} attention layers, "
            f"numbered 0 to {anatomy.n_layers - 1}."
        )
    if model.training:
        raise InputError(_IN_TRAINING)
    first = anatomy.attentions[0]
    tap = _TAPS.get(first) or _Tap(model, anatomy)
    entry = (callback, wanted)
    tap.observers.append(entry)
    try:
        if len(tap.observers) == 1:
            tap.install()
        yield anatomy
    finally:
        tap.observers.remove(entry)
        if not tap.observers:
            tap.remove()


def _attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    position_bias: torch.Tensor | None = None,
    **others: Any,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Compute attention as the library's eager function does and show it to the observers.

    Shapes: query ``[B, H, n, d]``, key and value ``[B, H_kv, n, d]``, mask ``[B, 1, n, n]`` (added to the
    scores) or None; returns ``[B, n, H, d]``. Scores go through ``softcap * tanh(scores / softcap)`` (Gemma 2), get a
    ``position_bias [1 or B, H, n, n]`` (T5), and share the softmax with ``s_aux [H]``, a head's sink (gpt-oss).

    Raises:
        UnsupportedModelError, LibraryError: as :func:`models.common.internals.check_call`.
    """
    check_call(module, query, key, value, attention_mask, others)
    groups = query.shape[1] // key.shape[1]
    key, value = _expanded(key, groups), _expanded(value, groups)
    tap = _TAPS.get(module)
    layer = tap.next_layer(module) if tap else -1
    callbacks = tap.callbacks(layer) if tap else []
    if position_bias is not None:
        attention_mask = biased(module, whole_mask(attention_mask), position_bias, query, key)
    scored = _Scored(scaling or query.shape[-1] ** -0.5, softcap, s_aux)
    in_blocks = isinstance(attention_mask, RowMask) if not callbacks else all(map(_takes_blocks, callbacks))
    blocks = _blocks(query, key.shape[2]) if in_blocks else []
    if len(blocks) < 2:
        attention_mask = whole_mask(attention_mask)
        if not callbacks and scored.plain:
            output = functional.scaled_dot_product_attention(
                query, key, value, attn_mask=attention_mask, dropout_p=dropout, scale=scaling
            )
            return output.transpose(1, 2).contiguous(), None
        probabilities = scored.probabilities(query, key, attention_mask)
        output = torch.matmul(probabilities.to(value.dtype), value).transpose(1, 2).contiguous()
        for callback in callbacks:
            callback(layer, probabilities, value)
        return output, None
    outputs = []  # of each block [B, m, H, d]
    for rows in blocks:
        mask, keys = mask_part(attention_mask, rows, key.shape[2])
        some, seen, of_seen = query[:, :, rows], key[:, :, keys], value[:, :, keys]
        if callbacks or not scored.plain:
            probabilities = scored.probabilities(some, seen, mask)
            part = torch.matmul(probabilities.to(value.dtype), of_seen)
            block = Block(probabilities, rows, keys, rows is blocks[-1])
            for callback in callbacks:
                cast(BlockObserver, callback).block(layer, block, value)
            del block, probabilities  # one block less in memory while the next is made
        else:
            part = functional.scaled_dot_product_attention(
                some, seen, of_seen, attn_mask=mask, dropout_p=dropout, scale=scaling
            )
        outputs.append(part.transpose(1, 2))
    return torch.cat(outputs, dim=1), None


def _takes_blocks(callback: Observer) -> bool:
    return bool(getattr(callback, "in_blocks", False))


@dataclass(frozen=True)
class _Scored:
    """How a layer makes probabilities of queries and keys."""

    scaling: float
    softcap: float | None
    sinks: torch.Tensor | None
    """``[H]``: one more score in each row, of no token."""

    @property
    def plain(self) -> bool:
        """Whether the library's fused attention does the same."""
        return self.softcap is None and self.sinks is None

    def probabilities(
        self, query: torch.Tensor, key: torch.Tensor, mask: torch.Tensor | None
    ) -> torch.Tensor:
        """Return probabilities ``[B, H, m, k]`` of queries ``[B, H, m, d]`` and keys ``[B, H, k, d]``, in float32."""
        scores = torch.matmul(query, key.transpose(2, 3)) * self.scaling
        if self.softcap is not None:
            scores = torch.tanh(scores / self.softcap) * self.softcap
        if mask is not None:
            scores = scores.add_(mask)
        if self.sinks is None:
            return torch.softmax(scores, dim=-1, dtype=torch.float32)
        sinks = self.sinks.view(1, -1, 1, 1).expand(*scores.shape[:3], 1)
        return torch.softmax(torch.cat((scores, sinks), dim=-1), dim=-1, dtype=torch.float32)[..., :-1]


def _blocks(query: torch.Tensor, n_keys: int) -> list[slice]:
    """Return the queries of ``[B, H, n, d]``, in blocks if their probabilities have too many cells to be whole."""
    b, h, n = query.shape[:3]
    cells = _CELLS if query.device.type == "cpu" else _CELLS_ELSEWHERE
    all_cells = b * h * n * n_keys
    step = n if all_cells <= _WHOLE else max(_LEAST_ROWS, cells * n // all_cells)
    return [slice(first, min(first + step, n)) for first in range(0, n, max(1, step))]


def _mask(**given: Any) -> torch.Tensor | None:
    """Make the mask that eager attention adds; a large one only row by row, where somebody needs it.

    The arguments are those of the library's own function.
    """
    b, n, m = (int(given[name]) for name in ("batch_size", "q_length", "kv_length"))
    if b * n * m <= _CELLS:
        return cast("torch.Tensor | None", eager_mask()(**given))
    first: torch.Tensor | None = eager_mask()(**{**given, "q_length": 1})
    if first is None:  # all see all
        return None
    part = rows_of_mask()
    return RowMask((b, 1, n, m), first.dtype, first.device, lambda rows, keys: part(given, rows, keys))


def _expanded(states: torch.Tensor, groups: int) -> torch.Tensor:
    """Give each query head the key or value head of its group: head h has that of number h // groups."""
    return states if groups == 1 else states.repeat_interleave(groups, dim=1)


AttentionInterface.register(IMPLEMENTATION, _attention)
AttentionMaskInterface.register(IMPLEMENTATION, _mask)
