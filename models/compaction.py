"""Take heads and MLPs out of a model for good: the same outputs as with their gates at 0, from fewer weights."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from .anatomy import STRUCTURE, Anatomy, anatomy_of, is_plain, structure_of, weight_of
from .common.errors import InputError, UnsupportedModelError
from .common.internals import OwnConfig, check_counts, conv1d, without_heads
from .common.placement import refuse_placed
from .families.modules import WithoutHeads
from .subnetwork import Subnetwork

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel


@dataclass(frozen=True)
class SizeShare:
    """How much of a model's encoder a subnetwork is: attention, MLPs and norms of all layers, and nothing else."""

    parameters: float
    """Of the parameters, as counted in the compacted model."""
    flops: float
    """Of the multiplications in matrix products, for one input."""


def compact(model: PreTrainedModel, subnetwork: Subnetwork, *, unshare: bool = False) -> PreTrainedModel:
    """Return a smaller copy of `model` without the heads and MLPs that `subnetwork` does not keep.

    Its outputs are those of the model with these gates at 0 (:func:`models.gated`). Removed are a head's rows of
    the query, key and value projections and its columns of the output projection, whose bias stays; and all of
    an MLP's linear layers, biases included. Norms and residual connections stay. Class, task head, precision,
    device and mode are the model's; ``copy.config.headscope`` says what is left.

    In a model with grouped queries, a layer that loses a head gets each remaining head's key and value heads of
    its own, so that it can grow; :func:`size_share` tells.

    Args:
        model: of a supported family, compacted or not; it is not changed.
        subnetwork: what is kept, numbered as in the whole model, whatever was removed before.
        unshare: where layers share modules (ALBERT), give each its own copy, so that they can differ.

    Raises:
        UnsupportedModelError: the model's family is not supported, or what is to be cut out of it cannot be cut out
            exactly (:func:`why_not_cut`), or a linear layer is wrapped or quantised.
        InputError: a subnetwork of another model, or of more than a compacted model has left; layers share
            modules and `unshare` is false; the model is being gated or observed, or its weights are offloaded.
    """
    refuse_placed(model, "compact()")
    anatomy = anatomy_of(model)
    _check(anatomy, subnetwork)
    if why := why_not_cut(model, subnetwork):
        raise UnsupportedModelError(f"{why}; close the gates instead (models.gated, --subnetwork-mode gate).")
    hooks = (*anatomy.runs._forward_hooks.values(), *anatomy.runs._forward_pre_hooks.values())
    if any(getattr(hook, "__module__", None) in ("models.gating", "models.tap") for hook in hooks):
        raise InputError("compact() copies the model as it is; call it outside of gated() and observe().")
    if _shares(anatomy) and (unshare or subnetwork != Subnetwork.full(model)):
        if not unshare:
            raise InputError(
                f"The layers of this {anatomy.family.name} model share their modules, so none can lose heads or its "
                "MLP alone: give unshare=True for a model in which each layer has its own copy."
            )
        model = _unshared(model)
        anatomy = anatomy_of(model)
    # What is to be smaller is cut first and the copy made around it, so that no full-size copy ever exists.
    memo: dict[int, Any] = {}
    for layer in range(anatomy.n_layers):
        for module, cut in _cuts(anatomy, layer, subnetwork):
            memo[id(module)] = _smaller(module, cut)
    small = copy.deepcopy(model, memo)
    for layer, attention in enumerate(anatomy.attentions):
        number = int(subnetwork.heads[layer].sum())
        if number < len(anatomy.kept[layer]):
            if not number and anatomy.family.replaced_when_empty:
                copied: nn.Module = memo[id(anatomy.layers[layer])]
                nothing = WithoutHeads(memo[id(attention)], memo[id(anatomy.outputs[layer])])
                copied.set_submodule(anatomy.family.attention, nothing)
                continue
            one_for_all = _one_for_all(anatomy, layer, anatomy.projections[layer][0])
            _recount(anatomy, memo[id(attention)], number, anatomy.head_width(layer), one_for_all)
    if not (subnetwork.heads.all() and subnetwork.mlps.all()):
        numbers = [np.flatnonzero(heads).tolist() for heads in subnetwork.heads]
        setattr(small.config, STRUCTURE, {"heads": numbers, "mlps": subnetwork.mlps.tolist()})
    base, emptied = anatomy_of(small).base, bool((subnetwork.heads.sum(axis=1) == 0).any())
    if anatomy.decoder and emptied and check_counts not in base._forward_hooks.values():
        base.register_forward_hook(check_counts, with_kwargs=True)
    return small


def why_not_cut(model: PreTrainedModel, subnetwork: Subnetwork) -> str | None:
    """Return why what `subnetwork` does not keep cannot be cut out of `model` exactly, as a sentence; None if it can.

    Raises:
        UnsupportedModelError: the model's family is not supported.
    """
    anatomy = anatomy_of(model)
    family = anatomy.family
    why = family.uncuttable(anatomy.base.config)
    if why and int(subnetwork.heads.sum()) < sum(map(len, anatomy.kept)):
        return f"No head of this {family.name} model can be cut out exactly, because {why}"
    if family.experts and int(subnetwork.mlps.sum()) < sum(anatomy.kept_mlps):
        return f"The MLPs of a {family.name} model are mixtures of experts, which are not cut out"
    return None


def kept_of(model: PreTrainedModel | PreTrainedConfig) -> Subnetwork | None:
    """Return what is left of a compacted model, or of the model that a configuration describes; None if all is.

    Raises:
        InputError: the configuration is damaged.
    """
    config: Any = getattr(model, "config", model)
    structure = structure_of(config)
    if structure is None:
        return None
    return Subnetwork.of_structure(structure, config.num_attention_heads)


def whole_weights(model: PreTrainedModel) -> dict[str, torch.Tensor] | None:
    """Return the weights of a compacted model in the shapes of the whole one, with zeros for all that was removed.

    They give the outputs of the compacted model in the library's own class, which has one shape for all layers. None
    where there are none such: grouped queries whose key and value heads were trained apart from each other.

    Raises:
        UnsupportedModelError, InputError: as :func:`compact`.
    """
    kept = kept_of(model)
    weights = dict(model.state_dict())
    if kept is None:
        return weights
    config = copy.deepcopy(model.config)
    delattr(config, STRUCTURE)
    with torch.device("meta"):  # shapes and names alone
        whole = type(model)(config)
    anatomy = anatomy_of(whole)
    names = {module: name for name, module in whole.named_modules()}
    for layer in range(anatomy.n_layers):
        for module, cut in _cuts(anatomy, layer, kept):
            small = model.get_submodule(names[module])
            full = weight_of(small).new_zeros(weight_of(module).shape)
            part = weight_of(small).detach()
            full[cut.outputs[:, None], cut.inputs] = part
            if not torch.equal(full[cut.outputs][:, cut.inputs], part):  # repeated ones that are not the same
                return None
            weights[f"{names[module]}.weight"] = full.T.contiguous() if isinstance(module, conv1d()) else full
            if _bias(module) is not None:
                bias = full.new_zeros(len(full))
                if cut.bias:
                    bias[cut.outputs] = _bias(small).detach()  # type: ignore[union-attr]
                    if not torch.equal(bias[cut.outputs], _bias(small)):  # type: ignore[arg-type]
                        return None
                weights[f"{names[module]}.bias"] = bias
    return weights


def size_share(model: PreTrainedModel, subnetwork: Subnetwork, n_tokens: int = 128) -> SizeShare:
    """Return which share of the encoder of `model` the model compacted to `subnetwork` has.

    The encoder is all layers: attention, MLPs, norms. Embeddings, pooler and task head are left out, since
    pruning never touches them and they would hide what it does. Each layer is counted on its own, although layers
    that share modules (ALBERT) are stored once; local attention is counted as if it were global.

    Args:
        model: of a supported family; of a compacted one, it is the share of what is left.
        subnetwork: as for :func:`compact`.
        n_tokens: length of the input that the FLOPs are for: linear layers are linear in it, the products of
            queries with keys and of probabilities with values quadratic.

    Raises:
        UnsupportedModelError, InputError: as :func:`compact`; `n_tokens` is less than 1.
    """
    if n_tokens < 1:
        raise InputError(f"n_tokens={n_tokens}: give at least 1.")
    anatomy = anatomy_of(model)
    _check(anatomy, subnetwork)
    whole, left = np.zeros(2), np.zeros(2)  # parameters, FLOPs / (2 * n_tokens)
    for layer, module in enumerate(anatomy.layers):
        linear = _linear(anatomy, layer)
        width = anatomy.head_width(layer)
        size = np.array(
            [
                sum(parameter.numel() for parameter in module.parameters()),
                sum(weight_of(one).numel() for one in linear)
                + _experts_used(anatomy, layer)
                + 2 * n_tokens * width * len(anatomy.kept[layer]),
            ]
        )
        whole += size
        for one, cut in _cuts(anatomy, layer, subnetwork):
            size -= _size(one) - cut.size
        if anatomy.family.experts and not subnetwork.mlps[layer]:
            experts = anatomy.mlps[layer].parameters()
            size -= [sum(parameter.numel() for parameter in experts), _experts_used(anatomy, layer)]
        size[1] -= 2 * n_tokens * width * (len(anatomy.kept[layer]) - int(subnetwork.heads[layer].sum()))
        left += size
    parameters, flops = (float(part / all_) if all_ else 1.0 for part, all_ in zip(left, whole, strict=True))
    return SizeShare(parameters, flops)


@dataclass(frozen=True)
class _Cut:
    """What is kept of a linear layer."""

    outputs: torch.Tensor
    """Indices of the features that it still gives; they may repeat."""
    inputs: torch.Tensor
    """Indices of the features that it still takes."""
    bias: bool
    """Whether it keeps its bias (that of the outputs kept)."""
    gone: bool = False
    """Whether it belongs to an MLP of which nothing is left."""

    @property
    def size(self) -> np.ndarray:
        """Number of parameters, and of weights alone."""
        weights = len(self.outputs) * len(self.inputs)
        return np.array([weights + self.bias * len(self.outputs), weights])


def _cuts(anatomy: Anatomy, layer: int, subnetwork: Subnetwork) -> Iterator[tuple[nn.Module, _Cut]]:
    """Yield what is to become smaller in one layer."""
    now, kept = anatomy.kept[layer], np.flatnonzero(subnetwork.heads[layer])
    if len(kept) < len(now):
        places = torch.as_tensor(np.searchsorted(now, kept))
        width = anatomy.head_width(layer)
        output = anatomy.outputs[layer]
        yield output, _Cut(_all(output, 0), _features(places, width), _bias(output) is not None)
        for module in (*anatomy.projections[layer], *anatomy.by_head[layer]):
            yield (
                module,
                _Cut(_rows(anatomy, layer, module, places), _all(module, 1), _bias(module) is not None),
            )
    if anatomy.kept_mlps[layer] and not subnetwork.mlps[layer] and not anatomy.family.experts:
        nothing = torch.arange(0)
        for module in anatomy.mlp_inputs[layer]:
            yield module, _Cut(nothing, _all(module, 1), _bias(module) is not None, gone=True)
        yield anatomy.mlps[layer], _Cut(_all(anatomy.mlps[layer], 0), nothing, bias=False, gone=True)


def _rows(anatomy: Anatomy, layer: int, module: nn.Module, places: torch.Tensor) -> torch.Tensor:
    """Return the outputs of a projection that the heads at some places need, in the order of the projection's layout.

    Key and value heads that served several heads are given to each of them, but for one that all heads share in a
    fused projection: it stays the only one.
    """
    rows = anatomy.head_rows(layer, module)[:, places]  # [parts, heads, d_head]
    if _one_for_all(anatomy, layer, module):
        return torch.cat([rows[0].flatten(), *(part[0] for part in anatomy.head_rows(layer, module)[1:])])
    by_group = len(rows) > 1 and anatomy.family.fused == "by group"
    return (rows.transpose(0, 1) if by_group else rows).flatten()


def _one_for_all(anatomy: Anatomy, layer: int, module: nn.Module) -> bool:
    """Return whether a projection that gives queries, keys and values has one key and value head for several heads."""
    rows = anatomy.head_rows(layer, module)
    return len(rows) > 1 and rows.shape[1] > 1 and torch.equal(rows[1, 0], rows[1, -1])


def _smaller(module: nn.Module, cut: _Cut) -> nn.Module:
    """Return a linear layer with some features of another; precision, device and mode are the same."""
    if not is_plain(module):
        raise UnsupportedModelError(
            f"A linear layer is a {type(module).__name__}, of which nothing can be cut; merge adapters first "
            "(PEFT: merge_and_unload()) and load the model without quantisation."
        )
    weight, bias = weight_of(module).detach(), _bias(module)
    weight = weight.index_select(0, cut.outputs.to(weight.device))
    weight = weight.index_select(1, cut.inputs.to(weight.device))
    outputs, inputs = weight.shape
    small: Any
    if isinstance(module, conv1d()) and inputs:
        small = conv1d()(1, 1)
        small.nf, small.nx, weight = outputs, inputs, weight.T.contiguous()
    else:  # also for a Conv1D that would be without inputs, on which its forward fails
        small = (_Zeros if cut.gone and not inputs else _Empty if cut.gone else nn.Linear)(
            1, 1, bias=cut.bias
        )
        small.in_features, small.out_features = inputs, outputs
    small.weight = nn.Parameter(weight, requires_grad=weight_of(module).requires_grad)
    if bias is not None and cut.bias:
        chosen = bias.detach().index_select(0, cut.outputs.to(bias.device))
        small.bias = nn.Parameter(chosen, requires_grad=bias.requires_grad)
    small.train(module.training)
    return small


class _Empty(nn.Linear):
    """The linear layer without outputs that an MLP which is gone begins with."""

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return hidden[..., :0]


class _Zeros(nn.Linear):
    """The one without inputs or bias that it ends with: zeros, for which no memory is touched.

    They are a sum over nothing, so that gradients (zeros) reach the norm before the MLP, as distributed training
    demands.
    """

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return hidden.sum().expand(*hidden.shape[:-1], self.out_features)


def _recount(anatomy: Anatomy, attention: Any, number: int, width: int, one_for_all: bool) -> None:
    """Tell an attention module how many heads it has now."""
    family = anatomy.family
    for name in family.counts:
        setattr(attention, name, number)
    for name in family.widths:
        # What GPT-2 splits three equal parts by: three times nothing has to be said in full.
        nothing: Any = [0, 0, 0] if name == "split_size" else 0
        setattr(attention, name, number * width if number else nothing)
    if family.config_counts:
        attention.config = OwnConfig(attention.config, **dict.fromkeys(family.config_counts, number))
    # One key and value head of all heads stays one, see _rows.
    for name, value in (
        *((name, 1 if one_for_all else number) for name in family.kv_counts),
        ("num_key_value_groups", number if one_for_all else 1),
    ):
        if hasattr(attention, name):
            setattr(attention, name, value)
    if not number:
        without_heads(attention)


def _check(anatomy: Anatomy, subnetwork: Subnetwork) -> None:
    if not isinstance(subnetwork, Subnetwork):
        raise InputError(f"subnetwork must be a Subnetwork, not a {type(subnetwork).__name__}.")
    if subnetwork.heads.shape != (anatomy.n_layers, anatomy.n_heads):
        raise InputError(
            f"The subnetwork has {' x '.join(map(str, subnetwork.heads.shape))} heads, "
            f"but the model has {anatomy.n_layers} x {anatomy.n_heads}."
        )
    for layer, (there, mlp) in enumerate(zip(anatomy.kept, anatomy.kept_mlps, strict=True)):
        gone = sorted(set(np.flatnonzero(subnetwork.heads[layer]).tolist()) - set(there))
        if gone or (subnetwork.mlps[layer] and not mlp):
            what = f"head {gone[0]}" if gone else "the MLP"
            raise InputError(
                f"The subnetwork keeps {what} of layer {layer}, which was removed from this model before; "
                "a compacted model can only shrink."
            )


def _shares(anatomy: Anatomy) -> bool:
    return len(set(anatomy.attentions)) < anatomy.n_layers


def _unshared(model: PreTrainedModel) -> PreTrainedModel:
    """Return a copy in which each layer has its own modules."""
    model = copy.deepcopy(model)
    anatomy = anatomy_of(model)
    unshare = anatomy.family.unshare
    if unshare is None:
        raise UnsupportedModelError(f"Layers of this {anatomy.family.name} model share modules unexpectedly.")
    unshare(model.config, anatomy.base.get_submodule(anatomy.family.layers))  # type: ignore[arg-type]
    return model


def _linear(anatomy: Anatomy, layer: int) -> list[nn.Module]:
    return [
        *anatomy.projections[layer],
        *anatomy.by_head[layer],
        anatomy.outputs[layer],
        *anatomy.mlp_inputs[layer],
        *(() if anatomy.family.experts else (anatomy.mlps[layer],)),
    ]


def _experts_used(anatomy: Anatomy, layer: int) -> float:
    """Return how many weights of a mixture of experts one token meets: the router's, and those of its few experts."""
    if not anatomy.family.experts:
        return 0
    config: Any = anatomy.base.config
    weights = [part for part in anatomy.mlps[layer].parameters() if part.ndim > 1]
    # All experts of a kind are one tensor; a layer without experts (Qwen3-MoE may have some) has none.
    return sum(w.numel() * (config.num_experts_per_tok / len(w) if w.ndim == 3 else 1) for w in weights)


def _bias(module: nn.Module) -> torch.Tensor | None:
    return module.bias  # type: ignore[return-value]


def _size(module: nn.Module) -> np.ndarray:
    """Number of parameters, and of weights alone."""
    weights, bias = weight_of(module).numel(), _bias(module)
    return np.array([weights + (0 if bias is None else bias.numel()), weights])


def _all(module: nn.Module, axis: int) -> torch.Tensor:
    return torch.arange(weight_of(module).shape[axis])


def _features(heads: torch.Tensor, width: int) -> torch.Tensor:
    """Return the indices of the features of some heads, each `width` wide and beside each other."""
    return (heads[:, None] * width + torch.arange(width)).flatten()
