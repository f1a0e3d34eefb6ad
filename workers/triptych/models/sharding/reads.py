"""Where in its file that part of a weight lies that a rank takes: this much the disk is asked for, ahead of use."""

from collections.abc import Iterable
from itertools import chain
from mmap import PAGESIZE
from typing import assert_never

from triptych.kernels.gguf_blocks import GGUF_BLOCKS
from triptych.kernels.weights import INPUT_TILE, OUTPUT_TILE
from triptych.models.extent import Extent
from triptych.models.sharding.cuts import Columns, Rows
from triptych.models.sharding.slices import Slice
from triptych.models.stored import Stored, StoredBlocks, StoredInt8


def reads(stored: Stored, cut: Slice | None) -> list[range]:
    """Runs of bytes in the file, each of whole pages.

    Rows are one run. Columns are one for each row, if that leaves at least a page out between any two; else all is
    one, from the first row to the last.

    Args:
        stored: Where the whole weight lies.
        cut: The part of it; None for all.
    """
    return list(chain.from_iterable(_runs(extent, part) for extent, part in _arrays(stored, cut) if extent.nbytes))


def inner(runs: Iterable[range]) -> list[range]:
    """The pages that lie between others of these runs: what is beside them has no byte there.

    Args:
        runs: Of whole pages, in any order; they may overlap.
    """
    joined: list[range] = []
    for run in sorted(runs, key=lambda run: run.start):
        if joined and run.start <= joined[-1].stop:
            joined[-1] = range(joined[-1].start, max(joined[-1].stop, run.stop))
        else:
            joined.append(run)
    return [range(run.start + PAGESIZE, run.stop - PAGESIZE) for run in joined if len(run) > 2 * PAGESIZE]


def _arrays(stored: Stored, cut: Slice | None) -> list[tuple[Extent, Slice | None]]:
    """The arrays that a weight consists of, and the part of each by its own first two dimensions."""
    match stored:
        case Extent():
            return [(stored, cut)]
        case StoredInt8():
            return _tiles(stored, cut)
        case StoredBlocks(blocks, kind):
            elements, size = GGUF_BLOCKS[kind]
            by_bytes = Columns(cut.interval.around(elements).times(size)) if isinstance(cut, Columns) else cut
            return [(blocks, by_bytes)]
        case _:
            assert_never(stored)


def _tiles(stored: StoredInt8, cut: Slice | None) -> list[tuple[Extent, Slice | None]]:
    match cut:
        case None:
            return [(stored.values, None), (stored.scales, None)]
        case Rows(interval):
            return [(stored.values, Rows(interval.around(OUTPUT_TILE))), (stored.scales, cut)]
        case Columns(interval):
            return [(stored.values, Columns(interval.around(INPUT_TILE))), (stored.scales, None)]
        case _:
            assert_never(cut)


def _runs(extent: Extent, cut: Slice | None) -> list[range]:
    first = extent.offset
    match cut:
        case None:
            return [_pages(first, first + extent.nbytes)]
        case Rows(interval):
            part = interval.times(extent.nbytes // extent.shape[0])
            return [_pages(first + part.start, first + part.stop)]
        case Columns(interval):
            rows, row = extent.shape[0], extent.nbytes // extent.shape[0]
            part = interval.times(row // extent.shape[1])
            starts = range(first + part.start, first + part.start + rows * row, row)
            if row - part.size < 2 * PAGESIZE:  # a wider gap has a page to itself, wherever it begins
                return [_pages(starts[0], starts[-1] + part.size)]
            return [_pages(start, start + part.size) for start in starts]
        case _:
            assert_never(cut)


def _pages(start: int, stop: int) -> range:
    return range(start // PAGESIZE * PAGESIZE, -(-stop // PAGESIZE) * PAGESIZE)
