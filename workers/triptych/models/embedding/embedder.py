"""An embedding model in memory: token ids in, vectors out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import assert_never

import torch
from torch import Tensor
from torch.nn import functional

from triptych.models.checkpoint import open_safetensors
from triptych.models.claims import refuse_unused
from triptych.models.config import read_config
from triptych.models.embedding.encoder import TextEncoder
from triptych.models.embedding.layout import dense_tensors, encoder_tensors
from triptych.models.embedding.pooling import pool
from triptych.models.files import ModelFiles
from triptych.models.packed import unpacked
from triptych.models.parameters import Linear, Parameters
from triptych.models.progress import SILENT, Progress
from triptych.models.recipe_source import RecipeSource
from triptych.models.recipes.recipe import TensorNames
from triptych.models.recipes.text_encoders import find_text_recipe
from triptych.models.sources import Source
from triptych.models.spec import DenseSpec, EmbedderSpec
from triptych.models.weights import open_weights

_DENSE_NAMES = TensorNames(names={"linear": "linear"})


@dataclass(frozen=True, slots=True)
class Dense:
    """A linear behind the pooling."""

    spec: DenseSpec
    linear: Linear

    def __call__(self, x: Tensor) -> Tensor:
        """From [N, inputs] to [N, outputs]."""
        out = x.new_empty(len(x), self.spec.outputs)
        self.linear(x, out)
        match self.spec.activation:
            case "tanh":
                return out.tanh_()
            case "identity":
                return out
            case _:
                assert_never(self.spec.activation)


@dataclass(frozen=True, slots=True)
class TextEmbedder:
    """Encoder, pooling and what follows.

    Attributes:
        spec: What it is.
        encoder: Its transformer.
        dense: Linears behind the pooling, in float32.
    """

    spec: EmbedderSpec
    encoder: TextEncoder
    dense: tuple[Dense, ...]

    @classmethod
    def load(
        cls,
        files: ModelFiles,
        spec: EmbedderSpec,
        dtype: torch.dtype,
        device: str = "cpu",
        *,
        progress: Progress = SILENT,
    ) -> "TextEmbedder":
        """Opens a checkpoint.

        Raises:
            DataLoss: a file is damaged, or a tensor is missing, unused, not finite, or of another shape than the
                configuration says.
        """
        whole, *rest = _sources(files, spec)
        place = torch.device(device)
        parameters = Parameters(open_weights(whole, dtype, progress=progress), place)
        linears = [Parameters(open_weights(each, torch.float32, progress=progress), place) for each in rest]
        dense = (Dense(module, own.linear("linear")) for module, own in zip(spec.dense, linears, strict=True))
        return cls(spec, TextEncoder.of(spec.encoder, parameters, dtype), tuple(dense))

    def embed(self, texts: Sequence[Sequence[int]]) -> Tensor:
        """One vector for each text.

        Args:
            texts: Token ids, at most `spec.max_tokens` each, in any order; they are computed together.

        Returns:
            [N, D] float32, on the encoder's device.
        """
        order = sorted(range(len(texts)), key=lambda index: len(texts[index]))
        lengths = [len(texts[index]) for index in order]
        with torch.inference_mode():
            flat = [token_id for index in order for token_id in texts[index]]
            rows = self.encoder(torch.tensor(flat, device=self.encoder.device), lengths)
            vectors = pool(rows, lengths, self.spec.pooling)
            for dense in self.dense:
                vectors = dense(vectors)
            if self.spec.normalise:
                vectors = functional.normalize(vectors)
            result = torch.empty_like(vectors)
            result[torch.tensor(order, device=result.device)] = vectors
        return result


def require_whole(files: ModelFiles, spec: EmbedderSpec) -> None:
    """Sees to it that a checkpoint has every tensor of its model in its shape, and no other; reads headers only.

    Raises:
        DataLoss, Unimplemented: as `TextEmbedder.load`, values aside.
    """
    _sources(files, spec)


def _sources(files: ModelFiles, spec: EmbedderSpec) -> tuple[RecipeSource, ...]:
    """The tensors of the encoder, and of each linear behind the pooling."""
    config = read_config(files)
    source = unpacked(open_safetensors(files.path), config)
    linears = (
        _complete(open_safetensors(files.path / module.folder), _DENSE_NAMES, dense_tensors(module))
        for module in spec.dense
    )
    return _complete(source, find_text_recipe(config), encoder_tensors(spec.encoder)), *linears


def _complete(source: Source, names: TensorNames, wanted: Mapping[str, tuple[int, ...]]) -> RecipeSource:
    refuse_unused(source, names, wanted)
    return RecipeSource(source, names, wanted)
