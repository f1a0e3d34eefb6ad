"""BertModel (arXiv:1810.04805), with the defaults of transformers' BertConfig; the base of other text encoders."""

from collections.abc import Mapping
from typing import Any, Final

from triptych.core.errors import InvalidArgument
from triptych.models.recipes.fields import Fields
from triptych.models.recipes.place import Place
from triptych.models.recipes.recipe import TextRecipe
from triptych.models.spec import Activation, BlocksSpec, TextEncoderSpec

ACTIVATIONS: Final[Mapping[str, Activation]] = {
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
}

NAMES: Mapping[str, str | Place] = {
    "words": "embeddings.word_embeddings",
    "positions": "embeddings.position_embeddings",
    "types": "embeddings.token_type_embeddings",
    "norm": "embeddings.LayerNorm",
    "layers.{}.attention.query": "encoder.layer.{0}.attention.self.query",
    "layers.{}.attention.key": "encoder.layer.{0}.attention.self.key",
    "layers.{}.attention.value": "encoder.layer.{0}.attention.self.value",
    "layers.{}.attention.output": "encoder.layer.{0}.attention.output.dense",
    "layers.{}.attention_norm": "encoder.layer.{0}.attention.output.LayerNorm",
    "layers.{}.mlp.up": "encoder.layer.{0}.intermediate.dense",
    "layers.{}.mlp.down": "encoder.layer.{0}.output.dense",
    "layers.{}.mlp_norm": "encoder.layer.{0}.output.LayerNorm",
}

IGNORED = ("*pooler.*", "cls.*", "lm_head.*")
"""Heads for other uses: sentence-transformers pools the rows themselves."""


def read_bert(config: Mapping[str, Any]) -> TextEncoderSpec:
    """The encoder of a BERT config."""
    return read_encoder("BertModel", Fields(config), vocab_size=30522, token_types=2)


def read_encoder(
    architecture: str, fields: Fields, *, vocab_size: int, token_types: int, first_position: int = 0
) -> TextEncoderSpec:
    """An encoder whose config has BERT's fields; the numbers are its defaults."""
    fields.choice("position_embedding_type", "absolute", ("absolute",))
    fields.refuse("is_decoder", False)
    blocks = BlocksSpec(
        hidden_size=fields.count("hidden_size", 768),
        intermediate_size=fields.count("intermediate_size", 3072),
        num_heads=fields.count("num_attention_heads", 12),
        num_layers=fields.few("num_hidden_layers", 12),
        activation=read_activation(fields, "hidden_act"),
        norm_eps=fields.positive("layer_norm_eps", 1e-12),
    )
    require_heads(blocks, "hidden_size")
    positions = fields.count("max_position_embeddings", 512)
    if positions <= first_position:
        raise InvalidArgument(
            f"config: max_position_embeddings must be above {first_position}, the first position; got {positions}",
            field="max_position_embeddings",
        )
    return TextEncoderSpec(
        architecture=architecture,
        vocab_size=fields.count("vocab_size", vocab_size),
        positions=positions,
        first_position=first_position,
        token_types=fields.count("type_vocab_size", token_types),
        blocks=blocks,
    )


def read_activation(fields: Fields, name: str) -> Activation:
    """The activation of the feed-forward blocks."""
    return ACTIVATIONS[fields.choice(name, "gelu", tuple(ACTIVATIONS))]


def require_heads(blocks: BlocksSpec, field: str) -> None:
    """Refuses heads that do not share the width evenly."""
    if blocks.hidden_size % blocks.num_heads:
        raise InvalidArgument(
            f"config: {field} must be a multiple of {blocks.num_heads} attention heads, got {blocks.hidden_size}",
            field=field,
        )


BERT = TextRecipe(read=read_bert, names=NAMES, roots={"": ("", "bert.")}, ignored=IGNORED)
