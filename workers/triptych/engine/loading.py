"""From a model's name to a decoder in memory: what the offline engine and the stage workers share."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from triptych.core.errors import InvalidArgument
from triptych.engine.dtypes import choose_dtype
from triptych.experts.settings import OffloadSettings
from triptych.kernels import native, triton
from triptych.models.adapters import NO_FOLDERS
from triptych.models.config import read_config
from triptych.models.decoder import Decoder
from triptych.models.files import ModelFiles
from triptych.models.layout import decoder_tensors
from triptych.models.offload import pack_of
from triptych.models.parameters import open_parameters
from triptych.models.progress import SILENT, Progress
from triptych.models.quantization import choose_quantization
from triptych.models.sharding import local_spec
from triptych.models.size import kv_elements
from triptych.models.spec import DecoderSpec, ModelSpec, read_spec
from triptych.models.towers.encoder import VisionEncoder
from triptych.parallel import Mesh, Parallelism


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
    mesh: Mesh | None = None,
    offload: OffloadSettings | None = None,
    progress: Progress = SILENT,
) -> LoadedModel:
    """Reads the language part of a model, or a rank's share of it.

    Args:
        files: The model.
        dtype: auto, float32 or bfloat16.
        quantization: none, int8 or gguf.
        device: A torch device.
        context: Tokens of prompt and answer; None means the model's own.
        kv_memory: Bytes of the rank's KV pool, which may hold fewer; None means that it holds them all.
        adapters: Folders of adapters, by name.
        mesh: Who divides the model; None for nobody.
        offload: How experts are kept that do not all fit; None keeps them all.
        progress: Hears of conversions.

    Raises:
        InvalidArgument: dtype or quantization is none of these, or not for this model, or the context is too long.
        TriptychError: the files are damaged, or ask for something that this version does not do.
    """
    spec = read_spec(files)
    chosen, form = choose_dtype(dtype, read_config(files), device), choose_quantization(quantization, files)
    served, mesh = context_length(spec, context), mesh or Mesh()
    if torch.device(device).type == "cuda":
        triton.install()
    token_bytes = kv_elements_of_rank(spec.decoder, mesh.parallelism) * chosen.itemsize
    room = spec.context_length if kv_memory is None else kv_memory // token_bytes
    decoder = Decoder.load(
        files,
        spec,
        chosen,
        device,
        positions=min(served, room),
        quantization=form,
        adapters=adapters,
        mesh=mesh,
        offload=offload,
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


def pack_experts(
    files: ModelFiles, dtype: str, quantization: str, offload: OffloadSettings, *, progress: Progress
) -> None:
    """Makes the file that experts are read from, of which workers that do not divide matrices keep a part.

    Raises:
        TriptychError: as `load_model`; FailedPrecondition: the model has no experts.
    """
    native.install()  # as workers do: their form of experts depends on it
    spec, device = read_spec(files), torch.device("cpu")
    chosen, form = choose_dtype(dtype, read_config(files)), choose_quantization(quantization, files)
    parameters = open_parameters(files, spec, decoder_tensors(spec.decoder), chosen, device, progress, form)
    pack_of(files, spec.decoder, parameters, offload).open(progress)


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


def kv_elements_of_rank(spec: DecoderSpec, parallelism: Parallelism) -> int:
    """What the cache of the rank with the most heads keeps of one token."""
    ranks = range(parallelism.attention_size)
    return max(kv_elements(local_spec(spec, parallelism, rank)) for rank in ranks)
