"""Replaying: what is counted, and what time passes."""

import random
from collections.abc import Collection
from dataclasses import replace

import pytest

from tests.support.recordings import MODEL, arm, foreseeing, recording
from triptych.experts.cache import DecayedUses, ExpertCache, LastUse
from triptych.experts.pool import Pool
from triptych.experts.store.packed import PIECE
from triptych.experts.traces import (
    GIVEN_UP,
    Arm,
    Device,
    Everybody,
    Foreseen,
    LfuDecay,
    Lru,
    NextGate,
    Nobody,
    OnDemand,
    Policy,
    Ring,
    Script,
    StaticHot,
    foretold,
    replay,
)

FAST = Device(bandwidth=1e12, step=1.0)
SLOW = Device(bandwidth=MODEL.blob / 0.001, step=0.006)
"""A read takes a millisecond, a layer two."""


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("policy", [Lru(), LfuDecay()])
def test_without_a_predictor_it_counts_what_the_decisions_alone_do(policy: Policy, rows: int) -> None:
    script, slots = Script.of(recording(40, rows)), random.choice([8, 10, 14, 20])
    played = arm(policy, script, slots)
    make = LastUse if policy == Lru() else DecayedUses
    cache = ExpertCache(slots, played.pool.quotas, [make([0.0] * MODEL.experts) for _ in range(MODEL.layers)])
    hits = demanded = 0
    for step in script.demands:
        for layer, experts in enumerate(step):
            ensured = cache.ensure(layer, experts)
            for load in ensured.loads:
                cache.loaded(load.slot)
            hits, demanded = hits + ensured.hits, demanded + len(experts)
    for device in (FAST, SLOW):
        counts = replay(script, played, device).counts
        assert (counts.hits, counts.demanded, counts.covered) == (hits, demanded, 0)
        assert counts.reads == counts.misses == demanded - hits
        assert counts.steps == 40


@pytest.mark.parametrize("rows", [1, 3])
def test_the_same_recording_gives_the_same_figures(rows: int) -> None:
    script = Script.of(recording(30, rows))
    played = arm(LfuDecay(), script, 14, NextGate(1), speculative=3)
    assert replay(script, played, SLOW) == replay(script, played, SLOW)


def test_whoever_foresees_everything_misses_nobody_but_in_the_first_layer() -> None:
    script = Script.of(foreseeing(recording(30)))
    ahead = replay(script, arm(LfuDecay(), script, 14, NextGate(0), speculative=4), FAST).counts
    first = sum(len(step[0]) for step in script.demands)
    assert ahead.misses <= first
    assert ahead.wasted_bytes == 0
    assert ahead.used == ahead.covered == ahead.prefetched > 0
    assert ahead.precision == 1


def test_reading_in_advance_hides_reads_behind_computing() -> None:
    script = Script.of(foreseeing(recording(30)))
    demand = replay(script, arm(LfuDecay(), script, 12), SLOW)
    ahead = replay(script, arm(LfuDecay(), script, 12, NextGate(0), speculative=4), SLOW)
    assert ahead.seconds < demand.seconds
    assert ahead.decode.stall_ns < demand.decode.stall_ns
    assert ahead.tokens == demand.tokens == 29, "the first step is a prompt"


@pytest.mark.parametrize(("turns", "off"), [(GIVEN_UP, range(40)), ((7, 19, 30), [*range(7, 19), *range(30, 40)])])
def test_reading_in_advance_is_on_when_it_was_turned_on(turns: tuple[int, ...], off: Collection[int]) -> None:
    script = Script.of(foreseeing(recording(40)))
    ahead = arm(LfuDecay(), script, 14, NextGate(0), speculative=4)
    nobody = ((),) * MODEL.layers
    some = replace(ahead, told=[nobody if step in off else told for step, told in enumerate(ahead.told)])
    assert replay(script, ahead, SLOW, turns) == replay(script, some, SLOW) != replay(script, ahead, SLOW)


def test_large_experts_come_in_pieces() -> None:
    assert Device(PIECE, 1).reads(2 * PIECE + PIECE // 2) == (1, 1, 0.5)
    assert Device(PIECE, 1).reads(PIECE) == (1,)
    assert Device(2 * PIECE, 1).reads(PIECE // 4) == (0.125,)


def test_pieces_let_a_demanded_expert_pass_by_one_that_is_read_in_advance() -> None:
    """A single reader ends the piece that it has begun, and not the expert."""
    random.seed(30)
    routes = recording(30)
    wrong = Foreseen((foreseeing(routes).foreseen.experts + 1) % MODEL.experts, foreseeing(routes).foreseen.chances)
    stall = []
    for blob in (PIECE, 8 * PIECE):
        script = Script.of(replace(routes, foreseen=wrong, model=replace(MODEL, blob=blob, resident=blob)))
        played = arm(Lru(), script, 10, NextGate(0), speculative=1)
        stall.append(replay(script, played, Device(blob / 0.004, 0.003)).decode.stall_ns)
    assert stall[1] < stall[0]


def test_time_is_computing_and_what_it_waits_for_reads() -> None:
    script = Script.of(recording(30))
    alone = replay(script, arm(Lru(), script, MODEL.layers * MODEL.experts + MODEL.experts), FAST)
    assert alone.seconds == pytest.approx(29 * FAST.step)
    some = replay(script, arm(Lru(), script, 10), SLOW)
    assert some.seconds == pytest.approx(29 * SLOW.step + some.decode.stall_ns / 1e9)


def test_who_keeps_nobody_reads_every_demand_and_the_ring_everybody() -> None:
    script = Script.of(recording(20))
    every = sum(len(experts) for step in script.demands for experts in step)
    small = Pool(MODEL.experts, MODEL.blob, (0,) * MODEL.layers, 0)
    nobody = foretold(Nobody(), script.routes)
    on_demand = replay(script, Arm(OnDemand(), nobody, small, 2), FAST).counts
    assert on_demand.reads <= every
    two = Pool(2 * MODEL.experts, MODEL.blob, (0,) * MODEL.layers, MODEL.experts)
    ring = replay(script, Arm(Ring(), foretold(Everybody(), script.routes), two, 2), FAST).counts
    assert ring.misses <= sum(len(step[0]) for step in script.demands)
    assert ring.reads >= every - ring.hits


def test_static_hot_begins_with_those_in_demand() -> None:
    script = Script.of(recording(20))
    hot = replay(script, arm(StaticHot(script.uses), script, 14), FAST).counts
    quota = 2
    kept = [sorted(range(MODEL.experts), key=lambda e, u=uses: -u[e])[:quota] for uses in script.uses]  # type: ignore[misc]
    sure = sum(e in kept[layer] for step in script.demands for layer, experts in enumerate(step) for e in experts)
    assert hot.hits >= sure
