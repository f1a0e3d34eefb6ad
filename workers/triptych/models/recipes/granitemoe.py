"""GraniteMoeForCausalLM (arXiv:2408.13359), with the defaults of transformers' GraniteMoeConfig."""

from collections.abc import Mapping
from typing import Any

from triptych.models.recipes.fields import Fields
from triptych.models.recipes.granite import multiplied
from triptych.models.recipes.llama import NAMES, language_model
from triptych.models.recipes.mixture import read_experts
from triptych.models.recipes.place import Place
from triptych.models.recipes.recipe import Recipe
from triptych.models.spec import ModelSpec, SoftmaxRouter

_MIXTURE = "model.layers.{0}.block_sparse_moe"
_GATE_UP = Place(f"{_MIXTURE}.input_linear", stacked=True, of=("gate", "up"))


def read_granitemoe(config: Mapping[str, Any]) -> ModelSpec:
    """The spec of a language model: Granite with experts."""
    fields = Fields(config)
    router = SoftmaxRouter(renormalise=True)
    experts = read_experts(fields, router, experts=8, top_k=2, width="intermediate_size", default_width=11008)
    return language_model("GraniteMoeForCausalLM", fields, multiplied(fields, experts))


GRANITEMOE = Recipe(
    read=read_granitemoe,
    names={
        **NAMES,
        "layers.{}.mlp.router": f"{_MIXTURE}.router.layer",
        "layers.{}.mlp.experts.{}.gate": _GATE_UP,
        "layers.{}.mlp.experts.{}.up": _GATE_UP,
        "layers.{}.mlp.experts.{}.down": Place(f"{_MIXTURE}.output_linear", stacked=True),
    },
)
