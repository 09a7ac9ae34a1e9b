"""Where each supported architecture family keeps its attention: one entry a family.

To add a family, add an entry to ``FAMILIES`` and a tiny config to ``tests/models/test_families.py``;
that conformance test shows whether the entry is right.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from .common.errors import InputError, UnsupportedModelError
from .common.internals import conv1d, library, masks_later, sees_both_ways
from .common.placement import is_quantised, numbers_of, weights_at_hand

if TYPE_CHECKING:
    import torch
    from torch import nn
    from transformers import PreTrainedConfig, PreTrainedModel


STRUCTURE = "headscope"
"""Attribute of a compacted model's config: ``{"heads": [[numbers kept] per layer], "mlps": [bool per layer]}``."""

Structure = tuple[tuple[tuple[int, ...], ...], tuple[bool, ...]]
"""Per layer, the numbers of the heads that are there; per layer, whether the MLP is."""


@dataclass(frozen=True)
class Family:
    """How to find the attention of one architecture family below its base model."""

    name: str
    """As the field writes it."""
    model_type: str
    """``config.model_type``."""
    layers: str
    """Dotted path from the base model to its list of layers."""
    attention: str
    """Dotted path from a layer to the module that calls the attention function."""
    output: str
    """Dotted path from a layer to the attention's output projection W_O."""
    projections: tuple[str, ...]
    """Dotted paths from a layer to the query, key and value projections; one path where one module gives all."""
    mlp: str
    """Dotted path from a layer to the MLP's last projection; its output, bias included, is the MLP's."""
    mlp_inputs: tuple[str, ...]
    """Dotted paths from a layer to the MLP's other projections."""
    fused: Literal["side by side"] | None = None
    """How the outputs of one projection that gives all are ordered: ``side by side`` is first all queries, head
    after head, then all keys, then all values. None where there are three projections."""
    head_count: str | None = None
    """Attribute of the attention module that holds its number of heads, if it has one."""
    width: str | None = None
    """Attribute of the attention module that holds the number of heads times d_head, if it has one."""
    segments: str | None = None
    """Dotted path from the base model to its segment embeddings, if it has some."""
    causal: bool = False
    """Whether a token attends only to itself and to what stands before it, unless a config says otherwise."""
    may_decode: bool = False
    """Whether a config's ``is_decoder`` makes it causal."""
    first_position: Callable[[PreTrainedConfig], int] = lambda config: 0
    """Index of the first position embedding in use (RoBERTa counts on from the padding id)."""
    in_call_order: Callable[[PreTrainedConfig, Sequence[nn.Module]], list[nn.Module]] = (
        lambda config, layers: list(layers)
    )
    """The layers in the order in which a forward pass runs them, one that runs twice standing twice."""
    unshare: Callable[[PreTrainedConfig, nn.ModuleList], None] | None = None
    """Gives, in place, each layer modules of its own, where the family shares them between layers."""


def _after_padding(config: PreTrainedConfig) -> int:
    return int(config.pad_token_id or 0) + 1


def _shared(config: PreTrainedConfig, groups: Sequence[nn.Module]) -> list[nn.Module]:
    """ALBERT: each group of layers serves several consecutive layers (Lan et al. 2020, section 3.1)."""
    per_group = config.num_hidden_layers / config.num_hidden_groups
    order = [int(i / per_group) for i in range(config.num_hidden_layers)]
    return [layer for group in order for layer in groups[group].albert_layers]  # type: ignore[union-attr]


def _unshare(config: PreTrainedConfig, groups: nn.ModuleList) -> None:
    """ALBERT: as many groups as there are turns, each a copy of the one that served before."""
    turns = config.num_hidden_layers
    served = [groups[int(i / (turns / config.num_hidden_groups))] for i in range(turns)]
    del groups[:]
    groups.extend(copy.deepcopy(group, {id(config): config}) for group in served)
    config.num_hidden_groups = turns


_SEGMENTS = "embeddings.token_type_embeddings"
_BERT: dict[str, Any] = {
    "layers": "encoder.layer",
    "attention": "attention.self",
    "output": "attention.output.dense",
    "projections": ("attention.self.query", "attention.self.key", "attention.self.value"),
    "mlp": "output.dense",
    "mlp_inputs": ("intermediate.dense",),
    "head_count": "num_attention_heads",
    "width": "all_head_size",
    "segments": _SEGMENTS,
    "may_decode": True,
}
_LLAMA: dict[str, Any] = {
    "layers": "layers",
    "attention": "self_attn",
    "output": "self_attn.o_proj",
    "projections": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "mlp": "mlp.down_proj",
    "mlp_inputs": ("mlp.gate_proj", "mlp.up_proj"),
    "causal": True,
}

FAMILIES: tuple[Family, ...] = (
    Family("BERT", "bert", **_BERT),
    Family("RoBERTa", "roberta", **_BERT, first_position=_after_padding),
    Family("XLM-RoBERTa", "xlm-roberta", **_BERT, first_position=_after_padding),
    Family("ELECTRA", "electra", **_BERT),
    Family(
        "DistilBERT",
        "distilbert",
        layers="transformer.layer",
        attention="attention",
        output="attention.out_lin",
        projections=("attention.q_lin", "attention.k_lin", "attention.v_lin"),
        mlp="ffn.lin2",
        mlp_inputs=("ffn.lin1",),
        head_count="n_heads",
    ),
    Family(
        "ALBERT",
        "albert",
        layers="encoder.albert_layer_groups",
        attention="attention",
        output="attention.dense",
        projections=("attention.query", "attention.key", "attention.value"),
        mlp="ffn_output",
        mlp_inputs=("ffn",),
        head_count="num_attention_heads",
        width="all_head_size",
        segments=_SEGMENTS,
        in_call_order=_shared,
        unshare=_unshare,
    ),
    Family(
        "ModernBERT",
        "modernbert",
        layers="layers",
        attention="attn",
        output="attn.Wo",
        projections=("attn.Wqkv",),
        fused="side by side",
        mlp="mlp.Wo",
        mlp_inputs=("mlp.Wi",),
    ),
    Family(
        "GPT-2",
        "gpt2",
        layers="h",
        attention="attn",
        output="attn.c_proj",
        projections=("attn.c_attn",),
        fused="side by side",
        mlp="mlp.c_proj",
        mlp_inputs=("mlp.c_fc",),
        head_count="num_heads",
        width="split_size",
        causal=True,
    ),
    Family("Llama", "llama", **_LLAMA),
    Family("Qwen2", "qwen2", **_LLAMA),
)


@dataclass(frozen=True)
class Anatomy:
    """The attention of one model, layer by layer in the order of a forward pass.

    A module that several layers share stands once per layer.
    """

    family: Family
    base: PreTrainedModel
    """The model without its task head."""
    layers: tuple[nn.Module, ...]
    """Per layer, the module that holds its attention, MLP and norms."""
    attentions: tuple[nn.Module, ...]
    """Per layer, the module that calls the attention function."""
    outputs: tuple[nn.Module, ...]
    """Per layer, the attention's output projection (``nn.Linear``, the library's ``Conv1D``, or a quantised one)."""
    projections: tuple[tuple[nn.Module, ...], ...]
    """Per layer, the query, key and value projections, or the one that gives all three side by side."""
    mlps: tuple[nn.Module, ...]
    """Per layer, the MLP's last projection (``nn.Linear`` or ``Conv1D``)."""
    mlp_inputs: tuple[tuple[nn.Module, ...], ...]
    """Per layer, the MLP's other projections."""
    kept: tuple[tuple[int, ...], ...]
    """Per layer, the numbers of the heads that are there, in order: all, unless the model was compacted."""
    kept_mlps: tuple[bool, ...]
    """Per layer, whether its MLP is there."""
    causal: bool
    """Whether every map is lower triangular."""
    decoder: bool
    """Whether it may keep keys and values of earlier tokens, causal or not."""
    segments: int
    """How many kinds of segments it has embeddings for; 0 for a model that knows of none."""
    local_layers: tuple[int, ...]
    """Layers (0-based) that see only a window around each token."""
    window: int | None
    """Tokens to a side that a local layer sees at most (the library's ``sliding_window``)."""
    max_tokens: int
    """The longest input that the model's configuration provides for; ``sys.maxsize`` if it sets no limit."""

    @property
    def n_layers(self) -> int:
        """Number of attention layers that a forward pass runs."""
        return len(self.attentions)

    @property
    def n_heads(self) -> int:
        """Number of attention heads of a layer, those that compacting removed included."""
        return int(self.base.config.num_attention_heads)

    @property
    def parts(self) -> int:
        """How many of queries, keys and values one projection gives: 1, or 3 where they stand side by side.

        Raises:
            UnsupportedModelError: it is not known how the outputs of a projection that gives all are ordered.
        """
        if len(self.family.projections) == 3:
            return 1
        if self.family.fused != "side by side":
            raise UnsupportedModelError(
                f"It is not known which outputs of {self.family.projections[0]} are which head's in a "
                f"{self.family.name} model, so its heads can be neither cut out nor counted."
            )
        return 3

    def output_slices(self, layer: int, n_heads: int) -> torch.Tensor:
        """Return each head's slice of W_O, ``[H, hidden, d_head]``: a head adds ``slice @ z_h`` to the output.

        `n_heads` is how many the layer has now: of a compacted model, ``len(kept[layer])``. Of a quantised layer it
        is the weight that it computes with; of an offloaded one, this fetches it.

        Raises:
            UnsupportedModelError: it cannot be found out what a quantised layer computes with.
        """
        module = self.outputs[layer]
        with weights_at_hand(module):
            weight = numbers_of(module, self.base.dtype) if is_quantised(module) else weight_of(module)
            return weight.unflatten(1, (n_heads, -1)).transpose(0, 1)


def weight_of(module: nn.Module) -> torch.Tensor:
    """Return the weight of a linear layer as ``[outputs, inputs]``; GPT-2 stores its transpose.

    Raises:
        UnsupportedModelError: it is quantised, so that its ``weight`` holds no numbers to compute with.
    """
    if is_quantised(module):
        raise UnsupportedModelError(
            f"A linear layer is a {type(module).__name__}, which is quantised; this needs weights that are numbers, so "
            "load the model without quantisation."
        )
    weight: torch.Tensor = module.weight  # type: ignore[assignment]
    return weight.T if isinstance(module, conv1d()) else weight


def is_plain(module: nn.Module) -> bool:
    """Return whether a module is a linear layer and no more, so that its ``weight`` says what it computes."""
    from torch import nn
    from torch.nn.utils.parametrize import is_parametrized

    return type(module) in (nn.Linear, conv1d()) or (
        is_parametrized(module) and isinstance(module, nn.Linear)
    )


def supported_families() -> str:
    """Return the names of all supported families as one readable list."""
    return ", ".join(family.name for family in FAMILIES)


def family_of(config: PreTrainedConfig) -> Family:
    """Return the family of a configuration.

    Raises:
        UnsupportedModelError: it is none of ``FAMILIES``.
    """
    model_type = getattr(config, "model_type", None) or type(config).__name__
    for family in FAMILIES:
        if family.model_type == model_type:
            return family
    raise UnsupportedModelError(
        f"Models of type {model_type!r} are not supported; supported families: {supported_families()}."
    )


def structure_of(config: PreTrainedConfig) -> Structure | None:
    """Return what a compacted model's configuration says is there; None for a whole model.

    Raises:
        InputError: it says something that no compacted model has.
    """
    said = getattr(config, STRUCTURE, None)
    if said is None:
        return None
    try:
        kept = tuple(tuple(numbers) for numbers in said["heads"])
        mlps = tuple(said["mlps"])
        numbers = range(config.num_attention_heads)
        sound = (
            len(kept) == len(mlps)
            and all(type(there) is bool for there in mlps)
            and all(type(n) is int and n in numbers for heads in kept for n in heads)
            and all(list(heads) == sorted(set(heads)) for heads in kept)
        )
    except (TypeError, KeyError):
        sound = False
    if not sound:
        raise InputError(
            f"{STRUCTURE!r} in the model's config must give the numbers of the heads that each layer keeps "
            "('heads') and whether it keeps its MLP ('mlps')."
        )
    return kept, mlps


def _check_structure(
    config: PreTrainedConfig, kept: Sequence[Sequence[int]], outputs: Sequence[nn.Module]
) -> None:
    """Refuse a model whose config speaks of another one's heads, such as one newly made from a compacted one's."""
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    found = [_inputs(module) // width for module in outputs]
    said = [len(heads) for heads in kept]
    if found != said:
        raise UnsupportedModelError(
            f"The model's layers have {found} heads, but its config says {said}; "
            f"a compacted model's config describes that model only (remove {STRUCTURE!r} from a copy)."
        )


def _positions(config: PreTrainedConfig) -> int:
    return int(getattr(config, "max_position_embeddings", None) or sys.maxsize)


def _inputs(module: nn.Module) -> int:
    return int(module.in_features if hasattr(module, "in_features") else module.nx)  # type: ignore[arg-type]


def anatomy_of(model: PreTrainedModel) -> Anatomy:
    """Find every attention layer of `model`, with or without a task head.

    Raises:
        UnsupportedModelError: the architecture is unknown, or a known one looks different inside.
        InputError: the config of a compacted model is damaged.
    """
    if not hasattr(model, "config") or not hasattr(model, "base_model_prefix"):
        raise UnsupportedModelError(
            f"{type(model).__name__} is not a transformers model; supported families: {supported_families()}."
        )
    config = model.config
    family = family_of(config)
    base = getattr(model, model.base_model_prefix, model)
    try:
        layers = family.in_call_order(config, list(base.get_submodule(family.layers).children()))
        attentions = tuple(layer.get_submodule(family.attention) for layer in layers)
        outputs = tuple(layer.get_submodule(family.output) for layer in layers)
        mlps = tuple(layer.get_submodule(family.mlp) for layer in layers)
        projections = tuple(tuple(map(layer.get_submodule, family.projections)) for layer in layers)
        mlp_inputs = tuple(tuple(map(layer.get_submodule, family.mlp_inputs)) for layer in layers)
    except AttributeError as error:
        raise UnsupportedModelError(
            f"{type(model).__name__} is not laid out like a {family.name} model ({library()}): {error}."
        ) from error
    for module in outputs:
        # An adapter computes something else than its ``weight`` says, and so does a layer that nobody knows.
        if not (is_plain(module) or is_quantised(module)):
            raise UnsupportedModelError(
                f"The output projection is a {type(module).__name__}; headscope needs plain linear layers, or "
                "quantised ones of a known library. Merge adapters first (PEFT: merge_and_unload())."
            )
    kept, kept_mlps = structure_of(config) or (
        (tuple(range(config.num_attention_heads)),) * len(layers),
        (True,) * len(layers),
    )
    _check_structure(config, kept, outputs)
    decoder = family.causal or (family.may_decode and bool(config.is_decoder))
    types = getattr(config, "layer_types", None) or []
    local = tuple(i for i, kind in enumerate(types) if kind != "full_attention")
    return Anatomy(
        family=family,
        base=base,
        layers=tuple(layers),
        attentions=attentions,
        outputs=outputs,
        projections=projections,
        mlps=mlps,
        mlp_inputs=mlp_inputs,
        kept=kept,
        kept_mlps=kept_mlps,
        causal=decoder and masks_later(config),
        decoder=decoder,
        segments=len(base.get_submodule(family.segments).weight) if family.segments else 0,  # type: ignore[arg-type]
        local_layers=local,
        window=int(config.sliding_window) if local else None,
        max_tokens=_positions(config) - family.first_position(config),
    )


def as_configured(model: PreTrainedModel) -> Anatomy:
    """Let a model that was just built attend as its config says, in every batch, and return its anatomy.

    Raises:
        UnsupportedModelError, InputError: as :func:`anatomy_of`.
    """
    anatomy = anatomy_of(model)
    if not anatomy.causal:
        sees_both_ways(anatomy.attentions)
    return anatomy
