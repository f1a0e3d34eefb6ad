"""The fewest reads: against every way there is on tiny recordings, and against all policies on others."""

import random
from itertools import combinations

import pytest

from tests.support.recordings import MODEL, arm, recording
from triptych.experts.traces import Device, LfuDecay, Lru, NextGate, Script, StaticHot, fewest_reads, replay
from triptych.experts.traces.routes import Demand

FAST = Device(bandwidth=1e12, step=1.0)


def tiny() -> tuple[Demand, ...]:
    layers = random.randint(1, 2)
    return tuple(
        tuple(tuple(sorted(random.sample(range(3), random.randint(1, 2)))) for _ in range(layers))
        for _ in range(random.randint(1, 7 // layers))
    )


def fewest_of_all(demands: tuple[Demand, ...], slots: int) -> int:
    """Tries everybody who could be kept."""
    layers = [{(layer, expert) for expert in experts} for step in demands for layer, experts in enumerate(step)]
    reached = {frozenset[tuple[int, int]](): 0}
    for asked in layers:
        after: dict[frozenset[tuple[int, int]], int] = {}
        for kept, reads in reached.items():
            here = sorted(kept | asked)
            cost = reads + len(asked - kept)
            for count in range(min(slots, len(here)) + 1):
                for some in combinations(here, count):
                    after[frozenset(some)] = min(cost, after.get(frozenset(some), cost))
        reached = after
    return min(reached.values())


def test_it_is_what_trying_everything_finds() -> None:
    for _ in range(40):
        demands, slots = tiny(), random.randint(0, 4)
        assert sum(fewest_reads(demands, slots)) == fewest_of_all(demands, slots), (demands, slots)


@pytest.mark.parametrize("rows", [1, 3])
def test_nobody_reads_less(rows: int) -> None:
    script = Script.of(recording(40, rows))
    for slots in (8, 11, 16, 24):
        fewest = sum(fewest_reads(script.demands, slots))
        for policy in (Lru(), LfuDecay(0.9), LfuDecay(0.99)):
            assert replay(script, arm(policy, script, slots), FAST).counts.reads >= fewest
            ahead = arm(policy, script, slots, NextGate(1), speculative=4)
            assert replay(script, ahead, FAST).counts.reads >= fewest


def test_who_is_kept_from_the_start_is_not_read_before_it_leaves() -> None:
    script = Script.of(recording(30))
    hot = replay(script, arm(StaticHot(script.uses), script, 14), FAST).counts
    cold = sum(fewest_reads(script.demands, 14))
    assert hot.reads + 14 >= cold


def test_everybody_is_read_once_where_all_fit_and_always_where_none_does() -> None:
    script = Script.of(recording(30))
    asked = {(layer, expert) for step in script.demands for layer, some in enumerate(step) for expert in some}
    assert sum(fewest_reads(script.demands, MODEL.layers * MODEL.experts)) == len(asked)
    assert fewest_reads(script.demands, 0) == tuple(sum(map(len, step)) for step in script.demands)
