"""The architecture families that headscope knows, one entry each. ``make families`` proves every one of them.

To add a family, add an entry here and run ``make families``: the conformance test and the table in
``docs/families.md`` find it by themselves.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from .family import Family, after_padding, shared_groups, unshare_groups

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

_SEGMENTS = "embeddings.token_type_embeddings"


def _with(kind: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    return {**kind, **changes}


_BERT: dict[str, Any] = {
    "layers": "encoder.layer",
    "attention": "attention.self",
    "output": "attention.output.dense",
    "projections": ("attention.self.query", "attention.self.key", "attention.self.value"),
    "mlp": "output.dense",
    "mlp_inputs": ("intermediate.dense",),
    "counts": ("num_attention_heads",),
    "widths": ("all_head_size",),
    "segments": _SEGMENTS,
    "may_decode": True,
}
_ROBERTA: dict[str, Any] = _BERT | {"first_position": after_padding, "tiny": {"pad_token_id": 1}}
_LLAMA: dict[str, Any] = {
    "layers": "layers",
    "attention": "self_attn",
    "output": "self_attn.o_proj",
    "projections": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "mlp": "mlp.down_proj",
    "mlp_inputs": ("mlp.gate_proj", "mlp.up_proj"),
    "causal": True,
}
_NORM_AFTER: dict[str, Any] = _LLAMA | {"mlp_end": "post_feedforward_layernorm", "after_output": "a norm"}
_EXPERTS: dict[str, Any] = _LLAMA | {"mlp": "mlp", "mlp_inputs": (), "experts": True}
_NEOX: dict[str, Any] = {
    "projections": ("self_attention.query_key_value",),
    "fused": "by group",
    "layers": "h",
    "attention": "self_attention",
    "output": "self_attention.dense",
    "mlp": "mlp.dense_4h_to_h",
    "mlp_inputs": ("mlp.dense_h_to_4h",),
    "causal": True,
}
_ENCODER: dict[str, Any] = {  # Vaswani et al. (2017), as fairseq names its parts
    "layers": "encoder.layers",
    "attention": "self_attn",
    "output": "self_attn.out_proj",
    "projections": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "mlp": "fc2",
    "mlp_inputs": ("fc1",),
}
_BART_STACKS: Mapping[str, Mapping[str, Any]] = {
    "decoder": {"layers": "decoder.layers", "causal": True, "heads": "decoder_attention_heads"},
    "cross": {
        "layers": "decoder.layers",
        "attention": "encoder_attn",
        "output": "encoder_attn.out_proj",
        "projections": ("encoder_attn.q_proj", "encoder_attn.k_proj", "encoder_attn.v_proj"),
        "mlp": None,
        "mlp_inputs": (),
        "heads": "decoder_attention_heads",
    },
}
_BART: dict[str, Any] = _ENCODER | {"stack": "encoder", "stacks": _BART_STACKS}
_BART_SIZES = {
    "decoder_layers": 3,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 32,
    "decoder_ffn_dim": 32,
    "pad_token_id": 1,
    "eos_token_id": 2,
}
_T5: dict[str, Any] = {
    "layers": "encoder.block",
    "attention": "layer.0.SelfAttention",
    "output": "layer.0.SelfAttention.o",
    "projections": tuple(f"layer.0.SelfAttention.{part}" for part in "qkv"),
    "mlp": "layer.1.DenseReluDense.wo",
    "mlp_inputs": tuple(f"layer.1.DenseReluDense.{name}?" for name in ("wi", "wi_0", "wi_1")),
    "uncuttable": lambda config: "its position bias is computed for all heads at once",
    "stack": "encoder",
    "stacks": {
        "decoder": {
            "layers": "decoder.block",
            "mlp": "layer.2.DenseReluDense.wo",
            "mlp_inputs": tuple(f"layer.2.DenseReluDense.{name}?" for name in ("wi", "wi_0", "wi_1")),
            "causal": True,
        },
        "cross": {
            "layers": "decoder.block",
            "attention": "layer.1.EncDecAttention",
            "output": "layer.1.EncDecAttention.o",
            "projections": tuple(f"layer.1.EncDecAttention.{part}" for part in "qkv"),
            "mlp": None,
            "mlp_inputs": (),
        },
    },
}
_T5_SIZES = {
    "decoder_start_token_id": 0,
    "d_kv": 6,
    "num_decoder_layers": 3,
    "relative_attention_num_buckets": 8,
}
_WINDOW = {"sliding_window": 6}
_LAYER_TYPES = {**_WINDOW, "layer_types": ["sliding_attention", "full_attention", "sliding_attention"]}


def _alibi(config: PreTrainedConfig) -> str | None:
    return "its position bias is computed for all heads at once"


def _wide_norms(config: PreTrainedConfig) -> str | None:
    return "its norms of queries and keys span all heads"


def _norms_by_head(setting: str) -> Any:
    return lambda config: (
        "its norms of queries and keys have weights for each head" if getattr(config, setting) else None
    )


def _gpt_neo_local(config: PreTrainedConfig, n_layers: int) -> tuple[int, ...]:
    return tuple(i for i, kind in enumerate(config.attention_layers) if kind == "local")


FAMILIES: tuple[Family, ...] = (
    Family("BERT", "bert", **_BERT),
    Family("RoBERTa", "roberta", **_ROBERTA),
    Family("XLM-RoBERTa", "xlm-roberta", **_ROBERTA),
    Family("ELECTRA", "electra", **_BERT, tiny={"embedding_size": 12}),
    Family(
        "DistilBERT",
        "distilbert",
        layers="transformer.layer",
        attention="attention",
        output="attention.out_lin",
        projections=("attention.q_lin", "attention.k_lin", "attention.v_lin"),
        mlp="ffn.lin2",
        mlp_inputs=("ffn.lin1",),
        counts=("n_heads",),
        tiny={"hidden_dim": 32},
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
        counts=("num_attention_heads",),
        widths=("all_head_size",),
        segments=_SEGMENTS,
        in_call_order=shared_groups,
        unshare=unshare_groups,
        tiny={"num_hidden_layers": 4, "embedding_size": 12, "num_hidden_groups": 2, "inner_group_num": 1},
        remarks="Layers share their modules; to cut some of them, each gets its own copy.",
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
        tiny={"local_attention": 6, "global_attn_every_n_layers": 3, "attention_bias": True},
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
        counts=("num_heads",),
        widths=("split_size",),
        causal=True,
        tiny={"n_inner": 96},
    ),
    Family("Llama", "llama", **_LLAMA, tiny={"attention_bias": True}),
    Family("Qwen2", "qwen2", **_LLAMA),
    # Encoders.
    Family("CamemBERT", "camembert", **_ROBERTA),
    Family("XLM-RoBERTa-XL", "xlm-roberta-xl", **_ROBERTA),
    Family("data2vec-text", "data2vec-text", **_ROBERTA),
    Family(
        "RoBERTa-PreLayerNorm",
        "roberta-prelayernorm",
        **_ROBERTA,
    ),
    Family(
        "ESM",
        "esm",
        **_with(_BERT, {"segments": None, "first_position": after_padding}),
        positions=("absolute", "rotary"),
        tiny={"pad_token_id": 1, "mask_token_id": 4, "position_embedding_type": "rotary"},
        remarks="Protein language models (ESM-2).",
    ),
    Family("ERNIE", "ernie", **_BERT),
    Family("BERT generation", "bert-generation", **_with(_BERT, {"segments": None})),
    Family("Splinter", "splinter", **_BERT, tiny={"question_token_id": 4}),
    Family("NomicBERT", "nomic_bert", **_with(_LLAMA, {"causal": False, "segments": _SEGMENTS})),
    Family("EuroBERT", "eurobert", **_with(_LLAMA, {"causal": False})),
    Family(
        "CLIP text",
        "clip_text_model",
        **_with(_ENCODER, {"mlp": "mlp.fc2", "mlp_inputs": ("mlp.fc1",)}),
        causal=True,
        tiny={"eos_token_id": 2},
    ),
    # Decoders.
    Family("Mistral", "mistral", **_LLAMA, tiny=_WINDOW),
    Family("Ministral", "ministral", **_LLAMA, tiny=_LAYER_TYPES | {"head_dim": 6}),
    Family("Gemma", "gemma", **_LLAMA, tiny={"head_dim": 8}),
    Family(
        "Gemma 2",
        "gemma2",
        **_NORM_AFTER,
        tiny=_LAYER_TYPES | {"attn_logit_softcapping": 2.0, "query_pre_attn_scalar": 6},
        remarks="The scores are capped before the softmax.",
    ),
    Family(
        "Gemma 3",
        "gemma3_text",
        **_NORM_AFTER,
        tiny=_LAYER_TYPES | {"query_pre_attn_scalar": 6},
        remarks="Text alone; EmbeddingGemma, which sees both ways, too.",
    ),
    Family("Qwen3", "qwen3", **_LLAMA, tiny={"head_dim": 8}),
    Family("OLMo", "olmo", **_LLAMA, tiny={"clip_qkv": 2.0}),
    Family(
        "OLMo 2",
        "olmo2",
        **_NORM_AFTER,
        uncuttable=_wide_norms,
    ),
    Family(
        "OLMo 3",
        "olmo3",
        **_NORM_AFTER,
        uncuttable=_wide_norms,
        tiny=_LAYER_TYPES,
    ),
    Family("SmolLM3", "smollm3", **_LLAMA, tiny={"no_rope_layers": [1, 0, 1]}),
    Family(
        "Granite",
        "granite",
        **_LLAMA,
        after_output="a factor, the same for all heads,",
        tiny={"residual_multiplier": 0.5},
    ),
    Family("Cohere", "cohere", **_LLAMA, uncuttable=_norms_by_head("use_qk_norm")),
    Family("Cohere 2", "cohere2", **_LLAMA, tiny=_LAYER_TYPES),
    Family(
        "EXAONE 4",
        "exaone4",
        **_NORM_AFTER,
        tiny=_LAYER_TYPES,
    ),
    Family("Helium", "helium", **_LLAMA, tiny={"head_dim": 6}),
    Family(
        "GLM-4",
        "glm4",
        **_with(_LLAMA, {"mlp_inputs": ("mlp.gate_up_proj",)}),
        mlp_end="post_mlp_layernorm",
        after_output="a norm",
    ),
    Family("GLM", "glm", **_with(_LLAMA, {"mlp_inputs": ("mlp.gate_up_proj",)}), tiny={"head_dim": 6}),
    Family("ERNIE 4.5", "ernie4_5", **_LLAMA, tiny={"head_dim": 6}),
    Family("Hunyuan", "hunyuan_v1_dense", **_LLAMA, tiny={"head_dim": 6}),
    Family("Nemotron", "nemotron", **_with(_LLAMA, {"mlp_inputs": ("mlp.up_proj",)})),
    Family("Arcee", "arcee", **_with(_LLAMA, {"mlp_inputs": ("mlp.up_proj",)})),
    Family("Apertus", "apertus", **_with(_LLAMA, {"mlp_inputs": ("mlp.up_proj",)})),
    Family(
        "StarCoder2",
        "starcoder2",
        **_with(_LLAMA, {"mlp": "mlp.c_proj", "mlp_inputs": ("mlp.c_fc",)}),
        tiny=_WINDOW,
    ),
    Family(
        "Phi",
        "phi",
        **_with(_LLAMA, {"output": "self_attn.dense", "mlp": "mlp.fc2", "mlp_inputs": ("mlp.fc1",)}),
        tiny={"hidden_size": 32, "qk_layernorm": True},
    ),
    Family(
        "Phi-3",
        "phi3",
        **_with(_LLAMA, {"projections": ("self_attn.qkv_proj",), "mlp_inputs": ("mlp.gate_up_proj",)}),
        fused="side by side",
        config_counts=("num_attention_heads",),
        kv_counts=("num_key_value_heads",),
    ),
    Family(
        "OPT",
        "opt",
        **_with(_ENCODER, {"layers": "decoder.layers"}),
        counts=("num_heads",),
        replaced_when_empty=True,
        causal=True,
        tiny={"word_embed_proj_dim": 24, "ffn_dim": 32},
    ),
    Family("BioGPT", "biogpt", **_with(_ENCODER, {"layers": "layers"}), causal=True),
    Family(
        "GPT-J",
        "gptj",
        layers="h",
        attention="attn",
        output="attn.out_proj",
        projections=("attn.q_proj", "attn.k_proj", "attn.v_proj"),
        mlp="mlp.fc_out",
        mlp_inputs=("mlp.fc_in",),
        counts=("num_attention_heads",),
        widths=("embed_dim",),
        causal=True,
        tiny={"rotary_dim": 4},
    ),
    Family(
        "ModernBERT decoder",
        "modernbert-decoder",
        layers="layers",
        attention="attn",
        output="attn.Wo",
        projections=("attn.q_proj", "attn.k_proj", "attn.v_proj"),
        mlp="mlp.Wo",
        mlp_inputs=("mlp.Wi",),
        causal=True,
        tiny=_LAYER_TYPES,
    ),
    Family(
        "Pythia (GPT-NeoX)",
        "gpt_neox",
        **_NEOX
        | {
            "layers": "layers",
            "attention": "attention",
            "output": "attention.dense",
            "projections": ("attention.query_key_value",),
        },
    ),
    Family(
        "StableLM",
        "stablelm",
        **_LLAMA,
        counts=("num_heads",),
        kv_counts=("num_key_value_heads",),
        uncuttable=_norms_by_head("qk_layernorm"),
        tiny={"use_qkv_bias": True},
    ),
    Family(
        "GPT-BigCode",
        "gpt_bigcode",
        layers="h",
        attention="attn",
        output="attn.c_proj",
        projections=("attn.c_attn",),
        fused="by group",
        mlp="mlp.c_proj",
        mlp_inputs=("mlp.c_fc",),
        counts=("num_heads",),
        widths=("embed_dim",),
        causal=True,
        remarks="A key and value head that all heads share stays when heads are cut out.",
    ),
    # Mixtures of experts.
    Family("Mixtral", "mixtral", **_EXPERTS, tiny=_WINDOW | {"num_local_experts": 4}),
    Family(
        "Qwen3-MoE",
        "qwen3_moe",
        **_EXPERTS,
        tiny={"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16},
    ),
    Family(
        "Qwen2-MoE",
        "qwen2_moe",
        **_EXPERTS,
        tiny={
            "num_experts": 4,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 16,
            "shared_expert_intermediate_size": 16,
        },
    ),
    Family(
        "OLMoE",
        "olmoe",
        **_EXPERTS,
        uncuttable=_wide_norms,
        tiny={"num_experts": 4, "num_experts_per_tok": 2},
    ),
    Family(
        "GraniteMoE",
        "granitemoe",
        **_with(_EXPERTS, {"mlp": "block_sparse_moe"}),
        after_output="a factor, the same for all heads,",
        tiny={"num_local_experts": 4, "residual_multiplier": 0.5},
    ),
    Family(
        "gpt-oss",
        "gpt_oss",
        **_EXPERTS,
        sinks=True,
        uncuttable=lambda config: "its attention sinks have a weight for each head",
        tiny=_LAYER_TYPES | {"num_local_experts": 4, "num_experts_per_tok": 2},
        remarks="Part of each row goes to a sink and not to a token.",
    ),
    # Encoders and decoders in one.
    Family("BART", "bart", **_BART, tiny=_BART_SIZES | {"decoder_start_token_id": 2}),
    Family("mBART", "mbart", **_BART, tiny=_BART_SIZES),
    Family(
        "Marian",
        "marian",
        **_BART,
        tiny=_BART_SIZES | {"decoder_start_token_id": 2, "forced_eos_token_id": 2},
    ),
    Family("M2M100 (NLLB)", "m2m_100", **_BART, tiny=_BART_SIZES),
    Family("Pegasus", "pegasus", **_BART, tiny=_BART_SIZES),
    Family("T5", "t5", **_T5, tiny=_T5_SIZES | {"d_ff": 32}),
    Family("mT5", "mt5", **_T5, tiny=_T5_SIZES | {"d_ff": 32}),
    # Those that compute attention on their own.
    Family(
        "DeBERTa-v2",
        "deberta-v2",
        **_BERT
        | {
            "projections": tuple(f"attention.self.{part}_proj" for part in ("query", "key", "value")),
            "may_decode": False,
            "segments": None,
        },
        positions=("absolute", "relative"),
        replaced_when_empty=True,
        by_head=("attention.self.pos_key_proj?", "attention.self.pos_query_proj?"),
        tap="module",
        tiny={
            "relative_attention": True,
            "pos_att_type": ["c2p", "p2c"],
            "position_buckets": 4,
            "max_relative_positions": 40,
            "norm_rel_ebd": "layer_norm",
        },
        remarks="DeBERTa-v3 too.",
    ),
    Family("Megatron-BERT", "megatron-bert", **_BERT, replaced_when_empty=True, tap="module"),
    Family(
        "MPNet",
        "mpnet",
        **_BERT
        | {
            "attention": "attention.attn",
            "output": "attention.attn.o",
            "projections": tuple(f"attention.attn.{part}" for part in "qkv"),
            "segments": None,
            "may_decode": False,
            "first_position": lambda config: 2,
        },
        uncuttable=_alibi,
        tap="module",
        tiny={"pad_token_id": 1},
    ),
    Family("BLOOM", "bloom", **_NEOX, uncuttable=_alibi, tap="module"),
    Family(
        "Falcon",
        "falcon",
        **_NEOX,
        uncuttable=lambda config: "it divides its projection by numbers of heads that are one for all layers",
        tap="module",
        tiny={"multi_query": False, "new_decoder_architecture": True, "num_kv_heads": 2, "bias": True},
    ),
    Family(
        "MPT",
        "mpt",
        layers="blocks",
        attention="attn",
        output="attn.out_proj",
        projections=("attn.Wqkv",),
        fused="side by side",
        mlp="ffn.down_proj",
        mlp_inputs=("ffn.up_proj",),
        causal=True,
        uncuttable=_alibi,
        tap="module",
    ),
    Family(
        "GPT-Neo",
        "gpt_neo",
        layers="h",
        attention="attn.attention",
        output="attn.attention.out_proj",
        projections=tuple(f"attn.attention.{part}_proj" for part in "qkv"),
        mlp="mlp.c_proj",
        mlp_inputs=("mlp.c_fc",),
        counts=("num_heads",),
        replaced_when_empty=True,
        causal=True,
        local=_gpt_neo_local,
        window="window_size",
        tap="module",
        tiny={"attention_types": [[["global"], 1], [["local"], 2]], "window_size": 6},
    ),
)
"""In the order in which they are listed to a user."""
