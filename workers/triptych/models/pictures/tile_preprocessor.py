"""Pictures to square tiles, by transformers' own processors on Pillow and numpy."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from PIL import Image
from transformers.image_processing_backends import PilBackend
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil
from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil
from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil

from triptych.core.errors import FailedPrecondition, InvalidArgument
from triptych.models.files import ModelFiles
from triptych.models.pictures.decoding import decoded
from triptych.models.pictures.layout import Layouts
from triptych.models.pictures.prepared import Tiles
from triptych.models.pictures.settings import CLIP, GEMMA3, IDEFICS3, LLAVA_NEXT, image_settings
from triptych.models.spec import Gemma3Vision, Idefics3Vision, LlavaNextVision, LlavaVision, ModelSpec

_GEMMA3_ALWAYS: Final = {"do_pan_and_scan": False, "do_convert_rgb": True}
"""What transformers' processor of the whole model sets, whatever a model's files say."""


@dataclass(frozen=True, slots=True)
class TilePreprocessor:
    """The preprocessor of LLaVA, LLaVA-NeXT, Idefics3, SmolVLM and Gemma 3.

    Attributes:
        layouts: Of the same model.
        processor: transformers' processor; it needs no torchvision.
    """

    layouts: Layouts
    processor: PilBackend

    def image(self, data: bytes, *, field: str = "image") -> Tiles:
        """See `Preprocessor`."""

        def cut(picture: Image.Image) -> Tiles:
            layout = self.layouts.image(*picture.size, field=field)
            pixels = np.asarray(self.processor(picture, return_tensors="np")["pixel_values"], np.float32)
            return Tiles(pixels.reshape(-1, *pixels.shape[-3:]), layout, picture.size)

        return decoded(data, cut, field)

    def video(self, frames: Sequence[bytes], fps: float, *, field: str = "video") -> Tiles:
        """Refuses."""
        raise FailedPrecondition(f"{field} is a video, and the model takes pictures only", field=field)


def load_tile_preprocessor(files: ModelFiles, layouts: Layouts, spec: ModelSpec) -> TilePreprocessor:
    """Reads the settings of the family's processor; for errors see `open_preprocessor`."""
    kind: Any
    match spec.vision:
        case LlavaVision():
            kind, settings = CLIPImageProcessorPil, image_settings(files, CLIP)
        case LlavaNextVision() as vision:
            kind, settings = LlavaNextImageProcessorPil, image_settings(files, LLAVA_NEXT)
            settings["image_grid_pinpoints"] = [list(resolution) for resolution in vision.resolutions]
        case Idefics3Vision():
            kind, settings = Idefics3ImageProcessorPil, image_settings(files, IDEFICS3)
        case Gemma3Vision():
            kind, settings = Gemma3ImageProcessorPil, image_settings(files, GEMMA3) | _GEMMA3_ALWAYS
        case _:
            raise InvalidArgument(f"{spec.architecture} reads no tiles", field="model")
    return TilePreprocessor(layouts, kind.from_dict(settings))
