"""A disk that readers share, in virtual time."""

import pytest

from triptych.experts.cache import ExpertCache, LastUse, Load, Ready
from triptych.experts.traces.device import Disk

EXPERTS = 8


@pytest.fixture
def cache() -> ExpertCache:
    return ExpertCache(2 * EXPERTS, (0, 0), [LastUse([0.0] * EXPERTS) for _ in range(2)])


def there(cache: ExpertCache, loads: tuple[Load, ...]) -> list[bool]:
    return [isinstance(cache.slots[load.slot], Ready) for load in loads]


def test_reads_under_way_share_the_disk(cache: ExpertCache) -> None:
    disk = Disk(cache, (1.0,), 2)
    found = cache.ensure(0, (0, 1, 2))
    disk.ask(0.0, found.loads)
    disk.until(1.9)
    assert there(cache, found.loads) == [False, False, False]
    disk.until(2.0)
    assert there(cache, found.loads) == [True, True, False]
    assert disk.wait(found.slots) == pytest.approx(3)
    assert disk.reads == 3


def test_one_reader_is_left_for_what_a_step_waits_for(cache: ExpertCache) -> None:
    disk = Disk(cache, (1.0,), 3)
    ahead = cache.prefetch(1, range(4), EXPERTS)
    disk.ask(0.0, ahead)
    disk.until(1.0)
    found = cache.ensure(0, (5,))
    disk.ask(1.0, found.loads)
    assert disk.wait(found.slots) == pytest.approx(4), "a third of the disk at a time"
    assert there(cache, ahead) == [True, True, False, False]


def test_a_single_reader_ends_what_it_has_begun(cache: ExpertCache) -> None:
    disk = Disk(cache, (1.0,), 1)
    ahead = cache.prefetch(1, range(4), EXPERTS)
    disk.ask(0.0, ahead)
    found = cache.ensure(0, (5,))
    disk.ask(0.5, found.loads)
    assert disk.wait(found.slots) == pytest.approx(2)
    assert there(cache, ahead) == [True, False, False, False]


def test_readers_share_the_pieces_of_an_expert(cache: ExpertCache) -> None:
    disk = Disk(cache, (1.0, 1.0, 0.5), 2)
    found = cache.ensure(0, (0, 1))
    disk.ask(0.0, found.loads)
    disk.until(2.9)
    assert there(cache, found.loads) == [False, False], "two of the first, and half a second of its last"
    disk.until(3.0)
    assert there(cache, found.loads) == [True, False]
    assert disk.wait(found.slots) == pytest.approx(5)
    assert disk.reads == 2


def test_a_piece_is_all_that_a_demanded_expert_waits_for(cache: ExpertCache) -> None:
    disk = Disk(cache, (0.25,) * 4, 1)
    ahead = cache.prefetch(1, range(4), EXPERTS)
    disk.ask(0.0, ahead)
    found = cache.ensure(0, (5,))
    disk.ask(0.1, found.loads)
    assert disk.wait(found.slots) == pytest.approx(0.25 + 1)
    assert not any(there(cache, ahead))


def test_an_expert_is_dropped_unless_a_piece_of_it_has_come(cache: ExpertCache) -> None:
    disk = Disk(cache, (0.5, 0.5, 0.5), 2)
    ahead = cache.prefetch(1, range(4), EXPERTS)
    disk.ask(0.0, ahead)
    disk.until(0.6)
    assert disk.reach(1, (3,)) == 2, "of the first a piece is there, and the last is asked for"
    found = cache.ensure(1, (3,))
    disk.ask(0.6, found.loads)
    assert disk.wait(found.slots) == pytest.approx(2.6), (
        "beside 0.4 seconds of the piece under way, and the beginning of the last"
    )
    assert there(cache, ahead)[0] is False
    disk.until(9.0)
    assert there(cache, ahead[:1]) == [True], "it is read to the end, behind all others"
    assert disk.reads == 2


def test_what_a_layer_is_reached_for_is_demanded_or_dropped(cache: ExpertCache) -> None:
    disk = Disk(cache, (1.0,), 2)
    ahead = cache.prefetch(1, range(4), EXPERTS)
    disk.ask(0.0, ahead)
    assert disk.reach(1, (3,)) == 2, "the first is under way"
    found = cache.ensure(1, (3,))
    assert (found.loads, found.covered) == ((), 1)
    disk.ask(0.0, found.loads)
    assert disk.wait(found.slots) == pytest.approx(2)
