"""Where one model keeps its attention, found by what is known of its family (:mod:`models.families.table`)."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .common.errors import InputError, UnsupportedModelError
from .common.internals import conv1d, is_linear, library, masks_later, sees_both_ways
from .common.placement import is_quantised, numbers_of, weights_at_hand
from .families.family import Family
from .families.table import FAMILIES

if TYPE_CHECKING:
    import torch
    from torch import nn
    from transformers import PreTrainedConfig, PreTrainedModel


STRUCTURE = "headscope"
"""Attribute of a compacted model's config: ``{"heads": [[numbers kept] per layer], "mlps": [bool per layer]}``."""

Structure = tuple[tuple[tuple[int, ...], ...], tuple[bool, ...]]
"""Per layer, the numbers of the heads that are there; per layer, whether the MLP is."""


@dataclass(frozen=True)
class Anatomy:
    """The attention of one model, layer by layer in the order of a forward pass.

    A module that several layers share stands once per layer.
    """

    family: Family
    base: PreTrainedModel
    """The model without its task head."""
    runs: nn.Module
    """The module whose forward pass runs these layers, once: the base model, or its encoder or decoder."""
    layers: tuple[nn.Module, ...]
    """Per layer, the module that holds its attention, MLP and norms."""
    attentions: tuple[nn.Module, ...]
    """Per layer, the module that calls the attention function."""
    outputs: tuple[nn.Module, ...]
    """Per layer, the attention's output projection (``nn.Linear``, the library's ``Conv1D``, or a quantised one)."""
    projections: tuple[tuple[nn.Module, ...], ...]
    """Per layer, the query, key and value projections, or the one that gives all three."""
    by_head: tuple[tuple[nn.Module, ...], ...]
    """Per layer, further linear layers that give each head outputs of its own, laid out like the queries."""
    mlps: tuple[nn.Module, ...]
    """Per layer, the MLP's last projection (``nn.Linear`` or ``Conv1D``), or the whole mixture of experts; nothing
    where the layers have no MLPs of their own."""
    mlp_inputs: tuple[tuple[nn.Module, ...], ...]
    """Per layer, the MLP's other projections."""
    mlp_ends: tuple[nn.Module, ...]
    """Per layer, the module whose output the MLP adds to the residual stream."""
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
    """Tokens to a side, beyond a token itself, that a local layer sees at most."""
    max_tokens: int
    """The longest input that the model's configuration provides for; ``sys.maxsize`` if it sets no limit."""

    @property
    def n_layers(self) -> int:
        """Number of attention layers that a forward pass runs."""
        return len(self.attentions)

    @property
    def n_heads(self) -> int:
        """Number of heads of each layer of the whole model."""
        return int(getattr(self.base.config, self.family.heads))

    @property
    def start_token(self) -> int | None:
        """Id of the token with which a decoder that reads an encoder starts, if the config names one."""
        found = getattr(self.base.config, "decoder_start_token_id", None)
        return None if found is None else int(found)

    def fed(self, batch: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Return a batch with what a decoder reads that reads an encoder, where the batch says nothing of that.

        It is the batch's own tokens, each one place later, after a start token (so BART is trained, and so the library
        feeds it for classification); for the encoder's maps, which do not depend on it, any token.

        Raises:
            InputError: the config names no start token, or one that is not in the vocabulary.
        """
        given = dict(batch)
        if not self.family.stack or "decoder_input_ids" in given or not hasattr(self.base, "decoder"):
            return given
        ids, start = given["input_ids"], self.start_token
        if self.family.stack == "encoder":  # no map of its depends on which token this is
            return given | {"decoder_input_ids": ids.new_zeros((len(ids), 1))}
        if start is None or not 0 <= start < len(self.base.get_input_embeddings().weight):  # type: ignore[arg-type]
            raise InputError(
                f"The config of this {self.family.name} model names no token of its vocabulary as "
                "decoder_start_token_id, so it is not known what its decoder reads; set it, or give decoder_input_ids "
                "in the batch."
            )
        later = ids.roll(1, dims=1)
        later[:, 0] = start
        given["decoder_input_ids"] = later
        if "attention_mask" in given:
            given["decoder_attention_mask"] = given["attention_mask"]
        return given

    def head_width(self, layer: int) -> int:
        """Return d_head; 0 if the layer has no head left."""
        number = len(self.kept[layer])
        return weight_of(self.outputs[layer]).shape[1] // number if number else 0

    def head_rows(self, layer: int, module: nn.Module) -> torch.Tensor:
        """Return which outputs of one of the layer's projections are which head's, as :meth:`Family.rows` does.

        Raises:
            UnsupportedModelError: it is not known how the outputs of a projection that gives all are ordered.
        """
        fused = len(self.projections[layer]) == 1 and module is self.projections[layer][0]
        return self.family.rows(
            weight_of(module).shape[0],
            len(self.kept[layer]),
            self.head_width(layer),
            fused,
        )

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

    return is_linear(module) or (is_parametrized(module) and isinstance(module, nn.Linear))


def supported_families() -> str:
    """Return how many families are known, and where their list is."""
    return f"{len(FAMILIES)} families are, from BERT to {FAMILIES[-1].name}, all listed in docs/families.md"


def family_of(config: PreTrainedConfig) -> Family:
    """Return the family of a configuration.

    Raises:
        UnsupportedModelError: it is none of ``FAMILIES``.
    """
    model_type = getattr(config, "model_type", None) or type(config).__name__
    for family in FAMILIES:
        if family.model_type == model_type:
            return family
    raise UnsupportedModelError(f"Models of type {model_type!r} are not supported; {supported_families()}.")


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
    config: PreTrainedConfig,
    family: Family,
    kept: Sequence[Sequence[int]],
    outputs: Sequence[nn.Module],
) -> None:
    """Refuse a model whose config speaks of another one's heads, such as one newly made from a compacted one's."""
    own = (getattr(config, name, None) for name in ("head_dim", "d_kv"))
    width = next(filter(None, own), None) or config.hidden_size // int(getattr(config, family.heads))
    found = [_inputs(module) // width for module in outputs]
    said = [len(heads) for heads in kept]
    if found != said:
        raise UnsupportedModelError(
            f"The model's layers have {found} heads, but its config says {said}; "
            f"a compacted model's config describes that model only (remove {STRUCTURE!r} from a copy)."
        )


def _positions(config: PreTrainedConfig) -> int:
    limits = (getattr(config, name, None) for name in ("max_position_embeddings", "max_seq_len"))
    return int(next(filter(None, limits), sys.maxsize))


def _inputs(module: nn.Module) -> int:
    return int(module.in_features if hasattr(module, "in_features") else module.nx)  # type: ignore[arg-type]


def _submodules(layer: nn.Module, paths: Sequence[str]) -> tuple[nn.Module, ...]:
    """Return what stands at some paths; what stands at one that ends in ``?`` may be missing."""
    found = []
    for path in paths:
        parent, _, name = path.rstrip("?").rpartition(".")
        if not path.endswith("?") or hasattr(layer.get_submodule(parent), name):
            found.append(layer.get_submodule(path.rstrip("?")))
    return tuple(found)


def _local_layers(family: Family, config: PreTrainedConfig, n_layers: int) -> tuple[int, ...]:
    """Return the layers that see only a window."""
    if family.local:
        return family.local(config, n_layers)
    if types := getattr(config, "layer_types", None):
        return tuple(i for i, kind in enumerate(types) if kind != "full_attention")
    return tuple(range(n_layers)) if getattr(config, family.window, None) else ()


def anatomy_of(model: PreTrainedModel, stack: str | None = None) -> Anatomy:
    """Find every attention layer of `model`, with or without a task head.

    Args:
        model: of a supported family.
        stack: of an encoder-decoder, which of its groups of layers: ``encoder`` (what is meant if None), ``decoder``
            or ``cross``, the attention with which the decoder reads the encoder.

    Raises:
        UnsupportedModelError: the architecture is unknown, or a known one looks different inside, or there is no such
            group of layers.
        InputError: the config of a compacted model is damaged.
    """
    if not hasattr(model, "config") or not hasattr(model, "base_model_prefix"):
        raise UnsupportedModelError(
            f"{type(model).__name__} is not a transformers model; {supported_families()}."
        )
    config = model.config
    family = family_of(config).of_stack(stack)
    base = getattr(model, model.base_model_prefix, model)
    if family.stack and not hasattr(base, family.layers.partition(".")[0]):
        raise UnsupportedModelError(f"--stack {family.stack}: a {type(model).__name__} has none.")
    try:
        layers = family.in_call_order(config, list(base.get_submodule(family.layers).children()))
        attentions = tuple(layer.get_submodule(family.attention) for layer in layers)
        outputs = tuple(layer.get_submodule(family.output) for layer in layers)
        mlps = tuple(layer.get_submodule(family.mlp) for layer in layers if family.mlp)
        end = family.mlp_end or family.mlp
        mlp_ends = tuple(layer.get_submodule(end) for layer in layers if end)
        projections = tuple(_submodules(layer, family.projections) for layer in layers)
        by_head = tuple(_submodules(layer, family.by_head) for layer in layers)
        mlp_inputs = tuple(_submodules(layer, family.mlp_inputs) for layer in layers)
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
    first = stack in (None, family_of(config).stack)  # only an encoder's heads are ever cut out
    kept, kept_mlps = (structure_of(config) if first else None) or (
        (tuple(range(int(getattr(config, family.heads)))),) * len(layers),
        (True,) * len(layers),
    )
    _check_structure(config, family, kept, outputs)
    decoder = family.decodes(config)
    local = _local_layers(family, config, len(layers))
    return Anatomy(
        family=family,
        base=base,
        runs=base.get_submodule(family.layers.rpartition(".")[0]) if family.stack else base,
        layers=tuple(layers),
        attentions=attentions,
        outputs=outputs,
        projections=projections,
        by_head=by_head,
        mlps=mlps,
        mlp_inputs=mlp_inputs,
        mlp_ends=mlp_ends,
        kept=kept,
        kept_mlps=kept_mlps,
        causal=decoder and masks_later(config),
        decoder=decoder,
        segments=_segments(family, base),
        local_layers=local,
        # The library counts the token itself where what follows it is masked.
        window=int(getattr(config, family.window)) - family.causal if local else None,
        max_tokens=_positions(config) - family.first_position(config),
    )


def _segments(family: Family, base: PreTrainedModel) -> int:
    return len(base.get_submodule(family.segments).weight) if family.segments else 0  # type: ignore[arg-type]


def as_configured(model: PreTrainedModel) -> Anatomy:
    """Let a model that was just built attend as its config says, in every batch, and return its anatomy.

    Raises:
        UnsupportedModelError, InputError: as :func:`anatomy_of`.
    """
    anatomy = anatomy_of(model)
    if not anatomy.causal:
        sees_both_ways(anatomy.attentions)
    return anatomy
