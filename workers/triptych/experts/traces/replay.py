"""A recording through the decisions that serve, on a disk of a given speed."""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

from triptych.experts.cache import Ensured, ExpertCache
from triptych.experts.pool import Pool
from triptych.experts.residency import Counts
from triptych.experts.traces.device import Device, Disk
from triptych.experts.traces.policies import Policy, StaticHot, scores
from triptych.experts.traces.routes import Demand
from triptych.experts.traces.script import Script
from triptych.experts.traces.tally import Tally


@dataclass(frozen=True, slots=True)
class Arm:
    """One way to serve.

    Attributes:
        policy: Who keeps a slot.
        told: By step and layer, who is read in advance: `foretold`.
        pool: The slots.
        readers: Reads at a time.
    """

    policy: Policy
    told: Sequence[Demand]
    pool: Pool
    readers: int


@dataclass(frozen=True, slots=True)
class Replayed:
    """What it came to.

    Attributes:
        counts: Of all steps.
        decode: Of steps in which answers go on, and nothing else.
        tokens: Of those steps.
        seconds: Of those steps.
    """

    counts: Counts
    decode: Counts
    tokens: int
    seconds: float

    @property
    def tokens_per_second(self) -> float:
        """Of decoding."""
        return self.tokens / self.seconds if self.seconds else 0.0

    @property
    def reads_per_token(self) -> float:
        """Of decoding."""
        return self.decode.reads / self.tokens if self.tokens else 0.0


GIVEN_UP = (0,)
"""Turns of whom reading in advance is given up before the first step."""


def replay(script: Script, arm: Arm, device: Device, turns: Sequence[int] = ()) -> Replayed:
    """Plays all steps, from an empty pool; where `static-hot` decides, from one that holds who was in demand.

    Whether reading in advance pays is a matter of a few per cent of measured time, which no model of a machine tells:
    it is for those who have measured to say.

    Args:
        script: The recording.
        arm: How it is served.
        device: How fast the machine is.
        turns: Steps after which reading in advance is turned off, on, off and so on: `Counts.turns` of an engine.
    """
    run = _Run(script, arm, device)
    everything, decode = Tally(), Tally()
    tokens, seconds = 0, 0.0
    blob = script.routes.model.blob
    nobody: Demand = ((),) * script.routes.model.layers
    for step, rows in enumerate(script.routes.rows()):
        began = run.now
        done = run.step(script.demands[step], nobody if bisect_right(turns, step) % 2 else arm.told[step])
        everything.add(done)
        if script.decoding[step]:
            decode.add(done)
            tokens, seconds = tokens + rows.stop - rows.start, seconds + run.now - began
    return Replayed(everything.counts(blob), decode.counts(blob), tokens, seconds)


class _Run:
    def __init__(self, script: Script, arm: Arm, device: Device) -> None:
        model = script.routes.model
        self.now = 0.0
        self._arm = arm
        self._layers = model.layers
        self._cache = ExpertCache(arm.pool.slots, arm.pool.quotas, scores(arm.policy, model.layers, model.experts))
        self._disk = Disk(self._cache, device.reads(model.blob), arm.readers)
        self._before = device.step * (1 - device.mixture) / model.layers
        self._mixture = device.step * device.mixture / model.layers
        match arm.policy:
            case StaticHot(uses):
                self._warm(uses)

    def step(self, demand: Demand, told: Demand) -> Tally:
        done = Tally(steps=1, reads=-self._disk.reads)
        done.prefetched += self._prefetch(0, told)
        for layer, experts in enumerate(demand):
            self.now += self._before
            self._disk.until(self.now)
            done.prefetched -= self._disk.reach(layer, experts)
            self._cache.reach(layer, experts)
            ensured = self._wave(done)
            done.prefetched += self._prefetch(layer + 1, told)
            self._compute(ensured, len(experts), done)
            while not self._cache.demand.over:
                self._compute(self._wave(done), len(experts), done)
            done.demanded += len(experts)
        done.reads += self._disk.reads
        return done

    def _wave(self, done: Tally) -> Ensured:
        def make_room() -> None:
            done.prefetched -= self._disk.make_room()
            done.stall += max(self._disk.now - self.now, 0)
            self.now = max(self._disk.now, self.now)

        ensured = self._cache.wave(make_room)
        done.hits += ensured.hits
        done.covered += ensured.covered
        self._disk.ask(self.now, ensured.loads)
        return ensured

    def _compute(self, ensured: Ensured, experts: int, done: Tally) -> None:
        """A wave's part of what a layer's experts take."""
        computed = self.now + self._mixture * (len(ensured.slots) / experts if experts else 1)
        self.now = max(computed, self._disk.wait(ensured.slots))
        done.stall += self.now - computed

    def _prefetch(self, layer: int, told: Demand) -> int:
        if layer >= self._layers or not told[layer]:
            return 0
        loads = self._cache.prefetch(layer, told[layer], self._arm.pool.speculative)
        self._disk.ask(self.now, loads)
        return len(loads)

    def _warm(self, uses: Sequence[Sequence[float]]) -> None:
        for layer, worth in enumerate(uses):
            for expert in sorted(range(len(worth)), key=lambda e: -worth[e]):
                load = self._cache.warm(layer, expert)
                if load is not None:
                    self._cache.loaded(load.slot)
