"""Contiguous parts of a dimension."""

import random
from itertools import pairwise

import pytest

from triptych.models.sharding import Interval, intervals, shares


def sizes(parts: tuple[Interval, ...]) -> list[int]:
    return [part.size for part in parts]


def require_covered(parts: tuple[Interval, ...], total: int) -> None:
    assert (parts[0].start, parts[-1].stop) == (0, total)
    assert all(before.stop == after.start for before, after in pairwise(parts))


def test_parts_cover_everything_and_differ_by_one_granule_at_most() -> None:
    for _ in range(500):
        total, parts, granule = random.randint(1, 3000), random.randint(1, 9), random.choice((1, 2, 3, 16, 64, 100))
        found = intervals(total, parts, granule)
        require_covered(found, total)
        assert len(found) == parts
        assert all(part.start % granule == 0 or part.start == total for part in found)
        granules = [-(-part.size // granule) for part in found]
        assert max(granules) - min(granules) <= 1
        assert granules == sorted(granules, reverse=True)


@pytest.mark.parametrize(
    ("total", "parts", "block", "expected"),
    [
        (1536, 4, 32, [384, 384, 384, 384]),
        (1536, 4, 256, [512, 512, 256, 256]),  # blocks stay whole though that is uneven
        (4864, 8, 1, [640, 640, 640, 640, 576, 576, 576, 576]),
        (48, 4, 1, [12, 12, 12, 12]),  # 64 would leave ranks without any
        (80, 4, 32, [20, 20, 20, 20]),  # fewer blocks than ranks
        (3, 2, 1, [2, 1]),
        (49152, 4, 1, [12288] * 4),
    ],
)
def test_a_width_is_cut_at_large_round_numbers_while_that_is_fair(
    total: int, parts: int, block: int, expected: list[int]
) -> None:
    assert sizes(shares(total, parts, block)) == expected


def test_no_rank_is_left_without_a_part_of_a_width() -> None:
    for _ in range(500):
        parts = random.randint(1, 9)
        total, block = random.randint(parts, 5000), random.choice((1, 32, 256))
        found = shares(total, parts, block)
        require_covered(found, total)
        assert min(sizes(found)) >= 1
        if -(-total // block) >= parts:
            assert all(part.start % block == 0 for part in found)


def test_an_interval_of_heads_covers_the_rows_of_those_heads() -> None:
    assert Interval(2, 5).times(64) == Interval(128, 320)
    assert list(range(10))[Interval(2, 5).slice] == [2, 3, 4]
