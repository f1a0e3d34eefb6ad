"""Reads the header of a GGUF file: metadata and the table of tensors, never the weights.

Written here because the general reader takes seconds over a vocabulary of 150,000 strings, and every process that
only needs the shape of a model reads this. Layout: ggml's docs/gguf.md, versions 2 and 3, little-endian.
"""

import mmap
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path

from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

from triptych.core.errors import DataLoss, Unimplemented
from triptych.models.files import reading

_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_MAX_DIMENSIONS = 4


@dataclass(frozen=True, slots=True)
class Strings:
    """An array of strings, of which only the length is kept (vocabulary, merges)."""

    length: int


Value = int | float | bool | str | tuple[int | float | bool, ...] | Strings


@dataclass(frozen=True, slots=True)
class GgufTensor:
    """One entry of the tensor table.

    Attributes:
        name: llama.cpp's name, such as blk.0.attn_q.weight.
        type: How the elements are packed.
        shape: Slowest dimension first, as in torch (the file stores it the other way round).
        offset: First byte, from the start of the file.
        row_bytes: Packed size of one row, a row being the last dimension.
    """

    name: str
    type: GGMLQuantizationType
    shape: tuple[int, ...]
    offset: int
    row_bytes: int

    @property
    def nbytes(self) -> int:
        """Packed size of the whole tensor."""
        return self.row_bytes * prod(self.shape[:-1])


@dataclass(frozen=True, slots=True)
class GgufHeader:
    """What a GGUF file says about itself."""

    path: Path
    metadata: Mapping[str, Value]
    tensors: Mapping[str, GgufTensor]


def read_header(path: Path) -> GgufHeader:
    """Reads and checks the header.

    Raises:
        NotFound, FailedPrecondition: there is no such file, or it may not be read.
        DataLoss: the file is cut short, is not GGUF, or contradicts itself.
        Unimplemented: another version, byte order, tensor type, or one part of a split model.
    """
    with reading(path), path.open("rb") as file:
        if not path.stat().st_size:
            raise DataLoss(f"{path} is empty")
        with mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as data:
            return _Reader(path, data).header()


class _Reader:
    def __init__(self, path: Path, data: mmap.mmap) -> None:
        self._path = path
        self._data = data
        self._at = 0

    def header(self) -> GgufHeader:
        self._check_magic()
        tensor_count, entry_count = self._unpack("QQ")
        metadata: dict[str, Value] = {}
        for _ in range(entry_count):
            key = self._string()
            metadata[key] = self._value(self._unpack("I")[0], key)
        if (parts := metadata.get("split.count", 1)) not in (0, 1):
            raise Unimplemented(
                f"{self._path} is one of {parts} parts; join them first with llama-gguf-split --merge", field="model"
            )
        table = [self._tensor_entry() for _ in range(tensor_count)]
        tensors = self._place(table, metadata.get("general.alignment", 32))
        return GgufHeader(self._path, metadata, tensors)

    def _check_magic(self) -> None:
        magic = self._take(4)
        if magic == b"vers":
            raise DataLoss(f"{self._path} is a Git LFS pointer, not the model: run `git lfs pull` beside it")
        if magic != b"GGUF":
            raise DataLoss(f"{self._path} is not a GGUF file: it starts with {magic!r}, expected b'GGUF'")
        (version,) = self._unpack("I")
        if version & 0xFFFF == 0 and version:
            raise Unimplemented(f"{self._path} is a big-endian GGUF file; only little-endian is read", field="model")
        if version not in (2, 3):
            raise Unimplemented(f"{self._path} is GGUF version {version}; versions 2 and 3 are read", field="model")

    def _value(self, kind: int, key: str) -> Value:
        if kind in _SCALARS:
            value: int | float | bool = self._unpack(_SCALARS[kind])[0]
            return value
        if kind == _STRING:
            return self._string()
        if kind == _ARRAY:
            item, length = self._unpack("IQ")
            if item == _STRING:
                return self._skip_strings(length)
            if item in _SCALARS:
                return self._unpack(f"{self._bounded(length, struct.calcsize(_SCALARS[item]))}{_SCALARS[item]}")
            kind = item
        raise DataLoss(f"{self._path}: metadata {key} has type {kind}, which GGUF does not define")

    def _tensor_entry(self) -> GgufTensor:
        name = self._string()
        (dimensions,) = self._unpack("I")
        if not 1 <= dimensions <= _MAX_DIMENSIONS:
            raise DataLoss(
                f"{self._path}: tensor {name} has {dimensions} dimensions, expected 1 to {_MAX_DIMENSIONS}"
            )
        shape = tuple(reversed(self._unpack(f"{dimensions}Q")))
        number, offset = self._unpack("IQ")
        try:
            kind = GGMLQuantizationType(number)
        except ValueError:
            raise Unimplemented(f"{self._path}: tensor {name} has the unknown type number {number}") from None
        elements, size = GGML_QUANT_SIZES[kind]
        if shape[-1] % elements:
            raise DataLoss(
                f"{self._path}: tensor {name} has rows of {shape[-1]} elements, "
                f"not a multiple of the {elements} that {kind.name} packs together"
            )
        return GgufTensor(name, kind, shape, offset, shape[-1] // elements * size)

    def _place(self, table: list[GgufTensor], alignment: Value) -> dict[str, GgufTensor]:
        """Turns offsets into places in the file, once the end of the header is known."""
        if not isinstance(alignment, int) or alignment < 1 or alignment & (alignment - 1):
            raise DataLoss(f"{self._path}: general.alignment must be a power of two, got {alignment!r}")
        start = -(-self._at // alignment) * alignment
        tensors: dict[str, GgufTensor] = {}
        for entry in table:
            placed = GgufTensor(entry.name, entry.type, entry.shape, start + entry.offset, entry.row_bytes)
            if (end := placed.offset + placed.nbytes) > len(self._data):
                raise DataLoss(
                    f"{self._path} is cut short: tensor {entry.name} ends at byte {end:,}, "
                    f"the file has {len(self._data):,}"
                )
            if entry.name in tensors:
                raise DataLoss(f"{self._path}: tensor {entry.name} is listed twice")
            tensors[entry.name] = placed
        return tensors

    def _skip_strings(self, length: int) -> Strings:
        data, at, size = self._data, self._at, struct.Struct("<Q")
        for _ in range(self._bounded(length, size.size)):
            if at + size.size > len(data):
                self._cut_short(at + size.size)
            at += size.size + size.unpack_from(data, at)[0]
        self._at = at
        return Strings(length)

    def _string(self) -> str:
        raw = self._take(self._unpack("Q")[0])
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError:
            raise DataLoss(f"{self._path}: the header holds a name that is not UTF-8: {raw[:40]!r}") from None

    def _unpack(self, layout: str) -> tuple[int, ...]:
        packed = struct.Struct("<" + layout)
        return packed.unpack(self._take(packed.size))

    def _take(self, count: int) -> bytes:
        if self._at + count > len(self._data):
            self._cut_short(self._at + count)
        self._at += count
        return self._data[self._at - count : self._at]

    def _bounded(self, length: int, size: int) -> int:
        """An array length that the file has room for; checked before anything of that size is made."""
        if self._at + length * size > len(self._data):
            self._cut_short(self._at + length * size)
        return length

    def _cut_short(self, needed: int) -> None:
        raise DataLoss(
            f"{self._path} is cut short: its header needs byte {needed:,}, the file has {len(self._data):,}"
        )
