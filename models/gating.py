"""Multiply what heads and MLPs add to the residual stream by gates, while the model runs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from .anatomy import Anatomy, anatomy_of
from .common.errors import InputError, TapError
from .common.placement import home_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class _Site:
    """One module that gates act on; it serves one layer, or several in turn where layers share weights."""

    def __init__(self, what: str, layers: list[int]) -> None:
        self.what, self.layers, self.calls = what, layers, 0
        self.batch: int | None = None
        """Examples of the forward pass, where that is known."""

    def next_layer(self) -> int:
        if self.calls == len(self.layers):
            self.calls += 1
            self.check()
        self.calls += 1
        return self.layers[self.calls - 1]

    def check(self) -> None:
        """Raise TapError unless the module ran as often in this forward pass as it serves layers."""
        if self.calls != len(self.layers):
            layers = ", ".join(map(str, self.layers))
            raise TapError(
                f"The gated {self.what} of layer {layers} ran {self.calls} times in one forward pass instead of "
                f"{len(self.layers)}; gates need each layer to run once, in one piece (chunk_size_feed_forward=0)."
            )


Instead = Callable[[int], torch.Tensor | None]
"""Called with a layer; returns what a closed gate lets through in the place of a head's output, a tensor that
broadcasts to the input of the layer's output projection, ``[B, n, H * d_head]`` (of a compacted model the H heads that
are left), or None for zeros."""


@contextmanager
def gated(
    model: PreTrainedModel,
    heads: Any | None = None,
    mlps: Any | None = None,
    *,
    stack: str | None = None,
    instead: Instead | None = None,
) -> Iterator[Anatomy]:
    """Multiply head and MLP outputs by gates in every forward pass inside the block.

    A head's gate multiplies its output before the output projection, whose bias stays; an MLP's gate multiplies
    the MLP's output, bias included, before it is added to the residual stream (Michel et al. 2019, section 2.2): after
    the norm that stands between in some families (Gemma 2), since a norm undoes what is done before it.

    Args:
        model: a model of a supported family, in training or evaluation mode.
        heads: ``[L, H]``, or ``[B, L, H]`` for gates of each example of the batch; numbers from 0 to 1 or booleans,
            a tensor or an array. Gradients flow into a tensor that wants them: with one gate an example, the
            gradient of a loss summed over examples is each example's own. None: heads are left alone.
        mlps: ``[L]`` or ``[B, L]``, likewise.
        stack: of an encoder-decoder, whose heads and MLPs, see :func:`models.anatomy_of`.
        instead: what closed head gates let through; nothing if None. A gate of g passes g times the head's own output
            and 1 - g times this.

    Gates of a compacted model have the shape that they had for the whole one; those of what is gone are ignored,
    and their gradient is 0 (None if nothing is left for any of these gates to act on).

    The model is as before afterwards, whatever happens inside. Blocks can be nested (gates multiply), with
    :func:`models.observe` too; one model must not run in two threads at once.

    Raises:
        UnsupportedModelError: the model's family is not supported.
        InputError: gates of the wrong shape, not finite or outside [0, 1]; gradient checkpointing is on.
        TapError: a forward pass did not run a gated module exactly once a layer.
    """
    anatomy = _separate(model, stack)
    head_gates = _gates("heads", heads, (anatomy.n_layers, anatomy.n_heads), model)
    mlp_gates = _gates("mlps", mlps, (anatomy.n_layers,), model)
    if mlp_gates is not None and not anatomy.mlps:
        raise InputError(
            "mlps: the MLPs of a decoder belong to its own layers; gate them with stack='decoder'."
        )
    hooks: list[_Hooked] = []
    if head_gates is not None:
        before = partial(_before, anatomy.kept, head_gates, instead)
        hooks.append(("attention", anatomy.outputs, anatomy.kept, before))
    if mlp_gates is not None:
        hooks.append(("MLP", anatomy.mlp_ends, anatomy.kept_mlps, partial(_after, mlp_gates)))
    with _counted(anatomy, hooks):
        yield anatomy


@contextmanager
def head_outputs(
    model: PreTrainedModel, see: Callable[[int, torch.Tensor], None], *, stack: str | None = None
) -> Iterator[Anatomy]:
    """Call ``see(layer, z)`` for every attention layer of every forward pass inside the block.

    ``z [B, n, H * d_head]`` is what enters the layer's output projection: its heads' outputs side by side, padded
    positions included; of a compacted model those of the heads that are left, and nothing of a layer without any.

    Raises:
        UnsupportedModelError, InputError, TapError: as :func:`gated`.
    """
    anatomy = _separate(model, stack)
    with _counted(anatomy, [("attention", anatomy.outputs, anatomy.kept, partial(_watched, see))]):
        yield anatomy


def _separate(model: PreTrainedModel, stack: str | None) -> Anatomy:
    """Return the anatomy of a model that runs each layer once."""
    anatomy = anatomy_of(model, stack)
    if any(getattr(module, "gradient_checkpointing", False) for module in model.modules()):
        raise InputError("gated() needs each layer to run once: call model.gradient_checkpointing_disable().")
    return anatomy


_Hooked = tuple[str, Sequence[nn.Module], Sequence[Any], Callable[[nn.Module, _Site], Any]]
"""What modules of a sort are called, one a layer, whether anything is left of each, and what puts a hook on one."""


@contextmanager
def _counted(anatomy: Anatomy, hooks: Iterable[_Hooked]) -> Iterator[None]:
    """Hook modules, and check that each runs as often in a forward pass as it serves layers."""
    sites: list[_Site] = []

    def start(_: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
        first = (*inputs, named.get("input_ids"), named.get("inputs_embeds"))
        given = [value for value in first if isinstance(value, torch.Tensor)]
        for site in sites:
            site.calls, site.batch = 0, len(given[0]) if given else None

    def finish(*_: Any) -> None:
        for site in sites:
            site.check()

    with ExitStack() as cleanup:
        for what, modules, there, attach in hooks:
            for module, layers in _shared(modules):
                if any(there[layer] for layer in layers):
                    sites.append(_Site(what, layers))
                    cleanup.callback(attach(module, sites[-1]).remove)
        cleanup.callback(anatomy.runs.register_forward_pre_hook(start, with_kwargs=True).remove)
        cleanup.callback(anatomy.runs.register_forward_hook(finish).remove)
        yield


def _gates(name: str, values: Any, shape: tuple[int, ...], model: PreTrainedModel) -> torch.Tensor | None:
    """Return gates as a floating point tensor on the device of the model's inputs, gradients kept."""
    if values is None:
        return None
    if (
        isinstance(values, np.ndarray) and not values.flags.writeable
    ):  # a subnetwork's; torch warns of sharing it
        values = values.copy()
    try:
        gates = torch.as_tensor(values, device=home_of(model))
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"{name} must be an array of gates: {error}.") from error
    if gates.is_complex() or gates.shape[-len(shape) :] != shape or gates.ndim > len(shape) + 1:
        wanted = ", ".join(map(str, shape))
        raise InputError(
            f"{name} has shape {tuple(gates.shape)}; this model's gates are [{wanted}], or [batch, {wanted}]."
        )
    if not gates.is_floating_point():
        gates = gates.float()
    known = gates.detach()
    if not bool(((known >= 0) & (known <= 1)).all()):
        raise InputError(f"{name}: gates are numbers from 0 to 1.")
    return gates


def _shared(modules: Sequence[nn.Module]) -> Iterator[tuple[nn.Module, list[int]]]:
    """Yield each module once with the layers that it serves, in order."""
    for module in dict.fromkeys(modules):
        yield module, [layer for layer, other in enumerate(modules) if other is module]


def _of_layer(gates: torch.Tensor, site: _Site, axis: int, hidden: torch.Tensor) -> torch.Tensor:
    """Return the gates of a site's next layer, ready to multiply `hidden`.

    Its first axis is the batch, or, as in OPT, all tokens of all examples one after another.
    """
    gate = gates.select(axis, site.next_layer()).to(hidden)
    per_example = gates.ndim > -axis
    if not per_example:
        return gate
    in_a_row = hidden.ndim == 2 and site.batch is not None
    examples = site.batch if in_a_row else len(hidden)
    if len(gate) != examples:
        raise InputError(f"There are gates for {len(gate)} examples, but the batch has {examples}.")
    if in_a_row:
        return gate.repeat_interleave(len(hidden) // len(gate), dim=0)
    return gate[:, None]  # the same for every token


def _before(
    kept: Sequence[Sequence[int]],
    gates: torch.Tensor,
    instead: Instead | None,
    module: nn.Module,
    site: _Site,
) -> Any:
    def gate_heads(_: nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        hidden = inputs[0]  # [B, n, H * d_head]
        gate = _of_layer(gates, site, -2, hidden)
        layer = site.layers[site.calls - 1]
        if len(kept[layer]) < gate.shape[-1]:
            gate = gate[..., kept[layer]]
        by_head = (gate.shape[-1], -1)
        passed = hidden.unflatten(-1, by_head) * gate[..., None]
        if instead is not None and (other := instead(layer)) is not None:
            other = other.to(hidden)
            if hidden.ndim < other.ndim:  # all tokens of all examples one after another
                other = other.flatten(0, 1)
            passed = passed + other.unflatten(-1, by_head) * (1 - gate)[..., None]
        return (passed.flatten(-2), *inputs[1:])

    return module.register_forward_pre_hook(gate_heads)


def _watched(see: Callable[[int, torch.Tensor], None], module: nn.Module, site: _Site) -> Any:
    def show(_: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        hidden, layer = inputs[0], site.next_layer()
        if hidden.ndim == 2 and site.batch:
            hidden = hidden.unflatten(0, (site.batch, -1))
        see(layer, hidden)

    return module.register_forward_pre_hook(show)


def _after(gates: torch.Tensor, module: nn.Module, site: _Site) -> Any:
    def gate_mlp(_: nn.Module, __: Any, output: Any) -> Any:
        hidden, *rest = (
            output if isinstance(output, tuple) else (output,)
        )  # experts may tell their routes too
        gate = _of_layer(gates, site, -1, hidden)
        hidden = hidden * (gate[..., None] if gate.ndim else gate)
        return (hidden, *rest) if rest else hidden

    return module.register_forward_hook(gate_mlp)
