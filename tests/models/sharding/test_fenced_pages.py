"""Pages of a mapped file that stay out of memory whatever is touched beside them."""

import errno
import os
import struct
from collections.abc import Iterable
from mmap import PAGESIZE, PROT_READ, mmap
from pathlib import Path

import pytest
import torch

from triptych.models.mapping import MappedFile, map_file
from triptych.models.sharding.reads import inner

PAGES = 64
PAGEMAP = Path("/proc/self/pagemap")


def pages(*runs: tuple[int, int]) -> list[range]:
    return [range(start * PAGESIZE, stop * PAGESIZE) for start, stop in runs]


def present(file: MappedFile) -> list[bool]:
    """By page: whether this process has it."""
    first = file.content.data_ptr() // PAGESIZE
    with PAGEMAP.open("rb") as entries:
        entries.seek(8 * first)
        words = struct.unpack(f"<{PAGES}Q", entries.read(8 * PAGES))
    return [bool(word >> 63) for word in words]


@pytest.mark.skipif(not PAGEMAP.exists(), reason="needs /proc/self/pagemap")
def test_a_touched_page_maps_its_neighbours_and_none_of_those_fenced(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(PAGES * PAGESIZE))
    open_, fenced = map_file(path), map_file(path)
    for run in pages((8, 40)):
        fenced.fence(run)
    for file in (open_, fenced):
        for page in (7, 40):
            assert file.content[page * PAGESIZE] == 0
    assert any(present(open_)[8:40])
    assert not any(present(fenced)[8:40])
    assert fenced.content[20 * PAGESIZE] == 0
    assert present(fenced)[20]


def test_where_the_system_has_no_room_for_another_mapping_the_file_is_read_all_the_same(tmp_path: Path) -> None:
    class Full(mmap):
        def madvise(self, *args: int) -> None:
            raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))

    path = tmp_path / "file"
    path.write_bytes(bytes([7]) * PAGESIZE)
    with path.open("rb") as opened:
        mapping = Full(opened.fileno(), 0, prot=PROT_READ)
    file = MappedFile(mapping, torch.frombuffer(bytearray(mapping[:]), dtype=torch.uint8))
    file.fence(range(PAGESIZE))
    assert file.content[0] == 7


@pytest.mark.parametrize(
    ("runs", "found"),
    [
        ([(0, 5), (4, 9)], [(1, 8)]),
        ([(5, 9), (0, 5)], [(1, 8)]),
        ([(0, 4), (5, 9)], [(1, 3), (6, 8)]),
        ([(0, 9), (2, 4), (20, 22), (30, 31)], [(1, 8)]),
        ([], []),
    ],
)
def test_edges_belong_to_neighbours(runs: Iterable[tuple[int, int]], found: Iterable[tuple[int, int]]) -> None:
    assert inner(pages(*runs)) == pages(*found)
