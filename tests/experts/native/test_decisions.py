"""Compiled decisions are those of `ExpertCache`, after every call."""

import ctypes
import random
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from tests.support.held_back import Expected, as_slot, open_pool
from tests.support.random_experts import Made, make
from tests.support.resident import fresh
from triptych.experts.cache import ExpertCache
from triptych.experts.pool import Pool
from triptych.experts.settings import PolicyName
from triptych.kernels.native.residency import ResidencyPool

COUNTS = (5, 9, 9, 7)
LARGEST = max(COUNTS)
POLICIES: tuple[PolicyName, ...] = ("lfu-decay", "lru", "static-hot")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return make(tmp_path_factory.mktemp("pack") / "pack", *(("bfloat16", count) for count in COUNTS))


class Pair:
    """Both, told the same."""

    def __init__(self, made: Made, policy: PolicyName, slots: int, quotas: tuple[int, ...], most: int) -> None:
        self.made = made
        self.slots = Pool(slots, made.store.blob_bytes, quotas, most)
        self.pool: ResidencyPool = open_pool(made, slots, quotas, policy)
        self.pool.allow(most)
        self.expected = Expected(ExpertCache(slots, quotas, fresh(policy, COUNTS)), most)
        self.numbers = [list(range(count)) for count in COUNTS]

    def compare(self) -> None:
        assert [as_slot(slot) for slot in self.pool.slots()] == self.expected.cache.slots
        counts = self.pool.counts()
        assert {name: getattr(counts, name) for name in self.expected.counts} == self.expected.counts

    def window(self, first: int) -> int:
        """Compares the experts of this wave: where it begins is known. Gives where it ends."""
        demand = self.expected.cache.demand
        after = COUNTS[demand.layer] if demand.over else demand.experts[demand.next]
        assert tuple((ctypes.c_int32 * 2).from_address(self.pool.window)) == (first, after)
        return after

    def ensure(self, layer: int, ids: Tensor, between: Callable[[], object] = lambda: None) -> None:
        """A step is at a layer; `between` happens before each further wave."""
        while self.expected.demanded:  # a step has computed with all that the last layer asked for
            self.read()
        self.pool.ensure(layer, ids)
        self.expected.ensure(layer, ids)
        self.compare()
        first = self.window(0)
        for wave in range(1, self.slots.waves(ids.numel(), COUNTS[layer])):
            while self.expected.demanded:
                self.read()
            between()
            self.pool.wave(wave)
            self.expected.wave()
            self.compare()
            first = self.window(first)
        assert self.expected.cache.demand.over

    def prefetch(self, layer: int) -> None:
        scores, top = torch.randn(2, 99).round(decimals=1)[:, : COUNTS[layer]], random.randrange(1, COUNTS[layer])
        self.pool.prefetch(layer, scores, top)
        self.expected.prefetch(layer, scores, top)

    def warm(self, layer: int, expert: int) -> None:
        self.pool.warm(layer, expert)
        self.expected.warm(layer, expert)

    def read(self) -> bool:
        found = self.pool.read()
        assert found == self.expected.read()
        return found

    def rebind_some(self, layer: int) -> None:
        old = self.numbers[layer]
        new = random.sample(old, len(old)) if random.random() < 0.5 else old
        places = [old.index(expert) for expert in new]
        if random.random() < 0.5:
            places[random.randrange(len(new))] = -1
        self.rebind(layer, new, places)

    def rebind(self, layer: int, new: list[int], places: list[int]) -> None:
        old, store = self.numbers[layer], self.made.store
        offsets, checksums = ([of(layer, e) for e in new] for of in (store.offset, store.checksums))
        self.pool.rebind(layer, offsets, checksums, places)
        self.expected.rebind(
            layer, [place for place, pair in enumerate(zip(old, new, strict=True)) if len({*pair}) > 1], places
        )
        self.numbers[layer] = new


def demand(layer: int) -> Tensor:
    """Few experts as a rule, rarely all of them; some are nobody's."""
    tokens = random.choice((1, 1, 1, 2, 6))
    return torch.randint(-1, COUNTS[layer], (tokens, 3), dtype=torch.int32)


def budgets() -> tuple[int, tuple[int, ...], int]:
    """Slots, quotas, and how many may be read in advance."""
    slots = random.randrange(LARGEST, sum(COUNTS) + 1)
    most = random.randrange(slots - LARGEST + 1)
    left, quotas = slots - random.randrange(3, LARGEST), []
    for count in COUNTS:
        quotas.append(random.randrange(min(count, max(left, 0)) + 1))
        left -= quotas[-1]
    return slots, tuple(quotas), most


@pytest.mark.parametrize("policy", POLICIES)
def test_every_slot_is_as_the_cache_decides(made: Made, policy: PolicyName) -> None:
    for _ in range(8):
        pair = Pair(made, policy, *budgets())
        for _ in range(30):
            pair.warm(layer := random.randrange(len(COUNTS)), random.randrange(COUNTS[layer]))
        pair.compare()
        while pair.read():
            pair.compare()
        for step in range(150):
            for action in actions(pair, step % len(COUNTS)):
                action()
                pair.compare()
        pair.pool.close()


def actions(pair: Pair, layer: int) -> list[Callable[[], object]]:
    """A step's part at a layer, or seldom what happens between steps."""
    if random.random() < 0.05:
        reads: list[Callable[[], object]] = [pair.read] * len(pair.expected.demanded)
        return [*reads, lambda: pair.rebind_some(random.randrange(len(COUNTS)))]
    reads = [pair.read] * random.randrange(4)
    ahead = [lambda: pair.prefetch(random.randrange(len(COUNTS)))] * random.randrange(3)
    return [*reads, *ahead, lambda: pair.ensure(layer, demand(layer))]


def test_who_was_used_is_counted_until_the_layer_is_bound_anew(made: Made) -> None:
    pair = Pair(made, "lfu-decay", LARGEST, (0,) * 4, 0)
    for ids in ([[0, 1], [1, 2]], [[2, -1]], [[2, 4]]):
        pair.ensure(0, torch.tensor(ids, dtype=torch.int32))
    assert pair.pool.uses(0) == [1, 1, 3, 0, 1]
    pair.rebind_some(0)
    assert pair.pool.uses(0) == [0] * 5


def test_who_loses_its_slot_between_two_waves_is_asked_for_again(made: Made) -> None:
    pair = Pair(made, "lru", 12, (3, 3, 3, 0), 0)
    for layer in range(3):
        pair.ensure(layer, torch.tensor([[0, 1, 2]], dtype=torch.int32))
    everybody = torch.arange(COUNTS[3], dtype=torch.int32).view(1, -1)
    assert pair.slots.waves(everybody.numel(), COUNTS[3]) > 2
    order = list(reversed(range(COUNTS[3])))
    pair.ensure(3, everybody, lambda: pair.rebind(3, pair.numbers[3][::-1], order))
    pair.pool.close()


def test_a_step_that_waits_for_a_slot_is_stalled(made: Made) -> None:
    pool = open_pool(made, LARGEST, (0,) * 4, "lru")
    pool.ensure(1, torch.arange(LARGEST, dtype=torch.int32).view(1, -1))
    assert pool.counts().stall_ns == pool.counts().reads == 0
    pool.ensure(2, torch.zeros(1, 1, dtype=torch.int32))
    assert pool.counts().stall_ns > 0
    assert pool.counts().reads == 1
    pool.close()


def test_whom_a_wave_goes_on_with_makes_no_room_though_it_was_to_be_read_in_advance(made: Made) -> None:
    """Slots are lost between two waves, and one of the next wave's experts gets one before the wave."""
    pair = Pair(made, "lru", 14, (3, 3, 3, 0), 3)
    for layer in range(3):
        pair.ensure(layer, torch.tensor([[0, 1, 2]], dtype=torch.int32))
    pool = pair.pool
    pool.ensure(3, torch.arange(6, dtype=torch.int32).view(1, -1))
    while pool.read():
        pass
    pair.rebind(3, list(reversed(range(COUNTS[3]))), list(reversed(range(COUNTS[3]))))
    pool.prefetch(0, torch.arange(float(COUNTS[0])).view(1, -1), 2)
    pool.prefetch(3, torch.eye(COUNTS[3])[4:5], 1)
    assert {(0, 3), (0, 4), (3, 4)} < holders(pool)
    pool.wave(1)
    assert {(3, 2), (3, 3), (3, 4), (3, 5)} < holders(pool)
    assert not {(0, 3), (0, 4)} & holders(pool)
    pool.close()


def holders(pool: ResidencyPool) -> set[tuple[int, int]]:
    """Layers and experts that have slots."""
    return {(slot.layer, slot.expert) for slot in pool.slots() if slot.state}
