"""From a model's name to a decoder in memory: what the offline engine and the stage workers share."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from triptych.core.errors import InvalidArgument
from triptych.engine.dtypes import choose_dtype
from triptych.models.adapters import NO_FOLDERS
from triptych.models.config import read_config
from triptych.models.decoder import Decoder
from triptych.models.files import ModelFiles
from triptych.models.progress import SILENT, Progress
from triptych.models.quantization import choose_quantization
from triptych.models.size import kv_elements
from triptych.models.spec import ModelSpec, read_spec
from triptych.models.towers.encoder import VisionEncoder


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A decoder and what is needed to run it.

    Attributes:
        spec: What it is.
        dtype: Of activations and KV pool.
        context_length: Upper bound of prompt and answer together.
        decoder: The language model.
    """

    spec: ModelSpec
    dtype: torch.dtype
    context_length: int
    decoder: Decoder


def load_model(
    files: ModelFiles,
    dtype: str = "auto",
    quantization: str = "none",
    device: str = "cpu",
    *,
    context: int | None = None,
    kv_memory: int | None = None,
    adapters: Mapping[str, Path] = NO_FOLDERS,
    progress: Progress = SILENT,
) -> LoadedModel:
    """Reads the language part of a model.

    Args:
        files: The model.
        dtype: auto, float32 or bfloat16.
        quantization: none, int8 or gguf.
        device: A torch device.
        context: Tokens of prompt and answer; None means the model's own.
        kv_memory: Bytes of the KV pool, which may hold fewer; None means that it holds them all.
        adapters: Folders of adapters, by name.
        progress: Hears of conversions.

    Raises:
        InvalidArgument: dtype or quantization is none of these, or not for this model, or the context is too long.
        TriptychError: the files are damaged, or ask for something that this version does not do.
    """
    spec = read_spec(files)
    chosen, form = choose_dtype(dtype, read_config(files), device), choose_quantization(quantization, files)
    served = context_length(spec, context)
    decoder = Decoder.load(
        files,
        spec,
        chosen,
        device,
        positions=min(served, _pool_tokens(spec, chosen, kv_memory)),
        quantization=form,
        adapters=adapters,
        progress=progress,
    )
    return LoadedModel(spec, chosen, served, decoder)


def convert_weights(
    files: ModelFiles, dtype: str, quantization: str, adapters: Mapping[str, Path], *, progress: Progress
) -> None:
    """Fills the cache with what the workers of this host will map, so that its progress can be shown in one place.

    Raises:
        TriptychError: as `load_model`.
    """
    loaded = load_model(files, dtype, quantization, context=1, adapters=adapters, progress=progress)
    if loaded.spec.vision is not None:
        VisionEncoder.load(files, loaded.spec, loaded.dtype, progress=progress)


def context_length(spec: ModelSpec, requested: int | None) -> int:
    """The context to serve: what was asked for, but never more than the model was made for."""
    if requested is None:
        return spec.context_length
    if not 1 <= requested <= spec.context_length:
        raise InvalidArgument(
            f"context_length must be in [1, {spec.context_length}] for this model, got {requested}",
            field="context_length",
        )
    return requested


def _pool_tokens(spec: ModelSpec, dtype: torch.dtype, kv_memory: int | None) -> int:
    """At most so many tokens fit the pool."""
    return spec.context_length if kv_memory is None else kv_memory // (kv_elements(spec.decoder) * dtype.itemsize)
