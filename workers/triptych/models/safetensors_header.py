"""The header of a safetensors file: eight bytes of length, then JSON. Layout: github.com/huggingface/safetensors."""

import json
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from triptych.core.errors import DataLoss, NotFound, Unimplemented

ITEM_BYTES: Mapping[str, int] = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1,
    "U16": 2, "I16": 2, "F16": 2, "BF16": 2, "U32": 4, "I32": 4, "F32": 4, "U64": 8, "I64": 8, "F64": 8,
}  # fmt: skip
_LENGTH = struct.Struct("<Q")
_MAX_HEADER = 100_000_000  # the format's own limit
_LINE = 64  # bytes in a cache line


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """One entry of the header.

    Attributes:
        dtype: The format's name of the element type, such as BF16.
        shape: Slowest dimension first.
        offset: First byte, from the start of the file.
    """

    dtype: str
    shape: tuple[int, ...]
    offset: int

    @property
    def nbytes(self) -> int:
        """Size in bytes."""
        return prod(self.shape) * ITEM_BYTES[self.dtype]


def read_header(path: Path) -> dict[str, StoredTensor]:
    """Reads and checks the header: every tensor in it lies within the file.

    Raises:
        NotFound: there is no such file.
        DataLoss: the file is cut short, or its header is broken.
        Unimplemented: an element type that is not known.
    """
    try:
        with path.open("rb") as file:
            size = path.stat().st_size
            raw = file.read(_LENGTH.size)
            length = _header_length(path, raw, size)
            header = _parse(path, file.read(length))
    except FileNotFoundError:
        raise NotFound(f"{path} does not exist", field="model") from None
    start = _LENGTH.size + length
    return {name: _entry(path, name, entry, start, size) for name, entry in header.items() if name != "__metadata__"}


def layout(tensors: Iterable[tuple[str, str, tuple[int, ...]]]) -> tuple[bytes, dict[str, StoredTensor]]:
    """Plans a file of (name, dtype, shape): its first bytes, and where each tensor goes, in the order of writing.

    The format allows no holes, so tensors of whole cache lines come first: all of them then start on a line.
    """
    ordered = sorted(tensors, key=lambda item: prod(item[2]) * ITEM_BYTES[item[1]] % _LINE != 0)
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, dtype, shape in ordered:
        start, end = end, end + prod(shape) * ITEM_BYTES[dtype]
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-(_LENGTH.size + len(text)) % _LINE)
    first = _LENGTH.size + len(text)
    placed = {
        name: StoredTensor(dtype, shape, first + header[name]["data_offsets"][0]) for name, dtype, shape in ordered
    }
    return _LENGTH.pack(len(text)) + text, placed


def _header_length(path: Path, raw: bytes, size: int) -> int:
    if raw.startswith(b"version "):
        raise DataLoss(f"{path} is a Git LFS pointer, not the weights: run `git lfs pull` beside it")
    if len(raw) < _LENGTH.size:
        raise DataLoss(f"{path} is cut short: it has {size} bytes, a safetensors file at least {_LENGTH.size}")
    length: int = _LENGTH.unpack(raw)[0]
    if length > min(size - _LENGTH.size, _MAX_HEADER):
        raise DataLoss(
            f"{path} is cut short or not a safetensors file: "
            f"its header claims {length:,} bytes, the file has {size:,}"
        )
    return length


def _parse(path: Path, raw: bytes) -> dict[str, Any]:
    try:
        header = json.loads(raw.decode("utf-8"))
    except ValueError as error:
        raise DataLoss(f"{path}: the header is not JSON ({error})") from None
    if not isinstance(header, dict):
        raise DataLoss(f"{path}: the header must be a JSON object, got {type(header).__name__}")
    return header


def _entry(path: Path, name: str, entry: Any, start: int, size: int) -> StoredTensor:
    try:
        dtype, shape, (begin, end) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
        numbers = (*shape, begin, end)
        if not all(isinstance(number, int) and number >= 0 for number in numbers):
            raise ValueError(numbers)
    except (TypeError, KeyError, ValueError):
        raise DataLoss(f"{path}: tensor {name} is described as {entry!r:.120}, which is not understood") from None
    if dtype not in ITEM_BYTES:
        raise Unimplemented(
            f"{path}: tensor {name} has the element type {dtype!r:.40}, which is not read", field="model"
        )
    stored = StoredTensor(dtype, shape, start + begin)
    if end - begin != stored.nbytes:
        raise DataLoss(
            f"{path}: tensor {name} of shape {list(shape)} and type {dtype} needs {stored.nbytes:,} bytes, "
            f"the header gives it {end - begin:,}"
        )
    if start + end > size:
        raise DataLoss(f"{path} is cut short: tensor {name} ends at byte {start + end:,}, the file has {size:,}")
    return stored
