"""Matrices quantised to int8 once per host, into a file of the cache that all processes map."""

from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from triptych.kernels.weights import INPUT_TILE, OUTPUT_TILE
from triptych.models.conversion import build_converted, cached_path, refuse_non_finite
from triptych.models.progress import Advance, Progress
from triptych.models.safetensors_header import plan_file
from triptych.models.sources import FloatArray, Source
from triptych.models.stored import StoredInt8

_KIND = "int8-tiles16x4"  # changes with the meaning of the file
_CHUNK = 2 << 20  # elements held at a time
_LARGEST = 127
_SCALES = ":scales"

Packed = tuple[npt.NDArray[np.int8], npt.NDArray[np.float32]]


def quantize(source: Source, names: Sequence[str], progress: Progress) -> dict[str, StoredInt8]:
    """Returns where the arrays of `Int8Weight`s lie for these matrices, making them if nobody did before.

    Raises:
        ResourceExhausted: the cache disk has no room.
        DataLoss: a matrix holds NaN or infinity.
        Unimplemented: a matrix is packed in a way that is not read.
    """
    target = cached_path(source, names, _KIND)
    arrays: dict[str, tuple[str, tuple[int, ...]]] = {}
    for name in names:
        outputs, inputs = source.shapes[name]
        arrays[name] = ("I8", (-(-outputs // OUTPUT_TILE), -(-inputs // INPUT_TILE), OUTPUT_TILE, INPUT_TILE))
        arrays[name + _SCALES] = ("F32", (outputs,))
    head, placed = plan_file(target, arrays)
    stored = {name: StoredInt8(placed[name], placed[name + _SCALES], source.shapes[name][1]) for name in names}

    def write(partial: Path, advance: Advance) -> None:
        with partial.open("wb") as file:
            file.write(head)
            for name, parts in stored.items():
                _write(file, source, name, parts, advance)

    build_converted(target, placed, f"Quantizing {source.path.name} to int8", write, progress)
    return stored


def pack(matrix: FloatArray) -> Packed:
    """Quantises rows symmetrically, each by its own scale, and tiles them.

    The scale is the largest magnitude / 127, so that no value is off by more than half of it.

    Args:
        matrix: [n, I], finite.

    Returns:
        int8 [⌈n/16⌉, ⌈I/4⌉, 16, 4] and scales [n], as `Int8Weight` describes them.
    """
    wide = np.asarray(matrix, dtype=np.float32)
    rows, inputs = wide.shape
    scales = np.abs(wide).max(axis=1, initial=0.0) / np.float32(_LARGEST)
    levels = np.rint(wide / np.where(scales == 0, np.float32(1), scales)[:, None])
    padded = np.zeros((-(-rows // OUTPUT_TILE) * OUTPUT_TILE, -(-inputs // INPUT_TILE) * INPUT_TILE), dtype=np.int8)
    # A scale that is subnormal has few bits: its quotient may pass the largest level.
    padded[:rows, :inputs] = np.clip(levels, -_LARGEST, _LARGEST)
    tiles = padded.reshape(-1, OUTPUT_TILE, padded.shape[1] // INPUT_TILE, INPUT_TILE).swapaxes(1, 2)
    return np.ascontiguousarray(tiles), scales


def _write(file: BinaryIO, source: Source, name: str, parts: StoredInt8, advance: Advance) -> None:
    """Writes the arrays of one matrix to their places, whole tiles of rows at a time."""
    outputs, inputs = parts.shape
    step = max(1, _CHUNK // max(1, inputs) // OUTPUT_TILE) * OUTPUT_TILE
    for start in range(0, outputs, step):
        rows = source.read(name, start, min(start + step, outputs))
        refuse_non_finite(rows, source.describe(name))
        places = ((parts.values, start // OUTPUT_TILE), (parts.scales, start))
        arrays: tuple[npt.NDArray[np.generic], ...] = pack(rows)
        for (extent, entry), array in zip(places, arrays, strict=True):
            file.seek(extent.offset + entry * (extent.nbytes // extent.shape[0]))
            advance(file.write(array.tobytes()))
