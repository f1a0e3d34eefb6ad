"""The header of a safetensors file: eight bytes of length, then JSON. Layout: github.com/huggingface/safetensors."""

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from triptych.core.errors import DataLoss, Unimplemented
from triptych.models.extent import ITEM_BYTES, Extent
from triptych.models.files import reading

_LENGTH = struct.Struct("<Q")
_MAX_HEADER = 100_000_000  # the format's own limit
_LINE = 64  # bytes in a cache line


def read_header(path: Path) -> dict[str, Extent]:
    """Reads and checks the header: every tensor in it lies within the file.

    Raises:
        NotFound, FailedPrecondition: there is no such file, or it may not be read.
        DataLoss: the file is cut short, or its header is broken.
        Unimplemented: an element type that is not known.
    """
    with reading(path), path.open("rb") as file:
        size = path.stat().st_size
        length = _header_length(path, file.read(_LENGTH.size), size)
        header = _parse(path, file.read(length))
    start = _LENGTH.size + length
    return {name: _extent(path, name, entry, start, size) for name, entry in header.items() if name != "__metadata__"}


def plan_file(path: Path, arrays: Mapping[str, tuple[str, tuple[int, ...]]]) -> tuple[bytes, dict[str, Extent]]:
    """Plans a file of arrays given by type and shape: its first bytes, and where each goes, in the order of writing.

    The format allows no holes, so tensors of whole cache lines come first: all of those start on a line.
    """
    sizes = {name: Extent(path, 0, shape, dtype).nbytes for name, (dtype, shape) in arrays.items()}
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    starts: dict[str, int] = {}
    end = 0
    for name in sorted(sizes, key=lambda name: sizes[name] % _LINE != 0):
        starts[name], end = end, end + sizes[name]
        dtype, shape = arrays[name]
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [starts[name], end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-(_LENGTH.size + len(text)) % _LINE)
    first = _LENGTH.size + len(text)
    placed = {}
    for name, start in starts.items():
        dtype, shape = arrays[name]
        placed[name] = Extent(path, first + start, shape, dtype)
    return _LENGTH.pack(len(text)) + text, placed


def _header_length(path: Path, raw: bytes, size: int) -> int:
    if raw == b"version ":
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
    except (ValueError, RecursionError) as error:
        raise DataLoss(f"{path}: the header is not JSON ({error})") from None
    if not isinstance(header, dict):
        raise DataLoss(f"{path}: the header must be a JSON object, got {type(header).__name__}")
    return header


def _extent(path: Path, name: str, entry: Any, start: int, size: int) -> Extent:
    try:
        dtype, shape, (begin, end) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
        if not all(type(number) is int and number >= 0 for number in (*shape, begin, end)):
            raise ValueError("sizes are whole numbers")
    except (TypeError, KeyError, ValueError):
        raise DataLoss(f"{path}: tensor {name} is described as {entry!r:.120}, which is not understood") from None
    if dtype not in ITEM_BYTES:
        raise Unimplemented(f"{path}: tensor {name} is of the unknown element type {dtype!r:.40}", field="model")
    extent = Extent(path, start + begin, shape, dtype)
    if end - begin != extent.nbytes:
        raise DataLoss(
            f"{path}: tensor {name} of shape {list(shape)} and type {dtype} needs {extent.nbytes:,} bytes, "
            f"the header gives it {end - begin:,}"
        )
    if start + end > size:
        raise DataLoss(f"{path} is cut short: tensor {name} ends at byte {start + end:,}, the file has {size:,}")
    return extent
