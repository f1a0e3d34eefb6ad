"""Whoever waits for an expert for long sleeps, and is woken when it has come or will never come."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from threading import Thread

import pytest
import torch
from torch import Tensor

from tests.support.random_experts import Made, make
from tests.support.resident import choices, computed, fresh, in_memory
from triptych.experts.native.layers import Blobs, layer_experts, tables
from triptych.experts.native.memory import open_file, slots
from triptych.kernels import Experts, moe
from triptych.kernels.expert_slots import WAITED_PLACES
from triptych.kernels.native import install
from triptych.kernels.native.residency import ResidencyPool

EXPERTS, TOP, HIDDEN = 4, 2, 64
SOMEBODY_WAITS = 8
LOOKS = 12_000
"""Of 5 ms each: a minute."""


@dataclass
class Waiting:
    """A mixture that is computed by another thread, none of whose experts has been read."""

    made: Made
    experts: Experts
    pool: ResidencyPool
    out: Tensor
    expected: Tensor
    thread: Thread

    def until(self, condition: Callable[[], bool]) -> bool:
        for _ in range(LOOKS):
            if condition():
                return True
            self.thread.join(0.005)
        return False

    def sleeps(self) -> bool:
        assert self.experts.arrivals is not None
        return bool((self.experts.arrivals.flags & SOMEBODY_WAITS).any())


@pytest.fixture
def waiting(tmp_path: Path) -> Iterator[Waiting]:
    install()
    made = make(tmp_path / "pack", ("bfloat16", EXPERTS))
    store, layer = made.store, made.store.layers[0]
    memory, waited = slots(EXPERTS, store.blob_bytes), torch.zeros(WAITED_PLACES, dtype=torch.int64)
    experts = tables(layer.layout, EXPERTS, memory, waited)
    found = layer_experts(layer.layout, experts, Blobs.of(store, 0, range(EXPERTS)), 1, fresh("lru", [EXPERTS])[0])
    pool = ResidencyPool(memory, waited, [found], open_file(made.path), 0, 1 << 40)
    ids, weights = choices(1, TOP, EXPERTS)
    x = torch.randn(1, HIDDEN).bfloat16()
    out, expected = torch.empty_like(x), computed(in_memory(made, 0), x, ids, weights)
    pool.ensure(0, ids)
    thread = Thread(target=moe, args=(x, experts, ids, weights, "silu", out))
    thread.start()
    yield Waiting(made, experts, pool, out, expected, thread)
    pool.close()
    thread.join()


def test_it_sleeps_and_goes_on_when_experts_come(waiting: Waiting) -> None:
    assert waiting.until(waiting.sleeps)
    assert waiting.thread.is_alive()
    while waiting.pool.read():
        pass
    assert waiting.until(lambda: not waiting.thread.is_alive())
    assert torch.equal(waiting.out.view(torch.int16), waiting.expected.view(torch.int16))
    assert waiting.pool.counts().stall_ns > 0


def test_it_goes_on_when_they_never_come(waiting: Waiting) -> None:
    """What came out is nobody's answer: who closes a pool has no step to end."""
    assert waiting.until(waiting.sleeps)
    waiting.pool.close()
    assert waiting.until(lambda: not waiting.thread.is_alive())
