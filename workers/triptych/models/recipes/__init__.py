"""Recipes: from a Hugging Face config to a spec, and from our tensor names to the checkpoint's."""

from collections.abc import Mapping
from typing import Any

from triptych.core.errors import Unimplemented
from triptych.models.recipes.deepseek_v3 import DEEPSEEK_V3
from triptych.models.recipes.gemma2 import GEMMA2
from triptych.models.recipes.gemma3 import GEMMA3
from triptych.models.recipes.gemma3_vl import GEMMA3_VL
from triptych.models.recipes.gpt_oss import GPT_OSS
from triptych.models.recipes.granite import GRANITE
from triptych.models.recipes.granitemoe import GRANITEMOE
from triptych.models.recipes.idefics3 import IDEFICS3, SMOLVLM
from triptych.models.recipes.llama import LLAMA
from triptych.models.recipes.llava import LLAVA
from triptych.models.recipes.llava_next import LLAVA_NEXT
from triptych.models.recipes.mistral import MISTRAL
from triptych.models.recipes.mixtral import MIXTRAL
from triptych.models.recipes.olmo2 import OLMO2
from triptych.models.recipes.olmo3 import OLMO3
from triptych.models.recipes.olmoe import OLMOE
from triptych.models.recipes.phi3 import PHI3
from triptych.models.recipes.qwen2 import QWEN2
from triptych.models.recipes.qwen2_5_vl import QWEN2_5_VL
from triptych.models.recipes.qwen2_moe import QWEN2_MOE
from triptych.models.recipes.qwen3 import QWEN3
from triptych.models.recipes.qwen3_moe import QWEN3_MOE
from triptych.models.recipes.qwen3_vl import QWEN3_VL
from triptych.models.recipes.recipe import Recipe
from triptych.models.recipes.smollm3 import SMOLLM3

RECIPES: Mapping[str, Recipe] = {
    "DeepseekV3ForCausalLM": DEEPSEEK_V3,
    "Gemma2ForCausalLM": GEMMA2,
    "Gemma3ForCausalLM": GEMMA3,
    "Gemma3ForConditionalGeneration": GEMMA3_VL,
    "GptOssForCausalLM": GPT_OSS,
    "GraniteForCausalLM": GRANITE,
    "GraniteMoeForCausalLM": GRANITEMOE,
    "Idefics3ForConditionalGeneration": IDEFICS3,
    "LlamaForCausalLM": LLAMA,
    "LlavaForConditionalGeneration": LLAVA,
    "LlavaNextForConditionalGeneration": LLAVA_NEXT,
    "MistralForCausalLM": MISTRAL,
    "MixtralForCausalLM": MIXTRAL,
    "Olmo2ForCausalLM": OLMO2,
    "Olmo3ForCausalLM": OLMO3,
    "OlmoeForCausalLM": OLMOE,
    "Phi3ForCausalLM": PHI3,
    "Qwen2ForCausalLM": QWEN2,
    "Qwen2_5_VLForConditionalGeneration": QWEN2_5_VL,
    "Qwen2MoeForCausalLM": QWEN2_MOE,
    "Qwen3ForCausalLM": QWEN3,
    "Qwen3MoeForCausalLM": QWEN3_MOE,
    "Qwen3VLForConditionalGeneration": QWEN3_VL,
    "SmolLM3ForCausalLM": SMOLLM3,
    "SmolVLMForConditionalGeneration": SMOLVLM,
}

__all__ = ["RECIPES", "Recipe", "find_recipe", "recipe_for"]


def find_recipe(config: Mapping[str, Any]) -> Recipe:
    """The recipe for the first of a config's `architectures`.

    Raises:
        Unimplemented: there is none; the message names the architecture and the supported ones.
    """
    names = config.get("architectures")
    if not isinstance(names, list) or not names:
        raise Unimplemented(
            f"config.json names no architectures; supported: {', '.join(RECIPES)}", field="architectures"
        )
    return recipe_for(str(names[0]))


def recipe_for(architecture: str) -> Recipe:
    """The recipe of an architecture; Unimplemented when there is none."""
    recipe = RECIPES.get(architecture)
    if recipe is None:
        raise Unimplemented(
            f"architecture {architecture} is not supported; supported: {', '.join(RECIPES)}", field="architectures"
        )
    return recipe
