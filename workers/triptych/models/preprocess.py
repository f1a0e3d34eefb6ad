"""Encoded images to the pixels that a vision tower reads."""

from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray
from PIL import ImageOps

from triptych.core.errors import FailedPrecondition, InvalidArgument, Unimplemented
from triptych.models.config import read_json
from triptych.models.files import ModelFiles
from triptych.models.images import PIXEL_CEILING, check_image, open_image

if TYPE_CHECKING:
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

_CLIP = frozenset({"CLIPImageProcessor", "CLIPImageProcessorFast", "CLIPImageProcessorPil", "CLIPFeatureExtractor"})


class ImagePreprocessor:
    """Decodes, scales, crops and normalises as the model's own CLIP processor does.

    Args:
        processor: transformers' processor on Pillow and numpy; it needs no torchvision.
    """

    def __init__(self, processor: "CLIPImageProcessorPil") -> None:
        self._processor = processor

    @classmethod
    def load(cls, files: ModelFiles) -> Self:
        """Reads the `image_processor` of processor_config.json, or preprocessor_config.json.

        Raises:
            FailedPrecondition: the model has neither.
            Unimplemented: another processor than CLIP's.
        """
        settings = _settings(files)
        kind = settings.get("image_processor_type", settings.get("feature_extractor_type"))
        if kind not in _CLIP:
            raise Unimplemented(f"{files.name} wants the image processor {kind}; only CLIP's is known", field="model")
        # Imported here because it takes half of the time that a language model takes to start.
        from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

        return cls(CLIPImageProcessorPil.from_dict(settings))

    def preprocess(self, data: bytes, *, field: str = "image") -> NDArray[np.float32]:
        """The pixels of one image, [3, S, S] float32.

        The first frame of an animation counts. The rotation in a camera's EXIF data is applied, and transparency is
        put on white, as transformers does.

        Raises:
            InvalidArgument: not an image, damaged, or above `PIXEL_CEILING`.
        """
        check_image(data, max_pixels=PIXEL_CEILING, max_bytes=len(data), field=field)
        image = open_image(data, field=field)
        try:
            ImageOps.exif_transpose(image, in_place=True)
            batch = self._processor(image, return_tensors="np")
        except Exception as error:  # decoders meet hostile bytes with errors of any class
            raise InvalidArgument(f"{field} is a damaged {image.format}: {error}", field=field) from error
        pixels: NDArray[np.float32] = batch["pixel_values"][0]
        return pixels


def _settings(files: ModelFiles) -> dict[str, Any]:
    if files.format == "gguf":
        raise FailedPrecondition(f"{files.name} is a GGUF file, which says nothing about images", field="model")
    shared, own = files.path / "processor_config.json", files.path / "preprocessor_config.json"
    if shared.is_file() and "image_processor" in (settings := read_json(shared)):
        return dict(settings["image_processor"])
    if own.is_file():
        return read_json(own)
    raise FailedPrecondition(
        f"{files.path} has neither {own.name} nor an image processor in {shared.name}", field="model"
    )
