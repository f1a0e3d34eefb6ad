"""Takes a model's parameters from its checkpoint, by our names and with the shapes that its spec promises."""

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
        device: Where tensors go; on "cpu" they stay views of the mapped file where its type allows.
    """

    files: ModelFiles
    weights: Weights
    recipe: Recipe
    device: torch.device

    def tensor(self, name: str, *shape: int) -> Tensor:
        """One tensor.

        Raises:
            DataLoss: it is missing or has another shape; the message says the file, the tensor and both shapes.
        """
        return self.weights.tensor(self._find(name, shape)).to(self.device)

    def weight(self, name: str, outputs: int, inputs: int) -> Weight:
        """A matrix that rows are projected by, or looked up in; DataLoss as in `tensor`."""
        return _on(self.device, self.weights.matrix(self._find(name, (outputs, inputs))))

    def linear(self, name: str, outputs: int, inputs: int, *, bias: bool) -> Linear:
        """`name`.weight and, if there is one, `name`.bias."""
        weight = self.weight(f"{name}.weight", outputs, inputs)
        return Linear(weight, self.tensor(f"{name}.bias", outputs) if bias else None)

    def _find(self, name: str, shape: tuple[int, ...]) -> str:
        """What the checkpoint calls our tensor `name`."""
        candidates = self.recipe.candidates(name)
        found = next((candidate for candidate in candidates if candidate in self.weights.names), None)
        if found is None:
            raise DataLoss(f"{self.files.path} has no tensor {' or '.join(candidates)}; expected shape {list(shape)}")
        if (actual := tuple(self.weights.shape(found))) != shape:
            raise DataLoss(f"{self.files.path}: tensor {found} must have shape {list(shape)}, found {list(actual)}")
        return found


def open_parameters(
    files: ModelFiles,
    architecture: str,
    prefixes: tuple[str, ...],
    dtype: torch.dtype,
    device: torch.device,
    progress: Progress,
    quantization: Quantization = "none",
) -> Parameters:
    """Opens those of a model's files that hold tensors which we call by one of `prefixes`."""
    recipe = recipe_for(architecture)
    theirs = tuple(name for prefix in prefixes for name in recipe.prefixes[prefix])
    weights = open_weights(files, dtype, theirs, quantization=quantization, progress=progress)
    return Parameters(files, weights, recipe, device)


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
