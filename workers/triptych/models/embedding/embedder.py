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
        config = read_config(files)
        source = unpacked(open_safetensors(files.path), config)
        place = torch.device(device)
        parameters = _open(source, find_text_recipe(config), encoder_tensors(spec.encoder), dtype, place, progress)
        dense = []
        for module in spec.dense:
            own = open_safetensors(files.path / module.folder)
            tensors = _open(own, _DENSE_NAMES, dense_tensors(module), torch.float32, place, progress)
            dense.append(Dense(module, tensors.linear("linear")))
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


def _open(
    source: Source,
    names: TensorNames,
    wanted: Mapping[str, tuple[int, ...]],
    dtype: torch.dtype,
    device: torch.device,
    progress: Progress,
) -> Parameters:
    refuse_unused(source, names, wanted)
    return Parameters(open_weights(RecipeSource(source, names, wanted), dtype, progress=progress), device)
