"""What has to be known of an architecture family."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

from ..common.errors import InputError, UnsupportedModelError

if TYPE_CHECKING:
    import torch
    from torch import nn
    from transformers import PreTrainedConfig

STACKS = ("encoder", "decoder", "cross")
"""The groups of layers of an encoder-decoder: the encoder's self-attention, the decoder's, and the attention with
which the decoder reads the encoder."""


def check_stack(stack: str | None) -> None:
    """Refuse a group of layers that no model has.

    Raises:
        InputError: saying which there are.
    """
    if stack is not None and stack not in STACKS:
        raise InputError(f"--stack {stack}: give one of {', '.join(STACKS)}.")


Layout = Literal["side by side", "by group"]
"""How the outputs of one projection that gives queries, keys and values are ordered, each head's beside each other.

``side by side``: all query heads, then all key heads, then all value heads, of which there may be fewer.
``by group``: one group after another, each of its query heads, its key head and its value head; where each query head
has a key and value head of its own, that is head by head (GPT-NeoX), and where all share one, it is one group.
"""


@dataclass(frozen=True)
class Family:
    """How to find the attention of one architecture family below its base model.

    Of an encoder-decoder this is its encoder; :meth:`of_stack` gives the rest.
    """

    name: str
    """As the field writes it."""
    model_type: str
    """``config.model_type``."""
    layers: str
    """Dotted path from the base model to its list of layers."""
    attention: str
    """Dotted path from a layer to the module that calls the attention function, or computes attention on its own."""
    output: str
    """Dotted path from a layer to the attention's output projection W_O."""
    projections: tuple[str, ...]
    """Dotted paths from a layer to the query, key and value projections; one path where one module gives all."""
    mlp: str | None
    """Dotted path from a layer to the MLP's last projection; its output, bias included, is the MLP's. The whole
    module where the MLP is a mixture of experts. None for a group of layers without MLPs of its own."""
    mlp_inputs: tuple[str, ...] = ()
    """Dotted paths from a layer to the MLP's other projections; one that ends in ``?`` may be missing."""
    mlp_end: str | None = None
    """Dotted path from a layer to the module whose output the MLP adds to the residual stream, where that is not its
    last projection but a norm after it, which would undo any gate before it but 0."""
    experts: bool = False
    """Whether the MLP is a mixture of experts: it can be gated, and neither cut out nor pruned weight by weight."""
    fused: Layout | None = None
    """How the outputs of one projection that gives all are ordered. None where there are three projections."""
    by_head: tuple[str, ...] = ()
    """Dotted paths from a layer to further linear layers that give each head outputs of its own, laid out like the
    queries; one that ends in ``?`` may be missing."""
    heads: str = "num_attention_heads"
    """Attribute of the config that holds the number of heads."""
    counts: tuple[str, ...] = ()
    """Attributes of the attention module that hold its number of heads."""
    kv_counts: tuple[str, ...] = ()
    """Attributes of the attention module that hold its number of key and value heads."""
    widths: tuple[str, ...] = ()
    """Attributes of the attention module that hold the number of heads times d_head."""
    config_counts: tuple[str, ...] = ()
    """Settings of its config by which the attention module counts its heads."""
    replaced_when_empty: bool = False
    """Whether an attention module that has lost all heads cannot run, and another stands in for it."""
    uncuttable: Callable[[PreTrainedConfig], str | None] = lambda config: None
    """Why no head of a model with this config can be cut out exactly, to be read after "because"; None if it can."""
    segments: str | None = None
    """Dotted path from the base model to its segment embeddings, if it has some."""
    causal: bool = False
    """Whether a token attends only to itself and to what stands before it, unless a config says otherwise."""
    may_decode: bool = False
    """Whether a config's ``is_decoder`` makes it causal."""
    first_position: Callable[[PreTrainedConfig], int] = lambda config: 0
    """Index of the first position embedding in use (RoBERTa counts on from the padding id)."""
    positions: tuple[str, ...] = ("absolute",)
    """Kinds of positions that the library's class computes, where ``position_embedding_type`` (or
    ``relative_attention``: "relative") in a config names one."""
    local: Callable[[PreTrainedConfig, int], tuple[int, ...]] | None = None
    """Which of so many layers see only a window of ``sliding_window`` tokens, where ``layer_types`` does not say it."""
    window: str = "sliding_window"
    """Attribute of the config that holds the size of that window."""
    in_call_order: Callable[[PreTrainedConfig, Sequence[nn.Module]], list[nn.Module]] = (
        lambda config, layers: list(layers)
    )
    """The layers in the order in which a forward pass runs them, one that runs twice standing twice."""
    unshare: Callable[[PreTrainedConfig, nn.ModuleList], None] | None = None
    """Gives, in place, each layer modules of its own, where the family shares them between layers."""
    tap: Literal["interface", "module"] = "interface"
    """How its attention is seen: by the library's attention interface, or by hooks on its modules
    (:mod:`models.families.modules`) where it computes attention on its own."""
    after_output: str | None = None
    """What stands between W_O and the residual stream, if anything does: norm maps come before it."""
    sinks: bool = False
    """Whether a part of the attention goes to no token at all, so that rows of P sum to less than 1."""
    stack: str | None = None
    """Which of :data:`STACKS` this is; None where the model has one group of layers."""
    stacks: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """The other stacks of an encoder-decoder: what is different in them."""
    tiny: Mapping[str, Any] = field(default_factory=dict)
    """Settings of the tiny model that it is tested with, beyond the usual ones of ``tests/models/conformance.py``: such
    that whatever is special about the family is at work."""
    remarks: str = ""
    """What else a user has to know, for the table of families."""

    def of_stack(self, stack: str | None) -> Family:
        """Return what is known of one group of layers; None for the only one, or the encoder's.

        Raises:
            UnsupportedModelError: it has no such group.
        """
        if stack in (None, self.stack):
            return self
        if stack in self.stacks:
            return replace(self, stack=stack, stacks={}, **self.stacks[str(stack)])
        there = ", ".join((self.stack, *self.stacks)) if self.stack else "none to choose from"
        raise UnsupportedModelError(f"--stack {stack}: a {self.name} model has {there}.")

    def decodes(self, config: PreTrainedConfig) -> bool:
        """Return whether a model with this config may keep keys and values of earlier tokens."""
        return self.causal or (self.may_decode and bool(getattr(config, "is_decoder", False)))

    def rows(self, number: int, n_heads: int, width: int, fused: bool) -> torch.Tensor:
        """Return which outputs of a projection are which head's: indices ``[parts, n_heads, width]``.

        Parts are queries, keys and values where the projection is `fused`, else the one thing that it gives. Where
        several heads share a key or value head, its outputs stand for each of them.

        Args:
            number: outputs of the projection.
            n_heads: heads that the layer has now.
            width: d_head.
            fused: whether the projection gives all three.

        Raises:
            UnsupportedModelError: it is not known how the outputs of a projection that gives all are ordered.
        """
        import torch

        given = torch.arange(number).view(-1, width)  # a row a head
        if not fused:
            return given.repeat_interleave(n_heads // len(given), dim=0)[None]
        shared = (len(given) - n_heads) // 2  # key heads, and as many value heads
        if self.fused is None:
            raise UnsupportedModelError(
                f"It is not known which outputs of {self.projections[0]} are which head's in a {self.name} model, so "
                "its heads can be neither cut out nor counted."
            )
        if self.fused == "side by side":
            parts = list(given.split([n_heads, shared, shared]))
        else:
            groups = given.view(shared, -1, width)
            parts = [groups[:, :-2].flatten(0, 1), groups[:, -2], groups[:, -1]]
        return torch.stack([part.repeat_interleave(n_heads // len(part), dim=0) for part in parts])


def after_padding(config: PreTrainedConfig) -> int:
    """Positions count on from the padding id (RoBERTa and what follows it)."""
    return int(config.pad_token_id or 0) + 1


def every_layer(config: PreTrainedConfig, n_layers: int) -> tuple[int, ...]:
    """All layers are local, if any is: Mistral has one window for all."""
    return tuple(range(n_layers)) if getattr(config, "sliding_window", None) else ()


def shared_groups(config: PreTrainedConfig, groups: Sequence[nn.Module]) -> list[nn.Module]:
    """ALBERT: each group of layers serves several consecutive layers (Lan et al. 2020, section 3.1)."""
    per_group = config.num_hidden_layers / config.num_hidden_groups
    order = [int(i / per_group) for i in range(config.num_hidden_layers)]
    return [layer for group in order for layer in groups[group].albert_layers]  # type: ignore[union-attr]


def unshare_groups(config: PreTrainedConfig, groups: nn.ModuleList) -> None:
    """ALBERT: as many groups as there are turns, each a copy of the one that served before."""
    turns = config.num_hidden_layers
    served = [groups[int(i / (turns / config.num_hidden_groups))] for i in range(turns)]
    del groups[:]
    groups.extend(copy.deepcopy(group, {id(config): config}) for group in served)
    config.num_hidden_groups = turns
