"""Takes a model's parameters from its checkpoint, by our names and with the shapes that its spec promises."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import assert_never

import torch
from torch import Tensor

from triptych.core.errors import DataLoss
from triptych.kernels import DenseWeight, GgufWeight, Int8Weight, Weight, linear
from triptych.kernels.linear import Projection
from triptych.models.files import ModelFiles
from triptych.models.progress import Progress
from triptych.models.quantization import Quantization
from triptych.models.recipes import Recipe, recipe_for
from triptych.models.spec import ModelSpec
from triptych.models.weights import Weights, open_weights


@dataclass(frozen=True, slots=True)
class Linear:
    """A projection: `weight` [O, I], `bias` [O] or None."""

    weight: Weight
    bias: Tensor | None

    def __call__(self, x: Tensor, out: Tensor) -> None:
        """Projects x [T, I] into out [T, O]."""
        linear(x, self.weight, self.bias, out)

    def to(self, out: Tensor) -> Projection:
        """The projection into `out` [T, O], to be computed together with others."""
        return self.weight, self.bias, out


@dataclass(frozen=True, slots=True)
class Parameters:
    """The tensors of one checkpoint. Only what is asked for is read.

    Attributes:
        files: For messages.
        weights: The open checkpoint.
        recipe: Knows what the checkpoint calls our tensors.
        wanted: Shapes by our names.
        device: Where tensors go; on "cpu" they stay views of the mapped file where its type allows.
    """

    files: ModelFiles
    weights: Weights
    recipe: Recipe
    wanted: Mapping[str, tuple[int, ...]]
    device: torch.device

    @property
    def interleaved(self) -> bool:
        """Whether rows of q and k are in the order that llama.cpp's rotary embedding wants."""
        return self.weights.interleaved

    def has(self, name: str) -> bool:
        """Whether the model has that tensor."""
        return name in self.wanted

    def tensor(self, name: str) -> Tensor:
        """One tensor.

        Raises:
            DataLoss: it is missing or has another shape; the message says the file, the tensor and both shapes.
        """
        return self.weights.tensor(self._find(name)).to(self.device)

    def weight(self, name: str) -> Weight:
        """A matrix that rows are projected by, or looked up in; DataLoss as in `tensor`."""
        return _on(self.device, self.weights.matrix(self._find(name)))

    def linear(self, name: str) -> Linear:
        """`name`.weight and, if there is one, `name`.bias."""
        bias = f"{name}.bias"
        return Linear(self.weight(f"{name}.weight"), self.tensor(bias) if self.has(bias) else None)

    def _find(self, name: str) -> str:
        """What the checkpoint calls our tensor `name`."""
        shape = self.wanted[name]
        candidates = [place.name for place in self.recipe.places(name)]
        found = next((candidate for candidate in candidates if candidate in self.weights.names), None)
        if found is None:
            raise DataLoss(f"{self.files.path} has no tensor {' or '.join(candidates)}; expected shape {list(shape)}")
        if (actual := tuple(self.weights.shape(found))) != shape:
            raise DataLoss(f"{self.files.path}: tensor {found} must have shape {list(shape)}, found {list(actual)}")
        return found


def open_parameters(
    files: ModelFiles,
    spec: ModelSpec,
    wanted: Mapping[str, tuple[int, ...]],
    dtype: torch.dtype,
    device: torch.device,
    progress: Progress,
    quantization: Quantization = "none",
) -> Parameters:
    """Opens those of a model's files that hold the wanted tensors."""
    recipe = recipe_for(spec.architecture)
    theirs = tuple(place.name for name in wanted for place in recipe.places(name))
    weights = open_weights(files, dtype, theirs, quantization=quantization, progress=progress)
    return Parameters(files, weights, recipe, wanted, device)


def _on(device: torch.device, weight: Weight) -> Weight:
    match weight:
        case DenseWeight(values):
            return DenseWeight(values.to(device))
        case Int8Weight(values, scales, inputs):
            return Int8Weight(values.to(device), scales.to(device), inputs)
        case GgufWeight(blocks, kind, inputs):
            return GgufWeight(blocks.to(device), kind, inputs)
        case _:
            assert_never(weight)
