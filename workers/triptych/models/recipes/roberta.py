"""RobertaModel (arXiv:1907.11692), XLMRobertaModel (arXiv:1911.02116): BERT whose positions begin behind padding."""

from collections.abc import Mapping
from functools import partial
from typing import Any

from triptych.models.recipes.bert import IGNORED, NAMES, read_encoder
from triptych.models.recipes.fields import Fields
from triptych.models.recipes.recipe import TextRecipe
from triptych.models.spec import TextEncoderSpec


def read_roberta(architecture: str, vocab_size: int, config: Mapping[str, Any]) -> TextEncoderSpec:
    """The encoder, whose positions up to that of the padding token's id are never used."""
    fields = Fields(config)
    return read_encoder(
        architecture,
        fields,
        vocab_size=vocab_size,
        token_types=2,
        first_position=fields.integer("pad_token_id", 1) + 1,
    )


ROBERTA = TextRecipe(
    read=partial(read_roberta, "RobertaModel", 50265), names=NAMES, roots={"": ("", "roberta.")}, ignored=IGNORED
)
XLM_ROBERTA = TextRecipe(
    read=partial(read_roberta, "XLMRobertaModel", 30522), names=NAMES, roots={"": ("", "roberta.")}, ignored=IGNORED
)
