import logging
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.support.random_experts import Made, make
from triptych.core.errors import Unavailable
from triptych.experts.memory import Memory
from triptych.experts.pool import Pool
from triptych.experts.residency import Counts
from triptych.experts.speculation import SpeculationSwitch
from triptych.experts.steerable import Asked
from triptych.experts.steered import SteeredResidency
from triptych.experts.warm import read_warm, warm_path
from triptych.kernels import Experts


class World:
    """A residency whose steps take as long as the test says, and the clock beside it."""

    layers = 2
    recordable = True
    nbytes = 0

    def __init__(self, seconds_with: float, seconds_without: float) -> None:
        self.seconds = {True: seconds_with, False: seconds_without}
        self.now = 0.0
        self.on = True
        self.counts = Counts()
        self.told: list[bool] = []
        self.asked = [[0, 0, 0], [0, 0, 0]]
        self.closed = 0
        self.failure: Unavailable | None = None

    def clock(self) -> float:
        return self.now

    def step(self) -> None:
        self.now += self.seconds[self.on]
        prefetched = self.counts.prefetched + (9 if self.on else 0)
        self.counts = replace(
            self.counts, steps=self.counts.steps + 1, demanded=self.counts.demanded + 20, prefetched=prefetched
        )
        for layer in self.asked:
            layer[1] += 1

    def speculate(self, on: bool) -> None:
        self.on = on
        self.told.append(on)

    def check(self) -> None:
        if self.failure:
            raise self.failure

    def uses(self, layer: int) -> Sequence[int]:
        return self.asked[layer]

    def rebind(self, layer: int, experts: tuple[int, ...]) -> None:
        self.asked[layer] = [0] * len(experts)

    def close(self) -> None:
        self.closed += 1

    def warm(self, pairs: Iterable[tuple[int, int]]) -> None:
        raise AssertionError("not asked for here")

    def experts(self, layer: int) -> Experts:
        raise AssertionError("not asked for here")

    def ensure(self, layer: int, ids: torch.Tensor) -> None:
        raise AssertionError("not asked for here")

    def prefetch(self, layer: int, scores: torch.Tensor, top: int) -> None:
        raise AssertionError("not asked for here")

    def trace(self, on: bool) -> None:
        raise AssertionError("not asked for here")

    def drain(self) -> list[Asked]:
        return []


@pytest.fixture
def made(tmp_path: Path) -> Made:
    return make(tmp_path / "model.experts", ("bfloat16", 3), ("bfloat16", 3))


def steered(world: World, made: Made, switch: SpeculationSwitch | None) -> SteeredResidency:
    memory = Memory(made.store, [(0, 1, 2)] * 2, warm_path(made.store, 0), world.now)
    return SteeredResidency(world, Pool(6, 1, (1, 1), 2), memory, switch, world.clock)


def run(world: World, residency: SteeredResidency, steps: int) -> None:
    for _ in range(steps):
        world.step()
        residency.check()


def test_reading_in_advance_that_does_not_pay_is_switched_off_and_said(
    made: Made, caplog: pytest.LogCaptureFixture
) -> None:
    world = World(seconds_with=0.012, seconds_without=0.010)
    residency = steered(world, made, SpeculationSwitch())
    with caplog.at_level(logging.INFO):
        run(world, residency, 400)
    assert residency.counts.switched_off
    assert not world.on
    assert [record.message for record in caplog.records] == [
        "reading in advance does not pay: steps take 20.0% longer with it, in 8 of 8 pairs of windows"
    ]


def test_reading_in_advance_that_pays_stays(made: Made) -> None:
    world = World(seconds_with=0.010, seconds_without=0.012)
    residency = steered(world, made, SpeculationSwitch())
    run(world, residency, 400)
    assert not residency.counts.switched_off
    assert world.on


def test_a_trial_is_not_a_verdict(made: Made) -> None:
    world = World(seconds_with=0.010, seconds_without=0.012)
    residency = steered(world, made, SpeculationSwitch())
    while not world.told or world.told[-1]:
        run(world, residency, 1)
    assert not world.on
    assert not residency.counts.switched_off
    assert residency.counts.turns == (residency.counts.steps,)


def test_without_a_switch_nothing_is_measured(made: Made) -> None:
    world = World(seconds_with=0.012, seconds_without=0.010)
    residency = steered(world, made, None)
    run(world, residency, 400)
    assert not world.told
    assert (residency.counts.switched_off, residency.counts.turns) == (False, ())


def test_a_step_that_failed_is_no_measurement(made: Made) -> None:
    world = World(0.012, 0.010)
    residency = steered(world, made, SpeculationSwitch())
    world.failure = Unavailable("the disk is gone")
    for _ in range(100):
        world.step()
        with pytest.raises(Unavailable):
            residency.check()
    assert not world.told


def test_uses_survive_a_change_of_experts_and_the_end(made: Made) -> None:
    world = World(0.01, 0.01)
    residency = steered(world, made, None)
    run(world, residency, 10)
    residency.rebind(0, (1, 2, 0))
    run(world, residency, 10)
    residency.close()
    residency.close()
    assert world.closed == 1
    warm = read_warm(warm_path(made.store, 0), made.store)
    assert warm is not None
    assert warm.uses == ((0.0, 0.5, 0.5), (0.0, 1.0, 0.0))
