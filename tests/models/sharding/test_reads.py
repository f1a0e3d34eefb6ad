"""The bytes that the disk is asked for are the pages of a part, and no more than those of the whole."""

import random
from mmap import PAGESIZE
from pathlib import Path

import pytest

from triptych.kernels.gguf_blocks import GGUF_BLOCKS
from triptych.models.extent import Extent
from triptych.models.sharding import Columns, Interval, Rows
from triptych.models.sharding.reads import reads
from triptych.models.sharding.slices import Slice
from triptych.models.stored import BlockKind, Stored, StoredBlocks, StoredInt8

ANYWHERE = Path("model.safetensors")


def asked(stored: Stored, cut: Slice | None) -> int:
    return sum(map(len, reads(stored, cut)))


def some(total: int) -> Interval:
    start, stop = sorted(random.sample(range(total + 1), 2))
    return Interval(start, stop)


def pages_of(bounds: list[tuple[int, int]]) -> set[int]:
    return {page for start, stop in bounds for page in range(start // PAGESIZE, -(-stop // PAGESIZE))}


def test_all_pages_of_a_part_are_asked_for_once_and_others_only_in_narrow_gaps(seed: int) -> None:
    for _ in range(60):
        rows, columns = random.randint(1, 30), random.randint(1, 12_000)
        extent = Extent(ANYWHERE, 4 * random.randint(0, 5000), (rows, columns), "F32")
        cut: Slice = random.choice((Rows(some(rows)), Columns(some(columns))))
        interval, row = cut.interval, 4 * columns
        match cut:
            case Rows():
                wanted = [(extent.offset + interval.start * row, extent.offset + interval.stop * row)]
                gap = row
            case Columns():
                starts = [extent.offset + number * row + 4 * interval.start for number in range(rows)]
                wanted = [(start, start + 4 * interval.size) for start in starts]
                gap = row - 4 * interval.size
        runs = reads(extent, cut)
        taken = pages_of([(run.start, run.stop) for run in runs])
        assert sum(map(len, runs)) == len(taken) * PAGESIZE, f"seed {seed}"
        assert pages_of(wanted) <= taken <= pages_of([(wanted[0][0], wanted[-1][1])]), f"seed {seed}"
        assert taken == pages_of(wanted) or gap < 2 * PAGESIZE, f"seed {seed}"


@pytest.mark.parametrize("ranks", [2, 3, 4, 8])
def test_ranks_ask_for_a_matrix_once_between_them(ranks: int) -> None:
    outputs, inputs = 96 * ranks, 16_384 * ranks
    forms: list[Stored] = [Extent(ANYWHERE, 0, (outputs, inputs), "BF16")]
    values = Extent(ANYWHERE, 0, (outputs // 16, inputs // 4, 16, 4), "I8")
    forms.append(StoredInt8(values, Extent(ANYWHERE, values.nbytes, (outputs,), "F32"), inputs))
    kinds: tuple[BlockKind, ...] = ("Q8_0", "Q4_K")
    for kind in kinds:
        elements, size = GGUF_BLOCKS[kind]
        blocks = Extent(ANYWHERE, 0, (outputs, inputs // elements * size), "U8")
        forms.append(StoredBlocks(blocks, kind, inputs))
    for stored in forms:
        whole = asked(stored, None)
        rows = [Rows(Interval(96 * rank, 96 * (rank + 1))) for rank in range(ranks)]
        columns = [Columns(Interval(16_384 * rank, 16_384 * (rank + 1))) for rank in range(ranks)]
        slack = 4 * PAGESIZE * ranks  # pages on the border of two parts, and the scales of rows
        assert whole <= sum(asked(stored, cut) for cut in rows) <= whole + slack
        between = 0 if isinstance(stored, Extent) else outputs * ranks * PAGESIZE
        assert whole <= sum(asked(stored, cut) for cut in columns) <= whole + slack + between


def test_nothing_is_asked_for_of_a_tensor_without_elements() -> None:
    assert reads(Extent(ANYWHERE, PAGESIZE, (0, 4), "F32"), None) == []
