"""The pages of a KV pool: its geometry, and the three things a transfer does with pages."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import xxhash

from triptych.core.errors import InvalidArgument
from triptych.transfer.runs import Run, RunPair
from triptych.transfer.segment import Bytes, SharedSegment


@dataclass(frozen=True, slots=True)
class PoolGeometry:
    """Shape of a pool `[layer, block, page]`; a page is what one layer keeps of the tokens of one block.

    Attributes:
        layers: Layers of the model.
        blocks: Blocks of the pool.
        page_bytes: Bytes of one page: keys and values, or the vectors that latent attention makes both of.
    """

    layers: int
    blocks: int
    page_bytes: int

    def __post_init__(self) -> None:
        for field in ("layers", "blocks", "page_bytes"):
            if getattr(self, field) <= 0:
                raise InvalidArgument(
                    f"{field} of a KV pool must be positive, got {getattr(self, field)}", field=field
                )

    @property
    def size(self) -> int:
        """Bytes of the pool."""
        return self.layers * self.blocks * self.page_bytes

    @property
    def block_bytes(self) -> int:
        """Bytes of one block over all layers."""
        return self.layers * self.page_bytes


class Pages:
    """A pool's memory, addressed by runs of blocks. Every run is taken in all layers.

    The calls that move or read bytes release the GIL.

    Raises:
        InvalidArgument: The memory does not have the size of the geometry.
    """

    def __init__(self, pool: SharedSegment | Bytes | bytearray, geometry: PoolGeometry) -> None:
        array = pool.array if isinstance(pool, SharedSegment) else np.frombuffer(pool, dtype=np.uint8)
        if array.size != geometry.size:
            raise InvalidArgument(f"the KV pool must have {geometry.size} bytes, got {array.size}", field="pool")
        self.geometry = geometry
        self._array = array.reshape(geometry.layers, geometry.blocks, geometry.page_bytes)

    @property
    def writable(self) -> bool:
        """Whether pages may be written."""
        return self._array.flags.writeable

    def pieces(self, runs: Sequence[Run]) -> list[memoryview]:
        """Contiguous memory in (layer, run) order: one piece per layer and run."""
        flat = self._array.data.cast("B")
        page, row = self.geometry.page_bytes, self.geometry.blocks * self.geometry.page_bytes
        pieces = []
        for layer in range(self.geometry.layers):
            for run in runs:
                start = layer * row + run.start * page
                pieces.append(flat[start : start + run.count * page])
        return pieces

    def checksum(self, runs: Sequence[Run]) -> int:
        """xxh3-64 of the pages in (layer, block) order."""
        digest = xxhash.xxh3_64()
        if len(runs) == 1:
            for piece in self.pieces(runs):
                digest.update(piece)
            return digest.intdigest()
        # Scattered pages are gathered first: two calls per layer that release the GIL, instead of one per page.
        blocks = np.concatenate([np.arange(run.start, run.start + run.count) for run in runs])
        layer = np.empty((len(blocks), self.geometry.page_bytes), dtype=np.uint8)
        for pages in self._array:
            np.take(pages, blocks, axis=0, out=layer, mode="clip")
            digest.update(layer.data)
        return digest.intdigest()

    def copy_from(self, source: "Pages", pair: RunPair) -> None:
        """Copies one run of another pool of equal layers and pages, all layers in one call."""
        np.copyto(
            self._array[:, pair.target : pair.target + pair.count],
            source._array[:, pair.source : pair.source + pair.count],
        )
