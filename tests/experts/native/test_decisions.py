"""Compiled decisions are those of `ExpertCache`, after every call."""

import random
from collections.abc import Callable

import pytest
import torch
from held_back import Expected, as_slot, open_pool
from random_experts import Made, make
from resident import fresh
from torch import Tensor

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

    def ensure(self, layer: int, ids: Tensor) -> None:
        while self.expected.demanded:  # a step has computed with all that the last layer asked for
            self.read()
        self.pool.ensure(layer, ids)
        self.expected.ensure(layer, ids)
        self.compare()
        for wave in range(1, self.slots.waves(ids.numel(), COUNTS[layer])):
            while self.expected.demanded:
                self.read()
            self.pool.wave(wave)
            self.expected.wave()
            self.compare()
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

    def rebind(self, layer: int) -> None:
        old = self.numbers[layer]
        new = random.sample(old, len(old)) if random.random() < 0.5 else old
        store = self.made.store
        places = [old.index(expert) for expert in new]
        if random.random() < 0.5:
            places[random.randrange(len(new))] = -1
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
        return [*reads, lambda: pair.rebind(random.randrange(len(COUNTS)))]
    reads = [pair.read] * random.randrange(4)
    ahead = [lambda: pair.prefetch(random.randrange(len(COUNTS)))] * random.randrange(3)
    return [*reads, *ahead, lambda: pair.ensure(layer, demand(layer))]


def test_who_was_used_is_counted_until_the_layer_is_bound_anew(made: Made) -> None:
    pair = Pair(made, "lfu-decay", LARGEST, (0,) * 4, 0)
    for ids in ([[0, 1], [1, 2]], [[2, -1]], [[2, 4]]):
        pair.ensure(0, torch.tensor(ids, dtype=torch.int32))
    assert pair.pool.uses(0) == [1, 1, 3, 0, 1]
    pair.rebind(0)
    assert pair.pool.uses(0) == [0] * 5
