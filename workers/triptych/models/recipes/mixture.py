"""What recipes of mixtures of experts have in common."""

from collections.abc import Mapping

from triptych.core.errors import InvalidArgument
from triptych.models.recipes.fields import Fields
from triptych.models.recipes.place import Place
from triptych.models.spec import LayerSpec, MlpSpec, MoeSpec, SoftmaxRouter

EXPERT_NAMES: Mapping[str, str | Place] = {
    "layers.{}.mlp.router": "model.layers.{0}.mlp.gate",
    "layers.{}.mlp.experts.{}.gate": "model.layers.{0}.mlp.experts.{1}.gate_proj",
    "layers.{}.mlp.experts.{}.up": "model.layers.{0}.mlp.experts.{1}.up_proj",
    "layers.{}.mlp.experts.{}.down": "model.layers.{0}.mlp.experts.{1}.down_proj",
}
"""Of most families: an expert is a tensor of its own."""


def read_experts(
    fields: Fields, router: SoftmaxRouter, *, experts: int, top_k: int, width: str, default_width: int
) -> MoeSpec:
    """A mixture of experts gated by silu.

    Args:
        fields: The config.
        router: How experts are chosen.
        experts: Of a config that leaves their number out.
        top_k: Of a config that leaves it out.
        width: Name of the field with the width of an expert.
        default_width: Of a config that leaves that out.

    Raises:
        InvalidArgument: more experts are chosen than there are.
    """
    fields.choice("hidden_act", "silu", ("silu",))
    count, chosen = num_experts(fields, experts), fields.count("num_experts_per_tok", top_k)
    if chosen > count:
        raise InvalidArgument(
            f"config: num_experts_per_tok must be at most {count} experts, got {chosen}", field="num_experts_per_tok"
        )
    return MoeSpec(count, chosen, fields.count(width, default_width), router)


def num_experts(fields: Fields, default: int) -> int:
    """How many experts a layer has, under either of its names."""
    return fields.few("num_experts" if fields.has("num_experts") else "num_local_experts", default)


def sparse_layers(fields: Fields, layers: tuple[LayerSpec, ...], dense: MlpSpec) -> tuple[LayerSpec, ...]:
    """Qwen's `mlp_only_layers`, and those that `decoder_sparse_step` leaves out, have a dense block instead."""
    only, step = fields.integers("mlp_only_layers", ()), fields.count("decoder_sparse_step", 1)
    return tuple(
        LayerSpec(layer.attention, dense, layer.attention_norms, layer.mlp_norms)
        if index in only or (index + 1) % step
        else layer
        for index, layer in enumerate(layers)
    )
