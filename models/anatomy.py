"""Where each supported architecture family keeps its attention: one entry a family.

To add a family, add an entry to ``FAMILIES`` and a tiny config to ``tests/models/test_families.py``;
that conformance test shows whether the entry is right.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .errors import UnsupportedModelError

if TYPE_CHECKING:
    import torch
    from torch import nn
    from transformers import PreTrainedConfig, PreTrainedModel


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
    mlp: str
    """Dotted path from a layer to the MLP's last projection; its output, bias included, is the MLP's."""
    causal: bool = False
    """Whether a token attends only to itself and to what stands before it."""
    first_position: Callable[[PreTrainedConfig], int] = lambda config: 0
    """Index of the first position embedding in use (RoBERTa counts on from the padding id)."""
    in_call_order: Callable[[PreTrainedConfig, Sequence[nn.Module]], list[nn.Module]] = (
        lambda config, layers: list(layers)
    )
    """The layers in the order in which a forward pass runs them, one that runs twice standing twice."""


def _after_padding(config: PreTrainedConfig) -> int:
    return int(config.pad_token_id or 0) + 1


def _shared(config: PreTrainedConfig, groups: Sequence[nn.Module]) -> list[nn.Module]:
    """ALBERT: each group of layers serves several consecutive layers (Lan et al. 2020, section 3.1)."""
    per_group = config.num_hidden_layers / config.num_hidden_groups
    order = [int(i / per_group) for i in range(config.num_hidden_layers)]
    return [layer for group in order for layer in groups[group].albert_layers]  # type: ignore[union-attr]


_BERT: dict[str, Any] = {
    "layers": "encoder.layer",
    "attention": "attention.self",
    "output": "attention.output.dense",
    "mlp": "output.dense",
}
_LLAMA: dict[str, Any] = {
    "layers": "layers",
    "attention": "self_attn",
    "output": "self_attn.o_proj",
    "mlp": "mlp.down_proj",
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
        mlp="ffn.lin2",
    ),
    Family(
        "ALBERT",
        "albert",
        layers="encoder.albert_layer_groups",
        attention="attention",
        output="attention.dense",
        mlp="ffn_output",
        in_call_order=_shared,
    ),
    Family("ModernBERT", "modernbert", layers="layers", attention="attn", output="attn.Wo", mlp="mlp.Wo"),
    Family(
        "GPT-2", "gpt2", layers="h", attention="attn", output="attn.c_proj", mlp="mlp.c_proj", causal=True
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
    attentions: tuple[nn.Module, ...]
    """Per layer, the module that calls the attention function."""
    outputs: tuple[nn.Module, ...]
    """Per layer, the attention's output projection (``nn.Linear`` or the library's ``Conv1D``)."""
    mlps: tuple[nn.Module, ...]
    """Per layer, the MLP's last projection (``nn.Linear`` or ``Conv1D``)."""
    causal: bool
    """Whether every map is lower triangular."""
    local_layers: tuple[int, ...]
    """Layers (0-based) that see only a window around each token."""
    window: int | None
    """Tokens to a side that a local layer sees at most (the library's ``sliding_window``)."""
    max_tokens: int
    """The longest input that has position embeddings."""

    @property
    def n_layers(self) -> int:
        """Number of attention layers that a forward pass runs."""
        return len(self.attentions)

    @property
    def n_heads(self) -> int:
        """Number of attention heads of a layer."""
        return int(self.base.config.num_attention_heads)

    def output_slices(self, layer: int, n_heads: int) -> torch.Tensor:
        """Return each head's slice of W_O, ``[H, hidden, d_head]``: a head adds ``slice @ z_h`` to the output."""
        from transformers.pytorch_utils import Conv1D

        module = self.outputs[layer]
        weight: torch.Tensor = module.weight.T if isinstance(module, Conv1D) else module.weight  # type: ignore[assignment]
        return weight.unflatten(1, (n_heads, -1)).transpose(0, 1)


def _is_plain(module: nn.Module) -> bool:
    from torch import nn
    from torch.nn.utils.parametrize import is_parametrized
    from transformers.pytorch_utils import Conv1D

    return type(module) in (nn.Linear, Conv1D) or (is_parametrized(module) and isinstance(module, nn.Linear))


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


def anatomy_of(model: PreTrainedModel) -> Anatomy:
    """Find every attention layer of `model`, with or without a task head.

    Raises:
        UnsupportedModelError: the architecture is unknown, or a known one looks different inside.
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
    except AttributeError as error:
        raise UnsupportedModelError(
            f"{type(model).__name__} is not laid out like a {family.name} model: {error}."
        ) from error
    for module in outputs:
        # An adapter or a quantised layer computes something else than its ``weight`` says.
        if not _is_plain(module):
            raise UnsupportedModelError(
                f"The output projection is a {type(module).__name__}; headscope needs plain linear layers. "
                "Merge adapters first (PEFT: merge_and_unload()) and load the model without quantisation."
            )
    types = getattr(config, "layer_types", None) or []
    local = tuple(i for i, kind in enumerate(types) if kind != "full_attention")
    return Anatomy(
        family=family,
        base=base,
        attentions=attentions,
        outputs=outputs,
        mlps=mlps,
        causal=family.causal or bool(getattr(config, "is_decoder", False)),
        local_layers=local,
        window=int(config.sliding_window) if local else None,
        max_tokens=int(config.max_position_embeddings) - family.first_position(config),
    )
