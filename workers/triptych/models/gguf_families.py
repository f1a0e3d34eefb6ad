"""The families of GGUF files that are read and written: how llama.cpp calls what a Hugging Face checkpoint has.

Names and values are those of llama.cpp's conversion (convert_hf_to_gguf.py); what the metadata do not say, such as
the order of sliding and full layers, is fixed in its model code.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from triptych.core.errors import Unimplemented
from triptych.models.gguf_family import Family, Number
from triptych.models.gguf_metadata import Metadata
from triptych.models.gguf_rope import rope_parameters

_ATTENTION = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
}
_QK_NORMS = {"attn_q_norm": "self_attn.q_norm", "attn_k_norm": "self_attn.k_norm"}
_MLP = {"ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj"}
_PRE_NORMS = {"attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm"}
_POST_NORMS = {"post_attention_norm": "post_attention_layernorm", "post_ffw_norm": "post_feedforward_layernorm"}
_SANDWICH_NORMS = {"attn_norm": "input_layernorm", "ffn_norm": "pre_feedforward_layernorm", **_POST_NORMS}
_EXPERTS = {f"ffn_{part}_exps": f"mlp.experts.{{}}.{part}_proj" for part in ("gate", "up", "down")}
_LLAMA = {**_ATTENTION, **_MLP, **_PRE_NORMS}

_FULL, _SLIDING = "full_attention", "sliding_attention"
_PERIODS: Mapping[str, int] = {"gemma2": 2, "gemma3_text": 6, "olmo3": 4}
"""Of families that mix both, every so many layers one sees everything."""

_WINDOW = Number("sliding_window", "attention.sliding_window", int)
_TOP_K = Number("num_experts_per_tok", "expert_used_count", int)
_EXPERT_SIZE = Number("moe_intermediate_size", "expert_feed_forward_length", int)


def _biases(config: dict[str, Any], metadata: Metadata) -> dict[str, Any]:
    tensors = metadata.header.tensors
    return {"attention_bias": "blk.0.attn_q.bias" in tensors, "mlp_bias": "blk.0.ffn_up.bias" in tensors}


def _every(period: int, layers: int) -> list[bool]:
    """Whether a layer is the last of its period."""
    return [(layer + 1) % period == 0 for layer in range(layers)]


def _layer_types(config: dict[str, Any], metadata: Metadata, period: int) -> list[str]:
    stated = metadata.raw("attention.sliding_window_pattern")
    if isinstance(stated, tuple):
        return [_SLIDING if sliding else _FULL for sliding in stated]
    stated_period = metadata.get("attention.sliding_window_pattern", int, period)
    return _periodic_types(config["num_hidden_layers"], stated_period)


def _periodic_types(layers: int, period: int) -> list[str]:
    return [_FULL if last else _SLIDING for last in _every(period, layers)]


def _query_scale(config: dict[str, Any], layers_of_27b: int) -> int:
    """Only the models of 27 billion parameters scale queries by another width than a head's."""
    if config["num_hidden_layers"] == layers_of_27b:
        return int(config["hidden_size"] // config["num_attention_heads"])
    return int(config["head_dim"])


def _gemma2(config: dict[str, Any], metadata: Metadata) -> dict[str, Any]:
    return {
        "layer_types": _layer_types(config, metadata, _PERIODS["gemma2"]),
        "query_pre_attn_scalar": _query_scale(config, 46),
    }


def _gemma3(config: dict[str, Any], metadata: Metadata) -> dict[str, Any]:
    local = metadata.get("rope.freq_base_swa", float, 10000.0)
    return {
        "layer_types": _layer_types(config, metadata, _PERIODS["gemma3_text"] if config["sliding_window"] else 1),
        "query_pre_attn_scalar": _query_scale(config, 62),
        "rope_parameters": {
            _FULL: rope_parameters(metadata, config["head_dim"], theta=1e6),
            _SLIDING: {"rope_type": "default", "rope_theta": local},
        },
    }


def _olmo3(config: dict[str, Any], metadata: Metadata) -> dict[str, Any]:
    full = config["rope_parameters"]
    local = metadata.get("rope.freq_base_swa", float, full["rope_theta"])
    return {
        "layer_types": _layer_types(config, metadata, _PERIODS["olmo3"]),
        "rope_parameters": {
            _FULL: full,
            _SLIDING: {"rope_type": "default", "rope_theta": local},
        },
    }


def _phi3(config: dict[str, Any], metadata: Metadata) -> dict[str, Any]:
    original = metadata.get("rope.scaling.original_context_length", int, config["max_position_embeddings"])
    return {"original_max_position_embeddings": original}


def _smollm3(config: dict[str, Any], metadata: Metadata) -> dict[str, Any]:
    rotated = [int(not last) for last in _every(4, config["num_hidden_layers"])]
    return {**_biases(config, metadata), "no_rope_layers": rotated, "no_rope_layer_interval": 4}


_GEMMA = {"hidden_activation": "gelu_pytorch_tanh", "attention_bias": False}
_CAPS = (
    Number("attn_logit_softcapping", "attn_logit_softcapping", float, required=False),
    Number("final_logit_softcapping", "final_logit_softcapping", float, required=False),
)
_SILU = {"hidden_act": "silu"}

LLAMA = Family("llama", "LlamaForCausalLM", "llama", _LLAMA, constants=_SILU, derive=_biases, interleaved=True)
MIXTRAL = Family(
    name="llama",
    architecture="MixtralForCausalLM",
    model_type="mixtral",
    tensors={**_ATTENTION, **_PRE_NORMS, "ffn_gate_inp": "block_sparse_moe.gate"},
    experts={
        "ffn_gate_exps": "block_sparse_moe.experts.{}.w1",
        "ffn_up_exps": "block_sparse_moe.experts.{}.w3",
        "ffn_down_exps": "block_sparse_moe.experts.{}.w2",
    },
    numbers=(Number("num_local_experts", "expert_count", int), _TOP_K),
    constants=_SILU,
    interleaved=True,
)
QWEN2 = Family("qwen2", "Qwen2ForCausalLM", "qwen2", _LLAMA, constants={**_SILU, "use_sliding_window": False})
QWEN3 = Family(
    "qwen3",
    "Qwen3ForCausalLM",
    "qwen3",
    {**_LLAMA, **_QK_NORMS},
    constants={**_SILU, "use_sliding_window": False, "attention_bias": False},
)
QWEN2_MOE = Family(
    name="qwen2moe",
    architecture="Qwen2MoeForCausalLM",
    model_type="qwen2_moe",
    tensors={
        **_ATTENTION,
        **_PRE_NORMS,
        "ffn_gate_inp": "mlp.gate",
        "ffn_gate_inp_shexp": "mlp.shared_expert_gate",
        **{f"ffn_{part}_shexp": f"mlp.shared_expert.{part}_proj" for part in ("gate", "up", "down")},
    },
    experts=_EXPERTS,
    numbers=(
        Number("num_experts", "expert_count", int),
        _TOP_K,
        _EXPERT_SIZE,
        Number("shared_expert_intermediate_size", "expert_shared_feed_forward_length", int),
    ),
    constants={**_SILU, "use_sliding_window": False, "norm_topk_prob": False},
)
QWEN3_MOE = Family(
    name="qwen3moe",
    architecture="Qwen3MoeForCausalLM",
    model_type="qwen3_moe",
    tensors={**_ATTENTION, **_QK_NORMS, **_PRE_NORMS, "ffn_gate_inp": "mlp.gate"},
    experts=_EXPERTS,
    numbers=(Number("num_experts", "expert_count", int, alias="num_local_experts"), _TOP_K, _EXPERT_SIZE),
    constants={**_SILU, "use_sliding_window": False, "attention_bias": False, "norm_topk_prob": True},
)
GEMMA2 = Family(
    name="gemma2",
    architecture="Gemma2ForCausalLM",
    model_type="gemma2",
    tensors={**_ATTENTION, **_MLP, **_SANDWICH_NORMS},
    numbers=(_WINDOW, *_CAPS),
    constants={**_GEMMA, "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0},
    derive=_gemma2,
    shifted_norms=True,
)
GEMMA3 = Family(
    name="gemma3",
    architecture="Gemma3ForCausalLM",
    model_type="gemma3_text",
    tensors={**_ATTENTION, **_QK_NORMS, **_MLP, **_SANDWICH_NORMS},
    numbers=(replace(_WINDOW, required=False), *_CAPS),
    constants={
        **_GEMMA,
        "sliding_window": None,
        "attn_logit_softcapping": None,
        "final_logit_softcapping": None,
    },
    derive=_gemma3,
    shifted_norms=True,
)
PHI3 = Family(
    name="phi3",
    architecture="Phi3ForCausalLM",
    model_type="phi3",
    tensors={
        "attn_qkv": "self_attn.qkv_proj",
        "attn_output": "self_attn.o_proj",
        "ffn_up": "mlp.gate_up_proj",
        "ffn_down": "mlp.down_proj",
        **_PRE_NORMS,
    },
    numbers=(replace(_WINDOW, required=False, none=0),),  # llama.cpp's sign of Phi-4
    constants={**_SILU, "sliding_window": None},
    derive=_phi3,
)
GRANITE = Family(
    name="granite",
    architecture="GraniteForCausalLM",
    model_type="granite",
    tensors=_LLAMA,
    numbers=(
        Number("attention_multiplier", "attention.scale", float),
        Number("embedding_multiplier", "embedding_scale", float),
        Number("residual_multiplier", "residual_scale", float),
        Number("logits_scaling", "logit_scale", float),
    ),
    constants=_SILU,
    derive=_biases,
    interleaved=True,
)
OLMO2 = Family(
    name="olmo2",
    architecture="Olmo2ForCausalLM",
    model_type="olmo2",
    tensors={**_ATTENTION, **_QK_NORMS, **_MLP, **_POST_NORMS},
    constants={**_SILU, "attention_bias": False},
)
OLMO3 = replace(
    OLMO2,
    architecture="Olmo3ForCausalLM",
    model_type="olmo3",
    numbers=(_WINDOW,),
    derive=_olmo3,
)
SMOLLM3 = Family(
    name="smollm3",
    architecture="SmolLM3ForCausalLM",
    model_type="smollm3",
    tensors=_LLAMA,
    constants={**_SILU, "use_sliding_window": False},
    derive=_smollm3,
    interleaved=True,
)

FAMILIES = (
    LLAMA, MIXTRAL, QWEN2, QWEN3, QWEN2_MOE, QWEN3_MOE, GEMMA2, GEMMA3, PHI3, GRANITE, OLMO2, OLMO3, SMOLLM3,
)  # fmt: skip
"""All of them; of two with one name the plainer comes first."""

_MARKS: Mapping[str, str] = {MIXTRAL.model_type: "expert_count", OLMO3.model_type: "attention.sliding_window"}
"""Metadata that tells a family from the plainer one of the same name."""


def family_of(metadata: Metadata) -> Family:
    """The family that a file belongs to.

    Raises:
        Unimplemented: to none that is read; the message names those.
    """
    named = [family for family in FAMILIES if family.name == metadata.architecture]
    if not named:
        raise Unimplemented(
            f"{metadata.header.path} holds the architecture {metadata.architecture!r}; "
            f"from GGUF these are read: {', '.join(dict.fromkeys(family.name for family in FAMILIES))}",
            field="model",
        )
    marked = [family for family in named if metadata.raw(_MARKS.get(family.model_type, ""))]
    return (marked or named)[0]


def default_layer_types(family: Family, layers: int) -> list[str] | None:
    """What llama.cpp takes for `layer_types` where a file does not say; None for families that do not mix."""
    period = _PERIODS.get(family.model_type)
    return None if period is None else _periodic_types(layers, period)
