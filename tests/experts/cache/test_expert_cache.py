"""What the decisions of the cache promise, whatever is asked for."""

import random

import pytest

from triptych.experts.cache import DecayedUses, Empty, ExpertCache, Fixed, LastUse, Load, Loading, Ready, Scores
from triptych.experts.pool import Pool

LAYERS, EXPERTS, SLOTS, QUOTA = 4, 10, 24, 3


def opened(scores: list[Scores] | None = None, slots: int = SLOTS, quota: int = QUOTA) -> ExpertCache:
    return ExpertCache(slots, [quota] * LAYERS, scores or [DecayedUses([0.0] * EXPERTS) for _ in range(LAYERS)])


def read(cache: ExpertCache, loads: tuple[Load, ...]) -> None:
    for load in loads:
        cache.loaded(load.slot)


def holds(cache: ExpertCache, layer: int, expert: int) -> bool:
    slot = cache.where(layer, expert)
    return slot is not None and isinstance(cache.slots[slot], Ready)


def test_what_a_layer_asks_for_is_there_and_nobody_has_two_slots(seed: int) -> None:
    cache = opened()
    for step in range(200):
        for layer in range(LAYERS):
            wanted = sorted(random.sample(range(EXPERTS), random.choice((1, 3, EXPERTS))))
            ensured = cache.ensure(layer, wanted)
            read(cache, ensured.loads)
            assert ensured.hits + ensured.covered + len(ensured.loads) == len(wanted)
            assert [cache.where(layer, expert) for expert in wanted] == list(ensured.slots)
            assert len(set(ensured.slots)) == len(wanted)
            after = (layer + 1) % LAYERS
            read(cache, cache.prefetch(after, random.sample(range(EXPERTS), 4), most=4))
            assert all(holds(cache, layer, expert) for expert in wanted), step
            assert all(len(kept) <= QUOTA for kept in cache.kept)
        named = [(slot.layer, slot.expert) for slot in cache.slots if not isinstance(slot, Empty)]
        assert len(named) == len(set(named))


def test_the_least_recently_used_and_the_least_used_are_what_goes() -> None:
    asked = [(0, 1, 2), (0, 1, 2), (0, 1, 3), (4,), (5,), (6,)]
    for scores, kept in ((LastUse([0.0] * EXPERTS), {4, 5, 6}), (DecayedUses([0.0] * EXPERTS), {0, 1, 2})):
        cache = opened([scores, *(Fixed([0.0] * EXPERTS) for _ in range(LAYERS - 1))])
        for wanted in asked:
            read(cache, cache.ensure(0, wanted).loads)
        assert set(cache.kept[0]) == kept


def test_fixed_scores_keep_whom_they_name() -> None:
    cache = opened([Fixed([float(expert in (7, 8, 9)) for expert in range(EXPERTS)]) for _ in range(LAYERS)])
    for wanted in ([0, 1, 2], [7, 8], [0, 1, 9], [0, 1, 2]):
        read(cache, cache.ensure(2, wanted).loads)
    assert set(cache.kept[2]) == {7, 8, 9}


def test_nobody_who_is_foretold_makes_room_for_another() -> None:
    cache = opened(slots=EXPERTS + 2, quota=0)
    read(cache, cache.ensure(1, [0, 1]).loads)
    read(cache, cache.ensure(0, list(range(EXPERTS))).loads)  # 0 and 1 of layer 1 are the oldest now
    assert cache.prefetch(1, [2, 0, 1], most=3) == ()  # all others are being computed with
    assert cache.ensure(1, [0, 1, 2]).hits == 2


def test_what_was_foretold_waits_for_its_layer() -> None:
    cache = opened(slots=EXPERTS + 3, quota=0)
    awaited = cache.prefetch(2, [4, 5], most=2)
    read(cache, awaited)
    assert cache.prefetch(2, [6], most=2) == ()
    read(cache, cache.ensure(0, list(range(EXPERTS))).loads)
    assert holds(cache, 2, 4)
    assert holds(cache, 2, 5)
    ensured = cache.ensure(2, [4, 9])
    assert (ensured.hits, ensured.covered, [load.expert for load in ensured.loads]) == (0, 1, [9])


def test_whoever_layers_keep_stays_while_more_than_the_spare_slots_hold_passes() -> None:
    spare = 3
    for _ in range(100):
        cache = opened([Fixed([0.0] * EXPERTS) for _ in range(LAYERS)], slots=LAYERS * QUOTA + spare)
        for layer in range(LAYERS):
            read(cache, cache.ensure(layer, sorted(random.sample(range(EXPERTS), QUOTA))).loads)
        kept = [dict(layer) for layer in cache.kept]
        for layer in range(LAYERS):
            asked = sorted(random.sample(range(EXPERTS), random.randrange(EXPERTS + 1)))
            passed, turns = waves(cache, layer, asked)
            assert passed == asked
            assert turns <= Pool(len(cache.slots), 1, cache.quotas, 0).waves(len(asked), EXPERTS)
        assert [dict(layer) for layer in cache.kept] == kept


def waves(cache: ExpertCache, layer: int, asked: list[int]) -> tuple[list[int], int]:
    """Experts in the order in which a step has gone through them, and in how many waves."""
    passed: list[int] = []
    turns = 0
    cache.reach(layer, asked)
    while turns == 0 or not cache.demand.over:
        ensured = cache.wave(lambda: pytest.fail("all that is not kept may be taken"))
        read(cache, ensured.loads)
        there = [cache.slots[slot] for slot in ensured.slots]
        passed += [slot.expert for slot in there if isinstance(slot, Ready)]
        turns += 1
    return passed, turns


def test_who_waits_for_a_later_layer_makes_room_for_a_wave() -> None:
    cache = opened(slots=LAYERS * QUOTA + 2)
    for layer in range(LAYERS):
        read(cache, cache.ensure(layer, [0, 1, 2]).loads)
    (first, second) = cache.prefetch(2, [7, 8], most=2)
    cache.loaded(first.slot)
    asked: list[Load] = []

    def make_room() -> None:
        asked.append(second)
        if not cache.release_one():
            cache.loaded(second.slot)
            assert cache.release_one()

    cache.reach(0, [5, 6])
    assert [load.slot for load in cache.wave(make_room).loads] == [first.slot, second.slot]
    assert len(asked) == 2


def test_a_read_that_is_given_up_leaves_its_slot_to_the_next() -> None:
    cache = opened()
    (load,) = cache.prefetch(1, [3], most=1)
    assert cache.slots[load.slot] == Loading(1, 3, "prefetch")
    cache.dropped(load.slot)
    assert cache.where(1, 3) is None
    assert cache.ensure(0, [0]).loads[0].slot == load.slot
