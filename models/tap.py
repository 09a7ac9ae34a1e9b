"""Watch the attention of a model while it runs.

Transformers v5 lets a library register an attention function. Ours is that function: it computes
what the library's eager attention computes, and hands the probabilities and the values of the layers
that somebody observes to the observers. Nothing is kept, so memory is one layer at a time. Families that
compute attention on their own are observed through :mod:`models.families.modules` instead.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import torch
from torch import nn
from torch.nn import functional
from transformers import AttentionInterface, AttentionMaskInterface

from .anatomy import Anatomy, anatomy_of
from .common.errors import InputError, TapError
from .common.internals import attend_by, biased, changed, check_call, eager_mask
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
numbers, and a layer without heads is not observed."""


class _Tap:
    """What is attached to one model while it is observed."""

    def __init__(self, model: PreTrainedModel, anatomy: Anatomy) -> None:
        self.anatomy = anatomy
        self._layers = [layer for layer, heads in enumerate(anatomy.kept) if heads]
        self.observers: list[tuple[Observer, frozenset[int]]] = []
        self._model = model
        self._calls = 0
        self._previous = ""
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
        attention_mask = biased(module, attention_mask, position_bias, query, key)
    if not callbacks and softcap is None and s_aux is None:
        output = functional.scaled_dot_product_attention(
            query, key, value, attn_mask=attention_mask, dropout_p=dropout, scale=scaling
        )
        return output.transpose(1, 2).contiguous(), None
    scores = torch.matmul(query, key.transpose(2, 3)) * (scaling or query.shape[-1] ** -0.5)
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    if attention_mask is not None:
        scores = scores.add_(attention_mask)
    if s_aux is not None:  # one more score in each row, of no token
        scores = torch.cat((scores, s_aux.view(1, -1, 1, 1).expand(*scores.shape[:3], 1)), dim=-1)
    probabilities = torch.softmax(scores, dim=-1, dtype=torch.float32)
    if s_aux is not None:
        probabilities = probabilities[..., :-1]
    del scores  # one map less in memory while the observers work
    output = torch.matmul(probabilities.to(value.dtype), value).transpose(1, 2).contiguous()
    for callback in callbacks:
        callback(layer, probabilities, value)
    return output, None


def _expanded(states: torch.Tensor, groups: int) -> torch.Tensor:
    """Give each query head the key or value head of its group: head h has that of number h // groups."""
    return states if groups == 1 else states.repeat_interleave(groups, dim=1)


AttentionInterface.register(IMPLEMENTATION, _attention)
AttentionMaskInterface.register(IMPLEMENTATION, eager_mask())
