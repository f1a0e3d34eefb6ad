"""The vision side of a vision-language model: pictures in, token embeddings out."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import assert_never

import torch
from torch import Tensor

from triptych.core.errors import InvalidArgument
from triptych.models.files import ModelFiles
from triptych.models.parameters import open_parameters
from triptych.models.pictures.prepared import Pixels, PreparedImage
from triptych.models.progress import SILENT, Progress
from triptych.models.spec import (
    Gemma3Vision,
    Idefics3Vision,
    LlavaNextVision,
    LlavaVision,
    ModelSpec,
    Qwen3Vision,
    Qwen25Vision,
    VisionSpec,
)
from triptych.models.towers.blocks import Norm, Tensors
from triptych.models.towers.layout import vision_tensors
from triptych.models.towers.projectors import AveragePool, PixelShuffle, load_mlp_projector
from triptych.models.towers.qwen3 import load_qwen3
from triptych.models.towers.qwen25 import load_qwen25
from triptych.models.towers.readers import LlavaNextReader, PatchReader, Reader, TileReader
from triptych.models.towers.tiles import load_tile_tower


@dataclass(frozen=True, slots=True)
class VisionEncoder:
    """A vision tower and its projector.

    Attributes:
        spec: What it is.
        dtype: Of weights and results.
        device: Where all of them are.
    """

    spec: VisionSpec
    dtype: torch.dtype
    device: torch.device
    _reader: Reader

    @classmethod
    def load(
        cls,
        files: ModelFiles,
        spec: ModelSpec,
        dtype: torch.dtype,
        device: str = "cpu",
        *,
        progress: Progress = SILENT,
    ) -> "VisionEncoder":
        """Opens a checkpoint; only the tensors of tower and projector are read.

        Raises:
            InvalidArgument: the model has no vision tower.
            DataLoss: a file is damaged, or a tensor is missing or has another shape than the configuration says.
        """
        if spec.vision is None:
            raise InvalidArgument(f"{files.name} ({spec.architecture}) has no vision tower", field="model")
        wanted = vision_tensors(spec.vision)
        parameters = open_parameters(files, spec, wanted, dtype, torch.device(device), progress)
        return cls(spec.vision, dtype, parameters.device, load_reader(spec.vision, parameters))

    def encode(self, images: Sequence[PreparedImage]) -> list[Tensor]:
        """Encodes preprocessed pictures and videos, of any sizes.

        Returns:
            For each, [1 + levels, rows, H] of `dtype` and on `device`: rows for the decoder's input, and those that
            are added behind its first layers (`embedding_levels`).

        Raises:
            InvalidArgument: pixels of a shape that the tower does not read.
        """
        if not images:
            return []
        with torch.inference_mode():
            return self._reader(images, self._place)

    def _place(self, pixels: Pixels) -> Tensor:
        return torch.from_numpy(pixels).to(self.device, self.dtype)


def load_reader(spec: VisionSpec, tensors: Tensors) -> Reader:
    """Builds a tower with all that follows it."""
    match spec:
        case LlavaVision():
            return TileReader(load_tile_tower(spec.tower, tensors), load_mlp_projector(spec.projector, tensors))
        case LlavaNextVision():
            reader = TileReader(load_tile_tower(spec.tower, tensors), load_mlp_projector(spec.projector, tensors))
            return LlavaNextReader(reader, spec, tensors.tensor("projector.newline.weight"))
        case Idefics3Vision():
            shuffle = PixelShuffle(spec.shuffle, tensors.linear("projector.linear"))
            return TileReader(load_tile_tower(spec.tower, tensors), shuffle)
        case Gemma3Vision():
            distance = tensors.tensor("projector.norm.weight")  # from one, near which bfloat16 would lose it
            norm = Norm(distance.float() + 1, None, spec.tower.blocks.norm_eps)
            pool = AveragePool(spec.side, norm, tensors.linear("projector.linear"))
            return TileReader(load_tile_tower(spec.tower, tensors), pool)
        case Qwen25Vision():
            return PatchReader(load_qwen25(spec, tensors))
        case Qwen3Vision():
            return PatchReader(load_qwen3(spec, tensors))
        case _:
            assert_never(spec)
