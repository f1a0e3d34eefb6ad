"""A whole model, as data."""

from dataclasses import dataclass

from triptych.core.errors import FailedPrecondition
from triptych.models.config import blaming, read_config
from triptych.models.files import ModelFiles
from triptych.models.spec.decoder import DecoderSpec
from triptych.models.spec.vision import VisionSpec


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """A whole model.

    Attributes:
        architecture: Hugging Face's name for it; finds the recipe.
        decoder: The language model.
        vision: The tower of a vision-language model.
        image_token_id: The placeholder that an image's tokens have in a prompt.
        eos_token_ids: Tokens that end an answer.
        context_length: Tokens that prompt and answer may have together.
    """

    architecture: str
    decoder: DecoderSpec
    vision: VisionSpec | None
    image_token_id: int | None
    eos_token_ids: tuple[int, ...]
    context_length: int


def read_spec(files: ModelFiles) -> ModelSpec:
    """Reads a model's configuration.

    Raises:
        NotFound: there is no configuration.
        DataLoss: it cannot be parsed.
        InvalidArgument: a field has an impossible value.
        FailedPrecondition: it is a text encoder, which generates nothing.
        Unimplemented: an architecture or a setting that this version does not have; the message names it.
    """
    from triptych.models.recipes import find_recipe  # recipes fill the types above
    from triptych.models.recipes.text_encoders import gives_embeddings

    config = read_config(files)
    if gives_embeddings(config):
        raise FailedPrecondition(f"{files.name} gives embeddings of texts, and generates none", field="model")
    with blaming(files):
        return find_recipe(config).read(config)
