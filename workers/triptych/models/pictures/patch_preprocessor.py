"""Pictures and videos to grids of patches (Qwen2-VL, arXiv:2409.12191)."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image
from transformers.image_processing_backends import PilBackend
from transformers.image_utils import SizeDict
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from triptych.core.errors import InvalidArgument
from triptych.models.files import ModelFiles
from triptych.models.pictures.decoding import decoded
from triptych.models.pictures.patch_layouts import PatchLayouts
from triptych.models.pictures.prepared import Patches, Pixels
from triptych.models.pictures.settings import QWEN, image_settings, video_settings
from triptych.models.spec import PatchGrid, Qwen3Vision


@dataclass(frozen=True, slots=True)
class PatchPreprocessor:
    """The preprocessor of Qwen2.5-VL and Qwen3-VL.

    Attributes:
        layouts: Of the same model.
        images: transformers' processor of pictures; it needs no torchvision.
        frames: The same, as videos want it. transformers' processor of videos does need torchvision.
    """

    layouts: PatchLayouts
    images: Qwen2VLImageProcessorPil
    frames: Qwen2VLImageProcessorPil

    def image(self, data: bytes, *, field: str = "image") -> Patches:
        """See `Preprocessor`."""

        def cut(picture: Image.Image) -> Patches:
            layout = self.layouts.image(*picture.size, field=field)
            batch = self.images(picture, return_tensors="np")
            time, height, width = batch["image_grid_thw"][0].tolist()
            return Patches(np.asarray(batch["pixel_values"], np.float32), layout, (time, height, width))

        return decoded(data, cut, field)

    def video(self, frames: Sequence[bytes], fps: float, *, field: str = "video") -> Patches:
        """See `Preprocessor`."""
        if not frames:
            raise InvalidArgument(f"{field} has no frames", field=field)
        shape = decoded(frames[0], lambda picture: picture.size, field)
        layout = self.layouts.video(len(frames), *shape, fps, field=field)
        size = self.layouts.frame_size(len(frames), *shape, field)
        scaled = [self._frame(data, shape, size, f"{field}.frames[{place}]") for place, data in enumerate(frames)]
        pixels, grid = _patches(np.stack(scaled), self.layouts.spec.grid)
        return Patches(pixels, layout, grid)

    def _frame(self, data: bytes, shape: tuple[int, int], size: tuple[int, int], field: str) -> Pixels:
        """One frame of the `shape` of all, scaled to `size`: [channels, height, width]."""
        processor = self.frames

        def scale(picture: Image.Image) -> Pixels:
            if picture.size != shape:
                raise InvalidArgument(
                    f"{field} must have {shape[0]} x {shape[1]} pixels as the first frame has, got "
                    f"{picture.size[0]} x {picture.size[1]}",
                    field=field,
                )
            colours = processor.process_image(picture, do_convert_rgb=True)
            whole = SizeDict(height=size[1], width=size[0])
            scaled = PilBackend.resize(processor, colours, whole, resample=processor.resample)
            scaled = processor.rescale(scaled, processor.rescale_factor)
            return np.asarray(processor.normalize(scaled, processor.image_mean, processor.image_std), np.float32)

        return decoded(data, scale, field)


def _patches(frames: Pixels, grid: PatchGrid) -> tuple[Pixels, tuple[int, int, int]]:
    """[F, C, H, W] to [patches, numbers of a patch] and the patches in time, height and width."""
    missing = -len(frames) % grid.frames
    frames = np.concatenate([frames, frames[-1:].repeat(missing, axis=0)])
    size, merge = grid.patch_size, grid.merge
    time, height, width = len(frames) // grid.frames, frames.shape[2] // size, frames.shape[3] // size
    split = (time, grid.frames, grid.num_channels, height // merge, merge, size, width // merge, merge, size)
    ordered = frames.reshape(split).transpose(0, 3, 6, 4, 7, 2, 1, 5, 8)
    return ordered.reshape(time * height * width, grid.width), (time, height, width)


def load_patch_preprocessor(files: ModelFiles, layouts: PatchLayouts) -> PatchPreprocessor:
    """Reads the settings of Qwen's processors; for errors see `open_preprocessor`."""
    # Qwen3-VL's videos are normalised by a mean and a deviation of their own where its files leave them out.
    defaults = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3} if isinstance(layouts.spec, Qwen3Vision) else {}
    return PatchPreprocessor(
        layouts,
        Qwen2VLImageProcessorPil.from_dict(image_settings(files, QWEN)),
        Qwen2VLImageProcessorPil.from_dict(defaults | video_settings(files)),
    )
