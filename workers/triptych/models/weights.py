"""Weights of one model in one dtype, by Hugging Face name, mapped and shared between the processes of a host."""

from collections.abc import Mapping
from pathlib import Path
from typing import assert_never

import torch

from triptych.core.errors import DataLoss, InvalidArgument
from triptych.kernels.weights import DenseWeight, GgufWeight, Int8Weight, Weight
from triptych.models.checkpoint import open_sources
from triptych.models.conversion import convert
from triptych.models.extent import Extent
from triptych.models.files import ModelFiles
from triptych.models.gguf_source import GgufSource
from triptych.models.int8 import quantize
from triptych.models.mapping import map_file, view
from triptych.models.progress import SILENT, Progress
from triptych.models.quantization import Quantization
from triptych.models.sources import Source
from triptych.models.stored import Stored, StoredBlocks, StoredInt8

_SERVED = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}


class Weights:
    """Read-only tensors by name; see `open_weights`.

    Args:
        stored: Where they lie.
        origin: The checkpoint, for messages.
        opened: Every file that was looked into.
        interleaved: Whether rows of q and k are in the order that llama.cpp's rotary embedding wants.
    """

    def __init__(
        self, stored: Mapping[str, Stored], origin: Path, opened: tuple[Path, ...], *, interleaved: bool
    ) -> None:
        self._stored = stored
        self._origin = origin
        self._mapped: dict[Path, torch.Tensor] = {}
        self.opened = opened
        self.interleaved = interleaved

    @property
    def names(self) -> frozenset[str]:
        """Hugging Face names of all tensors that were asked for."""
        return frozenset(self._stored)

    def shape(self, name: str) -> tuple[int, ...]:
        """The full shape of a tensor.

        Raises:
            DataLoss: the checkpoint has no such tensor.
        """
        return self._find(name).shape

    def tensor(self, name: str, rows: slice | None = None) -> torch.Tensor:
        """A tensor, or rows of its first dimension: a view of the mapped file that must not be written to.

        Pages are read when they are touched, so rows that are not asked for are never read.

        Raises:
            DataLoss: the checkpoint has no such tensor.
        """
        extent = self._find(name)
        assert isinstance(extent, Extent), f"{name} is a quantised matrix: ask for it by `matrix`"
        whole = self._view(extent)
        return whole if rows is None else whole[rows]

    def matrix(self, name: str) -> Weight:
        """A matrix in the form that it is multiplied in; its arrays are views of mapped files.

        Raises:
            DataLoss: the checkpoint has no such tensor.
        """
        stored = self._find(name)
        match stored:
            case Extent():
                return DenseWeight(self._view(stored))
            case StoredInt8():
                return Int8Weight(self._view(stored.values), self._view(stored.scales), stored.inputs)
            case StoredBlocks():
                return GgufWeight(self._view(stored.blocks), stored.kind, stored.inputs)
            case _:
                assert_never(stored)

    def close(self) -> None:
        """Lets the mappings go; tensors that were handed out keep theirs."""
        self._mapped.clear()

    def _find(self, name: str) -> Stored:
        try:
            return self._stored[name]
        except KeyError:
            raise DataLoss(f"{self._origin} has no tensor {name}, which its config calls for") from None

    def _view(self, extent: Extent) -> torch.Tensor:
        if extent.path not in self._mapped:
            self._mapped[extent.path] = map_file(extent.path)
        return view(self._mapped[extent.path], extent)


def open_weights(
    files: ModelFiles,
    dtype: torch.dtype,
    prefixes: tuple[str, ...] = (),
    *,
    quantization: Quantization = "none",
    progress: Progress = SILENT,
) -> Weights:
    """Opens the tensors whose names start with one of `prefixes` (all of them by default).

    Shards that hold none of them are not opened. Tensors stored in `dtype` are used where they lie; others are
    converted once into the cache; integers and booleans keep their type. Quantised matrices are read by `matrix`.

    Args:
        files: The model.
        dtype: float32, float16 or bfloat16.
        prefixes: Beginnings of Hugging Face names, as the checkpoint spells them.
        quantization: int8 quantises every matrix once into the cache. gguf uses blocks where they lie if a kernel
            reads their kind, and leaves rows of q and k in llama.cpp's order.
        progress: Told about a conversion.

    Raises:
        NotFound: a shard is missing.
        DataLoss: a file is cut short or damaged; the message names file, tensor and expectation.
        Unimplemented: stored in a way that is not read.
        ResourceExhausted: the cache disk has no room for the conversion.
    """
    if dtype not in _SERVED:
        raise InvalidArgument(f"dtype must be float32, float16 or bfloat16, got {dtype}", field="dtype")
    stored: dict[str, Stored] = {}
    opened: list[Path] = []
    interleaved = False
    as_stored = quantization == "gguf"
    for source, names in open_sources(files, prefixes, "llama_cpp" if as_stored else "hugging_face"):
        stored |= _quantised(source, names, quantization, progress)
        stored |= _plain(source, [name for name in names if name not in stored], dtype, as_stored, progress)
        opened.append(source.path)
        interleaved = isinstance(source, GgufSource) and source.interleaved
    paths = dict.fromkeys((*opened, *(part.path for part in stored.values())))
    return Weights(stored, files.path, tuple(paths), interleaved=interleaved)


def _quantised(
    source: Source, names: list[str], quantization: Quantization, progress: Progress
) -> Mapping[str, StoredInt8 | StoredBlocks]:
    """The matrices that are not held as plain numbers."""
    match quantization:
        case "int8":
            matrices = [name for name in names if _is_float_matrix(source, name)]
            return quantize(source, matrices, progress) if matrices else {}
        case "gguf":
            assert isinstance(source, GgufSource), "choose_quantization lets only GGUF files through"
            found = {name: source.blocks(name) for name in names}
            return {name: blocks for name, blocks in found.items() if blocks is not None}
        case "none":
            return {}
        case _:
            assert_never(quantization)


def _is_float_matrix(source: Source, name: str) -> bool:
    extent = source.extent(name, "F32")
    return len(source.shapes[name]) == 2 and (extent is None or extent.dtype == "F32")


def _plain(
    source: Source, names: list[str], dtype: torch.dtype, as_stored: bool, progress: Progress
) -> Mapping[str, Extent]:
    """Tensors as plain numbers, converted where they are not stored so."""
    ready = {name: source.extent(name, _SERVED[dtype]) for name in names}
    rest = [name for name, extent in ready.items() if extent is None]
    variant = "llama_cpp" if as_stored else ""
    converted = convert(source, rest, _SERVED[dtype], progress, variant=variant) if rest else {}
    return {name: extent for name, extent in ready.items() if extent is not None} | converted
