"""Weights of one model in one dtype, by name, mapped and shared between the processes of a host."""

from collections.abc import Iterable, Mapping, Set
from pathlib import Path
from typing import assert_never

import psutil
import torch

from triptych.core.errors import DataLoss, InvalidArgument
from triptych.kernels.gguf_blocks import GGUF_BLOCKS
from triptych.kernels.weights import DenseWeight, GgufWeight, Int8Weight, Weight
from triptych.models.conversion import convert
from triptych.models.extent import Extent
from triptych.models.finite import require_finite
from triptych.models.int8 import quantize
from triptych.models.mapping import MappedFile, map_file
from triptych.models.page_cache import forget_runs
from triptych.models.progress import SILENT, Progress
from triptych.models.quantization import Quantization, stays_plain
from triptych.models.sharding.reads import inner, reads
from triptych.models.sharding.slices import Slice, cut_tensor, cut_weight
from triptych.models.sources import Source
from triptych.models.stored import Stored, StoredBlocks, StoredInt8

_SERVED = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}
_EXACT = (".mlp.correction.weight",)


class Weights:
    """Read-only tensors by name; see `open_weights`.

    The disk reads what has been asked for, of a part no more than that, while the rest is asked for, and while the
    first layers compute: models ask in the order in which they compute.

    Args:
        stored: Where they lie.
        dtype: Of floating-point tensors that are not quantised.
        interleaved: Whether rows of q and k are in the order that llama.cpp's rotary embedding wants.
    """

    def __init__(self, stored: Mapping[str, Stored], dtype: torch.dtype, *, interleaved: bool) -> None:
        self._stored = stored
        self.dtype = dtype
        self._mapped: dict[Path, MappedFile] = {}
        self._ahead = psutil.virtual_memory().available // 2  # more would drive out what is read first
        self.interleaved = interleaved

    def passing(self, ahead: int) -> "Weights":
        """The same tensors, for whoever reads many and keeps none: see `let_go`.

        Args:
            ahead: Bytes that the disk may be asked for before they are touched, all in all.
        """
        weights = Weights(self._stored, self.dtype, interleaved=self.interleaved)
        weights._mapped, weights._ahead = self._mapped, ahead
        return weights

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

    def origin(self, name: str) -> str:
        """What its bytes are: the file's name, and form and place in it."""
        stored = self._stored[name]
        return repr(stored).replace(repr(stored.path), repr(stored.path.name))

    def require_there(self, name: str) -> None:
        """Sees to it that a tensor can be touched: of a file that has been cut short, pages end the process.

        Raises:
            DataLoss: its file is gone, or shorter than it was.
        """
        path = self._stored[name].path
        try:
            there = self._file(path).whole
        except OSError as error:
            raise DataLoss(f"{path} cannot be read any more: {error.strerror}") from error
        if not there:
            raise DataLoss(f"{path} has been cut short since it was opened")

    def let_go(self, name: str) -> None:
        """Takes the pages of a tensor out of this process, and out of the page cache where no other maps them.

        Views of it stay valid: what they touch is read again.
        """
        stored = self._stored[name]
        runs = reads(stored, None)
        for run in runs:
            self._file(stored.path).let_go(run)
        forget_runs(stored.path, runs)

    def fence(self, names: Iterable[str]) -> None:
        """Keeps pages of tensors out of this process until they are touched themselves, not what lies beside them."""
        runs: dict[Path, list[range]] = {}
        for name in names:
            stored = self._stored[name]
            runs.setdefault(stored.path, []).extend(reads(stored, None))
        for path, each in runs.items():
            for run in inner(each):
                self._file(path).fence(run)

    def tensor(self, name: str, cut: Slice | None = None) -> torch.Tensor:
        """A tensor, or a part of it: a view of the mapped file that must not be written to; columns are a copy.

        Pages are mapped when they are touched.
        """
        extent = self._stored[name]
        assert isinstance(extent, Extent), f"{name} is a quantised matrix: ask for it by `matrix`"
        self._read_ahead(extent, cut)
        whole = self._view(extent)
        return whole if cut is None else cut_tensor(whole, cut)

    def matrix(self, name: str, cut: Slice | None = None) -> Weight:
        """A matrix, or a part of it, in the form that it is multiplied in; its arrays are as those of `tensor`."""
        stored = self._stored[name]
        self._read_ahead(stored, cut)
        whole = self._whole(stored)
        return whole if cut is None else cut_weight(whole, cut, self.dtype)

    def _whole(self, stored: Stored) -> Weight:
        match stored:
            case Extent():
                return DenseWeight(self._view(stored))
            case StoredInt8():
                return Int8Weight(self._view(stored.values), self._view(stored.scales), stored.inputs)
            case StoredBlocks():
                return GgufWeight(self._view(stored.blocks), stored.kind, stored.inputs)
            case _:
                assert_never(stored)

    def block(self, name: str) -> int:
        """Elements of a row that are packed together; 1 where every element stands for itself."""
        stored = self._stored[name]
        return GGUF_BLOCKS[stored.kind][0] if isinstance(stored, StoredBlocks) else 1

    def close(self) -> None:
        """Lets the mappings go; tensors that were handed out keep theirs."""
        self._mapped.clear()

    def _view(self, extent: Extent) -> torch.Tensor:
        return self._file(extent.path).view(extent)

    def _read_ahead(self, stored: Stored, cut: Slice | None) -> None:
        runs = reads(stored, cut)
        size = sum(map(len, runs))
        if size <= self._ahead:
            self._ahead -= size
            for run in runs:
                self._file(stored.path).read_ahead(run)

    def _file(self, path: Path) -> MappedFile:
        if path not in self._mapped:
            self._mapped[path] = map_file(path)
        return self._mapped[path]


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
    return Weights(stored, dtype, interleaved=source.interleaved)


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
