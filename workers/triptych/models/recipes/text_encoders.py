"""The architectures that give embeddings of texts."""

from collections.abc import Mapping
from typing import Any

from triptych.core.errors import Unimplemented
from triptych.models.recipes.bert import BERT
from triptych.models.recipes.distilbert import DISTILBERT
from triptych.models.recipes.recipe import TextRecipe
from triptych.models.recipes.roberta import ROBERTA, XLM_ROBERTA

TEXT_RECIPES: Mapping[str, TextRecipe] = {
    "BertModel": BERT,
    "DistilBertModel": DISTILBERT,
    "RobertaModel": ROBERTA,
    "XLMRobertaModel": XLM_ROBERTA,
}


def gives_embeddings(config: Mapping[str, Any]) -> bool:
    """Whether a config is that of a text encoder."""
    return _architecture(config) in TEXT_RECIPES


def find_text_recipe(config: Mapping[str, Any]) -> TextRecipe:
    """The recipe for the first of a config's `architectures`.

    Raises:
        Unimplemented: there is none; the message names the architecture and the supported ones.
    """
    architecture = _architecture(config)
    if (recipe := TEXT_RECIPES.get(architecture)) is None:
        raise Unimplemented(
            f"architecture {architecture or '(none)'} gives no embeddings; supported: {', '.join(TEXT_RECIPES)}",
            field="architectures",
        )
    return recipe


def _architecture(config: Mapping[str, Any]) -> str:
    names = config.get("architectures")
    return str(names[0]) if isinstance(names, list) and names else ""
