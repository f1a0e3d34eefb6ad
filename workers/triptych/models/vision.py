"""The vision side of a vision-language model: pixels in, token embeddings out."""

from dataclasses import dataclass

import torch
from torch import Tensor

from triptych.core.errors import InvalidArgument
from triptych.kernels import DenseWeight, linear
from triptych.kernels.dispatch import Op
from triptych.models.files import ModelFiles
from triptych.models.parameters import Linear, Parameters, open_parameters
from triptych.models.progress import SILENT, Progress
from triptych.models.spec import ModelSpec, VisionSpec
from triptych.models.vision_layer import ACTIVATIONS, Norm, VisionLayer, load_norm, load_vision_layer
from triptych.models.vision_layout import vision_tensors


@dataclass(frozen=True, slots=True)
class Embeddings:
    """Cuts an image into patches, projects them, puts the class token before them and adds positions."""

    patch_size: int
    patch_weight: DenseWeight
    class_token: Tensor
    positions: Tensor

    def __call__(self, pixels: Tensor) -> Tensor:
        """[N, C, S, S] to [N, 1 + patches, H]."""
        # A convolution whose stride is its kernel is a linear over flattened patches.
        patch = self.patch_size
        grid = pixels.unfold(2, patch, patch).unfold(3, patch, patch)
        flat = grid.permute(0, 2, 3, 1, 4, 5).reshape(-1, self.patch_weight.inputs)
        x = pixels.new_empty(len(pixels), *self.positions.shape)
        patches = pixels.new_empty(len(flat), x.shape[-1])
        linear(flat, self.patch_weight, None, patches)
        x[:, 0] = self.class_token
        x[:, 1:] = patches.view(len(pixels), -1, x.shape[-1])
        return x.add_(self.positions)


@dataclass(frozen=True, slots=True)
class Projector:
    """Two linears with an activation between them."""

    first: Linear
    activation: Op[[Tensor]]
    second: Linear

    def __call__(self, features: Tensor, out: Tensor) -> None:
        """From [rows, tower width] to [rows, H]."""
        inner = torch.empty_like(out)
        self.first(features, inner)
        self.activation(inner, inner)
        self.second(inner, out)


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
    _embeddings: Embeddings
    _norm: Norm
    _layers: tuple[VisionLayer, ...]
    _projector: Projector

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
        vision = spec.vision
        return cls(
            spec=vision,
            dtype=dtype,
            device=parameters.device,
            _embeddings=_load_embeddings(vision, parameters),
            _norm=load_norm("vision.norm", vision, parameters),
            _layers=tuple(
                load_vision_layer(f"vision.layers.{index}", vision, parameters) for index in range(vision.num_layers)
            ),
            _projector=_load_projector(vision, parameters),
        )

    def encode(self, pixels: Tensor) -> Tensor:
        """Encodes preprocessed images.

        Args:
            pixels: [N, C, S, S] float32.

        Returns:
            [N, tokens_per_image, H] of `dtype` and on `device`, rows for the decoder's input.

        Raises:
            InvalidArgument: the pixels have another shape.
        """
        size, channels = self.spec.image_size, self.spec.num_channels
        if pixels.shape[1:] != (channels, size, size):
            raise InvalidArgument(
                f"pixels must have shape [N, {channels}, {size}, {size}], got {list(pixels.shape)}", field="image"
            )
        width, tokens = self.spec.projector.output_size, self.spec.tokens_per_image
        out = torch.empty(len(pixels), tokens, width, dtype=self.dtype, device=self.device)
        with torch.inference_mode():
            x = self._embeddings(pixels.to(self.device, self.dtype))
            self._norm(x, x)
            for layer in self._layers:
                layer(x)
            features = x if self.spec.keep_class_token else x[:, 1:]
            self._projector(features.reshape(-1, x.shape[-1]), out.view(-1, width))
        return out


def _load_embeddings(spec: VisionSpec, parameters: Parameters) -> Embeddings:
    return Embeddings(
        patch_size=spec.patch_size,
        patch_weight=DenseWeight(parameters.tensor("vision.patches.weight").flatten(1)),
        class_token=parameters.tensor("vision.class_token.weight"),
        positions=parameters.tensor("vision.positions.weight"),
    )


def _load_projector(spec: VisionSpec, parameters: Parameters) -> Projector:
    return Projector(
        first=parameters.linear("projector.up"),
        activation=ACTIVATIONS[spec.projector.activation],
        second=parameters.linear("projector.down"),
    )
