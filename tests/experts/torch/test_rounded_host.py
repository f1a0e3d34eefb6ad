"""Rounded experts stay rounded in the memory of an accelerator's host, and on their way to it."""

import errno
import itertools
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from torch import Tensor

from tests.support.offloading import GATING, draw_ids, layer_of, mixed, no_mend, pool_for, resident, scores_of
from tests.support.random_experts import Made, make, same
from tests.support.rounded_experts import coarse, with_rounded
from triptych.core.errors import DataLoss, InvalidArgument, Unavailable
from triptych.experts.settings import Cold, Fraction, OffloadSettings, Rounding
from triptych.experts.store import Mend, PackedStore, mend_blob, rounded
from triptych.experts.store.direct import DirectFile
from triptych.experts.torch import TorchResidency, open_device
from triptych.experts.torch.cold import Copied, Soonest
from triptych.experts.torch.finish import Costs, Miss
from triptych.experts.torch.mixture import planned_moe
from triptych.experts.torch.testing import FakeDevice, Order
from triptych.kernels import Experts

EXPERTS, HIDDEN, WIDTH, READERS = 7, 256, 128, 2
ALL = tuple(range(EXPERTS))
PAGES = {"int8": 26, "int4": 14}
"""Of a rounded expert; of an exact one 48."""
EXACT = 48 * 4096


@pytest.fixture(params=get_args(Rounding))
def to(request: pytest.FixtureRequest) -> Rounding:
    found: Rounding = request.param
    return found


@pytest.fixture
def made(tmp_path: Path, to: Rounding) -> Made:
    return with_rounded(plain(tmp_path, 2), to)


def plain(folder: Path, layers: int) -> Made:
    return make(folder / "pack", *(("bfloat16", EXPERTS),) * layers, hidden=HIDDEN, width=WIDTH)


class Counting(FakeDevice):
    """`pinned` are the bytes of host memory that it gave."""

    pinned = 0

    def host_memory(self, nbytes: int) -> Tensor:
        self.pinned += nbytes
        return super().host_memory(nbytes)


def opened(
    made: Made,
    device: FakeDevice,
    *,
    budget: int = 16 * EXACT,
    slots: int = EXPERTS,
    quotas: Sequence[int] = (),
    speculative: int = 0,
    cold: Cold = "copied",
    mend: Mend = no_mend,
) -> TorchResidency:
    layers = len(made.store.layers)
    settings = OffloadSettings(budget=Fraction(0.5), readers=READERS, host_budget=budget, cold=cold)
    pool = pool_for(made.store, slots, quotas or [0] * layers, speculative)
    return open_device(made.store, mend, settings, pool, scores_of(made.store), [ALL] * layers, device)


def step(residency: TorchResidency, layer: int, ids: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    x, weights = torch.randn(len(ids), HIDDEN).bfloat16(), torch.rand(ids.shape)
    residency.ensure(layer, ids)
    residency.prefetch((layer + 1) % residency.layers, torch.randn(len(ids), EXPERTS), 3)
    out = torch.empty_like(x)
    planned_moe(x, residency.experts(layer), ids, weights, GATING, out)
    return out, x, weights


def computes(residency: TorchResidency, made: Made, layer: int, ids: Tensor) -> bool:
    """Whether a step comes to what these experts come to, to the bit."""
    out, x, weights = step(residency, layer, ids)
    return torch.equal(out, mixed(layer_of(made, layer, ALL), x, ids, weights))


def only(*experts: int) -> Tensor:
    return torch.tensor([experts], dtype=torch.int32)


@pytest.mark.parametrize(("to", "layers", "held"), [("int8", 3, 22), ("int4", 5, 40)])
def test_the_same_bytes_hold_more_experts_and_fewer_are_read(
    tmp_path: Path, to: Rounding, layers: int, held: int
) -> None:
    exact, budget, passes = plain(tmp_path, layers), 12 * EXACT, 4
    found = []
    for made in (exact, with_rounded(exact, to)):
        device = Counting()
        residency = opened(made, device, budget=budget)
        for _ in range(passes):
            for layer in range(layers):
                step(residency, layer, only(*ALL))
        residency.check()
        found.append((residency._lane._tier._pool.slots, residency.counts.reads))  # type: ignore[attr-defined]
        assert device.pinned <= budget
        residency.close()

    experts = layers * EXPERTS
    assert found == [(12, passes * experts), (held, experts)]


ORDERS: dict[str, Order] = {
    "in order": lambda pending: pending[0],
    "backwards": lambda pending: pending[-1],
}


@pytest.mark.parametrize("order", ORDERS.values(), ids=ORDERS)
def test_layers_that_keep_nobody_compute_with_what_rounded_experts_stand_for(
    tmp_path: Path, to: Rounding, order: Order
) -> None:
    made, device = with_rounded(plain(tmp_path, 6), to), FakeDevice(order)
    stand_for, store = coarse(made, to), made.store.rounded
    assert store is not None
    residency = opened(made, device, budget=12 * EXACT, slots=8, speculative=1)
    for tokens in (1, 1, 6, 1, None, None):
        for layer in range(6):
            ids = only(*ALL) if tokens is None else draw_ids(tokens, EXPERTS, 3)
            assert computes(residency, stand_for, layer, ids)
        residency.check()
    counts, layout = residency.counts, store.layers[0].layout
    assert counts.reads > 6 * EXPERTS  # more than host memory holds
    assert counts.read_bytes == counts.reads * store.blob_bytes == counts.reads * PAGES[to] * 4096
    assert {len(copy.source) for copy in device.copies} == {layout.first, layout.nbytes - layout.first}
    residency.close()


@pytest.mark.parametrize("order", ORDERS.values(), ids=ORDERS)
def test_exact_and_rounded_experts_take_turns_in_the_same_memory(tmp_path: Path, to: Rounding, order: Order) -> None:
    """Each is the one or the other, and nothing else."""
    made, device = with_rounded(plain(tmp_path, 6), to), FakeDevice(order)
    forms, sizes = (made, coarse(made, to)), set[int]()
    residency = opened(made, device, budget=15 * EXACT, slots=EXPERTS + 3, quotas=(1, 0, 1, 0, 1, 0))
    for _ in range(15):
        for layer in range(6):
            out, x, weights = step(residency, layer, ids := draw_ids(2, EXPERTS, 2))
            asked = sorted(set(ids.flatten().tolist()))
            assert any(
                torch.equal(out, mixed(_mixture(layer, asked, chosen), x, ids, weights))
                for chosen in itertools.product(forms, repeat=len(asked))
            )
        residency.check()
        sizes |= {len(copy.source) for copy in device.copies}
        device.copies = [copy for copy in device.copies if not copy.made]
    assert len(sizes) == 4  # both sections of both
    residency.close()


def _mixture(layer: int, asked: Sequence[int], chosen: Sequence[Made]) -> Experts:
    """A layer whose experts come from these, each; nobody asks for the others."""
    found = dict(zip(asked, chosen, strict=True))
    return resident([found.get(expert, chosen[0]).experts[layer, expert] for expert in ALL])


def test_whom_a_layer_keeps_is_exact_though_host_memory_has_it_rounded(made: Made, to: Rounding) -> None:
    residency, stand_for = opened(made, FakeDevice(), slots=EXPERTS + 1, quotas=(1, 0)), coarse(made, to)
    displaced = only(*ALL)
    for _ in range(2):
        assert computes(residency, made, 0, only(0))  # from now on it is kept
    assert computes(residency, stand_for, 0, only(1))
    assert computes(residency, stand_for, 1, displaced)
    reads = residency.counts.reads

    assert computes(residency, made, 0, only(1))  # needed more than the other by now

    assert residency.counts.reads == reads + 1
    residency.check()
    residency.close()


def test_an_exact_expert_in_host_memory_is_taken_though_a_rounded_one_would_do(made: Made, to: Rounding) -> None:
    residency, stand_for = opened(made, FakeDevice(), slots=EXPERTS + 1, quotas=(1, 0)), coarse(made, to)
    assert computes(residency, made, 0, only(0))
    for _ in range(3):
        assert computes(residency, made, 0, only(1))  # in the other's stead
    assert computes(residency, stand_for, 1, only(*ALL))
    reads = residency.counts.reads

    assert computes(residency, made, 0, only(0))

    assert residency._cache.kept[0].keys() == {1}
    assert residency.counts.reads == reads
    residency.check()
    residency.close()


def test_warm_experts_are_exact(made: Made, to: Rounding) -> None:
    residency = opened(made, FakeDevice(), slots=EXPERTS + 2, quotas=(2, 0))
    residency.warm([(0, 3), (0, 5)])
    assert computes(residency, made, 0, only(3, 5))
    assert residency.counts.read_bytes == 2 * EXACT
    residency.check()
    residency.close()


def test_a_damaged_rounded_expert_is_mended_and_the_step_is_run_again(made: Made, to: Rounding) -> None:
    store = made.store.rounded
    assert store is not None
    mended: list[tuple[int, int]] = []

    def mend(layer: int, expert: int) -> PackedStore:
        mended.append((layer, expert))
        mend_blob(store, layer, expert, lambda *who: rounded(made.experts[who], to))
        return made.store

    residency = opened(made, FakeDevice(), mend=mend)
    with store.path.open("r+b") as file:
        file.seek(store.offset(0, 3) + 10)
        file.write(b"triptych")
    step(residency, 0, only(2, 3))
    with pytest.raises(DataLoss, match="expert 3 of mixture 0 is damaged"):
        residency.check()
    assert mended == [(0, 3)]
    assert computes(residency, coarse(made, to), 0, only(2, 3))
    residency.check()
    assert residency.counts.failed_reads == 1
    assert residency.counts.reads == 2
    residency.close()


def test_a_read_that_fails_fails_the_step_and_not_the_next(
    made: Made, to: Rounding, monkeypatch: pytest.MonkeyPatch
) -> None:
    residency = opened(made, FakeDevice(), mend=lambda layer, expert: made.store)

    def broken(file: DirectFile, into: Tensor, offset: int) -> int:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patch:
        patch.setattr(DirectFile, "read", broken)
        step(residency, 0, only(1, 2))
        with pytest.raises(Unavailable, match="Input/output error"):
            residency.check()
    assert computes(residency, coarse(made, to), 0, only(1, 2))
    residency.check()
    residency._lane._shipping.finish()  # type: ignore[attr-defined]
    assert not residency._lane._tier._slots._pins  # type: ignore[attr-defined]
    residency.close()


def test_the_cpu_computes_with_what_rounded_experts_stand_for(made: Made, to: Rounding) -> None:
    residency = opened(made, FakeDevice(), budget=20 * EXACT, cold="soonest")
    residency._lane._cold = Everything()  # type: ignore[attr-defined]
    ids, stand_for = only(0, 3, 4), coarse(made, to)
    for place in range(3):
        x, weights = torch.randn(1, HIDDEN).bfloat16(), torch.rand(1, 3)
        residency.ensure(0, ids)
        here = residency.experts(0).plan().here.experts  # type: ignore[attr-defined]
        assert place == 0 or here.keys() == {0, 3, 4}  # at first they are still being read, or not
        assert all(same(given(), stand_for.experts[0, expert]) for expert, given in here.items())
        out = torch.empty_like(x)
        planned_moe(x, residency.experts(0), ids, weights, GATING, out)
        wanted = mixed(layer_of(stand_for, 0, ALL), x, ids, weights)
        torch.testing.assert_close(out, wanted, rtol=0.02, atol=0.02 * float(wanted.float().abs().max()))
        step(residency, 1, only(*ALL))
    residency.check()
    residency.close()


def test_of_a_rounded_expert_the_bus_copies_fewer_bytes_than_the_cpu_computes_with(made: Made, to: Rounding) -> None:
    residency = opened(made, FakeDevice(), budget=20 * EXACT, cold="soonest")
    lane: Any = residency._lane
    miss, ids = Miss(3, 1, PAGES[to] * 4096, EXACT, rounded=True), only(3)
    for compute, done in ((0.6, []), (0.1, [miss])):  # of the time of 48 pages, when copying takes that of 26 or 14
        lane._cold = Copied()
        step(residency, 0, ids)
        step(residency, 1, only(*ALL))
        lane._shipping.finish()
        cold = lane._cold = Noting(Costs(copy=1.0, compute=compute, expand=0.0))
        step(residency, 0, ids)
        assert (cold.asked, cold.done) == ([miss], done)
    residency.check()
    residency.close()


def test_a_budget_must_hold_what_is_under_way_exactly(made: Made, to: Rounding) -> None:
    frame = 4096 * {"int8": 2 * PAGES["int8"], "int4": 4 * PAGES["int4"]}[to]
    least = EXPERTS + READERS
    opened(made, FakeDevice(), budget=least * frame).close()
    with pytest.raises(InvalidArgument, match=f"{least} experts of") as refused:
        opened(made, FakeDevice(), budget=least * frame - 1)
    assert refused.value.field == "experts.host_budget"


def test_there_is_room_for_all_experts_under_way_exactly_while_the_cpu_has_them_rounded(made: Made) -> None:
    device = Counting()
    residency = opened(made, device, budget=1 << 40, cold="soonest")
    pool = residency._lane._tier._pool  # type: ignore[attr-defined]
    assert pool.frames == 3 * EXPERTS
    assert device.pinned == pool.nbytes
    residency.close()


class Noting(Soonest):
    """Remembers what it was asked of, and what the CPU has computed."""

    def __init__(self, costs: Costs) -> None:
        super().__init__(costs)
        self.asked: list[Miss] = []
        self.done: list[Miss] = []

    def choose(self, misses: Sequence[Miss], queued: int) -> frozenset[int]:
        assert not queued
        self.asked += misses
        return super().choose(misses, queued)

    def computed(self, misses: Sequence[Miss], expanding: float, computing: float) -> None:
        self.done += misses
        super().computed(misses, expanding, computing)


class Everything:
    """Has the CPU compute whatever it can."""

    def choose(self, misses: Sequence[Miss], queued: int) -> frozenset[int]:
        return frozenset(miss.expert for miss in misses)

    def computed(self, misses: Sequence[Miss], expanding: float, computing: float) -> None:
        pass
