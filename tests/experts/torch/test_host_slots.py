"""Rounded experts and exact ones in the same host memory."""

import random

import pytest

from triptych.experts.torch.host_slots import HostSlots, Key


def coarse(number: int) -> Key:
    return Key(0, number, rounded=True)


def exact(number: int) -> Key:
    return Key(0, number)


def test_rounded_experts_fill_a_frame_before_they_begin_another() -> None:
    slots = HostSlots(2, parts=3)
    assert [slots.take(coarse(number)) for number in range(4)] == [0, 1, 2, 3]
    assert slots.key(3) == coarse(3)


def test_an_exact_expert_takes_the_whole_frame_that_nobody_has_used_for_longest() -> None:
    slots = HostSlots(2, parts=2)
    for number in range(4):
        slots.take(coarse(number))
    slots.find(coarse(0))
    assert slots.take(exact(9)) == 2
    assert [slots.find(coarse(number)) for number in range(4)] == [0, 1, None, None]


def test_a_frame_is_not_taken_while_somebody_needs_one_of_its_slots() -> None:
    slots = HostSlots(2, parts=2)
    for number in range(4):
        slots.take(coarse(number))
    slots.pin(0)
    assert slots.take(exact(9)) == 2
    slots.pin(2)
    assert slots.take(exact(8)) is None
    assert slots.take(coarse(7)) == 1
    slots.pin(1)
    assert slots.take(coarse(6)) is None


def test_an_exact_expert_makes_room_for_as_many_rounded_ones_as_its_frame_has_slots() -> None:
    slots = HostSlots(1, parts=3)
    assert slots.take(exact(0)) == 0
    assert [slots.take(coarse(number)) for number in range(3)] == [0, 1, 2]
    assert slots.find(exact(0)) is None


def test_a_frame_that_all_have_left_takes_an_exact_expert() -> None:
    slots = HostSlots(1, parts=2)
    slots.take(coarse(0))
    slots.take(coarse(1))
    slots.forget(coarse(0))
    slots.forget(coarse(1))
    assert slots.take(exact(2)) == 0
    assert slots.take(coarse(3)) == 0  # in its stead


def test_who_may_be_rounded_may_be_found_exact_and_not_the_other_way_round() -> None:
    slots = HostSlots(2, parts=2)
    slots.take(coarse(0))
    assert slots.find(exact(0)) is None
    slots.take(exact(0))
    assert slots.find(coarse(0)) == slots.find(exact(0)) == 2


@pytest.mark.parametrize("parts", [1, 2, 4])
def test_nobody_shares_memory_and_there_is_room_while_fewer_slots_than_frames_are_held(parts: int) -> None:
    frames = 6
    slots, held = HostSlots(frames, parts), dict[int, Key]()
    for _ in range(3000):
        if len(held) == frames - 1 or (held and random.random() < 0.4):
            slot = random.choice(list(held))
            assert slots.unpin(slot)
            if random.random() < 0.2:
                slots.forget(held[slot])
            del held[slot]
            continue
        key = Key(0, random.randrange(30), rounded=parts > 1 and random.random() < 0.6)
        found = slots.find(key)
        taken = slots.take(key) if found is None else found
        assert taken is not None
        if taken not in held:
            slots.pin(taken)
            held[taken] = slots.key(taken)
        assert all(slots.key(slot) == key for slot, key in held.items())
        used = [part for who, at in slots._where.items() for part in range(at, at + (1 if who.rounded else parts))]
        assert len(used) == len(set(used))
        assert set(used) <= set(range(frames * parts))
        spare = {part for frame in slots._empty for part in range(frame * parts, (frame + 1) * parts)}
        assert sorted([*used, *spare, *slots._gaps]) == list(range(frames * parts))
