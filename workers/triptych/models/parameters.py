"""A model's parameters, taken from its checkpoint by our names."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import assert_never

import torch
from torch import Tensor

from triptych.kernels import DenseWeight, GgufWeight, Int8Weight, LowRank, Weight, linear
from triptych.kernels.linear import Projection
from triptych.models.adapters import NO_ADAPTERS, Adapters
from triptych.models.checkpoint import open_checkpoint
from triptych.models.claims import refuse_unused, require_tied_head
from triptych.models.files import ModelFiles
from triptych.models.layout import decoder_tensors
from triptych.models.progress import Progress
from triptych.models.quantization import Quantization
from triptych.models.recipe_source import RecipeSource
from triptych.models.recipes import recipe_for
from triptych.models.sharding import Absent, Cuts
from triptych.models.sharding.slices import Slice, cut_low_rank
from triptych.models.spec import ModelSpec
from triptych.models.towers.layout import vision_tensors
from triptych.models.weights import Weights, open_weights
from triptych.parallel import Mesh


@dataclass(frozen=True, slots=True)
class Linear:
    """A projection: `weight` [O, I], `bias` [O] or None, and what adapters add to it (`triptych.models.adapting`)."""

    weight: Weight
    bias: Tensor | None
    low_rank: LowRank | None = None

    def __call__(self, x: Tensor, out: Tensor) -> None:
        """Projects x [T, I] into out [T, O]."""
        linear(x, self.weight, self.bias, out)

    def to(self, out: Tensor) -> Projection:
        """The projection into `out` [T, O], to be computed together with others."""
        return self.weight, self.bias, out


@dataclass(frozen=True, slots=True)
class Parameters:
    """Tensors of one model by our names (`triptych.models.layout`), in the shapes that its spec promises.

    Attributes:
        weights: The open checkpoint.
        device: Where tensors go; on "cpu" they stay views of the mapped file where its type allows.
        adapters: Of the model.
        mesh: The ranks that the model is divided among.
        cuts: What this rank has of its tensors; nothing else of them is read.
    """

    weights: Weights
    device: torch.device
    adapters: Adapters = NO_ADAPTERS
    mesh: Mesh = field(default_factory=Mesh)
    cuts: Cuts = field(default_factory=dict)

    @property
    def interleaved(self) -> bool:
        """Whether rows of q and k are in the order that llama.cpp's rotary embedding wants."""
        return self.weights.interleaved

    def has(self, name: str) -> bool:
        """Whether the spec calls for this tensor."""
        return name in self.weights.names

    def tensor(self, name: str) -> Tensor:
        """One tensor, or the part of it that this rank has."""
        return self.weights.tensor(name, self._cut(name)).to(self.device)

    def weight(self, name: str) -> Weight:
        """A matrix that rows are projected by, or looked up in; or the part of it that this rank has."""
        return _on(self.device, self.weights.matrix(name, self._cut(name)))

    def linear(self, name: str) -> Linear:
        """`name`.weight and, if the spec calls for one and this rank adds it, `name`.bias."""
        bias = f"{name}.bias"
        here = self.has(bias) and not isinstance(self.cuts.get(bias), Absent)
        return Linear(self.weight(f"{name}.weight"), self.tensor(bias) if here else None, self._low_rank(name))

    def _cut(self, name: str) -> Slice | None:
        cut = self.cuts.get(name)
        assert not isinstance(cut, Absent), f"another rank has {name}"
        return cut

    def _low_rank(self, name: str) -> LowRank | None:
        adapters, cut = self.adapters.of_linear.get(name), self.cuts.get(f"{name}.weight")
        return adapters if adapters is None or cut is None or isinstance(cut, Absent) else cut_low_rank(adapters, cut)


def open_parameters(
    files: ModelFiles,
    spec: ModelSpec,
    wanted: Mapping[str, tuple[int, ...]],
    dtype: torch.dtype,
    device: torch.device,
    progress: Progress,
    quantization: Quantization = "none",
) -> Parameters:
    """Opens those of a model's tensors that are wanted; shards that hold none of them stay closed.

    Args:
        files: The model.
        spec: What it is.
        wanted: Our names and their shapes.
        dtype: Of tensors that are not quantised.
        device: Where they go.
        progress: Told about conversions.
        quantization: The form of the matrices.

    Raises:
        DataLoss: a tensor is missing, has another shape than the configuration says, is not used by the model, or
            holds NaN or infinity; or a file is damaged. The message names file, tensor and expectation.
        Unimplemented: stored in a way that is not read.
        ResourceExhausted: the cache disk has no room for a conversion.
    """
    recipe = recipe_for(spec.architecture)
    source = open_checkpoint(files, "llama_cpp" if quantization == "gguf" else "hugging_face")
    refuse_unused(source, recipe, _all_tensors(spec))
    if spec.decoder.tied_head and "embedding.weight" in wanted:
        require_tied_head(source, recipe)
    ours = RecipeSource(source, recipe, wanted)
    return Parameters(open_weights(ours, dtype, quantization=quantization, progress=progress), device)


def require_whole(files: ModelFiles, spec: ModelSpec) -> None:
    """Sees to it that a checkpoint has every tensor of its model in its shape, and no other; reads headers only.

    Raises:
        DataLoss, Unimplemented: as `open_parameters`, values aside.
    """
    recipe, wanted, source = recipe_for(spec.architecture), _all_tensors(spec), open_checkpoint(files)
    refuse_unused(source, recipe, wanted)
    RecipeSource(source, recipe, wanted)


def _all_tensors(spec: ModelSpec) -> Mapping[str, tuple[int, ...]]:
    vision = {} if spec.vision is None else vision_tensors(spec.vision)
    return {**decoder_tensors(spec.decoder), **vision}


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
