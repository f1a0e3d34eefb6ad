"""Weights of one model in one dtype, by name, mapped and shared between the processes of a host."""

from collections.abc import Mapping, Set
from pathlib import Path
from typing import assert_never

import torch

from triptych.core.errors import InvalidArgument
from triptych.kernels.weights import DenseWeight, GgufWeight, Int8Weight, Weight
from triptych.models.conversion import convert
from triptych.models.extent import Extent
from triptych.models.finite import require_finite
from triptych.models.int8 import quantize
from triptych.models.mapping import map_file, view
from triptych.models.progress import SILENT, Progress
from triptych.models.quantization import Quantization, stays_plain
from triptych.models.sources import Source
from triptych.models.stored import Stored, StoredBlocks, StoredInt8

_SERVED = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}
_EXACT = (".mlp.correction.weight",)


class Weights:
    """Read-only tensors by name; see `open_weights`.

    Args:
        stored: Where they lie.
        interleaved: Whether rows of q and k are in the order that llama.cpp's rotary embedding wants.
    """

    def __init__(self, stored: Mapping[str, Stored], *, interleaved: bool) -> None:
        self._stored = stored
        self._mapped: dict[Path, torch.Tensor] = {}
        self.interleaved = interleaved

    @property
    def names(self) -> Set[str]:
        """Of all tensors that were asked for: a view, as a model of many experts asks once for each."""
        return self._stored.keys()

    @property
    def files(self) -> frozenset[Path]:
        """The files that hold them: the checkpoint's own, and those of the cache."""
        return frozenset(part.path for part in self._stored.values())

    def shape(self, name: str) -> tuple[int, ...]:
        """The full shape of a tensor."""
        return self._stored[name].shape

    def tensor(self, name: str, rows: slice | None = None) -> torch.Tensor:
        """A tensor, or rows of its first dimension: a view of the mapped file that must not be written to.

        Pages are mapped when they are touched.
        """
        extent = self._stored[name]
        assert isinstance(extent, Extent), f"{name} is a quantised matrix: ask for it by `matrix`"
        whole = self._view(extent)
        return whole if rows is None else whole[rows]

    def matrix(self, name: str) -> Weight:
        """A matrix in the form that it is multiplied in; its arrays are views of mapped files."""
        stored = self._stored[name]
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

    def _view(self, extent: Extent) -> torch.Tensor:
        if extent.path not in self._mapped:
            self._mapped[extent.path] = map_file(extent.path)
        return view(self._mapped[extent.path], extent)


def open_weights(
    source: Source, dtype: torch.dtype, *, quantization: Quantization = "none", progress: Progress = SILENT
) -> Weights:
    """Opens all tensors of a source, by its names.

    Tensors stored in `dtype` are used where they lie; others are converted once into the cache; integers and booleans
    keep their type, and what routers add to scores before they choose is float32. Quantised matrices are read by
    `matrix`.

    Args:
        source: The tensors.
        dtype: float32, float16 or bfloat16.
        quantization: int8 quantises every matrix once into the cache. gguf uses blocks where they lie if a kernel
            reads their kind.
        progress: Told about a conversion, and about a first reading.

    Raises:
        NotFound: a shard is missing.
        DataLoss: a file is cut short or damaged, or a tensor holds NaN or infinity; the message names both.
        Unimplemented: stored in a way that is not read.
        ResourceExhausted: the cache disk has no room for the conversion.
    """
    if dtype not in _SERVED:
        raise InvalidArgument(f"dtype must be float32, float16 or bfloat16, got {dtype}", field="dtype")
    stored: dict[str, Stored] = {**_quantised(source, quantization, progress)}
    plain = [name for name in source.shapes if name not in stored]
    exact = [name for name in plain if name.endswith(_EXACT)]
    stored |= _plain(source, [name for name in plain if name not in exact], _SERVED[dtype], progress)
    stored |= _plain(source, exact, "F32", progress)
    return Weights(stored, interleaved=source.interleaved)


def _quantised(
    source: Source, quantization: Quantization, progress: Progress
) -> Mapping[str, StoredInt8 | StoredBlocks]:
    """The matrices that are not held as plain numbers."""
    match quantization:
        case "int8":
            matrices = [name for name in source.shapes if _is_float_matrix(source, name)]
            return quantize(source, matrices, progress) if matrices else {}
        case "gguf":
            found = {name: source.blocks(name) for name in source.shapes if not stays_plain(name)}
            blocks = {name: part for name, part in found.items() if part is not None}
            require_finite(source, blocks, progress)
            return blocks
        case "none":
            return {}
        case _:
            assert_never(quantization)


def _is_float_matrix(source: Source, name: str) -> bool:
    if len(source.shapes[name]) != 2 or stays_plain(name):
        return False
    extent = source.extent(name, "F32")
    return extent is None or extent.dtype == "F32"


def _plain(source: Source, names: list[str], dtype: str, progress: Progress) -> Mapping[str, Extent]:
    """Tensors as plain numbers, converted where they are not stored so."""
    found = {name: source.extent(name, dtype) for name in names}
    ready = {name: extent for name, extent in found.items() if extent is not None}
    require_finite(source, ready, progress)
    rest = [name for name in names if name not in ready]
    return ready | (convert(source, rest, dtype, progress) if rest else {})
