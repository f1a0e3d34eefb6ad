"""DistilBertModel (arXiv:1910.01108): BERT without token types, under names of its own."""

from collections.abc import Mapping
from typing import Any

from triptych.models.recipes.bert import read_activation, require_heads
from triptych.models.recipes.fields import Fields
from triptych.models.recipes.recipe import TextRecipe
from triptych.models.spec import BlocksSpec, TextEncoderSpec


def read_distilbert(config: Mapping[str, Any]) -> TextEncoderSpec:
    """The encoder of a DistilBERT config."""
    fields = Fields(config)
    blocks = BlocksSpec(
        hidden_size=fields.count("dim", 768),
        intermediate_size=fields.count("hidden_dim", 3072),
        num_heads=fields.count("n_heads", 12),
        num_layers=fields.few("n_layers", 6),
        activation=read_activation(fields, "activation"),
        norm_eps=1e-12,
    )
    require_heads(blocks, "dim")
    return TextEncoderSpec(
        architecture="DistilBertModel",
        vocab_size=fields.count("vocab_size", 30522),
        positions=fields.count("max_position_embeddings", 512),
        first_position=0,
        token_types=0,
        blocks=blocks,
    )


DISTILBERT = TextRecipe(
    read=read_distilbert,
    names={
        "words": "embeddings.word_embeddings",
        "positions": "embeddings.position_embeddings",
        "norm": "embeddings.LayerNorm",
        "layers.{}.attention.query": "transformer.layer.{0}.attention.q_lin",
        "layers.{}.attention.key": "transformer.layer.{0}.attention.k_lin",
        "layers.{}.attention.value": "transformer.layer.{0}.attention.v_lin",
        "layers.{}.attention.output": "transformer.layer.{0}.attention.out_lin",
        "layers.{}.attention_norm": "transformer.layer.{0}.sa_layer_norm",
        "layers.{}.mlp.up": "transformer.layer.{0}.ffn.lin1",
        "layers.{}.mlp.down": "transformer.layer.{0}.ffn.lin2",
        "layers.{}.mlp_norm": "transformer.layer.{0}.output_layer_norm",
    },
    roots={"": ("", "distilbert.")},
    ignored=("vocab_*",),
)
