"""What recipes of models that read pictures have in common: their language model, and the token of a picture."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from triptych.core.errors import InvalidArgument
from triptych.models.recipes import llama, mistral, qwen2
from triptych.models.recipes.fields import Fields
from triptych.models.recipes.rope import context_length
from triptych.models.spec import AttentionSpec, DecoderSpec, ModelSpec, VisionSpec

_ROPE = ("rope_parameters", "rope_scaling")
_LANGUAGES = ("llama", "mistral", "qwen2")
_DEFAULTS: Mapping[str, Mapping[str, Any]] = {"mistral": mistral.DEFAULTS, "qwen2": qwen2.DEFAULTS}


def text_fields(config: Mapping[str, Any], defaults: Mapping[str, Any]) -> Fields:
    """The section text_config, completed by the family's defaults.

    The kind of rotary embedding that is called "mrope" there is the default one with three positions.
    """
    section = Fields(config).section("text_config")  # refuses what is no section
    values = {**defaults, **(config["text_config"] if section.names else {})}
    for name in _ROPE:
        rope = values.get(name)
        if isinstance(rope, Mapping) and "mrope" in (rope.get("rope_type"), rope.get("type")):
            values[name] = {**rope, "rope_type": "default", "type": "default"}
    return Fields(values, "text_config.")


def language_fields(config: Mapping[str, Any]) -> Fields:
    """The section text_config of a family whose checkpoints have language models of several families."""
    kind = Fields(config).section("text_config").choice("model_type", "llama", _LANGUAGES)
    return text_fields(config, _DEFAULTS.get(kind, {}))


def read_text(text: Fields, *, tied_head: bool) -> DecoderSpec:
    """The decoder of a family whose checkpoints have language models of several families."""
    match text.choice("model_type", "llama", _LANGUAGES):
        case "mistral":
            return mistral.read_decoder(text, tied_head=tied_head)
        case "qwen2":
            return qwen2.read_decoder(text, tied_head=tied_head)
        case _:
            return llama.read_decoder(text, tied_head=tied_head)


def with_attention(decoder: DecoderSpec, change: Callable[[AttentionSpec], AttentionSpec]) -> DecoderSpec:
    """The decoder with the attention of every layer changed."""
    layers = (
        replace(layer, attention=change(layer.attention)) if isinstance(layer.attention, AttentionSpec) else layer
        for layer in decoder.layers
    )
    return replace(decoder, layers=tuple(layers))


def multimodal_model(
    architecture: str, fields: Fields, text: Fields, decoder: DecoderSpec, vision: VisionSpec, image_token: int
) -> ModelSpec:
    """The spec of a model that reads pictures.

    Args:
        architecture: As config.json calls it.
        fields: The config.
        text: Its part about the language model.
        decoder: What that says.
        vision: The tower.
        image_token: The default of `image_token_id`.
    """
    name = "image_token_index" if fields.has("image_token_index") else "image_token_id"
    token = fields.integer(name, image_token)
    if not 0 <= token < decoder.vocab_size:
        raise InvalidArgument(f"config: {name} must be in [0, {decoder.vocab_size - 1}], got {token}", field=name)
    return ModelSpec(
        architecture=architecture,
        decoder=decoder,
        vision=vision,
        image_token_id=token,
        eos_token_ids=(fields if fields.has("eos_token_id") else text).token_ids("eos_token_id"),
        context_length=context_length(text),
    )


def tied(fields: Fields, text: Fields) -> bool:
    """Whether the head is the embedding: either section may say so."""
    return fields.flag("tie_word_embeddings", False) or text.flag("tie_word_embeddings", False)
