"""What a model's files say about its image processor."""

from collections.abc import Mapping
from typing import Any, Final

from triptych.core.errors import FailedPrecondition, Unimplemented
from triptych.models.config import read_json
from triptych.models.files import ModelFiles
from triptych.models.recipes.fields import Fields

CLIP: Final = ("CLIPImageProcessor", "CLIPFeatureExtractor")
LLAVA_NEXT: Final = ("LlavaNextImageProcessor",)
IDEFICS3: Final = ("Idefics3ImageProcessor", "SmolVLMImageProcessor")
GEMMA3: Final = ("Gemma3ImageProcessor",)
QWEN: Final = ("Qwen2VLImageProcessor",)

_VARIANTS: Final = ("Fast", "Pil")  # of one processor; all of them give the same pixels but for rounding


def image_settings(files: ModelFiles, kinds: tuple[str, ...]) -> dict[str, Any]:
    """The `image_processor` of processor_config.json, or preprocessor_config.json.

    Args:
        files: Of the model.
        kinds: Names of the processors that its family has.

    Raises:
        FailedPrecondition: the model has neither file.
        Unimplemented: a processor that this version does not have for the family.
    """
    settings = _read(files, "image_processor", "preprocessor_config.json")
    if settings is None:
        raise FailedPrecondition(
            f"{files.path} has neither preprocessor_config.json nor an image processor in processor_config.json",
            field="model",
        )
    kind = str(settings.get("image_processor_type", settings.get("feature_extractor_type")))
    for variant in _VARIANTS:
        kind = kind.removesuffix(variant)
    if kind not in kinds:
        raise Unimplemented(
            f"{files.name} wants the image processor {kind}; its family is known with {' or '.join(kinds)}",
            field="model",
        )
    return settings


def video_settings(files: ModelFiles) -> dict[str, Any]:
    """The `video_processor` of processor_config.json, video_preprocessor_config.json, or what pictures have."""
    own = _read(files, "video_processor", "video_preprocessor_config.json")
    return own if own is not None else _read(files, "image_processor", "preprocessor_config.json") or {}


def fields_of(settings: Mapping[str, Any]) -> Fields:
    """Typed reads of them."""
    return Fields(settings, "image_processor.")


def _read(files: ModelFiles, section: str, name: str) -> dict[str, Any] | None:
    if files.format == "gguf":
        raise FailedPrecondition(f"{files.name} is a GGUF file, which says nothing about images", field="model")
    shared, own = files.path / "processor_config.json", files.path / name
    if shared.is_file() and section in (settings := read_json(shared)):
        return dict(settings[section])
    return read_json(own) if own.is_file() else None
