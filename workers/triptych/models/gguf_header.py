"""Reads the header of a GGUF file: metadata and the table of tensors, never the weights.

Written here because the general reader takes seconds over a vocabulary of 150,000 strings, and every process that
only needs the shape of a model reads this. Layout: ggml's docs/gguf.md, versions 2 and 3, little-endian.
"""

import mmap
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path

from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

from triptych.core.errors import DataLoss, Unimplemented
from triptych.models.cursor import Cursor
from triptych.models.files import reading

_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_MAX_DIMENSIONS = 4


@dataclass(frozen=True, slots=True)
class Strings:
    """An array of strings (vocabulary, merges), of which only the length and the first byte's place are kept."""

    length: int
    start: int


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
            return _header(Cursor(path, data))


def find_strings(header: GgufHeader, key: str, wanted: Collection[str]) -> dict[str, int]:
    """Numbers of those wanted strings that an array of the metadata holds; none where there is no such array."""
    strings = header.metadata.get(key)
    if not isinstance(strings, Strings):
        return {}
    with header.path.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as data:
        return Cursor(header.path, data).find_strings(strings.start, strings.length, wanted)


def _header(cursor: Cursor) -> GgufHeader:
    _check_magic(cursor)
    tensor_count, entry_count = cursor.unpack("QQ")
    metadata: dict[str, Value] = {}
    for _ in range(entry_count):
        key = cursor.string()
        metadata[key] = _value(cursor, key)
    if (parts := metadata.get("split.count", 1)) not in (0, 1):
        raise Unimplemented(
            f"{cursor.path} is one of {parts} parts; join them first with llama-gguf-split --merge", field="model"
        )
    table = [_tensor_entry(cursor) for _ in range(tensor_count)]
    return GgufHeader(cursor.path, metadata, _placed(cursor, table, metadata.get("general.alignment", 32)))


def _check_magic(cursor: Cursor) -> None:
    magic = cursor.take(4)
    if magic == b"vers":
        raise DataLoss(f"{cursor.path} is a Git LFS pointer, not the model: run `git lfs pull` beside it")
    if magic != b"GGUF":
        raise DataLoss(f"{cursor.path} is not a GGUF file: it starts with {magic!r}, expected b'GGUF'")
    (version,) = cursor.unpack("I")
    if version & 0xFFFF == 0 and version:
        raise Unimplemented(f"{cursor.path} is a big-endian GGUF file; only little-endian is read", field="model")
    if version not in (2, 3):
        raise Unimplemented(f"{cursor.path} is GGUF version {version}; versions 2 and 3 are read", field="model")


def _value(cursor: Cursor, key: str) -> Value:
    (kind,) = cursor.unpack("I")
    if kind in _SCALARS:
        return cursor.unpack(_SCALARS[kind])[0]
    if kind == _STRING:
        return cursor.string()
    if kind == _ARRAY:
        kind, length = cursor.unpack("IQ")
        if kind == _STRING:
            start = cursor.place
            cursor.skip_strings(length)
            return Strings(length, start)
        if kind in _SCALARS:
            return cursor.array(length, _SCALARS[kind])
    raise DataLoss(f"{cursor.path}: metadata {key} has type {kind}, which is not one that GGUF defines there")


def _tensor_entry(cursor: Cursor) -> GgufTensor:
    """One entry of the table, its offset still counted from the end of the header."""
    name = cursor.string()
    (dimensions,) = cursor.unpack("I")
    if not 1 <= dimensions <= _MAX_DIMENSIONS:
        raise DataLoss(f"{cursor.path}: tensor {name} has {dimensions} dimensions, expected 1 to {_MAX_DIMENSIONS}")
    shape = tuple(reversed(cursor.unpack(f"{dimensions}Q")))
    if 0 in shape:
        raise DataLoss(f"{cursor.path}: tensor {name} has the shape {list(shape)}, which holds nothing")
    number, offset = cursor.unpack("IQ")
    try:
        kind = GGMLQuantizationType(number)
    except ValueError:
        raise Unimplemented(f"{cursor.path}: tensor {name} has the unknown type number {number}") from None
    elements, size = GGML_QUANT_SIZES[kind]
    if shape[-1] % elements:
        raise DataLoss(
            f"{cursor.path}: tensor {name} has rows of {shape[-1]} elements, "
            f"not a multiple of the {elements} that {kind.name} packs together"
        )
    return GgufTensor(name, kind, shape, offset, shape[-1] // elements * size)


def _placed(cursor: Cursor, table: list[GgufTensor], alignment: Value) -> dict[str, GgufTensor]:
    """Turns offsets into places in the file, now that the end of the header is known."""
    if not isinstance(alignment, int) or alignment < 1 or alignment & (alignment - 1):
        raise DataLoss(f"{cursor.path}: general.alignment must be a power of two, got {alignment!r}")
    start = -(-cursor.place // alignment) * alignment
    tensors: dict[str, GgufTensor] = {}
    for entry in table:
        placed = replace(entry, offset=start + entry.offset)
        if (end := placed.offset + placed.nbytes) > cursor.size:
            raise DataLoss(
                f"{cursor.path} is cut short: tensor {entry.name} ends at byte {end:,}, the file has {cursor.size:,}"
            )
        if entry.name in tensors:
            raise DataLoss(f"{cursor.path}: tensor {entry.name} is listed twice")
        tensors[entry.name] = placed
    return tensors
