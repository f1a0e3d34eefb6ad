"""DeepseekV3ForCausalLM (arXiv:2412.19437), with the defaults of transformers' DeepseekV3Config."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from triptych.core.errors import InvalidArgument
from triptych.models.recipes.fields import Fields
from triptych.models.recipes.llama import (
    NAMES,
    language_model,
    pre_norm,
    read_mlp,
    read_norm,
    stacked,
    tied_head,
)
from triptych.models.recipes.mixture import EXPERT_NAMES
from triptych.models.recipes.place import Place
from triptych.models.recipes.recipe import Recipe
from triptych.models.recipes.rope import context_length, mscale, read_rope, rope_section
from triptych.models.spec import LatentAttentionSpec, MlpSpec, ModelSpec, MoeSpec, SigmoidRouter

_ATTENTION = "model.layers.{0}.self_attn"
_SHARED = "model.layers.{0}.mlp.shared_experts"


_DEFAULTS: Mapping[str, Any] = {"vocab_size": 129280, "hidden_size": 7168, "intermediate_size": 18432}


def read_deepseek_v3(config: Mapping[str, Any]) -> ModelSpec:
    """The spec of a language model: latent attention, dense blocks in the first layers."""
    fields = Fields(config, defaults=_DEFAULTS)
    attention, norm = _attention(fields), read_norm(fields)
    dense, mixture = read_mlp(fields), _mixture(fields)
    count, first = fields.few("num_hidden_layers", 61), fields.integer("first_k_dense_replace", 3)
    layers = tuple(pre_norm(attention, dense if index < first else mixture, norm) for index in range(count))
    decoder = stacked(fields, layers, tied_head=tied_head(fields))
    return language_model("DeepseekV3ForCausalLM", fields, decoder, context=context_length(fields, 4096))


def _attention(fields: Fields) -> LatentAttentionSpec:
    plain, turned = fields.count("qk_nope_head_dim", 128), fields.count("qk_rope_head_dim", 64)
    rope = replace(read_rope(fields, turned), neighbours=fields.flag("rope_interleave", True))
    return LatentAttentionSpec(
        num_heads=fields.count("num_attention_heads", 128),
        query_rank=fields.optional_count("q_lora_rank", 1536),
        latent_dim=fields.count("kv_lora_rank", 512),
        plain_dim=plain,
        rope=rope,
        value_dim=fields.count("v_head_dim", 128),
        scale=(plain + turned) ** -0.5 * _temperature(fields),
        norm_eps=1e-6,
        bias=fields.flag("attention_bias", False),
    )


def _temperature(fields: Fields) -> float:
    """What YaRN multiplies scores by besides."""
    section = rope_section(fields)
    if not section.has("mscale_all_dim") or not section.has("factor"):
        return 1.0
    return mscale(section.positive("factor", None), section.positive("mscale_all_dim", None)) ** 2


def _mixture(fields: Fields) -> MoeSpec:
    fields.choice("scoring_func", "sigmoid", ("sigmoid",))
    fields.choice("topk_method", "noaux_tc", ("noaux_tc",))
    fields.refuse("moe_layer_freq", 1)
    experts, chosen = fields.few("n_routed_experts", 256), fields.count("num_experts_per_tok", 8)
    groups, top_groups = fields.count("n_group", 8), fields.count("topk_group", 4)
    if experts % groups or chosen > top_groups * (experts // groups) or top_groups > groups:
        raise InvalidArgument(
            f"config: {chosen} of {experts} experts cannot be taken from {top_groups} of {groups} equal groups",
            field="n_group",
        )
    width = fields.count("moe_intermediate_size", 2048)
    return MoeSpec(
        num_experts=experts,
        top_k=chosen,
        intermediate_size=width,
        router=SigmoidRouter(
            num_groups=groups,
            top_groups=top_groups,
            renormalise=fields.flag("norm_topk_prob", True),
            scale=fields.positive("routed_scaling_factor", 2.5),
        ),
        shared=MlpSpec(width * fields.count("n_shared_experts", 1)),
    )


DEEPSEEK_V3 = Recipe(
    read=read_deepseek_v3,
    names={
        **NAMES,
        **EXPERT_NAMES,
        "layers.{}.attention.query": f"{_ATTENTION}.q_proj",
        "layers.{}.attention.query_down": f"{_ATTENTION}.q_a_proj",
        "layers.{}.attention.query_down_norm": f"{_ATTENTION}.q_a_layernorm",
        "layers.{}.attention.query_up": f"{_ATTENTION}.q_b_proj",
        "layers.{}.attention.kv_down": f"{_ATTENTION}.kv_a_proj_with_mqa",
        "layers.{}.attention.kv_down_norm": f"{_ATTENTION}.kv_a_layernorm",
        "layers.{}.attention.kv_up": f"{_ATTENTION}.kv_b_proj",
        "layers.{}.mlp.correction": Place("model.layers.{0}.mlp.gate", weight=".e_score_correction_bias"),
        "layers.{}.mlp.shared.gate": f"{_SHARED}.gate_proj",
        "layers.{}.mlp.shared.up": f"{_SHARED}.up_proj",
        "layers.{}.mlp.shared.down": f"{_SHARED}.down_proj",
    },
    ignored=("model.layers.61.*",),  # predicts a second token, where the model has 61 layers
)
