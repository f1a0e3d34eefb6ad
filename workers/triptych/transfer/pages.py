"""The pages of a KV pool, and the three things a transfer does with them."""

from collections.abc import Sequence

import numpy as np
import xxhash

from triptych.core.errors import InvalidArgument
from triptych.transfer.geometry import PoolGeometry
from triptych.transfer.heads import Heads
from triptych.transfer.runs import Run, RunPair, block_count
from triptych.transfer.segment import Bytes, SharedSegment


class Pages:
    """A pool's memory, addressed by runs of blocks and by heads. Every run is taken in all layers.

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
        self._heads = array.reshape(
            geometry.layers, geometry.blocks, geometry.sides, geometry.heads.count * geometry.head_bytes
        )

    @property
    def writable(self) -> bool:
        """Whether pages may be written."""
        return self._array.flags.writeable

    def pieces(self, runs: Sequence[Run], heads: Heads) -> list[memoryview]:
        """Contiguous memory in (layer, block, side, head) order.

        One piece per layer and run where whole pages are meant, else one per layer, block and side.
        """
        flat = self._array.data.cast("B")
        page, row = self.geometry.page_bytes, self.geometry.blocks * self.geometry.page_bytes
        if heads == self.geometry.heads:
            spans = [(run.start * page, (run.start + run.count) * page) for run in runs]
        else:
            spans = self._slice_spans(runs, heads)
        pieces = []
        for layer in range(0, self.geometry.size, row):
            for start, end in spans:
                pieces.append(flat[layer + start : layer + end])
        return pieces

    def checksum(self, runs: Sequence[Run], heads: Heads) -> int:
        """xxh3-64 of the bytes in (layer, block, side, head) order."""
        if heads != self.geometry.heads:
            return self._slice_checksum(runs, heads)
        digest = xxhash.xxh3_64()
        if len(runs) == 1:
            for piece in self.pieces(runs, heads):
                digest.update(piece)
            return digest.intdigest()
        # Scattered pages are gathered first: two calls per layer that release the GIL, instead of one per page.
        blocks = np.concatenate([np.arange(run.start, run.start + run.count) for run in runs])
        layer = np.empty((len(blocks), self.geometry.page_bytes), dtype=np.uint8)
        for pages in self._array:
            np.take(pages, blocks, axis=0, out=layer, mode="clip")
            digest.update(layer.data)
        return digest.intdigest()

    def copy_from(self, source: "Pages", pair: RunPair, heads: Heads) -> None:
        """Copies one run of heads from another pool with heads alike, all layers in one call."""
        there = slice(pair.source, pair.source + pair.count)
        here = slice(pair.target, pair.target + pair.count)
        if heads == self.geometry.heads == source.geometry.heads:
            np.copyto(self._array[:, here], source._array[:, there])
        else:
            np.copyto(self._heads[:, here, :, self._span(heads)], source._heads[:, there, :, source._span(heads)])

    def _slice_spans(self, runs: Sequence[Run], heads: Heads) -> list[tuple[int, int]]:
        """Where the heads begin and end in a layer, by block and side."""
        page, span = self.geometry.page_bytes, self._span(heads)
        return [
            (side + span.start, side + span.stop)
            for run in runs
            for block in range(run.start, run.start + run.count)
            for side in range(block * page, (block + 1) * page, page // self.geometry.sides)
        ]

    def _slice_checksum(self, runs: Sequence[Run], heads: Heads) -> int:
        digest, span = xxhash.xxh3_64(), self._span(heads)
        layer = np.empty((block_count(runs), self.geometry.sides, span.stop - span.start), dtype=np.uint8)
        for pages in self._heads:
            done = 0
            for run in runs:
                np.copyto(layer[done : done + run.count], pages[run.start : run.start + run.count, :, span])
                done += run.count
            digest.update(layer.data)
        return digest.intdigest()

    def _span(self, heads: Heads) -> slice:
        """Where the heads lie on each side of a page."""
        size, first = self.geometry.head_bytes, heads.first - self.geometry.heads.first
        return slice(first * size, (first + heads.count) * size)
