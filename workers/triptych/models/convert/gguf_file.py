"""Writes a GGUF file, a few rows at a time."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import gguf.quants
import numpy as np
import numpy.typing as npt
from gguf import GGUFWriter
from gguf.constants import GGMLQuantizationType

from triptych.models.convert.metadata import Entry
from triptych.models.convert.tensors import Target
from triptych.models.progress import Advance
from triptych.models.sources import FloatArray, Source

_CHUNK = 4 << 20  # elements held at a time, but for rows that are put into another order


def write_gguf(
    path: Path,
    writer: GGUFWriter,
    targets: Sequence[Target],
    extra: Mapping[str, npt.NDArray[np.float32]],
    source: Source,
    advance: Advance,
) -> None:
    """Writes header and tensors.

    Args:
        path: The file.
        writer: With its metadata added.
        targets: Made of tensors of the source.
        extra: Tensors that the source does not have.
        source: Of the values.
        advance: Told about bytes.
    """
    for name, values in extra.items():
        writer.add_tensor_info(name, values.shape, values.dtype, values.nbytes)
    for target in targets:
        # numpy has no bfloat16; the kind alone says what the bytes are.
        writer.add_tensor_info(target.name, target.shape, np.dtype(np.float32), target.nbytes, target.kind)
    writer.write_header_to_file(path)
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    assert writer.fout is not None
    file: Any = writer.fout[0]
    for values in extra.values():
        writer.write_padding(file, file.tell())
        file.write(values.tobytes())
    for target in targets:
        writer.write_padding(file, file.tell())
        _write(file, target, source, advance)
    writer.write_padding(file, file.tell())
    writer.close()


def add_entries(writer: GGUFWriter, entries: Mapping[str, Entry]) -> None:
    """Adds metadata of their natural types."""
    for key, value in entries.items():
        match value:
            case bool():
                writer.add_bool(key, value)
            case int():
                writer.add_uint32(key, value)
            case float():
                writer.add_float32(key, value)
            case str():
                writer.add_string(key, value)
            case list():
                writer.add_array(key, value)


def _write(file: BinaryIO, target: Target, source: Source, advance: Advance) -> None:
    for part in target.parts:
        shape = source.shapes[part]
        width = int(np.prod(shape[1:], dtype=np.int64))
        step = shape[0] if target.heads else max(1, _CHUNK // max(1, width))
        for start in range(0, shape[0], step):
            values = target.arranged(source.read(part, start, min(start + step, shape[0])))
            advance(file.write(_packed(values, target.kind).data))


def _packed(values: FloatArray, kind: GGMLQuantizationType) -> npt.NDArray[np.generic]:
    plain = np.ascontiguousarray(values, dtype=np.float32)
    rows = plain.reshape(1, -1) if plain.ndim == 1 else plain
    return np.ascontiguousarray(gguf.quants.quantize(rows, kind))
