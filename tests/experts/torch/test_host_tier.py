import threading

import pytest
import torch

from triptych.core.errors import TriptychError, Unavailable
from triptych.experts.torch.host_slots import HostPool, Key
from triptych.experts.torch.host_tier import HostTier


class File:
    """Experts full of their own numbers; the first read waits until it may go on."""

    def __init__(self) -> None:
        self.reads: list[tuple[int, int]] = []
        self.started = threading.Event()
        self.go_on = threading.Event()
        self.error: TriptychError | None = None

    def read(self, layer: int, expert: int, into: torch.Tensor, *, rounded: bool) -> None:
        self.reads.append((layer, expert))
        self.started.set()
        assert self.go_on.wait(60)
        if self.error is not None:
            raise self.error
        into.fill_(10 * layer + expert)


@pytest.fixture
def file() -> File:
    return File()


def opened(file: File, slots: int = 3, parts: int = 1) -> HostTier:
    pool = HostPool(slots, parts, slot_bytes=8)
    return HostTier(file, pool, torch.zeros(pool.nbytes, dtype=torch.uint8), readers=1)  # type: ignore[arg-type]


def held(tier: HostTier, layer: int, expert: int, *, rounded: bool = False) -> int:
    slot = tier.hold(Key(layer, expert, rounded), "prefetch")
    assert slot is not None
    return slot


def test_what_is_read_is_there_for_whoever_holds_it_next(file: File) -> None:
    file.go_on.set()
    tier = opened(file)
    slot = held(tier, 1, 2)
    assert tier.wait(slot) is None
    tier.release(slot)
    assert held(tier, 1, 2) == slot
    assert tier.intact(slot)
    assert tier.blob(slot).tolist() == [12] * 8
    assert file.reads == [(1, 2)]
    tier.close()


def test_no_slot_is_given_away_while_all_are_held(file: File) -> None:
    file.go_on.set()
    tier = opened(file, slots=2)
    first, second = held(tier, 0, 0), held(tier, 0, 1)
    assert tier.hold(Key(0, 2), "demand") is None
    assert tier.wait(first) is None
    tier.release(first)
    assert held(tier, 0, 2) == first
    assert tier.wait(second) is None
    tier.close()


def test_a_read_that_one_of_two_gives_up_is_done_for_the_other(file: File) -> None:
    tier = opened(file)
    busy = held(tier, 0, 0)
    assert file.started.wait(60)
    slot = held(tier, 0, 1)
    assert held(tier, 0, 1) == slot
    assert tier.drop(slot)
    file.go_on.set()
    assert tier.wait(slot) is None
    assert tier.blob(slot).tolist() == [1] * 8
    assert tier.wait(busy) is None
    tier.close()


def test_a_read_that_all_have_given_up_is_not_done(file: File) -> None:
    tier = opened(file)
    busy = held(tier, 0, 0)
    assert file.started.wait(60)
    slot = held(tier, 0, 1)
    assert not tier.drop(busy)
    assert tier.drop(slot)
    file.go_on.set()
    assert tier.wait(busy) is None
    tier.close()
    assert file.reads == [(0, 0)]


def test_a_failure_is_told_to_all_who_hold_it_and_the_next_one_reads_again(file: File) -> None:
    file.error = Unavailable("the disk is gone")
    file.go_on.set()
    tier = opened(file)
    slot = held(tier, 0, 1)
    assert held(tier, 0, 1) == slot
    for _ in range(2):
        assert tier.wait(slot) is file.error
        assert not tier.intact(slot)
        tier.release(slot)
    file.error = None
    again = held(tier, 0, 1)
    assert tier.wait(again) is None
    assert file.reads == [(0, 1), (0, 1)]
    tier.close()


def come(tier: HostTier, expert: int, *, rounded: bool) -> int:
    """Held, and what has been read into it."""
    slot = held(tier, 0, expert, rounded=rounded)
    tier.wait(slot)
    return slot


def test_a_rounded_expert_makes_room_when_the_exact_one_has_come(file: File) -> None:
    file.go_on.set()
    tier = opened(file, slots=2, parts=2)
    older, newer = come(tier, 5, rounded=True), come(tier, 1, rounded=True)
    tier.release(older)
    tier.release(newer)
    exact = come(tier, 1, rounded=False)
    tier.release(exact)

    assert come(tier, 7, rounded=True) == newer

    assert held(tier, 0, 5, rounded=True) == older
    assert held(tier, 0, 1, rounded=True) == exact
    assert file.reads == [(0, 5), (0, 1), (0, 1), (0, 7)]
    tier.close()


def test_a_rounded_expert_that_is_needed_stays_until_it_is_not(file: File) -> None:
    file.go_on.set()
    tier = opened(file, slots=2, parts=2)
    older, needed = come(tier, 5, rounded=True), come(tier, 1, rounded=True)
    exact = come(tier, 1, rounded=False)
    tier.release(older)
    assert tier.blob(needed).tolist() == [1] * 8

    tier.release(needed)

    assert come(tier, 7, rounded=True) == needed
    assert held(tier, 0, 5, rounded=True) == older
    assert tier.blob(exact).tolist() == [1] * 16
    assert file.reads == [(0, 5), (0, 1), (0, 1), (0, 7)]
    tier.close()


def test_a_rounded_expert_stays_while_the_exact_one_has_not_come_or_could_not(file: File) -> None:
    file.go_on.set()
    tier = opened(file, slots=2, parts=2)
    rounded = come(tier, 1, rounded=True)
    file.error = Unavailable("the disk is gone")
    exact = held(tier, 0, 1)
    tier.release(rounded)
    assert tier.wait(exact) is file.error
    tier.release(exact)
    file.error = None

    assert come(tier, 1, rounded=True) == rounded

    assert file.reads == [(0, 1), (0, 1)]
    tier.close()
