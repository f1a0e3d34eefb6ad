import errno
import os
import random
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from tests.support.offloading import GATING, draw_ids, layer_of, mixed, no_mend, pool_for, scores_of
from tests.support.random_experts import Made, make
from triptych.core.errors import InvalidArgument, Unavailable
from triptych.experts.settings import Cold, Fraction, OffloadSettings
from triptych.experts.store import Mend
from triptych.experts.store.direct import DirectFile
from triptych.experts.torch import TorchResidency, open_device
from triptych.experts.torch.finish import Miss
from triptych.experts.torch.mixture import planned_moe
from triptych.experts.torch.testing import FakeDevice, Order

EXPERTS, LAYERS, HIDDEN = 8, 2, 64
ALL = tuple(range(EXPERTS))


@pytest.fixture
def made(tmp_path: Path) -> Made:
    return make(tmp_path / "model.experts", *(("bfloat16", EXPERTS),) * LAYERS, bias=True)


def opened(
    made: Made,
    device: FakeDevice,
    *,
    slots: int = 12,
    quota: int = 1,
    speculative: int = 2,
    host: int = 16,
    cold: Cold = "copied",
    mend: Mend = no_mend,
) -> TorchResidency:
    settings = OffloadSettings(budget=Fraction(0.5), readers=2, host_budget=host * made.store.blob_bytes, cold=cold)
    pool = pool_for(made.store, slots, [quota] * LAYERS, speculative)
    return open_device(made.store, mend, settings, pool, scores_of(made.store), [ALL] * LAYERS, device)


def step(residency: TorchResidency, layer: int, ids: torch.Tensor) -> tuple[torch.Tensor, ...]:
    x, weights = torch.randn(len(ids), HIDDEN).bfloat16(), torch.rand(ids.shape)
    residency.ensure(layer, ids)
    residency.prefetch(1 - layer, torch.randn(len(ids), EXPERTS), 3)
    out = torch.empty_like(x)
    planned_moe(x, residency.experts(layer), ids, weights, GATING, out)
    return out, x, weights


ORDERS: dict[str, Order] = {
    "in order": lambda pending: pending[0],
    "backwards": lambda pending: pending[-1],
    "any": lambda pending: random.choice(pending),
}


@pytest.mark.parametrize("order", ORDERS.values(), ids=ORDERS)
@pytest.mark.parametrize(("slots", "quota", "speculative", "host"), [(8, 0, 0, 10), (12, 2, 2, 14), (14, 3, 3, 16)])
def test_results_are_those_of_resident_experts_bit_for_bit(
    made: Made, order: Order, slots: int, quota: int, speculative: int, host: int
) -> None:
    device = FakeDevice(order)
    residency = opened(made, device, slots=slots, quota=quota, speculative=speculative, host=host)
    for tokens in (1, 1, 6, 1, 20, 1, 1):
        for layer in range(LAYERS):
            ids = draw_ids(tokens, EXPERTS, 3)
            out, x, weights = step(residency, layer, ids)
            assert torch.equal(out, mixed(layer_of(made, layer, ALL), x, ids, weights))
        residency.check()
    assert residency.counts.failed_reads == 0
    residency.close()
    assert device.closed
    assert all(copy.made for copy in device.copies)


def test_gate_and_up_of_all_misses_are_copied_before_any_down(made: Made) -> None:
    device = FakeDevice()
    residency = opened(made, device, speculative=0)
    step(residency, 0, torch.tensor([[0, 1, 2]], dtype=torch.int32))  # into the host's memory
    for expert in (0, 1, 2):
        residency._cache.dropped(residency._cache.where(0, expert))  # type: ignore[arg-type]
    device.copies.clear()
    residency.ensure(0, torch.tensor([[0, 1, 2]], dtype=torch.int32))
    layout = made.store.layers[0].layout
    sizes = [len(copy.source) for copy in device.copies]
    assert sizes == [layout.first] * 3 + [layout.nbytes - layout.first] * 3
    residency.close()


def test_what_is_there_is_computed_with_before_any_copy_is_waited_for(made: Made) -> None:
    device = FakeDevice()
    residency = opened(made, device, quota=4, slots=16)
    step(residency, 0, torch.tensor([[5, 6]], dtype=torch.int32))
    residency.ensure(0, torch.tensor([[1, 5, 6]], dtype=torch.int32))
    plan = residency.experts(0).plan()  # type: ignore[attr-defined]
    assert list(plan.there) == [5, 6]
    assert list(plan.coming) == [1]
    residency.close()


def test_a_slot_of_the_host_is_not_read_into_before_its_copy_is_over(made: Made) -> None:
    """The fake reads its sources as late as possible: a slot that was reused too early would show."""
    device = FakeDevice(lambda pending: pending[-1])
    residency = opened(made, device, slots=8, quota=0, speculative=0, host=10)
    for seed in range(12):
        ids = draw_ids(3, EXPERTS, 2)
        out, x, weights = step(residency, seed % LAYERS, ids)
        assert torch.equal(out, mixed(layer_of(made, seed % LAYERS, ALL), x, ids, weights))
    residency.close()


def test_an_expert_that_was_in_host_memory_is_not_read_again(made: Made) -> None:
    device = FakeDevice()
    residency = opened(made, device, slots=8, quota=0, speculative=0)
    reads = _reads(residency)
    for _ in range(3):
        for layer in range(LAYERS):
            step(residency, layer, draw_ids(20, EXPERTS, 3))
    assert len(reads) == len(set(reads)) == EXPERTS * LAYERS
    counts = residency.counts
    assert counts.misses > counts.reads == len(reads)
    assert counts.read_bytes == len(reads) * made.store.blob_bytes
    residency.close()


def test_copies_that_nobody_waits_for_are_few_at_a_time(made: Made) -> None:
    device = FakeDevice()
    residency = opened(made, device, slots=16, quota=8, speculative=0)
    residency.warm([(0, expert) for expert in range(8)])
    residency._lane._tier._reads.wait(range(16))  # type: ignore[attr-defined]
    residency.check()
    assert len(device.copies) == 2 * 2
    for _ in range(2):
        device.make_one()
    residency.check()
    residency.close()


def test_experts_on_the_cpu_are_close_and_only_where_settings_say_so(made: Made) -> None:
    residency = opened(made, FakeDevice(), slots=8, quota=0, speculative=0, cold="soonest")
    lane = residency._lane
    lane._cold = _Everything()  # type: ignore[attr-defined]
    ids = torch.tensor([[0, 3], [3, 4]], dtype=torch.int32)
    for _ in range(3):
        out, x, weights = step(residency, 0, ids)
        step(residency, 1, draw_ids(20, EXPERTS, 3))
        wanted = mixed(layer_of(made, 0, ALL), x, ids, weights)
        torch.testing.assert_close(out, wanted, rtol=0.02, atol=0.02 * float(wanted.float().abs().max()))
    assert lane._cold.seen  # type: ignore[attr-defined]
    residency.close()


def test_a_host_budget_below_what_may_be_under_way_is_refused(made: Made) -> None:
    with pytest.raises(InvalidArgument, match="14 experts") as refused:
        opened(made, FakeDevice(), host=13)
    assert refused.value.field == "experts.host_budget"


def test_a_read_that_fails_fails_the_step_and_not_the_next(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    device = FakeDevice()
    residency = opened(made, device, mend=lambda layer, expert: made.store)

    def broken(file: DirectFile, into: torch.Tensor, offset: int) -> int:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patch:
        patch.setattr(DirectFile, "read", broken)
        step(residency, 0, torch.tensor([[1, 2]], dtype=torch.int32))
        with pytest.raises(Unavailable, match="Input/output error"):
            residency.check()
    ids = torch.tensor([[1, 2]], dtype=torch.int32)
    out, x, weights = step(residency, 0, ids)
    assert torch.equal(out, mixed(layer_of(made, 0, ALL), x, ids, weights))
    residency.check()
    residency.close()


def test_experts_that_took_others_places_are_found_by_their_new_numbers(made: Made) -> None:
    residency = opened(made, FakeDevice(ORDERS["any"]))
    order = (4, 5, 0, 1, 6, 7, 2, 3)
    for _ in range(3):
        step(residency, 0, draw_ids(4, EXPERTS, 2))
    residency.rebind(0, order)
    for _ in range(6):
        ids = draw_ids(3, EXPERTS, 2)
        out, x, weights = step(residency, 0, ids)
        assert torch.equal(out, mixed(layer_of(made, 0, order), x, ids, weights))
    residency.check()
    residency.close()


def test_speculation_that_was_in_vain_and_has_not_been_copied_is_given_up(made: Made) -> None:
    device = FakeDevice()
    residency = opened(made, device, slots=16, quota=0, speculative=6)
    likely = torch.arange(EXPERTS).float().neg().view(1, -1)
    residency.prefetch(1, likely, 5)
    residency._lane._tier._reads.wait(range(16))  # type: ignore[attr-defined]
    residency.ensure(1, torch.tensor([[7]], dtype=torch.int32))
    assert list(residency.experts(1).plan().arriving(0)) == [7]  # type: ignore[attr-defined]
    assert len(device.copies) == 2 * (2 + 1)  # two ahead, and the one that was asked for
    assert residency.counts.prefetched == 2
    assert residency.counts.wasted_bytes == 2 * made.store.blob_bytes
    residency.close()


def test_what_host_memory_had_already_was_not_read_in_vain(made: Made) -> None:
    residency = opened(made, FakeDevice(), slots=16, quota=0, speculative=6)
    residency.speculate(False)
    step(residency, 1, torch.tensor([ALL], dtype=torch.int32))
    for expert in ALL:
        residency._cache.dropped(residency._cache.where(1, expert))  # type: ignore[arg-type]
    residency.speculate(True)
    residency.prefetch(1, torch.arange(EXPERTS).float().neg().view(1, -1), 5)
    residency.ensure(1, torch.tensor([[7]], dtype=torch.int32))
    assert residency.counts.prefetched == 2  # the others were given up
    assert residency.counts.reads == EXPERTS
    assert residency.counts.wasted_bytes == 0
    residency.close()


class _Everything:
    """Has the CPU compute whatever it can."""

    def __init__(self) -> None:
        self.seen = 0

    def choose(self, misses: Sequence[Miss], queued: int) -> frozenset[int]:
        return frozenset(miss.expert for miss in misses)

    def computed(self, misses: Sequence[Miss], expanding: float, computing: float) -> None:
        self.seen += len(misses)


def _reads(residency: TorchResidency) -> list[tuple[int, int]]:
    """Experts that are read from the file from now on."""
    file = residency._file
    seen: list[tuple[int, int]] = []
    read = file.read

    def noted(layer: int, expert: int, into: torch.Tensor, *, rounded: bool) -> None:
        seen.append((layer, expert))
        read(layer, expert, into, rounded=rounded)

    file.read = noted  # type: ignore[method-assign, assignment]
    return seen
