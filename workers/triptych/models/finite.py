"""Weights that are used where they lie hold finite numbers only: read once per host, and remembered in the cache."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

from triptych.core.errors import DataLoss, FailedPrecondition, ResourceExhausted
from triptych.models.cache import build_file
from triptych.models.conversion import cached_path, drop_outdated
from triptych.models.extent import Extent
from triptych.models.progress import Advance, Progress
from triptych.models.sources import Source, read_rows
from triptych.models.stored import StoredBlocks

_CHUNK = 1 << 17  # bytes that stay in a core's own cache
_UNSIGNED: Mapping[str, tuple[str, int]] = {
    "F16": ("<u2", 0xF800),
    "BF16": ("<u2", 0xFF00),
    "F32": ("<u4", 0xFF000000),
}
"""For each type its bits as integers, and, with the sign shifted out, those of infinity; above it are the NaNs."""
_FACTORS: Mapping[str, tuple[int, ...]] = {
    "Q4_0": (0,), "Q4_1": (0, 2), "Q5_0": (0,), "Q5_1": (0, 2), "Q8_0": (0,), "Q4_K": (0, 2), "Q5_K": (0, 2),
    "Q6_K": (208,),
}  # fmt: skip
"""Where the float16 numbers lie in a block; all else in it are integers. Source: ggml's ggml-common.h."""


def require_finite(source: Source, stored: Mapping[str, Extent | StoredBlocks], progress: Progress) -> None:
    """Refuses tensors that hold NaN or infinity, unless they were found finite before.

    A file of the cache remembers that they were; where the cache cannot be written, they are read at every start.

    Args:
        source: Describes the tensors.
        stored: Where they lie, by name. Integers are finite.
        progress: Told about a first reading.

    Raises:
        DataLoss: names the file and the tensor.
    """
    floats = {name: part for name, part in stored.items() if _has_floats(part)}
    if not floats:
        return
    size = sum(_whole(part).nbytes for part in floats.values())

    def check(advance: Advance) -> None:
        for name, part in floats.items():
            if not _finite(part, advance):
                raise DataLoss(f"{source.describe(name)} holds NaN or infinity; every weight must be a finite number")

    target = cached_path(source, sorted(floats), "checked", ".finite")

    def build(partial: Path) -> None:
        drop_outdated(target)
        with progress.task(f"Checking {source.path.name}", size) as advance:
            check(advance)
        partial.touch()

    try:
        build_file(target, build, intact=Path.is_file)
    except (FailedPrecondition, ResourceExhausted):
        check(lambda count: None)


def _finite(part: Extent | StoredBlocks, advance: Advance) -> bool:
    whole = _whole(part)
    raw = read_rows(Extent(whole.path, whole.offset, (whole.nbytes,), "U8"))
    if isinstance(part, StoredBlocks):
        _, size = GGML_QUANT_SIZES[GGMLQuantizationType[part.kind]]
        pieces = (
            np.ascontiguousarray(blocks[:, place : place + 2])
            for blocks in _chunks(raw.reshape(-1, size), advance)
            for place in _FACTORS[part.kind]
        )
        return all(_finite_bits(piece.reshape(-1), "F16") for piece in pieces)
    return all(_finite_bits(piece, part.dtype) for piece in _chunks(raw, advance))


def _has_floats(part: Extent | StoredBlocks) -> bool:
    return isinstance(part, StoredBlocks) or part.dtype in _UNSIGNED


def _whole(part: Extent | StoredBlocks) -> Extent:
    return part.blocks if isinstance(part, StoredBlocks) else part


def _chunks(raw: npt.NDArray[np.uint8], advance: Advance) -> Iterator[npt.NDArray[np.uint8]]:
    step = max(1, _CHUNK // max(1, raw[:1].size))
    for start in range(0, len(raw), step):
        yield raw[start : start + step]
        advance(raw[start : start + step].size)


def _finite_bits(raw: npt.NDArray[np.uint8], dtype: str) -> bool:
    # Faster by far than np.isfinite, and bfloat16 has no such function.
    kind, infinity = _UNSIGNED[dtype]
    return int(np.left_shift(raw.view(kind), 1).max()) < infinity
