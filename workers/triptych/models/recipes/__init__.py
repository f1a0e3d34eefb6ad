"""Recipes: from a Hugging Face config to a spec, and from our tensor names to the checkpoint's."""

from collections.abc import Mapping
from typing import Any

from triptych.core.errors import Unimplemented
from triptych.models.recipes.llama import LLAMA
from triptych.models.recipes.llava import LLAVA
from triptych.models.recipes.recipe import Recipe

RECIPES: Mapping[str, Recipe] = {
    "LlamaForCausalLM": LLAMA,
    "LlavaForConditionalGeneration": LLAVA,
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
