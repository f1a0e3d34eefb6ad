"""Tensors that cannot be used as they lie are converted once per host, into a safetensors file of the cache.

The file is named after its source (place, size, time of writing), the dtype and the names it holds. Two workers that
want the same tensors share its pages, and the second start only maps it.
"""

import hashlib
from collections.abc import Sequence
from math import prod
from pathlib import Path
from typing import BinaryIO

import torch

from triptych.core.errors import TriptychError
from triptych.models.cache import build_file, cache_directory, file_key, require_space
from triptych.models.mapping import Extent
from triptych.models.progress import Advance, Progress
from triptych.models.safetensors_header import layout, read_header
from triptych.models.sources import DTYPES, Source

_VERSION = 1  # of the meaning of converted values
_CHUNK = 32 << 20  # bytes of float32 held at a time
_STORED = {dtype: name for name, dtype in DTYPES.items()}


def convert(source: Source, names: Sequence[str], dtype: torch.dtype, progress: Progress) -> dict[str, Extent]:
    """Returns where the tensors lie in `dtype`, converting them if nobody did before.

    Raises:
        ResourceExhausted: the cache disk has no room.
        Unimplemented: a tensor is stored in a way that is not read.
    """
    target = _target(source.path, names, dtype)
    shapes = source.shapes
    start, placed = layout((name, _STORED[dtype], shapes[name]) for name in names)
    size = len(start) + sum(stored.nbytes for stored in placed.values())

    def write(partial: Path) -> None:
        _drop_outdated(target)
        require_space(target.parent, size, f"Converting {source.path.name} to {_STORED[dtype]}")
        with progress.task(f"Converting {source.path.name}", size) as advance, partial.open("wb") as file:
            advance(file.write(start))
            for name in placed:
                _copy(source, name, shapes[name], dtype, file, advance)

    def intact(path: Path) -> bool:
        try:
            return read_header(path) == placed
        except TriptychError:
            return False

    build_file(target, write, intact=intact)
    return {name: Extent(target, stored.offset, stored.shape, dtype) for name, stored in placed.items()}


def _copy(
    source: Source, name: str, shape: tuple[int, ...], dtype: torch.dtype, file: BinaryIO, advance: Advance
) -> None:
    """Writes one tensor, a few rows at a time, so that memory stays bounded whatever its size."""
    step = max(1, _CHUNK // (4 * max(1, prod(shape[1:]))))
    for first in range(0, shape[0], step):
        rows = source.read(name, first, min(first + step, shape[0]))
        plain = rows.to(dtype).contiguous().view(-1).view(torch.uint8)
        advance(file.write(plain.numpy().data))


def _target(path: Path, names: Sequence[str], dtype: torch.dtype) -> Path:
    place = hashlib.blake2b(str(path.resolve()).encode(), digest_size=6).hexdigest()
    content = hashlib.blake2b("\0".join((str(_VERSION), *sorted(names))).encode(), digest_size=6).hexdigest()
    folder = cache_directory() / "weights" / f"{path.stem}-{place}"
    return folder / f"{file_key(path)}-{_STORED[dtype].lower()}-{content}.safetensors"


def _drop_outdated(target: Path) -> None:
    """Removes conversions of what the source used to hold; processes that map them keep their pages."""
    key = target.name.split("-")[0]
    for file in target.parent.glob("*.safetensors"):
        if not file.name.startswith(key):
            file.unlink(missing_ok=True)
