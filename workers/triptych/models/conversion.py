"""Tensors that cannot be used as they lie are converted once per host, into a safetensors file of the cache.

The file is named after its sources (place, size, time of writing), the kind of conversion, and what the tensors that
it holds are made of. Two workers that want the same tensors share its pages, and the second start only maps it.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from math import prod
from pathlib import Path

import numpy as np
import numpy.typing as npt

from triptych.core.errors import DataLoss, InvalidArgument, TriptychError
from triptych.models.cache import build_file, cache_directory, files_key, require_space
from triptych.models.extent import Extent
from triptych.models.progress import Advance, Progress
from triptych.models.safetensors_header import plan_file, read_header
from triptych.models.sources import FloatArray, Rows, Source

_VERSION = 2  # of the meaning of converted values
_MADE = (".safetensors", ".finite", ".experts", ".plain", ".warm")
_CHUNK = 4 << 20  # elements held at a time
_PIECE = 1 << 16  # elements rounded at a time


def convert(source: Source, names: Sequence[str], dtype: str, progress: Progress) -> dict[str, Extent]:
    """Returns where the tensors lie as `dtype`, converting them if nobody did before.

    Args:
        source: Where they come from.
        names: Which.
        dtype: F32, F16 or BF16.
        progress: Told about a conversion.

    Raises:
        ResourceExhausted: the cache disk has no room.
        DataLoss: a tensor holds NaN or infinity.
        InvalidArgument: a value is too large for F16.
        Unimplemented: a tensor is packed in a way that is not read.
    """
    target = cached_path(source, names, dtype.lower())
    _, placed = plan_file(target, {name: (dtype, source.shapes[name]) for name in names})

    def write(partial: Path, advance: Advance) -> None:
        write_tensors(partial, source, names, dtype, advance)

    build_converted(target, placed, f"Converting {source.path.name} to {dtype}", write, progress)
    return placed


def cached_path(source: Source, names: Sequence[str], kind: str, suffix: str = ".safetensors") -> Path:
    """The file of the cache for what is made of these tensors of a source, in a form called `kind`."""
    made_of = (str(_VERSION), *(f"{name} = {source.origin(name)}" for name in sorted(names)))
    content = hashlib.blake2b("\0".join(made_of).encode(), digest_size=6).hexdigest()
    return cache_folder(source.path) / f"{files_key(source.files)}-{kind}-{content}{suffix}"


def cache_folder(path: Path) -> Path:
    """Where the cache keeps what is made of a checkpoint."""
    place = hashlib.blake2b(str(path.resolve()).encode(), digest_size=6).hexdigest()
    name = path.name if path.is_dir() else f"{path.parent.name}-{path.stem}"
    return cache_directory() / "weights" / f"{name}-{place}"


def build_converted(
    target: Path,
    placed: Mapping[str, Extent],
    title: str,
    write: Callable[[Path, Advance], None],
    progress: Progress,
) -> None:
    """Fills `target` with what `placed` promises, unless it is there and whole.

    Raises:
        ResourceExhausted: the cache disk has no room.
    """

    def intact(path: Path) -> bool:
        try:
            return read_header(path) == placed
        except TriptychError:
            return False

    def build(partial: Path) -> None:
        drop_outdated(target)
        size = sum(extent.nbytes for extent in placed.values())
        require_space(target.parent, size, title)
        with progress.task(title, size) as advance:
            write(partial, advance)

    build_file(target, build, intact=intact)


def write_tensors(path: Path, source: Rows, names: Sequence[str], dtype: str, advance: Advance) -> None:
    """Writes a safetensors file of these tensors, a few rows at a time: memory stays bounded whatever their size."""
    head, placed = plan_file(path, {name: (dtype, source.shapes[name]) for name in names})
    with path.open("wb") as file:
        file.write(head)
        for name, extent in placed.items():
            rows = extent.shape[0] if extent.shape else 1
            step = max(1, _CHUNK // max(1, prod(extent.shape[1:])))
            for start in range(0, rows, step):
                values = source.read(name, start, min(start + step, rows))
                refuse_non_finite(values, source.describe(name))
                advance(file.write(_encoded(values, dtype, source.describe(name)).data))


def refuse_non_finite(values: FloatArray, what: str) -> None:
    """Raises DataLoss if NaN or infinity is among the values of the tensor that `what` describes."""
    if not np.isfinite(values).all():
        raise DataLoss(f"{what} holds NaN or infinity; every weight must be a finite number")


def _encoded(values: FloatArray, dtype: str, what: str) -> npt.NDArray[np.generic]:
    """The values as little-endian `dtype`, rounded to nearest even, as torch rounds."""
    if dtype == "BF16":
        return _bfloat16(np.ascontiguousarray(values, dtype=np.float32).reshape(-1).view(np.uint32))
    try:
        with np.errstate(over="raise"):
            return np.ascontiguousarray(values, dtype={"F16": "<f2", "F32": "<f4"}[dtype])
    except FloatingPointError:
        raise InvalidArgument(
            f"{what} holds {np.abs(values).max():g}, more than {dtype} can; use bfloat16 or float32", field="dtype"
        ) from None


def _bfloat16(bits: npt.NDArray[np.uint32]) -> npt.NDArray[np.uint16]:
    """The upper halves of finite float32 numbers, rounded to nearest even; a piece that the cache holds at a time."""
    rounded = np.empty(bits.size, dtype="<u2")
    for start in range(0, bits.size, _PIECE):
        piece = bits[start : start + _PIECE]
        upper = piece >> 16
        upper &= 1
        upper += piece
        upper += 0x7FFF
        upper >>= 16
        rounded[start : start + _PIECE] = upper
    return rounded


def drop_outdated(target: Path) -> None:
    """Removes what was made of the files that a checkpoint used to have; processes that map them keep their pages."""
    key = target.name.split("-")[0]
    for file in target.parent.iterdir():
        if file.suffix in _MADE and not file.name.startswith(key):
            file.unlink(missing_ok=True)
